"""What all parties of a session agree on.

Source: `protocols/paillier/README.md`, section 6.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from secfed.crypto.ring import narrowest_dtype, signed
from secfed.errors import ConfigError, EncodingError, MalformedMessageError
from secfed.paillier.keys import LABEL, LARGEST_DEGREE, PublicKey
from secfed.paillier.packing import Packing
from secfed.wire import HASH_BYTES

MOST_CLIENTS, LARGEST_ID = 1 << 24, 1 << 63
LARGEST_WEIGHT = 1 << 32
LONGEST_VECTOR, LONGEST_CONTEXT = 1 << 32, 1024
# Length, bits of the modulus, bound, fewest clients, round.
_NUMBERS: Final = struct.Struct("<QBQIQ")
MOST_COLUMN_BYTES = (1 << 32) - 1  # a field's length is a u32


@dataclass(frozen=True, init=False)
class Config:
    """The parameters of one session; clients, server and key holder must hold the same.

    Args:
        public_key: The key under which everyone encrypts.
        client_ids: The cohort: distinct whole numbers from 1 to 2^63.
        length: Entries of a vector.
        modulus_bits: The sum is modulo `2**modulus_bits`, 1 to 64.
        bound: Largest absolute value of an entry read as a signed number. A slot is then as narrow as the sum allows.
            0: entries may be any number modulo `2**modulus_bits`; slots add them as whole numbers, so the party that
            decrypts also sees how often the sum passes the modulus.
        weights: Public whole weights, by client id or in the order of ascending ids, by which the server multiplies.
            None: all 1; a client can hide its weight by multiplying its vector itself.
        minimum_cohort: Fewest clients in a sum that the key holder opens, at least 2.
        degree: Damgard and Jurik's `s`, 1 to 7: above 1 a ciphertext holds more values per byte, but is slower.
        round: The training round.
        model_hash: 32 bytes: the hash of the model being trained.
        context: The application's own parameters, at most 1024 bytes; bound into every message, not read.

    Raises:
        ConfigError: These parameters cannot work together.
    """

    public_key: PublicKey = field(repr=False)
    client_ids: tuple[int, ...]
    length: int
    modulus_bits: int
    bound: int
    weights: tuple[int, ...]
    minimum_cohort: int
    degree: int
    round: int
    model_hash: bytes = field(repr=False)
    context: bytes = field(repr=False)

    def __init__(
        self,
        public_key: PublicKey,
        client_ids: Iterable[int],
        length: int,
        modulus_bits: int = 32,
        *,
        bound: int = 0,
        weights: Mapping[int, int] | Sequence[int] | None = None,
        minimum_cohort: int = 2,
        degree: int = 1,
        round: int = 0,
        model_hash: bytes = bytes(HASH_BYTES),
        context: bytes = b"",
    ) -> None:
        if not isinstance(public_key, PublicKey):
            raise ConfigError(f"public_key is of type {type(public_key).__name__}, needed a paillier.PublicKey")
        ids = sorted(_whole("client id", client_id, 1, LARGEST_ID) for client_id in client_ids)
        if not 2 <= len(ids) <= MOST_CLIENTS:
            raise ConfigError(
                f"{len(ids)} clients: needed 2 to {MOST_CLIENTS}; the sum of one client would reveal its vector"
            )
        if len(set(ids)) < len(ids):
            raise ConfigError(f"{len(ids) - len(set(ids))} of {len(ids)} client ids occur twice: ids must be distinct")
        weight_of = _by_client(weights, ids)
        values: dict[str, Any] = {
            "public_key": public_key,
            "client_ids": tuple(ids),
            "length": _whole("length", length, 1, LONGEST_VECTOR),
            "modulus_bits": _whole("modulus_bits", modulus_bits, 1, 64),
            "weights": tuple(
                _whole(f"weight of client {client_id}", weight, 1, LARGEST_WEIGHT)
                for client_id, weight in weight_of.items()
            ),
            "minimum_cohort": _whole("minimum_cohort", minimum_cohort, 2, len(ids)),
            "degree": _whole("degree", degree, 1, LARGEST_DEGREE),
            "round": _whole("round", round, 0, (1 << 64) - 1),
            "model_hash": model_hash,
            "context": context,
        }
        values["bound"] = _whole("bound", bound, 0, (1 << (values["modulus_bits"] - 1)) - 1)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for name, size in (("model_hash", HASH_BYTES), ("context", None)):
            value = values[name]
            if not isinstance(value, bytes) or (size or len(value)) != len(value) or len(value) > LONGEST_CONTEXT:
                needed = f"{size} bytes" if size else f"at most {LONGEST_CONTEXT} bytes"
                raise ConfigError(f"{name} {value!r:.100} must be {needed}")
        if self.column_bytes > MOST_COLUMN_BYTES:
            raise ConfigError(
                f"{self.length} entries make {self.column_bytes} bytes of ciphertexts, one message holds "
                f"{MOST_COLUMN_BYTES}"
            )

    @property
    def additions(self) -> int:
        """Number of vectors in a sum of all clients, counted by weight: the sum of the weights."""
        return sum(self.weights) or len(self.client_ids)

    @cached_property
    def packing(self) -> Packing:
        """Where entries go in plaintexts."""
        entry_max = 2 * self.bound or (1 << self.modulus_bits) - 1
        return Packing(self.length, entry_max, self.additions, self.degree * (self.public_key.key_bits - 1))

    @property
    def column_bytes(self) -> int:
        """Bytes of a vector's ciphertexts."""
        return self.packing.plaintexts * self.public_key.ciphertext_bytes(self.degree)

    @cached_property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The narrowest dtype of a vector."""
        return narrowest_dtype(self.modulus_bits)

    @cached_property
    def hash(self) -> bytes:
        """What binds every message to these parameters."""
        return hashlib.sha256(LABEL + b"config" + self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """Encode every field in the order of the specification, with only the id of the public key."""
        ids, weights = (struct.pack(f"<I{len(numbers)}Q", len(numbers), *numbers) for numbers in self._lists())
        return b"".join(
            (
                self.public_key.id,
                bytes([self.degree]),
                ids,
                weights,
                _NUMBERS.pack(self.length, self.modulus_bits, self.bound, self.minimum_cohort, self.round),
                self.model_hash,
                struct.pack("<I", len(self.context)),
                self.context,
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes, public_key: PublicKey) -> Self:
        """Decode a configuration, for transports that carry it to clients and key holders.

        Args:
            data: What `to_bytes` gave.
            public_key: The key that this party knows to be the key holder's; never a key that came with the bytes.

        Raises:
            MalformedMessageError: These bytes are not a configuration.
            ConfigError: The configuration is for another key, or its parameters cannot work together.
        """
        if data[:HASH_BYTES] != public_key.id:
            raise ConfigError("the configuration is for another public key than this party's")
        try:
            offset, lists = HASH_BYTES + 1, []
            for _ in range(2):
                [count] = struct.unpack_from("<I", data, offset)
                lists.append(struct.unpack_from(f"<{count}Q", data, offset + 4))
                offset += 4 + 8 * count
            length, modulus_bits, bound, minimum_cohort, round = _NUMBERS.unpack_from(data, offset)
        except struct.error:
            raise MalformedMessageError(f"{len(data)} bytes are not a configuration", len(data)) from None
        offset += _NUMBERS.size
        found = cls(
            public_key,
            lists[0],
            length,
            modulus_bits,
            bound=bound,
            weights=lists[1] or None,
            minimum_cohort=minimum_cohort,
            degree=data[HASH_BYTES],
            round=round,
            model_hash=data[offset : offset + HASH_BYTES],
            context=data[offset + HASH_BYTES + 4 :],
        )
        if found.to_bytes() != data:  # there is one encoding of a configuration
            raise MalformedMessageError("these bytes are not the encoding of their configuration", 0)
        return found

    def _lists(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.client_ids, self.weights

    def session_id(self, nonce: bytes) -> bytes:
        """Return the id of one session with these parameters.

        Args:
            nonce: Random bytes that the server drew for the session.
        """
        return hashlib.sha256(LABEL + b"session" + self.hash + nonce).digest()

    def has(self, client_id: int) -> bool:
        """Return whether a client is in the cohort."""
        return client_id in self._positions

    def position(self, client_id: int) -> int:
        """Return a client's position among all, from 0.

        Args:
            client_id: The client.

        Raises:
            KeyError: It is not in the cohort.
        """
        return self._positions[client_id]

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {client_id: position for position, client_id in enumerate(self.client_ids)}

    def weight(self, position: int) -> int:
        """Return the public weight of the client at a position."""
        return self.weights[position] if self.weights else 1

    def entries(self, vector: npt.ArrayLike) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Check a client's vector and return what its slots hold, shape `(length,)`.

        Raises:
            EncodingError: The vector has the wrong shape, type or range.
        """
        array = np.asarray(vector)
        if array.dtype.kind not in "iu" or array.shape != (self.length,):
            raise EncodingError(
                f"the vector has dtype {array.dtype} and shape {array.shape}, needed integers of shape ({self.length},)"
            )
        if int(array.min()) < 0 or int(array.max()) >> self.modulus_bits:
            raise EncodingError(f"an entry is not from 0 to 2^{self.modulus_bits} - 1")
        unsigned = array.astype(self.dtype, copy=False)
        if not self.bound:
            return unsigned
        numbers = signed(unsigned, self.modulus_bits)
        if max(int(numbers.max()), -int(numbers.min())) > self.bound:
            raise EncodingError(f"an entry is beyond the bound {self.bound}")
        return (numbers + self.bound).astype(np.uint64)

    def vector(
        self, totals: npt.NDArray[np.unsignedinteger[Any]], additions: int
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the sum modulo `2**modulus_bits` from the slots' totals of this many vectors."""
        offset = np.uint64(self.bound * additions % (1 << 64))
        centred = totals.astype(np.uint64) - offset
        return (centred & np.uint64((1 << self.modulus_bits) - 1)).astype(self.dtype)


def _by_client(weights: Any, ids: list[int]) -> dict[int, Any]:
    """Return weights by ascending id; empty if there are no weights.

    Raises:
        ConfigError: They are not one for each client.
    """
    if weights is None or (isinstance(weights, Sequence) and not weights):
        return {}
    if isinstance(weights, Sequence) and len(weights) == len(ids):
        return dict(zip(ids, weights, strict=True))
    if not isinstance(weights, Mapping):
        raise ConfigError(f"found weights {weights!r:.100}, needed one for each of {len(ids)} clients")
    if odd := set(weights) ^ set(ids):
        raise ConfigError(f"clients {sorted(odd, key=str)[:5]} are in the cohort or have a weight, but not both")
    return {client_id: weights[client_id] for client_id in ids}


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ConfigError(f"{name} {value!r:.100} must be a whole number from {low} to {high}")
    return int(value)
