"""Finding epsilon on a contour, also from a guess where delta is lost in rounding errors."""

import math
from dataclasses import replace

import numpy as np
import pytest

from secfed.dp.contour import inversion
from secfed.dp.contour.integral import Contour, build
from secfed.dp.contour.moments import Moments, Releases
from secfed.dp.contour.path import choose
from secfed.dp.contour.sampled_gaussian import GOAL
from tests.dp.contour.cases import laws

LOG_DELTA = math.log(1e-5)


@pytest.fixture(scope="module")
def contour() -> Contour:
    """A contour chosen at seven times the epsilon that is searched for."""
    releases = Releases((laws("remove", 1e-3, 0.9171483971969705, 100.0),), 0.0)
    moments = Moments.of(releases, LOG_DELTA, None)
    path = choose(releases, moments, moments.epsilon_guess(LOG_DELTA), LOG_DELTA, GOAL, doubtful=True)
    assert path is not None
    return build(releases, moments, path, GOAL)


@pytest.mark.parametrize("factor", [0.3, 0.9, 1.0, 1.5, 3.0, 5.0, 7.342, 7.343, 8.0, 12.0, 20.0])
def test_a_far_guess_leads_to_the_same_epsilon(contour: Contour, factor: float) -> None:
    expected = 0.07505095860017282
    low, high, middle = inversion.solve(contour, np.array([LOG_DELTA]), np.array([expected * factor]))
    assert low[0] <= expected * (1 + 1e-8) and high[0] >= expected * (1 - 1e-8)
    assert middle[0] == pytest.approx(expected, rel=1e-3) and high[0] - low[0] < 1e-3 * expected


def test_rows_are_solved_apart(contour: Contour) -> None:
    """A row whose guess is far off does not move another one."""
    joined = build_rows(contour)
    goals = np.full(2, LOG_DELTA)
    low, high, _ = inversion.solve(joined, goals, np.array([0.0751, 0.55]))
    alone = inversion.solve(contour, goals[:1], np.array([0.0751]))
    assert low == pytest.approx(np.repeat(alone[0], 2), rel=1e-4)
    assert high == pytest.approx(np.repeat(alone[1], 2), rel=1e-4)


def build_rows(contour: Contour) -> Contour:
    """Return a contour with the same row twice."""
    waves = contour.waves
    twice = replace(
        waves,
        factor=np.repeat(waves.factor, 2, axis=0),
        size=np.repeat(waves.size, 2),
        turning=np.repeat(waves.turning, 2),
    )
    return replace(
        contour,
        log_moments=np.repeat(contour.log_moments, 2, axis=0),
        log=np.repeat(contour.log, 2),
        mean=np.repeat(contour.mean, 2),
        waves=twice,
        error=np.repeat(contour.error, 2),
    )


class Known:
    """A log of delta whose bounds are a margin apart from it; subclasses give its value."""

    margin = 1e-9

    def value(self, epsilon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def bounds(self, epsilon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log, _ = self.value(epsilon)
        return log - self.margin, log + self.margin


class Steps(Known):
    """Log of delta as a staircase that falls at 1, 2, 3, ...: Newton's steps lead anywhere."""

    def value(self, epsilon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -5.0 * np.floor(epsilon), np.full(len(epsilon), -1e-15)


@pytest.mark.parametrize("guess", [1e-3, 0.5, 2.9, 3.0, 3.1, 40.0, 1e6])
def test_a_staircase_is_searched_by_halves(guess: float) -> None:
    low, high, middle = inversion.solve(Steps(), np.array([-12.0]), np.array([guess]))
    assert 2.9 < low[0] < 3.0 <= high[0] < 3.1 and middle[0] == pytest.approx(3.0, abs=0.1)


class Hyperbola(Known):
    """Log of delta that Newton's method cannot follow: from either side it steps over the root to the other."""

    def value(self, epsilon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        off = epsilon - 2.0
        return -np.sign(off) * np.abs(off) ** 0.4, -0.4 * np.maximum(np.abs(off), 1e-300) ** -0.6


@pytest.mark.parametrize("guess", [1e-3, 1.0, 1.9999, 3.0, 50.0])
def test_steps_over_the_root_end(guess: float) -> None:
    low, high, _ = inversion.solve(Hyperbola(), np.zeros(1), np.array([guess]))
    assert 1.99 < low[0] <= 2.0 <= high[0] < 2.01


class Line(Known):
    def __init__(self, margin: float) -> None:
        self.margin = margin

    def value(self, epsilon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -1.0 - 3.0 * epsilon, np.full(len(epsilon), -3.0)


@pytest.mark.parametrize("goal", [0.0, 0.5, 3.0])
def test_a_delta_that_zero_already_has_gives_zero(goal: float) -> None:
    """Other rows are not affected."""
    low, high, middle = inversion.solve(Line(1e-12), np.array([goal, -7.0]), np.array([0.7, 0.7]))
    assert low[0] == high[0] == middle[0] == 0.0
    assert low[1] <= 2.0 <= high[1] and high[1] - low[1] < 1e-9


def test_where_only_the_bounds_do_not_say_that_zero_is_enough_the_upper_end_is_above_zero() -> None:
    low, high, middle = inversion.solve(Line(0.3), np.array([-0.9]), np.array([0.7]))
    assert low[0] == middle[0] == 0.0 and 0.06 < high[0] < 0.11
