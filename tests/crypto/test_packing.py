"""Vectors to bytes and back, against big integers and single bits."""

from typing import Any

import numpy as np
import pytest

from secfed.crypto import packing
from secfed.crypto.ring import narrowest_dtype


def naive_pack(vector: Any, bits: int) -> bytes:
    """The specification in one big integer."""
    number = sum((int(entry) & (1 << bits) - 1) << bits * i for i, entry in enumerate(vector))
    return number.to_bytes(-(-len(vector) * bits // 8), "little")


def naive_unpack(data: bytes, length: int, bits: int) -> list[int]:
    number = int.from_bytes(data, "little")
    return [number >> bits * i & (1 << bits) - 1 for i in range(length)]


def pack_by_bits(vector: Any, bits: int) -> bytes:
    """The specification in single bits: fast enough for long vectors."""
    rows = np.unpackbits(vector.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return np.packbits(rows[:, :bits], bitorder="little").tobytes()


@pytest.mark.sampled(8)
@pytest.mark.parametrize("bits", range(1, 65))
def test_packing_is_that_of_big_integers(bits: int) -> None:
    rng = np.random.default_rng(bits)
    dtype = narrowest_dtype(bits)
    for length in (1, 2, 3, 7, 8, 9, 31, 63, 64, 65, 127, 129, 301):
        for vector in (
            rng.integers(0, 1 << min(bits, 63), length, np.uint64).astype(dtype),
            np.full(length, (1 << bits) - 1, dtype),
            rng.integers(0, np.iinfo(dtype).max, length, dtype, endpoint=True),  # bits beyond are dropped
        ):
            before = vector.copy()
            data = packing.pack(vector, bits)
            assert data == naive_pack(vector, bits)
            assert len(data) == packing.packed_bytes(length, bits)
            assert packing.unpack(data, length, bits, dtype).tolist() == naive_unpack(data, length, bits)
            assert packing.unpack(memoryview(data), length, bits, dtype).dtype == dtype
            assert np.array_equal(vector, before)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("bits", [1, 3, 7, 9, 13, 16, 17, 31, 33, 53, 63])
@pytest.mark.parametrize("extra", [-1, 0, 1, 3])
def test_packing_crosses_its_chunks(bits: int, extra: int) -> None:
    length = packing.CHUNK_ENTRIES + extra
    dtype = narrowest_dtype(bits)
    vector = np.random.default_rng(bits).integers(0, 1 << bits, length, np.uint64).astype(dtype)
    data = packing.pack(vector, bits)
    assert data == pack_by_bits(vector, bits)
    assert np.array_equal(packing.unpack(data, length, bits, dtype), vector)


def test_packing_takes_vectors_of_any_stride() -> None:
    wide = np.arange(300, dtype=np.uint16)
    for vector in (wide[::3], wide[::-3]):
        for bits in (9, 13, 16):
            assert packing.pack(vector, bits) == naive_pack(vector, bits)
