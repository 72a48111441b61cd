"""Randomised Hadamard rotation: spreads a vector over all its coordinates, so that none of them is large.

A rotated sum of norm s has coordinates of about s / sqrt(dimension), whatever the vectors were; the modulus of a secure
sum can then be small. The rotation is public: it hides nothing.

Source: Suresh, Yu, Kumar, McMahan: Distributed Mean Estimation with Limited Communication, ICML 2017, section 3. The
two overlapping blocks, in place of padding to a power of two, are our own.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.crypto import prg
from secfed.errors import ConfigError, EncodingError

Array = npt.NDArray[np.floating[Any]]
# Factors of the transform, and columns processed at a time, so that the two buffers stay in the second-level cache.
_RADIX = 128
_BLOCK = 1 << 14
# Pad if that makes the vector at most a quarter longer.
_MOST_PADDING = 0.25
_SIGN_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Rotation:
    """A random rotation of vectors of one size; public, and the same for all clients of a sum.

    A block is rotated by flipping the sign of each value at random and taking the orthonormal Walsh-Hadamard transform,
    which needs a power of two. If at most a quarter more values make the size a power of two, zeros are added and the
    vector is one block. Otherwise nothing is added and there are two blocks: each is the longest power of two that
    fits; the first begins at the vector's start, the second ends at its end. They overlap and are rotated in turn.

    Over the choice of the seed, each coordinate of a rotated vector of norm s is a sum of values with random signs, of
    variance at most `s**2 / spread`: its tails are those of a normal law with that variance, up to a factor of 3.2.
    That holds for vectors that do not depend on the seed, so every session should have a new one.

    Args:
        size: Number of values.
        seed: 32 bytes, public, that decide the signs.

    Raises:
        ConfigError: There is no value, or the seed has another length.
    """

    size: int
    seed: bytes

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size {self.size} must be at least 1")
        if len(self.seed) != prg.SEED_BYTES:
            raise ConfigError(f"the seed of the rotation has {len(self.seed)} bytes, needs {prg.SEED_BYTES}")

    @property
    def length(self) -> int:
        """Coordinates of a rotated vector: `size`, or the next power of two."""
        return rotated_length(self.size)

    @property
    def spread(self) -> int:
        """The fewest coordinates over which a single value is spread: the length of a block."""
        return 1 << (self.length.bit_length() - 1)

    def rotate(self, values: Array) -> Array:
        """Rotate a vector.

        Args:
            values: Shape `(size,)`, finite.

        Returns:
            A new array of shape `(length,)` and of the same Euclidean norm; float32 for float32, otherwise float64.

        Raises:
            EncodingError: The shape is wrong.
        """
        rotated = self._copy(values, self.size)
        for start in self._starts():
            block = rotated[start : start + self.spread]
            self._flip(block, start)
            walsh_hadamard(block)
        return rotated

    def rotate_back(self, rotated: Array) -> Array:
        """Undo `rotate`.

        Args:
            rotated: Shape `(length,)`.

        Returns:
            A new array of shape `(size,)`; float32 for float32, otherwise float64.

        Raises:
            EncodingError: The shape is wrong.
        """
        values = self._copy(rotated, self.length)
        for start in reversed(self._starts()):
            block = values[start : start + self.spread]
            walsh_hadamard(block)
            self._flip(block, start)
        return values[: self.size]

    def _copy(self, values: Array, expected: int) -> Array:
        if values.shape != (expected,):
            raise EncodingError(f"values have shape {values.shape}, needed ({expected},)")
        copy: Array = np.zeros(self.length, np.float32 if values.dtype == np.float32 else np.float64)
        copy[:expected] = values
        return copy

    def _starts(self) -> list[int]:
        return [0] if self.length == self.spread else [0, self.length - self.spread]

    def _flip(self, block: Array, start: int) -> None:
        """Flip signs in place: bit i of the keystream, least significant first in a byte, is value i of the block."""
        size = -(-len(block) // 8)
        random = prg.expand(self.seed, 2 * size, np.uint8)[size:] if start else prg.expand(self.seed, size, np.uint8)
        signs = np.array([1, -1], block.dtype)
        for position in range(0, len(block), _SIGN_CHUNK):
            piece = block[position : position + _SIGN_CHUNK]
            bits = np.unpackbits(random[position // 8 :][: _SIGN_CHUNK // 8], count=len(piece), bitorder="little")
            piece *= signs[bits]


def rotated_length(size: int) -> int:
    """Return the number of coordinates of a rotated vector of `size` values."""
    padded = 1 << (size - 1).bit_length()
    return padded if padded - size <= _MOST_PADDING * size else size


def walsh_hadamard(values: Array) -> None:
    """Take the orthonormal Walsh-Hadamard transform (natural order) of an array in place; it is its own inverse.

    Only sums and differences are taken, in a fixed order, then one multiplication: all machines find the same bits.

    Args:
        values: Shape `(2**k,)`, contiguous, float32 or float64.

    Raises:
        EncodingError: The length is not a power of two, or the array is not contiguous.
    """
    size = len(values)
    if size < 1 or size & (size - 1):
        raise EncodingError(f"the transform needs a power of two, found {size} values")
    if not values.flags.c_contiguous:  # reshaping would copy, and the result be lost
        raise EncodingError("the transform needs a contiguous array")
    scale = values.dtype.type(1 / math.sqrt(size))
    buffers = (np.empty(_BLOCK, values.dtype), np.empty(_BLOCK, values.dtype))
    inner = 1
    # The transform is one of length `radix` along each axis of the array seen as (outer, radix, inner).
    while inner < size:
        radix = min(_RADIX, size // inner)
        last = inner * radix == size
        if inner == 1:  # columns of the transposed array, else numpy's inner loops would be one step long
            columns = values.reshape(-1, radix).T
            _transform_columns(columns, buffers, scale if last else None)
        else:
            for matrix in values.reshape(-1, radix, inner):
                _transform_columns(matrix, buffers, scale if last else None)
        inner *= radix
    if size == 1:
        values *= scale


def _transform_columns(matrix: Array, buffers: tuple[Array, Array], scale: Any) -> None:
    """Transform every column of a matrix of 2^k rows in place, as many columns at a time as a buffer holds."""
    radix, columns = matrix.shape
    width = _BLOCK // radix
    for start in range(0, columns, width):
        piece = matrix[:, start : start + width]
        source, target = (buffer[: piece.size] for buffer in buffers)
        np.copyto(source.reshape(piece.shape), piece)
        half = piece.shape[1]  # one row
        while half < source.size:
            pairs, sums = source.reshape(-1, 2, half), target.reshape(-1, 2, half)
            np.add(pairs[:, 0], pairs[:, 1], out=sums[:, 0])
            np.subtract(pairs[:, 0], pairs[:, 1], out=sums[:, 1])
            source, target = target, source
            half *= 2
        if scale is not None:
            source *= scale
        np.copyto(piece, source.reshape(piece.shape))
