"""AES-128-GCM with keys that are used only once."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secfed.errors import SecFedError

KEY_BYTES = 16
TAG_BYTES = 16
# A fixed nonce is sound only because every key seals exactly one message: keys are fresh per session, pair and
# direction.
_NONCE = bytes(12)


class OpenError(SecFedError):
    """A sealed message was altered, or sealed under another key or other associated data."""


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Encrypt and authenticate; `key` has 16 bytes and must never seal a second message.

    Returns:
        `len(plaintext) + 16` bytes.

    Raises:
        ValueError: The key does not have 16 bytes.
    """
    return _cipher(key).encrypt(_NONCE, plaintext, associated_data)


def open(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """Decrypt what `seal` made.

    Raises:
        OpenError: It was not made with this key and this associated data.
        ValueError: The key does not have 16 bytes.
    """
    cipher = _cipher(key)
    try:
        return cipher.decrypt(_NONCE, sealed, associated_data)
    except InvalidTag:  # also raised if `sealed` is shorter than a tag
        raise OpenError("the sealed message does not open") from None


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:  # AESGCM would also accept 24 and 32 bytes
        raise ValueError(f"key has {len(key)} bytes, needed {KEY_BYTES}")
    return AESGCM(key)
