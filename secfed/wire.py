"""Messages to bytes and back: one codec, exactly one encoding for each message, no bytes left over.

A message class is a frozen dataclass whose fields are all `bytes`; `Annotated[bytes, 32]` is a field of fixed length,
plain `bytes` one of variable length. On the wire: `u8 version`, `u8 kind`, then each field: fixed ones as they are,
variable ones after a little-endian `u32` length. Reading never allocates more bytes than the input has.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Self, get_args, get_type_hints
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError, MalformedMessageError
from secfed.staging import Whole

# Which clients are in a set, shape `(clients,)`.
Set = npt.NDArray[np.bool_]

VERSION = 1
# Of SHA-256.
HASH_BYTES = 32
_LENGTH_BYTES = 4


class Pieces:
    """A field of variable length whose bytes are made while the message is sent, and only once.

    Args:
        size: How many bytes all pieces have together.
        pieces: The bytes, in order.

    Raises:
        ValueError: The pieces have another size; raised when they are read.
    """

    def __init__(self, size: int, pieces: Iterable[bytes]) -> None:
        self._size, self._pieces = size, iter(pieces)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        found = 0
        for piece in self._pieces:
            found += len(piece)
            yield piece
        if found != self._size:
            raise ValueError(f"a field has {found} bytes, {self._size} were announced")


class Message:
    """Base of all messages; subclasses are frozen dataclasses and set `kind`."""

    kind: ClassVar[int]
    # Fields that are not copied when a message is decoded from a memoryview or a file: they are too long.
    uncopied: ClassVar[frozenset[str]] = frozenset()
    __slots__ = ()

    def to_bytes(self) -> bytes:
        """Encode this message."""
        return b"".join(self.to_chunks())

    def to_chunks(self) -> Iterator[bytes]:
        """Encode this message piece by piece; together the pieces are the bytes of `to_bytes`."""
        parts: list[bytes] = [bytes((VERSION, self.kind))]
        for name, size in layout(type(self)):
            value: bytes | Pieces = getattr(self, name)
            if size is None:
                parts.append(len(value).to_bytes(_LENGTH_BYTES, "little"))
            elif len(value) != size:
                raise ValueError(f"{type(self).__name__}.{name} has {len(value)} bytes, needs {size}")
            if isinstance(value, Pieces):
                yield b"".join(parts)
                yield from value
                parts = []
            else:
                parts.append(value)
        if parts:
            yield b"".join(parts)

    @property
    def encoded_bytes(self) -> int:
        """How many bytes the encoded message has."""
        return self.size(*(len(getattr(self, name)) for name, size in layout(type(self)) if size is None))

    @classmethod
    def from_bytes(cls, data: Whole) -> Self:
        """Decode one message.

        Args:
            data: The whole message. The fields are copies, except those that the class lists as `uncopied`.

        Raises:
            MalformedMessageError: Wrong version or kind, a field that runs past the end, or bytes left over.
        """
        if kind_of(data) != cls.kind:
            raise MalformedMessageError(f"message of kind {data[1]}, needed {cls.__name__} ({cls.kind})", 1)
        values: dict[str, Any] = {}
        offset = 2
        for name, fixed in layout(cls):
            if fixed is None:
                if offset + _LENGTH_BYTES > len(data):
                    raise MalformedMessageError(f"{cls.__name__} ends inside the length of {name}", offset)
                size = int.from_bytes(bytes(data[offset : offset + _LENGTH_BYTES]), "little")
                offset += _LENGTH_BYTES
            else:
                size = fixed
            if offset + size > len(data):
                needed = f"{name} needs {size} bytes, {len(data) - offset} are left"
                raise MalformedMessageError(f"{cls.__name__} ends too early: {needed}", offset)
            part = data[offset : offset + size]
            values[name] = part if name in cls.uncopied else bytes(part)
            offset += size
        if offset != len(data):
            raise MalformedMessageError(f"{len(data) - offset} bytes after the end of {cls.__name__}", offset)
        return cls(**values)

    @classmethod
    def size(cls, *variable: int) -> int:
        """Return the bytes of a message whose variable fields have these lengths, in order."""
        fixed = [size for _, size in layout(cls) if size is not None]
        return 2 + sum(fixed) + _LENGTH_BYTES * (len(layout(cls)) - len(fixed)) + sum(variable)


def layout(message_type: type[Message]) -> tuple[tuple[str, int | None], ...]:
    """Return the name and fixed length (None: variable) of each field of a message class, in wire order."""
    return _layout(message_type)  # type: ignore[arg-type]  # classes are hashable, even if their instances are not


@cache
def _layout(message_type: Any) -> tuple[tuple[str, int | None], ...]:
    hints = get_type_hints(message_type, include_extras=True)
    names = [field.name for field in fields(message_type)]
    return tuple((name, next(iter(get_args(hints[name])[1:]), None)) for name in names)


def view(data: bytes | bytearray | memoryview) -> memoryview:
    """Return the bytes of a message that a caller handed in, without a copy.

    Raises:
        ConfigError: These are not bytes.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ConfigError(f"a message is bytes, found {type(data).__name__}")
    try:
        return memoryview(data).cast("B")
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a message is bytes without a gap: {error}") from None


def kind_of(data: Whole) -> int:
    """Return the kind of an encoded message.

    Raises:
        MalformedMessageError: Too short, or not of this version of the protocol.
    """
    if len(data) < 2:
        raise MalformedMessageError(f"{len(data)} bytes are not a valid message, needed at least 2", 0)
    if data[0] != VERSION:
        raise MalformedMessageError(f"protocol version {data[0]}, this is version {VERSION}", 0)
    return data[1]


def set_to_bytes(members: Set) -> bytes:
    """Encode a set of clients as a bitmap over their numbers."""
    return np.packbits(members, bitorder="little").tobytes()


def set_from_bytes(data: bytes, clients: int) -> Set:
    """Decode a set of clients, shape `(clients,)`.

    Raises:
        MalformedMessageError: C1, wrong length or bits beyond the last client.
    """
    if len(data) != -(-clients // 8):
        raise MalformedMessageError(f"a set of {clients} clients has {len(data)} bytes, needs {-(-clients // 8)}", 0)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[clients:].any():
        raise MalformedMessageError(f"a set has members beyond the {clients} clients", len(data) - 1)
    return bits[:clients].view(np.bool_)


def shared_set(data: bytes, clients: int) -> Set:
    """Decode a set of clients as a read-only array.

    The parties of one process share it as long as one of them holds it. Otherwise a simulation's memory would grow with
    the square of the number of clients, because each client keeps sets of all of them.

    Raises:
        MalformedMessageError: C1, wrong length or bits beyond the last client.
    """
    members = _sets.get((clients, data))
    if members is None:
        members = set_from_bytes(data, clients)
        members.flags.writeable = False
        _sets[clients, data] = members
    return members


_sets: WeakValueDictionary[tuple[int, bytes], Set] = WeakValueDictionary()
