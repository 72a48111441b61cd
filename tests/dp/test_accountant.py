"""The accountant: every pitfall of its peers, held against closed forms, the other engines, and order."""

import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.special import log_ndtr, ndtr

from secfed import dp
from secfed.dp import dominating_pairs, events
from secfed.dp.composition import Composition
from secfed.dp.contour import smoothed
from secfed.errors import ConfigError
from tests.examples import examples

ADJACENCIES = ("add_remove", "replace")


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Balle and Wang 2018, as it stands there."""
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def poisson(noise: float, rate: float) -> dp.Event:
    return dp.PoissonSampled(rate, dp.Gaussian(noise))


def bounds(event: dp.Event, count: int, delta: float, adjacency: str = "add_remove") -> dp.Bounds:
    return dp.Accountant(adjacency).compose(event, count).epsilon(delta, bounds=True)  # type: ignore[arg-type]


def test_nothing_released_spends_nothing() -> None:
    assert dp.Accountant().epsilon(1e-5) == 0
    assert dp.Accountant().delta(0.0) == 0
    assert dp.Accountant().curve(1e-5).shape == (0,)


def test_something_released_without_noise_has_no_guarantee() -> None:
    accountant = dp.Accountant().compose(dp.Gaussian(1.0)).compose(dp.NonPrivate())
    assert accountant.epsilon(1e-5) == math.inf
    assert accountant.delta(100.0) == 1.0


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0, 5.0, 1000.0])
@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("count", [1, 100])
def test_gaussian_releases_have_the_closed_form(noise: float, epsilon: float, count: int) -> None:
    expected = gaussian_delta(epsilon, math.sqrt(count) / noise)
    low, high = dp.Accountant().compose(dp.Gaussian(noise), count).delta(epsilon, bounds=True)
    # The textbook's difference cancels; ours does not.
    assert low - 1e-15 <= expected <= high + 1e-15
    # What is too small for a number has the least number as its upper value.
    assert high - low <= 1e-10 * high + math.ulp(0.0)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.1, 0.9])
@pytest.mark.parametrize("noise", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-12])
def test_one_sampled_release_has_the_closed_form(rate: float, noise: float, delta: float) -> None:
    low, high = bounds(poisson(noise, rate), 1, delta)
    if high == 0:
        assert rate * (2 * ndtr(0.5 / noise) - 1) <= delta * (1 + 1e-12)
        return
    assert high - low <= 1e-9 * high
    if rate * math.exp(-high) > 1e-9:  # there the textbook's form has digits left
        inner = math.log1p(math.expm1(high) / rate)
        assert rate * gaussian_delta(inner, 1 / noise) == pytest.approx(delta, rel=1e-6)


def test_sum_of_epsilons_of_the_releases_is_never_less() -> None:
    one = dp.Accountant().compose(poisson(1.1, 0.01)).epsilon(1e-8)
    assert dp.Accountant().compose(poisson(1.1, 0.01), 100).epsilon(1e-6) < 100 * one


@pytest.mark.sampled(2)
@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(
    "event", [poisson(0.8, 0.01), dp.FixedSizeSampled(20, 1000, dp.Gaussian(2.0)), dp.Gaussian(20.0)], ids=str
)
def test_epsilon_and_delta_are_inverse_and_their_bounds_tight(event: dp.Event, adjacency: str) -> None:
    accountant = dp.Accountant(adjacency).compose(event, 300)  # type: ignore[arg-type]
    for delta in (1e-3, 1e-6, 1e-20, 1e-30):
        low, high = accountant.epsilon(delta, bounds=True)
        assert 0 < low <= high <= low * (1 + 1e-8)
        again = accountant.delta(high, bounds=True)
        assert again.lower <= delta * (1 + 1e-9)
        assert again.upper == pytest.approx(delta, rel=1e-6)


def test_delta_of_a_large_epsilon_is_tiny_and_positive() -> None:
    # Peers floor at 1e-15, or say infinity.
    low, high = dp.Accountant().compose(poisson(1.1, 0.01), 1000).delta(8.0, bounds=True)
    assert 0 < low <= high < 1e-31
    assert high - low <= 1e-8 * high


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("rate", "noise", "count", "delta", "rdp"),
    [
        (1e-4, 0.6, 2000, 1e-8, 2.0),
        (1e-3, 0.8, 5000, 1e-9, 1.05),
        (0.01, 1.1, 1000, 1e-5, 1.0),
        (0.1, 3.0, 500, 1e-6, 1.0),
    ],
)
def test_renyi_moments_never_fall_below_and_cost_most_on_federated_rows(
    rate: float, noise: float, count: int, delta: float, rdp: float
) -> None:
    accountant = dp.Accountant().compose(poisson(noise, rate), count)
    low, high = accountant.epsilon(delta, bounds=True)
    assert high < accountant.rdp_epsilon(delta)
    assert accountant.rdp_epsilon(delta) > rdp * low


@pytest.mark.parametrize("event", [poisson(0.8, 0.05), poisson(3.0, 0.5), dp.Gaussian(5.0)], ids=str)
def test_smoothed_contours_agree(event: dp.Event) -> None:
    found = [
        smoothed.epsilon_bounds(pairs, math.log(1e-6)) for pairs in dominating_pairs.laws({event: 50}, "add_remove")
    ]
    low, high = max(each[0] for each in found), max(each[1] for each in found)
    contour = bounds(event, 50, 1e-6)
    assert low <= contour.upper
    assert contour.lower <= high
    assert high - low < 1e-5 * high


@examples(3, 25)
@given(
    rate=st.floats(1e-4, 0.99),
    noise=st.floats(0.4, 30.0),
    count=st.integers(20, 100_000),
    exponent=st.floats(-20.0, -1.0),
    adjacency=st.sampled_from(ADJACENCIES),
    fixed=st.booleans(),
)
@example(rate=1e-4, noise=1.0, count=50_000, exponent=-11.0, adjacency="add_remove", fixed=False)
def test_bounds_are_ordered_and_everything_is_monotone(
    rate: float, noise: float, count: int, exponent: float, adjacency: str, fixed: bool
) -> None:
    def epsilon(rate: float, noise: float, count: int, delta: float) -> dp.Bounds:
        event = dp.PoissonSampled(rate, dp.Gaussian(noise))
        if fixed:
            event = dp.FixedSizeSampled(max(1, round(rate * 10_000)), 10_000, dp.Gaussian(noise))  # type: ignore[assignment]
        return bounds(event, count, delta, adjacency)

    assume(rate * count >= 5)  # with hardly any participation the bounds hold, but are wider
    delta = 10.0**exponent
    here = epsilon(rate, noise, count, delta)
    assert 0 <= here.lower <= here.upper
    # Contours may leave a thousandth where clients hardly ever take part and delta is small: 5.8e-4 in the example.
    assert here.upper - here.lower <= 1e-3 * here.upper + 1e-6
    assert epsilon(rate, noise, count + 10, delta).upper >= here.lower
    assert epsilon(rate, noise * 1.1, count, delta).lower <= here.upper
    assert epsilon(rate * 0.9, noise, count, delta).lower <= here.upper
    assert epsilon(rate, noise, count, delta * 2 if delta < 0.5 else delta).lower <= here.upper


def test_order_and_grouping_of_releases_do_not_matter() -> None:
    parts = [(poisson(1.0, 0.01), 30), (poisson(2.0, 0.1), 5), (dp.Gaussian(20.0), 2)]
    forward, backward, nested, one_by_one = (dp.Accountant() for _ in range(4))
    for event, count in parts:
        forward.compose(event, count)
    for event, count in reversed(parts):
        backward.compose(event, count)
    nested.compose(dp.Composed(tuple(parts)))
    for event, count in parts:
        for _ in range(count):
            one_by_one.compose(event)
    found = [accountant.epsilon(1e-6) for accountant in (forward, backward, nested, one_by_one)]
    assert found == pytest.approx([found[0]] * 4, rel=1e-9)


def test_a_thousand_at_once_is_a_thousand_times_one() -> None:
    at_once, each = dp.Accountant().compose(poisson(1.1, 0.01), 1000), dp.Accountant()
    for _ in range(1000):
        each.compose(poisson(1.1, 0.01))
    assert at_once.epsilon(1e-5) == each.epsilon(1e-5)


def test_both_directions_are_looked_at() -> None:
    # Removing a client shows more than adding one; the larger counts.
    assert bounds(poisson(3.0, 0.1), 500, 1e-6).upper == pytest.approx(3.7213033047, rel=1e-9)


def test_replacing_a_client_moves_a_sum_twice_as_far() -> None:
    assert bounds(dp.Gaussian(2.0), 1, 1e-5, "replace") == pytest.approx(bounds(dp.Gaussian(1.0), 1, 1e-5), rel=1e-12)


def test_cohorts_of_fixed_size_are_not_poisson_cohorts() -> None:
    fixed = dp.FixedSizeSampled(10, 1000, dp.Gaussian(1.1))
    for adjacency in ADJACENCIES:
        assert bounds(fixed, 100, 1e-5, adjacency).lower > 1.5 * bounds(poisson(1.1, 0.01), 100, 1e-5, adjacency).upper


def test_fixed_cohorts_are_far_below_their_moment_bound() -> None:
    accountant = dp.Accountant("replace").compose(dp.FixedSizeSampled(10, 1000, dp.Gaussian(2.0)), 1000)
    assert accountant.epsilon(1e-5) < accountant.rdp_epsilon(1e-5)


@pytest.mark.parametrize(
    ("event", "count", "delta"),
    [
        (poisson(0.05, 1.0), 1, 1e-5),
        (poisson(0.05, 0.01), 100, 1e-5),
        (poisson(1000.0, 1e-6), 1_000_000, 1e-15),
        (poisson(1000.0, 0.5), 1_000_000, 1e-30),
        (poisson(1.0, 1e-5), 1_000_000_000, 1e-10),
        (poisson(0.6, 1.0), 1000, 0.5),
        (dp.FixedSizeSampled(1000, 1000, dp.Gaussian(3.0)), 100, 1e-9),
    ],
    ids=str,
)
@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_extremes_answer_without_a_warning(event: dp.Event, count: int, delta: float, adjacency: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bounds(event, count, delta, adjacency)
    assert 0 <= low <= high < math.inf
    assert high - low <= 1e-6 * high


def test_rate_of_one_is_no_sampling_and_a_tiny_rate_is_nearly_nothing() -> None:
    assert bounds(poisson(4.0, 1.0), 10, 1e-5) == bounds(dp.Gaussian(4.0), 10, 1e-5)
    assert bounds(poisson(4.0, 1e-6), 10, 1e-5).upper == 0


def test_hundreds_of_different_rounds() -> None:
    accountant = dp.Accountant()
    for i in range(300):
        accountant.compose(poisson(1.0 + i / 1000, 0.005 + i / 50_000))
    low, high = accountant.epsilon(1e-5, bounds=True)
    assert high - low <= 1e-9 * high
    assert bounds(poisson(1.3, 0.005), 300, 1e-5).upper < low < bounds(poisson(1.0, 0.011), 300, 1e-5).upper


@pytest.mark.slow
def test_ten_thousand_different_rounds() -> None:
    accountant = dp.Accountant()
    for i in range(10_000):
        accountant.compose(poisson(1.0 + i / 20_000, 0.001 + i / 1e7))
    low, high = accountant.epsilon(1e-5, bounds=True)
    assert high - low <= 1e-6 * high
    assert bounds(poisson(1.5, 0.001), 10_000, 1e-5).upper < low < bounds(poisson(1.0, 0.002), 10_000, 1e-5).upper


@pytest.mark.sampled(1)
@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_curve_is_epsilon_after_each_release(adjacency: str) -> None:
    accountant = dp.Accountant(adjacency).compose(dp.Gaussian(30.0), 2).compose(poisson(1.5, 0.05), 60)  # type: ignore[arg-type]
    curve = accountant.curve(1e-5)
    assert curve.shape == (62,)
    assert (np.diff(curve) > -1e-9).all()
    for done in (1, 2, 3, 10, 40, 60):
        alone = dp.Accountant(adjacency).compose(dp.Gaussian(30.0), min(done, 2))  # type: ignore[arg-type]
        if done > 2:
            alone.compose(poisson(1.5, 0.05), done - 2)
        low, high = alone.epsilon(1e-5, bounds=True)
        assert low <= curve[done - 1] <= high * (1 + 1e-5)


def test_dropouts_weaken_noise_that_clients_add() -> None:
    def spent(survivors: int) -> float:
        event = dp.DiscreteGaussianSum(400.0, survivors, 150.0, 2000.0, 1024)
        return dp.Accountant().compose(event).epsilon(1e-5)

    assert spent(100) < spent(90) < spent(50)
    # It is bounded by continuous noise with a little less variance, and not far above the same variance.
    same = dp.Accountant().compose(dp.Gaussian(math.sqrt(400.0 * 100) / 150)).epsilon(1e-5)
    assert same < spent(100) < same * 1.001


def test_figures_of_the_literature_for_dropouts() -> None:
    for fraction, expected in ((0.0, 1.515), (0.1, 1.676), (0.3, 2.197), (0.5, 3.397)):
        noise = 1.1 * math.sqrt(1 - fraction)
        assert bounds(poisson(noise, 0.01), 1000, 1e-5).upper == pytest.approx(expected, abs=6e-4)


def test_skellam_noise_is_accounted_by_moments() -> None:
    event = dp.SkellamSum(400.0, 100, 150.0, 2000.0, 1024)
    skellam = dp.Accountant().compose(event).epsilon(1e-5, bounds=True)
    gaussian = dp.Accountant().compose(dp.Gaussian(math.sqrt(400.0 * 100) / 150)).epsilon(1e-5)
    assert skellam.lower == 0
    assert gaussian < skellam.upper < 1.5 * gaussian


def test_laplace_noise_is_accounted_on_smoothed_contours() -> None:
    low, high = dp.Accountant().compose(dp.Laplace(10.0), 10).epsilon(1e-9, bounds=True)
    assert 0.99 < low <= high <= 1.0 + 1e-9


@pytest.mark.sampled(3)
@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(
    "release",
    [
        dp.Gaussian(1.0),
        dp.Laplace(1.0),
        dp.DiscreteGaussianSum(9.0, 10, 15.0, 200.0, 64),
        dp.SkellamSum(9.0, 10, 15.0, 200.0, 64),
    ],
    ids=lambda release: type(release).__name__,
)
def test_every_release_has_a_bound_under_every_sampling(release: dp.Event, adjacency: str) -> None:
    whole = dp.Accountant(adjacency).compose(release).epsilon(1e-5)  # type: ignore[arg-type]
    assert 0 < dp.Accountant(adjacency).compose(dp.PoissonSampled(0.1, release)).epsilon(1e-5) < whole  # type: ignore[arg-type]
    # Without the client another stands in its place: a fixed cohort moves twice as far, and may be worse than none.
    fixed = dp.Accountant(adjacency).compose(dp.FixedSizeSampled(1, 300, release))  # type: ignore[arg-type]
    assert 0 < fixed.epsilon(1e-5) < math.inf


def test_trade_off_is_exact_for_gaussian_releases() -> None:
    accountant = dp.Accountant().compose(dp.Gaussian(2.0), 4)
    assert accountant.mu() == pytest.approx(1.0)
    assert accountant.trade_off(0.5) == pytest.approx(float(ndtr(-1.0)))
    assert accountant.trade_off(0.0) == 1.0
    with pytest.raises(ConfigError):
        accountant.trade_off(1.5)


def test_budget_is_looked_at_before_it_is_spent() -> None:
    accountant = dp.Accountant().compose(poisson(1.1, 0.01), 1000)
    left = accountant.remaining_rounds(poisson(1.1, 0.01), epsilon=2.0, delta=1e-5)
    assert not accountant.would_exceed(poisson(1.1, 0.01), epsilon=2.0, delta=1e-5, count=left)
    assert accountant.would_exceed(poisson(1.1, 0.01), epsilon=2.0, delta=1e-5, count=left + 1)
    assert accountant.events == ((poisson(1.1, 0.01), 1000),)
    assert accountant.remaining_rounds(poisson(1.1, 0.01), epsilon=1.0, delta=1e-5) == 0


def test_accountant_survives_a_trip_through_json() -> None:
    import json

    accountant = dp.Accountant("replace").compose(dp.FixedSizeSampled(3, 10, dp.Gaussian(2.0)), 4)
    accountant.compose(dp.Composed(((dp.Laplace(1.0), 2),)))
    again = dp.Accountant.from_json(json.loads(json.dumps(accountant.to_json())))
    assert again.events == accountant.events
    assert again.adjacency == "replace"
    for broken in (
        {},
        {"adjacency": "replace"},
        {"adjacency": "x", "events": []},
        {"adjacency": "replace", "events": [1]},
    ):
        with pytest.raises(ConfigError):
            dp.Accountant.from_json(broken)


def test_a_copy_changes_apart() -> None:
    accountant = dp.Accountant().compose(dp.Gaussian(1.0))
    other = accountant.copy().compose(dp.Gaussian(1.0))
    assert accountant.epsilon(1e-5) < other.epsilon(1e-5)


@pytest.mark.parametrize("noise", [1.1, 1.23456789, 2 / 3, 17.0000004, 1e5 + 1 / 3])
def test_assumptions_round_noise_up_and_rates_and_norms_down(noise: float) -> None:
    def number(event: dp.Event, pattern: str) -> float:
        found = re.search(pattern, dp.Accountant().compose(event).assumptions(1 / 3e5))
        assert found is not None
        return float(found[1])

    rate, norm = noise / 1e6, 3 * noise
    assert noise <= number(dp.Gaussian(noise), r"noise of (\S+) times") <= noise * (1 + 1e-5)
    assert noise <= number(dp.Laplace(noise), r"scale (\S+) times") <= noise * (1 + 1e-5)
    assert rate * (1 - 1e-5) <= number(poisson(1.0, rate), r"with probability (\S+), by") <= rate
    total = dp.SkellamSum(noise, 5, norm, norm, 1)
    assert noise <= number(total, r"variance (\S+) per") <= noise * (1 + 1e-5)
    assert norm * (1 - 1e-5) <= number(total, r"norm at most (\S+),") <= norm
    skipping = dp.PoissonSampled(0.5, dp.Gaussian(1.0), noise / 1e9)
    assert noise / 1e9 <= number(skipping, r"probability (\S+) at most") <= noise / 1e9 * 1.01
    assert number(total, r"delta = (\S+)\.$") == 1 / 3e5


def test_assumptions_are_said_in_words() -> None:
    text = dp.Accountant().compose(poisson(1.1, 0.01), 1000).assumptions(1e-5)
    for word in ("one client", "add_remove", "1000 releases", "1.1", "0.01", "delta = 1e-05"):
        assert word in text
    assert "twice" in dp.Accountant("replace").assumptions()


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan])
def test_delta_that_promises_nothing_is_refused(delta: float) -> None:
    accountant = dp.Accountant().compose(dp.Gaussian(1.0))
    for ask in (accountant.epsilon, accountant.curve, accountant.rdp_epsilon):
        with pytest.raises(ConfigError, match="delta"):
            ask(delta)


@pytest.mark.parametrize("epsilon", [-1.0, math.nan])
def test_negative_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(ConfigError, match="epsilon"):
        dp.Accountant().compose(dp.Gaussian(1.0)).delta(epsilon)


def test_bad_events_are_refused() -> None:
    for noise in (0.0, -1.0, math.nan, math.inf, True):
        with pytest.raises(ConfigError, match="noise_multiplier"):
            dp.Gaussian(noise)
    for rate in (0.0, 1.1, -0.1, math.nan):
        with pytest.raises(ConfigError, match="sampling_rate"):
            dp.PoissonSampled(rate, dp.Gaussian(1.0))
    with pytest.raises(ConfigError, match="larger than the population"):
        dp.FixedSizeSampled(11, 10, dp.Gaussian(1.0))
    with pytest.raises(ConfigError, match="count"):
        dp.Accountant().compose(dp.Gaussian(1.0), 0)
    with pytest.raises(ConfigError, match="found 'gaussian'"):
        dp.Accountant().compose("gaussian")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="adjacency"):
        dp.Accountant("neighbouring")  # type: ignore[arg-type]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "parts",
    [
        [(dp.PoissonSampled(0.3, dp.Gaussian(1.5)), 4), (dp.Gaussian(5.0), 2)],
        [(dp.Gaussian(5.0), 2), (dp.PoissonSampled(0.3, dp.Gaussian(1.5)), 4)],
        [(dp.FixedSizeSampled(3, 10, dp.Gaussian(2.0)), 2), (dp.PoissonSampled(0.3, dp.Gaussian(1.5)), 3)],
    ],
    ids=["sampled first", "unsampled first", "both sampled"],
)
def test_curve_of_a_mixture_is_epsilon_after_each_release(parts: list[tuple[dp.Event, int]]) -> None:
    whole, after = dp.Accountant(), dp.Accountant()
    for event, count in parts:
        whole.compose(event, count)
    singles = [event for event, count in parts for _ in range(count)]
    for upper, event in zip(whole.curve(1e-5), singles, strict=True):
        bounds = after.compose(event).epsilon(1e-5, bounds=True)
        assert bounds.lower <= upper <= bounds.upper * (1 + 1e-6)


def test_nothing_private_is_left_after_a_release_without_noise() -> None:
    accountant = dp.Accountant().compose(dp.Gaussian(5.0), 2).compose(dp.NonPrivate())
    assert accountant.epsilon(0.1, bounds=True) == (math.inf, math.inf)
    assert accountant.delta(1.0, bounds=True) == (1.0, 1.0)
    assert accountant.curve(0.1)[2] == math.inf
    assert accountant.curve(0.1)[1] < math.inf


def test_slack_of_discrete_noise_grows_with_the_dimension() -> None:
    def slack(dimension: int) -> float:
        return Composition.of(((dp.DiscreteGaussianSum(40.0, 100, 60.0, 900.0, dimension), 3),), "add_remove").slack

    # Twice 2 exp(-4.5 pi^2) for each coordinate and release; the sum's own law adds nothing at this variance.
    assert slack(10**6) == pytest.approx(3e6 * 4 * math.exp(-4.5 * math.pi**2), rel=2e-3)
    assert slack(10**6) == pytest.approx(1e6 * slack(1))


@pytest.mark.parametrize("nested", [dp.PoissonSampled(0.1, dp.Gaussian(1.0)), dp.ZeroConcentrated(0.1)], ids=str)
def test_sampling_of_anything_but_one_release_is_refused(nested: dp.Event) -> None:
    for sampled in (lambda: dp.PoissonSampled(0.1, nested), lambda: dp.FixedSizeSampled(1, 10, nested)):
        with pytest.raises(ConfigError, match="needs one release"):
            sampled()


def test_json_of_a_wrong_parameter_is_refused_in_the_words_of_its_event() -> None:
    saved = {"kind": "PoissonSampled", "sampling_rate": 1.5, "event": {"kind": "Gaussian", "noise_multiplier": 1.0}}
    with pytest.raises(ConfigError, match=r"^sampling_rate 1.5 must be above 0 and at most 1$"):
        events.from_json(saved)


@pytest.mark.parametrize(
    ("rate", "noise", "rounds"), [(1e-3, 0.8, 300), pytest.param(3e-4, 1.0, 200, marks=pytest.mark.slow)]
)
def test_curve_where_losses_are_rare_is_that_of_single_queries(rate: float, noise: float, rounds: int) -> None:
    """There contours cut off the losses near 0; what a cut leaves out is bounded for each row."""
    curve = dp.Accountant().compose(poisson(noise, rate), rounds).curve(1e-5)
    assert (np.diff(curve) >= -1e-9 * curve[1:]).all()
    for count in (2, 5, 9, 20, 45, 100, rounds):
        low, high = dp.Accountant().compose(poisson(noise, rate), count).epsilon(1e-5, bounds=True)
        assert low <= curve[count - 1] * (1 + 1e-12)
        assert curve[count - 1] <= high * (1 + 2e-5)
