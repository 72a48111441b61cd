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
    """The server steps each time a client is ready: the model moves part of the way to what the client trained.

    The model becomes `(1 - a) * model + a * trained`, with `a = mixing * (1 + staleness) ** -staleness_exponent`. A
    round is one client. The server therefore sees each update, and only `secfed.Plain` is allowed: under secure
    aggregation the sum of one update would be that update. `secfed.FedBuff` is asynchronous and works with secure
    aggregation. Where the server must not see updates as they are, let `local_update` add noise of its own
    (`secfed.federated.local_noise`).

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of
            the model. The update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected, as if its update did not fit. The model is the one that was there
            when the client began. Weights are of no matter, as there is one update in a round.
        concurrency: Clients that train at the same time.
        mixing: alpha of the paper, above 0 and at most 1; 0.6 is the paper's.
        staleness_exponent: a of the paper's polynomial; 0.5 is the paper's.
        maximum_staleness: A client drops its update if the server took more steps while it trained; None: none does.
        aggregator: `secfed.Plain()`.
        privacy: `secfed.CentralGaussian(...)` or `secfed.DistributedGaussian(...)`. All clients then count alike, or
            by their weights up to `weight_cap`, and the sum is divided by the expected size of the cohort.
        budget: `(epsilon, delta)`: a round that could spend more is refused before anything is drawn.
        ledger: A `dp.Ledger` in which rounds are reserved and committed.
        adjacency: Which data sets `epsilon` compares. With privacy it must be `"replace"`: that of the ledger or
            accountant, or given here. No privacy from sampling is counted, and the guarantee takes the time at which a
            client is ready as independent of its data.
        accountant: What was released before. To resume a run, pass the `accountant` of its last report. With a ledger
            you do not need it.

    Raises:
        ConfigError: The aggregator is another one than `Plain`, a parameter is out of range, there is a budget, ledger,
            adjacency or accountant without privacy, or privacy with adjacency `"add_remove"`.
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
                f"{type(self._aggregator).__name__}, which could hide nothing, needed Plain; FedBuff sums several"
            )
        if not 0 < mixing <= 1:
            raise ConfigError(f"mixing {mixing} must be above 0 and at most 1")
        self._mixing = mixing

    def fold(self, update: Values, start: Values, values: Values, weight: float) -> Values:
        """Return the way from the model as it is now to what the client trained, times the staleness weight."""
        return weight * (start + update - values)

    def step(self, values: Values, mean: Values, memory: Memory) -> tuple[Values, Memory]:
        """Move the model toward what the client trained."""
        return values + self._mixing * mean, memory
