"""New key pairs. Primes come from OpenSSL; for subgroup and threshold keys, which need a special form, from gmpy2.

Source: Damgard, Jurik, Nielsen 2010, section 4.1; `protocols/paillier/README.md`, section 3.
"""

from functools import lru_cache
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric import rsa

from secfed.crypto.entropy import SystemEntropy
from secfed.errors import ConfigError, MissingExtraError
from secfed.paillier import integers
from secfed.paillier.keys import FEWEST_KEY_BITS, MOST_KEY_BITS, SUBGROUP_BYTES, PrivateKey, PublicKey

# Rounds of Miller-Rabin: a composite passes with probability at most 2^-80.
_ROUNDS = 40
# OpenSSL makes no smaller ones.
_SMALLEST_INSECURE = 1024
# Odd numbers that one search for a safe prime checks, and the bound on the primes of the sieve.
_SPAN, _SIEVE_BOUND = 1 << 18, 1 << 18


def generate_keypair(key_bits: int = 3072, *, subgroup: bool = False) -> tuple[PublicKey, PrivateKey]:
    """Make a key pair.

    Args:
        key_bits: Bits of the modulus, a multiple of 16, at least 2048.
        subgroup: Make a key that decrypts five times as fast, because `h` generates a small subgroup of secret order
            (an additional assumption, see `PrivateKey`); needs gmpy2.

    Returns:
        The public key, for everyone, and the private key, for the key holder alone.

    Raises:
        ConfigError: `key_bits` is out of range.
        MissingExtraError: A subgroup key without gmpy2.
    """
    if not FEWEST_KEY_BITS <= key_bits <= MOST_KEY_BITS or key_bits % 16:
        raise ConfigError(f"key_bits {key_bits} must be a multiple of 16 from {FEWEST_KEY_BITS} to {MOST_KEY_BITS}")
    return _generate(key_bits, subgroup, False)


def generate_insecure_keypair(key_bits: int = 1024, *, subgroup: bool = False) -> tuple[PublicKey, PrivateKey]:
    """Make a key pair that others can break: for tests only.

    Args:
        key_bits: Bits of the key, a multiple of 16, at least 1024.
        subgroup: Whether the key has what short noise needs.

    Raises:
        ConfigError: `key_bits` is not a multiple of 16 from 1024 on.
    """
    if key_bits < _SMALLEST_INSECURE or key_bits % 16:
        raise ConfigError(f"key_bits {key_bits} must be a multiple of 16, at least {_SMALLEST_INSECURE}")
    return _generate(key_bits, subgroup, True)


def _generate(key_bits: int, subgroup: bool, insecure_size: bool) -> tuple[PublicKey, PrivateKey]:
    orders = (0, 0)
    while True:
        if subgroup:
            orders = _prime_order(), _prime_order()
            p, q = (_prime_above(key_bits // 2, order) for order in orders)
        else:
            p, q = _rsa_primes(key_bits)
        if _fit(p, q, key_bits):
            break
    h = _subgroup_base(p, q, orders) if subgroup else noise_base(p * q)
    public_key = PublicKey(p * q, h, insecure_size)
    return public_key, PrivateKey(public_key, p, q, orders)


def _fit(p: int, q: int, key_bits: int) -> bool:
    apart = abs(p - q).bit_length() > key_bits // 2 - 100
    return p % 4 == q % 4 == 3 and gcd(p - 1, q - 1) == 2 and apart and (p * q).bit_length() == key_bits


def noise_base(n: int) -> int:
    """Return a new `h`, the base of the noise under an ordinary key."""
    return -(uniform_unit(n) ** 2) % n


def safe_primes(key_bits: int) -> tuple[int, int]:
    """Return two primes for a key for which (p - 1) / 2 is prime too.

    Raises:
        MissingExtraError: gmpy2 is not installed.
    """
    while True:
        p, q = _safe_prime(key_bits // 2), _safe_prime(key_bits // 2)
        if _fit(p, q, key_bits):
            return p, q


def _safe_prime(bits: int) -> int:
    """Return a safe prime 2 k + 1 of this many bits, with its two top bits set; k is the first one after a random
    start."""
    _is_prime(3)  # raises the error for a missing gmpy2 before the search
    while True:
        start = 3 << (bits - 3) | _random(bits - 3) | 1
        possible = np.ones(_SPAN, np.bool_)  # whether start + 2 j and twice that + 1 have no small factor
        first = integers.integer(start)
        for small in _small_primes().tolist():
            half = (small + 1) // 2  # the inverse of 2
            rest = int(first % small)
            possible[-rest * half % small :: small] = False
            possible[(half - 1 - rest) * half % small :: small] = False
        for step in np.flatnonzero(possible).tolist():
            k = start + 2 * step
            if (2 * k + 1).bit_length() == bits and _is_prime(k) and _is_prime(2 * k + 1):
                return 2 * k + 1


@lru_cache(1)
def _small_primes() -> npt.NDArray[np.integer[Any]]:
    """Return the odd primes below `_SIEVE_BOUND` (Eratosthenes)."""
    prime = np.ones(_SIEVE_BOUND, np.bool_)
    prime[:2] = prime[4::2] = False
    for number in range(3, int(_SIEVE_BOUND**0.5) + 1, 2):
        prime[number * number :: number] = False
    return np.flatnonzero(prime)[1:]


def _rsa_primes(key_bits: int) -> tuple[int, int]:
    numbers = rsa.generate_private_key(public_exponent=65537, key_size=key_bits).private_numbers()
    return numbers.p, numbers.q


def uniform(limit: int) -> int:
    """Return a fresh number below `limit`, nearly uniform."""
    return _random(limit.bit_length() + 128) % limit


def _random(bits: int) -> int:
    return int.from_bytes(SystemEntropy().draw("key", -(-bits // 8)), "little") % (1 << bits)


def uniform_unit(n: int) -> int:
    """Return a number from 2 to n - 2; it shares a factor with n with probability about 2^-1000."""
    return 2 + uniform(n - 3)


def _is_prime(number: int) -> bool:
    if integers.gmpy2 is None:
        raise MissingExtraError("paillier", "gmpy2")
    return bool(integers.gmpy2.is_prime(number, _ROUNDS))


def _prime_order() -> int:
    bits = 8 * SUBGROUP_BYTES
    while not _is_prime(order := _random(bits) | 1 << (bits - 1) | 1):
        pass
    return order


def _prime_above(bits: int, order: int) -> int:
    """Return a prime p of this many bits, 3 modulo 4, whose p - 1 the order divides; its two top bits are set."""
    while True:
        high = 3 << (bits - 2) | _random(bits - 2)
        cofactor = high // (2 * order) | 1  # odd, so p is 3 modulo 4
        p = 2 * order * cofactor + 1
        if p >> (bits - 2) == 3 and _is_prime(p):
            return p


def _subgroup_base(p: int, q: int, orders: tuple[int, int]) -> int:
    """Return a unit whose orders modulo p and q are these."""
    parts = []
    for prime, order in zip((p, q), orders, strict=True):
        part = 1
        while part == 1:
            part = pow(uniform_unit(prime), (prime - 1) // order, prime)
        parts.append(part)
    return (parts[1] + q * ((parts[0] - parts[1]) * pow(q, -1, p) % p)) % (p * q)
