"""New key pairs. Prime numbers come from OpenSSL; those of subgroup keys, for which it has no form, from gmpy2's test.

Source: Damgard, Jurik, Nielsen 2010, section 4.1; `protocols/paillier/README.md`, section 3.
"""

from math import gcd

from cryptography.hazmat.primitives.asymmetric import rsa

from secfed.crypto.entropy import SystemEntropy
from secfed.errors import ConfigError, MissingExtraError
from secfed.paillier import integers
from secfed.paillier.keys import FEWEST_KEY_BITS, MOST_KEY_BITS, SUBGROUP_BYTES, PrivateKey, PublicKey

# Rounds of Miller-Rabin; a composite passes with probability below 2^-80 at the latest.
_ROUNDS = 40
# OpenSSL makes no smaller ones.
_SMALLEST_INSECURE = 1024


def generate_keypair(key_bits: int = 3072, *, subgroup: bool = False) -> tuple[PublicKey, PrivateKey]:
    """Make a key pair.

    Args:
        key_bits: Bits of the modulus, a multiple of 16, at least 2048.
        subgroup: Makes a key that decrypts five times as fast, because `h` generates a small subgroup of secret order
            (a further assumption, see `PrivateKey`); needs gmpy2.

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

    Raises:
        ConfigError: `key_bits` is no multiple of 16 from 1024 on.
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
        apart = abs(p - q).bit_length() > key_bits // 2 - 100
        if p % 4 == q % 4 == 3 and gcd(p - 1, q - 1) == 2 and apart and (p * q).bit_length() == key_bits:
            break
    h = _subgroup_base(p, q, orders) if subgroup else -(_uniform_unit(p * q) ** 2) % (p * q)
    public_key = PublicKey(p * q, h, insecure_size)
    return public_key, PrivateKey(public_key, p, q, orders)


def _rsa_primes(key_bits: int) -> tuple[int, int]:
    numbers = rsa.generate_private_key(public_exponent=65537, key_size=key_bits).private_numbers()
    return numbers.p, numbers.q


def _random(bits: int) -> int:
    return int.from_bytes(SystemEntropy().draw("key", -(-bits // 8)), "little") % (1 << bits)


def _uniform_unit(n: int) -> int:
    """Return a number below n; that it shares a factor with n happens once in 2^1000 times."""
    return 2 + _random(n.bit_length() + 128) % (n - 3)


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
    """Return a prime p of so many bits, 3 modulo 4, whose p - 1 the order divides; its two top bits are set."""
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
            part = pow(_uniform_unit(prime), (prime - 1) // order, prime)
        parts.append(part)
    return (parts[1] + q * ((parts[0] - parts[1]) * pow(q, -1, p) % p)) % (p * q)
