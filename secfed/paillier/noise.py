"""The noise of a ciphertext: a random residue of the subgroup that does not depend on plaintexts.

Powers of a fixed `h` are computed from a table: one factor for each byte of the exponent. Entries are stored in split
form, `b * exp(n t)` with `b < n`: the short `b` multiply faster and the `t` are only added. The factor `exp(n t)` is
applied once, together with the plaintext.

Security:
    The bytes of a secret exponent choose the table's entries, so the processor's cache may reveal them to another
    program on the same machine. `NOISES` lists what each kind of noise assumes.

Source: Damgard, Jurik, Nielsen 2010, section 4.1 (powers of `h`); `protocols/paillier/README.md`, section 4.
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.crypto.prg import SEED_BYTES, keystream
from secfed.errors import ConfigError, StageError
from secfed.paillier.integers import from_bytes, in_threads, integer, inverse, inverses, power
from secfed.paillier.residues import exponential, logarithm

Noise = Literal["half", "short", "full"]
# What each assumes besides decisional composite residuosity (DCR).
NOISES: dict[Noise, str] = {
    "half": "powers of h with exponents of half as many bits as the key look like all powers of h",
    "short": "powers of h with exponents of 320 bits look like all powers of h",
    "full": "nothing more",
}
SHORT_BYTES = 40
_WINDOW = 256


class Factor(NamedTuple):
    """Noise in split form: `residue * exp(n * shift)` modulo `n**(degree + 1)`."""

    residue: Any
    shift: Any
    remainder: Any  # of the residue modulo n

    def hide(self, plaintext: Any, n: Any, degree: int, modulus: Any) -> Any:
        """Return the ciphertext of a plaintext: `residue * exp(n * (shift + plaintext))`."""
        exponent = self.shift + plaintext
        if degree == 1:  # residue * (1 + n * exponent), where only the remainder meets the exponent
            found = self.residue + n * (exponent * self.remainder % n)
            return found if found < modulus else found - modulus
        return self.residue * exponential(exponent, n, degree, modulus) % modulus


def exponent_bytes(noise: Noise, key_bits: int) -> int:
    """Return how many random bytes the noise of one ciphertext takes.

    Raises:
        ConfigError: There is no such noise.
    """
    if noise not in NOISES:
        raise ConfigError(f"found noise {noise!r:.100}, needed one of {', '.join(map(repr, NOISES))}")
    return {"half": key_bits // 16, "short": SHORT_BYTES, "full": key_bits // 8 + 16}[noise]


class NoiseTable:
    """All powers of `h_s` that one byte of an exponent can need.

    Args:
        n: The modulus.
        h: The public base.
        degree: Damgard and Jurik's `s`.
        size: Bytes of an exponent.
    """

    def __init__(self, n: Any, h: Any, degree: int, size: int) -> None:
        self.modulus = n ** (degree + 1)
        self._n, self._plaintexts = n, n**degree
        base = power(h, n**degree, self.modulus)
        bases = []
        for _ in range(size):
            bases.append(base)
            base = power(base, _WINDOW, self.modulus)

        def rows(part: Sequence[Any]) -> list[tuple[list[Any], list[Any]]]:
            return [_row(base, n, degree, self.modulus) for base in part]

        table = in_threads(rows, bases, None)
        self._residues = [residues for residues, _ in table]
        self._shifts = [shifts for _, shifts in table]

    def factor(self, exponent: bytes) -> Factor:
        """Return `h_s` to the power of a little-endian exponent."""
        short = [row[byte] for row, byte in zip(self._residues, exponent, strict=True)]
        residue, modulus = short[0], self.modulus
        for i in range(1, len(short) - 1, 2):
            residue = residue * (short[i] * short[i + 1]) % modulus
        if not len(short) % 2:
            residue = residue * short[-1] % modulus
        shift = sum([row[byte] for row, byte in zip(self._shifts, exponent, strict=True)]) % self._plaintexts
        return Factor(residue, shift, residue % self._n)


def _row(base: Any, n: Any, degree: int, modulus: Any) -> tuple[list[Any], list[Any]]:
    """Return the residues and shifts of `base**0` to `base**255`.

    From each power to the next: `b * b_1 = b' + n k = b' * (1 + n k / b')`, and the second factor is `exp(n y)` for the
    logarithm `n y`. So whole powers are never computed.
    """
    first = base % n
    residues, carries = [integer(1)], []
    for _ in range(_WINDOW - 1):
        carry, residue = divmod(residues[-1] * first, n)
        residues.append(residue)
        carries.append(carry)
    plaintexts = n**degree
    own_shift = logarithm(base * inverse(first, modulus) % modulus, n, degree, modulus) // n
    shifts = [integer(0)]
    for carry, reciprocal in zip(carries, inverses(residues[1:], plaintexts), strict=True):
        step = logarithm(1 + n * (carry * reciprocal % plaintexts), n, degree, modulus) // n
        shifts.append((shifts[-1] + own_shift + step) % plaintexts)
    return residues, shifts


@lru_cache(2)
def noise_table(n: int, h: int, degree: int, size: int) -> NoiseTable:
    """Return a table; the last two are kept, because the clients of one process share them."""
    return NoiseTable(integer(n), integer(h), degree, size)


def draw_factors(
    n: Any, h: Any, degree: int, noise: Noise, count: int, seed: bytes, threads: int | None = None, first: int = 0
) -> list[Factor]:
    """Draw the noise of many ciphertexts.

    Args:
        n: The modulus.
        h: The public base.
        degree: Damgard and Jurik's `s`.
        noise: The kind.
        count: Number of ciphertexts.
        seed: 32 fresh secret bytes.
        threads: How many share the work; by default one for each usable core.
        first: Index of the first one among those of the seed, a multiple of 16.
    """
    size = exponent_bytes(noise, int(n).bit_length())
    stream = keystream(seed, count * size, first * size)
    exponents = [stream[start : start + size] for start in range(0, len(stream), size)]
    if noise == "full":
        modulus, residues = n ** (degree + 1), n**degree

        def powers(part: Sequence[bytes]) -> list[Factor]:
            units = [1 + from_bytes(exponent) % (n - 1) for exponent in part]
            found = [power(unit, residues, modulus) for unit in units]
            return [Factor(residue, 0, residue % n) for residue in found]

        return in_threads(powers, exponents, threads)
    table = noise_table(int(n), int(h), degree, size)
    return in_threads(lambda part: [table.factor(exponent) for exponent in part], exponents, threads)


class NoisePool:
    """Noise drawn ahead of time, so that encryption is much faster; each factor is used once.

    It is never written to disk, cannot be pickled, and is refused after a fork: if two processes used the same noise,
    the quotient of their ciphertexts would reveal the difference of the plaintexts.

    Args:
        n: The modulus.
        h: The public base.
        degree: Damgard and Jurik's `s`.
        noise: The kind.
        entropy: Source of seeds, a new one at every draw; by default the operating system.
    """

    def __init__(self, n: int, h: int, degree: int = 1, noise: Noise = "half", entropy: Entropy | None = None) -> None:
        exponent_bytes(noise, n.bit_length())
        self._n, self._h, self.degree, self.noise = integer(n), integer(h), degree, noise
        self._entropy = entropy or SystemEntropy()
        self._factors: list[Factor] = []
        self._drawn: set[bytes] = set()  # hashes of the seeds
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._factors)

    def __repr__(self) -> str:
        return f"NoisePool({len(self)} ready, noise={self.noise!r}, degree={self.degree})"

    def __reduce__(self) -> Any:
        raise ConfigError("a noise pool must not be copied or stored: each factor may be used once")

    def serves(self, n: int, h: int) -> bool:
        """Whether this pool is for a key."""
        return bool(self._n == n and self._h == h)

    def fill(self, count: int, threads: int | None = None) -> None:
        """Draw noise for this many more ciphertexts.

        Args:
            count: Number of ciphertexts.
            threads: Number of threads.

        Raises:
            StageError: This process was forked from the pool's.
            ConfigError: The entropy repeated a seed.
        """
        self._check_owner()
        seed = self._entropy.draw("noise pool", SEED_BYTES)
        known = hashlib.sha256(seed).digest()
        with self._lock:
            if known in self._drawn:
                raise ConfigError("the entropy repeated a seed, and noise may be used only once")
            self._drawn.add(known)
        factors = draw_factors(self._n, self._h, self.degree, self.noise, count, seed, threads)
        with self._lock:
            self._factors += factors

    def take(self, count: int) -> list[Factor]:
        """Take factors out of the pool.

        Args:
            count: How many factors.

        Raises:
            StageError: Too few are left, or this process was forked from the pool's; nothing is taken.
        """
        self._check_owner()
        with self._lock:
            if count > len(self._factors):
                raise StageError(f"the pool has noise for {len(self._factors)} ciphertexts, needed {count}: fill it")
            kept = len(self._factors) - count
            taken, self._factors[kept:] = self._factors[kept:], []
        return taken

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise StageError("this noise pool belongs to another process: make a new one after a fork")
