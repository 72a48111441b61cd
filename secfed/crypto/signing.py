"""Ed25519 identity keys (RFC 8032)."""

from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_BYTES: Final = 32
SIGNATURE_BYTES = 64
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
# The y-coordinates of the eight points of order 1, 2, 4 and 8: Chalkias, Garillot, Nikolaenko, "Taming the many EdDSAs"
# (SSR 2020), table 1. For every x of these points, both sign bits are refused.
_LOW_ORDER = frozenset(
    (
        0,
        1,
        _P - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    )
)


class SigningKey:
    """A client's identity key; its representation shows no secret and it cannot be pickled.

    Args:
        private_bytes: 32 secret bytes. The owner keeps them for years; only the public key goes into directories.
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
        """Return the 64-byte signature of a message.

        Args:
            message: What is signed.
        """
        return self._private.sign(message)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether a signature over the message was made by the owner of `public_key`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_sound(public_key: bytes) -> bool:
    """Tell whether a public key is canonical (y below 2^255 - 19), a point of the curve and not of low order.

    Anyone can sign for a key of low order: its secret part is zero. RFC 8032 section 5.1.3 says what is canonical. Its
    rule for the sign bit of x = 0 concerns only y = 1 and y = -1, which are of low order.

    A key that is the sum of a point of low order and another one is accepted. Only its owner can sign for it. Detecting
    it would take a multiplication by the group order, which `cryptography` does not offer.
    """
    if len(public_key) != KEY_BYTES:
        return False
    y = int.from_bytes(public_key, "little") & ((1 << 255) - 1)
    return y < _P and y not in _LOW_ORDER and _on_curve(y)


@lru_cache(maxsize=1 << 16)  # cached: in a simulation every client checks the same directory
def _on_curve(y: int) -> bool:
    """Tell whether (y^2 - 1) / (d y^2 + 1), the square of x, is a square (RFC 8032, section 5.1.3)."""
    # `cryptography` loads any 32 bytes. A quotient is a square if the product is one.
    return pow((y * y - 1) * (_D * y * y + 1), (_P - 1) // 2, _P) == 1
