"""Noise so small that single losses exceed 700, where their exponentials leave the range of a float64."""

import math

import flint
import numpy as np
import pytest
from scipy.special import log_ndtr, ndtr
from scipy.stats import binom

from secfed import dp


def delta(epsilon: float, count: int, rate: float, spread: float, present: float, absent: float) -> float:
    """Return delta where a release shows who took part.

    A client takes part in k of `count` releases with binomial probability. The total loss is then normal: each such
    release adds 1 / (2 spread^2) + `present` and variance 1 / spread^2, each other one adds `absent`.
    """
    k = np.arange(count + 1)
    mean = k * (0.5 / spread**2 + present) + (count - k) * absent
    deviation = np.sqrt(np.maximum(k, 1e-12)) / spread
    reach = (mean - epsilon) / deviation
    above = ndtr(reach) - np.exp(epsilon - mean + deviation**2 / 2 + log_ndtr(reach - deviation))
    return float(binom.pmf(k, count, rate) @ above)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("count", "rate"),
    [(100, 0.8), pytest.param(100, 0.05, marks=pytest.mark.slow), pytest.param(3, 0.3, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("adjacency", "fixed"), [("add_remove", False), ("replace", False), ("replace", True)], ids=str
)
def test_bounds_hold_where_releases_show_who_took_part(count: int, rate: float, adjacency: str, fixed: bool) -> None:
    gaussian = dp.Gaussian(0.04 if fixed else 0.02)
    event = dp.FixedSizeSampled(round(1000 * rate), 1000, gaussian) if fixed else dp.PoissonSampled(rate, gaussian)
    present = math.log(rate) - (0 if fixed or adjacency == "add_remove" else math.log1p(-rate))
    absent = math.log1p(-rate) if adjacency == "add_remove" else 0.0
    accountant = dp.Accountant(adjacency).compose(event, count)
    low, high = accountant.epsilon(1e-3, bounds=True)
    assert delta(low - 1e-6, count, rate, 0.02, present, absent) >= 1e-3
    assert delta(high + 1e-6, count, rate, 0.02, present, absent) <= 1e-3
    middle = (low + high) / 2
    least, most = accountant.delta(middle, bounds=True)
    assert least * (1 - 1e-9) <= delta(middle, count, rate, 0.02, present, absent) <= most * (1 + 1e-9)


def replaced(rate: float, spread: float, epsilon: float) -> flint.arb:
    """Return delta of one release under replacement: P - e^epsilon Q beyond the point where the loss is epsilon."""
    q, s, e = flint.arb(rate), flint.arb(spread), flint.arb(epsilon)

    def beyond(x: flint.arb) -> flint.arb:
        return (x / flint.arb(2).sqrt()).erfc() / 2

    def weight(x: flint.arb) -> flint.arb:
        return (-(x**2) / (2 * s**2)).exp()

    low, high = flint.arb(0), flint.arb(50)
    for _ in range(200):
        x = ((low + high) / 2).mid()
        loss = (((1 - q) * weight(x) + q * weight(x - 1)) / ((1 - q) * weight(x) + q * weight(x + 1))).log()
        low, high = (low, x) if loss > e else (x, high)
    first = (1 - q) * beyond(high / s) + q * beyond((high - 1) / s)
    return first - e.exp() * ((1 - q) * beyond(high / s) + q * beyond((high + 1) / s))


@pytest.mark.parametrize("epsilon", [600.0, 705.0, 800.0, 1000.0])
def test_one_replaced_release_is_exact_beyond_an_epsilon_of_700(epsilon: float) -> None:
    before, flint.ctx.prec = flint.ctx.prec, 600
    try:
        least, most = (
            dp.Accountant("replace").compose(dp.PoissonSampled(0.3, dp.Gaussian(0.03))).delta(epsilon, bounds=True)
        )
        assert flint.arb(least) <= replaced(0.3, 0.03, epsilon) <= flint.arb(most)
    finally:
        flint.ctx.prec = before
    assert most <= least * (1 + 1e-6)
