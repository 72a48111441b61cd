"""Structural similarity, re-identification and intervals."""

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from secfed.attacks import Interval, ssim
from secfed.attacks.metrics import identified
from secfed.errors import ConfigError


def test_the_most_correlated_candidate_is_named() -> None:
    random = np.random.default_rng(0)
    candidates = random.uniform(0, 1, (100, 30))
    for number in (0, 41, 99):
        assert identified(0.1 + 5 * candidates[number] + 0.05 * random.normal(size=30), candidates) == number
    assert identified(np.zeros(30), candidates) in range(100)  # a constant tells nothing, and raises nothing
    with pytest.raises(ConfigError, match="30 values"):
        identified(np.zeros(30), candidates.T)


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    inside = [found.lower <= 2 <= found.upper for found in (Interval.of(random.normal(2, 1, 12)) for _ in range(2000))]
    assert 0.93 < np.mean(inside) < 0.97  # 95 %, four standard deviations either way
    assert Interval.of([3.0]) == Interval(3.0, -math.inf, math.inf)


@pytest.mark.parametrize("peak", [1.0, 0.5, 255.0])
def test_structural_similarity_is_that_of_scikit_image(peak: float) -> None:
    random = np.random.default_rng(0)
    for number in range(60):
        shape = (int(random.integers(7, 40)), int(random.integers(7, 40)))
        truth = np.full(shape, 0.3 * peak) if number % 10 == 0 else random.uniform(0, peak, shape)
        noise = random.choice([0, 0.01, 0.1, 1, 100]) * peak * random.normal(size=shape)
        guess = random.choice([1, 0.5, -1]) * truth + noise
        assert abs(ssim(guess, truth, peak) - structural_similarity(guess, truth, data_range=peak)) < 1e-9


def test_structural_similarity_is_one_of_equals_and_falls_with_noise() -> None:
    random = np.random.default_rng(1)
    truth = random.uniform(size=(9, 12))
    values = [ssim(truth + deviation * random.normal(size=truth.shape), truth) for deviation in (0, 0.05, 0.3, 3)]
    assert values[0] == pytest.approx(1, abs=1e-12) and values == sorted(values, reverse=True) and values[-1] < 0.3
    assert ssim(1 - truth, truth) < 0  # the negative picture
    assert ssim(np.full_like(truth, np.nan), truth) == ssim(np.full_like(truth, 1e200), truth) == -1


@pytest.mark.parametrize(
    ("guess", "truth", "peak", "text"),
    [
        (np.zeros((8, 8)), np.zeros((8, 9)), 1.0, r"guess has shape \(8, 8\), the truth \(8, 9\): needed the same"),
        (np.zeros(64), np.zeros(64), 1.0, r"found shape \(64,\), needed \(height, width\), both at least 7"),
        (np.zeros((8, 6)), np.zeros((8, 6)), 1.0, r"found shape \(8, 6\), needed"),
        (np.zeros((8, 8)), np.full((8, 8), np.inf), 1.0, "the truth has a value that is not finite"),
        (np.zeros((8, 8)), np.zeros((8, 8)), 0.0, "peak 0.0 must be positive"),
    ],
)
def test_what_is_no_pair_of_pictures_is_refused(guess: np.ndarray, truth: np.ndarray, peak: float, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ssim(guess, truth, peak)
