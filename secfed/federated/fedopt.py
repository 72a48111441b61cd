"""FedOpt: the server treats the mean of the updates as a gradient, with a step size of its own for each parameter.

S. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J. Konečný, S. Kumar, H. B. McMahan: *Adaptive Federated
Optimization*, ICLR 2021, Algorithm 2. As there, no moment is corrected for its start (Adam's bias correction).
"""

from abc import abstractmethod
from typing import Unpack

import numpy as np

from secfed.federated.results import LocalUpdate
from secfed.federated.state import Memory
from secfed.federated.training import Training, TrainingOptions, Values, check_positive, check_rate


class FedOpt(Training):
    """What the three have in common: each parameter moves by `server_learning_rate * m / (sqrt(v) + tau)`.

    `m` is a running average of the means: `m = beta_1 * m + (1 - beta_1) * mean`. They differ in `v`, which follows the
    squares of the means. It starts at `tau**2`, `m` at 0.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of
            the model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected.
        server_learning_rate: About the largest change of a parameter in a round.
        beta_1: How much of the last `m` is kept, from 0 to below 1.
        tau: The larger, the less step sizes differ between parameters.
        aggregator: How updates become a mean: `secfed.Plain()`, `secfed.SecAgg(...)` or `secfed.Paillier(...)`.
        privacy: `secfed.CentralGaussian(...)` or `secfed.DistributedGaussian(...)`. All clients then count equally, or
            by their weights up to `weight_cap`, and the sum is divided by the expected size of the cohort.
        budget: `(epsilon, delta)`: a round that could spend more is refused before anything is drawn.
        ledger: A `dp.Ledger` in which rounds are reserved and committed.
        adjacency: Which data sets `epsilon` compares, `"add_remove"` or `"replace"`. None takes that of the ledger or
            accountant, or else `"add_remove"`.
        accountant: What was released before. To resume a run, pass the `accountant` of its last report. With a ledger
            you do not need it.

    Raises:
        ConfigError: A parameter is out of range, or there is a budget, ledger, adjacency or accountant without privacy.
    """

    def __init__(
        self,
        local_update: LocalUpdate,
        *,
        server_learning_rate: float,
        beta_1: float,
        tau: float,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(local_update, **options)
        self._rate = check_positive("server_learning_rate", server_learning_rate)
        self._beta_1, self._tau = check_rate("beta_1", beta_1), check_positive("tau", tau)

    @abstractmethod
    def second_moment(self, v: Values, squares: Values) -> Values:
        """Return the next `v` from the last one and the squares of the mean, all of shape `(size,)`."""

    def begin(self, values: Values) -> Memory:
        """Return the moments at the start: `m` of 0, `v` of `tau**2`."""
        return {"m": np.zeros_like(values), "v": np.full_like(values, self._tau**2)}

    def step(self, values: Values, mean: Values, memory: Memory) -> tuple[Values, Memory]:
        """Update the moments, and step along `m / (sqrt(v) + tau)`."""
        m = self._beta_1 * memory["m"] + (1 - self._beta_1) * mean
        v = self.second_moment(memory["v"], mean * mean)
        return values + self._rate * m / (np.sqrt(v) + self._tau), {"m": m, "v": v}


class FedAdagrad(FedOpt):
    """FedOpt with `v` the sum of the squares of all means: steps only get shorter.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of
            the model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected.
        server_learning_rate: About the largest change of a parameter in a round.
        beta_1: How much of the last `m` is kept, from 0 to below 1; the paper's experiments have 0.
        tau: The larger, the less step sizes differ between parameters.
        aggregator: How updates become a mean: `secfed.Plain()`, `secfed.SecAgg(...)` or `secfed.Paillier(...)`.
        privacy: `secfed.CentralGaussian(...)` or `secfed.DistributedGaussian(...)`. All clients then count equally, or
            by their weights up to `weight_cap`, and the sum is divided by the expected size of the cohort.
        budget: `(epsilon, delta)`: a round that could spend more is refused before anything is drawn.
        ledger: A `dp.Ledger` in which rounds are reserved and committed.
        adjacency: Which data sets `epsilon` compares, `"add_remove"` or `"replace"`. None takes that of the ledger or
            accountant, or else `"add_remove"`.
        accountant: What was released before. To resume a run, pass the `accountant` of its last report. With a ledger
            you do not need it.

    Raises:
        ConfigError: A parameter is out of range, or there is a budget, ledger, adjacency or accountant without privacy.
    """

    def __init__(
        self,
        local_update: LocalUpdate,
        *,
        server_learning_rate: float = 0.1,
        beta_1: float = 0.0,
        tau: float = 1e-3,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(local_update, server_learning_rate=server_learning_rate, beta_1=beta_1, tau=tau, **options)

    def second_moment(self, v: Values, squares: Values) -> Values:
        """Add the squares."""
        return v + squares


class FedAdam(FedOpt):
    """FedOpt with `v` a running average of the squares of the means.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of
            the model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected.
        server_learning_rate: About the largest change of a parameter in a round.
        beta_1: How much of the last `m` is kept, from 0 to below 1.
        beta_2: How much of the last `v` is kept, from 0 to below 1.
        tau: The larger, the less step sizes differ between parameters.
        aggregator: How updates become a mean: `secfed.Plain()`, `secfed.SecAgg(...)` or `secfed.Paillier(...)`.
        privacy: `secfed.CentralGaussian(...)` or `secfed.DistributedGaussian(...)`. All clients then count equally, or
            by their weights up to `weight_cap`, and the sum is divided by the expected size of the cohort.
        budget: `(epsilon, delta)`: a round that could spend more is refused before anything is drawn.
        ledger: A `dp.Ledger` in which rounds are reserved and committed.
        adjacency: Which data sets `epsilon` compares, `"add_remove"` or `"replace"`. None takes that of the ledger or
            accountant, or else `"add_remove"`.
        accountant: What was released before. To resume a run, pass the `accountant` of its last report. With a ledger
            you do not need it.

    Raises:
        ConfigError: A parameter is out of range, or there is a budget, ledger, adjacency or accountant without privacy.
    """

    def __init__(
        self,
        local_update: LocalUpdate,
        *,
        server_learning_rate: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        tau: float = 1e-3,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(local_update, server_learning_rate=server_learning_rate, beta_1=beta_1, tau=tau, **options)
        self._beta_2 = check_rate("beta_2", beta_2)

    def second_moment(self, v: Values, squares: Values) -> Values:
        """Average the squares into it."""
        return self._beta_2 * v + (1 - self._beta_2) * squares


class FedYogi(FedAdam):
    """FedAdam whose `v` moves toward the squares by at most `1 - beta_2` of them, however far away it is.

    When the means suddenly become small, FedAdam's steps soon grow; FedYogi's grow slowly.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of
            the model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected.
        server_learning_rate: About the largest change of a parameter in a round.
        beta_1: How much of the last `m` is kept, from 0 to below 1.
        beta_2: From 0 to below 1: `v` moves by at most `1 - beta_2` of the squares.
        tau: The larger, the less step sizes differ between parameters.
        aggregator: How updates become a mean: `secfed.Plain()`, `secfed.SecAgg(...)` or `secfed.Paillier(...)`.
        privacy: `secfed.CentralGaussian(...)` or `secfed.DistributedGaussian(...)`. All clients then count equally, or
            by their weights up to `weight_cap`, and the sum is divided by the expected size of the cohort.
        budget: `(epsilon, delta)`: a round that could spend more is refused before anything is drawn.
        ledger: A `dp.Ledger` in which rounds are reserved and committed.
        adjacency: Which data sets `epsilon` compares, `"add_remove"` or `"replace"`. None takes that of the ledger or
            accountant, or else `"add_remove"`.
        accountant: What was released before. To resume a run, pass the `accountant` of its last report. With a ledger
            you do not need it.

    Raises:
        ConfigError: A parameter is out of range, or there is a budget, ledger, adjacency or accountant without privacy.
    """

    def second_moment(self, v: Values, squares: Values) -> Values:
        """Move toward the squares."""
        return v - (1 - self._beta_2) * squares * np.sign(v - squares)
