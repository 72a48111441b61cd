"""What all parties must agree on before a session, and what a client requires regardless of the server."""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from secfed.crypto.field import P
from secfed.crypto.ring import narrowest_dtype
from secfed.errors import ConfigError, MalformedMessageError
from secfed.wire import HASH_BYTES

Adversary = Literal["semi_honest", "malicious_server"]
MaskingKind = Literal["aes128_ctr"]

LABEL: Final = b"secfed/secagg/v1 "
MAXIMUM_CLIENTS: Final = 1 << 24
MAXIMUM_LENGTH: Final = 1 << 32
MAXIMUM_CONTEXT: Final = 1024
MAXIMUM_PACKED_BITS: Final = 8 * ((1 << 32) - 1)  # a field's length is a u32
_ADVERSARIES: Final[tuple[Adversary, ...]] = get_args(Adversary)
_MASKINGS: Final[dict[MaskingKind, int]] = {"aes128_ctr": 1}
# After the client ids: threshold, length, modulus bits, neighbors, colluders, session colluders + 1, adversary, round,
# model hash, masking, bytes of the context.
_FIELDS = struct.Struct("<IQBIIIBQ32sBI")


@dataclass(frozen=True, init=False)
class Config:
    """The parameters of one session; server and clients must use the same.

    Args:
        client_ids: The cohort: distinct whole numbers in [1, 2^31 - 2]. An id is also the coordinate of the client's
            Shamir shares.
        threshold: Fewest clients (on a k-regular graph: fewest of a client's neighbors) that can unmask.
        length: Entries of a vector.
        modulus_bits: The sum is modulo `2**modulus_bits`, 1 to 64.
        neighbors: How many clients each client shares pair masks with. None means all (Bonawitz et al. 2017); a smaller
            even number gives a k-regular graph (Bell et al. 2020). `parameters` chooses it with the threshold.
        colluders: How many of one client's holders may collude with the server.
        session_colluders: How many clients of the whole session may collude with a malicious server. On a k-regular
            graph it makes the sum indivisible: a client opens only after more than half of the session's clients and
            colluders have signed the same survivors. None counts only the signatures of a client's holders.
        adversary: `"semi_honest"`, or `"malicious_server"` with identity keys and a consistency check.
        round: The training round.
        model_hash: 32 bytes: the hash of the model being trained. Clients with different models cannot be
            aggregated.
        masking: The kind of mask.
        context: The application's own parameters, at most 1024 bytes. Every key is bound to them; secfed does not read
            them.

    Raises:
        ConfigError: These parameters cannot work together.

    Source:
        `protocols/secagg/README.md`, section 2.1.
    """

    client_ids: tuple[int, ...]
    threshold: int
    length: int
    modulus_bits: int
    neighbors: int  # the number of other clients where the caller says None
    colluders: int
    session_colluders: int | None
    adversary: Adversary
    round: int
    model_hash: bytes = field(repr=False)
    masking: MaskingKind
    context: bytes = field(repr=False)

    def __init__(  # written out so that client_ids takes any iterable and neighbors takes None
        self,
        client_ids: Iterable[int],
        threshold: int,
        length: int,
        modulus_bits: int = 32,
        *,
        neighbors: int | None = None,
        colluders: int = 0,
        session_colluders: int | None = None,
        adversary: Adversary = "semi_honest",
        round: int = 0,
        model_hash: bytes = bytes(HASH_BYTES),
        masking: MaskingKind = "aes128_ctr",
        context: bytes = b"",
    ) -> None:
        ids = tuple(sorted(_whole("client id", client_id) for client_id in client_ids))
        values: dict[str, Any] = {
            "client_ids": ids,
            "threshold": _whole("threshold", threshold),
            "length": _whole("length", length),
            "modulus_bits": _whole("modulus_bits", modulus_bits),
            "neighbors": len(ids) - 1 if neighbors is None else _whole("neighbors", neighbors),
            "colluders": _whole("colluders", colluders),
            "session_colluders": (
                None if session_colluders is None else _whole("session_colluders", session_colluders)
            ),
            "adversary": adversary,
            "round": _whole("round", round),
            "model_hash": model_hash,
            "masking": masking,
            "context": context,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check_fields()
        self._check_thresholds()

    def _check_fields(self) -> None:
        n = len(self.client_ids)
        if not 2 <= n <= MAXIMUM_CLIENTS:
            raise ConfigError(f"{n} clients: needed 2 to {MAXIMUM_CLIENTS}; a sum of one client is its vector")
        if self.client_ids[0] < 1 or self.client_ids[-1] > P - 1:
            raise ConfigError(
                f"client ids from {self.client_ids[0]} to {self.client_ids[-1]}: needed 1 to {P - 1}; number the "
                "clients of the session from 1 and keep which id has which number"
            )
        if len(set(self.client_ids)) < n:
            raise ConfigError(f"{n - len(set(self.client_ids))} of {n} client ids occur twice: ids must be distinct")
        for field_name, low, high in (
            ("length", 1, MAXIMUM_LENGTH),
            ("modulus_bits", 1, 64),
            ("colluders", 0, n),
            ("round", 0, (1 << 64) - 1),
        ):
            value = getattr(self, field_name)
            if not low <= value <= high:
                raise ConfigError(f"{field_name} {value!r} must be a whole number from {low} to {high}")
        if self.length * self.modulus_bits > MAXIMUM_PACKED_BITS:
            found = f"{self.length} entries of {self.modulus_bits} bits"
            raise ConfigError(
                f"{found} are {self.length * self.modulus_bits} bits, one message holds {MAXIMUM_PACKED_BITS}"
            )
        _check_adversary(self.adversary)
        if self.masking not in _MASKINGS:
            raise ConfigError(f"masking {self.masking!r} must be one of {', '.join(map(repr, _MASKINGS))}")
        for field_name in ("model_hash", "context"):
            if not isinstance(getattr(self, field_name), bytes | bytearray | memoryview):
                raise ConfigError(f"{field_name} is of type {type(getattr(self, field_name)).__name__}, needs bytes")
            # A copy: what is hashed must not change afterwards.
            object.__setattr__(self, field_name, bytes(getattr(self, field_name)))
        if len(self.model_hash) != HASH_BYTES:
            raise ConfigError(f"model_hash has {len(self.model_hash)} bytes, needs {HASH_BYTES}")
        if len(self.context) > MAXIMUM_CONTEXT:
            raise ConfigError(f"context has {len(self.context)} bytes, at most {MAXIMUM_CONTEXT} are allowed")

    def _check_thresholds(self) -> None:
        n, t, k, c = len(self.client_ids), self.threshold, self.neighbors, self.colluders
        if not 1 <= k <= n - 1:
            raise ConfigError(f"neighbors {k} must be a whole number from 1 to {n - 1}, the other clients")
        if k < n - 1 and k % 2:
            raise ConfigError(f"neighbors {k} must be even, or {n - 1} for all other clients")
        holders = f"{self.holders} {'clients' if self.complete else 'neighbors'}"
        if not 2 <= t <= self.holders:
            raise ConfigError(f"threshold {t} must be a whole number from 2 to {self.holders} ({holders})")
        if t <= c:
            raise ConfigError(f"threshold {t} must be more than {c} colluders, who could otherwise unmask alone")
        if self.complete and 2 * t <= n:
            raise ConfigError(f"threshold {t} must be more than half of {n} clients")
        if self.adversary == "malicious_server" and 2 * t <= self.holders + c:
            needed = (self.holders + c) // 2 + 1
            raise ConfigError(
                f"threshold {t} must be at least {needed} against a malicious server with {holders} and {c} colluders"
            )
        if self.session_colluders is not None:
            self._check_session_colluders(self.session_colluders)

    def _check_session_colluders(self, colluders: int) -> None:
        n, t, k, c = len(self.client_ids), self.threshold, self.neighbors, self.colluders
        if self.complete or not self.malicious_server:
            raise ConfigError(
                "session_colluders has an effect only on a k-regular graph against a malicious server; leave it out"
            )
        if not c <= colluders <= n - 2:
            raise ConfigError(f"session_colluders {colluders} must be from {c} (colluders) to {n - 2} (clients - 2)")
        if 2 * t <= k + 2 * c:
            raise ConfigError(
                f"threshold {t} must be at least {k // 2 + c + 1} with session_colluders, for {k} neighbors and "
                f"{c} colluders"
            )

    @property
    def complete(self) -> bool:
        """Whether everyone masks with everyone (Bonawitz et al. 2017)."""
        return self.neighbors == len(self.client_ids) - 1

    @property
    def holders(self) -> int:
        """How many clients hold shares of one client's secrets: all on the complete graph, else its neighbors."""
        return len(self.client_ids) if self.complete else self.neighbors

    @property
    def indivisible(self) -> bool:
        """Whether even a server that chooses the dropouts after seeing the graph cannot split the sum into smaller
        ones (`protocols/secagg/README.md`, section 4.1).

        Against a malicious server a k-regular graph needs `session_colluders`: if each client counts only its holders'
        signatures, different parts of the ring can agree on different survivors.
        """
        if self.complete:
            return True
        if self.malicious_server:
            return self.session_colluders is not None
        return 2 * self.threshold > self.neighbors + 2 * self.colluders

    def signers_needed(self, advertised: int) -> int:
        """Return how many clients must have signed the same survivors before a client opens.

        Args:
            advertised: Clients that advertised keys.
        """
        if not self.malicious_server:
            return 0
        if self.session_colluders is None:
            return self.threshold
        return (advertised + self.session_colluders) // 2 + 1

    @property
    def malicious_server(self) -> bool:
        """Whether identity keys and the consistency check are used."""
        return self.adversary == "malicious_server"

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The narrowest unsigned dtype that holds an entry."""
        return narrowest_dtype(self.modulus_bits)

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """The client ids as an array, ascending: entry i is the id of the client at position i."""
        return np.array(self.client_ids, np.int64)

    def position(self, client_id: int) -> int:
        """Return a client's position in the ascending ids, from 0.

        Args:
            client_id: The client.

        Raises:
            KeyError: It is not in the cohort.
        """
        place = int(np.searchsorted(self.ids, client_id))
        if place == len(self.ids) or self.ids[place] != client_id:
            raise KeyError(client_id)
        return place

    def to_bytes(self) -> bytes:
        """Encode every field, in the order of the specification."""
        fields = _FIELDS.pack(
            self.threshold,
            self.length,
            self.modulus_bits,
            self.neighbors,
            self.colluders,
            0 if self.session_colluders is None else self.session_colluders + 1,
            _ADVERSARIES.index(self.adversary),
            self.round,
            self.model_hash,
            _MASKINGS[self.masking],
            len(self.context),
        )
        count = len(self.client_ids).to_bytes(4, "little")
        return count + self.ids.astype("<u4").tobytes() + fields + self.context

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode a configuration, for transports that carry it to the clients (who check it against their `Policy`).

        Args:
            data: What `to_bytes` returned.

        Raises:
            MalformedMessageError: These bytes are not a configuration.
            ConfigError: They are one, but its parameters cannot work together.
        """
        count = int.from_bytes(data[:4], "little")
        start = 4 + 4 * count
        context = data[start + _FIELDS.size :]
        fields = _FIELDS.unpack_from(data, start) if len(data) >= start + _FIELDS.size else None
        if fields is None or len(context) != fields[-1]:
            raise MalformedMessageError(f"{len(data)} bytes are not a configuration of {count} clients", len(data))
        threshold, length, bits, neighbors, colluders, session_colluders, adversary, round, model_hash, masking, _ = (
            fields
        )
        maskings = {code: name for name, code in _MASKINGS.items()}
        if adversary >= len(_ADVERSARIES) or masking not in maskings:
            raise MalformedMessageError("unknown adversary or masking", start)
        ids = np.frombuffer(data, "<u4", count, 4)
        if (ids[1:] <= ids[:-1]).any():  # there is one encoding of a configuration
            raise MalformedMessageError("the client ids do not ascend", 4)
        return cls(
            ids.tolist(),
            threshold,
            length,
            bits,
            neighbors=neighbors,
            colluders=colluders,
            session_colluders=session_colluders - 1 if session_colluders else None,
            adversary=_ADVERSARIES[adversary],
            round=round,
            model_hash=model_hash,
            masking=maskings[masking],
            context=bytes(context),
        )

    @cached_property
    def hash(self) -> bytes:
        """The 32-byte hash of every field, which all signatures and keys are bound to."""
        return hashlib.sha256(LABEL + b"config" + self.to_bytes()).digest()


def _check_adversary(adversary: str) -> None:
    if adversary not in _ADVERSARIES:
        raise ConfigError(f"adversary {adversary!r} must be one of {', '.join(map(repr, _ADVERSARIES))}")


def _whole(name: str, value: Any) -> int:
    """Return a whole number, Python's or NumPy's, as one of Python's."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ConfigError(f"{name} {value!r} must be a whole number")
    return int(value)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a client requires; nothing that a server sends can lower it.

    Args:
        minimum_cohort: Fewest clients in the cohort, and in every set that the server announces later. If the sum is
            indivisible, all honest clients among the announced survivors are in it. Otherwise a malicious server may
            announce many clients and open the sum of few: at least this client and
            `2 * threshold - neighbors - colluders` of its honest neighbors.
        minimum_threshold: Least threshold.
        minimum_neighbors: Fewest clients to share pair masks with.
        minimum_colluders: Fewest colluders among one client's holders that the configuration must withstand.
        adversary: `"malicious_server"` refuses sessions without identity keys and the consistency check.
        indivisible: Refuses k-regular graphs on which a server that chooses the dropouts could split the sum.
        minimum_session_colluders: Fewest colluders in the whole session that the configuration must withstand.

    Raises:
        ConfigError: A parameter has the wrong type, is negative, or is not a known adversary.

    Source:
        Check C4.
    """

    minimum_cohort: int = 2
    minimum_threshold: int = 2
    minimum_neighbors: int = 1
    minimum_colluders: int = 0
    adversary: Adversary = "semi_honest"
    indivisible: bool = False
    minimum_session_colluders: int = 0

    def __post_init__(self) -> None:
        for field_name in (
            "minimum_cohort",
            "minimum_threshold",
            "minimum_neighbors",
            "minimum_colluders",
            "minimum_session_colluders",
        ):
            value = _whole(field_name, getattr(self, field_name))
            if value < 0:
                raise ConfigError(f"{field_name} {value} must not be negative")
            object.__setattr__(self, field_name, value)
        _check_adversary(self.adversary)
        if not isinstance(self.indivisible, bool):
            raise ConfigError(f"indivisible {self.indivisible!r} must be True or False")

    def for_cohorts_of(self, fewest: int) -> Self:
        """Return this policy with a `minimum_cohort` of at least `fewest`, as clients' noise needs.

        Args:
            fewest: The fewest clients.
        """
        return replace(self, minimum_cohort=max(self.minimum_cohort, fewest))

    def objection(self, config: Config) -> str:
        """Return what a configuration lacks, or "".

        Args:
            config: The session's parameters.
        """
        for found, needed, what in (
            (len(config.client_ids), self.minimum_cohort, "clients"),
            (config.threshold, self.minimum_threshold, "as threshold"),
            (config.neighbors, self.minimum_neighbors, "neighbors"),
            (config.colluders, self.minimum_colluders, "tolerated colluders"),
            (
                config.colluders if config.complete else config.session_colluders or 0,
                self.minimum_session_colluders,
                "tolerated colluders in the whole session",
            ),
        ):
            if found < needed:
                return f"the configuration has {found} {what}, this client's policy needs {needed}"
        if self.adversary == "malicious_server" and not config.malicious_server:
            return "the configuration is for a semi-honest server, this client's policy needs malicious_server"
        if self.indivisible and not config.indivisible:
            lax = f"threshold {config.threshold} of {config.neighbors} neighbors with {config.colluders} colluders"
            if config.malicious_server:
                lax = "a k-regular graph without session_colluders"
            return f"{lax} lets the server split the sum, this client's policy refuses that"
        return ""
