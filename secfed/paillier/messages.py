"""The messages of a session. `protocols/paillier/messages.json` says the same, and a test compares the two."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from secfed.errors import MalformedMessageError
from secfed.wire import Message, kind_of


@dataclass(frozen=True, slots=True)
class EncryptedInputRequest(Message):
    """Opens the session."""

    kind: ClassVar[int] = 65
    nonce: Annotated[bytes, 32]  # fresh from the server; makes the session id new
    config_hash: Annotated[bytes, 32]  # compared by the client with its own


@dataclass(frozen=True, slots=True)
class EncryptedInputResponse(Message):
    """A client's vector under the public key."""

    kind: ClassVar[int] = 66
    session_id: Annotated[bytes, 32]
    ciphertexts: bytes  # column over the plaintexts of a vector


@dataclass(frozen=True, slots=True)
class DecryptionRequest(Message):
    """Asks a key holder to decrypt the sum."""

    kind: ClassVar[int] = 67
    nonce: Annotated[bytes, 32]
    config_hash: Annotated[bytes, 32]
    survivors: bytes  # set: whose vectors are in the sum
    ciphertexts: bytes  # column over the plaintexts of a vector


@dataclass(frozen=True, slots=True)
class DecryptionResponse(Message):
    """The sum, as the slots of plaintexts hold it."""

    kind: ClassVar[int] = 68
    session_id: Annotated[bytes, 32]
    plaintexts: bytes  # column over the plaintexts of a vector


@dataclass(frozen=True, slots=True)
class PartialDecryptionResponse(Message):
    """One share holder's part of the decryption, with a proof that it used its share."""

    kind: ClassVar[int] = 69
    session_id: Annotated[bytes, 32]
    partials: bytes  # column over the plaintexts of a vector
    challenge: Annotated[bytes, 32]
    response: bytes  # an integer


_CLASSES: dict[int, type[Message]] = {
    message.kind: message
    for message in (
        EncryptedInputRequest,
        EncryptedInputResponse,
        DecryptionRequest,
        DecryptionResponse,
        PartialDecryptionResponse,
    )
}


def read_message(data: bytes) -> Message:
    """Decode a message of any kind.

    Raises:
        MalformedMessageError: These bytes are not a valid message.
    """
    if (kind := kind_of(data)) not in _CLASSES:
        raise MalformedMessageError(f"there is no message of kind {kind}", 1)
    return _CLASSES[kind].from_bytes(data)
