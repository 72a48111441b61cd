"""FedBuff.

J. Nguyen, K. Malik, H. Zhan, A. Yousefpour, M. Rabbat, M. Malek, D. Huba: *Federated Learning with Buffered
Asynchronous Aggregation*, AISTATS 2022, Algorithm 1.
"""

from typing import Unpack

from secfed.federated.asynchronous import Asynchronous
from secfed.federated.results import LocalUpdate
from secfed.federated.state import Memory
from secfed.federated.training import TrainingOptions, Values, check_positive


class FedBuff(Asynchronous):
    """The server steps as soon as `buffer_size` clients are ready, whichever model they trained from.

    The server does not wait for slow clients. The clients of a full buffer are the cohort of one session, so under
    `secfed.SecAgg` and `secfed.Paillier` the server sees only the sum of the buffer. A client knows which model it
    started from and which one is current. It multiplies its update by the staleness weight before it encodes it,
    because the server does not see the update. The sum is divided by the sum of the unscaled weights, so stale updates
    also make the step shorter, as in the paper.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of
            the model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected. The model is the current one when the client begins.
        buffer_size: The paper's K. Under secure aggregation the threshold is a fraction of this many clients.
        concurrency: Clients that train at the same time, as long as there are enough that are neither training nor
            waiting in the buffer.
        server_learning_rate: Factor on the mean.
        staleness_exponent: The staleness weight of an update is `(1 + staleness) ** -staleness_exponent`; staleness is
            the number of steps that the server took while the client trained. The paper uses 0.5; with 0 all updates
            count equally.
        maximum_staleness: A client drops its update if the server took more steps; None: no limit.
        aggregator: How updates become a mean: `secfed.Plain()`, `secfed.SecAgg(...)` or `secfed.Paillier(...)`.
        privacy: `secfed.CentralGaussian(...)` or `secfed.DistributedGaussian(...)`. All clients then count equally, or
            by their weights up to `weight_cap`, and the sum is divided by the expected size of the cohort.
        budget: `(epsilon, delta)`: a round that could spend more is refused before anything is drawn.
        ledger: A `dp.Ledger` in which rounds are reserved and committed.
        adjacency: Which data sets `epsilon` compares. With privacy it must be `"replace"`: that of the ledger or
            accountant, or given here. Sampling adds no privacy here, and the guarantee assumes that the time at which a
            client is ready does not depend on its data.
        accountant: What was released before. To resume a run, pass the `accountant` of its last report. With a ledger
            you do not need it.

    Raises:
        ConfigError: A parameter is out of range, there is a budget, ledger, adjacency or accountant without privacy, or
            privacy with adjacency `"add_remove"`.

    >>> import numpy as np, secfed
    >>> def local_update(model, data):
    ...     return 0.5 * (data - model), 1
    >>> secure = secfed.SecAgg(threshold=2)
    >>> training = secfed.FedBuff(local_update, aggregator=secure, buffer_size=3, concurrency=5)
    >>> clients = [np.full(2, float(value)) for value in range(6)]
    >>> took = lambda client_id, number: float(client_id)
    >>> reports = list(training.rounds(np.zeros(2), clients, count=3, seed=1, durations=took))
    >>> [(report.time, report.cohort, max(report.staleness.values())) for report in reports]
    [(3.0, (1, 2, 3), 0), (5.0, (2, 4, 5), 1), (6.0, (1, 3, 6), 2)]
    """

    def __init__(
        self,
        local_update: LocalUpdate,
        *,
        buffer_size: int,
        concurrency: int,
        server_learning_rate: float = 1.0,
        staleness_exponent: float = 0.5,
        maximum_staleness: int | None = None,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(
            local_update,
            buffer_size=buffer_size,
            concurrency=concurrency,
            staleness_exponent=staleness_exponent,
            maximum_staleness=maximum_staleness,
            **options,
        )
        self._rate = check_positive("server_learning_rate", server_learning_rate)

    def fold(self, update: Values, start: Values, values: Values, weight: float) -> Values:
        """Multiply the update by its staleness weight."""
        return weight * update

    def step(self, values: Values, mean: Values, memory: Memory) -> tuple[Values, Memory]:
        """Add the mean of the buffer to the model."""
        return values + self._rate * mean, memory
