"""Attacks on weak masks: a mask used twice, a missing self mask, or a seed of few bits.

Threat model: an honest but curious server that has the masked vectors and the secrets that clients revealed to it.

What defeats it: fresh masks in every session, a self mask on every vector, and seeds too long to try.

All three attacks use one fact: the values of an update are small compared with the ring, so that the sum of many
clients fits, but under a secret mask they look uniform over the whole ring.

Source: Bonawitz et al., *Practical Secure Aggregation for Privacy-Preserving Machine Learning*, CCS 2017, section 4
(why a vector has two masks). Fisher's method: Fisher, *Statistical Methods for Research Workers*, 1932, section 21.1.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from secfed.errors import ConfigError

Vector = npt.NDArray[np.unsignedinteger[Any]]
Signed = npt.NDArray[np.int64]
Expand = Callable[[npt.NDArray[np.uint64], int], Vector]

# Noise is taken for an update with at most this probability.
LEVEL = 1e-9
MOST_SEED_BITS = 40
# Smaller probabilities are reported as this one: 0 would not be an upper bound.
_LEAST = 1e-300
# Bytes of masks made at a time: a chunk stays in the second-level cache.
_CHUNK_BYTES = 1 << 18
# A first check of a few entries leaves about one seed in 2^20 for the check of all entries.
_FIRST_LOOK_BITS = 20


@dataclass(frozen=True, slots=True)
class Unmasked:
    """What is left of masked vectors after masks were removed.

    Attributes:
        found: Whether the values are an update, not noise: `false_alarm` is at most 1e-9.
        values: What remains of each entry as a signed number, from `-2**(ring_bits - 1)` on; int64, shape `(length,)`.
        false_alarm: Probability that uniform noise has values as small as these.
    """

    found: bool
    values: Signed = field(repr=False)
    false_alarm: float


@dataclass(frozen=True, slots=True)
class Like:
    """What an update looks like in the ring; the adversary knows this from the public encoding.

    Args:
        ring_bits: Entries are modulo `2**ring_bits`; 2 to 64.
        equal_bits: Number of leading bits of an entry that are all equal, because a value of either sign is small
            compared with the ring; 2 to `ring_bits`.
        known: Known values by index, such as a weight of 1 in the last entry.

    Raises:
        ConfigError: A number is out of range.
    """

    ring_bits: int
    equal_bits: int
    known: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2 <= self.ring_bits <= 64:
            raise ConfigError(f"ring_bits is {self.ring_bits}: needed 2 to 64")
        if not 2 <= self.equal_bits <= self.ring_bits:
            raise ConfigError(f"equal_bits is {self.equal_bits}: needed 2 to ring_bits, {self.ring_bits}")


@dataclass(frozen=True, slots=True)
class SeedSearch:
    """How a search for a mask's seed ended.

    Attributes:
        found: Whether a seed leaves something that looks like an update.
        values: The update as signed numbers, int64, shape `(length,)`; None if no seed does.
        tries: Seeds tried, the right one included.
        luck: Upper bound on the probability that some seed fits noise.
    """

    found: bool
    values: Signed | None = field(repr=False)
    tries: int
    luck: float


def reused_mask(first: npt.ArrayLike, second: npt.ArrayLike, ring_bits: int) -> Unmasked:
    """Subtract two masked vectors of one client: with the same mask, this leaves the difference of two updates.

    Args:
        first: Unsigned integers below `2**ring_bits`, shape `(length,)`.
        second: The same client's vector of another session.
        ring_bits: Entries are modulo `2**ring_bits`; 2 to 64.

    Returns:
        First minus second, and whether it could be noise.

    Raises:
        ConfigError: The vectors are not of this kind, or have different shapes.
    """
    one, other = _vector(first, ring_bits, "the first vector"), _vector(second, ring_bits, "the second vector")
    if one.shape != other.shape:
        raise ConfigError(f"the vectors have {len(one)} and {len(other)} entries: needed the same number")
    return _judged(one - other, ring_bits)


def without_self_mask(
    masked: npt.ArrayLike, added: Sequence[npt.ArrayLike], subtracted: Sequence[npt.ArrayLike], ring_bits: int
) -> Unmasked:
    """Remove the pair masks from a masked vector: without a self mask, this leaves the update.

    A server gets a client's pair masks if it takes the client for a dropout and asks the others for its mask key, and
    the client's vector arrives late after all.

    Args:
        masked: Unsigned integers below `2**ring_bits`, shape `(length,)`.
        added: Masks that the client had added, each like `masked`.
        subtracted: Masks that the client had subtracted, each like `masked`.
        ring_bits: Entries are modulo `2**ring_bits`; 2 to 64.

    Returns:
        What is left, and whether it could be noise.

    Raises:
        ConfigError: The vectors are not of this kind, or have different shapes.
    """
    rest = _vector(masked, ring_bits, "the masked vector").copy()
    for what, masks, take in (("added", added, np.subtract), ("subtracted", subtracted, np.add)):
        for i, mask in enumerate(masks):
            array = _vector(mask, ring_bits, f"mask {i} of those {what}")
            if array.shape != rest.shape:
                raise ConfigError(f"mask {i} of those {what} has {len(array)} entries: needed {len(rest)}")
            take(rest, array, out=rest)
    return _judged(rest, ring_bits)


def weak_seed(masked: npt.ArrayLike, expand: Expand, bits: int, like: Like) -> SeedSearch:
    """Try the seeds of a mask in order until one leaves something that looks like an update.

    Args:
        masked: A vector under one added mask: unsigned integers below `2**like.ring_bits`, shape `(length,)`. If the
            mask was subtracted, give the negative of the vector and of the known values.
        expand: Makes masks: from seeds (uint64, shape `(seeds,)`, always a range `a, a + 1, ...`) and a number of
            entries, an array of shape `(seeds, entries)` with the dtype of `masked`. Bits from `like.ring_bits` on do
            not matter.
        bits: The seed is from 0 to `2**bits - 1`; 1 to 40 bits.
        like: What an update looks like.

    Returns:
        The update of the first seed that fits, or the result that no seed fits.

    Raises:
        ConfigError: The vector is not of this kind, a known entry is not in it, the masks have another shape or dtype,
            or the vector is so short that noise could fit with a probability above 1e-9.
    """
    vector = _vector(masked, like.ring_bits, "the masked vector", keep=True)
    length, one = len(vector), vector.dtype.type
    if not 1 <= bits <= MOST_SEED_BITS:
        raise ConfigError(f"seeds of {bits} bits: needed 1 to {MOST_SEED_BITS}")
    if odd := [index for index in like.known if not 0 <= index < length]:
        raise ConfigError(f"entry {odd[0]} is known, but the masked vector has {length} entries")
    # Entry j fits if it is at most spans[j] above lows[j], modulo the ring.
    half = 1 << (like.ring_bits - like.equal_bits)
    lows = np.full(length, -half & _all_ones(like.ring_bits), np.uint64)
    spans = np.full(length, 2 * half - 1, np.uint64)
    checked = (length - len(like.known)) * (like.equal_bits - 1) + len(like.known) * like.ring_bits
    for index, value in like.known.items():
        lows[index], spans[index] = value & _all_ones(like.ring_bits), 0
    luck = max(2.0 ** min(0, bits - checked), _LEAST)
    if luck > LEVEL:
        raise ConfigError(
            f"{length} entries show {checked} bits, so noise passes {1 << bits} tries with a probability of up to "
            f"{luck:.1g}: needed {math.ceil(bits - math.log2(LEVEL))} bits, from more entries or equal bits"
        )
    # Shift out the bits above the ring, so that the dtype's own arithmetic is that of the ring.
    shift = one(8 * vector.dtype.itemsize - like.ring_bits)
    starts, limits = vector - lows.astype(vector.dtype), spans.astype(vector.dtype) << shift
    look = min(length, max(16 // vector.dtype.itemsize, math.ceil(_FIRST_LOOK_BITS / (like.equal_bits - 1))))
    step = max(1, _CHUNK_BYTES // (look * vector.dtype.itemsize))
    for first in range(0, 1 << bits, step):
        seeds = np.arange(first, min(first + step, 1 << bits), dtype=np.uint64)
        left = _fitting(_masks(expand, seeds, look, vector.dtype), starts[:look], limits[:look], shift)
        for seed in seeds[left]:
            mask = _masks(expand, np.array([seed]), length, vector.dtype)
            if len(_fitting(mask, starts, limits, shift)):
                return SeedSearch(True, _signed(vector - mask[0], like.ring_bits), int(seed) + 1, luck)
    return SeedSearch(False, None, 1 << bits, luck)


def _fitting(masks: Vector, starts: Vector, limits: Vector, shift: Any) -> npt.NDArray[np.intp]:
    """Return which rows of masks leave entries within the limits; rows are dropped as soon as they fail."""
    left: Any = slice(None)
    for j in range(masks.shape[1]):
        rest = starts[j] - masks[left, j]
        if shift:
            rest <<= shift
        fits = np.flatnonzero(rest <= limits[j])
        left = fits if j == 0 else left[fits]
        if not len(left):
            break
    return np.asarray(left, np.intp)


def _masks(expand: Expand, seeds: npt.NDArray[np.uint64], entries: int, dtype: np.dtype[Any]) -> Vector:
    masks = expand(seeds, entries)
    if masks.shape != (len(seeds), entries) or masks.dtype != dtype:
        raise ConfigError(
            f"expand made {masks.dtype} of shape {masks.shape}: needed {dtype} of shape {(len(seeds), entries)}"
        )
    return masks


def _judged(rest: Vector, ring_bits: int) -> Unmasked:
    """Test how small the entries are, by Fisher's method; for integers the probability is an upper bound."""
    values = _signed(rest, ring_bits)
    as_small = np.minimum(1.0, (2.0 * np.abs(values.astype(np.float64)) + 1) / 2.0**ring_bits)
    false_alarm = max(float(special.gammaincc(len(values), -np.log(as_small).sum())), _LEAST)
    return Unmasked(false_alarm <= LEVEL, values, false_alarm)


def _signed(vector: Vector, ring_bits: int) -> Signed:
    """Return the entries modulo the ring as numbers from `-2**(ring_bits - 1)` on."""
    shift = np.uint64(64 - ring_bits)
    signed: Signed = (vector.astype(np.uint64) << shift).view(np.int64) >> np.int64(shift)
    return signed


def _vector(array: npt.ArrayLike, ring_bits: int, what: str, keep: bool = False) -> Vector:
    """Return a vector as uint64, or of its own dtype."""
    if not 2 <= ring_bits <= 64:
        raise ConfigError(f"ring_bits is {ring_bits}: needed 2 to 64")
    vector = np.asarray(array)
    if vector.ndim != 1 or not len(vector) or vector.dtype.kind != "u":
        raise ConfigError(f"{what} is {vector.dtype} of shape {vector.shape}: needed unsigned integers, (length,)")
    if 8 * vector.dtype.itemsize < ring_bits or int(vector.max()) > _all_ones(ring_bits):
        raise ConfigError(
            f"{what} has {vector.dtype} entries up to {vector.max()}: needed those of a ring of {ring_bits} bits"
        )
    return vector if keep else vector.astype(np.uint64)


def _all_ones(bits: int) -> int:
    return (1 << bits) - 1
