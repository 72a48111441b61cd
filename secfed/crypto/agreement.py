"""X25519 key pairs and HKDF-SHA256: two keys and a label give a key."""

from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
_P = 2**255 - 19
_SHA256 = hashes.SHA256()
# The canonical u-coordinates of low order, on the curve and its twist; every private key maps them to the all-zero
# secret (RFC 7748 section 6.1).
_LOW_ORDER = frozenset(
    u.to_bytes(KEY_BYTES, "little")
    for u in (
        0,
        1,
        _P - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
)


class KeyPair:
    """An X25519 key pair; its representation shows no secret and it cannot be pickled.

    Args:
        private_bytes: 32 secret bytes (RFC 7748 clamps them).
    """

    __slots__ = ("_private", "public_bytes")

    def __init__(self, private_bytes: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(private_bytes)
        self.public_bytes = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"KeyPair(public_bytes={self.public_bytes.hex()}, private redacted)"

    def __reduce__(self) -> str:
        raise TypeError("a KeyPair holds a private key and cannot be pickled")

    def private_bytes(self) -> bytes:
        """Return the 32 secret bytes, which are shared among the holders."""
        return self._private.private_bytes_raw()

    def agree(self, other: bytes | X25519PublicKey, *, salt: bytes, info: bytes, size: int = 32) -> bytes:
        """Derive `size` key bytes from the X25519 secret with another party's public key.

        Raises:
            ValueError: The other key is of low order.

        Source:
            RFC 7748 section 6.1, RFC 5869.
        """
        public_key = parse(other) if isinstance(other, bytes) else other
        return derive(self._private.exchange(public_key), salt, info, size)


def parse(public_key: bytes) -> X25519PublicKey:
    """Load a public key once, so that it can serve many agreements."""
    return X25519PublicKey.from_public_bytes(public_key)


def derive(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """Derive `size` bytes (at most 8160) with HKDF-SHA256 (RFC 5869)."""
    return HKDF(_SHA256, size, salt, info).derive(secret)


def is_sound(public_key: bytes) -> bool:
    """Tell whether a public key has 32 bytes, is canonical (below 2^255 - 19) and not of low order (RFC 7748 6.1)."""
    if len(public_key) != KEY_BYTES:
        return False
    canonical = public_key[31] < 0x7F or int.from_bytes(public_key, "little") < _P
    return canonical and public_key not in _LOW_ORDER


def are_sound(public_keys: bytes) -> bool:
    """Tell whether `is_sound` holds for each of many public keys of 32 bytes, one after the other."""
    # Check closely only keys that may be out of range (one in 128 random ones) or begin like one of low order.
    last = np.frombuffer(public_keys, np.uint8).reshape(-1, KEY_BYTES)[:, -1]
    suspects = np.flatnonzero((last >= 0x7F) | np.isin(_beginnings(public_keys), _beginnings(b"".join(_LOW_ORDER))))
    return all(is_sound(public_keys[KEY_BYTES * i : KEY_BYTES * (i + 1)]) for i in suspects.tolist())


def are_distinct(public_keys: bytes) -> bool:
    """Tell whether no two of many public keys of 32 bytes, one after the other, are the same."""
    beginnings = np.sort(_beginnings(public_keys))
    if (beginnings[1:] != beginnings[:-1]).all():
        return True
    keys = {public_keys[start : start + KEY_BYTES] for start in range(0, len(public_keys), KEY_BYTES)}
    return len(keys) == len(beginnings)


def _beginnings(public_keys: bytes) -> npt.NDArray[np.uint64]:
    """Return the first 8 bytes of each key as a number."""
    return np.frombuffer(public_keys, "<u8").reshape(-1, KEY_BYTES // 8)[:, 0]
