"""The aggregators: parameters that name a transform and a channel, and what they decide for a cohort."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np

from secfed.aggregation.aggregate import Aggregate
from secfed.aggregation.channels import Channel, InTheClear, SecureAggregation
from secfed.aggregation.cohort import Updates, Weights, by_client, positions, power_of_two_above
from secfed.aggregation.cohort_sizes import ANY_COHORT, sizes_that_run
from secfed.aggregation.compressed import Compressed, Maps, as_maps
from secfed.aggregation.prepared import Prepared
from secfed.aggregation.privacy import DistributedGaussian, Privacy
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.scaled_mean import ScaledMean
from secfed.aggregation.transform import Transform
from secfed.aggregation.weighted_mean import FloatMean, WeightedMean
from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.encoding.compression import Compression
from secfed.encoding.flatten import Update, structure
from secfed.errors import ConfigError
from secfed.secagg.config import Adversary, Config, Policy
from secfed.secagg.session import Progress
from secfed.secagg.stages import Stage
from secfed.wire import HASH_BYTES

NO_MODEL = bytes(HASH_BYTES)


class Aggregator(ABC):
    """What a federated algorithm sees of any protection.

    Attributes:
        compression: The maps that make updates shorter, or None.
    """

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
            weights: The weights, where `needs_weights`.
            privacy: `CentralGaussian` or `DistributedGaussian`; None adds no noise.
            round: The training round.
            model_hash: 32 bytes that stand for the model being trained.

        Returns:
            The aggregation: its `worst_event` is what a budget must have room for, and `run` aggregates.

        Raises:
            ConfigError: Parameters that do not fit the cohort.
            EncodingError: The example is no update.
        """
        ids = tuple(positions(clients))
        transform = self.transform(example, len(ids), weights, privacy, round)
        return Prepared(transform, self.channel(ids, transform, round, model_hash), ids, partial(self.rounding, round))

    def transform(
        self, example: Update, clients: int, weights: Weights, privacy: Privacy | None, round: int = 0
    ) -> Transform:
        """Choose how the updates of so many clients become vectors; for the rest see `prepare`.

        Raises:
            ConfigError: Parameters that do not fit together, or a compression that would have no effect.
            EncodingError: The example is no update.
        """
        chosen = as_maps(self.compression, rounded=privacy is None and not isinstance(self, Plain))
        if not chosen:
            return self._uncompressed(example, clients, weights, privacy)
        maps = Maps(chosen, structure(example), self._map_seed(round))
        inner = self._uncompressed(np.zeros(maps.size), clients, weights, privacy)
        return Compressed(maps, inner)

    @abstractmethod
    def _uncompressed(self, example: Update, clients: int, weights: Weights, privacy: Privacy | None) -> Transform:
        """Choose how updates, or what a compression leaves of them, become vectors; for the rest see `transform`."""

    def _map_seed(self, round: int) -> bytes:
        """Return 32 public bytes that decide the maps of one sum: fresh ones."""
        return SystemEntropy().draw("compression", SEED_BYTES)

    @abstractmethod
    def channel(self, client_ids: tuple[int, ...], transform: Transform, round: int, model_hash: bytes) -> Channel:
        """Choose what adds these clients' vectors."""

    def rounding(self, round: int, client_id: int) -> bytes | None:
        """Return the 32 bytes that decide a client's rounding in one round; None leaves it to the operating system."""
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
                2^63. An update is an array, or a list or dictionary of arrays, of any float dtype; all alike.
            weights: One positive weight per client (its number of examples), in the same form; by default all 1.
            dropouts: Clients that fall silent, and the first stage that they do not answer.
            round: The training round.
            model_hash: 32 bytes that stand for the model being trained.
            record: Whether to keep a transcript of what the server saw.
            privacy: `CentralGaussian` or `DistributedGaussian`: what the aggregate is then good for is in its `event`,
                to be composed in a `dp.Accountant`; training does that by itself.
            example: What an update looks like; by default the first one. A private sum in the clear needs no update
                then: noise alone is released.

        Raises:
            ConfigError: Parameters that do not fit the cohort.
            EncodingError: An update or weight that does not fit; nothing has been sent.
            TooFewSurvivorsError: Too many dropouts.
        """
        by_id, weight_of = by_client(updates, weights, or_nobody=privacy is not None and example is not None)
        like = next(iter(by_id.values())) if example is None else example
        prepared = self.prepare(like, by_id, weights=weight_of, privacy=privacy, round=round, model_hash=model_hash)
        return prepared.run(by_id, weight_of, dropouts=dropouts, record=record, stacklevel=3)


@dataclass(frozen=True)
class Plain(Aggregator):
    """No protection: the server sees every update. Without privacy this is the float reference for the others.

    Args:
        compression: `RandomK(fraction)` or `LowRank(rank)`, or both in a tuple; None sends every value.

    Raises:
        ConfigError: The compression is none.
    """

    compression: Compression | Sequence[Compression] | None = None

    def __post_init__(self) -> None:
        as_maps(self.compression, rounded=False)

    def _uncompressed(self, example: Update, clients: int, weights: Weights, privacy: Privacy | None) -> Transform:
        """Choose floats without privacy, else whole steps; for the parameters see `Aggregator.prepare`.

        Raises:
            ConfigError: The privacy is not central: each update would be in the clear but for its share of the noise.
        """
        if isinstance(privacy, DistributedGaussian):
            raise ConfigError(
                "Plain shows the server every update, DistributedGaussian needs secure aggregation: secfed.SecAgg, or "
                "secfed.CentralGaussian"
            )
        return FloatMean(structure(example)) if privacy is None else PrivateSum.of(privacy, example, clients=clients)

    def channel(self, client_ids: tuple[int, ...], transform: Transform, round: int, model_hash: bytes) -> Channel:
        """Return the channel that hides nothing."""
        return InTheClear(client_ids, transform.length, transform.modulus_bits)


class IntegerAggregator(Aggregator):
    """An aggregator whose channel adds integers: what it has in common with others of its kind.

    Attributes:
        clip: Values are clipped to [-clip, clip].
        bits: Bits of a rounded value; None takes 16, or as few as 12 where that keeps the sum within 32 bits.
        max_weight: Largest weight, public; None takes the next power of two above the largest weight of each cohort.
        rounding_seed: Makes the random rounding, and the maps of the compression, repeatable, for simulations.
        scale_weights: Whether values are weighed before they are rounded, see `ScaledMean`; needs `bits`.
    """

    clip: float
    bits: int | None
    max_weight: int | None
    rounding_seed: int | None
    scale_weights: bool

    def _check_encoding(self) -> None:
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"clip {self.clip} must be a positive finite number")
        if self.max_weight is not None and self.max_weight < 1:
            raise ConfigError(f"max_weight {self.max_weight} must be at least 1")
        if self.scale_weights and (self.bits is None or self.max_weight == 1):
            raise ConfigError(
                f"scale_weights with bits {self.bits} and max_weight {self.max_weight}: needed bits, such as 6, and "
                "weights other than 1"
            )
        as_maps(self.compression)

    @property
    def needs_weights(self) -> bool:
        """Whether `max_weight` is to follow from the weights of the cohort."""
        return self.max_weight is None

    def _uncompressed(self, example: Update, clients: int, weights: Weights, privacy: Privacy | None) -> Transform:
        """Choose bits and noise; for the parameters see `Aggregator.prepare`.

        Raises:
            ConfigError: The noise is the clients', and how many of them must arrive is not said; or `max_weight` is
                None and there are no weights.
        """
        if privacy is not None:
            if self.scale_weights:
                raise ConfigError("scale_weights has no effect with privacy, where the clip and the noise decide")
            return self._private_sum(privacy, example, clients)
        largest = self.max_weight or power_of_two_above(weights)
        if self.scale_weights and self.bits is not None:
            return ScaledMean(structure(example), self.clip, self.bits, clients, largest)
        return WeightedMean.of(example, clip=self.clip, clients=clients, max_weight=largest, bits=self.bits)

    def rounding(self, round: int, client_id: int) -> bytes | None:
        """Return what the `rounding_seed` gives for one client in one round; without it None."""
        if self.rounding_seed is None:
            return None
        return hashlib.sha256(f"secfed rounding {self.rounding_seed} {round} {client_id}".encode()).digest()

    def _map_seed(self, round: int) -> bytes:
        """Return what the `rounding_seed` gives for one round; without it fresh bytes."""
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
        """Return how many clients may collude, whose noise hides nothing."""
        return 0

    def _neighbors(self) -> int | None:
        """Return with how many others each client shares masks; None if that plays no part."""
        return None

    @abstractmethod
    def _refusal(self, clients: int, fewest: int) -> str:
        """Say why a cohort of so many clients cannot run a session, or nothing ("")."""


@dataclass(frozen=True)
class SecAgg(IntegerAggregator):
    """Secure aggregation: the server sees the sum of the survivors' weighted updates, and the sum of their weights.

    Args:
        threshold: Fewest clients (with `neighbors`: of a client's neighbors) that can unmask: a number, or a fraction
            of them (rounded up, and never below what the adversary demands). 1.0 is all of them, 1 is refused.
        clip: Values are clipped to [-clip, clip].
        bits: Bits of a rounded value; None takes 16, or as few as 12 where that keeps the sum within 32 bits.
        max_weight: Largest weight, public; None takes the next power of two above the largest weight of each cohort.
        neighbors: Clients that share pair masks with one client; None is all (Bonawitz et al. 2017), see
            `secagg.parameters`.
        adversary: `"semi_honest"` or `"malicious_server"`.
        colluders: Most clients among one client's holders that may collude with the server.
        session_colluders: Most clients of the whole session that may collude with a malicious server; makes the sum of
            a k-regular graph indivisible, see `secagg.Config`.
        policy: What every client insists on.
        rounding_seed: Makes the random rounding, and the maps of the compression, repeatable, for simulations; keys and
            masks never come from it.
        compression: `RandomK(fraction)`, `LowRank(rank)` or `RandomRotation()` of `secfed.aggregation`, or several in a
            tuple, in which a rotation is the last; None sends every value. `clip` is then for the compressed values.
        scale_weights: Weigh values before they are rounded, not after: an entry takes `log2(max_weight)` bits less, and
            needs two or three more `bits` for the same error.
        progress: Called as in `secagg.run_session`, for a progress bar.

    Raises:
        ConfigError: A parameter is out of range.

    Security:
        In this class all parties live in one process: it is for simulation and tests. A deployment puts `secagg.Client`
        and `secagg.Server` on its own network and gets the same sum.
    """

    threshold: float = 2 / 3
    clip: float = 4.0
    bits: int | None = None
    max_weight: int | None = None
    neighbors: int | None = None
    adversary: Adversary = "semi_honest"
    colluders: int = 0
    session_colluders: int | None = None
    policy: Policy | None = None
    rounding_seed: int | None = None
    compression: Compression | Sequence[Compression] | None = None
    scale_weights: bool = False
    progress: Progress | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.threshold, str):
            raise ConfigError(f"threshold {self.threshold!r} must be a number of clients, or a fraction such as 2/3")
        fraction = isinstance(self.threshold, float)
        if not self.threshold > 0 or (fraction and self.threshold > 1):
            raise ConfigError(
                f"threshold {self.threshold} must be a number of clients, or a fraction above 0 and up to 1"
            )
        self._check_encoding()
        if self.session_colluders is not None and (self.neighbors is None or self.adversary != "malicious_server"):
            raise ConfigError('session_colluders has an effect only with neighbors and adversary="malicious_server"')

    def config(
        self,
        client_ids: Iterable[int],
        transform: Transform,
        *,
        round: int = 0,
        model_hash: bytes = NO_MODEL,
    ) -> Config:
        """Return the session's configuration.

        Args:
            client_ids: Ids from 1 to 2^31 - 2; `aggregate` numbers its clients from 1, by ascending id.
            transform: How updates become vectors.
            round: The training round.
            model_hash: Hash of the model being trained.

        Raises:
            ConfigError: These clients cannot run a session.
        """
        client_ids = list(client_ids)
        threshold, neighbors = self.graph(len(client_ids))
        return Config(
            client_ids,
            threshold,
            transform.length,
            transform.modulus_bits,
            neighbors=neighbors,
            colluders=self.colluders,
            session_colluders=None if neighbors is None else self.session_colluders,
            adversary=self.adversary,
            round=round,
            model_hash=model_hash,
            context=transform.context,
        )

    def graph(self, clients: int) -> tuple[int, int | None]:
        """Return the threshold of a session of so many clients, and its neighbors: None on the complete graph."""
        neighbors = self._regular(clients)
        return self._threshold(clients if neighbors is None else neighbors, neighbors is None), neighbors

    def channel(self, client_ids: tuple[int, ...], transform: Transform, round: int, model_hash: bytes) -> Channel:
        """Return a session among these clients; each insists on enough survivors for the noise."""
        make_config = partial(self.config, transform=transform, round=round, model_hash=model_hash)
        return SecureAggregation(client_ids, make_config, self.policy or Policy(), transform.fewest, self.progress)

    def _fewest_with_distributed_noise(self, privacy: DistributedGaussian, clients: int) -> int:
        if privacy.minimum_survivors is not None:
            return privacy.minimum_survivors
        if self._regular(clients) is not None:
            raise ConfigError(
                f"with neighbors {self.neighbors} the threshold counts a client's neighbors: DistributedGaussian needs "
                "minimum_survivors, the fewest clients in a sum"
            )
        return self._threshold(clients, True)

    def _sizes(self, population: int, expected: int, fewest: int) -> tuple[int, int]:
        return _sizes_of(self, population, expected, fewest)

    def _colluders(self) -> int:
        return self.colluders

    def _neighbors(self) -> int | None:
        return self.neighbors

    def _refusal(self, clients: int, fewest: int) -> str:
        """Say why a cohort of so many clients cannot run a session, or nothing ("")."""
        if clients < fewest:
            return f"{clients} clients, needed {fewest}"
        threshold, neighbors = self.graph(clients)
        try:
            config = Config(
                range(1, clients + 1),
                threshold,
                1,
                neighbors=neighbors,
                colluders=self.colluders,
                adversary=self.adversary,
            )
        except ConfigError as error:
            return str(error)
        return (self.policy or Policy()).objection(config)

    def _regular(self, clients: int) -> int | None:
        """Return the number of neighbors on a k-regular graph; None on the complete one."""
        return None if self.neighbors is None or self.neighbors >= clients - 1 else self.neighbors

    def _threshold(self, holders: int, complete: bool) -> int:
        """Turn a fraction into a number of clients."""
        if isinstance(self.threshold, int | np.integer):
            return int(self.threshold)
        least = max(2, self.colluders + 1)
        if self.adversary == "malicious_server":
            least = (holders + self.colluders) // 2 + 1
            if self.session_colluders is not None:
                least = max(least, holders // 2 + self.colluders + 1)
        elif complete:
            least = max(least, holders // 2 + 1)
        # The fraction's own rounding error must not cost a client: 2/3 of 30 is 20.
        return max(least, math.ceil(self.threshold * holders - 1e-9))


@lru_cache(64)  # of this class alone: others may hold keys, and what is kept here stays in memory
def _sizes_of(aggregator: SecAgg, population: int, expected: int, fewest: int) -> tuple[int, int]:
    return IntegerAggregator._sizes(aggregator, population, expected, fewest)
