"""What every aggregator takes and gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from secfed.aggregation.cohort import Updates, Weights
from secfed.aggregation.privacy import Privacy
from secfed.aggregation.private_pipeline import PrivatePipeline
from secfed.aggregation.transcript import Transcript
from secfed.dp.events import Event
from secfed.encoding.flatten import Update
from secfed.secagg.config import HASH_BYTES
from secfed.secagg.stages import Stage

NO_MODEL = bytes(HASH_BYTES)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The outcome of one aggregation.

    Attributes:
        mean: Weighted mean of the survivors' updates, with the structure of one update; with privacy, their noisy sum
            divided by the expected size of the cohort.
        survivors: Ids of the clients in the mean.
        dropouts: Ids of the others.
        weight: Sum of the survivors' weights; with privacy, what the sum was divided by.
        bytes_up: What each client sent, by id.
        bytes_down: What each client was sent, by id (without the model).
        seconds: Wall time of each stage, all parties together.
        transcript: What the server saw, if that was asked for.
        event: What was released, if that was private.
        within_clip: The noisy fraction of clients whose update was within the clip, if the clip is adaptive.
    """

    mean: Update
    survivors: tuple[int, ...]
    dropouts: tuple[int, ...]
    weight: float
    bytes_up: dict[int, int] = field(repr=False)
    bytes_down: dict[int, int] = field(repr=False)
    seconds: dict[Stage, float] = field(repr=False)
    transcript: Transcript | None = field(default=None, repr=False)
    event: Event | None = field(default=None, repr=False)
    within_clip: float | None = None


class Aggregator(Protocol):
    """What a federated algorithm sees of any protection."""

    def aggregate(
        self,
        updates: Updates,
        weights: Weights = None,
        *,
        dropouts: Mapping[int, Stage] | None = None,
        round: int = 0,
        model_hash: bytes = NO_MODEL,
        record: bool = False,
        privacy: Privacy | None = None,
        example: Update | None = None,
    ) -> Aggregate:
        """Return the weighted mean of the updates of those clients that do not drop out.

        Args:
            updates: One update per client: a list (ids from 1) or a dictionary by client id, a whole number from 1 to
                2^63. An update is an array, or a list or dictionary of arrays, of any float dtype; all alike.
            weights: One positive weight per client (its number of examples), in the same form; by default all 1.
            dropouts: Clients that fall silent, and the first stage that they do not answer.
            round: The training round.
            model_hash: Hash of the model being trained.
            record: Whether to keep a transcript of what the server saw.
            privacy: `CentralGaussian` or `DistributedGaussian`: what the aggregate is then good for is in its `event`,
                to be composed in a `dp.Accountant`; training does that by itself.
            example: What an update looks like, for a private sum to which perhaps nobody contributes: `Plain` then
                releases noise alone.

        Raises:
            ConfigError: Parameters that do not fit the cohort.
            EncodingError: An update or weight that does not fit; nothing has been sent.
            TooFewSurvivorsError: Too many dropouts.
        """

    def private_pipeline(self, privacy: Privacy, example: Update, clients: int) -> PrivatePipeline:
        """Return how a private sum is made: what a session would release, before there is one.

        Args:
            privacy: As in `aggregate`.
            example: What an update looks like.
            clients: Size of the cohort.

        Raises:
            ConfigError: Parameters that do not fit the cohort.
            EncodingError: The example is no update.
        """
