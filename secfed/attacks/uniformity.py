"""Can masked vectors be distinguished from uniform numbers?

Threat model: anyone who sees the masked vectors of one or more sessions: an honest but curious server.

What defeats it: masks from a good keystream, fresh in every session. What it cannot find: a mask whose seed can be
guessed, because the keystream of a weak seed looks as uniform as that of a strong one. So passing is necessary for
secrecy, but not sufficient.

Most tests need no approximation. If entries are uniform and independent, so are the differences, and the sums, of two
vectors, and those of a vector and its shifted self. An entry x becomes a point on the unit circle, at the angle
`2 pi x / 2**ring_bits`: the sum of n such points has a real part whose moment generating function is at most that of a
normal number of variance n/2. So it is beyond t with a probability of at most `2 exp(-t**2 / n)`, whatever n.

Source: Hoeffding, *Probability Inequalities for Sums of Bounded Random Variables*, JASA 1963 (bits: Theorem 2; sums of
points: by its method, as the Bessel function `I0(x)` is at most `exp(x**2 / 4)`); Knuth, *The Art of Computer
Programming*, volume 2, section 3.3 (chi-square, serial correlation, collisions).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from secfed.errors import ConfigError

Vector = npt.NDArray[np.unsignedinteger[Any]]
Array = npt.NDArray[np.float64]
Points = npt.NDArray[np.complex128]

FEWEST_ENTRIES = 64
# Least expected entries per bin of the chi-square test: with these the tail of the distribution is accurate.
_EXPECTED = 32
# Entries of each vector that are turned into points at a time.
_BLOCK = 1 << 14
# Smaller probabilities are reported as this one: 0 would not be an upper bound.
_LEAST = 1e-300


@dataclass(frozen=True, slots=True)
class UniformityTest:
    """One test.

    Attributes:
        name: What was tested; see `uniformity`.
        p_value: Upper bound on the probability that uniform entries look at least as unusual as these; corrected for
            the number of comparisons within the test.
        comparisons: Number of values compared with what uniform entries give.
        worst: Where the most unusual one is; vectors are counted from 0 over all rounds.
    """

    name: str
    p_value: float
    comparisons: int
    worst: str


@dataclass(frozen=True, slots=True)
class Uniformity:
    """Whether masked vectors can be distinguished from uniform ones.

    Attributes:
        tests: Each test.
        vectors: Number of vectors.
        entries: Entries of all vectors together.
        false_alarm: Upper bound on the probability that uniform vectors fail.
    """

    tests: tuple[UniformityTest, ...]
    vectors: int
    entries: int
    false_alarm: float

    @property
    def p_value(self) -> float:
        """The smallest p-value, corrected for the number of tests."""
        return min(1.0, len(self.tests) * min(test.p_value for test in self.tests))

    @property
    def passed(self) -> bool:
        """Whether every test passed: none distinguishes the vectors from uniform ones."""
        return self.p_value > self.false_alarm

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the tests that distinguish the vectors from uniform ones."""
        limit = self.false_alarm / len(self.tests)
        return tuple(test.name for test in self.tests if test.p_value <= limit)


def uniformity(rounds: Sequence[npt.ArrayLike], ring_bits: int, false_alarm: float = 1e-6) -> Uniformity:
    """Test whether masked vectors are distinguishable from uniform and independent ones.

    The tests, by name:

    * `top byte`, `bottom byte`: chi-square of the first and the last 8 bits of the entries, over all vectors and in
      each (of fewer bits where there are few entries).
    * `bits`: how often each bit is 1, over all vectors and in each.
    * `neighbors`: each entry against the one after it, over all vectors.
    * `period`: each vector against itself, shifted by 1 up to half of its length.
    * `clients`: every two vectors of one round: their differences and sums, entry by entry.
    * `rounds`: the same for every two vectors of different rounds.
    * `repeated entries`: how often a number repeats, in all vectors together.

    Args:
        rounds: Each round's masked vectors: unsigned integers below `2**ring_bits`, shape `(clients, length)`. All
            vectors have one length, at least 64; rounds may have different clients. An array of shape `(rounds,
            clients, length)` works too.
        ring_bits: Entries are modulo `2**ring_bits`; 8 to 64.
        false_alarm: Largest probability of calling uniform vectors distinguishable, above 0 and below 1. The p-values
            are corrected for their number (Bonferroni). The two chi-square tests use the limit of many entries: with 32
            entries per bin, p-values of 1e-4 occurred in simulations at most 1.3 times as often as they should.

    Returns:
        Each test's p-value, and whether all of them pass.

    Raises:
        ConfigError: The vectors are not of this kind, or a number is out of range.
    """
    vectors, round_of = _vectors(rounds, ring_bits)
    if not 0 < false_alarm < 1:
        raise ConfigError(f"false_alarm is {false_alarm}: needed above 0 and below 1")
    tests = [
        _bytes("top byte", vectors >> vectors.dtype.type(ring_bits - 8)),
        _bytes("bottom byte", vectors & vectors.dtype.type(255)),
        _bits(vectors, ring_bits),
        *_within_vectors(vectors, ring_bits),
        *_between_vectors(vectors, round_of, ring_bits),
        _repeated(vectors, ring_bits),
    ]
    return Uniformity(tuple(tests), len(vectors), vectors.size, false_alarm)


def _bytes(name: str, values: Vector) -> UniformityTest:
    """Chi-square of 8 bits, or of as many as there are enough entries for."""
    found = [_chi_square(values.ravel())] + [_chi_square(row) for row in values]
    return _worst(name, np.log(found), _place)


def _chi_square(values: Vector) -> float:
    bits = min(8, int(math.log2(len(values) / _EXPECTED)))
    counts = np.bincount((values >> values.dtype.type(8 - bits)).astype(np.intp), minlength=1 << bits)
    expected = len(values) / len(counts)
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return max(float(special.gammaincc((len(counts) - 1) / 2, statistic / 2)), _LEAST)


def _bits(vectors: Vector, ring_bits: int) -> UniformityTest:
    one, (count, length) = vectors.dtype.type(1), vectors.shape
    sizes = np.array([vectors.size] + [length] * count)
    logs = np.empty((ring_bits, 1 + count))
    for bit in range(ring_bits):
        ones = ((vectors >> vectors.dtype.type(bit)) & one).sum(axis=1, dtype=np.int64)
        logs[bit] = math.log(2) - 2 * (np.append(ones.sum(), ones) - sizes / 2) ** 2 / sizes
    return _worst("bits", logs, lambda at: f"bit {at // (1 + count)}, {_place(at % (1 + count))}")


def _within_vectors(vectors: Vector, ring_bits: int) -> tuple[UniformityTest, UniformityTest]:
    """Compare each vector with itself, shifted, by a Fourier transform with room for every shift."""
    length = vectors.shape[1]
    most = length // 2
    counts = length - np.arange(1, most + 1)
    logs, neighbors = [], np.zeros(2)
    for row in vectors:
        points = _points(row, ring_bits)
        spectrum = np.fft.fft(points, 2 * length)
        sums = np.fft.ifft(np.abs(spectrum) ** 2)[1 : most + 1]
        logs.append(math.log(4) - _farther(sums) ** 2 / counts)
        neighbors += sums[0].real, sums[0].imag
    log = math.log(4) - np.abs(neighbors).max() ** 2 / (len(vectors) * (length - 1))
    return (
        _worst("neighbors", np.array([log]), _place),
        _worst("period", np.array(logs), lambda at: f"vector {at // most}, shifted by {at % most + 1}"),
    )


def _between_vectors(vectors: Vector, round_of: npt.NDArray[np.intp], ring_bits: int) -> list[UniformityTest]:
    """Compare each two vectors: the sum of points over the differences of their entries, and over the sums."""
    count, length = vectors.shape
    differences, sums = np.zeros((count, count), np.complex128), np.zeros((count, count), np.complex128)
    for start in range(0, length, _BLOCK):
        points = _points(vectors[:, start : start + _BLOCK], ring_bits)
        differences += points @ points.conj().T
        sums += points @ points.T
    logs = math.log(8) - np.maximum(_farther(differences), _farther(sums)) ** 2 / length
    tests = []
    same = round_of[:, None] == round_of
    for name, chosen in (("clients", same), ("rounds", ~same)):
        pairs = np.argwhere(np.triu(chosen, 1))
        if len(pairs):
            tests.append(_worst(name, logs[pairs[:, 0], pairs[:, 1]], partial(_pair, pairs)))
    return tests


def _pair(pairs: npt.NDArray[np.intp], at: int) -> str:
    return f"vectors {pairs[at, 0]} and {pairs[at, 1]}"


def _repeated(vectors: Vector, ring_bits: int) -> UniformityTest:
    """Bound how many entries are repeated, given the earlier ones."""
    count = vectors.size
    repeated = count - len(np.unique(vectors))
    mean = count * (count - 1) / 2 / 2.0**ring_bits
    # Chernoff's bound for a sum of independent indicators, which the number of repeated entries cannot exceed.
    log = repeated - mean - repeated * math.log(repeated / mean) if repeated > mean else 0.0
    return _worst("repeated entries", np.array([log]), _place)


def _points(entries: Vector, ring_bits: int) -> Points:
    points: Points = np.exp(entries.astype(np.float64) * (2j * math.pi / 2.0**ring_bits))
    return points


def _farther(sums: Points) -> Array:
    return np.maximum(np.abs(sums.real), np.abs(sums.imag))


def _place(at: int) -> str:
    """Name the place of a number: the first is for all vectors, each of the others for one vector."""
    return f"vector {at - 1}" if at else "all vectors"


def _worst(name: str, logs: Array, place: Callable[[int], str]) -> UniformityTest:
    """Return a test from the logarithms of its p-values."""
    at = int(np.argmin(logs))
    p_value = max(math.exp(min(0.0, float(logs.flat[at]) + math.log(logs.size))), _LEAST)
    return UniformityTest(name, p_value, logs.size, place(at))


def _vectors(rounds: Sequence[npt.ArrayLike], ring_bits: int) -> tuple[Vector, npt.NDArray[np.intp]]:
    """Return all vectors, one a row, and each one's round."""
    if not 8 <= ring_bits <= 64:
        raise ConfigError(f"ring_bits is {ring_bits}: needed 8 to 64")
    found = [np.asarray(each) for each in rounds]
    if not found:
        raise ConfigError("found no rounds: needed masked vectors of at least one")
    for number, each in enumerate(found):
        if each.ndim != 2 or each.dtype.kind != "u" or 8 * each.dtype.itemsize < ring_bits or not len(each):
            raise ConfigError(
                f"round {number} is {each.dtype} of shape {each.shape}: needed unsigned integers of at least "
                f"{ring_bits} bits, of shape (clients, length)"
            )
        if each.shape[1] != found[0].shape[1] or each.shape[1] < FEWEST_ENTRIES:
            raise ConfigError(
                f"round {number} has vectors of {each.shape[1]} entries, the first of {found[0].shape[1]}: needed the "
                f"same, and at least {FEWEST_ENTRIES}"
            )
    vectors = np.concatenate(found)
    if int(vectors.max()) >> ring_bits:
        raise ConfigError(f"an entry is {vectors.max()}: needed at most 2**{ring_bits} - 1")
    return vectors, np.repeat(np.arange(len(found)), [len(each) for each in found])
