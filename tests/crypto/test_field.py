"""The field modulo 2^31 - 1, against Python's whole numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secfed.crypto import field
from secfed.crypto.field import P
from tests.examples import examples

EDGES = [0, 1, 2, P - 2, P - 1]
ELEMENTS = st.integers(0, P - 1) | st.sampled_from(EDGES)
WORDS = st.integers(0, 2**64 - 1) | st.builds(
    lambda k, d: min(max(k * P + d, 0), 2**64 - 1), st.integers(0, 2**33 + 4), st.integers(-2, 2)
)
VECTORS = hnp.arrays(np.uint64, st.integers(1, 40), elements=ELEMENTS)


def test_modulus_is_the_mersenne_prime() -> None:
    assert P == 2147483647
    assert pow(3, P - 1, P) == 1


def test_reduction_is_right_at_every_edge_of_a_word() -> None:
    multiples = [0, 1, 2, 3, P - 1, P, P + 1, P + 2, 2**31, 2**32, 2**33, 2**33 + 3, 2**33 + 4]
    values = {value for k in multiples for d in range(-3, 4) if 0 <= (value := k * P + d) < 2**64}
    values |= {2**bit + d for bit in range(64) for d in (-1, 0, 1)} | {2**64 - 1, 2**64 - 2}
    values = sorted(value for value in values if 0 <= value < 2**64)
    array = np.array(values, np.uint64)
    assert field.reduce(array).tolist() == [value % P for value in values]
    assert array.tolist() == values


@given(st.lists(WORDS, min_size=1, max_size=50))
def test_reduction_is_the_remainder(values: list[int]) -> None:
    assert field.reduce(np.array(values, np.uint64)).tolist() == [value % P for value in values]


@given(st.lists(st.tuples(ELEMENTS, ELEMENTS), min_size=1, max_size=50))
def test_product_and_difference_are_those_of_whole_numbers(pairs: list[tuple[int, int]]) -> None:
    left, right = (np.array(side, np.uint64) for side in zip(*pairs, strict=True))
    assert field.multiply(left, right).tolist() == [a * b % P for a, b in pairs]
    assert field.subtract(left, right).tolist() == [(a - b) % P for a, b in pairs]
    assert (left.tolist(), right.tolist()) == tuple(map(list, zip(*pairs, strict=True)))


@given(VECTORS, st.integers(0, 2**40))
def test_power_is_that_of_whole_numbers(values: np.ndarray, exponent: int) -> None:
    assert field.power(values, exponent).tolist() == [pow(value, exponent, P) for value in values.tolist()]


@given(VECTORS)
def test_inverse_times_its_element_is_one_and_that_of_zero_is_zero(values: np.ndarray) -> None:
    inverses = field.inverse(values)
    assert field.multiply(values, inverses).tolist() == [int(value != 0) for value in values.tolist()]
    assert all(inverse == 0 for inverse, value in zip(inverses, values, strict=True) if value == 0)


@given(hnp.arrays(np.uint64, hnp.array_shapes(min_dims=1, max_dims=3, max_side=9), elements=ELEMENTS))
def test_product_along_the_last_axis_is_that_of_whole_numbers(values: np.ndarray) -> None:
    expected = np.empty(values.shape[:-1], object)
    for place in np.ndindex(expected.shape):
        expected[place] = np.prod(values[place].astype(object)) % P
    assert field.product(values).tolist() == expected.tolist()


@given(VECTORS, st.integers(1, 70))
def test_table_of_powers_is_right(points: np.ndarray, count: int) -> None:
    table = field.powers(points, count)
    assert table.tolist() == [[pow(point, i, P) for i in range(1, count + 1)] for point in points.tolist()]


@examples(20, 60)
@given(st.data(), st.integers(1, 6), st.integers(0, 30), st.integers(1, 6))
def test_matrix_product_is_that_of_whole_numbers(data: st.DataObject, rows: int, inner: int, columns: int) -> None:
    left = data.draw(hnp.arrays(np.uint64, (rows, inner), elements=ELEMENTS))
    right = data.draw(hnp.arrays(np.uint64, (inner, columns), elements=ELEMENTS))
    expected = (left.astype(object) @ right.astype(object)) % P if inner else np.zeros((rows, columns), object)
    assert field.matmul(left, right).tolist() == expected.tolist()


@pytest.mark.parametrize("value", [P - 1, 0xFFFF, 0x7FFF0000, 0x7FFF8000, 0x7FFEFFFF, 0x55555555])
def test_matrix_product_of_the_largest_size_is_exact_at_the_largest_entries(value: int) -> None:
    """2^20 terms: the sums of halves come within one bit of what float64 holds."""
    terms = 1 << 20
    row = np.full((1, terms), value, np.uint64)
    assert field.matmul(row, row.T).tolist() == [[terms * value * value % P]]


def test_matrix_product_that_float64_could_not_hold_is_refused() -> None:
    row = np.zeros((1, (1 << 20) + 1), np.uint64)
    with pytest.raises(ValueError, match="1048577 inner terms"):
        field.matmul(row, row.T)


def test_matrix_product_of_random_entries_is_that_of_whole_numbers() -> None:
    generator = np.random.default_rng(1)
    left = generator.integers(0, P, (7, 300), np.uint64)
    right = generator.integers(0, P, (300, 5), np.uint64)
    assert field.matmul(left, right).tolist() == ((left.astype(object) @ right.astype(object)) % P).tolist()
