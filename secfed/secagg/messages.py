"""The messages of a session, and the columns of equal parts inside them.

`<Stage>Request` goes from the server to a client, `<Stage>Response` back. `protocols/secagg/messages.json` says the
same, and a test compares the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self, overload

from secfed.crypto.aead import TAG_BYTES
from secfed.crypto.agreement import KEY_BYTES
from secfed.crypto.shamir import SHARE_BYTES
from secfed.crypto.signing import SIGNATURE_BYTES
from secfed.errors import MalformedMessageError
from secfed.wire import HASH_BYTES, Message

MAXIMUM_REASON = 64
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class AdvertiseKeysRequest(Message):
    """Opens the session."""

    kind: ClassVar[int] = 1
    nonce: Annotated[bytes, 32]  # fresh from the server; makes the session id new even if all clients repeat themselves
    config_hash: Annotated[bytes, HASH_BYTES]  # compared by the client with its own


@dataclass(frozen=True, slots=True)
class AdvertiseKeysResponse(Message):
    """A client's fresh public keys."""

    kind: ClassVar[int] = 2
    channel_key: Annotated[bytes, KEY_BYTES]  # seals shares
    mask_key: Annotated[bytes, KEY_BYTES]  # agrees on pair seeds
    signature: bytes  # under the identity key; empty if the adversary is semi-honest


@dataclass(frozen=True, slots=True)
class ShareKeysRequest(Message):
    """All keys of this session, the same for everyone."""

    kind: ClassVar[int] = 3
    advertised: bytes  # set: who advertised keys
    channel_keys: bytes  # column over that set
    mask_keys: bytes  # column over that set
    signatures: bytes  # column over that set; empty if the adversary is semi-honest


@dataclass(frozen=True, slots=True)
class ShareKeysResponse(Message):
    """Shares of a client's two secrets, sealed for each other holder."""

    kind: ClassVar[int] = 4
    session_id: Annotated[bytes, HASH_BYTES]  # so that a late answer is not taken for one of a later session
    commitment: Annotated[bytes, HASH_BYTES]  # to the self seed: lets the server recognize wrong shares of it
    sealed: bytes  # column over the other holders


@dataclass(frozen=True, slots=True)
class MaskedInputCollectionRequest(Message):
    """What the others sealed for this client."""

    kind: ClassVar[int] = 5
    shared: bytes  # set: who has sent shares
    sealed: bytes  # column over the other holders in that set


@dataclass(frozen=True, slots=True)
class MaskedInputCollectionResponse(Message):
    """A client's vector under its masks."""

    kind: ClassVar[int] = 6
    uncopied: ClassVar[frozenset[str]] = frozenset({"masked"})
    session_id: Annotated[bytes, HASH_BYTES]
    unopened: bytes  # set: other holders whose sealed shares this client could not open
    masked: bytes  # as the kind of masking writes it; `Pieces` in a client, perhaps a memoryview in a server


@dataclass(frozen=True, slots=True)
class ConsistencyCheckRequest(Message):
    """Who is in the sum; only with adversary `"malicious_server"`."""

    kind: ClassVar[int] = 7
    survivors: bytes  # set


@dataclass(frozen=True, slots=True)
class ConsistencyCheckResponse(Message):
    """A client's signature on the one set of survivors that it accepts."""

    kind: ClassVar[int] = 8
    signature: Annotated[bytes, SIGNATURE_BYTES]


@dataclass(frozen=True, slots=True)
class UnmaskingRequest(Message):
    """Asks for one share of each client: of the self seed of a survivor, of the mask key of a dropout."""

    kind: ClassVar[int] = 9
    survivors: bytes  # set
    dropouts: bytes  # set: sent shares, but no masked input
    signers: bytes  # set: the receiver's holders that signed; empty if the adversary is semi-honest
    signatures: bytes  # column over the signers


@dataclass(frozen=True, slots=True)
class UnmaskingResponse(Message):
    """One share for each client whose shares the sender holds; which kind follows from the survivors, so never both."""

    kind: ClassVar[int] = 10
    session_id: Annotated[bytes, HASH_BYTES]
    shares: bytes  # column over the holders that sent shares


@dataclass(frozen=True, slots=True)
class Abort(Message):
    """Either side ends its part in the session.

    Args:
        reason: Why, in printable ASCII.
    """

    kind: ClassVar[int] = 255
    reason: bytes  # printable ASCII, at most 64 bytes: a check's number or a word, never more

    @classmethod
    def because(cls, reason: str) -> Self:
        """Make the message. Characters other than printable ASCII become question marks; a long reason is cut.

        Args:
            reason: Why.
        """
        printable = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in reason)
        return cls(printable[:MAXIMUM_REASON].encode())

    def text(self) -> str:
        """Return the reason.

        Raises:
            MalformedMessageError: C1, it is not a short line of printable ASCII.
        """
        if len(self.reason) > MAXIMUM_REASON or not (self.reason.isascii() and self.reason.decode().isprintable()):
            raise MalformedMessageError("the reason is not a short line of printable ASCII", len(self.reason))
        return self.reason.decode()


def whole_parts(data: bytes, part_bytes: int, what: str) -> int:
    """Return how many parts a column has.

    Raises:
        MalformedMessageError: C1, the last part is not whole.
    """
    if len(data) % part_bytes:
        raise MalformedMessageError(f"{len(data)} bytes are not a whole {what} of {part_bytes} bytes", len(data))
    return len(data) // part_bytes


class Column(Sequence[bytes]):
    """The parts of a column, each cut out on request: a client needs few of thousands."""

    def __init__(self, data: bytes, part_bytes: int) -> None:
        self._data, self._part_bytes = data, part_bytes

    def __len__(self) -> int:
        return len(self._data) // self._part_bytes

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        size = self._part_bytes
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._data[size * index : size * (index + 1)]


def column(data: bytes, part_bytes: int, parts: int, what: str) -> Column:
    """Cut a column into its parts.

    Raises:
        MalformedMessageError: C1, the length does not match this many parts.
    """
    if len(data) != part_bytes * parts:
        raise MalformedMessageError(
            f"{what} have {len(data)} bytes, {parts} of {part_bytes} bytes are needed", len(data)
        )
    return Column(data, part_bytes)
