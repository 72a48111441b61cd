"""The rotation: orthonormal, undone exactly enough, public by seed, and flat."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto import prg
from secfed.encoding.rotation import Rotation, rotated_length, walsh_hadamard
from secfed.errors import ConfigError, EncodingError

SIZES = [1, 2, 3, 5, 6, 7, 8, 9, 100, 127, 128, 129, 200, 1000, 1025, 5000]


def seed(number: int) -> bytes:
    return number.to_bytes(32, "little")


def hadamard(size: int) -> np.ndarray:
    """The matrix by its definition: the sign is the parity of the bits that row and column share."""
    return np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)]) / math.sqrt(size)


def matrix(rotation: Rotation) -> np.ndarray:
    return np.stack([rotation.rotate(row) for row in np.eye(rotation.size)], axis=1)


@pytest.mark.parametrize("exponent", range(10))
def test_transform_is_the_matrix_of_its_definition(exponent: int) -> None:
    size = 1 << exponent
    values = np.random.default_rng(exponent).normal(size=size)
    expected = hadamard(size) @ values
    walsh_hadamard(values)
    np.testing.assert_allclose(values, expected, atol=1e-14 * math.sqrt(size))


@pytest.mark.parametrize("exponent", [0, 1, 7, 8, 14, 15, 17])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-5)])
def test_transform_is_its_own_inverse(exponent: int, dtype: type, tolerance: float) -> None:
    values = np.random.default_rng(exponent).normal(size=1 << exponent).astype(dtype)
    copy = values.copy()
    walsh_hadamard(copy)
    walsh_hadamard(copy)
    np.testing.assert_allclose(copy, values, atol=tolerance)


def test_transform_of_many_blocks_is_the_product_of_smaller_ones() -> None:
    """2^16 values as a matrix: transforming rows, then columns, gives the same."""
    values = np.random.default_rng(1).normal(size=1 << 16)
    table = values.reshape(256, 256)
    expected = hadamard(256) @ table @ hadamard(256)
    walsh_hadamard(values)
    np.testing.assert_allclose(values.reshape(256, 256), expected, atol=1e-12)


@pytest.mark.parametrize("size", [0, 3, 6, 100])
def test_transform_of_other_lengths_is_refused(size: int) -> None:
    with pytest.raises(EncodingError, match=f"power of two, found {size}"):
        walsh_hadamard(np.zeros(size))


def test_transform_of_every_other_value_is_refused() -> None:
    with pytest.raises(EncodingError, match="contiguous"):
        walsh_hadamard(np.zeros(8)[::2])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 7, 8, 13, 100])
def test_rotation_is_orthonormal(size: int) -> None:
    columns = matrix(Rotation(size, seed(size)))
    np.testing.assert_allclose(columns.T @ columns, np.eye(size), atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_rotating_back_undoes_rotating_and_the_norm_is_kept(size: int) -> None:
    rotation = Rotation(size, seed(size))
    values = np.random.default_rng(size).normal(size=size)
    kept = values.copy()
    rotated = rotation.rotate(values)
    assert rotated.shape == (rotation.length,)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(values), rel=1e-13)
    back = rotation.rotate_back(rotated)
    assert back.shape == (size,)
    np.testing.assert_allclose(back, values, atol=1e-13)
    assert (values == kept).all()


def test_rotation_of_a_sum_is_the_sum_of_rotations() -> None:
    rotation = Rotation(100, seed(1))
    a, b = np.random.default_rng(1).normal(size=(2, 100))
    np.testing.assert_allclose(rotation.rotate(a + b), rotation.rotate(a) + rotation.rotate(b), atol=1e-13)


def test_same_seed_gives_the_same_rotation_and_another_seed_another() -> None:
    values = np.random.default_rng(1).normal(size=300)
    first = Rotation(300, seed(1)).rotate(values)
    assert (first == Rotation(300, seed(1)).rotate(values)).all()
    assert (first != Rotation(300, seed(2)).rotate(values)).mean() > 0.9


@pytest.mark.parametrize("size", [8, 100])
def test_rotation_is_that_of_its_description(size: int) -> None:
    """Signs by single bits of the keystream, blocks by their matrix."""
    rotation = Rotation(size, seed(3))
    spread = rotation.spread
    values = np.zeros(rotation.length)
    values[:size] = np.random.default_rng(1).normal(size=size)
    stream = prg.keystream(seed(3), 2 * spread // 8)
    signs = [1 - 2 * (stream[i // 8] >> i % 8 & 1) for i in range(2 * spread)]
    expected = values.copy()
    starts = [0] if rotation.length == spread else [0, rotation.length - spread]
    for number, start in enumerate(starts):
        block = expected[start : start + spread]
        expected[start : start + spread] = hadamard(spread) @ (block * signs[number * spread : (number + 1) * spread])
    np.testing.assert_allclose(rotation.rotate(values[:size]), expected, atol=1e-13)


def test_signs_are_the_same_in_every_chunk() -> None:
    """A block longer than the chunks in which signs are flipped: a single value's rotation is its sign, everywhere."""
    size = 1 << 18
    rotation = Rotation(size, seed(4))
    bits = np.unpackbits(prg.expand(seed(4), size // 8, np.uint8), bitorder="little")
    rotated = np.ones(size)
    walsh_hadamard(rotated)  # concentrated in value 0
    back = rotation.rotate_back(rotated * 0 + np.eye(1, size)[0])
    np.testing.assert_array_equal(np.sign(back), 1 - 2 * bits.astype(int))


@given(st.integers(1, 10**9))
def test_length_is_at_most_a_quarter_more_and_blocks_hold_at_least_half(size: int) -> None:
    rotation = Rotation(size, bytes(32))
    assert size <= rotation.length <= 1.25 * size
    assert rotation.length == rotated_length(size)
    assert rotation.spread & (rotation.spread - 1) == 0
    assert rotation.length / 2 < rotation.spread <= rotation.length


@pytest.mark.parametrize("size", [1 << 14, 1000, 3 << 12, (1 << 14) + 1])
def test_one_large_value_is_spread_over_all(size: int) -> None:
    """No coordinate beyond 7 deviations: for one seed in 10^8, and the seeds are fixed."""
    for place in (0, size // 2, size - 1):
        values = np.zeros(size)
        values[place] = 5.0
        rotation = Rotation(size, seed(place))
        rotated = rotation.rotate(values)
        assert np.abs(rotated).max() <= 7 * 5.0 / math.sqrt(rotation.spread)


def test_coordinates_of_a_rotated_vector_look_normal() -> None:
    values = np.zeros(1 << 14)
    values[:40] = np.random.default_rng(1).exponential(size=40)
    rotated = Rotation(1 << 14, seed(9)).rotate(values)
    rotated /= rotated.std()
    assert abs((rotated**4).mean() - 3) < 0.5
    assert np.abs(rotated).max() < 6


def test_float32_stays_float32_and_other_types_become_float64() -> None:
    rotation = Rotation(100, seed(1))
    values = np.random.default_rng(1).normal(size=100)
    assert rotation.rotate(values.astype(np.float32)).dtype == np.float32
    assert rotation.rotate_back(rotation.rotate(values.astype(np.float32))).dtype == np.float32
    assert rotation.rotate(values.astype(np.float16)).dtype == np.float64
    np.testing.assert_allclose(rotation.rotate(values.astype(np.float32)), rotation.rotate(values), atol=1e-5)


def test_other_shapes_are_refused() -> None:
    rotation = Rotation(100, seed(1))
    with pytest.raises(EncodingError, match=r"shape \(99,\), needed \(100,\)"):
        rotation.rotate(np.zeros(99))
    with pytest.raises(EncodingError, match=r"shape \(10, 10\)"):
        rotation.rotate_back(np.zeros((10, 10)))


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="size 0"):
        Rotation(0, bytes(32))
    with pytest.raises(ConfigError, match="31 bytes"):
        Rotation(4, bytes(31))
