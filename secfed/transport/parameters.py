"""What the server announces before a session, what a client holds against it, and the token that says who a client is.

Everything that is announced is public. A client uses none of it before it has compared it with its own update, its own
roster and its own terms.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self

from secfed.aggregation import WeightedMean
from secfed.crypto.signing import SigningKey
from secfed.encoding.flatten import Structure, Update, structure
from secfed.errors import ConfigError, EncodingError, FaultyServerError, MalformedMessageError, SecFedError
from secfed.secagg import Config, Policy
from secfed.wire import HASH_BYTES

# Another label than those of secagg and of the integrations: a token is never taken for one of their signatures.
TOKEN_LABEL: Final = b"secfed/transport/v1 token"
VERSION: Final = 1
MAXIMUM_BYTES: Final = 1 << 26  # of announced parameters: room for eight million clients


@dataclass(frozen=True)
class SessionParameters:
    """What every party of a session knows.

    Args:
        session: 32 bytes that name the session, fresh from the server.
        config: The configuration of the secagg session.
        transform: What `WeightedMean.to_bytes` gave.
        arrays: Name, shape and dtype of each array of an update, as `Structure` orders them.
    """

    session: bytes
    config: Config
    transform: bytes
    arrays: tuple[tuple[str, tuple[int, ...], str], ...]

    @classmethod
    def of(cls, session: bytes, config: Config, transform: WeightedMean) -> Self:
        """Describe a session for the mean of a transform; for the parameters see the class.

        Raises:
            ConfigError: The transform is another one than a `WeightedMean`, which clients expect.
        """
        if not isinstance(transform, WeightedMean):
            raise ConfigError(
                f"found a {type(transform).__name__}, needed a WeightedMean: clients of this transport take one number "
                "for clip, no compression and no scale_weights"
            )
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
        """Read what `to_bytes` gave.

        Raises:
            MalformedMessageError: These bytes are no parameters of a session, or of another version.
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
            # A ConfigError is a ValueError: what cannot work together is the server's fault here, not the caller's.
            reason = str(error) if isinstance(error, SecFedError) else type(error).__name__
            raise MalformedMessageError(f"these are no parameters of a session: {reason}", 0) from None

    def mean(self, example: Update) -> WeightedMean:
        """Return the transform, for updates like an example.

        Raises:
            MalformedMessageError: T1, the transform's parameters are none.
            FaultyServerError: T2, the number of values is another than that of the example.
        """
        return WeightedMean.from_bytes(self.transform, example=example)


@dataclass(frozen=True)
class Terms:
    """What one client insists on, whatever the server announces.

    Args:
        policy: Thresholds and cohorts, checked before the session and in each stage of it.
        roster: The public identity keys of all clients of the session, 32 bytes by client id, from this client's own
            copy. None is a session without identities, against a semi-honest server only.
        clip: The clip that the client agreed to; None takes the server's.
        max_weight: The largest weight that the client agreed to; None takes the server's.
        round: The training round that the client's update is for; None takes the server's.
        allow_divisible: Accepts, with a roster, graphs on which a malicious server could open sums of few clients.
            Otherwise a roster demands `Policy(indivisible=True)`, whatever the policy says.
    """

    policy: Policy = field(default_factory=Policy)
    roster: Mapping[int, bytes] | None = None
    clip: float | None = None
    max_weight: int | None = None
    round: int | None = None
    allow_divisible: bool = False

    @property
    def session_policy(self) -> Policy:
        """What the client's `secagg.Client` insists on: the policy, and with a roster an indivisible sum."""
        if self.roster is None or self.allow_divisible:
            return self.policy
        return replace(self.policy, indivisible=True)

    def agree(self, found: SessionParameters, client_id: int, update: Update, weight: int) -> WeightedMean:
        """Check everything that a server announced, and return the transform for this client's update.

        Args:
            found: What the server announced.
            client_id: This client.
            update: This client's update.
            weight: Its weight.

        Raises:
            FaultyServerError: The server's parameters are not what this client agreed to.
            MalformedMessageError: T1, the transform's parameters are none.
            EncodingError: The update or the weight does not fit.
            ConfigError: This client is not in the session.
        """
        config = found.config
        if difference := _difference(found.arrays, _arrays(structure(update))):
            raise EncodingError(f"the session is for another update than this client's: {difference}")
        mean = found.mean(update)
        mean.check_config(config)
        if self.roster is not None and set(config.client_ids) != set(self.roster):
            odd = sorted(set(config.client_ids) ^ set(self.roster))
            raise FaultyServerError(
                f"the session has {len(config.client_ids)} clients, this client's roster {len(self.roster)}; only in "
                f"one of them: {odd[:5]}",
                "",
            )
        if self.roster is not None and not config.malicious_server:
            raise FaultyServerError("the session has no identity keys, this client's roster demands them", "")
        if self.roster is None and config.malicious_server:
            raise ConfigError("the session uses identity keys: this client needs its identity key and a roster")
        if client_id not in config.client_ids:
            raise ConfigError(f"client {client_id} is not among the {len(config.client_ids)} clients of the session")
        if mean.fixed_point.clients < len(config.client_ids):
            raise FaultyServerError(
                f"the encoding is for {mean.fixed_point.clients} clients, the session has {len(config.client_ids)}", ""
            )
        for name, announced, agreed in (
            ("clip", mean.fixed_point.clip, self.clip),
            ("largest weight", mean.fixed_point.max_weight, self.max_weight),
            ("round", config.round, self.round),
        ):
            if agreed is not None and announced != agreed:
                raise FaultyServerError(f"the server announced {name} {announced}, this client agreed to {agreed}", "")
        if objection := self.session_policy.objection(config):
            raise FaultyServerError(objection, "C4")
        mean.check(update, weight)
        return mean


def token(session: bytes, config: Config, client_id: int) -> bytes:
    """Return what a client's identity key signs to say who it is to the server of one session.

    The signature is deterministic (RFC 8032), so that it is the same after a restart of either side.
    """
    return TOKEN_LABEL + session + config.hash + client_id.to_bytes(4, "little")


def bearer(key: SigningKey, found: SessionParameters, client_id: int) -> str:
    """Return a client's bearer token: its signature in hexadecimal digits."""
    return key.sign(token(found.session, found.config, client_id)).hex()


def _arrays(found: Structure) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    each = zip(found.paths, found.shapes, found.dtypes, strict=True)
    return tuple((path, tuple(map(int, shape)), dtype.newbyteorder("<").str) for path, shape, dtype in each)


def _difference(
    theirs: tuple[tuple[str, tuple[int, ...], str], ...], own: tuple[tuple[str, tuple[int, ...], str], ...]
) -> str:
    """Say where two descriptions differ in names or shapes; dtypes may differ, for a vector has none."""
    for (their_name, their_shape, _), (name, shape, _) in zip(theirs, own, strict=False):
        if their_name != name:
            return f"its next array is {their_name!r}, needed {name!r}"
        if their_shape != shape:
            return f"{name!r} has shape {their_shape}, needed {shape}"
    return "" if len(theirs) == len(own) else f"it has {len(theirs)} arrays, needed {len(own)}"
