"""Exact integer noise from a seed: discrete Gaussian and Skellam, without floating point in the draw.

A sample is the inverse of the law's distribution function at a uniform number (`tables.py`). The number's words are
AES-128-CTR keystream of the seed, so the same seed gives the same noise: a server that knows the seed can subtract the
noise again. The first `size` samples do not depend on how many are drawn after them. `protocols/aggregation`, section
5, specifies the draw.

If the keystream were uniform, each sample would be within 2^-128 of its law in total variation: `tables.py` shows
2^-137, and at most 2^9 draws are summed.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import ceil
from numbers import Integral, Rational, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.crypto import prg
from secfed.dp.noise.tables import (
    KEEP_BITS,
    TABLE_VARIANCE,
    WEIGHT_ERROR,
    GaussianWeights,
    IntegerWeights,
    SkellamWeights,
    Table,
)
from secfed.errors import ConfigError

MAX_GAUSSIAN_VARIANCE = 2**80
MAX_SKELLAM_VARIANCE = 2**36

# Skellam weights have no closed form, so they are stored; a larger variance is a sum of several draws.
_SKELLAM_PART = 2**27
# First words, their look-up and the samples stay in the second-level cache.
_CHUNK = 1 << 15
# A table takes up to half a second to build and up to 20 MB; with little variance, up to 1 MB. Noise in many layers
# needs one table for each layer, again for every client.
_REMEMBERED = 8
_LITTLE_VARIANCE, _REMEMBERED_LITTLE = 1 << 16, 128


def discrete_gaussian(variance: float | Fraction, size: int, seed: bytes) -> npt.NDArray[np.int64]:
    """Draw from the discrete Gaussian: P(x) proportional to exp(-x^2 / (2 variance)) on the integers.

    Args:
        variance: Parameter sigma squared, taken as exactly the fraction that it is; up to 2^80. The variance of the
            law itself is a little smaller: by less than a millionth from 1 on.
        size: Number of samples.
        seed: 32 bytes from `secfed.crypto.entropy`, used for nothing else.

    Returns:
        Samples, shape `(size,)`.

    Raises:
        ConfigError: The variance is not positive or too large, the size negative, or the seed not 32 bytes.

    Security:
        Table look-ups, and how many words a sample takes, depend on the noise: anyone who shares the machine's caches
        may learn about it from timing.

    Source:
        The law: Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020.
    """
    exact = _checked(variance, MAX_GAUSSIAN_VARIANCE, size, seed)
    samples = np.zeros(size, np.int64)
    _sampler(GaussianWeights, exact).add_to(samples, seed)
    return samples


def skellam(variance: float | Fraction, size: int, seed: bytes) -> npt.NDArray[np.int64]:
    """Draw from the Skellam law: the difference of two Poisson variables of mean variance / 2 each.

    Beyond a variance of 2^27 a sample is the sum of several of less variance, which has the same law but takes the
    time of several.

    Args:
        variance: Of the difference, taken as exactly the fraction that it is; up to 2^36.
        size: Number of samples.
        seed: 32 bytes from `secfed.crypto.entropy`, used for nothing else.

    Returns:
        Samples, shape `(size,)`.

    Raises:
        ConfigError: The variance is not positive or too large, the size negative, or the seed not 32 bytes.

    Security:
        As for `discrete_gaussian`.

    Source:
        Agarwal, Kairouz, Liu: The Skellam Mechanism for Differentially Private Federated Learning, NeurIPS 2021.
    """
    exact = _checked(variance, MAX_SKELLAM_VARIANCE, size, seed)
    samples = np.zeros(size, np.int64)
    parts = ceil(exact / _SKELLAM_PART)
    sampler = _sampler(SkellamWeights, exact / parts)
    for part in _split(seed, parts):
        sampler.add_to(samples, part)
    return samples


class Sampler:
    """A law on the integers as a table, of the integers themselves or of blocks of `2**shift` of them.

    Args:
        weights: The law.

    Attributes:
        weights: As given.
        shift: Block q holds the integers from `q << shift` to `(q + 1 << shift) - 1`; 0 where no blocks are needed.
        table: The law of the block before any integer is refused.
    """

    def __init__(self, weights: IntegerWeights) -> None:
        self.weights = weights
        self.shift = 0
        while weights.variance > TABLE_VARIANCE << 2 * self.shift:
            self.shift += 1
        span = 1 << self.shift
        count = weights.reach >> self.shift
        highest = weights.at(1, span, count)[::-1] + weights.at(0, span, count)
        self.table = Table(highest, -count)
        if self.shift:
            lowest = weights.at(span, span, count)[::-1] + weights.at(span - 1, span, count)
            # A head below this keeps any integer of the block: rounded down, and both weights as far off as may be.
            kept = [
                max(0, (low - WEIGHT_ERROR) << KEEP_BITS) // (high + WEIGHT_ERROR)
                for low, high in zip(lowest, highest, strict=True)
            ]
            self._kept = np.array(kept, np.uint32)
            self._kept_anywhere = np.uint32(min(kept))

    def add_to(self, samples: npt.NDArray[np.int64], seed: bytes) -> None:
        """Add a sample to each entry, in place.

        Args:
            samples: Shape `(size,)`.
            seed: 32 bytes.
        """
        first, further, members, tails = (_Stream(part) for part in _split(seed, 4))
        values = np.empty(min(_CHUNK, len(samples)), np.int16)
        start = 0
        while start < len(samples):
            drawn = values[: len(samples) - start]
            self.table.look_up(first.words(len(drawn), "<u2"), lambda count: further.words(count, "<u8"), drawn)
            kept = self._choose(drawn, members, tails) if self.shift else drawn
            samples[start : start + len(kept)] += kept
            start += len(kept)

    def _choose(self, blocks: npt.NDArray[np.int16], members: "_Stream", tails: "_Stream") -> npt.NDArray[np.int64]:
        """Draw an integer in each block, and return those that are kept."""
        # The member comes from the low bits of a word, the head of the uniform number from its high 16.
        width = 32 if self.shift <= 32 - KEEP_BITS else 64
        words = members.words(len(blocks), f"<u{width // 8}")
        heads = words >> words.dtype.type(width - KEEP_BITS)
        integers = blocks.astype(np.int64) << self.shift
        integers += (words & words.dtype.type((1 << self.shift) - 1)).astype(np.int64)
        open_ = np.flatnonzero(heads >= self._kept_anywhere)
        open_ = open_[heads[open_] >= self._kept[blocks[open_].astype(np.intp) - self.table.lowest]]
        refused = []
        for index in open_.tolist():
            block = int(blocks[index])
            highest = block << self.shift if block >= 0 else (block + 1 << self.shift) - 1
            if not self.weights.keeps(int(integers[index]), highest, int(heads[index]), tails.word):
                refused.append(index)
        return np.delete(integers, refused) if refused else integers


def _sampler(law: Callable[[Fraction], IntegerWeights], variance: Fraction) -> Sampler:
    return (_of_little_variance if variance <= _LITTLE_VARIANCE else _of_much_variance)(law, variance)


def _make(law: Callable[[Fraction], IntegerWeights], variance: Fraction) -> Sampler:
    return Sampler(law(variance))


_of_little_variance, _of_much_variance = lru_cache(_REMEMBERED_LITTLE)(_make), lru_cache(_REMEMBERED)(_make)


class _Stream:
    """The keystream of a seed, read piece by piece."""

    def __init__(self, seed: bytes) -> None:
        self._key, self._counter = seed[:16], int.from_bytes(seed[16:], "big")
        self._position = 0

    def words(self, count: int, dtype: str) -> npt.NDArray[Any]:
        """Return the next `count` words."""
        block, skipped = divmod(self._position, prg.BLOCK_BYTES)
        counter = (self._counter + block) % (1 << 8 * prg.BLOCK_BYTES)
        size = count * np.dtype(dtype).itemsize
        self._position += size
        stream = prg.keystream(self._key + counter.to_bytes(prg.BLOCK_BYTES, "big"), skipped + size)
        return np.frombuffer(stream, dtype, offset=skipped)

    def word(self) -> int:
        """Return the next 64 bits."""
        return int(self.words(1, "<u8")[0])


def _split(seed: bytes, count: int) -> list[bytes]:
    """Return seeds that are computationally independent of each other."""
    stream = prg.keystream(seed, count * prg.SEED_BYTES)
    return [stream[start : start + prg.SEED_BYTES] for start in range(0, len(stream), prg.SEED_BYTES)]


def _checked(variance: float | Fraction, most: int, size: int, seed: bytes) -> Fraction:
    """Return the variance as a fraction, or refuse a number that cannot be a variance."""
    if isinstance(variance, bool) or not isinstance(variance, Real) or not 0 < variance <= most:
        raise ConfigError(f"variance {variance!r} must be a positive number of at most 2^{most.bit_length() - 1}")
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 0:
        raise ConfigError(f"size {size!r} must be a whole number of at least 0")
    if not isinstance(seed, bytes) or len(seed) != prg.SEED_BYTES:
        found = f"{len(seed)} bytes" if isinstance(seed, bytes) else type(seed).__name__
        raise ConfigError(f"the seed is {found}, needs {prg.SEED_BYTES} bytes")
    if isinstance(variance, Rational):  # numpy's integers would overflow inside a fraction
        return Fraction(int(variance.numerator), int(variance.denominator))
    return Fraction(float(variance))
