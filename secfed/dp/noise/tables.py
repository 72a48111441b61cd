"""Tables that turn uniform words into integers of a given law, built with whole-number arithmetic only.

The laws are symmetric on the integers and decrease away from 0. A table holds the distribution function of a law,
truncated far out, in 208 bits. If a law is too wide for a table, the table has blocks of `2**shift` adjacent integers,
each block with the weight of its most likely member. A uniform member of the block is then kept with a probability of
its own weight divided by the highest, decided exactly. Integers that are kept have exactly the law.

The distance between the law drawn and the law named, in total variation and for uniform words:

* the cut: at most 2^-140 (`GaussianWeights`) or 2^-158 (`SkellamWeights`);
* the weights: at most 2^16 of them, each at most 2^32 units of 2^-288 off; those of Skellam at most 2^-139 in all;
* the distribution function, rounded down to 208 bits at fewer than 2^16 boundaries: at most 2^-192;
* blocks: more than half of all proposals are kept, so all this at most doubles.

Together that is less than 2^-137.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate, count
from math import isqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt

# The first word looks up a sample; others are read only if a boundary of the law lies within the first word's range.
FIRST_BITS = 16
FURTHER_WORDS = 3
# Leading bits of the uniform number that decide whether a member of a block is kept.
KEEP_BITS = 16
# Largest variance of a table's entries: 15 standard deviations and a rest stay below 2^15.
TABLE_VARIANCE = 1 << 22
# Largest error of a weight, in units.
WEIGHT_ERROR = 1 << 32

_BITS = FIRST_BITS + 64 * FURTHER_WORDS
_UNDECIDED = -(1 << 15)
_LAST_WORD = (1 << 64) - 1
_WEIGHT_BITS = 288


class IntegerWeights(Protocol):
    """A symmetric law on the integers, given by weights that decrease away from 0.

    Attributes:
        variance: Its parameter.
        reach: Integers as far from 0 as this, or farther, may be cut off.
    """

    variance: Fraction
    reach: int

    def at(self, start: int, step: int, size: int) -> list[int]:
        """Return the weights of `start`, `start + step` and so on, each at most 2^32 units off.

        Args:
            start: At least 0.
            step: At least 1.
            size: How many; none may lie beyond `reach`.
        """

    def keeps(self, integer: int, highest: int, head: int, more: Callable[[], int]) -> bool:
        """Decide whether a uniform number of [0, 1) is below weight(integer) / weight(highest).

        Args:
            integer: The integer drawn.
            highest: The integer of its block that is closest to 0.
            head: The first 16 bits of the uniform number.
            more: Returns its next 64 bits, as often as it takes.
        """


class GaussianWeights:
    """The discrete Gaussian: weight(x) = exp(-x^2 / (2 variance)), in units of 2^-288.

    Args:
        variance: Parameter sigma squared, above 0.

    Attributes:
        reach: More than 14 sigma: the law is sub-Gaussian with its own parameter, so at most 2 exp(-98) lies there.

    Source:
        Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020 (for the tail).
    """

    def __init__(self, variance: Fraction) -> None:
        self.variance = variance
        self.reach = isqrt(196 * variance.numerator // variance.denominator) + 1

    def at(self, start: int, step: int, size: int) -> list[int]:
        """Return the weights of `start`, `start + step` and so on; see `IntegerWeights.at`."""
        top, bottom = self.variance.denominator, 2 * self.variance.numerator
        weight = negative_exponential(start * start * top, bottom, _WEIGHT_BITS)
        ratio = negative_exponential((2 * start * step + step * step) * top, bottom, _WEIGHT_BITS)
        change = negative_exponential(2 * step * step * top, bottom, _WEIGHT_BITS)
        # All three are at most 1. Each step puts `ratio` at most 3 units further off, and `weight` by what `ratio` is
        # off and 1 more: less than 2^32 units after 2^15 steps.
        found = []
        for _ in range(size):
            found.append(weight)
            weight = weight * ratio >> _WEIGHT_BITS
            ratio = ratio * change >> _WEIGHT_BITS
        return found

    def keeps(self, integer: int, highest: int, head: int, more: Callable[[], int]) -> bool:
        """Decide whether a uniform number is below weight(integer) / weight(highest); see `IntegerWeights.keeps`."""
        exponent = (integer * integer - highest * highest) * self.variance.denominator
        bits = KEEP_BITS
        while True:
            head, bits = head << 64 | more(), bits + 64
            chance = negative_exponential(exponent, 2 * self.variance.numerator, bits)
            if head + 1 <= chance - 2:
                return True
            if head >= chance + 2:
                return False


class SkellamWeights:
    """The difference of two Poisson variables of mean variance / 2: weight(x) is proportional to I_x(variance).

    The modified Bessel functions obey I_{k-1} = I_{k+1} + (2k / variance) I_k; downwards all terms are positive. The
    weights w begin with w_{N+1} = w_N at N = `reach` and go down by this rule. For two solutions of the rule
    w_k I_{k+1} - w_{k+1} I_k keeps its size and changes its sign from k to k + 1; its size here is below w_N I_N. So
    f_k = w_k / I_k goes from f_0 in steps of changing sign and growing size up to f_k, the last at most
    w_N I_N / (I_{k-1} I_k), and f_0 is at least w_N / (2 I_N). Hence each probability is at most 2 P(N) off, and all
    together at most 2^20 P(N), where P(N) < 2^-160. Rounding adds a relative 2^-190.

    Args:
        variance: Of the difference, above 0.

    Attributes:
        reach: More than 15 standard deviations and 48. Chernoff's bound exp(sqrt(v^2 + N^2) - v - N asinh(N / v)) says
            that less than 2^-159 lies there.
    """

    def __init__(self, variance: Fraction) -> None:
        self.variance = variance
        self.reach = isqrt(225 * variance.numerator // variance.denominator) + 49
        top, bottom = 2 * variance.denominator, variance.numerator
        # Each of fewer than 2^18 steps rounds down by one unit, and no weight is below 2^208.
        found = [1 << 208, 1 << 208]
        for k in range(self.reach, 0, -1):
            found.append(found[-2] + top * k * found[-1] // bottom)
        excess = max(0, found[-1].bit_length() - _WEIGHT_BITS)
        self._weights = [weight >> excess for weight in reversed(found)]

    def at(self, start: int, step: int, size: int) -> list[int]:
        """Return the weights of `start`, `start + step` and so on; see `IntegerWeights.at`."""
        return self._weights[start : start + step * size : step]

    def keeps(self, integer: int, highest: int, head: int, more: Callable[[], int]) -> bool:
        """Decide whether a uniform number is below weight(integer) / weight(highest); see `IntegerWeights.keeps`."""
        part, whole = self._weights[abs(integer)], self._weights[abs(highest)]
        bits = KEEP_BITS
        while True:
            head, bits = head << 64 | more(), bits + 64
            if (head + 1) * whole <= part << bits:
                return True
            if head * whole >= part << bits:
                return False


class Table:
    """The distribution function of a law on consecutive integers of 16 bits, ready to be inverted.

    A uniform number of 208 bits is a first word of 16 bits and three of 64, the most significant first. Its value is
    `lowest` and the number of boundaries that it has reached.

    Args:
        weights: At least one is positive; of `lowest`, `lowest + 1` and so on.
        lowest: The least value; all values lie strictly between -2^15 and 2^15.

    Attributes:
        boundaries: In units of 2^-208, ascending: below the first, the value is `lowest`.
        lowest: As given.
    """

    def __init__(self, weights: Sequence[int], lowest: int) -> None:
        *sums, total = accumulate(weights)
        self.lowest = lowest
        self.boundaries = [(part << _BITS) // total for part in sums]
        # One more boundary, never passed, so that every position has one.
        leading = [min(boundary >> (_BITS - 64), _LAST_WORD) for boundary in self.boundaries]
        self._leading = np.array([*leading, _LAST_WORD], np.uint64)
        starts = np.arange(1 << FIRST_BITS, dtype=np.uint64) << np.uint64(64 - FIRST_BITS)
        self._passed = np.append(np.searchsorted(self._leading[:-1], starts), len(sums)).astype(np.int32)
        decided = self._passed[1:] == self._passed[:-1]
        self._values = np.where(decided, self._passed[:-1] + lowest, _UNDECIDED).astype(np.int16)

    def look_up(
        self,
        first: npt.NDArray[np.uint16],
        further: Callable[[int], npt.NDArray[np.uint64]],
        values: npt.NDArray[np.int16],
    ) -> None:
        """Write the values of uniform numbers.

        Args:
            first: The first words, shape `(size,)`.
            further: Returns that many new words, for those numbers that need them, in order.
            values: Written to, shape `(size,)`.
        """
        np.take(self._values, first, out=values, mode="clip")
        undecided = np.flatnonzero(values == _UNDECIDED)
        if len(undecided):
            words = further(FURTHER_WORDS * len(undecided)).reshape(-1, FURTHER_WORDS)
            values[undecided] = self.invert(first[undecided], words)

    def invert(self, first: npt.NDArray[np.uint16], further: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the values of uniform numbers given in full.

        Args:
            first: Shape `(size,)`.
            further: Shape `(size, 3)`.

        Returns:
            Shape `(size,)`.
        """
        leading = first.astype(np.uint64) << np.uint64(64 - FIRST_BITS) | further[:, 0] >> np.uint64(FIRST_BITS)
        position = self._passed[first]
        # Most numbers have at most one boundary in reach, some in the tails have many.
        position += self._leading[position] < leading
        many = np.flatnonzero(self._leading[position] < leading)
        position[many] = np.searchsorted(self._leading[:-1], leading[many])
        for tie in np.flatnonzero(self._leading[position] == leading):
            number = int(first[tie])
            for word in further[tie].tolist():
                number = number << 64 | word
            position[tie] = bisect_right(self.boundaries, number)
        return position.astype(np.int64) + self.lowest


def negative_exponential(numerator: int, denominator: int, bits: int) -> int:
    """Return exp(-numerator / denominator) in units of `2**-bits`, less than 2 units off.

    Args:
        numerator: At least 0.
        denominator: At least 1.
        bits: At least 1.
    """
    if numerator > denominator * bits:
        return 0  # the truth is below exp(-bits), less than one unit
    # The argument of the series is below 1/16; halvings are at most bits.bit_length() + 6.
    halvings = max(0, (numerator << 4).bit_length() - denominator.bit_length() + 1)
    # Each of fewer than `bits` terms adds 2 units of error at most, each squaring doubles it and adds one: together
    # less than 2^(2 bits.bit_length() + 8) units, which the guard bits take in.
    guard = 2 * bits.bit_length() + 16
    scale = bits + guard
    argument = (numerator << scale) // (denominator << halvings)
    term = total = 1 << scale
    for index in count(1):
        term = (term * argument >> scale) // index
        if not term:
            break
        total += -term if index & 1 else term
    for _ in range(halvings):
        total = total * total >> scale
    return total >> guard
