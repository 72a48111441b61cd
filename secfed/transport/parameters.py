"""What the server announces before a session, what a client requires, and the token that identifies a client.

Everything announced is public. Before a client uses it, the client compares it with its own update, roster and terms.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

from secfed.aggregation import (
    Compressed,
    Compression,
    DistributedGaussian,
    Privacy,
    PrivateSum,
    ScaledMean,
    Transform,
    WeightedMean,
)
from secfed.aggregation.announced import read_transform
from secfed.aggregation.messages import CompressedParameters, PrivateSumParameters, ScaledMeanParameters
from secfed.crypto.signing import SigningKey
from secfed.encoding.flatten import Structure, Update, structure
from secfed.errors import ConfigError, EncodingError, FaultyServerError, MalformedMessageError, SecFedError
from secfed.secagg import Config, Policy
from secfed.wire import HASH_BYTES, kind_of

# Differs from the labels of secagg and the integrations, so that a token is never mistaken for one of their signatures.
TOKEN_LABEL: Final = b"secfed/transport/v1 token"
VERSION: Final = 1
MAXIMUM_BYTES: Final = 1 << 26  # of announced parameters: enough for eight million clients


@dataclass(frozen=True)
class SessionParameters:
    """What every party of a session knows.

    Args:
        session: 32 bytes that identify the session, fresh from the server.
        config: The configuration of the secagg session.
        transform: Result of `to_bytes` of the sum's transform.
        arrays: Name, shape and dtype of each array of an update, as `Structure` orders them.
    """

    session: bytes
    config: Config
    transform: bytes
    arrays: tuple[tuple[str, tuple[int, ...], str], ...]

    @classmethod
    def of(cls, session: bytes, config: Config, transform: Transform) -> Self:
        """Describe a session for the sum of a transform; for the parameters see the class.

        Args:
            session: See the class.
            config: See the class.
            transform: A `WeightedMean`, `ScaledMean` or `PrivateSum`, or one of these behind a `Compressed`.

        Raises:
            ConfigError: The transform is of another kind, has clients' noise in layers, or has an adaptive clip.
        """
        inner = transform.inner if isinstance(transform, Compressed) else transform
        if not isinstance(inner, WeightedMean | ScaledMean | PrivateSum):
            raise ConfigError(
                f"found a {type(inner).__name__}, needed a WeightedMean, ScaledMean or PrivateSum: clients of this "
                "transport take one number for clip or clip_norm"
            )
        if isinstance(inner, PrivateSum):
            check_privacy(inner.privacy)
        return cls(session, config, transform.to_bytes(), _arrays(transform.structure))

    def to_bytes(self) -> bytes:
        """Return the parameters as JSON in UTF-8."""
        found = {
            "version": VERSION,
            "session": self.session.hex(),
            "config": self.config.to_bytes().hex(),
            "transform": self.transform.hex(),
            "arrays": self.arrays,
        }
        return json.dumps(found).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the result of `to_bytes`.

        Args:
            data: What `to_bytes` returned.

        Raises:
            MalformedMessageError: These bytes are not parameters of a session, or of another version.
        """
        try:
            found = json.loads(data)
            if (version := found["version"]) != VERSION:
                raise MalformedMessageError(f"the server speaks version {version}, this is version {VERSION}", 0)
            session = bytes.fromhex(found["session"])
            if len(session) != HASH_BYTES:
                raise MalformedMessageError(f"a session's name has {len(session)} bytes, needs {HASH_BYTES}", 0)
            arrays = tuple((str(name), tuple(map(int, shape)), str(dtype)) for name, shape, dtype in found["arrays"])
            config = Config.from_bytes(bytes.fromhex(found["config"]))
            return cls(session, config, bytes.fromhex(found["transform"]), arrays)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            # A ConfigError is a ValueError: here, parameters that cannot work together are the server's fault, not the
            # caller's.
            reason = str(error) if isinstance(error, SecFedError) else type(error).__name__
            raise MalformedMessageError(f"these are not parameters of a session: {reason}", 0) from None


@dataclass(frozen=True)
class Terms:
    """What one client requires, whatever the server announces.

    Args:
        policy: Thresholds and cohorts, checked before the session and in each stage of it.
        roster: The public identity keys of all clients of the session, 32 bytes by client id, from this client's own
            copy. None means a session without identities, which protects only against a semi-honest server.
        clip: The clip that the client agreed to; None accepts the server's. Not with `privacy`.
        max_weight: The largest weight that the client agreed to; None accepts the server's. Not with `privacy`.
        round: The training round that the client's update is for; None accepts the server's.
        allow_divisible: Accepts, with a roster, graphs on which a malicious server could open sums of few clients.
            Otherwise a roster requires `Policy(indivisible=True)`, whatever the policy says.
        bits: The bits of a rounded value that the client agreed to; None accepts the server's. Not with `privacy`.
        compression: The maps that the client agreed to; None means no compression.
        scale_weights: Whether the client agreed to weigh values before they are rounded. Not with `privacy`.
        privacy: The noise that the client agreed to, with one number for `clip_norm`, one layer and no adaptive clip;
            None means a sum without noise. With `DistributedGaussian` the client requires its own share of the noise
            and as many survivors as the noise is for; with `CentralGaussian` only the clip, because the server adds the
            noise.

    Raises:
        ConfigError: The terms contradict each other, or this transport does not support them.
    """

    policy: Policy = field(default_factory=Policy)
    roster: Mapping[int, bytes] | None = None
    clip: float | None = None
    max_weight: int | None = None
    round: int | None = None
    allow_divisible: bool = False
    bits: int | None = None
    compression: Compression | Sequence[Compression] | None = None
    scale_weights: bool = False
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        if self.privacy is None:
            return
        check_privacy(self.privacy)
        for name in ("clip", "bits", "max_weight"):
            if getattr(self, name) is not None:
                raise ConfigError(f"{name} {getattr(self, name)} has no effect on a private sum: needed None")
        if self.scale_weights:
            raise ConfigError("scale_weights has no effect on a private sum: needed False")

    def session_policy(self, transform: Transform) -> Policy:
        """Return what the client's `secagg.Client` requires.

        Args:
            transform: The result of `agree`.

        Returns:
            The policy, with as many survivors as the clients' noise is for; with a roster, only for indivisible sums.
        """
        policy = self.policy.for_cohorts_of(transform.fewest)
        return policy if self.roster is None or self.allow_divisible else replace(policy, indivisible=True)

    def agree(self, found: SessionParameters, client_id: int, update: Update, weight: int) -> Transform:
        """Check everything that a server announced, and return the transform for this client's update.

        Args:
            found: What the server announced.
            client_id: This client.
            update: This client's update.
            weight: Its weight.

        Raises:
            FaultyServerError: The server's parameters are not what this client agreed to.
            MalformedMessageError: T1, the bytes are not parameters of a transform.
            EncodingError: The update or the weight does not fit.
            ConfigError: This client is not in the session, or has a weight that has no effect.
        """
        config = found.config
        if difference := _difference(_arrays(structure(update)), found.arrays):
            raise EncodingError(f"this client's update does not fit the session: {difference}")
        if self.privacy is not None and self.privacy.weight_cap is None and weight != 1:
            raise ConfigError(f"weight {weight} has no effect on this private sum: needed 1")
        transform = self._read(found.transform, update)
        transform.check_config(config)
        if self.roster is not None and set(config.client_ids) != set(self.roster):
            odd = sorted(set(config.client_ids) ^ set(self.roster))
            raise FaultyServerError(
                f"the session has {len(config.client_ids)} clients, this client's roster {len(self.roster)}; only in "
                f"one of them: {odd[:5]}",
                "",
            )
        if self.roster is not None and not config.malicious_server:
            raise FaultyServerError("the session has no identity keys, this client's roster requires them", "")
        if self.roster is None and config.malicious_server:
            raise ConfigError("the session uses identity keys: this client needs its identity key and a roster")
        if client_id not in config.client_ids:
            raise ConfigError(f"client {client_id} is not among the {len(config.client_ids)} clients of the session")
        self._compare(transform, config)
        if objection := self.session_policy(transform).objection(config):
            raise FaultyServerError(objection, "C4")
        transform.check(update, weight)
        return transform

    def _read(self, data: bytes, update: Update) -> Transform:
        """Read the transform, if it is of the kind that this client agreed to."""
        compressed = kind_of(data) == CompressedParameters.kind
        inner = kind_of(CompressedParameters.from_bytes(data).inner if compressed else data)
        for name, announced, agreed in (
            ("compression", compressed, self.compression is not None),
            ("noise", inner == PrivateSumParameters.kind, self.privacy is not None),
            ("scaled weights", inner == ScaledMeanParameters.kind, self.scale_weights),
        ):
            if announced != agreed:
                found, needed = ("", "without") if announced else ("no ", "with")
                raise FaultyServerError(f"the session has {found}{name}, this client agreed to one {needed}", "")
        return read_transform(
            data,
            example=update,
            compression=self.compression,
            privacy=self.privacy,
            scale_weights=self.scale_weights,
        )

    def _compare(self, transform: Transform, config: Config) -> None:
        """Compare the numbers with those that this client agreed to."""
        inner = transform.inner
        numbers: list[tuple[str, float, float | None]] = [("round", config.round, self.round)]
        if isinstance(inner, PrivateSum):  # its own parameters were compared when they were read
            most = inner.plan.clients if inner.plan else len(config.client_ids)
        else:
            assert isinstance(inner, WeightedMean | ScaledMean)
            rounding = inner.fixed_point if isinstance(inner, WeightedMean) else inner
            most = rounding.clients
            numbers += [
                ("clip", rounding.clip, self.clip),
                ("bits", rounding.bits, self.bits),
                ("largest weight", rounding.max_weight, self.max_weight),
            ]
        if most < len(config.client_ids):
            raise FaultyServerError(f"the encoding is for {most} clients, the session has {len(config.client_ids)}", "")
        for name, announced, agreed in numbers:
            if agreed is not None and announced != agreed:
                raise FaultyServerError(f"the server announced {name} {announced}, this client agreed to {agreed}", "")


def check_privacy(privacy: Privacy) -> None:
    """Raise an error for kinds of noise that this transport does not support.

    Raises:
        ConfigError: `clip_norm` is one for each array, the clip is adaptive, or clients' noise comes in layers.
    """
    if not isinstance(privacy.clip_norm, float):
        raise ConfigError("found a clip_norm for each array: needed one number, this transport supports no other")
    if privacy.adaptive is not None:
        raise ConfigError("found adaptive clipping, needed a fixed clip_norm: clients require it")
    if isinstance(privacy, DistributedGaussian) and privacy.layers != 1:
        raise ConfigError(
            f"noise in {privacy.layers} layers needs another message after the unmasking, which this transport does "
            "not support: needed layers=1"
        )


def token(session: bytes, config: Config, client_id: int) -> bytes:
    """Return what a client's identity key signs to identify itself to the server of one session.

    The signature is deterministic (RFC 8032), so it is the same after a restart of either side.
    """
    return TOKEN_LABEL + session + config.hash + client_id.to_bytes(4, "little")


def bearer(key: SigningKey, found: SessionParameters, client_id: int) -> str:
    """Return a client's bearer token: its signature in hexadecimal digits."""
    return key.sign(token(found.session, found.config, client_id)).hex()


def _arrays(found: Structure) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    each = zip(found.paths, found.shapes, found.dtypes, strict=True)
    return tuple((path, tuple(map(int, shape)), dtype.newbyteorder("<").str) for path, shape, dtype in each)


def _difference(
    own: tuple[tuple[str, tuple[int, ...], str], ...], needed: tuple[tuple[str, tuple[int, ...], str], ...]
) -> str:
    """Describe where an update differs in names or shapes; dtypes may differ, because vectors do not depend on them."""
    for (name, shape, _), (needed_name, needed_shape, _) in zip(own, needed, strict=False):
        if name != needed_name:
            return f"its next array is {name!r}, needed {needed_name!r}"
        if shape != needed_shape:
            return f"{name!r} has shape {shape}, needed {needed_shape}"
    return "" if len(own) == len(needed) else f"it has {len(own)} arrays, needed {len(needed)}"
