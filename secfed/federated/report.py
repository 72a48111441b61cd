"""What one training round gave."""

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
        aggregate: What the aggregator gave; None if the round failed.
        failure: Why there is no aggregate ("" if there is one): too few survivors, or too small a cohort. The model is
            then as before.
        model_bytes: Size of the model that each client of the cohort was sent.
        event: What was released, counted for the clients that really arrived; None without privacy or if the round
            failed. A failed round of a Poisson cohort is charged all the same, with what it could have released.
        accountant: All that was released up to this round, by this training and before it, or all that the ledger says
            is spent; a copy. None without privacy.
        clip_norm: The clip of this round, with a clip for each array that of the whole; None without privacy.
        rejected: Clients whose update or weight did not fit (no examples, values that are not finite, another shape),
            or whose shares ended a session, each with the reason; they count as dropouts. Who is among them depends on
            the data and is protected by nothing: it is for the operator, not for publication.
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
