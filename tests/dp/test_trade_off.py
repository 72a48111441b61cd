"""What the profile says of tests: against closed forms, against likelihood-ratio tests, and against itself."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import log_ndtr, ndtr, ndtri

from secfed import dp
from secfed.dp import renyi
from secfed.dp.closed_forms import GaussianProfile
from secfed.dp.trade_off import TradeOff, gaussian, least_mu
from secfed.errors import ConfigError, UnsupportedEventError

RATES = [1e-9, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.45, 0.5, 0.7, 0.95, 0.9999]
SUM: tuple[Any, ...] = (10.0, 10, 20.0, 200.0, 100)


def poisson(noise: float, rate: float) -> dp.Event:
    return dp.PoissonSampled(rate, dp.Gaussian(noise))


CASES: dict[str, dp.Accountant] = {
    "one sampled": dp.Accountant().compose(poisson(0.8, 0.1)),
    "sampled": dp.Accountant().compose(poisson(1.1, 0.01), 1000),
    "replace": dp.Accountant("replace").compose(poisson(2.0, 0.05), 300),
    "fixed": dp.Accountant("replace").compose(dp.FixedSizeSampled(10, 1000, dp.Gaussian(1.1)), 100),
    "laplaces": dp.Accountant().compose(dp.Laplace(20.0), 50),
    "discrete": dp.Accountant().compose(dp.DiscreteGaussianSum(*SUM)),
    "skellam": dp.Accountant().compose(dp.SkellamSum(*SUM)),
    "skipped": dp.Accountant().compose(dp.PoissonSampled(0.1, dp.Gaussian(2.0), 1e-13), 20),
    "laplace": dp.Accountant().compose(dp.Laplace(2.0), 2),
}


# Contours of Laplace noise are long: they take seconds for each case.
SAMPLED = [pytest.param(name, marks=pytest.mark.slow) if name.startswith("laplace") else name for name in CASES]


def profile(accountant: dp.Accountant) -> TradeOff:
    return TradeOff(lambda e: accountant.delta(e, bounds=True), lambda d: accountant.epsilon(d, bounds=True))


# Trade-off


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 4.0])
def test_lines_of_a_gaussian_profile_come_to_its_closed_form(mu: float) -> None:
    lines = profile(dp.Accountant().compose(dp.Gaussian(1 / mu)))
    for rate in RATES:
        (miss, miss_above), (hit_below, hit) = lines.bounds(rate)
        exact_miss, exact_hit = float(ndtr(-ndtri(rate) - mu)), float(ndtr(ndtri(rate) + mu))
        assert miss <= exact_miss * (1 + 1e-13) and exact_miss <= miss_above * (1 + 1e-13) + 1e-15
        assert hit_below <= exact_hit * (1 + 1e-13) and exact_hit <= hit * (1 + 1e-13)
        assert miss == pytest.approx(exact_miss, rel=1e-7) and miss_above == pytest.approx(exact_miss, rel=1e-6)
        assert hit_below == pytest.approx(exact_hit, rel=1e-6) and hit == pytest.approx(exact_hit, rel=1e-7)


def test_unsampled_gaussian_releases_have_a_closed_form() -> None:
    accountant = dp.Accountant().compose(dp.Gaussian(2.0), 4)
    for rate in RATES:
        miss, hit = accountant.trade_off(rate, bounds=True), accountant.true_positive_rate(rate, bounds=True)
        assert miss.lower < float(ndtr(-ndtri(rate) - 1)) < miss.upper < miss.lower * (1 + 1e-12)
        assert hit.lower < float(ndtr(ndtri(rate) + 1)) < hit.upper < hit.lower * (1 + 1e-12)
    assert (accountant.trade_off(0.0), accountant.trade_off(1.0)) == (1.0, 0.0)
    assert (accountant.true_positive_rate(0.0), accountant.true_positive_rate(1.0)) == (0.0, 1.0)
    # Digits that 1 - trade_off would lose.
    assert accountant.true_positive_rate(1e-30) == pytest.approx(math.exp(log_ndtr(ndtri(1e-30) + 1)), rel=1e-11)


def sampled_test(place: float, q: float, noise: float) -> tuple[float, float]:
    """Errors of the best tests of one sampled release, which all compare x with a place: false alarms, misses."""
    return float(ndtr(-place / noise)), float((1 - q) * ndtr(place / noise) + q * ndtr((place - 1) / noise))


def hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the corners of the lower convex hull, by rising first coordinate."""
    corners: list[tuple[float, float]] = []
    for x, y in sorted(points):
        while len(corners) > 1:
            (x1, y1), (x2, y2) = corners[-2:]
            if (x2 - x1) * (y - y1) > (x - x1) * (y2 - y1):
                break
            corners.pop()
        corners.append((x, y))
    return corners


@pytest.mark.parametrize(("q", "noise"), [(0.1, 0.8), (0.5, 2.0), (0.01, 0.3)])
def test_one_sampled_release_against_all_of_its_likelihood_ratio_tests(q: float, noise: float) -> None:
    accountant = dp.Accountant().compose(poisson(noise, q))
    places = np.linspace(-9 * noise, 1 + 9 * noise, 40_001)
    alarms, misses = ndtr(-places / noise), (1 - q) * ndtr(places / noise) + q * ndtr((places - 1) / noise)
    # One direction, and the other one with both errors exchanged; whoever draws lots between tests attains the hull.
    tests = np.array([(0.0, 1.0), (1.0, 0.0), *zip(alarms, misses, strict=True), *zip(misses, alarms, strict=True)])
    corners = np.array(hull([(float(x), float(y)) for x, y in tests]))
    for rate in RATES[1:-1]:
        exact = float(np.interp(rate, *corners.T))
        miss = accountant.trade_off(rate, bounds=True)
        assert miss.lower <= exact + 1e-12 and exact <= miss.upper + 1e-6
        assert miss.upper - miss.lower < 1e-8
        assert miss.lower == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("q", "noise"), [(0.1, 0.8), (0.5, 2.0)])
def test_no_test_of_one_sampled_release_is_better(q: float, noise: float) -> None:
    accountant = dp.Accountant().compose(poisson(noise, q))
    for place in (-1.5, 0.3, 0.5, 1.0, 2.5):
        alarm, miss = sampled_test(place, q, noise)
        for one, other in ((alarm, miss), (miss, alarm)):
            assert accountant.trade_off(one) <= other * (1 + 1e-12)
            assert accountant.true_positive_rate(one) >= (1 - other) * (1 - 1e-12)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("scale", [0.4, 2.0, 20.0])
def test_laplace_noise_against_its_trade_off(scale: float) -> None:
    accountant = dp.Accountant().compose(dp.Laplace(scale))
    loss = math.exp(1 / scale)
    for rate in (0.01, 0.3, 0.45, 0.7):
        # Dong, Roth, Su 2022, section 2.2: lines at both ends, a hyperbola between them.
        if rate < 1 / (2 * loss):
            exact = 1 - loss * rate
        elif rate <= 0.5:
            exact = 1 / (4 * loss * rate)
        else:
            exact = (1 - rate) / loss
        miss = accountant.trade_off(rate, bounds=True)
        assert miss.lower <= exact + 1e-12 and exact <= miss.upper + 1e-12
        assert miss.lower == pytest.approx(exact, rel=1e-4)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SAMPLED)
def test_bounds_are_ordered_fall_and_are_convex(name: str) -> None:
    accountant = CASES[name]
    rates = np.array([0.0, 1e-6, 0.01, 0.4, 1.0])
    found = [accountant.trade_off(float(rate), bounds=True) for rate in rates]
    hits = [accountant.true_positive_rate(float(rate), bounds=True) for rate in rates]
    for rate, miss, hit in zip(rates, found, hits, strict=True):
        assert 0 <= miss.lower <= miss.upper <= 1 - rate + 1e-15
        assert rate <= hit.lower <= hit.upper <= 1
        assert miss.lower == pytest.approx(1 - hit.upper, abs=1e-14)
        assert miss.upper == pytest.approx(1 - hit.lower, abs=1e-14)
    lower = np.array([miss.lower for miss in found])
    slopes = np.diff(lower) / np.diff(rates)
    assert (slopes <= 0).all() and (np.diff(slopes) >= -1e-6).all()
    # A loose bound may fall short of its own inverse; a near one does not.
    if found[2].upper - found[2].lower < 1e-6:
        assert accountant.trade_off(found[2].lower) == pytest.approx(0.01, rel=1e-4)


def test_exact_bounds_are_near_each_other() -> None:
    for name in ("sampled", "replace", "fixed", "laplaces"):
        for rate in (0.001, 0.3):
            hit = CASES[name].true_positive_rate(rate, bounds=True)
            assert hit.upper - hit.lower < 5e-5 * hit.upper


def test_where_only_upper_values_are_known_the_upper_value_is_that_of_a_guess() -> None:
    for name in ("discrete", "skellam", "skipped"):
        assert CASES[name].trade_off(0.25, bounds=True).upper == pytest.approx(0.75, abs=1e-15)
        assert CASES[name].true_positive_rate(0.25, bounds=True).lower == 0.25


def test_discrete_noise_is_nearly_as_good_as_gaussian_noise() -> None:
    # Variance 100 less that of the rounding, 2.25: accountant.md, section 7.
    mu = 20 / math.sqrt(100 - 2.25)
    assert CASES["discrete"].trade_off(0.01) == pytest.approx(float(ndtr(-ndtri(0.01) - mu)), rel=1e-4)
    assert CASES["discrete"].mu() == pytest.approx(mu, rel=1e-3)


def test_without_noise_a_test_makes_no_error_and_without_release_all() -> None:
    open_ = dp.Accountant().compose(dp.NonPrivate()).compose(poisson(1.0, 0.1))
    assert open_.trade_off(0.1, bounds=True) == (0.0, 0.0) and open_.true_positive_rate(0.0) == 1.0
    assert open_.mu(bounds=True) == (math.inf, math.inf) and open_.renyi(2.0) == math.inf
    nothing = dp.Accountant()
    assert nothing.trade_off(0.1) == pytest.approx(0.9, abs=1e-13)
    assert (nothing.mu(), nothing.renyi(3.0)) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["sampled", "laplaces", "skellam", "skipped"])
def test_a_curve_is_above_the_rate_of_each_point_and_near_it(name: str) -> None:
    accountant = CASES[name]
    rates = [1e-5, 1e-3, 0.2, 1.0]
    for rate, found in zip(rates, accountant.roc(rates), strict=True):
        exact = accountant.true_positive_rate(rate, bounds=True)
        assert exact.lower <= found <= 1
        assert found == pytest.approx(exact.upper, rel=3e-3)


@pytest.mark.slow
def test_rates_near_the_least_float_are_bounded() -> None:
    for accountant in (CASES["sampled"], CASES["fixed"]):
        for rate in (5e-324, 1e-301):
            hit = accountant.true_positive_rate(rate, bounds=True)
            assert rate <= hit.lower <= hit.upper < 1e-150 and accountant.trade_off(rate) > 1 - 1e-15
            assert accountant.roc([rate])[0] < 1e-14


# Mu


@pytest.mark.sampled(4)
@pytest.mark.parametrize("least", [1e-4, 1e-10])
@pytest.mark.parametrize("name", SAMPLED)
def test_mu_holds_at_random_epsilons_and_its_lower_bound_does_not(name: str, least: float) -> None:
    accountant = CASES[name]
    mu = accountant.mu(least_delta=least, bounds=True)
    farthest = accountant.epsilon(least)
    assert 0 <= mu.lower <= mu.upper < math.inf and 0 < farthest < math.inf
    random = np.random.default_rng(7)
    places = random.uniform(0, farthest, 60)
    allowed = np.exp(GaussianProfile(mu.upper).bounds(places)[1])
    deltas = np.array([accountant.delta(float(place)) for place in places])
    if name in ("discrete", "skellam"):
        # These upper values are not convex; the true ones are, and 1 at exp(epsilon) = -1, see `least_mu`.
        corners = np.array(hull([(-1.0, 1.0), (math.exp(farthest), least), *zip(np.exp(places), deltas, strict=True)]))
        deltas, allowed = np.interp(np.exp(places), *corners.T), allowed * (1 + 1e-2)
    assert (deltas <= allowed).all()
    if mu.lower:
        # The lower value of a sum in several coordinates is that of a little more noise.
        assert mu.upper < mu.lower * (1.03 if name == "discrete" else 1.002)
        # A little below, some delta of the releases is above that of mu.
        smaller = GaussianProfile(mu.lower * (1 - 2e-3))
        places = np.append(np.linspace(0, farthest, 30), accountant.epsilon(least, bounds=True).lower)
        deltas = np.array([accountant.delta(float(place), bounds=True).lower for place in places])
        assert ((deltas > np.exp(smaller.bounds(places)[0])) & (deltas >= least * (1 - 1e-6))).any()


@pytest.mark.parametrize("mu", [0.05, 1.0, 6.0, 13.0])
def test_mu_of_a_gaussian_profile_is_its_own(mu: float) -> None:
    accountant = dp.Accountant().compose(dp.Gaussian(1 / mu))
    assert accountant.mu(bounds=True) == (accountant.mu(), accountant.mu()) == pytest.approx((mu, mu))
    lines = profile(accountant)
    lower, upper = least_mu(lines.delta, lines.epsilon, 1e-10)
    assert lower <= mu * (1 + 1e-9) and mu <= upper * (1 + 1e-9)
    assert upper <= lower * (1 + 1e-3)


def test_a_large_mu_is_loose_and_true() -> None:
    lines = profile(dp.Accountant().compose(dp.Gaussian(1 / 25)))
    lower, upper = least_mu(lines.delta, lines.epsilon, 1e-10)
    assert 24.99 < lower <= 25 * (1 + 1e-9) and 25 <= upper < 40


def test_intervals_wider_than_an_exponent_holds_bound_mu() -> None:
    # One answer with a delta of 1e-6 far out, and one of 1/2 at 0.
    def delta(epsilon: float) -> tuple[float, float]:
        found = 0.5 if epsilon == 0 else 1e-6
        return 0.0, found

    lower, upper = least_mu(delta, lambda _: (0.0, 50_000.0), 1e-6)
    # Twice the epsilon over mu is about mu there.
    assert lower == 0 and 300 < upper < 330
    assert np.exp(GaussianProfile(upper).bounds(np.array([0.0, 49_999.0]))[0])[1] >= 1e-6


def test_an_epsilon_whose_lower_bound_is_0_says_nothing_of_mu() -> None:
    # Where rounds may be skipped only upper values are known.
    assert CASES["skipped"].mu(least_delta=1e-4, bounds=True).lower == 0


def test_a_smaller_least_delta_asks_for_a_larger_mu_up_to_that_without_sampling() -> None:
    accountant = dp.Accountant().compose(poisson(1.0, 0.05), 10)
    found = [accountant.mu(least_delta=least) for least in (1e-3, 1e-6, 1e-10, 1e-60, 1e-300)]
    assert found == sorted(found) and found[0] < found[-1] / 1.5
    assert found[-1] < dp.Accountant().compose(dp.Gaussian(1.0), 10).mu()


def test_no_mu_is_claimed_where_skipped_rounds_cost_more_than_the_least_delta() -> None:
    skipped = CASES["skipped"]
    assert skipped.mu(least_delta=1e-13) == math.inf
    assert skipped.mu() < math.inf


def test_mu_is_0_where_epsilon_is() -> None:
    assert dp.Accountant().compose(poisson(10.0, 1e-9)).mu(least_delta=1e-6, bounds=True) == (0.0, 0.0)


# Renyi


def test_renyi_divergences_add_up() -> None:
    accountant = dp.Accountant().compose(dp.Gaussian(2.0), 3).compose(dp.Laplace(1.5))
    laplace = renyi.moments(dp.Laplace(1.5), "add_remove", [2.5])[0]
    exact = 3 * 2.5 / (2 * 4) + laplace
    assert exact <= accountant.renyi(2.5) <= exact * (1 + 1e-12)


def test_a_sampled_renyi_divergence_of_order_2_is_a_closed_form() -> None:
    exact = 100 * math.log1p(0.05**2 * math.expm1(1 / 1.3**2))
    found = dp.Accountant().compose(poisson(1.3, 0.05), 100).renyi(2)
    assert exact * (1 - 1e-12) <= found == pytest.approx(exact, rel=1e-6)


def test_a_release_that_may_be_skipped_has_no_renyi_bound() -> None:
    assert CASES["skipped"].renyi(2.0) == math.inf


# Refusals


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, "0.1"])
def test_a_false_positive_rate_is_from_0_to_1(rate: Any) -> None:
    for ask in (CASES["sampled"].trade_off, CASES["sampled"].true_positive_rate):
        with pytest.raises(ConfigError, match="false_positive_rate"):
            ask(rate)


@pytest.mark.parametrize("rates", [[], [0.0], [1.5], [[0.5]], [math.nan], ["a"], None])
def test_a_curve_needs_rates_above_0(rates: Any) -> None:
    with pytest.raises(ConfigError, match=r"false_positive_rates .* must be numbers above 0 and at most 1"):
        CASES["sampled"].roc(rates)


@pytest.mark.parametrize("least", [0, 1, -1e-9, math.nan])
def test_a_least_delta_is_above_0_and_below_1(least: float) -> None:
    for accountant in (CASES["sampled"], dp.Accountant().compose(dp.Gaussian(1.0))):
        with pytest.raises(ConfigError, match="delta"):
            accountant.mu(least_delta=least)


@pytest.mark.parametrize("order", [1, 0.5, math.inf, math.nan])
def test_an_order_is_above_1_and_finite(order: float) -> None:
    with pytest.raises(ConfigError, match=r"order .* must be above 1 and finite"):
        CASES["sampled"].renyi(order)


def test_an_event_without_a_bound_has_no_read_out() -> None:
    unknown = dp.Accountant().compose(dp.DiscreteGaussianSum(0.1, 10, 1.0, 2.0, 3))
    for ask in (unknown.mu, lambda: unknown.trade_off(0.1), lambda: unknown.roc([0.1]), lambda: unknown.renyi(2.0)):
        with pytest.raises(UnsupportedEventError):
            ask()


def test_the_closed_form_keeps_its_order_at_the_ends() -> None:
    for mu in (0.0, 1e-6, 50.0, 1e6):
        for rate in (0.0, 1e-300, 0.5, 1.0):
            (miss, miss_above), (hit_below, hit) = gaussian(mu, rate)
            assert 0 <= miss <= miss_above <= 1 and 0 <= hit_below <= hit <= 1
