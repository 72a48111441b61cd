"""Capped laws: what is beyond a cap in ball arithmetic, what capping does to delta, and two rounds by integration."""

import math

import numpy as np
import pytest
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_ndtr

from secfed import dp
from secfed.dp.contour import smoothed
from secfed.dp.contour.capped import CappedLaw, GaussianNoise, _depth, capped
from secfed.dp.contour.pairs import NoiseLaw
from tests.dp.contour.exact import many_bits

DIRECTIONS = ("remove", "add", "replace", "fixed_size")


def below(x: arb) -> arb:
    """The distribution function of the standard normal law."""
    return (-x / arb(2).sqrt()).erfc() / 2


def tails(law: CappedLaw, direction: str) -> tuple[arb, arb, arb, arb, arb]:
    """Return P and Q beyond the largest loss kept, P and Q below the smallest one, and the largest loss."""
    noise, q = arb(law.scale), arb(law.rate)
    low, high = arb(float(law._edges[0])), arb(float(law._edges[-1]))
    far, near = (low, high) if direction == "add" else (high, low)

    def beyond(point: arb, center: int, above: bool) -> arb:
        z = (point - center) / noise
        return below(-z if above else z)

    def mixed(point: arb, center: int, above: bool) -> arb:
        return (1 - q) * beyond(point, 0, above) + q * beyond(point, center, above)

    def gain(x: arb) -> arb:
        return (1 - q + q * ((x - arb(0.5)) / noise**2).exp()).log()

    if direction == "add":
        return beyond(far, 0, False), mixed(far, 1, False), beyond(near, 0, True), mixed(near, 1, True), -gain(far)
    first, low = mixed(far, 1, True), mixed(near, 1, False)
    if direction == "replace":
        return first, mixed(far, -1, True), low, mixed(near, -1, False), gain(far) - gain(-far)
    second = beyond(far, 0, True)
    if direction == "fixed_size":
        return first, second, second, first, gain(far)
    return first, second, low, beyond(near, 0, False), gain(far)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(12))
def test_what_is_beyond_a_cap_is_split_between_it_and_infinity(direction: str, seed: int) -> None:
    rng = np.random.default_rng([seed, len(direction)])
    noise, rate = 0.3 * 10 ** rng.uniform(0, 1.5), 1.0 if seed == 11 else 10 ** rng.uniform(-7, -0.1)
    cap = rate * 10 ** rng.uniform(-1, 4)
    if direction == "add":
        cap = -math.log1p(-min(rate, 0.9)) * rng.uniform(0.1, 0.9)
    law = CappedLaw(noise, rate, direction, beyond=1e-25, low=10 ** rng.uniform(-12, -4), cap=cap)
    with many_bits():
        first, second, low, other, most = tails(law, direction)
        at_cap = most.exp() * second
        assert arb(law.certain) <= first - at_cap <= arb(law.infinite) or law.certain == 0
        assert first - at_cap <= arb(law.infinite) <= first - at_cap + (first + at_cap) * 1e-10
        assert abs(arb(law.raised) / low - 1) < 1e-11
        assert abs(arb(law._ends[0][1]) / at_cap - 1) < 1e-11
    masses, losses = law.atoms(3.0)
    assert masses.sum() + law.infinite == pytest.approx(1, abs=1e-12)
    assert losses.max() == law.most and losses.min() == law.least
    # Raising losses takes away from the second distribution, and nothing else does.
    missing = float(other) - law.raised * math.exp(-law.least)
    assert (masses * np.exp(-losses)).sum() == pytest.approx(1 - missing, abs=1e-12) and missing >= -1e-25


def two_rounds(rate: float, noise: float, epsilon: float) -> float:
    """Return delta of two Poisson-sampled rounds, direction "remove": one round's closed form, integrated."""

    def one(at: np.ndarray) -> np.ndarray:
        excess = np.maximum(np.expm1(at) / rate, -1.0)  # e^w - 1
        with np.errstate(divide="ignore"):
            end = 0.5 + noise**2 * np.log1p(excess)
        mixed = (1 - rate) * np.exp(log_ndtr(-end / noise)) + rate * np.exp(log_ndtr((1 - end) / noise))
        return np.asarray(mixed - np.exp(at) * np.exp(log_ndtr(-end / noise)))

    total = 0.0
    points, weights = np.polynomial.legendre.leggauss(64)
    # Where the other round's loss leaves less than log(1 - rate), every outcome counts: a kink.
    kink = 0.5 + noise**2 * math.log1p((math.expm1(epsilon) + rate) / rate)
    for low, high in ((-12 * noise, kink), (kink, 1 + 14 * noise)):
        edges = np.linspace(low, high, 200)
        half = np.diff(edges)[:, None] / 2
        x = (edges[:-1, None] + half * (1 + points)).ravel()
        loss = np.log1p(rate * np.expm1((x - 0.5) / noise**2))
        density = np.exp(-((x / noise) ** 2) / 2 + loss) / (noise * math.sqrt(2 * math.pi))
        total += float(((half * weights).ravel() * density * one(epsilon - loss)).sum())
    return total


@pytest.mark.parametrize(
    ("rate", "noise", "delta"),
    [(3.227e-5, 0.3671, 5.343e-6), (1.3e-5, 0.4366, 1e-5), (1e-3, 0.6, 1e-6), (0.2, 0.8, 1e-4)],
)
def test_two_rounds_as_by_integration(rate: float, noise: float, delta: float) -> None:
    accountant = dp.Accountant().compose(dp.PoissonSampled(rate, dp.Gaussian(noise)), 2)
    lower, upper = accountant.epsilon(delta, bounds=True)
    assert 0 < upper - lower <= 1e-4 * upper
    for most in (upper, 1.5 * upper):
        found = capped([(GaussianNoise(noise, rate, "remove"), 2)], math.log(delta), most, 1e-7)
        assert found and found.excess <= 3e-7
        low, high = smoothed.epsilon_bounds(found.pairs, math.log(delta), 1e-5, None, found.excess)
        assert high - low <= 1e-3 * high
        # Roundings of the integral, relative to delta.
        assert two_rounds(rate, noise, low) >= delta * (1 - 1e-9)
        assert two_rounds(rate, noise, high) <= delta * (1 + 1e-9)


@pytest.mark.parametrize(("rate", "noise", "delta"), [(1e-4, 0.4366, 1e-5), (1e-3, 0.6, 1e-6), (0.2, 0.8, 1e-4)])
def test_other_releases_count_next_to_capped_ones(rate: float, noise: float, delta: float) -> None:
    proved, sampled = dp.ApproximateDP(0.3), dp.PoissonSampled(rate, dp.Gaussian(noise))
    accountant = dp.Accountant("remove").compose(proved, 2).compose(sampled, 2)
    lower, upper = accountant.epsilon(delta, bounds=True)
    assert 0.6 < lower <= upper <= (1 + 1e-4) * lower
    share = 1 / (1 + math.exp(-0.3))  # of the outcome that a client's data makes more likely
    shares = [(0.6, share**2), (0.0, 2 * share * (1 - share)), (-0.6, (1 - share) ** 2)]
    for epsilon, sign in ((lower, 1), (upper, -1)):
        exact = sum(mass * two_rounds(rate, noise, epsilon - loss) for loss, mass in shares)
        assert sign * exact >= sign * delta * (1 - sign * 1e-9)
    assert accountant.curve(delta)[-1] == pytest.approx(upper, rel=3e-5, abs=1e-6)


@given(
    direction=st.sampled_from(DIRECTIONS),
    noise=st.floats(0.35, 8),
    rate=st.floats(-6, -0.3).map(lambda power: 10**power),
    count=st.integers(1, 15),
    log_delta=st.floats(-20, -5),
    share=st.floats(0.2, 4),
)
def test_capping_raises_delta_by_no_more_than_stated(
    direction: str, noise: float, rate: float, count: int, log_delta: float, share: float
) -> None:
    beyond = math.exp(log_delta) * 1e-7 / count
    plain = [(NoiseLaw(noise, rate, direction, laplace=False, beyond=beyond), count)]
    lower, upper = smoothed.epsilon_bounds(plain, log_delta, 3e-4)
    found = capped([(GaussianNoise(noise, rate, direction), count)], log_delta, upper, 1e-6)
    assert found and found.excess <= 1e-5
    low, high = smoothed.epsilon_bounds(found.pairs, log_delta, 3e-4, None, found.excess)
    assert low <= upper and high >= lower
    # A cap that is too low still gives an upper bound.
    law = CappedLaw(noise, rate, direction, beyond=beyond, low=1e-3, cap=share * max(lower, rate / 10))
    assert smoothed.epsilon_bounds([(law, count)], log_delta, 3e-4)[1] >= lower


@pytest.mark.parametrize("direction", ["remove", "replace", "fixed_size"])
def test_the_other_losses_are_hardly_ever_below_the_depth(direction: str) -> None:
    noise, rate, count, runs = 0.9, 0.02, 30, 40_000
    law = CappedLaw(noise, rate, direction, beyond=1e-20, low=1e-6, cap=0.5)
    depth = _depth([(law, count)], 1e-3)
    masses, losses = law.atoms(50.0)
    rng = np.random.default_rng(7)
    drawn = rng.choice(losses, (runs, count - 1), p=masses / masses.sum()).sum(axis=1)
    assert (drawn < -depth).mean() <= 1.6e-3  # six standard deviations above 1e-3
    assert (drawn < -0.3 * depth).mean() > 1e-3  # the bound is not idle
