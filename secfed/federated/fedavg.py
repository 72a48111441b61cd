"""FedAvg.

H. B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas: *Communication-Efficient Learning of Deep Networks
from Decentralized Data*, AISTATS 2017, Algorithm 1.
"""

from secfed.aggregation.aggregator import Aggregator
from secfed.aggregation.privacy import Privacy
from secfed.dp.accountant import Accountant
from secfed.dp.events import Adjacency
from secfed.dp.ledger import Ledger
from secfed.federated.results import LocalUpdate
from secfed.federated.spending import Budget
from secfed.federated.state import Memory
from secfed.federated.training import Training, Values, check_positive


class FedAvg(Training):
    """The next model is the last one plus the weighted mean of the updates.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of the
            model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected.
        aggregator: How updates become a mean: `secfed.Plain()`, `secfed.SecAgg(...)` or `secfed.Paillier(...)`.
        server_learning_rate: Factor on the mean; 1 is the paper's.
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

    >>> import numpy as np, secfed
    >>> def local_update(model, data):  # one step of gradient descent on the mean square
    ...     return data.mean(axis=0) - model, len(data)
    >>> clients = [np.full((n, 2), float(value)) for n, value in [(100, 1), (200, 2), (300, 3)]]
    >>> training = secfed.FedAvg(local_update, aggregator=secfed.SecAgg(threshold=2, clip=4.0))
    >>> [report] = training.rounds(np.zeros(2), clients, count=1)
    >>> report.survivors, np.round(report.model, 2).tolist()  # (100*1 + 200*2 + 300*3) / 600
    ((1, 2, 3), [2.33, 2.33])
    """

    def __init__(
        self,
        local_update: LocalUpdate,
        *,
        aggregator: Aggregator,
        server_learning_rate: float = 1.0,
        privacy: Privacy | None = None,
        budget: Budget | None = None,
        ledger: Ledger | None = None,
        adjacency: Adjacency | None = None,
        accountant: Accountant | None = None,
    ) -> None:
        super().__init__(
            local_update,
            aggregator=aggregator,
            privacy=privacy,
            budget=budget,
            ledger=ledger,
            adjacency=adjacency,
            accountant=accountant,
        )
        self._rate = check_positive("server_learning_rate", server_learning_rate)

    def step(self, values: Values, mean: Values, memory: Memory) -> tuple[Values, Memory]:
        """Add the mean to the model."""
        return values + self._rate * mean, memory
