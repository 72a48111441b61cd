"""The result of one training round."""

from dataclasses import dataclass, field

from secfed.aggregation.aggregate import Aggregate
from secfed.dp.accountant import Accountant
from secfed.dp.events import Event
from secfed.federated.results import Model


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One training round.

    Attributes:
        number: From 1.
        model: The model after the round.
        cohort: Ids of the clients that were sampled.
        survivors: Ids of those whose update is in the mean; empty if the round failed, or if only noise was released.
        aggregate: What the aggregator returned; None if the round failed.
        failure: Why there is no aggregate ("" if there is one): too few survivors, or too small a cohort. The model is
            then unchanged.
        model_bytes: Size of the model that each client of the cohort was sent.
        event: What was released, computed for the actual number of survivors; None without privacy or if the round
            failed. A failed round of a Poisson cohort is still charged, with the most that it could have released.
        accountant: A copy of everything released up to this round, by this training and before it, or everything that
            the ledger records as spent. None without privacy.
        clip_norm: The clip of this round; with a clip for each array, the clip of the whole. None without privacy.
        rejected: Clients whose update or weight was invalid (no examples, values that are not finite, another shape),
            or whose shares ended a session, each with the reason. They count as dropouts. This list depends on the data
            and nothing protects it: it is for the operator, not for publication.
        time: Simulated time since the first round began; None without `durations`.
        late: Clients of the cohort that did not answer before the deadline; they are dropouts.
        staleness: For each client of the cohort, how many steps the server took since the client began to train
            (FedBuff, FedAsync); empty for other algorithms, where it is always 0.
        metrics: What `evaluate` returned for this round's model.
    """

    number: int
    model: Model = field(repr=False)
    cohort: tuple[int, ...]
    survivors: tuple[int, ...]
    aggregate: Aggregate | None = field(repr=False)
    failure: str
    model_bytes: int
    event: Event | None = field(default=None, repr=False)
    accountant: Accountant | None = field(default=None, repr=False)
    clip_norm: float | None = None
    rejected: dict[int, str] = field(default_factory=dict)
    time: float | None = None
    late: tuple[int, ...] = ()
    staleness: dict[int, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
