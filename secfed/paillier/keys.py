"""Key pairs: encryption with the public key, decryption with the private one.

Source: `protocols/paillier/README.md`, sections 3 and 4.
"""

import hashlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.errors import ConfigError, DecryptionError, EncodingError
from secfed.paillier.integers import (
    Progress,
    gcd,
    in_threads,
    integer,
    inverse,
    power,
    secret_power,
    to_bytes,
)
from secfed.paillier.noise import Factor, Noise, NoisePool, draw_factors, exponent_bytes
from secfed.paillier.residues import logarithm

LABEL = b"secfed/paillier/v1 "
FEWEST_KEY_BITS, MOST_KEY_BITS = 2048, 16384
LARGEST_DEGREE = 7
SUBGROUP_BYTES = 32
_BITS_BYTES = 4
_SMALL_PRIMES = math.prod(k for k in range(3, 1000) if all(k % d for d in range(2, math.isqrt(k) + 1)))
# Ciphertexts whose common factor with n is tested at once.
_BATCH = 64


def _checked_degree(degree: int) -> int:
    if not 1 <= degree <= LARGEST_DEGREE:
        raise ConfigError(f"degree {degree} must be from 1 to {LARGEST_DEGREE}")
    return degree


@dataclass(frozen=True)
class PublicKey:
    """The key for encryption and for the server's work.

    Args:
        n: The modulus.
        h: The base of the noise; 0 if the key has none (keys of other libraries), and then all noise is `"full"`.
        insecure_size: Allows fewer than 2048 bits, for tests.

    Raises:
        ConfigError: P1, this is not such a key.
    """

    n: int
    h: int = field(default=0, repr=False)
    insecure_size: bool = field(default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if fault := self._fault():  # P1
            raise ConfigError(f"this is not a Paillier public key: {fault}", "P1")

    def _fault(self) -> str:
        least = 256 if self.insecure_size else FEWEST_KEY_BITS
        if not least <= self.key_bits <= MOST_KEY_BITS or self.key_bits % 16:
            return f"it has {self.key_bits} bits, needed a multiple of 16 from {least} to {MOST_KEY_BITS}"
        if self.n < 0 or not self.n % 2 or gcd(self.n, _SMALL_PRIMES) != 1:
            return "n is negative or has a prime factor below 1000"
        if self.h and (not 1 < self.h < self.n - 1 or gcd(self.h, self.n) != 1):
            return "h is neither 0 nor a unit other than 1 and -1"
        return ""

    @cached_property
    def key_bits(self) -> int:
        """Bits of `n`."""
        return int(self.n).bit_length()

    @cached_property
    def id(self) -> bytes:
        """32 bytes that identify this key."""
        return hashlib.sha256(LABEL + b"public key" + self.to_bytes()).digest()

    def modulus(self, degree: int) -> Any:
        """Return `n**(degree + 1)`, below which ciphertexts are."""
        return integer(self.n) ** (_checked_degree(degree) + 1)

    def ciphertext_bytes(self, degree: int = 1) -> int:
        """Return the bytes of a ciphertext."""
        return -(-(degree + 1) * self.key_bits // 8)

    def plaintext_bytes(self, degree: int = 1) -> int:
        """Return the bytes of a plaintext."""
        return -(-degree * self.key_bits // 8)

    def to_bytes(self) -> bytes:
        """Return the key's bytes."""
        size = self.key_bits // 8
        return self.key_bits.to_bytes(_BITS_BYTES, "little") + to_bytes(self.n, size) + to_bytes(self.h, size)

    @classmethod
    def from_bytes(cls, data: bytes, *, insecure_size: bool = False) -> Self:
        """Read a key.

        Args:
            data: What `to_bytes` returned.
            insecure_size: Accept keys that are too short to be safe; for tests only.

        Raises:
            ConfigError: P1, these bytes are not such a key.
        """
        key_bits = int.from_bytes(data[:_BITS_BYTES], "little")
        size = key_bits // 8
        if len(data) != _BITS_BYTES + 2 * size:  # P1
            raise ConfigError(f"a public key has {len(data)} bytes, says {key_bits} bits", "P1")
        n, h = (int.from_bytes(data[start : start + size], "little") for start in (_BITS_BYTES, _BITS_BYTES + size))
        if n.bit_length() != key_bits:  # P1
            raise ConfigError(f"the modulus has {n.bit_length()} bits, says {key_bits}", "P1")
        return cls(n, h, insecure_size)

    def encrypt(
        self,
        plaintexts: Sequence[int],
        *,
        noise: Noise = "half",
        degree: int = 1,
        pool: NoisePool | None = None,
        seed: bytes | None = None,
        threads: int | None = None,
    ) -> list[Any]:
        """Encrypt integers.

        Args:
            plaintexts: From 0 to `n**degree - 1`.
            noise: `"half"`, `"short"` or `"full"`; what each assumes is in `docs/paillier.md`.
            degree: Damgard and Jurik's `s`: a plaintext has `s` times as many bits as the key, a ciphertext `s + 1`.
            pool: Noise drawn ahead of time, of the same kind and degree; each factor is used once.
            seed: 32 bytes that determine the noise; by default fresh from the operating system.
            threads: Number of threads; by default one for each usable core.

        Returns:
            Ciphertexts, from 1 to `n**(degree + 1) - 1`.

        Raises:
            EncodingError: A plaintext is out of range.
            TypeError: A plaintext is not a whole number.
            ConfigError: The pool is for another key, noise or degree.
            StageError: The pool is empty.
        """
        largest = integer(self.n) ** _checked_degree(degree)
        numbers = [integer(operator.index(plaintext)) for plaintext in plaintexts]
        for plaintext in numbers:
            if not 0 <= plaintext < largest:
                raise EncodingError(f"a plaintext is out of range, needed 0 to n^{degree} - 1")
        factors = self.factors(len(numbers), noise=noise, degree=degree, pool=pool, seed=seed, threads=threads)
        return self.hide(numbers, factors, degree)

    def factors(
        self,
        count: int,
        *,
        noise: Noise = "half",
        degree: int = 1,
        pool: NoisePool | None = None,
        seed: bytes | None = None,
        threads: int | None = None,
        first: int = 0,
    ) -> list[Factor]:
        """Draw noise, or take it from a pool.

        Args:
            count: Number of ciphertexts.
            noise: `"half"`, `"short"` or `"full"`.
            degree: Damgard and Jurik's `s`.
            pool: Noise drawn ahead of time, of the same kind and degree.
            seed: 32 bytes that decide the noise; by default fresh from the operating system.
            threads: Number of threads; by default one for each usable core.
            first: Index of the first ciphertext among those of the seed, a multiple of 16.

        Raises:
            ConfigError: The pool is for another key, noise or degree.
            StageError: The pool is empty; nothing is taken.
        """
        if pool is None:
            self.check_noise(noise)
            fresh = SystemEntropy().draw("noise seed", SEED_BYTES) if seed is None else seed
            return draw_factors(integer(self.n), integer(self.h), degree, noise, count, fresh, threads, first)
        if seed is not None:
            raise ConfigError("a seed decides the noise and a pool has its own: needed one of them, found both")
        self.check_pool(pool, noise, degree)
        return pool.take(count)

    def hide(self, plaintexts: Sequence[int], factors: Sequence[Factor], degree: int = 1) -> list[Any]:
        """Return the ciphertexts of plaintexts in range; use each factor only once."""
        n, modulus = integer(self.n), self.modulus(degree)
        return [
            factor.hide(plaintext, n, degree, modulus) for factor, plaintext in zip(factors, plaintexts, strict=True)
        ]

    def check_noise(self, noise: Noise) -> None:
        """Raise an error for noise that this key does not support.

        Raises:
            ConfigError: There is no such noise, or the key has no `h` and so supports only `"full"`.
        """
        exponent_bytes(noise, self.key_bits)
        if not self.h and noise != "full":
            raise ConfigError(f'this key has no h, so it takes noise "full" only, found {noise!r}')

    def check_pool(self, pool: NoisePool, noise: Noise, degree: int) -> None:
        """Raise an error for a pool of other noise.

        Raises:
            ConfigError: It is for another key, noise or degree.
        """
        if not pool.serves(self.n, self.h) or (pool.noise, pool.degree) != (noise, degree):
            raise ConfigError(
                f"the pool is for {pool.noise} noise at degree {pool.degree} and its own key, needed {noise} noise at "
                f"degree {degree} and this key"
            )

    def noise_pool(self, *, noise: Noise = "half", degree: int = 1, entropy: Entropy | None = None) -> NoisePool:
        """Return an empty pool of noise for this key; see `NoisePool`.

        Args:
            noise: `"half"`, `"short"` or `"full"`.
            degree: Damgard and Jurik's `s` of the ciphertexts.
            entropy: Source of the noise; None is the operating system's.

        Raises:
            ConfigError: This key cannot have such noise, or there is no such degree.
        """
        self.check_noise(noise)
        return NoisePool(self.n, self.h, _checked_degree(degree), noise, entropy)

    def find_unsound(self, ciphertexts: Sequence[Any], degree: int = 1) -> str:
        """Return what is wrong with the first ciphertext that is not a unit modulo `n**(degree + 1)`, or ""."""
        return self.find_out_of_range(ciphertexts, degree) or self.find_common_factor(ciphertexts)

    def find_out_of_range(self, ciphertexts: Sequence[Any], degree: int = 1) -> str:
        """Return which ciphertext is not from 1 to `n**(degree + 1) - 1`, or ""."""
        modulus = self.modulus(degree)
        if min(ciphertexts, default=1) > 0 and max(ciphertexts, default=1) < modulus:  # the usual case, checked fast
            return ""
        for number, ciphertext in enumerate(ciphertexts):
            if not 0 < ciphertext < modulus:
                return f"ciphertext {number} is not from 1 to n^{degree + 1} - 1"
        return ""

    def find_common_factor(self, ciphertexts: Sequence[Any]) -> str:
        """Return where a ciphertext has a common factor with `n`, or ""; products of many are tested at once."""
        n = integer(self.n)
        for start in range(0, len(ciphertexts), _BATCH):
            product, part = integer(1), ciphertexts[start : start + _BATCH]
            for one, other in zip(part[::2], [*part[1::2], 1], strict=False):  # short factors multiply faster
                product = product * ((one % n) * (other % n) % n) % n
            if gcd(product, n) != 1:
                return f"a ciphertext from number {start} on has a common factor with n"
        return ""


@dataclass(frozen=True)
class PrivateKey:
    """The key for decryption: only the key holder has it, never the server.

    Args:
        public_key: Its public half.
        p: One prime factor of `n`.
        q: The other.
        subgroup: The secret prime orders of `h` modulo `p` and `q`; (0, 0) for an ordinary key.

    Raises:
        ConfigError: P1, these are not such primes.

    Security:
        Exponentiation with gmpy2 takes the same time for every key. Variable-time are the reduction of the ciphertext,
        the logarithm and the recombination, which use the plaintext, and without gmpy2 everything. A subgroup key
        decrypts five times as fast. It assumes that no one can find primes of 256 bits that divide p - 1 and q - 1
        (Coron et al., PKC 2011: about 2^128 steps).
    """

    public_key: PublicKey
    p: int = field(repr=False)
    q: int = field(repr=False)
    subgroup: tuple[int, int] = field(default=(0, 0), repr=False)

    def __post_init__(self) -> None:
        if fault := self._fault():  # P1
            raise ConfigError(f"this is not a Paillier private key: {fault}", "P1")

    def _fault(self) -> str:
        p, q, key_bits = self.p, self.q, self.public_key.key_bits
        if p * q != self.public_key.n:
            return "p q is not n"
        if gcd(p, q) != 1 or any(prime.bit_length() != key_bits // 2 for prime in (p, q)):
            return f"needed two different primes of {key_bits // 2} bits"
        if self.public_key.h and (any(prime % 4 != 3 for prime in (p, q)) or gcd(p - 1, q - 1) != 2):
            return "p and q are not both 3 modulo 4, or p - 1 and q - 1 have a common factor above 2"
        if any(self.subgroup):
            for order, prime in zip(self.subgroup, (p, q), strict=True):
                fits = int(order).bit_length() == 8 * SUBGROUP_BYTES and not (prime - 1) % order
                if not fits or power(self.public_key.h, order, prime) != 1:
                    return "h has no order of 256 bits modulo p and q"
        return ""

    def __reduce__(self) -> str:
        raise TypeError("a PrivateKey cannot be pickled: use to_bytes")

    def to_bytes(self) -> bytes:
        """Return the key's bytes. Keep them secret: anyone with them can open every ciphertext."""
        key_bits = self.public_key.key_bits
        primes = b"".join(to_bytes(prime, key_bits // 16) for prime in (self.p, self.q))
        orders = b"".join(order.to_bytes(SUBGROUP_BYTES, "little") for order in self.subgroup)
        return key_bits.to_bytes(_BITS_BYTES, "little") + primes + orders + to_bytes(self.public_key.h, key_bits // 8)

    @classmethod
    def from_bytes(cls, data: bytes, *, insecure_size: bool = False) -> Self:
        """Read a key.

        Args:
            data: What `to_bytes` returned.
            insecure_size: Accept keys that are too short to be safe; for tests only.

        Raises:
            ConfigError: P1, these bytes are not such a key.
        """
        key_bits = int.from_bytes(data[:_BITS_BYTES], "little")
        sizes = [key_bits // 16, key_bits // 16, SUBGROUP_BYTES, SUBGROUP_BYTES, key_bits // 8]
        if len(data) != _BITS_BYTES + sum(sizes) or key_bits > MOST_KEY_BITS:  # P1
            raise ConfigError(f"a private key has {len(data)} bytes, says {key_bits} bits", "P1")
        numbers, offset = [], _BITS_BYTES
        for size in sizes:
            numbers.append(int.from_bytes(data[offset : offset + size], "little"))
            offset += size
        p, q, *orders, h = numbers
        if (p * q).bit_length() != key_bits:  # P1
            raise ConfigError(f"p q has {(p * q).bit_length()} bits, says {key_bits}", "P1")
        return cls(PublicKey(p * q, h, insecure_size), p, q, (orders[0], orders[1]))

    def decrypt(
        self,
        ciphertexts: Sequence[int],
        *,
        degree: int = 1,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> list[Any]:
        """Decrypt to integers from 0 to `n**degree - 1`.

        Args:
            ciphertexts: Results of `PublicKey.encrypt`, or products of them.
            degree: The degree at which they were encrypted.
            threads: Number of threads; by default one for each usable core.
            progress: Called from time to time with the number decrypted so far and the total.

        Raises:
            DecryptionError: K6, one of them is not a ciphertext under this key; the text does not say which, or why.
        """
        if self.public_key.find_unsound(ciphertexts, degree):
            raise DecryptionError
        modulo_p, modulo_q = self._halves(degree)
        p_part, q_part = modulo_p.plaintexts, modulo_q.plaintexts
        reciprocal = inverse(q_part, p_part)

        def opened(part: Sequence[int]) -> list[Any]:
            found = [(modulo_p.open(ciphertext), modulo_q.open(ciphertext)) for ciphertext in part]
            return [low + q_part * ((high - low) * reciprocal % p_part) for high, low in found]

        return in_threads(opened, ciphertexts, threads, progress)

    def _halves(self, degree: int) -> tuple["_Half", "_Half"]:
        orders = [order or prime - 1 for order, prime in zip(self.subgroup, (self.p, self.q), strict=True)]
        return _Half.of(self.p, self.q, orders[0], degree), _Half.of(self.q, self.p, orders[1], degree)


@dataclass(frozen=True)
class _Half:
    """Decryption modulo a power of one prime factor."""

    prime: Any
    order: Any
    degree: int
    modulus: Any
    plaintexts: Any
    reciprocal: Any
    slow_reciprocal: Any

    @classmethod
    def of(cls, prime: int, other: int, order: int, degree: int) -> "_Half":
        modulus, plaintexts = integer(prime) ** (degree + 1), integer(prime) ** degree
        reciprocal = inverse(order * other % plaintexts, plaintexts)
        slow = inverse((prime - 1) * other % plaintexts, plaintexts)
        return cls(integer(prime), integer(order), degree, modulus, plaintexts, reciprocal, slow)

    def open(self, ciphertext: Any) -> Any:
        """Return the plaintext modulo `prime**degree`."""
        reduced, reciprocal = ciphertext % self.modulus, self.reciprocal
        residue = secret_power(reduced, self.order, self.modulus)
        if residue % self.prime != 1:  # full noise, which the subgroup's order does not remove
            residue, reciprocal = secret_power(reduced, self.prime - 1, self.modulus), self.slow_reciprocal
        if residue % self.prime != 1:  # K6: the "prime" is not a prime
            raise DecryptionError
        return logarithm(residue, self.prime, self.degree, self.modulus) // self.prime * reciprocal % self.plaintexts
