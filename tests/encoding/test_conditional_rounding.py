"""Rounding to bounded vectors: the bound holds always, and without bias where nothing has to be redrawn."""

import doctest
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from secfed.crypto import prg
from secfed.encoding import conditional_rounding
from secfed.encoding.conditional_rounding import Lattice, clip_by_norm
from secfed.errors import ConfigError, EncodingError
from tests.examples import examples

NUMBERS = st.floats(-10, 10) | st.floats(allow_nan=False, allow_infinity=False)
NORMS = st.sampled_from([1.0, 0.1, 3.0, 1e-100, 1e100]) | st.floats(1e-100, 1e100)


def seed(number: int) -> bytes:
    return number.to_bytes(32, "little")


def square(values: np.ndarray) -> Fraction:
    return sum((Fraction(value) ** 2 for value in values.tolist()), Fraction(0))


def unit(size: int, number: int) -> np.ndarray:
    values = np.random.default_rng(number).normal(size=size)
    return values / np.linalg.norm(values)


def test_examples_in_the_documentation_run() -> None:
    outcome = doctest.testmod(conditional_rounding)
    assert outcome.attempted >= 4
    assert outcome.failed == 0


@examples(34, 300)
@given(st.lists(NUMBERS, max_size=20), NORMS)
def test_clipped_norm_computed_exactly_is_never_above_the_bound(numbers: list[float], clip_norm: float) -> None:
    values = np.array(numbers, dtype=np.float64)
    clipped = clip_by_norm(values, clip_norm)
    assert square(clipped) <= Fraction(clip_norm) ** 2
    room = 1 - (len(numbers) + 8) * 2.0**-50
    if square(values) <= (Fraction(clip_norm) * Fraction(room)) ** 2:
        assert (clipped == values).all()
    else:
        assert square(clipped) >= (Fraction(clip_norm) * Fraction(room)) ** 2
        scale = Fraction(float(np.abs(clipped).max())) / Fraction(float(np.abs(values).max()))
        for found, value in zip(clipped.tolist(), numbers, strict=True):
            exact = Fraction(value) * scale
            assert abs(Fraction(found) - exact) <= abs(exact) * Fraction(2) ** -48 + Fraction(clip_norm) / 2**700


@given(st.lists(NUMBERS, min_size=1, max_size=20), NORMS)
def test_clipping_twice_is_clipping_once(numbers: list[float], clip_norm: float) -> None:
    once = clip_by_norm(np.array(numbers), clip_norm)
    assert (clip_by_norm(once, clip_norm) == once).all()


@pytest.mark.parametrize("size", [10**5, 10**6])
def test_long_vectors_are_clipped_to_nearly_the_bound(size: int) -> None:
    clipped = clip_by_norm(np.random.default_rng(1).normal(size=size), 0.7)
    assert math.sqrt(math.fsum((clipped**2).tolist())) == pytest.approx(0.7, rel=3e-9)
    assert math.fsum((clipped**2).tolist()) <= 0.49


def test_clipping_does_not_change_what_came_in() -> None:
    values = np.array([3.0, 4.0])
    assert clip_by_norm(values, 1.0) is not values
    assert clip_by_norm(values, 10.0) is not values
    assert values.tolist() == [3.0, 4.0]


def test_float32_is_clipped_in_float64() -> None:
    clipped = clip_by_norm(np.array([3, 4], np.float32), 1.0)
    assert clipped.dtype == np.float64
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-13)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(odd: float) -> None:
    values = np.array([0.0, 1.0, odd, 2.0])
    with pytest.raises(EncodingError, match="value 2 is not finite"):
        clip_by_norm(values, 1.0)
    with pytest.raises(EncodingError, match="value 2 is not finite"):
        Lattice(0.1, 1.0, 4).round(values, seed=seed(1))


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, math.inf, 1e-101, 1e101])
def test_impossible_clip_norms_are_refused(clip_norm: float) -> None:
    with pytest.raises(ConfigError, match="clip_norm"):
        clip_by_norm(np.zeros(1), clip_norm)
    with pytest.raises(ConfigError, match="clip_norm"):
        Lattice(1.0, clip_norm, 1)


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf, 1e-9])
def test_impossible_steps_are_refused(step: float) -> None:
    with pytest.raises(ConfigError, match="step"):
        Lattice(step, 1.0, 1)


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="dimension 0"):
        Lattice(1.0, 1.0, 0)
    with pytest.raises(EncodingError, match=r"shape \(3,\), needed \(4,\)"):
        Lattice(1.0, 1.0, 4).round(np.zeros(3), seed=seed(1))
    with pytest.raises(EncodingError, match="one dimension"):
        clip_by_norm(np.zeros((2, 2)), 1.0)


@examples(24, 200)
@given(
    st.integers(1, 40), st.floats(1e-3, 1e5), st.integers(0, 2**32), st.floats(0, 3), st.sampled_from([0.0, 0.5, 0.99])
)
def test_bound_holds_for_every_vector(dimension: int, norm: float, number: int, size: float, shift: float) -> None:
    """Also for those that were never clipped."""
    lattice = Lattice(1.0, norm, dimension)
    values = unit(dimension, number) * norm * size
    values = np.trunc(values) + shift * np.sign(values)  # fractions that lengthen the most
    rounded = lattice.round(values, seed=seed(number))
    assert rounded.dtype == np.int64
    exact = sum(value**2 for value in rounded.tolist())
    assert exact <= lattice.largest_square
    assert sum(map(abs, rounded.tolist())) <= lattice.sensitivity_l1 * (1 + 1e-15)
    assert math.sqrt(exact) <= lattice.sensitivity


@examples(24, 200)
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=9), st.floats(0.05, 20))
def test_chance_of_acceptance_is_that_of_the_theory(numbers: list[float], norm: float) -> None:
    """All roundings of a small vector, with their probabilities."""
    values = clip_by_norm(np.array(numbers), norm)
    lattice = Lattice(1.0, norm, len(values))
    floor = np.floor(values)
    fractions = (values - floor).tolist()
    accepted = 0.0
    for ups in itertools.product((0, 1), repeat=len(values)):
        if float(((floor + ups) ** 2).sum()) <= lattice.largest_square:
            accepted += math.prod(f if up else 1 - f for f, up in zip(fractions, ups, strict=True))
    assert accepted >= 1 - math.exp(-1 / 2) - 1e-9


def test_bound_is_that_of_the_paper() -> None:
    c, g, d = 2.0, 0.01, 1000
    first = (c / g) ** 2 + d / 4 + math.sqrt(2 * math.log(1 / math.exp(-0.5))) * (c / g + math.sqrt(d) / 2)
    second = (c / g + math.sqrt(d)) ** 2
    assert Lattice(g, c, d).largest_square == math.floor(min(first, second))
    assert Lattice(g, c, d).sensitivity == math.sqrt(math.floor(first))
    assert Lattice(1.0, 0.5, 1).largest_square == 1  # the first, 0.25 + 0.25 + 0.5 + 0.5, against 2.25
    assert Lattice(100.0, 0.5, 1).largest_square == 1  # never less


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("whole", [0, -1, 17])
def test_rounding_is_unbiased(fraction: float, whole: int) -> None:
    """The mean of 2^16 roundings is within six deviations, and the seed is fixed."""
    size = 1 << 16
    values = np.full(size, whole + fraction)
    lattice = Lattice(1.0, 30.0 * math.sqrt(size), size)
    rounded = lattice.round(values, seed=seed(5))
    assert set(rounded.tolist()) <= {whole, whole + 1}
    assert abs(rounded.mean() - values[0]) <= 6 * math.sqrt(fraction * (1 - fraction) / size)


def test_whole_numbers_stay_as_they_are() -> None:
    lattice = Lattice(0.5, 10.0, 3)
    assert lattice.round(np.array([1.5, -2.0, 0.0]), seed=seed(1)).tolist() == [3, -4, 0]


def test_decoding_is_the_inverse_up_to_a_step() -> None:
    values = unit(1000, 3)
    lattice = Lattice(0.001, 1.0, 1000)
    decoded = lattice.decode(lattice.round(values, seed=seed(1)))
    assert np.abs(decoded - values).max() <= 0.001 * (1 + 1e-9)


@examples(24, 200)
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=12), st.integers(0, 2**64))
def test_rounding_is_that_of_its_description(numbers: list[float], number: int) -> None:
    """In Python's numbers: the k-th try takes the k-th 32 bytes of the keystream as its seed."""
    values = np.array(numbers)
    norm = float(np.linalg.norm(values)) * (1 + 1e-9)
    assume(norm > 1e-3)
    lattice = Lattice(1.0, norm, len(values))
    tries = prg.keystream(seed(number), 64 * 32)
    for k in range(64):
        random = prg.expand(tries[32 * k : 32 * k + 32], len(values), "u4").tolist()
        expected = []
        for y, r in zip(numbers, random, strict=True):
            f = math.floor(y)
            expected.append(f + (r < (y - f) * 2**32))
        if sum(q**2 for q in expected) <= lattice.largest_square:
            break
    assert lattice.round(values, seed=seed(number)).tolist() == expected


def test_some_vectors_do_need_a_second_try() -> None:
    """Fractions of a half and the full norm: the previous test would else compare first tries alone."""
    values = np.full(16, 0.5)
    lattice = Lattice(1.0, 2.0, 16)
    first = [conditional_rounding._rounded(values, prg.keystream(seed(number), 32)) for number in range(200)]
    squares = [float(rounded @ rounded) for rounded in first]
    assert 0 < sum(value > lattice.largest_square for value in squares) < 150
    assert all((lattice.round(values, seed=seed(i)) ** 2).sum() <= lattice.largest_square for i in range(200))


def test_rounding_that_is_never_accepted_ends_in_rounding_towards_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unlucky(steps: np.ndarray, seed: bytes) -> np.ndarray:
        asked.append(seed)
        return np.sign(steps) * (np.abs(steps) + 1e6)

    monkeypatch.setattr(conditional_rounding, "_rounded", unlucky)
    lattice = Lattice(1.0, 10.0, 3)
    assert lattice.round(np.array([2.9, -3.9, 0.5]), seed=seed(1)).tolist() == [2, -3, 0]
    assert len(set(asked)) == 64


@given(st.integers(1, 30), st.floats(1e-2, 6e7), st.integers(0, 2**32))
def test_rounding_towards_zero_keeps_the_bound(dimension: int, norm: float, number: int) -> None:
    lattice = Lattice(1.0, norm, dimension)
    steps = clip_by_norm(unit(dimension, number) * norm * 2, norm)
    assert sum(int(value) ** 2 for value in np.trunc(steps).tolist()) <= lattice.largest_square


def test_same_seed_rounds_alike_and_another_seed_does_not() -> None:
    lattice = Lattice(0.01, 1.0, 500)
    values = unit(500, 1)
    first = lattice.round(values, seed=seed(1))
    assert (first == lattice.round(values, seed=seed(1))).all()
    assert (first != lattice.round(values, seed=seed(2))).any()


@pytest.mark.parametrize("size", [2**15 - 1, 2**15 + 1, 2**16 + 5])
def test_values_are_treated_alike_in_every_chunk(size: int) -> None:
    values = unit(size, 2) * 1000
    rounded = Lattice(1.0, 2000.0, size).round(values, seed=seed(7))
    random = prg.expand(prg.keystream(seed(7), 32), size, "u4")
    floor = np.floor(values)
    np.testing.assert_array_equal(rounded, floor + (random < (values - floor) * 2.0**32))


def test_context_names_every_parameter() -> None:
    contexts = {lattice.context for lattice in (Lattice(0.1, 1.0, 4), Lattice(0.2, 1.0, 4), Lattice(0.1, 2.0, 4))}
    assert len(contexts | {Lattice(0.1, 1.0, 5).context}) == 4
