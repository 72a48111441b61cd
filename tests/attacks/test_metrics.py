"""Re-identification and intervals."""

import math

import numpy as np
import pytest

from secfed.attacks import Interval
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
