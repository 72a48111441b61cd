"""FedAvgM: FedAvg with momentum on the server.

T. H. Hsu, H. Qi, M. Brown: *Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification*, 2019, section 4.3.
"""

from typing import Unpack

import numpy as np

from secfed.federated.results import LocalUpdate
from secfed.federated.state import Memory
from secfed.federated.training import Training, TrainingOptions, Values, check_positive, check_rate


class FedAvgM(Training):
    """The server keeps a decaying sum of the means and adds it to the model.

    In each round `momentum = server_momentum * momentum + mean`, and the model grows by
    `server_learning_rate * momentum`. If all means were equal, steps would grow to `1 / (1 - server_momentum)` times
    the mean: lower `server_learning_rate` when you raise `server_momentum`.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of
            the model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected.
        server_learning_rate: Factor on the momentum.
        server_momentum: How much of the last momentum is kept, from 0 to below 1; 0 is FedAvg.
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
        server_learning_rate: float = 1.0,
        server_momentum: float = 0.9,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(local_update, **options)
        self._rate = check_positive("server_learning_rate", server_learning_rate)
        self._momentum = check_rate("server_momentum", server_momentum)

    def begin(self, values: Values) -> Memory:
        """Return a momentum of zeros."""
        return {"momentum": np.zeros_like(values)}

    def step(self, values: Values, mean: Values, memory: Memory) -> tuple[Values, Memory]:
        """Add the mean to the momentum, and the momentum to the model."""
        momentum = self._momentum * memory["momentum"] + mean
        return values + self._rate * momentum, {"momentum": momentum}
