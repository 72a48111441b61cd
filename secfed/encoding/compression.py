"""Linear maps that make an update shorter, or its values more even, before rounding. Public, the same for all clients.

The mean of compressed updates is the compressed mean, so a map goes with every protocol: clients compress, the protocol
adds, and the server expands once. A map is drawn from a public 32-byte seed.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from secfed.crypto import prg
from secfed.encoding.rotation import Rotation, rotated_length
from secfed.errors import ConfigError

Array = npt.NDArray[np.floating[Any]]
Shapes = tuple[tuple[int, ...], ...]


class Compression(ABC):
    """One linear map; its seed and the shapes of the arrays come with every call.

    Attributes:
        code: Names the map in the parameters that clients get.
    """

    code: ClassVar[int]

    @abstractmethod
    def parameter(self, shapes: Shapes) -> int:
        """Return the number that stands for this map in the parameters that clients get.

        Args:
            shapes: Shapes of the arrays of an update.
        """

    @abstractmethod
    def shapes(self, shapes: Shapes) -> Shapes:
        """Return the shapes of the compressed arrays.

        Args:
            shapes: Shapes of the arrays that go in, one after the other in one flat array.

        Raises:
            ConfigError: The map would change nothing.
        """

    @abstractmethod
    def compress(self, values: Array, shapes: Shapes, seed: bytes) -> Array:
        """Compress a flat array.

        Args:
            values: Shape `(size,)`, float32 or float64.
            shapes: Shapes of the arrays in it.
            seed: 32 bytes, public.

        Returns:
            A flat array of the same dtype.
        """

    @abstractmethod
    def expand(self, values: Array, shapes: Shapes, seed: bytes) -> Array:
        """Expand the output of `compress`, or a mean of it, to shape `(size,)`; for the parameters see `compress`.

        Args:
            values: What `compress` gave, or a mean of it.
            shapes: Shapes of the arrays of an update.
            seed: 32 bytes, as for `compress`.
        """


@dataclass(frozen=True, slots=True)
class RandomK(Compression):
    """The same randomly chosen values of every client's update; the others are not sent, and their mean is 0.

    The server divides the mean of the chosen values by the fraction that was sent, so the result is unbiased: over the
    choice of the values, the expected mean is the true one. This trains better than leaving the values as they are, see
    `docs/fewer-bytes.md`. A `server_learning_rate` equal to the fraction takes the factor out again.

    Args:
        fraction: Of the values that are sent, above 0 and below 1; rounded to a whole number of values, at least one.

    Raises:
        ConfigError: The fraction is out of range.

    Source: Konecny et al.: Federated Learning: Strategies for Improving Communication Efficiency, 2016, section 2
    ("random mask"), with one mask for all clients.
    """

    fraction: float
    code: ClassVar[int] = 1

    def __post_init__(self) -> None:
        number = isinstance(self.fraction, int | float | np.number) and not isinstance(self.fraction, bool)
        if not number or not 0 < self.fraction < 1:
            raise ConfigError(f"fraction {self.fraction!r:.50} must be above 0 and below 1")

    def parameter(self, shapes: Shapes) -> int:
        """Return how many values are sent."""
        return max(1, round(float(self.fraction) * size_of(shapes)))

    def shapes(self, shapes: Shapes) -> Shapes:
        """Return the shape of one array: the chosen values."""
        return ((self.parameter(shapes),),)

    def compress(self, values: Array, shapes: Shapes, seed: bytes) -> Array:
        """Choose values; see `Compression.compress`."""
        return values[_chosen(size_of(shapes), self.parameter(shapes), seed)]

    def expand(self, values: Array, shapes: Shapes, seed: bytes) -> Array:
        """Put the values, scaled up, back in their places among zeros; see `Compression.expand`."""
        expanded: Array = np.zeros(size_of(shapes), values.dtype)
        size, count = size_of(shapes), self.parameter(shapes)
        expanded[_chosen(size, count, seed)] = values * values.dtype.type(size / count)
        return expanded


@dataclass(frozen=True, slots=True)
class RandomRotation(Compression):
    """A random rotation that makes all values about equally large, so that each value needs few bits.

    It sends as many values as before, or up to a quarter more to fill a power of two. Rounding to a few bits then does
    the saving: after the rotation of an update of Euclidean norm s nearly all values are within `3 * s / sqrt(size)`,
    so that is a good `clip`. It is of use only where values are clipped and rounded one by one.

    Source: Suresh, Yu, Kumar, McMahan: Distributed Mean Estimation with Limited Communication, ICML 2017, section 3.
    """

    code: ClassVar[int] = 2

    def parameter(self, shapes: Shapes) -> int:
        """Return 0: this map has no parameter."""
        return 0

    def shapes(self, shapes: Shapes) -> Shapes:
        """Return the shape of one array: the rotated values."""
        return ((rotated_length(size_of(shapes)),),)

    def compress(self, values: Array, shapes: Shapes, seed: bytes) -> Array:
        """Rotate; see `Compression.compress`."""
        return Rotation(size_of(shapes), seed).rotate(values)

    def expand(self, values: Array, shapes: Shapes, seed: bytes) -> Array:
        """Rotate back; see `Compression.expand`."""
        return Rotation(size_of(shapes), seed).rotate_back(values)


@dataclass(frozen=True, slots=True)
class LowRank(Compression):
    """Multiply each matrix of the update by a random matrix of orthonormal rows, which leaves `rank` rows or columns.

    Of a matrix of shape `(m, n)` with `n >= m`, clients send `update @ A.T` with a random `A` of shape `(rank, n)`;
    with `m > n` they send `A @ update`, where `A` has the shape `(rank, m)`. The server multiplies the mean by `A`
    again, so the model moves by a matrix of at most this rank, as in the adapters of LoRA with a frozen `A`. An array
    of more than two axes is taken as a matrix with as many rows as its first axis has entries. Arrays of fewer axes,
    and those whose longer side is at most `rank`, are sent whole.

    The server also multiplies the mean of a matrix by `n / rank` (`m / rank` if `m > n`), so the result is unbiased:
    over the choice of `A`, the expected mean is the true one.

    Args:
        rank: At least 1.

    Raises:
        ConfigError: The rank is not a whole number from 1 to 2^32 - 1.

    Source: Konecny et al.: Federated Learning: Strategies for Improving Communication Efficiency, 2016, section 2
    ("low rank"); Sun et al.: Improving LoRA in Privacy-preserving Federated Learning, ICLR 2024, section 4.
    """

    rank: int
    code: ClassVar[int] = 3

    def __post_init__(self) -> None:
        whole = isinstance(self.rank, int | np.integer) and not isinstance(self.rank, bool)
        if not whole or not 1 <= self.rank < 1 << 32:
            raise ConfigError(f"rank {self.rank!r:.50} must be a whole number from 1 to 2^32 - 1")

    def parameter(self, shapes: Shapes) -> int:
        """Return the rank."""
        return int(self.rank)

    def shapes(self, shapes: Shapes) -> Shapes:
        """Return the shape of each array after the map.

        Raises:
            ConfigError: No array is a matrix whose longer side is above `rank`.
        """
        if not any(map(self._shrinks, shapes)):
            raise ConfigError(
                f"LowRank({self.rank}) has no effect on arrays of shapes {list(shapes[:5])!s:.200}: needed a matrix "
                f"with a side longer than {self.rank}"
            )
        return tuple(self._after(shape) if self._shrinks(shape) else shape for shape in shapes)

    def compress(self, values: Array, shapes: Shapes, seed: bytes) -> Array:
        """Multiply by the random matrices; see `Compression.compress`."""
        parts = []
        for number, (part, shape) in enumerate(zip(_cut(values, shapes), shapes, strict=True)):
            if self._shrinks(shape):
                matrix, rows = part.reshape(_matrix(shape)), self._rows(shape, seed, number).astype(values.dtype)
                part = matrix @ rows.T if matrix.shape[1] >= matrix.shape[0] else rows @ matrix
            parts.append(part.reshape(-1))
        return np.concatenate(parts)

    def expand(self, values: Array, shapes: Shapes, seed: bytes) -> Array:
        """Multiply back; see `Compression.expand`."""
        parts = []
        for number, (part, shape) in enumerate(zip(_cut(values, self.shapes(shapes)), shapes, strict=True)):
            if self._shrinks(shape):
                matrix, rows = part.reshape(self._after(shape)), self._rows(shape, seed, number).astype(values.dtype)
                height, width = _matrix(shape)
                part = matrix @ rows if width >= height else rows.T @ matrix
                part = part * part.dtype.type(max(height, width) / self.rank)
            parts.append(part.reshape(-1))
        return np.concatenate(parts)

    def _shrinks(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 1 and math.prod(shape) > 0 and max(_matrix(shape)) > self.rank

    def _after(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        height, width = _matrix(shape)
        return (height, int(self.rank)) if width >= height else (int(self.rank), width)

    def _rows(self, shape: tuple[int, ...], seed: bytes, number: int) -> npt.NDArray[np.float64]:
        return _orthonormal_rows(int(self.rank), max(_matrix(shape)), map_seed(seed, number))


KINDS: dict[int, type[Compression]] = {kind.code: kind for kind in (RandomK, RandomRotation, LowRank)}


def map_seed(seed: bytes, number: int) -> bytes:
    """Return the 32-byte seed of one of several maps that follow from a seed."""
    return hashlib.sha256(b"secfed/encoding/v1 map" + number.to_bytes(4, "little") + seed).digest()


def size_of(shapes: Shapes) -> int:
    """Return the number of values in arrays of these shapes."""
    return sum(math.prod(shape) for shape in shapes)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _cut(values: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    return np.split(values, np.cumsum([math.prod(shape) for shape in shapes])[:-1])


@lru_cache(4)  # the same for all clients of a sum
def _chosen(size: int, count: int, seed: bytes) -> npt.NDArray[np.int64]:
    """Return, ascending, the places of the `count` smallest among `size` random words; of equal ones the first."""
    words = prg.expand(seed, size, "<u8")
    last = np.partition(words, count - 1)[count - 1]
    below, equal = np.flatnonzero(words < last), np.flatnonzero(words == last)
    chosen = np.sort(np.concatenate([below, equal[: count - len(below)]]))
    chosen.flags.writeable = False
    return chosen


@lru_cache(16)
def _orthonormal_rows(count: int, size: int, seed: bytes) -> npt.NDArray[np.float64]:
    """Return the Gram-Schmidt orthonormalization of `count` rows of `size` random numbers, symmetric about 0."""
    random = prg.expand(seed, count * size, "<u4").astype(np.float64).reshape(count, size)
    columns, triangle = np.linalg.qr((random - (2.0**32 - 1) / 2).T)
    rows = np.ascontiguousarray((columns * np.where(np.diag(triangle) < 0, -1.0, 1.0)).T)
    rows.flags.writeable = False
    return rows
