"""Big integers: gmpy2's if it is installed, otherwise Python's: the same results, eight to ten times slower.

Variable-time: everything except `secret_power` with gmpy2, and all of Python's own arithmetic.
"""

import math
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from secfed.errors import ConfigError

try:
    import gmpy2 as _gmpy2
except ImportError:
    _gmpy2 = None

# None if it is not installed.
gmpy2: Any = _gmpy2

T = TypeVar("T")
R = TypeVar("R")
# Called with the number of items done and the total.
Progress = Callable[[int, int], None]
# Items per thread between two calls of a progress function.
_BLOCK = 64
# With fewer items a second thread costs more than it saves.
_FEWEST_FOR_THREADS = 16


class SlowIntegersWarning(UserWarning):
    """The package gmpy2 is not installed: results are the same, eight to ten times slower."""


def integer(number: int) -> Any:
    """Return a number as the engine holds it."""
    return number if gmpy2 is None else gmpy2.mpz(number)


def power(base: int, exponent: int, modulus: int) -> Any:
    """Return `base**exponent % modulus` for a public exponent, which may be negative."""
    return pow(base, exponent, modulus) if gmpy2 is None else gmpy2.powmod(base, exponent, modulus)


def secret_power(base: int, exponent: int, modulus: int) -> Any:
    """Return `base**exponent % modulus` in a time independent of a positive exponent (with gmpy2)."""
    return pow(base, exponent, modulus) if gmpy2 is None else gmpy2.powmod_sec(base, exponent, modulus)


def inverse(number: int, modulus: int) -> Any:
    """Return the inverse modulo `modulus`.

    Raises:
        ValueError: The number has no inverse.
    """
    return integer(pow(int(number), -1, int(modulus))) if gmpy2 is None else gmpy2.powmod(number, -1, modulus)


def inverses(numbers: Sequence[int], modulus: int) -> list[Any]:
    """Return the inverses of many numbers with one inversion and three multiplications each (Montgomery)."""
    products = [integer(1)]
    for number in numbers:
        products.append(products[-1] * number % modulus)
    rest = inverse(products.pop(), modulus)
    found = []
    for number, before in zip(reversed(numbers), reversed(products), strict=True):
        found.append(rest * before % modulus)
        rest = rest * number % modulus
    return found[::-1]


def product_of_powers(bases: Sequence[int], exponents: Sequence[int], modulus: int) -> Any:
    """Return the product of `base**exponent` modulo `modulus` for public exponents from 0 on.

    All share their squarings: for each digit of the exponents, from the highest down, bases with the same digit are
    multiplied first (Pippenger's buckets).
    """
    bits = max((int(exponent).bit_length() for exponent in exponents), default=0)
    # Digits of this many bits need the fewest multiplications.
    width = min(range(1, 17), key=lambda width: -(-bits // width) * (len(bases) + (2 << width)))
    mask = (1 << width) - 1
    product = integer(1)
    for shift in range((bits - 1) // width * width, -1, -width):
        for _ in range(width if product != 1 else 0):
            product = product * product % modulus
        buckets: dict[int, Any] = {}
        for base, exponent in zip(bases, exponents, strict=True):
            if digit := int(exponent >> shift) & mask:
                buckets[digit] = buckets[digit] * base % modulus if digit in buckets else integer(base)
        running = integer(1)  # of the bases whose digit is at least this one
        for digit in range(max(buckets, default=0), 0, -1):
            if digit in buckets:
                running = running * buckets[digit] % modulus
            product = product * running % modulus
    return product


def gcd(first: int, second: int) -> int:
    """Return the greatest common divisor."""
    return math.gcd(int(first), int(second)) if gmpy2 is None else int(gmpy2.gcd(first, second))


def from_bytes(data: bytes | memoryview) -> Any:
    """Read a little-endian integer."""
    return int.from_bytes(data, "little") if gmpy2 is None else gmpy2.mpz.from_bytes(bytes(data), byteorder="little")


def to_bytes(number: Any, size: int) -> bytes:
    """Write a little-endian integer."""
    data: bytes = number.to_bytes(size, "little")
    return data


def column(numbers: Sequence[Any], size: int) -> bytes:
    """Write integers one after the other, each in `size` bytes."""
    return b"".join([to_bytes(number, size) for number in numbers])


def read_column(data: bytes | memoryview, size: int) -> list[Any]:
    """Read what `column` writes; the length must match."""
    return [from_bytes(data[start : start + size]) for start in range(0, len(data), size)]


def check_threads(threads: int | None) -> None:
    """Raise an error for a number of threads below 1.

    Raises:
        ConfigError: It is below 1.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads {threads} must be at least 1, or None for one on each usable core")


def warn_if_slow(stacklevel: int = 3) -> None:
    """Warn, once for each calling line, that gmpy2 is missing."""
    if gmpy2 is None:
        warnings.warn(
            "gmpy2 is not installed: Paillier is eight to ten times slower; "
            'in a clone of secfed, run pip install ".[paillier]"; with a wheel, pip install "FILE.whl[paillier]"',
            SlowIntegersWarning,
            stacklevel=stacklevel,
        )


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    function: Callable[[Sequence[T]], list[R]],
    items: Sequence[T],
    threads: int | None,
    progress: Progress | None = None,
) -> list[R]:
    """Apply a function to items, cut into one contiguous part for each thread.

    Args:
        function: Takes a part, returns one result for each of its items.
        items: What to cut.
        threads: Number of threads; by default one for each usable core, or one without gmpy2, because Python's own
            integers hold the interpreter lock.
        progress: Called from time to time with the number done and the total.

    Raises:
        ConfigError: `threads` is below 1.
    """
    check_threads(threads)
    if gmpy2 is None or len(items) < _FEWEST_FOR_THREADS:
        threads = 1
    elif threads is None:
        threads = usable_cores()
    block = max(1, _BLOCK * threads if progress else len(items))
    done: list[R] = []
    with ThreadPoolExecutor(threads) as pool:  # starts a thread only when there is work
        for start in range(0, len(items), block):
            piece = items[start : start + block]
            if threads == 1:
                done += function(piece)
            else:
                size = -(-len(piece) // threads)
                parts = [piece[first : first + size] for first in range(0, len(piece), size)]
                done += [result for found in pool.map(_unlocked(function), parts) for result in found]
            if progress:
                progress(len(done), len(items))
    return done


def _unlocked(function: Callable[[Sequence[T]], list[R]]) -> Callable[[Sequence[T]], list[R]]:
    """Let gmpy2 release the interpreter lock while it computes; each thread must request this itself."""

    def work(part: Sequence[T]) -> list[R]:
        gmpy2.get_context().allow_release_gil = True
        return function(part)

    return work
