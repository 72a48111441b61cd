import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto.ring import narrowest_dtype, signed


@pytest.mark.parametrize(
    ("bits", "width"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (32, 32), (33, 64), (63, 64), (64, 64)]
)
def test_the_narrowest_dtype_holds_all_numbers_and_a_narrower_one_does_not(bits: int, width: int) -> None:
    assert narrowest_dtype(bits) == np.dtype(f"u{width // 8}")


@given(bits=st.integers(2, 64), data=st.data())
def test_signed_numbers_come_back_from_the_ring(bits: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(-(1 << bits - 1), (1 << bits - 1) - 1), min_size=1, max_size=20))
    vector = np.array([number % (1 << bits) for number in numbers], np.uint64).astype(narrowest_dtype(bits))
    assert signed(vector, bits).tolist() == numbers
    assert signed(vector, bits).dtype == np.int64
