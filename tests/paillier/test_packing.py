"""Slots: as many entries as fit, and sums that stay apart; what is no sum comes back as nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.errors import ConfigError, EncodingError
from secfed.paillier.packing import Packing

SMALL = Packing(10, 1000, 3, 100)


@given(st.integers(1, 80), st.integers(1, 1 << 20), st.integers(1, 50), st.integers(64, 700), st.data())
def test_sums_of_plaintexts_are_plaintexts_of_sums(
    length: int, entry_max: int, additions: int, plaintext_bits: int, data: st.DataObject
) -> None:
    packing = Packing(length, entry_max, additions, plaintext_bits)
    seed = data.draw(st.integers(0, 1 << 32))
    rows = np.random.default_rng(seed).integers(0, entry_max + 1, (additions, length), np.uint64)
    rows[:, 0] = entry_max
    packed = [packing.pack(row) for row in rows]
    sums = [sum(column) for column in zip(*packed, strict=True)]
    assert all(total < 1 << plaintext_bits for total in sums)
    found = packing.unpack(sums, additions)
    assert found is not None
    assert found.tolist() == rows.sum(axis=0).tolist()
    assert packing.unpack(sums, additions - 1) is None


def test_plaintexts_of_another_number_are_no_sum() -> None:
    plaintexts = SMALL.pack(np.ones(10, np.uint64))
    assert len(plaintexts) == 2
    assert SMALL.unpack(plaintexts, 1) is not None
    assert SMALL.unpack(plaintexts[:1], 1) is None
    assert SMALL.unpack([*plaintexts, plaintexts[0]], 1) is None


def test_entries_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EncodingError, match="above the largest, 1000"):
        SMALL.pack(np.full(10, 1001, np.uint64))
    with pytest.raises(EncodingError, match=r"shape \(9,\)"):
        SMALL.pack(np.ones(9, np.uint64))


@pytest.mark.parametrize("fields", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_layout_of_nothing_is_refused(fields: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        Packing(*fields, 100)


def test_slot_of_more_than_64_bits_is_refused() -> None:
    assert Packing(1, (1 << 64) - 1, 1, 100).slot_bits == 64
    with pytest.raises(ConfigError, match="needs 65 bits"):
        Packing(1, (1 << 64) - 1, 2, 100)


def test_entry_that_is_written_meanwhile_overflows_no_slot() -> None:
    packing = Packing(length=100, entry_max=7, additions=4, plaintext_bits=255)
    entries = np.zeros(100, np.uint8)
    slices = packing.slices(entries, 1)
    assert next(slices) == [0]
    entries[:] = 255
    with pytest.raises(EncodingError, match="a slot could overflow"):
        next(slices)
