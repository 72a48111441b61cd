"""What all aggregators decide for a cohort: an abstract one, and one whose channel adds integers."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from secfed.aggregation.aggregate import Aggregate
from secfed.aggregation.array_clips import ArrayClips, Clip, as_clip, whole_norm
from secfed.aggregation.channels import Channel
from secfed.aggregation.cohort import Updates, Weights, by_client, positions, power_of_two_above
from secfed.aggregation.cohort_sizes import ANY_COHORT, sizes_that_run
from secfed.aggregation.compressed import Compressed, Maps, as_maps
from secfed.aggregation.per_array import PerArrayClipping, in_float64, refuse_rotation
from secfed.aggregation.prepared import Prepared
from secfed.aggregation.privacy import DistributedGaussian, Privacy
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.scaled_mean import ScaledMean
from secfed.aggregation.transform import Transform
from secfed.aggregation.weighted_mean import WeightedMean
from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.dp.checks import check_positive
from secfed.encoding.compression import Compression
from secfed.encoding.flatten import Update, structure
from secfed.errors import ConfigError
from secfed.secagg.stages import Stage
from secfed.wire import HASH_BYTES

NO_MODEL = bytes(HASH_BYTES)


class Aggregator(ABC):
    """The interface that every protection offers to a federated algorithm.

    Attributes:
        compression: The maps that make updates shorter, or None.
        clip: What values are clipped to: one number, or one for each array. No effect where nothing is clipped.
    """

    clip: Clip = math.inf
    compression: Compression | Sequence[Compression] | None = None

    @property
    def needs_weights(self) -> bool:
        """Whether `prepare` must know the weights: all clients then train before the first vector is encoded."""
        return False

    def prepare(
        self,
        example: Update,
        clients: Iterable[int],
        *,
        weights: Weights = None,
        privacy: Privacy | None = None,
        round: int = 0,
        model_hash: bytes = NO_MODEL,
    ) -> Prepared:
        """Decide everything about one aggregation.

        Args:
            example: What an update looks like, such as the model: an array, or a list or dictionary of arrays.
            clients: Ids of the clients of the cohort, whole numbers from 1 to 2^63.
            weights: The weights, needed if `needs_weights`.
            privacy: `CentralGaussian` or `DistributedGaussian`; None adds no noise.
            round: The training round.
            model_hash: 32 bytes that identify the model being trained.

        Returns:
            The aggregation. A budget must have room for its `worst_event`; `run` aggregates.

        Raises:
            ConfigError: Parameters that do not fit the cohort.
            EncodingError: The example is not an update.
        """
        ids = tuple(positions(clients))
        transform = self.transform(example, len(ids), weights, privacy, round)
        return Prepared(transform, self.channel(ids, transform, round, model_hash), ids, partial(self.rounding, round))

    def transform(
        self, example: Update, clients: int, weights: Weights, privacy: Privacy | None, round: int = 0
    ) -> Transform:
        """Choose how the updates of this many clients become vectors; for the rest see `prepare`.

        Args:
            example: What an update looks like, such as the model.
            clients: How many clients are in the cohort.
            weights: Their weights, where `needs_weights`; else None.
            privacy: `CentralGaussian` or `DistributedGaussian`; None adds no noise.
            round: The training round.

        Raises:
            ConfigError: Parameters that do not fit together, or a compression that would have no effect.
            EncodingError: The example is not an update.
        """
        like = structure(example)
        if isinstance(privacy, Privacy) and isinstance(privacy.clip_norm, ArrayClips):
            if self.compression is not None:
                raise ConfigError(
                    "compressed values have no clip_norm for each array: needed one number for clip_norm, or no "
                    "compression"
                )
            norms = privacy.clip_norm.of(like)
            whole = replace(privacy, clip_norm=whole_norm(norms))
            return PerArrayClipping(like, norms, self._one_clip(example, clients, weights, whole, round))
        if privacy is None and isinstance(self.clip, ArrayClips):
            clips = self.clip.of(like)
            return PerArrayClipping(like, clips, self._one_clip(in_float64(example), clients, weights, None, round))
        return self._one_clip(example, clients, weights, privacy, round)

    def _one_clip(
        self, example: Update, clients: int, weights: Weights, privacy: Privacy | None, round: int
    ) -> Transform:
        """Choose a transform with one clip, or clip norm, for all values; for the parameters see `transform`."""
        chosen = as_maps(self.compression, rounded=privacy is None and isinstance(self, IntegerAggregator))
        if not chosen:
            return self._uncompressed(example, clients, weights, privacy)
        maps = Maps(chosen, structure(example), self._map_seed(round))
        inner = self._uncompressed(np.zeros(maps.size), clients, weights, privacy)
        return Compressed(maps, inner)

    @abstractmethod
    def _uncompressed(self, example: Update, clients: int, weights: Weights, privacy: Privacy | None) -> Transform:
        """Choose how updates, compressed or not, become vectors; for the rest see `transform`."""

    def _map_seed(self, round: int) -> bytes:
        """Return 32 fresh public bytes that decide the maps of one sum."""
        return SystemEntropy().draw("compression", SEED_BYTES)

    @abstractmethod
    def channel(self, client_ids: tuple[int, ...], transform: Transform, round: int, model_hash: bytes) -> Channel:
        """Choose what adds these clients' vectors.

        Args:
            client_ids: Ids of the cohort, ascending.
            transform: How updates become vectors, from `transform`.
            round: The training round.
            model_hash: 32 bytes that identify the model being trained.
        """

    def rounding(self, round: int, client_id: int) -> bytes | None:
        """Return the 32 bytes that decide a client's rounding in one round; None leaves it to the operating system.

        Args:
            round: The training round.
            client_id: The client.
        """
        return None

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
        """Return the weighted mean of the updates of those clients that do not drop out: `prepare`, then `run`.

        Args:
            updates: One update per client: a list (ids from 1) or a dictionary by client id, a whole number from 1 to
                2^63. An update is an array, or a list or dictionary of arrays, of any float dtype. All
                updates have the same form.
            weights: One positive weight per client (its number of examples), in the same form; by default all 1.
            dropouts: Clients that drop out, and the first stage that they do not answer.
            round: The training round.
            model_hash: 32 bytes that identify the model being trained.
            record: Whether to keep a transcript of what the server saw.
            privacy: `CentralGaussian` or `DistributedGaussian`. The aggregate's `event` then says what was released:
                compose it in a `dp.Accountant`. Training does that by itself.
            example: What an update looks like; by default the first one. With an example, a private sum in the clear
                needs no update; then only noise is released.

        Raises:
            ConfigError: Parameters that do not fit the cohort.
            EncodingError: An update or weight that does not fit; nothing has been sent.
            TooFewSurvivorsError: Too many dropouts.
        """
        by_id, weight_of = by_client(updates, weights, or_nobody=privacy is not None and example is not None)
        like = next(iter(by_id.values())) if example is None else example
        prepared = self.prepare(like, by_id, weights=weight_of, privacy=privacy, round=round, model_hash=model_hash)
        return prepared.run(by_id, weight_of, dropouts=dropouts, record=record, stacklevel=3)


class IntegerAggregator(Aggregator):
    """What all aggregators whose channel adds integers have in common.

    Attributes:
        clip: Values are clipped to [-clip, clip]; one number, or one for each array of an update.
        bits: Bits of a rounded value; None takes 16, or as few as 12 where that keeps the sum within 32 bits.
        max_weight: Largest weight, public; None takes the next power of two above the largest weight of each cohort.
        rounding_seed: Makes the random rounding, and the maps of the compression, repeatable, for simulations.
        scale_weights: Whether values are multiplied by weights before rounding, see `ScaledMean`; needs `bits`.
    """

    clip: Clip
    bits: int | None
    max_weight: int | None
    rounding_seed: int | None
    scale_weights: bool

    def _check_encoding(self) -> None:
        object.__setattr__(self, "clip", as_clip("clip", self.clip))
        if not isinstance(self.clip, ArrayClips):
            check_positive("clip", self.clip)
        if self.max_weight is not None and self.max_weight < 1:
            raise ConfigError(f"max_weight {self.max_weight} must be at least 1")
        if self.scale_weights and (self.bits is None or self.max_weight == 1):
            raise ConfigError(
                f"scale_weights with bits {self.bits} and max_weight {self.max_weight}: needed bits, such as 6, and "
                "weights other than 1"
            )
        maps = as_maps(self.compression)
        if isinstance(self.clip, ArrayClips):
            refuse_rotation(maps)

    @property
    def needs_weights(self) -> bool:
        """Whether `max_weight` is to follow from the weights of the cohort."""
        return self.max_weight is None

    def _uncompressed(self, example: Update, clients: int, weights: Weights, privacy: Privacy | None) -> Transform:
        """Choose bits and noise; for the parameters see `Aggregator.prepare`.

        Raises:
            ConfigError: The clients add the noise, but the fewest survivors are not given; or `max_weight` is None and
                there are no weights.
        """
        if privacy is not None:
            if self.scale_weights:
                raise ConfigError("scale_weights has no effect with privacy: clip and noise decide the rounding")
            return self._private_sum(privacy, example, clients)
        largest = self.max_weight or power_of_two_above(weights)
        clip = 1.0 if isinstance(self.clip, ArrayClips) else check_positive("clip", self.clip)
        if self.scale_weights and self.bits is not None:
            return ScaledMean(structure(example), clip, self.bits, clients, largest)
        return WeightedMean.of(example, clip=clip, clients=clients, max_weight=largest, bits=self.bits)

    def rounding(self, round: int, client_id: int) -> bytes | None:
        """Return the bytes that `rounding_seed` gives for one client in one round; None if it is not set."""
        if self.rounding_seed is None:
            return None
        return hashlib.sha256(f"secfed rounding {self.rounding_seed} {round} {client_id}".encode()).digest()

    def _map_seed(self, round: int) -> bytes:
        """Return the bytes that `rounding_seed` gives for one round; fresh bytes if it is not set."""
        if self.rounding_seed is None:
            return super()._map_seed(round)
        return hashlib.sha256(f"secfed compression {self.rounding_seed} {round}".encode()).digest()

    def _private_sum(self, privacy: Privacy, example: Update, clients: int) -> PrivateSum:
        if not isinstance(privacy, DistributedGaussian):
            fewest = self._fewest_with_central_noise()
            return PrivateSum.of(privacy, example, clients=clients, cohorts=self._cohorts(privacy, fewest))
        fewest = self._fewest_with_distributed_noise(privacy, clients)
        privacy = replace(privacy, colluders=max(privacy.colluders, self._colluders()))
        cohorts = self._cohorts(privacy, fewest) if privacy.secret_cohort else ANY_COHORT
        return PrivateSum.of(privacy, example, clients=clients, survivors=fewest, cohorts=cohorts)

    def _cohorts(self, privacy: Privacy, fewest: int) -> tuple[int, int]:
        """Return the smallest and the largest Poisson cohort that can run a session with at least `fewest` clients."""
        if privacy.sampling_rate == 1 or privacy.population is None:
            return ANY_COHORT
        return self._sizes(privacy.population, round(privacy.sampling_rate * privacy.population), fewest)

    def _sizes(self, population: int, expected: int, fewest: int) -> tuple[int, int]:
        refusal = partial(self._refusal, fewest=fewest)
        return sizes_that_run(refusal, population=population, expected=expected, neighbors=self._neighbors())

    def _fewest_with_central_noise(self) -> int:
        """Return the fewest clients in a sum to which the server adds noise."""
        return 2

    @abstractmethod
    def _fewest_with_distributed_noise(self, privacy: DistributedGaussian, clients: int) -> int:
        """Return the fewest clients whose noise may be in a sum."""

    def _colluders(self) -> int:
        """Return how many clients may collude: their noise hides nothing."""
        return 0

    def _neighbors(self) -> int | None:
        """Return how many others each client shares masks with; None if that plays no part."""
        return None

    @abstractmethod
    def _refusal(self, clients: int, fewest: int) -> str:
        """Say why a cohort of this many clients cannot run a session, or nothing ("")."""
