"""Several Gaussian releases from one cohort: sums over the plane of two outputs, and one release that equals them."""

import math

import numpy as np
import pytest

from secfed import dp
from secfed.dp import events
from secfed.dp.events import ADJACENCIES, Adjacency
from secfed.errors import ConfigError

NOISES = (1.3, 0.9)
TWO = dp.Composed(((dp.Gaussian(NOISES[0]), 1), (dp.Gaussian(NOISES[1]), 1)))


def density(x: np.ndarray, y: np.ndarray, center: float) -> np.ndarray:
    """Density of two outputs, each of which has the same mean."""
    a, b = NOISES
    return np.exp(-((x - center) ** 2) / (2 * a * a) - (y - center) ** 2 / (2 * b * b)) / (2 * math.pi * a * b)


def plane_delta(rate: float, first: float | None, second: float | None, epsilon: float) -> float:
    """Delta of two outputs: a client contributes `first` in one world, `second` in the other, if it takes part.

    Without a client the mean is that of the others, 0. Sums over a grid of the plane.
    """
    step = 0.02
    x = np.arange(-11.0, 13.0, step)[:, None]
    y = np.arange(-9.0, 11.0, step)[None]
    p, q = (
        density(x, y, 0.0) if mean is None else (1 - rate) * density(x, y, 0.0) + rate * density(x, y, mean)
        for mean in (first, second)
    )
    return float(np.maximum(p - math.exp(epsilon) * q, 0.0).sum()) * step * step


@pytest.mark.parametrize("epsilon", [0.1, 0.7, 1.5])
def test_two_releases_from_one_cohort_equal_sums_over_the_plane(epsilon: float) -> None:
    rate = 0.3
    worst = max(plane_delta(rate, 1.0, None, epsilon), plane_delta(rate, None, 1.0, epsilon))
    found = dp.Accountant().compose(dp.PoissonSampled(rate, TWO)).delta(epsilon, bounds=True)
    assert found.lower == pytest.approx(worst, rel=1e-7) and found.upper == pytest.approx(worst, rel=1e-7)
    replaced = dp.Accountant("replace").compose(dp.PoissonSampled(rate, TWO)).delta(epsilon)
    assert replaced == pytest.approx(plane_delta(rate, 1.0, -1.0, epsilon), rel=1e-7)
    # Of fixed size: another client, which contributes -1, stands where this one does not.
    fixed = dp.Accountant().compose(dp.FixedSizeSampled(3, 10, TWO)).delta(epsilon)
    worst = max(plane_delta(rate, 2.0, None, epsilon), plane_delta(rate, None, 2.0, epsilon))
    assert fixed == pytest.approx(worst, rel=1e-7)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_equal_releases_from_one_cohort_are_one_with_less_noise(adjacency: Adjacency) -> None:
    for several, one in (
        (dp.PoissonSampled(0.01, dp.Composed(((dp.Gaussian(2.0), 4),))), dp.PoissonSampled(0.01, dp.Gaussian(1.0))),
        (
            dp.FixedSizeSampled(
                5, 100, dp.Composed(((dp.Composed(((dp.Gaussian(3.0), 2),)), 2), (dp.Gaussian(6), 20)))
            ),
            dp.FixedSizeSampled(5, 100, dp.Gaussian(1.0)),
        ),
    ):
        accountants = [dp.Accountant(adjacency).compose(event, 50) for event in (several, one)]
        for query in (
            lambda each: each.epsilon(1e-6),
            lambda each: each.renyi(3.0),
            lambda each: each.rdp_epsilon(1e-6),
        ):
            first, second = (query(accountant) for accountant in accountants)
            assert first == pytest.approx(second, rel=1e-9)
        assert accountants[0].curve(1e-6)[-1] == pytest.approx(accountants[1].epsilon(1e-6), rel=1e-5)


def test_one_cohort_costs_more_than_several_and_less_than_no_sampling() -> None:
    one = dp.Accountant().compose(dp.PoissonSampled(0.1, dp.Composed(((dp.Gaussian(2.0), 4),))))
    several = dp.Accountant().compose(dp.PoissonSampled(0.1, dp.Gaussian(2.0)), 4)
    unsampled = dp.Accountant().compose(dp.Gaussian(2.0), 4)
    assert several.epsilon(1e-6) < one.epsilon(1e-6) < unsampled.epsilon(1e-6)
    always = dp.Accountant().compose(dp.PoissonSampled(1.0, dp.Composed(((dp.Gaussian(2.0), 4),))))
    assert always.epsilon(1e-6) == pytest.approx(unsampled.epsilon(1e-6), rel=1e-12)


def test_the_deciding_cohort_is_counted_once_for_all_releases() -> None:
    event = dp.PoissonSampled(0.1, dp.Composed(((dp.Gaussian(2.0), 4),)), decisive_probability=1e-7)
    assert dp.Accountant().compose(event).delta(5.0) == pytest.approx(
        1e-7 + dp.Accountant().compose(dp.PoissonSampled(0.1, dp.Gaussian(1.0))).delta(5.0), rel=1e-9
    )


def test_json_and_words_keep_the_parts() -> None:
    event = dp.PoissonSampled(0.25, TWO)
    assert events.from_json(events.to_json(event)) == event
    words = dp.Accountant().compose(event).assumptions()
    assert "from one cohort, together, 1 release of Gaussian noise of 1.3 times" in words


@pytest.mark.parametrize(
    "part", [dp.Laplace(1.0), dp.SkellamSum(9.0, 10, 15.0, 200.0, 64), dp.PoissonSampled(0.1, TWO)]
)
def test_other_releases_from_one_cohort_are_refused(part: dp.Event) -> None:
    mixed = dp.Composed(((dp.Gaussian(1.0), 1), (part, 2)))
    for sample in (lambda: dp.PoissonSampled(0.1, mixed), lambda: dp.FixedSizeSampled(1, 10, mixed)):
        with pytest.raises(ConfigError, match=r"a sampled dp\.Composed needs dp\.Gaussian releases only, found"):
            sample()
    with pytest.raises(ConfigError, match="needs at least one release, found an empty"):
        dp.PoissonSampled(0.1, dp.Composed(()))
    with pytest.raises(ConfigError, match=r"noise_multiplier .* must be from 1e-06"):
        dp.PoissonSampled(0.1, dp.Composed(((dp.Gaussian(1e-6), 4),)))
