"""Compositions: what their bounds promise, for mixtures, for discrete noise, and where only moments are known."""

import math

import pytest
from scipy.special import log_ndtr, ndtr

from secfed import dp
from secfed.dp.composition import Composition
from secfed.dp.contour.integral import WarmStart
from secfed.dp.events import Adjacency
from secfed.errors import UnsupportedEventError

# Noise of little variance per client, so that its slack is far above the engines' own width.
DISCRETE = dp.DiscreteGaussianSum(1.0, 100, 10.0, 30.0, 10)
SKELLAM = dp.SkellamSum(9.0, 10, 15.0, 200.0, 64)


def poisson(noise: float, rate: float = 0.3) -> dp.Event:
    return dp.PoissonSampled(rate, dp.Gaussian(noise))


def composed(*events: dp.Event, adjacency: Adjacency = "add_remove") -> Composition:
    return Composition.of([(event, 1) for event in events], adjacency)


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Balle and Wang 2018, as it stands there."""
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def slack_of(event: dp.DiscreteGaussianSum) -> float:
    """The slack of `docs/accountant.md`, section 6, summed term by term."""
    terms = [math.exp(-2 * math.pi**2 * event.noise_variance * k / (k + 1)) for k in range(1, event.clients)]
    return event.dimension * (4 * math.exp(-4.5 * math.pi**2) + 5 * math.fsum(terms))


@pytest.mark.parametrize("kind", ["poisson", "replace", "cohort"])
@pytest.mark.parametrize(("rate", "rounds", "noises"), [(1e-3, 100, (0.58, 0.575, 0.4, 2.0)), (0.02, 2000, (1, 1.01))])
def test_a_warm_start_changes_no_answer(kind: str, rate: float, rounds: int, noises: tuple[float, ...]) -> None:
    """Also where the contour has a cut (rare participation), and where the composition before was far off."""
    starts = (WarmStart(), WarmStart())
    for noise in noises:
        gaussian = dp.Gaussian(noise)
        event = dp.PoissonSampled(rate, gaussian)
        if kind == "cohort":
            event = dp.FixedSizeSampled(round(rate * 1000), 1000, gaussian)
        prepared = Composition.of([(event, rounds)], "add_remove" if kind == "poisson" else "replace")
        low, high = prepared.epsilon(1e-6)
        warm_low, warm_high = prepared.epsilon(1e-6, starts)
        assert max(low, warm_low) <= min(high, warm_high)
        assert warm_high - warm_low <= max(2 * (high - low), 1e-6 * high)
        if starts[0].path is not None:
            assert low * 0.999 <= starts[0].epsilon <= high * 1.001
    assert starts[0].path is not None


@pytest.mark.parametrize("clients", [1, 2, 100, 20_000])
@pytest.mark.parametrize("variance", [0.5, 3.0])
def test_slack_is_that_of_the_documents(clients: int, variance: float) -> None:
    event = dp.DiscreteGaussianSum(variance, clients, 1.0, 1.0, 7)
    slack = composed(event).slack
    if variance * clients <= 1.5**2:
        assert slack == 0.0 and not composed(event)._gaussian
    else:
        assert slack_of(event) * (1 - 1e-9) <= slack <= slack_of(event) * 1.01


@pytest.mark.parametrize("count", [1, 3])
def test_discrete_noise_costs_its_slack_twice_beyond_continuous_noise(count: int) -> None:
    slack, mu = count * slack_of(DISCRETE), math.sqrt(count) * 10.0 / math.sqrt(100.0 - 1.5**2)
    accountant = dp.Accountant().compose(DISCRETE, count)
    epsilon = accountant.epsilon(1e-5)
    assert gaussian_delta(epsilon - 2 * slack, mu) == pytest.approx(1e-5 * math.exp(-slack), rel=1e-6)
    assert accountant.curve(1e-5)[-1] == pytest.approx(epsilon, rel=1e-9)
    delta = accountant.delta(2.0)
    assert delta == pytest.approx(math.exp(slack) * gaussian_delta(2.0 - 2 * slack, mu), rel=1e-9)
    assert accountant.delta(0.0) >= math.exp(slack) * gaussian_delta(0.0, mu)


@pytest.mark.parametrize("first", [True, False])
def test_slack_stays_where_a_release_without_slack_joins(first: bool) -> None:
    events = (DISCRETE, dp.Gaussian(3.0)) if first else (dp.Gaussian(3.0), DISCRETE)
    both = composed(*events)
    assert both.slack == composed(DISCRETE).slack
    mu, slack = math.sqrt(100.0 / (100.0 - 1.5**2) + 1 / 9), slack_of(DISCRETE)
    low, high = both.epsilon(1e-5)
    assert low == 0.0
    assert gaussian_delta(high - 2 * slack, mu) == pytest.approx(1e-5 * math.exp(-slack), rel=1e-6)
    accountant = dp.Accountant()
    for event in events:
        accountant.compose(event)
    assert accountant.curve(1e-5)[-1] == pytest.approx(high, rel=1e-9)
    with pytest.raises(UnsupportedEventError, match="mu is exact for unsampled Gaussian releases only"):
        both.mu()


def test_bounds_of_discrete_noise_say_nothing_below() -> None:
    for event in (DISCRETE, dp.PoissonSampled(0.3, DISCRETE)):
        assert composed(event).epsilon(1e-5)[0] == 0.0
        assert composed(event).delta(1.0)[0] == 0.0
        assert composed(event).floor(1e-5) == 0.0


def test_delta_is_a_probability_also_where_the_slack_is_large() -> None:
    event = dp.DiscreteGaussianSum(0.5, 100, 10.0, 30.0, 1000)
    assert 0 < dp.Accountant().compose(event).delta(0.0) <= 1.0
    # Without participation the pair shows nothing, yet the slack is still to be paid.
    assert composed(dp.PoissonSampled(1e-9, event)).ceiling(1e-5) > 0


@pytest.mark.parametrize(("variance", "clients"), [(2.25, 1), (1.0, 1), (0.5, 4)])
def test_noise_too_small_for_a_pair_has_its_moment_bound(variance: float, clients: int) -> None:
    accountant = dp.Accountant().compose(dp.DiscreteGaussianSum(variance, clients, 1.0, 1.0, 2))
    assert accountant.epsilon(1e-5, bounds=True) == (0.0, accountant.rdp_epsilon(1e-5))


def test_a_release_without_any_proved_bound_is_refused_at_once() -> None:
    with pytest.raises(UnsupportedEventError, match=r"no bound is proved below 0.25"):
        composed(dp.DiscreteGaussianSum(0.1, 4, 1.0, 1.0, 1))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("adjacency", ["add_remove", pytest.param("replace", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (poisson(1.5), poisson(2.0)),
        (poisson(1.5), dp.Gaussian(3.0)),
        (poisson(1.5), dp.FixedSizeSampled(3, 10, dp.Gaussian(4.0))),
    ],
    ids=["two rates", "unsampled", "two samplings"],
)
def test_two_single_releases_cost_more_than_either(one: dp.Event, other: dp.Event, adjacency: Adjacency) -> None:
    both = composed(one, other, adjacency=adjacency)
    alone = [composed(event, adjacency=adjacency) for event in (one, other)]
    low, high = both.epsilon(1e-5)
    assert max(each.epsilon(1e-5)[1] for each in alone) < low <= high <= sum(each.epsilon(5e-6)[1] for each in alone)
    assert max(each.floor(1e-5) for each in alone) <= both.floor(1e-5) <= low
    swapped = composed(other, one, adjacency=adjacency)
    assert swapped.floor(1e-5) == both.floor(1e-5)
    assert swapped.epsilon(1e-5) == pytest.approx(both.epsilon(1e-5), rel=1e-9)


@pytest.mark.parametrize("event", [poisson(1.5), dp.FixedSizeSampled(3, 10, dp.Gaussian(4.0))], ids=str)
def test_the_cheap_lower_bound_of_one_release_is_its_lower_bound(event: dp.Event) -> None:
    for adjacency in ("add_remove", "replace"):
        one = composed(event, adjacency=adjacency)  # type: ignore[arg-type]
        assert one.floor(1e-5) == one.epsilon(1e-5)[0] > 0


def test_the_lower_bound_is_that_of_one_release_where_the_engines_leave_a_gap() -> None:
    event = poisson(4.0, 1 / 3000)
    low, high = Composition.of([(event, 10_000)], "add_remove").epsilon(1e-300)
    assert composed(event).epsilon(1e-300)[0] <= low < high / 1.5


def test_no_cheap_bound_holds_once_something_is_released_without_noise() -> None:
    both = composed(poisson(1.0, 1e-9), dp.NonPrivate())
    assert both.ceiling(1e-5) == math.inf
    assert both.epsilon(1e-5) == (math.inf, math.inf)


@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_everyone_sampled_is_nobody_sampled(adjacency: Adjacency) -> None:
    everyone = composed(dp.PoissonSampled(1.0, dp.Gaussian(2.0)), adjacency=adjacency)
    assert everyone.epsilon(1e-5) == pytest.approx(composed(dp.Gaussian(2.0), adjacency=adjacency).epsilon(1e-5))
    # A cohort of all clients moves twice as far: without the client another stands in its place.
    whole = composed(dp.FixedSizeSampled(10, 10, dp.Gaussian(2.0)), adjacency=adjacency)
    assert whole.epsilon(1e-5) == pytest.approx(composed(dp.Gaussian(1.0)).epsilon(1e-5))


def test_counts_of_nested_compositions_multiply_and_add_up() -> None:
    pair = dp.Composed(((dp.Gaussian(8.0), 2),))
    nested = dp.Composed(((pair, 3), (dp.Gaussian(8.0), 1), (pair, 1)))
    whole = Composition.of([(nested, 4), (dp.Gaussian(8.0), 5)], "add_remove")
    assert whole.events == {dp.Gaussian(8.0): 4 * (3 * 2 + 1 + 2) + 5}
    assert whole.mu() == pytest.approx(math.sqrt(41) / 8.0)


@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_one_more_event_counts_as_often_as_it_is_released(adjacency: Adjacency) -> None:
    more = composed(dp.Gaussian(4.0), adjacency=adjacency).with_event(dp.Gaussian(2.0), 5)
    shift = 2.0 if adjacency == "replace" else 1.0
    assert more.mu() == pytest.approx(shift * math.sqrt(1 / 16 + 5 / 4))


@pytest.mark.parametrize(
    "events",
    [
        (poisson(1.0),),
        (dp.Gaussian(1.0), poisson(1.0)),
        (DISCRETE,),
        (dp.Gaussian(1.0), dp.NonPrivate()),
        (dp.Laplace(1.0),),
        (SKELLAM,),
        (),
    ],
    ids=str,
)
@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_mu_is_refused_for_all_but_unsampled_gaussians(events: tuple[dp.Event, ...], adjacency: Adjacency) -> None:
    if not events:
        assert composed(adjacency=adjacency).mu() == 0.0
        return
    with pytest.raises(UnsupportedEventError, match="mu is exact for unsampled Gaussian releases only"):
        composed(*events, adjacency=adjacency).mu()


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_one_laplace_release_has_the_closed_form(epsilon: float) -> None:
    low, high = composed(dp.Laplace(1.0)).delta(epsilon)
    expected = -math.expm1((epsilon - 1.0) / 2)
    assert low <= expected * (1 + 1e-12) and expected <= high * (1 + 1e-12)
    assert high - low <= 0.01


def test_gaussian_and_laplace_releases_together_have_a_lower_bound() -> None:
    both = composed(dp.Gaussian(2.0), dp.Laplace(1.0))
    low, high = both.epsilon(1e-5)
    assert max(composed(dp.Gaussian(2.0)).epsilon(1e-5)[1], 0.99) < low <= high
    assert high <= composed(dp.Gaussian(2.0)).epsilon(1e-5)[1] + 1.0 + 1e-9
    low, high = both.delta(1.0)
    assert gaussian_delta(1.0, 0.5) < low <= high <= dp.Accountant().compose(dp.Gaussian(2.0)).delta(0.0)


def test_laplace_noise_is_never_above_its_moment_bound() -> None:
    accountant = dp.Accountant().compose(dp.Laplace(10.0), 10)
    assert 0 < accountant.epsilon(1e-5, bounds=True).lower <= accountant.epsilon(1e-5) <= accountant.rdp_epsilon(1e-5)


@pytest.mark.parametrize("other", [dp.Laplace(2.0), dp.Gaussian(2.0), dp.PoissonSampled(0.1, SKELLAM)], ids=str)
def test_moments_alone_bound_a_mixture_from_above_only(other: dp.Event) -> None:
    accountant = dp.Accountant().compose(SKELLAM).compose(other)
    assert accountant.epsilon(1e-5, bounds=True) == (0.0, accountant.rdp_epsilon(1e-5))
    assert composed(SKELLAM, other).ceiling(1e-5) == accountant.rdp_epsilon(1e-5)
    low, high = accountant.delta(accountant.epsilon(1e-5), bounds=True)
    assert low == 0.0
    assert high == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("event", [SKELLAM, dp.Laplace(5.0)], ids=["Skellam", "Laplace"])
def test_curve_of_other_noise_is_epsilon_after_each_release(event: dp.Event) -> None:
    curve = dp.Accountant().compose(dp.Gaussian(5.0), 2).compose(event, 2).curve(1e-5)
    after = [dp.Accountant().compose(dp.Gaussian(5.0), min(i, 2)) for i in (1, 2, 3, 4)]
    for accountant, count in ((after[2], 1), (after[3], 2)):
        accountant.compose(event, count)
    assert curve == pytest.approx([accountant.epsilon(1e-5) for accountant in after], rel=1e-9)


@pytest.mark.parametrize("epsilon", [1e16, 1e300, math.inf])
@pytest.mark.parametrize("events", [(dp.Gaussian(1.0),), (poisson(1.0), poisson(2.0)), (dp.Laplace(1.0),)], ids=str)
def test_next_to_no_delta_is_left_at_a_huge_epsilon(events: tuple[dp.Event, ...], epsilon: float) -> None:
    assert composed(*events).delta(epsilon) == (0.0, math.ulp(0.0))


@pytest.mark.parametrize("sampled", [False, True])
def test_delta_is_zero_beyond_the_largest_loss_of_laplace_noise_alone(sampled: bool) -> None:
    laplace = dp.PoissonSampled(0.5, dp.Laplace(1.0)) if sampled else dp.Laplace(1.0)
    assert composed(laplace, laplace).delta(1e6) == (0.0, 0.0)
    low, high = composed(laplace, dp.Gaussian(1.0)).delta(1e6)
    assert low == 0 < high < 1e-300
