"""Real values to integers whose weighted sum cannot overflow: clip, scale, round at random without bias, weigh.

Source: `protocols/encoding/README.md`; stochastic rounding as in Kairouz, Liu, Steinke 2021 section 4, without the
conditional part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.crypto import prg
from secfed.crypto.ring import narrowest_dtype, signed
from secfed.errors import ConfigError, EncodingError

Vector = npt.NDArray[np.unsignedinteger[Any]]
# Values processed at a time, so that temporaries stay in the cache.
_CHUNK = 1 << 15
_RANDOM_STEPS = 2.0**32


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """How values become integers; public, and the same for all clients of a sum.

    Args:
        clip: Values are clipped to [-clip, clip].
        bits: A value becomes one of `2**bits - 1` whole numbers, symmetric about 0; 2 to 32.
        clients: Most vectors in one sum.
        max_weight: Largest weight of a client.

    Raises:
        ConfigError: A parameter is out of range, or the sum would need more than 64 bits.

    The 100/200/300-sample example of FedAvg:

    >>> import numpy as np
    >>> fixed = FixedPoint(clip=4.0, bits=16, clients=3, max_weight=300)
    >>> updates, weights = [np.array([1.0]), np.array([2.0]), np.array([3.0])], [100, 200, 300]
    >>> vectors = [fixed.encode(update, weight, seed=bytes(32)) for update, weight in zip(updates, weights)]
    >>> values, total = fixed.decode(sum(vectors) % 2**fixed.modulus_bits)
    >>> total, round(float(values[0]), 3)  # (100*1 + 200*2 + 300*3) / 600
    (600, 2.333)
    """

    clip: float
    bits: int = 16
    clients: int = 1
    max_weight: int = 1

    @classmethod
    def fitting(cls, clip: float, *, clients: int, max_weight: int) -> "FixedPoint":
        """Choose `bits`: 16, or as few as 12 if the sum then fits into 32 bits, where masks cost half as much as with
        64 bits.

        Raises:
            ConfigError: As for the class.
        """
        most, fewest = 16, 12
        if clients < 1 or max_weight < 1:  # refused by the class
            return cls(clip, most, clients, max_weight)
        # The sum of all weights takes this many of 32 bits, and a value gets what is left.
        left = 32 - (int(clients) * int(max_weight) - 1).bit_length()
        return cls(clip, min(most, left) if left >= fewest else most, clients, max_weight)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"clip {self.clip} must be a positive finite number")
        if not 2 <= self.bits <= 32:
            raise ConfigError(f"bits {self.bits} must be from 2 to 32")
        if not (np.isfinite(self.levels / self.clip) and self.clip / self.levels > 0):
            raise ConfigError(f"clip {self.clip} is too small for a step of float64 arithmetic")
        if not np.isfinite(self.levels * (float(self.clip) / self.levels)):  # a mean at the clip would decode to inf
            raise ConfigError(f"clip {self.clip} is too large for float64 arithmetic")
        if self.clients < 1 or self.max_weight < 1:
            raise ConfigError(f"clients {self.clients} and max_weight {self.max_weight} must be at least 1")
        if self.modulus_bits > 64:
            found = f"{self.clients} clients of weight up to {self.max_weight} at {self.bits} bits"
            raise ConfigError(
                f"{found} need {self.modulus_bits} bits for their sum, 64 are the most: lower bits or max_weight"
            )

    @property
    def levels(self) -> int:
        """The whole number that `clip` becomes."""
        return (1 << (int(self.bits) - 1)) - 1

    @property
    def modulus_bits(self) -> int:
        """Bits of the ring: just enough that the signed sum of all clients at full weight and clip fits."""
        return (int(self.clients) * int(self.max_weight) * self.levels).bit_length() + 1

    def context(self, values: int) -> bytes:
        """Return the text that binds a secure-aggregation session to these parameters."""
        spec = f"clip={float(self.clip).hex()} bits={self.bits} max_weight={self.max_weight} values={values}"
        return b"secfed/encoding/v1 " + spec.encode()

    def checked_weight(self, weight: Any) -> int:
        """Return a weight as a whole number.

        Raises:
            EncodingError: It is not a whole number in [1, max_weight]. The text does not show the number,
                because weights are secret.
        """
        try:
            whole = int(weight) if isinstance(weight, int | np.integer) or float(weight).is_integer() else None
        except (TypeError, ValueError, OverflowError):
            raise EncodingError(f"the weight is of type {type(weight).__name__}, needed a whole number") from None
        if whole is None:
            raise EncodingError("the weight must be a whole number: multiply all weights and round them")
        if not 1 <= whole <= self.max_weight:
            raise EncodingError(f"the weight must be from 1 to max_weight {self.max_weight}")
        return whole

    def clipped(self, values: npt.NDArray[np.floating[Any]], divisor: float = 1.0) -> int:
        """Count the values, divided by a positive number, beyond the clip; in an array of any shape."""
        if not values.size or float(max(values.max(), -values.min())) / divisor <= self.clip:  # no temporary array
            return 0
        with np.errstate(over="ignore"):
            quotients = np.divide(np.abs(values), divisor, dtype=np.float64)
        return int(np.count_nonzero(quotients > np.float64(self.clip)))

    def clipped_in(
        self, parts: Sequence[npt.NDArray[np.floating[Any]]], divisors: Sequence[float] | None = None
    ) -> int:
        """Count the values beyond the clip in several arrays; for the divisors see `encode_parts`."""
        return sum(map(self.clipped, parts, divisors or [1.0] * len(parts)))

    def encode(self, values: npt.NDArray[np.floating[Any]], weight: float, *, seed: bytes) -> Vector:
        """Encode one client's contribution.

        Args:
            values: Shape `(size,)`, finite.
            weight: Whole number in [1, max_weight].
            seed: 32 bytes that decide how values are rounded; fresh for every contribution.

        Returns:
            Shape `(size + 1,)`, modulo `2**modulus_bits`, in the narrowest unsigned dtype: weight times each rounded
            value, then the weight.

        Raises:
            EncodingError: A value is not finite, or the weight is not allowed.
        """
        if values.ndim != 1:
            raise EncodingError(f"values have shape {values.shape}, needed one dimension")
        return self.encode_parts([values], weight, seed=seed)

    def encode_parts(
        self,
        parts: Sequence[npt.NDArray[np.floating[Any]]],
        weight: float,
        *,
        seed: bytes,
        divisors: Sequence[float] | None = None,
        factor: float = 1.0,
    ) -> Vector:
        """Encode values that lie in several arrays, as `encode` does when they are joined, but without joining them.

        Apart from the vector, it needs memory for only one block of values.

        Args:
            parts: Arrays of any shapes, finite, each read in C order; `size` values together.
            weight: Whole number in [1, max_weight].
            seed: 32 bytes that decide how values are rounded; fresh for every contribution.
            divisors: One positive number for each part, by which its values are divided before they are clipped.
            factor: Values are multiplied by it after they were clipped; above 0 and up to 1.

        Returns:
            Shape `(size + 1,)`, as `encode` does.

        Raises:
            EncodingError: A value is not finite, or the weight is not allowed.
        """
        whole_weight = self.checked_weight(weight)
        vector = np.empty(sum(part.size for part in parts) + 1, narrowest_dtype(self.modulus_bits))
        keystream = prg.Keystream(seed)
        scale = self.levels / self.clip
        # clip * scale may round to just above the last level; only then can a rounded value be beyond it.
        beyond = self.clip * scale > self.levels
        exact = self.levels * whole_weight < 1 << 53  # else the product is too long for a float64
        wrapped = vector.view(f"i{vector.itemsize}")
        start = 0
        for piece, divisor in _blocks(parts, divisors):
            random = np.frombuffer(keystream.read(4 * len(piece)), "<u4")
            with np.errstate(over="ignore"):  # a quick look first: one number that is finite only if all are
                suspicious = not np.isfinite(piece @ piece)
            if suspicious and not np.isfinite(piece).all():
                raise EncodingError(f"value {start + int(np.argmin(np.isfinite(piece)))} is not finite")
            if divisor != 1:
                with np.errstate(over="ignore"):  # an infinity is clipped like any other value
                    piece /= divisor
            np.clip(piece, -self.clip, self.clip, out=piece)
            if factor != 1:
                piece *= factor
            piece *= scale
            floor = np.floor(piece)
            piece -= floor
            piece *= _RANDOM_STEPS
            floor += random < piece
            if beyond:
                np.clip(floor, -self.levels, self.levels, out=floor)
            whole = floor if exact else floor.astype(np.int64)
            whole *= whole_weight
            np.copyto(wrapped[start : start + len(whole)], whole, casting="unsafe")
            start += len(piece)
        vector[-1] = whole_weight
        if 8 * vector.itemsize > self.modulus_bits:
            vector &= vector.dtype.type((1 << self.modulus_bits) - 1)
        return vector

    def decode(self, total: Vector, dtype: npt.DTypeLike = np.float64) -> tuple[npt.NDArray[np.floating[Any]], int]:
        """Decode a sum.

        Args:
            total: The sum modulo `2**modulus_bits`, shape `(size + 1,)`.
            dtype: The dtype of the mean, which is computed in float64 and rounded at the end.

        Returns:
            The weighted mean, shape `(size,)`, and the sum of the weights.

        Raises:
            EncodingError: The sum of the weights is out of range.
        """
        weight = int(signed(total[-1:], self.modulus_bits)[0])
        if not 1 <= weight <= self.clients * self.max_weight:
            needed = f"needed 1 to {self.clients * self.max_weight}"
            raise EncodingError(f"the weights sum to {weight}, {needed}: this is not a sum of encoded vectors")
        mean: npt.NDArray[np.floating[Any]] = np.empty(len(total) - 1, dtype)
        for start in range(0, len(mean), _CHUNK):
            sums = signed(total[:-1][start : start + _CHUNK], self.modulus_bits)
            mean[start : start + _CHUNK] = sums / weight * (self.clip / self.levels)
        return mean, weight


def _blocks(
    parts: Sequence[npt.NDArray[np.floating[Any]]], divisors: Sequence[float] | None
) -> Iterator[tuple[npt.NDArray[np.float64], float]]:
    """Yield the values of several arrays in order, in blocks with their divisor.

    All blocks share one buffer. Values with different divisors are in different blocks.
    """
    block, filled, last = np.empty(_CHUNK), 0, 1.0
    for array, divisor in zip(parts, divisors or [1.0] * len(parts), strict=True):
        if filled and divisor != last:
            yield block[:filled], last
            filled = 0
        last = divisor
        part, begin = array.reshape(-1), 0
        while begin < len(part):
            piece = part[begin : begin + _CHUNK - filled]
            block[filled : filled + len(piece)] = piece
            begin, filled = begin + len(piece), filled + len(piece)
            if filled == _CHUNK:
                yield block, last
                filled = 0
    if filled:
        yield block[:filled], last
