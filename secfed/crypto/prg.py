"""Seeds to vectors: AES-128-CTR keystream, added to a vector in cache-sized chunks.

A seed has 32 bytes: the AES key, then the initial counter block. The keystream is read as little-endian unsigned
integers of the vector's own dtype.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

SEED_BYTES = 32
BLOCK_BYTES = 16
# The keystream chunk and the accumulator's slice fit in the second-level cache together.
CHUNK_BYTES = 1 << 17
# Threads hand over the interpreter lock once per chunk. That costs time, so chunks are longer, despite the cache.
_SHARED_CHUNK_BYTES = 1 << 19
# Below this much keystream a second thread costs more than it saves.
_THREAD_BYTES = 1 << 22

Vector = npt.NDArray[np.unsignedinteger[Any]]


def keystream(seed: bytes, size: int, start: int = 0) -> bytes:
    """Return `size` bytes of the keystream from byte `start` on (SP 800-38A, section 6.5).

    Raises:
        ValueError: The seed does not have 32 bytes, or `start` is not a multiple of 16.
    """
    if start % BLOCK_BYTES:
        raise ValueError(f"start {start} must be a multiple of {BLOCK_BYTES}")
    return _cipher(seed, start // BLOCK_BYTES).update(bytes(size))


class Keystream:
    """The keystream of a seed from its start, read piece by piece.

    Raises:
        ValueError: The seed does not have 32 bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self._cipher = _cipher(seed)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        return self._cipher.update(bytes(size))


def expand(seed: bytes, length: int, dtype: npt.DTypeLike) -> Vector:
    """Expand a seed to a vector.

    Args:
        seed: 32 bytes.
        length: Number of entries.
        dtype: Unsigned integer type of the entries.

    Returns:
        Vector of shape `(length,)`.
    """
    vector = np.zeros(length, dtype)
    accumulate(vector, [seed], [])
    return vector


def accumulate(
    vector: Vector, added: Sequence[bytes], subtracted: Sequence[bytes], threads: int | None = None, start: int = 0
) -> None:
    """Add and subtract the masks of many seeds, in place, modulo the dtype's range.

    Args:
        vector: Shape `(length,)`, unsigned, contiguous; or a part of such a vector.
        added: Seeds whose masks are added.
        subtracted: Seeds whose masks are subtracted.
        threads: How many threads may share the work, by default one for each usable core (`cryptography` from version
            50 releases the interpreter lock; before that one thread is as fast).
        start: Where the part begins: how many bytes of the vector come before it, a multiple of 16.

    Raises:
        ValueError: A seed does not have 32 bytes, or `start` is not a multiple of 16.
    """
    if start % BLOCK_BYTES:
        raise ValueError(f"start {start} must be a multiple of {BLOCK_BYTES}")
    size = vector.nbytes
    count = len(added) + len(subtracted)
    if count == 0 or size == 0:
        return
    if size <= CHUNK_BYTES or size * count < _THREAD_BYTES:
        threads = 1
    elif threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Each thread adds the masks of all seeds to one contiguous part of the vector, cut at a cipher block.
    part = -(-size // (threads * BLOCK_BYTES)) * BLOCK_BYTES
    spans = [(begin, min(begin + part, size), start) for begin in range(0, size, part)]
    if len(spans) == 1:
        return _accumulate_span(vector, added, subtracted, *spans[0], CHUNK_BYTES)
    with ThreadPoolExecutor(len(spans)) as pool:
        for future in [
            pool.submit(_accumulate_span, vector, added, subtracted, *span, _SHARED_CHUNK_BYTES) for span in spans
        ]:
            future.result()  # an exception in a thread must not leave half a mask behind silently


def _accumulate_span(
    vector: Vector,
    added: Sequence[bytes],
    subtracted: Sequence[bytes],
    begin: int,
    end: int,
    start: int,
    chunk_bytes: int,
) -> None:
    """Process the bytes from `begin` to `end` of a vector, or of its part after `start` bytes, chunk by chunk."""
    target = vector[begin // vector.itemsize : -(-end // vector.itemsize)]
    chunk, block = min(chunk_bytes, end - begin), (start + begin) // BLOCK_BYTES
    zeros, stream = np.zeros(chunk, np.uint8), np.empty(chunk, np.uint8)
    words = stream.view(vector.dtype.newbyteorder("<"))
    step = chunk // vector.itemsize
    operations: list[tuple[CipherContext, np.ufunc]]
    operations = [(_cipher(seed, block), np.add) for seed in added]
    operations += [(_cipher(seed, block), np.subtract) for seed in subtracted]
    # Chunks in the outer loop, seeds in the inner one: a slice of the vector gets all masks while it is in the cache.
    for position in range(0, len(target), step):
        piece = target[position : position + step]
        short = len(piece) * vector.itemsize
        source, sink = (zeros, stream) if short == chunk else (zeros[:short], stream[:short])
        mask = words[: len(piece)]
        for cipher, operation in operations:
            cipher.update_into(source, sink)  # type: ignore[arg-type]  # any buffer will do
            operation(piece, mask, out=piece)


def _cipher(seed: bytes, block: int = 0) -> CipherContext:
    """Return the keystream of a seed from the given 16-byte block on."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"seed has {len(seed)} bytes, needed {SEED_BYTES}")
    counter = int.from_bytes(seed[16:32], "big") + block
    nonce = (counter % (1 << 128)).to_bytes(16, "big") if block else seed[16:32]
    return Cipher(algorithms.AES(seed[:16]), modes.CTR(nonce)).encryptor()
