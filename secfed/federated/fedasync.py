"""FedAsync.

C. Xie, S. Koyejo, I. Gupta: *Asynchronous Federated Optimization*, 2019, Algorithm 1 with the polynomial staleness
function of section 5.2.
"""

from typing import Unpack

from secfed.aggregation.aggregators import Plain
from secfed.errors import ConfigError
from secfed.federated.asynchronous import Asynchronous
from secfed.federated.results import LocalUpdate
from secfed.federated.state import Memory
from secfed.federated.training import TrainingOptions, Values


class FedAsync(Asynchronous):
    """The server steps each time a client is ready: it moves the model part of the way to the client's trained model.

    The model becomes `(1 - a) * model + a * trained`, with `a = mixing * (1 + staleness) ** -staleness_exponent`. A
    round is one client. The server therefore sees each update, and only `secfed.Plain` is allowed: under secure
    aggregation the sum of one update would be that update. `secfed.FedBuff` is asynchronous and works with secure
    aggregation. If the server must not see exact updates, let `local_update` add noise
    (`secfed.federated.local_noise`).

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of
            the model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected. The model is the current one when the client begins. Weights have
            no effect, because a round has only one update.
        concurrency: Clients that train at the same time.
        mixing: The paper's alpha, above 0 and at most 1; the paper uses 0.6.
        staleness_exponent: The paper's a, the exponent of its polynomial; the paper uses 0.5.
        maximum_staleness: A client drops its update if the server took more steps while it trained; None: no limit.
        aggregator: `secfed.Plain()`.
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
        ConfigError: The aggregator is not `Plain`, a parameter is out of range, there is a budget, ledger, adjacency or
            accountant without privacy, or privacy with adjacency `"add_remove"`.
    """

    def __init__(
        self,
        local_update: LocalUpdate,
        *,
        concurrency: int,
        mixing: float = 0.6,
        staleness_exponent: float = 0.5,
        maximum_staleness: int | None = None,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(
            local_update,
            buffer_size=1,
            concurrency=concurrency,
            staleness_exponent=staleness_exponent,
            maximum_staleness=maximum_staleness,
            **options,
        )
        if not isinstance(self._aggregator, Plain):
            raise ConfigError(
                f"FedAsync applies each update alone, and the sum of one update is that update: found aggregator "
                f"{type(self._aggregator).__name__}, which would hide nothing, needed Plain; FedBuff sums several"
            )
        if not 0 < mixing <= 1:
            raise ConfigError(f"mixing {mixing} must be above 0 and at most 1")
        self._mixing = mixing

    def fold(self, update: Values, start: Values, values: Values, weight: float) -> Values:
        """Return the client's trained model minus the current model, times the staleness weight."""
        return weight * (start + update - values)

    def step(self, values: Values, mean: Values, memory: Memory) -> tuple[Values, Memory]:
        """Move the model toward the client's trained model."""
        return values + self._mixing * mean, memory
