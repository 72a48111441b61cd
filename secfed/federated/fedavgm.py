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
    """The server keeps a running sum of the means, which fades, and adds that to the model.

    In each round `momentum = server_momentum * momentum + mean`, and the model grows by
    `server_learning_rate * momentum`. If all means were alike, a step would in the end be `1 / (1 - server_momentum)`
    times the mean: lower `server_learning_rate` when you raise `server_momentum`.

    Args:
        local_update: As for `secfed.FedAvg`.
        server_learning_rate: Factor on the momentum.
        server_momentum: How much of the last momentum is kept, from 0 to below 1; 0 is FedAvg.
        options: `aggregator`, `privacy`, `budget`, `ledger`, `adjacency` and `accountant`, as for `secfed.FedAvg`.

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
