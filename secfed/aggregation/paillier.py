"""Paillier encryption: an aggregator's parameters, and the channel in which a key holder decrypts the sum."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from secfed.aggregation.aggregator import NO_MODEL, IntegerAggregator
from secfed.aggregation.array_clips import Clip
from secfed.aggregation.channels import Channel, Observer, Protection, Total, VectorOf
from secfed.aggregation.cohort import Weights, arrived
from secfed.aggregation.privacy import DistributedGaussian, Privacy
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.transform import Transform
from secfed.encoding.compression import Compression
from secfed.encoding.flatten import Update
from secfed.errors import ConfigError, TooFewSurvivorsError
from secfed.paillier import Config, Noise, PrivateKey, PublicKey, ThresholdKey, generate_keypair, run_session
from secfed.paillier.session import Progress, Shared
from secfed.secagg.stages import Stage

DEFAULT_KEY_BITS = 3072


@dataclass(frozen=True)
class EncryptedSum:
    """A session of Paillier encryption in one process.

    Args:
        clients: Ids, ascending.
        make_config: Returns the session's parameters.
        private_key: Returns the key holder's key, which is made when first needed.
        minimum_cohort: Fewest clients in a sum that the key holder opens.
        noise: The kind of noise of every client.
        progress: Called now and then with the stage, the id of the client or number of the key holder at work, how many
            plaintexts are done, and how many there are.
    """

    clients: tuple[int, ...]
    make_config: Callable[[Iterable[int]], Config]
    private_key: Callable[[], PrivateKey | Shared] = field(repr=False)
    minimum_cohort: int
    noise: Noise
    progress: Progress | None = field(default=None, repr=False)
    protection: Protection = "paillier"

    @cached_property
    def config(self) -> Config:
        """The session's parameters; see `Channel`."""
        return self.make_config(self.clients)

    def sum(self, vector_of: VectorOf, silent: Mapping[int, Stage], observer: Observer | None) -> Total:
        """Run one session; see `Channel`.

        Raises:
            ConfigError: These clients cannot run a session.
            TooFewSurvivorsError: Fewer clients are left than the key holder demands.
        """
        if (found := len(self.clients)) < self.minimum_cohort:
            needed = self.minimum_cohort
            raise TooFewSurvivorsError(f"the cohort has {found} clients, needed {needed}", found, needed)
        present = set(arrived(self.clients, silent))
        result = run_session(
            self.config,
            vector_of,
            self.private_key(),
            dropouts=set(self.clients) - present,
            noise=self.noise,
            observer=observer,
            progress=self.progress,
        )
        return Total(result.sum, result.survivors, result.dropouts, result.bytes_up, result.bytes_down, result.seconds)


@dataclass(frozen=True)
class Paillier(IntegerAggregator):
    """Paillier encryption: the server adds ciphertexts, and a separate party, the key holder, decrypts the sum.

    Args:
        key_bits: Bits of the key, at least 2048; None is 3072. The key pair is made when it is first needed and then
            kept by this object.
        clip: Values are clipped to [-clip, clip]. One number, or one for each array, in a dictionary or list like an
            update; then each array is rounded with its own step.
        bits: Bits of a rounded value; None takes 16, or as few as 12 where that keeps the sum within 32 bits.
        max_weight: Largest weight. It is public. None takes the next power of two above each cohort's largest weight.
            A client multiplies its update by its weight itself, so no one sees the weight.
        minimum_cohort: Fewest clients in a sum that the key holder opens, at least 2.
        noise: `"half"`, `"short"` (five times as fast, under a stronger assumption) or `"full"` (30 times as slow, no
            assumption beyond Paillier's own).
        degree: Damgard and Jurik's `s`, 1 to 7. With 3 a 16-bit value takes 3.4 bytes instead of 5.1; decryption takes
            longer.
        private_key: The key holder's key, instead of a new one; or a threshold key and the shares of all its holders,
            as `paillier.deal` gives them.
        public_key: The public key alone, or a threshold key, where the key holders are on other machines: such an
            aggregator configures a deployment's sessions (`integrations.flower`) but cannot run one by itself.
        rounding_seed: For simulations: makes the random rounding and the maps of the compression repeatable. Keys and
            noise never come from it.
        progress: Called now and then, for a progress bar, with the stage, the id of the client or number of the key
            holder at work, how many plaintexts are done, and how many there are.
        compression: `RandomK(fraction)`, `LowRank(rank)` or `RandomRotation()` of `secfed.aggregation`, or several in a
            tuple, with a rotation as the last; None sends every value. With compression, `clip` applies to the
            compressed values; after a rotation there are no arrays left that could have their own clip.
        scale_weights: Multiply by weights before rounding, not after. An entry takes `log2(max_weight)` bits less, but
            needs two or three more `bits` for the same error.

    Raises:
        ConfigError: A parameter is out of range, or both a key and `key_bits` are given.

    Security:
        In this class all parties run in one process, including the key holder: use it for simulation and tests. A
        deployment runs `paillier.Client`, `paillier.Server` and `paillier.KeyHolder` on machines of different owners,
        and gets the same sum.
    """

    key_bits: int | None = None
    clip: Clip = 4.0
    bits: int | None = None
    max_weight: int | None = None
    minimum_cohort: int = 2
    noise: Noise = "half"
    degree: int = 1
    private_key: PrivateKey | Shared | None = field(default=None, repr=False)
    public_key: PublicKey | ThresholdKey | None = field(default=None, repr=False)
    rounding_seed: int | None = None
    progress: Progress | None = field(default=None, repr=False, compare=False)
    compression: Compression | Sequence[Compression] | None = None
    scale_weights: bool = False

    def __post_init__(self) -> None:
        self._check_encoding()
        given = [name for name in ("private_key", "public_key", "key_bits") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"found {' and '.join(given)}, needed at most one: the key is given, or it is made")
        if self.minimum_cohort < 2:
            raise ConfigError(f"minimum_cohort {self.minimum_cohort} must be at least 2")

    @cached_property
    def _key(self) -> PrivateKey | Shared:
        if self.public_key is not None:
            raise ConfigError("this aggregator has the public key only: a session in one process needs a private_key")
        if self.private_key is not None:
            return self.private_key
        return generate_keypair(DEFAULT_KEY_BITS if self.key_bits is None else self.key_bits)[1]

    @property
    def _encrypts(self) -> PublicKey:
        key = self.public_key or (self._key if isinstance(self._key, PrivateKey) else self._key[0])
        return key if isinstance(key, PublicKey) else key.public_key

    def _uncompressed(self, example: Update, clients: int, weights: Weights, privacy: Privacy | None) -> Transform:
        """Choose bits and noise, in a ring in which no noisy sum wraps; for the rest see `IntegerAggregator`.

        Slots add whole numbers, not numbers modulo something. Sums of reduced entries would also show how many of these
        were negative, and no noise hides that.
        """
        chosen = super()._uncompressed(example, clients, weights, privacy)
        if isinstance(chosen, PrivateSum) and chosen.plan:
            needed = (chosen.plan.clients * chosen.bound).bit_length() + 1
            chosen = replace(chosen, modulus_bits=max(needed, chosen.modulus_bits))
        return chosen

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
            client_ids: Ids from 1 to 2^63.
            transform: How updates become vectors.
            round: The training round.
            model_hash: Hash of the model being trained.

        Raises:
            ConfigError: These clients cannot run a session.
        """
        return Config(
            self._encrypts,
            client_ids,
            transform.length,
            transform.modulus_bits,
            bound=transform.bound,
            minimum_cohort=self._minimum(transform),
            degree=self.degree,
            round=round,
            model_hash=model_hash,
            context=transform.context,
        )

    def channel(self, client_ids: tuple[int, ...], transform: Transform, round: int, model_hash: bytes) -> Channel:
        """Return a session among these clients; the key holder requires enough survivors for the noise."""
        make_config = partial(self.config, transform=transform, round=round, model_hash=model_hash)
        return EncryptedSum(
            client_ids, make_config, lambda: self._key, self._minimum(transform), self.noise, self.progress
        )

    def _minimum(self, transform: Transform) -> int:
        return max(self.minimum_cohort, transform.fewest)

    def _fewest_with_central_noise(self) -> int:
        return self.minimum_cohort

    def _fewest_with_distributed_noise(self, privacy: DistributedGaussian, clients: int) -> int:
        return max(self.minimum_cohort, privacy.minimum_survivors or 0)

    def _refusal(self, clients: int, fewest: int) -> str:
        return f"{clients} clients, needed {fewest}" if clients < fewest else ""
