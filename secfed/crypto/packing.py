"""Vectors of `modulus_bits`-bit integers to bytes without gaps, and back.

Entry i fills bits `i*bits .. (i+1)*bits - 1` of the byte string, least significant bit first. At short,
regular intervals an entry ends where a machine word ends. All these periods are processed at once, column by column, a
cache-sized chunk at a time.
"""

from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.unsignedinteger[Any]]
# Entries processed at a time; a multiple of every period (64 and its divisors).
CHUNK_ENTRIES = 1 << 17


def packed_bytes(length: int, bits: int) -> int:
    """Return how many bytes a packed vector has."""
    return -(-length * bits // 8)


def pack(vector: Vector, bits: int) -> bytes:
    """Pack a vector.

    Args:
        vector: Shape `(length,)`; only the low `bits` bits of each entry are kept.
        bits: Bits of an entry, at most those of the dtype.

    Returns:
        `ceil(length * bits / 8)` bytes; unused bits of the last are zero.
    """
    if bits == 8 * vector.itemsize:
        return vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
    out = bytearray(packed_bytes(len(vector), bits))
    for start in range(0, len(vector), CHUNK_ENTRIES):
        chunk = vector[start : start + CHUNK_ENTRIES]
        words = _pack_chunk(chunk, bits).view(np.uint8)
        offset = start * bits // 8
        size = packed_bytes(len(chunk), bits)
        out[offset : offset + size] = words[:size].data
    return bytes(out)


def _pack_chunk(chunk: Vector, bits: int) -> Vector:
    width = 8 * chunk.itemsize
    period = width // gcd(bits, width)
    rows = -(-len(chunk) // period)
    columns = np.zeros((period, rows), chunk.dtype)
    whole = len(chunk) // period
    columns[:, :whole] = chunk[: whole * period].reshape(whole, period).T
    if whole < rows:
        columns[: len(chunk) - whole * period, whole] = chunk[whole * period :]
    columns &= chunk.dtype.type((1 << bits) - 1)
    words = np.zeros((period * bits // width, rows), chunk.dtype)
    spare = np.empty(rows, chunk.dtype)
    for i in range(period):
        word, shift = divmod(i * bits, width)
        words[word] |= np.left_shift(columns[i], shift, out=spare)
        if shift + bits > width:
            words[word + 1] |= np.right_shift(columns[i], width - shift, out=spare)
    return np.ascontiguousarray(words.T, chunk.dtype.newbyteorder("<")).reshape(-1)


def unpack(data: bytes | memoryview, length: int, bits: int, dtype: np.dtype[Any]) -> Vector:
    """Unpack a vector, the inverse of `pack`.

    Returns:
        Shape `(length,)`, of the dtype; read-only if nothing had to be copied.
    """
    if bits == 8 * dtype.itemsize:
        return np.frombuffer(data, dtype.newbyteorder("<"), length).astype(dtype, copy=False)
    vector = np.empty(length, dtype)
    for start in range(0, length, CHUNK_ENTRIES):
        count = min(CHUNK_ENTRIES, length - start)
        offset = start * bits // 8
        vector[start : start + count] = _unpack_chunk(
            data[offset : offset + packed_bytes(count, bits)], count, bits, dtype
        )
    return vector


def _unpack_chunk(data: bytes | memoryview, count: int, bits: int, dtype: np.dtype[Any]) -> Vector:
    width = 8 * dtype.itemsize
    period = width // gcd(bits, width)
    rows = -(-count // period)
    per_row = period * bits // width
    if len(data) < rows * per_row * dtype.itemsize:
        data = bytes(data) + bytes(rows * per_row * dtype.itemsize - len(data))
    words = np.ascontiguousarray(np.frombuffer(data, dtype.newbyteorder("<")).reshape(rows, per_row).T, dtype)
    columns = np.empty((period, rows), dtype)
    spare = np.empty(rows, dtype)
    for i in range(period):
        word, shift = divmod(i * bits, width)
        np.right_shift(words[word], shift, out=columns[i])
        if shift + bits > width:
            columns[i] |= np.left_shift(words[word + 1], width - shift, out=spare)
    columns &= dtype.type((1 << bits) - 1)
    return columns.T.reshape(-1)[:count]
