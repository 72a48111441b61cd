"""To and from python-paillier (`phe`): keys, and numbers encrypted at degree 1.

phe is under the GPL version 3, secfed under Apache 2.0: phe is an extra, imported here and only when a function is
called. A program that uses both must meet the terms of both.

Two differences: phe attaches a public exponent of base 16 to every number, which reveals the magnitude of floats; our
numbers have none (the exponent is 0). And phe's keys are not keys of Damgard, Jurik and Nielsen, so they work only with
noise `"full"`.
"""

from collections.abc import Sequence
from typing import Any

from secfed.errors import ConfigError, EncodingError, MissingExtraError
from secfed.paillier.keys import PrivateKey, PublicKey


def _phe() -> Any:
    try:
        import phe
    except ImportError:
        raise MissingExtraError("phe", "phe") from None
    return phe


def to_phe(key: PublicKey | PrivateKey) -> Any:
    """Return a key as phe's `PaillierPublicKey` or `PaillierPrivateKey`.

    phe decrypts with p - 1 and q - 1, so it can use subgroup keys, at the speed of an ordinary key.

    Args:
        key: A public or a private key.

    Raises:
        ConfigError: `key` is not a key.
        MissingExtraError: phe is not installed.
    """
    phe = _phe()
    if isinstance(key, PublicKey):
        return phe.PaillierPublicKey(int(key.n))
    if isinstance(key, PrivateKey):
        return phe.PaillierPrivateKey(phe.PaillierPublicKey(int(key.public_key.n)), int(key.p), int(key.q))
    raise ConfigError(f"found {type(key).__name__}, needed a paillier.PublicKey or a paillier.PrivateKey")


def from_phe(key: Any, *, insecure_size: bool = False) -> Any:
    """Return phe's `PaillierPublicKey` or `PaillierPrivateKey` as a `PublicKey` or `PrivateKey`, which has no `h`.

    Args:
        key: The key.
        insecure_size: Allows fewer than 2048 bits, for tests.

    Raises:
        ConfigError: This is not a key of this kind, or it is too small.
        MissingExtraError: phe is not installed.
    """
    phe = _phe()
    if isinstance(key, phe.PaillierPublicKey):
        return PublicKey(int(key.n), 0, insecure_size)
    if isinstance(key, phe.PaillierPrivateKey):
        return PrivateKey(PublicKey(int(key.public_key.n), 0, insecure_size), int(key.p), int(key.q))
    raise ConfigError(f"found {type(key).__name__}, needed phe's PaillierPublicKey or PaillierPrivateKey")


def to_phe_numbers(public_key: PublicKey, ciphertexts: Sequence[Any], exponent: int = 0) -> list[Any]:
    """Return ciphertexts as phe's `EncryptedNumber` objects, which phe can decrypt and add to its own.

    Args:
        public_key: The key under which they are encrypted.
        ciphertexts: At degree 1. phe reads a plaintext above two thirds of n as negative: encrypt `number % n`.
        exponent: phe multiplies a decrypted number by 16 to this power.

    Raises:
        EncodingError: One of them is not a ciphertext at degree 1.
        MissingExtraError: phe is not installed.
    """
    phe = _phe()
    if fault := public_key.find_unsound(ciphertexts):
        raise EncodingError(fault)
    key = phe.PaillierPublicKey(int(public_key.n))
    return [phe.EncryptedNumber(key, int(ciphertext), exponent) for ciphertext in ciphertexts]


def from_phe_numbers(public_key: PublicKey, numbers: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Return the ciphertexts and the exponents of phe's `EncryptedNumber` objects.

    phe adds noise here to results of its own arithmetic that have none.

    Args:
        public_key: The key under which they are encrypted.
        numbers: The `EncryptedNumber` objects.

    Raises:
        EncodingError: A number is not an `EncryptedNumber` under this key, or its ciphertext is unsound.
        MissingExtraError: phe is not installed.
    """
    phe = _phe()
    for position, number in enumerate(numbers):
        if not isinstance(number, phe.EncryptedNumber) or number.public_key.n != public_key.n:
            raise EncodingError(f"number {position} is not a phe.EncryptedNumber under this key")
    ciphertexts = [int(number.ciphertext()) for number in numbers]
    if fault := public_key.find_unsound(ciphertexts):
        raise EncodingError(fault)
    return ciphertexts, [int(number.exponent) for number in numbers]


def decode_phe(public_key: PublicKey, plaintext: int, exponent: int = 0) -> Any:
    """Return the number that a decrypted plaintext and an exponent mean in phe: an int or a float, maybe negative.

    Args:
        public_key: The key under which it was encrypted.
        plaintext: The result of decryption, from 0 to n - 1.
        exponent: The exponent of the `EncryptedNumber`.

    Raises:
        EncodingError: It is in phe's overflow range, between a third and two thirds of n.
        MissingExtraError: phe is not installed.
    """
    phe = _phe()
    try:
        return phe.EncodedNumber(phe.PaillierPublicKey(int(public_key.n)), int(plaintext), exponent).decode()
    except OverflowError:
        raise EncodingError("the plaintext is between a third and two thirds of n, an overflow in phe") from None
