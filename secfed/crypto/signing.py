"""Ed25519 identity keys (RFC 8032)."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64


class SigningKey:
    """A client's identity key; its representation shows no secret and it cannot be pickled.

    Args:
        private_bytes: 32 secret bytes. They are kept by the owner, for years; only the public key goes into
            directories.
    """

    __slots__ = ("_private", "public_bytes")

    def __init__(self, private_bytes: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(private_bytes)
        self.public_bytes = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> "SigningKey":
        """Make a new identity from the operating system's generator."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey(public_bytes={self.public_bytes.hex()}, private redacted)"

    def __reduce__(self) -> str:
        raise TypeError(
            "a SigningKey holds a private key and cannot be pickled; store private_bytes() where only the owner reads"
        )

    def private_bytes(self) -> bytes:
        """Return the 32 secret bytes, for the owner's key store."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of a message."""
        return self._private.sign(message)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether a signature over the message was made by the owner of `public_key`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
