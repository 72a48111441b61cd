"""The aggregators: parameters that name a transform and a channel."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np

from secfed.aggregation.aggregator import NO_MODEL, Aggregator, IntegerAggregator
from secfed.aggregation.array_clips import Clip
from secfed.aggregation.channels import Channel, InTheClear, SecureAggregation
from secfed.aggregation.cohort import Weights
from secfed.aggregation.compressed import as_maps
from secfed.aggregation.privacy import DistributedGaussian, Privacy
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.transform import Transform
from secfed.aggregation.weighted_mean import FloatMean
from secfed.encoding.compression import Compression
from secfed.encoding.flatten import Update, structure
from secfed.errors import ConfigError
from secfed.secagg.config import Adversary, Config, Policy
from secfed.secagg.session import Progress


@dataclass(frozen=True)
class Plain(Aggregator):
    """No protection: the server sees every update. Without privacy this is the float reference for the others.

    Args:
        compression: `RandomK(fraction)` or `LowRank(rank)`, or both in a tuple; None sends every value.

    Raises:
        ConfigError: The compression is not valid.
    """

    compression: Compression | Sequence[Compression] | None = None

    def __post_init__(self) -> None:
        as_maps(self.compression, rounded=False)

    def _uncompressed(self, example: Update, clients: int, weights: Weights, privacy: Privacy | None) -> Transform:
        """Choose floats without privacy, whole steps with it; for the parameters see `Aggregator.prepare`.

        Raises:
            ConfigError: The privacy is not central: only its small share of the noise would protect each update.
        """
        if isinstance(privacy, DistributedGaussian):
            raise ConfigError(
                "Plain shows the server every update, DistributedGaussian needs secure aggregation: secfed.SecAgg, or "
                "secfed.CentralGaussian"
            )
        return FloatMean(structure(example)) if privacy is None else PrivateSum.of(privacy, example, clients=clients)

    def channel(self, client_ids: tuple[int, ...], transform: Transform, round: int, model_hash: bytes) -> Channel:
        """Return the channel, which hides nothing."""
        return InTheClear(client_ids, transform.length, transform.modulus_bits)


@dataclass(frozen=True)
class SecAgg(IntegerAggregator):
    """Secure aggregation: the server sees the sum of the survivors' weighted updates, and the sum of their weights.

    Args:
        threshold: Fewest clients (with `neighbors`: of a client's neighbors) that can unmask. A number, or a fraction
            of them (rounded up, and never below the minimum for the adversary). 1.0 means all of them; 1 is refused.
        clip: Values are clipped to [-clip, clip]. One number, or one for each array, in a dictionary or list like an
            update; then each array is rounded with its own step.
        bits: Bits of a rounded value; None takes 16, or as few as 12 where that keeps the sum within 32 bits.
        max_weight: Largest weight. It is public. None takes the next power of two above each cohort's largest weight.
        neighbors: How many clients each client shares pair masks with; None means all (Bonawitz et al. 2017). See
            `secagg.parameters`.
        adversary: `"semi_honest"` or `"malicious_server"`.
        colluders: Most clients among one client's holders that may collude with the server.
        session_colluders: Most clients of the whole session that may collude with a malicious server; makes the sum of
            a k-regular graph indivisible, see `secagg.Config`.
        policy: What every client requires of a session.
        rounding_seed: For simulations: makes the random rounding and the maps of the compression repeatable. Keys and
            masks never come from it.
        compression: `RandomK(fraction)`, `LowRank(rank)` or `RandomRotation()` of `secfed.aggregation`, or several in a
            tuple, with a rotation as the last; None sends every value. With compression, `clip` applies to the
            compressed values; after a rotation there are no arrays left that could have their own clip.
        scale_weights: Multiply by weights before rounding, not after. An entry takes `log2(max_weight)` bits less, but
            needs two or three more `bits` for the same error.
        progress: Called as in `secagg.run_session`, for a progress bar.

    Raises:
        ConfigError: A parameter is out of range.

    Security:
        In this class all parties run in one process: use it for simulation and tests. A deployment runs `secagg.Client`
        and `secagg.Server` on its own network and gets the same sum.
    """

    threshold: float = 2 / 3
    clip: Clip = 4.0
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
        """Return the threshold of a session of this many clients, and its neighbors: None on the complete graph."""
        neighbors = self._regular(clients)
        return self._threshold(clients if neighbors is None else neighbors, neighbors is None), neighbors

    def channel(self, client_ids: tuple[int, ...], transform: Transform, round: int, model_hash: bytes) -> Channel:
        """Return a session among these clients; each requires enough survivors for the noise."""
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
        """Say why a cohort of this many clients cannot run a session, or nothing ("")."""
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


@lru_cache(64)  # for this class only: other aggregators may hold keys, and the cache keeps its arguments
def _sizes_of(aggregator: SecAgg, population: int, expected: int, fewest: int) -> tuple[int, int]:
    return IntegerAggregator._sizes(aggregator, population, expected, fewest)
