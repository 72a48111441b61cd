"""Uniform vectors pass as often as promised; each way to spoil a mask is told by the test that is there for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from secfed.attacks import uniformity
from secfed.errors import ConfigError

SHAPE = (3, 4, 256)
Vectors = npt.NDArray[np.uint32]


def masks(seed: int, shape: tuple[int, ...] = SHAPE, bits: int = 32, dtype: Any = np.uint32) -> npt.NDArray[Any]:
    return np.random.default_rng(seed).integers(1 << bits, size=shape, dtype=np.uint64).astype(dtype)


def updates(seed: int) -> Vectors:
    return np.rint(np.random.default_rng(seed + 1000).normal(0, 1000, SHAPE)).astype(np.int64).astype(np.uint32)


def test_uniform_vectors_fail_no_more_often_than_promised() -> None:
    """Of 300 runs at 5 %, 15 may fail on average; 30 are 4 standard deviations more. Some fail: the tests are alive."""
    failures = sum(not uniformity(masks(seed, (2, 3, 128)), 32, 0.05).passed for seed in range(300))
    assert 1 <= failures <= 30


@pytest.mark.parametrize(
    ("shape", "bits", "dtype"),
    [((1, 1, 64), 8, np.uint8), ((2, 2, 300), 20, np.uint32), ((1, 2, 20_000), 33, np.uint64), (SHAPE, 64, np.uint64)],
)
def test_uniform_vectors_of_every_width_pass(shape: tuple[int, ...], bits: int, dtype: Any) -> None:
    for seed in range(5):
        found = uniformity(masks(seed, shape, bits, dtype), bits)
        assert found.passed and found.failed == () and found.p_value > 1e-4
        assert (found.vectors, found.entries) == (shape[0] * shape[1], np.prod(shape))


def unmasked(vectors: Vectors, values: Vectors) -> None:
    vectors[1, 2] = values[1, 2]


def half_unmasked(vectors: Vectors, values: Vectors) -> None:
    vectors[1, 2, 128:] = values[1, 2, 128:]


def high_bits_zero(vectors: Vectors, values: Vectors) -> None:
    vectors[0, 1] = values[0, 1] + (vectors[0, 1] >> 8)


def low_bits_zero(vectors: Vectors, values: Vectors) -> None:
    vectors &= np.uint32(0xFFFFFF00)


def one_bit_always_set(vectors: Vectors, values: Vectors) -> None:
    vectors[2, 3] |= np.uint32(1 << 13)


def reused(vectors: Vectors, values: Vectors) -> None:
    mask = vectors[0, 1].copy()
    vectors[0, 1] += values[0, 1]
    vectors[2, 1] = mask + values[2, 1]


def equal_for_two_clients(vectors: Vectors, values: Vectors) -> None:
    vectors[1, 3] = vectors[1, 0] + values[1, 3]
    vectors[1, 0] += values[1, 0]


def opposite_for_two_clients(vectors: Vectors, values: Vectors) -> None:
    vectors[1, 3] = values[1, 3] - vectors[1, 0]
    vectors[1, 0] += values[1, 0]


def short_period(vectors: Vectors, values: Vectors) -> None:
    vectors[2, 0] = np.resize(vectors[2, 0, :16], 256) + values[2, 0]


def period_of_two_fifths(vectors: Vectors, values: Vectors) -> None:
    vectors[2, 0] = np.resize(vectors[2, 0, :100], 256) + values[2, 0]


def small_steps(vectors: Vectors, values: Vectors) -> None:
    vectors[:] = (np.cumsum(vectors >> 3, axis=2, dtype=np.uint32) + values).astype(np.uint32)


def few_numbers(vectors: Vectors, values: Vectors) -> None:
    vectors[:] = np.random.default_rng(0).choice(vectors.ravel()[:1000], SHAPE)


@pytest.mark.parametrize(
    ("spoil", "test"),
    [
        (unmasked, "top byte"),
        (half_unmasked, "top byte"),
        (high_bits_zero, "bits"),
        (low_bits_zero, "bottom byte"),
        (one_bit_always_set, "bits"),
        (reused, "rounds"),
        (equal_for_two_clients, "clients"),
        (opposite_for_two_clients, "clients"),
        (short_period, "period"),
        (period_of_two_fifths, "period"),
        (small_steps, "neighbors"),
        (few_numbers, "repeated entries"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_spoiled_mask_is_told(spoil: Callable[[Vectors, Vectors], None], test: str) -> None:
    for seed in range(5):
        vectors, values = masks(seed), updates(seed)
        spoil(vectors, values)
        found = uniformity(vectors, 32)
        assert not found.passed and test in found.failed


def test_the_test_says_where_the_oddest_vector_is() -> None:
    vectors = masks(0)
    reused(vectors, updates(0))
    places = {test.name: test.worst for test in uniformity(vectors, 32).tests}
    assert places["rounds"] == "vectors 1 and 9"
    short_period(vectors, updates(0))
    places = {test.name: test.worst for test in uniformity(vectors, 32).tests}
    assert places["period"] == "vector 8, shifted by 16"


def test_rounds_may_have_different_clients() -> None:
    rounds = [masks(1, (3, 100)), masks(2, (1, 100)), masks(3, (4, 100))]
    found = uniformity(rounds, 32)
    assert found.vectors == 8 and found.passed
    assert {test.name: test.comparisons for test in found.tests if test.name in ("clients", "rounds")} == {
        "clients": 3 + 0 + 6,
        "rounds": 3 + 12 + 4,
    }


def test_one_vector_alone_has_nothing_to_be_compared_with() -> None:
    names = [test.name for test in uniformity([masks(0, (1, 64))], 32).tests]
    assert names == ["top byte", "bottom byte", "bits", "neighbors", "period", "repeated entries"]


def test_the_same_vectors_give_the_same_figures() -> None:
    assert uniformity(masks(5), 32) == uniformity(masks(5), 32)


@pytest.mark.parametrize(
    ("rounds", "bits", "text"),
    [
        ([], 32, "found no rounds"),
        (masks(0), 7, "ring_bits is 7: needed 8 to 64"),
        (masks(0), 31, "an entry is .*: needed at most 2\\*\\*31 - 1"),
        (masks(0), 33, "round 0 is uint32"),
        (masks(0).astype(np.int64), 32, "round 0 is int64"),
        (masks(0)[0], 32, "shape \\(256,\\)"),
        (masks(0)[:, :, :63], 32, "vectors of 63 entries.*at least 64"),
        ([masks(0)[0], masks(0)[1, :, 1:]], 32, "round 1 has vectors of 255 entries, the first of 256"),
        ([masks(0)[0], masks(0)[1, :0]], 32, "round 1 is uint32 of shape \\(0, 256\\)"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(rounds: Any, bits: int, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        uniformity(rounds, bits)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_false_alarm_that_is_no_probability_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="false_alarm is"):
        uniformity(masks(0), 32, share)
