"""Fixed point: rounding without bias, sums that cannot overflow, exact weights; and nothing that is not a number."""

import doctest
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from secfed.crypto import prg
from secfed.encoding import fixed_point
from secfed.encoding.fixed_point import FixedPoint
from secfed.errors import ConfigError, EncodingError
from tests.examples import examples

CLIPS = st.sampled_from([1.0, 4.0, 0.1, 1e-6, 12345.678, 3e20, 1e-200]) | st.floats(1e-30, 1e30)


def seed(number: int) -> bytes:
    return number.to_bytes(32, "little")


def centred(total: np.ndarray, bits: int) -> list[int]:
    """Read entries modulo 2^bits as signed numbers."""
    return [value - (1 << bits) if value >> (bits - 1) else value for value in total.tolist()]


def ring_sum(vectors: list[np.ndarray], bits: int) -> np.ndarray:
    total = sum(vector.astype(object) for vector in vectors) % (1 << bits)
    return total.astype(np.uint64)


@st.composite
def parameters(draw: st.DrawFn) -> FixedPoint:
    bits = draw(st.integers(2, 32))
    clients = draw(st.integers(1, 5000))
    max_weight = draw(st.integers(1, 2**40) | st.integers(1, 1000))
    assume((clients * max_weight * (2 ** (bits - 1) - 1)).bit_length() < 64)
    return FixedPoint(draw(CLIPS), bits, clients, max_weight)


def test_examples_in_the_documentation_run() -> None:
    outcome = doctest.testmod(fixed_point)
    assert outcome.attempted >= 5
    assert outcome.failed == 0


@pytest.mark.sampled(5)
@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.25, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("whole", [0, 1, -1, -17, 30000])
def test_rounding_is_unbiased(fraction: float, whole: int) -> None:
    """The mean of 2^15 roundings is within six deviations: wrong for one seed in 5 * 10^8, and the seed is fixed."""
    fixed = FixedPoint(32767.0, 16)
    count = 1 << 15
    vector = fixed.encode(np.full(count, whole + fraction), 1, seed=seed(abs(whole) + 1))
    rounded = np.array(centred(vector, fixed.modulus_bits)[:-1])
    assert set(rounded.tolist()) <= {whole, whole + 1}
    deviation = math.sqrt(fraction * (1 - fraction) / count)
    assert abs(rounded.mean() - (whole + fraction)) <= 6 * deviation


def test_rounding_errors_of_neighbouring_values_are_independent() -> None:
    """Covariance of 2^17 pairs within six deviations; the seed is fixed."""
    fixed = FixedPoint(32767.0, 16)
    count = 1 << 17
    vector = fixed.encode(np.full(count, 0.5), 1, seed=seed(8))
    errors = np.array(centred(vector, fixed.modulus_bits)[:-1]) - 0.5
    assert abs(float((errors[1:] * errors[:-1]).mean())) < 6 * 0.25 / math.sqrt(count - 1)


@given(parameters(), st.integers(0, 2**32), st.data())
def test_error_of_one_vector_is_at_most_one_step(fixed: FixedPoint, number: int, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.floats(-2 * fixed.clip, 2 * fixed.clip), min_size=1, max_size=20)))
    weight = data.draw(st.integers(1, fixed.max_weight))
    mean, total = fixed.decode(fixed.encode(values, weight, seed=seed(number)))
    assert total == weight
    step = fixed.clip / fixed.levels
    # Beside the step there is what float64 itself cannot say of numbers as large as `levels`.
    slack = fixed.clip * 2**-50
    assert np.abs(mean - np.clip(values, -fixed.clip, fixed.clip)).max() <= step + slack
    assert np.abs(mean).max() <= fixed.clip * (1 + 1e-12)


@given(parameters(), st.integers(0, 2**32), st.sampled_from([1, -1]))
def test_sum_of_all_clients_at_full_clip_and_weight_is_exact(fixed: FixedPoint, number: int, sign: int) -> None:
    values = np.array([sign * fixed.clip, sign * fixed.clip * 2, -sign * fixed.clip, 0.0])
    vector = fixed.encode(values, fixed.max_weight, seed=seed(number))
    total = (vector.astype(object) * fixed.clients % (1 << fixed.modulus_bits)).astype(np.uint64)
    most = fixed.clients * fixed.max_weight * fixed.levels
    weights = fixed.clients * fixed.max_weight
    assert centred(total, fixed.modulus_bits) == [sign * most, sign * most, -sign * most, 0, weights]
    mean, weight = fixed.decode(total)
    assert weight == weights
    assert mean == pytest.approx([sign * fixed.clip, sign * fixed.clip, -sign * fixed.clip, 0.0], rel=1e-12)


@given(parameters())
def test_ring_is_the_smallest_that_holds_the_sum(fixed: FixedPoint) -> None:
    most = fixed.clients * fixed.max_weight * fixed.levels
    assert 2 ** (fixed.modulus_bits - 1) > most >= 2 ** (fixed.modulus_bits - 2)
    assert fixed.modulus_bits <= 64


@examples(20, 80)
@given(parameters(), st.data())
def test_decoded_sum_is_the_sum_of_whole_numbers_and_the_mean_is_its_exact_fraction(
    fixed: FixedPoint, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, 6))
    count = data.draw(st.integers(1, min(fixed.clients, 6)))
    vectors, whole, weights = [], [0] * size, 0
    for number in range(count):
        values = np.array(data.draw(st.lists(st.floats(-1.5, 1.5), min_size=size, max_size=size))) * fixed.clip
        weight = data.draw(st.integers(1, fixed.max_weight) | st.just(fixed.max_weight))
        vectors.append(fixed.encode(values, weight, seed=seed(number)))
        # The rounded values alone: the same seed rounds alike whatever the weight.
        ones = FixedPoint(fixed.clip, fixed.bits)
        rounded = centred(ones.encode(values, 1, seed=seed(number)), ones.modulus_bits)[:-1]
        assert max(map(abs, rounded)) <= fixed.levels
        whole = [a + weight * b for a, b in zip(whole, rounded, strict=True)]
        weights += weight
    total = ring_sum(vectors, fixed.modulus_bits)
    assert centred(total, fixed.modulus_bits) == [*whole, weights]
    mean, weight = fixed.decode(total)
    assert weight == weights
    exact = [Fraction(part, weights) * Fraction(fixed.clip) / fixed.levels for part in whole]
    for found, expected in zip(mean.tolist(), exact, strict=True):
        assert abs(Fraction(found) - expected) <= abs(expected) * Fraction(1, 2**50)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.integers(0, 2**64))
def test_rounding_is_that_of_the_specification(values: list[float], number: int) -> None:
    """Section 2 of `protocols/encoding/README.md`, in Python's numbers."""
    fixed = FixedPoint(4.0, 9, 10, 5)
    levels = 255
    expected = []
    random = prg.expand(seed(number), len(values), "u4").tolist()
    for x, r in zip(values, random, strict=True):
        y = min(max(x, -4.0), 4.0) * (levels / 4.0)
        f = math.floor(y)
        expected.append(3 * min(max(f + (r < (y - f) * 2**32), -levels), levels))
    assert centred(fixed.encode(np.array(values), 3, seed=seed(number)), fixed.modulus_bits) == [*expected, 3]


@pytest.mark.parametrize("size", [2**15 - 1, 2**15, 2**15 + 1, 3 * 2**15 + 7])
def test_values_are_treated_alike_in_every_chunk(size: int) -> None:
    fixed = FixedPoint(4.0, 16, 3, 7)
    values = np.random.default_rng(size).normal(size=size)
    vector = fixed.encode(values, 5, seed=seed(size))
    random = prg.expand(seed(size), size, "u4")
    scaled = np.clip(values, -4, 4) * (32767 / 4)
    floor = np.floor(scaled)
    expected = 5 * (floor + (random < (scaled - floor) * 2**32))
    assert np.array_equal(np.array(centred(vector, fixed.modulus_bits)[:-1]), expected)


@examples(30, 300)
@given(st.lists(st.sampled_from([0, 1, 5, 31, 32, 33, 64, 100]), min_size=1, max_size=6), st.booleans())
def test_parts_are_encoded_as_their_join(sizes: list[int], fortran: bool) -> None:
    fixed, generator = FixedPoint(clip=1.0, bits=12, max_weight=3), np.random.default_rng(sum(sizes))
    parts = [generator.normal(size=(size, 2)).astype(np.float32) for size in sizes]
    joined = np.concatenate([part.reshape(-1) for part in parts])
    if fortran:
        parts = [np.asfortranarray(part) for part in parts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_point, "_CHUNK", 64)
        found = fixed.encode_parts(parts, 2, seed=bytes(32))
    assert found.tolist() == fixed.encode(joined, 2, seed=bytes(32)).tolist()


@pytest.mark.parametrize(
    ("bits", "clients", "max_weight", "dtype"),
    [(2, 1, 1, "u1"), (7, 1, 1, "u1"), (8, 2, 1, "u2"), (16, 999, 1, "u4"), (16, 999, 128, "u8"), (32, 2**31, 1, "u8")],
)
def test_vector_has_the_narrowest_dtype_and_no_bit_beyond_the_ring(
    bits: int, clients: int, max_weight: int, dtype: str
) -> None:
    fixed = FixedPoint(1.0, bits, clients, max_weight)
    vector = fixed.encode(np.array([-1.0, 1.0, -0.0]), max_weight, seed=bytes(32))
    assert vector.dtype == np.dtype(dtype)
    assert int(vector.max()) < 1 << fixed.modulus_bits
    assert vector.shape == (4,)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8"])
def test_values_of_any_float_dtype_are_encoded_and_left_as_they_are(dtype: str) -> None:
    values = np.array([0.5, -1.25, 3.0, 100.0]).astype(dtype)
    before = values.copy()
    fixed = FixedPoint(4.0, 16)
    mean, _ = fixed.decode(fixed.encode(values, 1, seed=bytes(32)))
    assert mean == pytest.approx([0.5, -1.25, 3.0, 4.0], abs=4 / 32767)
    assert np.array_equal(values, before)


# What goes wrong in silence elsewhere (`anchors/flower.md`, iii, item 8) must not happen here.


def test_weight_of_two_hundred_thousand_is_right() -> None:
    fixed = FixedPoint(8.0, 16, 10, 200_000)
    generator = np.random.default_rng(1)
    updates = generator.normal(size=(10, 1000))
    vectors = [fixed.encode(update, 200_000, seed=seed(i)) for i, update in enumerate(updates)]
    mean, weight = fixed.decode(ring_sum(vectors, fixed.modulus_bits))
    assert weight == 2_000_000
    assert np.abs(mean - updates.mean(axis=0)).max() <= 8 / 32767


@pytest.mark.parametrize("clients", [1024, 1100])
def test_a_thousand_clients_at_full_weight_are_right(clients: int) -> None:
    fixed = FixedPoint(8.0, 16, clients, 1000)
    updates = np.random.default_rng(clients).normal(size=(clients, 50))
    vectors = [fixed.encode(update, 1000, seed=seed(i)) for i, update in enumerate(updates)]
    mean, weight = fixed.decode(ring_sum(vectors, fixed.modulus_bits))
    assert weight == 1000 * clients
    assert np.abs(mean - updates.mean(axis=0)).max() <= 8 / 32767


def test_weight_of_one_beside_a_largest_of_nine_thousand_is_right_to_a_step() -> None:
    fixed = FixedPoint(8.0, 16, 5, 9000)
    updates = np.random.default_rng(3).normal(size=(5, 1000))
    vectors = [fixed.encode(update, 1, seed=seed(i)) for i, update in enumerate(updates)]
    mean, weight = fixed.decode(ring_sum(vectors, fixed.modulus_bits))
    assert weight == 5
    assert np.abs(mean - updates.mean(axis=0)).max() <= 8 / 32767


def test_clipping_does_not_depend_on_the_weight() -> None:
    fixed = FixedPoint(4.0, 16, 2, 10_000)
    for weight in (1, 77, 10_000):
        mean, _ = fixed.decode(fixed.encode(np.array([3.5, 9.0, -9.0]), weight, seed=bytes(32)))
        assert mean == pytest.approx([3.5, 4.0, -4.0], abs=4 / 32767)


@pytest.mark.parametrize(
    "clip", [0, -1, 0.0, -0.0, -4.0, math.nan, math.inf, -math.inf, 5e-324, 1e-320, 1e-310, 1e-305]
)
def test_clip_that_is_no_positive_number_is_refused(clip: float) -> None:
    with pytest.raises(ConfigError, match="clip"):
        FixedPoint(clip)


def test_mean_at_the_largest_clip_is_finite_or_the_clip_is_refused() -> None:
    for bits in range(2, 33):
        fixed = FixedPoint(1.797e308, bits)
        mean, _ = fixed.decode(fixed.encode(np.array([1.797e308, -1.797e308]), 1, seed=bytes(32)))
        assert np.isfinite(mean).all()
    with pytest.raises(ConfigError, match="is too large for float64 arithmetic"):
        FixedPoint(math.nextafter(math.inf, 0), 16)


@pytest.mark.parametrize(
    ("name", "value"),
    [("bits", 1), ("bits", 33), ("bits", 0), ("bits", -1), ("clients", 0), ("clients", -3), ("max_weight", 0)],
)
def test_parameter_out_of_range_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        FixedPoint(4.0, **{name: value})


def test_sum_that_needs_more_than_64_bits_is_refused() -> None:
    assert FixedPoint(1.0, 32, 2**32).modulus_bits == 64
    assert FixedPoint(1.0, 2, 1, 2**63 - 1).modulus_bits == 64
    for bits, clients, max_weight in [(32, 2**33, 1), (2, 1, 2**63), (32, 2**16, 2**17), (16, 10**9, 10**9)]:
        with pytest.raises(ConfigError, match="64 are the most"):
            FixedPoint(1.0, bits, clients, max_weight)


def test_largest_ring_of_all_is_exact() -> None:
    fixed = FixedPoint(1.0, 2, 1, 2**63 - 1)
    vector = fixed.encode(np.array([1.0, -1.0, 0.0]), 2**63 - 1, seed=bytes(32))
    assert centred(vector, 64) == [2**63 - 1, 1 - 2**63, 0, 2**63 - 1]
    mean, weight = fixed.decode(vector)
    assert mean.tolist() == [1.0, -1.0, 0.0]
    assert weight == 2**63 - 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 499, 500, 2**15 - 1, 2**15, 2**15 + 500])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_value_that_is_not_finite_is_refused_wherever_it_stands(value: float, place: int, dtype: str) -> None:
    values = np.zeros(2**15 + 501, dtype)
    values[place] = value
    with pytest.raises(EncodingError, match=f"value {place} is not finite"):
        FixedPoint(4.0).encode(values, 1, seed=bytes(32))


@pytest.mark.parametrize(
    "weight", [0, -1, 11, 1.5, 0.0, -3.0, math.nan, math.inf, -math.inf, 2**70, np.int64(11), False]
)
def test_weight_that_is_no_whole_number_from_one_to_the_largest_is_refused(weight: float) -> None:
    with pytest.raises(EncodingError, match="weight"):
        FixedPoint(4.0, max_weight=10).encode(np.zeros(3), weight, seed=bytes(32))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "weight", [3, 3.0, *(kind(3) for kind in (np.int8, np.uint8, np.int64, np.uint64, np.float32, np.float64))]
)
def test_whole_weight_of_any_type_counts_as_its_number(weight: float) -> None:
    fixed = FixedPoint(4.0, max_weight=10)
    vector = fixed.encode(np.array([1.0]), weight, seed=bytes(32))  # type: ignore[arg-type]
    assert vector.tolist() == fixed.encode(np.array([1.0]), 3, seed=bytes(32)).tolist()


@pytest.mark.parametrize("weight", [None, "three", [1, 2], 3j])
def test_weight_that_is_no_number_is_refused_with_its_type(weight: Any) -> None:
    with pytest.raises(EncodingError, match=f"the weight is of type {type(weight).__name__}, needed a whole number"):
        FixedPoint(4.0, max_weight=10).encode(np.zeros(3), weight, seed=bytes(32))


@pytest.mark.parametrize("weight", [31415, 31415.5, -31415])
def test_no_error_text_shows_a_weight(weight: Any) -> None:
    with pytest.raises(EncodingError, match="the weight must be") as caught:
        FixedPoint(4.0, max_weight=300).encode(np.zeros(3), weight, seed=bytes(32))
    assert "31415" not in str(caught.value)


def test_large_weight_of_numpy_uint64_counts_as_its_number() -> None:
    fixed = FixedPoint(4.0, 32, max_weight=2**30)
    vector = fixed.encode(np.array([1.0]), np.uint64(2**29 + 1), seed=bytes(32))  # type: ignore[arg-type]
    assert vector.tolist() == fixed.encode(np.array([1.0]), 2**29 + 1, seed=bytes(32)).tolist()


def test_parameters_may_be_numpy_integers() -> None:
    fixed = FixedPoint(4.0, np.int64(16), np.int64(10), np.int64(2**40))  # type: ignore[arg-type]
    assert fixed.modulus_bits == FixedPoint(4.0, 16, 10, 2**40).modulus_bits
    assert fixed.context(5) == FixedPoint(4.0, 16, 10, 2**40).context(5)


@pytest.mark.parametrize("shape", [(), (2, 2), (1, 4)])
def test_values_of_other_than_one_dimension_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EncodingError, match="one dimension"):
        FixedPoint(4.0).encode(np.zeros(shape), 1, seed=bytes(32))


def test_sum_whose_weight_is_impossible_is_refused() -> None:
    fixed = FixedPoint(4.0, 16, 3, 10)
    for weight in (0, -1, 31, 2**19):
        total = np.array([5, weight % 2**fixed.modulus_bits], np.uint64)
        with pytest.raises(EncodingError, match="weights sum to"):
            fixed.decode(total)
    assert fixed.decode(np.array([5, 30], np.uint64))[1] == 30


def test_context_changes_with_every_public_parameter() -> None:
    contexts = {
        FixedPoint(clip, bits, 3, max_weight).context(values)
        for clip in (4.0, 4.000000000000001)
        for bits in (15, 16)
        for max_weight in (9, 10)
        for values in (99, 100)
    }
    assert len(contexts) == 16
    assert all(context.startswith(b"secfed/encoding/v1 clip=0x1") for context in contexts)
    assert FixedPoint(4).context(1) == FixedPoint(4.0).context(1)


def test_count_of_values_beyond_the_clip_is_right() -> None:
    fixed = FixedPoint(1.0)
    assert fixed.clipped(np.array([1.0, -1.0, 0.5, 1.0000001, -2.0, 0.0])) == 2


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_clip_beyond_what_the_dtype_holds_clips_nothing(dtype: str) -> None:
    assert FixedPoint(1e39).clipped(np.array([1.0, 6e4], dtype)) == 0


@given(st.integers(1, 10**6), st.integers(1, 10**9))
def test_fitting_bits_stay_within_32_where_twelve_are_enough(clients: int, max_weight: int) -> None:
    assume((clients * max_weight * 32767).bit_length() < 64)
    fixed = FixedPoint.fitting(4.0, clients=clients, max_weight=max_weight)
    assert 12 <= fixed.bits <= 16
    assert (fixed.clip, fixed.clients, fixed.max_weight) == (4.0, clients, max_weight)
    if fixed.bits < 16:
        assert fixed.modulus_bits <= 32
    if fixed.modulus_bits > 32:
        assert clients * max_weight > 2**20  # 12 bits would not fit, counted in whole bits
