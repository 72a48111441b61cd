"""Releases with a pair of few losses: their bounds hold sums over all outcomes, in rational numbers, between them."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from secfed import dp
from secfed.dp import events, renyi
from secfed.dp.events import ADJACENCIES, Adjacency
from secfed.errors import ConfigError, UnsupportedEventError
from tests.dp.test_renyi import gaussian_delta

ORDERS = np.array([1.01, 1.5, 2.0, 3.7, 16.0, 300.0])
SUM = dp.SkellamSum(9.0, 10, 15.0, 200.0, 64)
Law = list[Fraction]


def brute_delta(pairs: list[tuple[Law, Law]], epsilon: float) -> float:
    """Delta of releases together: the sum over all outcomes, in rational numbers."""
    factor, total = Fraction(math.exp(epsilon)), Fraction(0)
    for outcome in product(*(zip(*pair, strict=True) for pair in pairs)):
        p, q = (math.prod(each[side] for each in outcome) for side in (0, 1))
        total += max(p - factor * q, Fraction(0))
    return float(total)


def binomial_delta(factor: Fraction, delta: Fraction, count: int, epsilon: float) -> float:
    """Delta of many equal proved releases, of which `factor` is e^epsilon (Kairouz, Oh, Viswanath 2015)."""
    kept, total = (1 - delta) ** count, Fraction(0)
    for k in range(count + 1):
        gain = factor**k - Fraction(math.exp(epsilon)) * factor ** (count - k)
        total += math.comb(count, k) * max(gain, Fraction(0)) / (1 + factor) ** count
    return float(1 - kept + kept * total)


def gaussian_with(pair: tuple[Law, Law], noise: float, epsilon: float) -> float:
    """Delta of a release of finitely many losses and a Gaussian one: the convolution of their losses."""
    p, q = ([float(x) for x in law] for law in pair)
    whole = 0.0
    for first, second in zip(p, q, strict=True):
        if second == 0:
            whole += first
        elif first > 0:
            whole += first * gaussian_delta(noise, epsilon - math.log(first / second))
    return whole


def moment(pair: tuple[Law, Law], order: float) -> float:
    """Renyi divergence of a pair of laws, by its definition."""
    p, q = np.array([[float(x), float(y)] for x, y in zip(*pair, strict=True) if x > 0]).T
    return float(logsumexp(np.log(p) + (order - 1) * np.log(p / q)) / (order - 1))


def proved(epsilon: float, delta: float = 0.0) -> tuple[Law, Law]:
    e, d = Fraction(math.exp(epsilon)), Fraction(delta)
    law = [d, (1 - d) * e / (1 + e), (1 - d) / (1 + e), Fraction(0)]
    return law, law[::-1]


def bounds(adjacency: Adjacency, epsilon: float, *composed: tuple[dp.Event, int]) -> dp.Bounds:
    accountant = dp.Accountant(adjacency)
    for event, count in composed:
        accountant.compose(event, count)
    return accountant.delta(epsilon, bounds=True)


# --- all of them -----------------------------------------------------------------------------------------------------

EVENTS: list[dp.Event] = [
    dp.ApproximateDP(0.3, 1e-7),
    dp.ApproximateDP(0.5),
    dp.RandomizedResponse(0.4, 5),
    dp.ExponentialMechanism(0.5),
    dp.ZeroConcentrated(0.05),
    dp.DiscreteLaplace(3.0, 2),
]
BAD = {
    "ApproximateDP epsilon": lambda: dp.ApproximateDP(-0.1),
    "ApproximateDP huge": lambda: dp.ApproximateDP(501.0),
    "ApproximateDP nan": lambda: dp.ApproximateDP(math.nan),
    "ApproximateDP delta": lambda: dp.ApproximateDP(1.0, -1e-9),
    "ApproximateDP all": lambda: dp.ApproximateDP(1.0, 1.0),
    "ApproximateDP text": lambda: dp.ApproximateDP("1"),  # type: ignore[arg-type]
    "ZeroConcentrated none": lambda: dp.ZeroConcentrated(0.0),
    "ZeroConcentrated huge": lambda: dp.ZeroConcentrated(1e7),
    "DiscreteLaplace noise": lambda: dp.DiscreteLaplace(0.009),
    "DiscreteLaplace none": lambda: dp.DiscreteLaplace(1.0, 0),
    "DiscreteLaplace half": lambda: dp.DiscreteLaplace(1.0, 1.5),  # type: ignore[arg-type]
    "DiscreteLaplace many": lambda: dp.DiscreteLaplace(1.0, 4097),
    "ExponentialMechanism none": lambda: dp.ExponentialMechanism(0.0),
    "ExponentialMechanism huge": lambda: dp.ExponentialMechanism(500.1),
    "RandomizedResponse epsilon": lambda: dp.RandomizedResponse(-1.0),
    "RandomizedResponse one": lambda: dp.RandomizedResponse(1.0, 1),
    "RandomizedResponse many": lambda: dp.RandomizedResponse(1.0, 2**53 + 1),
    "RandomizedResponse half": lambda: dp.RandomizedResponse(1.0, 2.5),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_an_event_comes_back_from_json(event: dp.Event) -> None:
    assert events.from_json(events.to_json(event)) == event
    assert dp.Accountant.from_json(dp.Accountant("replace").compose(event, 2).to_json()).events == ((event, 2),)


@pytest.mark.parametrize("name", BAD)
def test_what_is_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        BAD[name]()


@pytest.mark.parametrize("event", EVENTS[:5], ids=str)
def test_a_release_that_is_not_one_of_a_sum_cannot_be_sampled(event: dp.Event) -> None:
    with pytest.raises(ConfigError, match="needs one release"):
        dp.PoissonSampled(0.1, event)  # type: ignore[arg-type]


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_upper_epsilon_is_never_above_that_of_moments(event: dp.Event) -> None:
    for others in ([], [dp.Gaussian(3.0)], [dp.PoissonSampled(0.1, dp.Gaussian(1.0))], [SUM]):
        accountant = dp.Accountant("replace").compose(event, 4)
        for other in others:
            accountant.compose(other)
        found = accountant.epsilon(1e-5, bounds=True)
        assert found.lower <= found.upper <= accountant.rdp_epsilon(1e-5) < math.inf
        assert found.upper > 0


# --- proved releases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(("epsilon", "delta", "count"), [(0.1, 0, 50), (1.0, 1e-4, 1), (0.3, 1e-7, 20), (0.0, 0.1, 3)])
def test_equal_proved_releases_equal_the_binomial_sum(
    adjacency: Adjacency, epsilon: float, delta: float, count: int
) -> None:
    event = dp.ApproximateDP(epsilon, delta)
    for share in (0.0, 0.2, 0.45, 0.9):
        exact = binomial_delta(Fraction(math.exp(epsilon)), Fraction(delta), count, share * count * epsilon)
        low, high = bounds(adjacency, share * count * epsilon, (event, count))
        assert low <= exact * (1 + 1e-11) and exact * (1 - 1e-11) <= high <= exact * 1.005 + 1e-15


def test_a_proved_release_says_what_was_proved_and_nothing_more() -> None:
    accountant = dp.Accountant().compose(dp.ApproximateDP(1.5, 1e-6))
    assert accountant.delta(1.5) == pytest.approx(1e-6, rel=1e-9)
    assert accountant.epsilon(1e-6 * (1 + 1e-9)) == pytest.approx(1.5, rel=1e-8)
    assert accountant.epsilon(1e-6 * (1 - 1e-9)) == math.inf == accountant.rdp_epsilon(1e-6 * (1 - 1e-9))
    assert dp.Accountant().compose(dp.ApproximateDP(0.0), 1000).epsilon(1e-9) == 0.0
    assert dp.Accountant().compose(dp.ApproximateDP(0.5), 3).delta(1.5 + 1e-9) == 0.0


@pytest.mark.parametrize("parts", [(1.0, 1.0), (1.0, 0.7), (0.3, 1.9)])
@pytest.mark.parametrize("below", [1e-9, 1e-12, 1e-14, 1e-15, 2e-16])
def test_delta_just_below_the_largest_loss_is_not_lost_in_rounding(parts: tuple[float, float], below: float) -> None:
    """Chernoff's bound is best at orders up to 1e16 there."""
    epsilon = sum(parts) * (1 - below)
    chance = math.prod(math.exp(part) / (1 + math.exp(part)) for part in parts)
    exact = chance * float(sum(map(Fraction, parts)) - Fraction(epsilon))  # to first order
    low, high = bounds("replace", epsilon, *((dp.ApproximateDP(part), 1) for part in parts))
    assert exact > 0 and low <= exact * (1 + 1e-6) and exact * (1 - 1e-6) <= high <= 1.01 * exact + 1e-13


PARTS = st.tuples(st.floats(0.01, 2.0), st.sampled_from([0.0, 1e-9, 0.01]))


@settings(max_examples=20)
@given(st.lists(PARTS, min_size=1, max_size=4), st.floats(0, 1))
def test_different_proved_releases_equal_the_sum_over_outcomes(parts: list[tuple[float, float]], share: float) -> None:
    epsilon = share * sum(part[0] for part in parts)
    exact = brute_delta([proved(*part) for part in parts], epsilon)
    low, high = bounds("replace", epsilon, *((dp.ApproximateDP(*part), 1) for part in parts))
    assert low <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= high + 1e-300


@pytest.mark.parametrize("delta", [0.0, 1e-5])
def test_a_proved_and_a_gaussian_release_equal_their_convolution(delta: float) -> None:
    for epsilon in (0.0, 0.5, 2.0):
        exact = gaussian_with(proved(0.7, delta), 1.5, epsilon)
        low, high = bounds("add_remove", epsilon, (dp.ApproximateDP(0.7, delta), 1), (dp.Gaussian(1.5), 1))
        assert low <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= high <= low * 1.001


def test_moments_of_a_proved_release_are_those_of_its_pair() -> None:
    found = renyi.moments(dp.ApproximateDP(0.7), "replace", ORDERS)
    assert found == pytest.approx([moment(proved(0.7), order) for order in ORDERS], rel=1e-11)
    assert np.all(np.isinf(renyi.moments(dp.ApproximateDP(0.7, 1e-9), "replace", ORDERS)))
    # So small that 1 would swallow it: half of epsilon squared times the order.
    assert renyi.moments(dp.ApproximateDP(1e-9), "replace", [3.0])[0] == pytest.approx(1.5e-18, rel=1e-9)


def test_delta_of_a_proved_release_is_taken_off_before_moments_are_asked() -> None:
    both = dp.Accountant().compose(SUM).compose(dp.ApproximateDP(0.2, 4e-6), 2)
    pure = dp.Accountant().compose(SUM).compose(dp.ApproximateDP(0.2), 2)
    lost = 1 - (1 - 4e-6) ** 2
    assert both.epsilon(1e-5) == pytest.approx(pure.epsilon((1e-5 - lost) / (1 - lost)), rel=1e-9)
    assert both.delta(2.0) == pytest.approx(lost + (1 - lost) * pure.delta(2.0), rel=1e-9)
    assert both.epsilon(7e-6) == math.inf
    assert both.renyi(2.0) == math.inf


def test_assumptions_name_what_was_proved_rounded_to_the_safe_side() -> None:
    words = dp.Accountant("replace").compose(dp.ApproximateDP(0.12345678, 1e-6), 3).assumptions()
    assert "3 releases: something that is proved (0.123456, 1e-06)-private" in words


# --- randomized response ---------------------------------------------------------------------------------------------


def answers(epsilon: float, outcomes: int) -> tuple[Law, Law]:
    """The laws of the answer where the truth is the first, and where it is the second one."""
    e = Fraction(math.exp(epsilon))
    law = [e, *[Fraction(1)] * (outcomes - 1)]
    first = [mass / (e + outcomes - 1) for mass in law]
    return first, [first[1], first[0], *first[2:]]


@pytest.mark.parametrize(("epsilon", "outcomes", "count"), [(1.0, 2, 5), (0.5, 3, 4), (2.0, 7, 2), (0.3, 4, 1)])
def test_randomized_responses_equal_the_sum_over_all_answers(epsilon: float, outcomes: int, count: int) -> None:
    event = dp.RandomizedResponse(epsilon, outcomes)
    for share in (0.0, 0.3, 0.8):
        exact = brute_delta([answers(epsilon, outcomes)] * count, share * count * epsilon)
        low, high = bounds("replace", share * count * epsilon, (event, count))
        assert low <= exact * (1 + 1e-11) and exact * (1 - 1e-11) <= high <= exact * 1.005 + 1e-15


def test_a_randomized_response_and_a_gaussian_release_equal_their_convolution() -> None:
    for epsilon in (0.0, 0.5, 2.0):
        exact = gaussian_with(answers(1.0, 5), 1.5, epsilon)
        low, high = bounds("replace", epsilon, (dp.RandomizedResponse(1.0, 5), 1), (dp.Gaussian(3.0), 1))
        assert low <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= high <= low * 1.001


@pytest.mark.parametrize("outcomes", [2, 3, 40])
def test_moments_of_a_randomized_response_are_those_of_its_pair(outcomes: int) -> None:
    found = renyi.moments(dp.RandomizedResponse(1.3, outcomes), "replace", ORDERS)
    assert found == pytest.approx([moment(answers(1.3, outcomes), order) for order in ORDERS], rel=1e-10)


def test_two_answers_are_a_proved_release_and_more_answers_cost_less() -> None:
    costs = [dp.Accountant("replace").compose(dp.RandomizedResponse(0.5, k), 20).epsilon(1e-6) for k in (2, 3, 100)]
    proof = dp.Accountant("replace").compose(dp.ApproximateDP(0.5), 20).epsilon(1e-6)
    assert costs[0] == pytest.approx(proof, rel=1e-9)
    assert costs[0] > costs[1] > costs[2]


def test_randomized_response_is_refused_where_a_client_may_be_absent() -> None:
    accountant = dp.Accountant().compose(dp.RandomizedResponse(1.0)).compose(dp.Gaussian(1.0))
    for ask in (lambda: accountant.epsilon(1e-5), lambda: accountant.delta(1.0), lambda: accountant.renyi(2.0)):
        with pytest.raises(UnsupportedEventError, match="client answered is seen; needed adjacency 'replace'"):
            ask()


def test_assumptions_name_the_answers() -> None:
    words = dp.Accountant("replace").compose(dp.RandomizedResponse(0.5, 3)).assumptions()
    assert "1 release: randomized response of epsilon 0.5 among 3 answers, by each client itself." in words


# --- exponential mechanism -------------------------------------------------------------------------------------------


def ends(length: float, top: float) -> tuple[Law, Law]:
    """Two losses, `top` and `top - length`."""
    e, t = Fraction(math.exp(length)), Fraction(math.exp(top))
    p = (e - t) / (e - 1)
    return [p, 1 - p], [p / t, (1 - p) * e / t]


@pytest.mark.parametrize("length", [1e-4, 0.5, 3.0, 40.0])
@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_one_exponential_mechanism_equals_the_worst_pair_of_two_losses(length: float, adjacency: Adjacency) -> None:
    for share in (0.0, 0.3, 0.9):
        epsilon = share * length
        tops = np.append(np.linspace(0.001, 0.999, 60) * length, (length + epsilon) / 2)
        exact = max(brute_delta([ends(length, top)], epsilon) for top in tops)
        found = bounds(adjacency, epsilon, (dp.ExponentialMechanism(length), 1))
        assert found.lower == 0
        assert exact == pytest.approx(found.upper, rel=1e-7)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(-1.0, 1.0)), min_size=2, max_size=4),
    st.floats(0.05, 6.0),
    st.integers(1, 3),
    st.floats(0, 1),
)
def test_no_choice_by_utility_exceeds_the_bounds(
    utilities: list[tuple[float, float]], length: float, count: int, share: float
) -> None:
    """Utilities of each candidate, and by how much of the sensitivity, 1, the other data set moves them."""
    here, moved = np.array(utilities).T
    one, other = (law / law.sum() for law in (np.exp(length * here / 2), np.exp(length * (here + moved) / 2)))
    pair = [Fraction(x) for x in one], [Fraction(x) for x in other]
    epsilon = share * length * count
    event = dp.ExponentialMechanism(length)
    assert brute_delta([pair] * count, epsilon) <= bounds("replace", epsilon, (event, count)).upper + 1e-12
    assert moment(pair, 3.0) <= renyi.moments(event, "replace", [3.0])[0] + 1e-12


def range_nodes(length: float) -> tuple[np.ndarray, np.ndarray]:
    """Losses of the worst pair of bounded range, and their masses, on many equal cells."""
    losses = (np.arange(40000) + 0.5) / 20000 * length - length
    return losses, np.exp(losses / 2) / (4 * math.sinh(length / 2)) * length / 20000


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_an_exponential_mechanism_and_a_gaussian_release_equal_their_convolution(epsilon: float) -> None:
    losses, masses = range_nodes(1.2)
    exact = sum(mass * gaussian_delta(1.5, epsilon - loss) for loss, mass in zip(losses, masses, strict=True))
    upper = bounds("add_remove", epsilon, (dp.ExponentialMechanism(1.2), 1), (dp.Gaussian(1.5), 1)).upper
    assert exact * (1 - 1e-8) <= upper <= exact * (1 + 1e-4)


def test_moments_of_an_exponential_mechanism_are_the_largest_of_two_losses() -> None:
    for length in (0.3, 2.0, 8.0):
        found = renyi.moments(dp.ExponentialMechanism(length), "replace", ORDERS)
        tops = np.linspace(0.002, 0.998, 250) * length
        exact = np.array([max(moment(ends(length, top), order) for top in tops) for order in ORDERS])
        assert np.all(exact <= found * (1 + 1e-9))
        assert found == pytest.approx(exact, rel=2e-3)
        assert np.all(found <= ORDERS * length**2 / 8)


def test_bounded_range_costs_less_than_a_proof_of_the_same_epsilon() -> None:
    for count, part in ((1, 1.0), (10, 0.75), (1000, 0.6)):
        choice, proof = (
            dp.Accountant().compose(event, count).epsilon(1e-6)
            for event in (dp.ExponentialMechanism(0.1), dp.ApproximateDP(0.1))
        )
        assert 0 < choice < part * proof


def test_assumptions_name_the_sensitivity() -> None:
    words = dp.Accountant().compose(dp.ExponentialMechanism(0.5)).assumptions()
    assert "exp(0.5 utility / (2 sensitivity)), where no candidate's utility differs by more than" in words


# --- discrete Laplace noise ------------------------------------------------------------------------------------------


def geometric(scale: float, center: int, reach: int) -> Law:
    """Discrete Laplace noise around an integer, on -reach and below, ..., reach and above."""
    r = Fraction(math.exp(-1 / scale))
    law = [(1 - r) / (1 + r) * r ** abs(x - center) for x in range(-reach, reach + 1)]
    law[0], law[-1] = r ** (reach + center) / (1 + r), r ** (reach - center) / (1 + r)
    return law


def cohort(rate: float, absent: Law, present: Law) -> Law:
    q = Fraction(rate)
    return [(1 - q) * x + q * y for x, y in zip(absent, present, strict=True)]


def around(scale: float, *centers: int) -> list[Law]:
    reach = max(map(abs, centers)) + 1
    return [geometric(scale, center, reach) for center in centers]


def pairs_of(event: dp.Event, adjacency: Adjacency) -> list[tuple[Law, Law]]:
    """The pair of actual data in either direction, after the pair that bounds both if there is one."""
    shift = 2 if adjacency == "replace" else 1
    if isinstance(event, dp.DiscreteLaplace):
        far = event.sensitivity
        first, second = around(event.noise_multiplier * far, 0, shift * far)
    else:
        assert isinstance(event, dp.PoissonSampled | dp.FixedSizeSampled)
        assert isinstance(event.event, dp.DiscreteLaplace)
        far, rate, fixed = event.event.sensitivity, event.sampling_rate, isinstance(event, dp.FixedSizeSampled)
        zero, up, down = around(event.event.noise_multiplier * far, 0, 2 * far if fixed else far, -far)
        first = cohort(rate, zero, up)
        second = cohort(rate, zero, down) if adjacency == "replace" and not fixed else zero
        if adjacency == "replace" and fixed and rate < 1:
            # What bounds both directions: the losses above 0, their mirror images, and nothing.
            more = [(x, y) for x, y in zip(first, second, strict=True) if x > y]
            rest = 1 - sum(x + y for x, y in more)
            worst = [x for x, _ in more] + [y for _, y in more] + [rest]
            return [(worst, worst[len(more) : -1] + worst[: len(more)] + [rest]), (first, second), (second, first)]
    return [(first, second), (second, first)]


DISCRETE: list[tuple[dp.Event, int]] = [
    (dp.DiscreteLaplace(1.0), 4),
    (dp.DiscreteLaplace(0.7, 2), 2),
    (dp.DiscreteLaplace(2.0, 3), 1),
    (dp.PoissonSampled(0.2, dp.DiscreteLaplace(0.5)), 3),
    (dp.PoissonSampled(0.7, dp.DiscreteLaplace(1.5, 2)), 2),
    (dp.PoissonSampled(0.01, dp.DiscreteLaplace(1.0, 3)), 1),
    (dp.PoissonSampled(1.0, dp.DiscreteLaplace(1.0, 2)), 1),
    (dp.FixedSizeSampled(1, 4, dp.DiscreteLaplace(2.0)), 3),
    (dp.FixedSizeSampled(3, 3, dp.DiscreteLaplace(2.0)), 1),
]


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(("event", "count"), DISCRETE, ids=str)
def test_discrete_laplace_noise_equals_the_sum_over_all_outcomes(
    event: dp.Event, count: int, adjacency: Adjacency
) -> None:
    for epsilon in (0.0, 0.05, 0.6):
        exact = max(brute_delta([pair] * count, epsilon) for pair in pairs_of(event, adjacency))
        low, high = bounds(adjacency, epsilon, (event, count))
        assert exact * (1 - 1e-11) <= high + 1e-15
        assert low <= exact * (1 + 1e-11) + 1e-15
        assert high <= exact * 1.005 + 1e-14


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(("event", "count"), DISCRETE, ids=str)
def test_moments_of_discrete_laplace_noise_are_those_of_its_pair(
    event: dp.Event, count: int, adjacency: Adjacency
) -> None:
    found = renyi.moments(event, adjacency, ORDERS)
    exact = np.array([max(moment(pair, order) for pair in pairs_of(event, adjacency)) for order in ORDERS])
    assert np.all(exact <= found * (1 + 1e-9))
    assert found == pytest.approx(exact, rel=1e-9)


@settings(max_examples=25)
@given(
    st.lists(st.integers(-2, 2), min_size=2, max_size=3),
    st.floats(0.3, 4.0),
    st.sampled_from([0.0, 0.3]),
    st.floats(0.0, 1.5),
)
def test_no_vector_is_worse_than_one_coordinate(vector: list[int], scale: float, rate: float, epsilon: float) -> None:
    norm = sum(map(abs, vector))
    laws = [around(scale, move, 0) for move in vector if move]
    if not laws:
        return
    first, second = ([math.prod(each) for each in product(*(pair[side] for pair in laws))] for side in (0, 1))
    event = dp.DiscreteLaplace(scale / norm, norm)
    high = bounds("add_remove", epsilon, (event, 1)).upper
    assert brute_delta([(first, second)], epsilon) <= high * (1 + 1e-9) + 1e-15
    if rate:
        mixed = cohort(rate, second, first)
        high = bounds("add_remove", epsilon, (dp.PoissonSampled(rate, event), 1)).upper
        assert brute_delta([(mixed, second)], epsilon) <= high * (1 + 1e-9) + 1e-15
        assert brute_delta([(second, mixed)], epsilon) <= high * (1 + 1e-9) + 1e-15


@pytest.mark.parametrize("event", [DISCRETE[1][0], DISCRETE[4][0]], ids=str)
@pytest.mark.parametrize("adjacency", ADJACENCIES)
def test_discrete_laplace_and_gaussian_noise_equal_their_convolution(event: dp.Event, adjacency: Adjacency) -> None:
    shift = 2 if adjacency == "replace" else 1
    for epsilon in (0.0, 0.5, 2.0):
        exact = max(gaussian_with(pair, 1.5, epsilon) for pair in pairs_of(event, adjacency))
        low, high = bounds(adjacency, epsilon, (event, 1), (dp.Gaussian(1.5 * shift), 1))
        assert low <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= high <= low * 1.001


def test_many_steps_are_almost_continuous_and_large_epsilons_have_bounds() -> None:
    for adjacency in ADJACENCIES:
        fine = dp.Accountant(adjacency).compose(dp.DiscreteLaplace(2.0, 2000), 5).epsilon(1e-5)
        assert fine == pytest.approx(dp.Accountant(adjacency).compose(dp.Laplace(2.0), 5).epsilon(1e-5), rel=1e-3)
    found = dp.Accountant().compose(dp.DiscreteLaplace(0.01, 50)).epsilon(1e-5, bounds=True)
    assert 99.9 < found.lower <= found.upper <= 100 + 1e-9
    assert dp.Accountant().compose(dp.PoissonSampled(0.5, dp.DiscreteLaplace(1.0)), 3).delta(3.1) == 0.0


def test_assumptions_name_the_steps() -> None:
    words = dp.Accountant().compose(dp.DiscreteLaplace(2.5, 4)).compose(dp.DiscreteLaplace(2.0)).assumptions()
    assert "discrete Laplace noise of scale 10 on integer contributions of 1-norm at most 4 whole steps" in words
    assert "1-norm at most 1 whole step." in words


# --- zCDP ------------------------------------------------------------------------------------------------------------


def test_zcdp_has_the_moments_of_gaussian_noise_and_no_lower_value() -> None:
    """Gaussian noise of multiplier s is 1/(2 s^2)-zCDP, and no order says less of it (Bun, Steinke 2016)."""
    proof, noise = dp.ZeroConcentrated(1 / 18), dp.Gaussian(3.0)
    assert renyi.moments(proof, "replace", ORDERS) == pytest.approx(ORDERS / 18, rel=1e-14)
    for others in ([], [dp.Gaussian(5.0)], [dp.ApproximateDP(0.1, 1e-7)], [dp.DiscreteLaplace(4.0, 3)], [SUM]):
        found, same = dp.Accountant().compose(proof, 7), dp.Accountant().compose(noise, 7)
        for other in others:
            found.compose(other)
            same.compose(other)
        assert found.epsilon(1e-5, bounds=True).lower == 0 == found.delta(2.0, bounds=True).lower
        assert found.epsilon(1e-5) == pytest.approx(same.rdp_epsilon(1e-5), rel=1e-9)
        assert found.epsilon(1e-5) >= same.epsilon(1e-5)
        assert found.delta(2.0) >= same.delta(2.0)


def test_epsilon_of_zcdp_is_below_the_closed_form_of_bun_and_steinke() -> None:
    for rho in (1e-20, 0.01, 1.0, 1e6):
        upper = dp.Accountant("replace").compose(dp.ZeroConcentrated(rho)).epsilon(1e-6)
        assert 0 <= upper <= rho + 2 * math.sqrt(rho * math.log(1e6))
    assert dp.Accountant().compose(dp.ZeroConcentrated(0.01)).delta(1e6) > 0


def test_assumptions_name_rho() -> None:
    words = dp.Accountant().compose(dp.ZeroConcentrated(0.0123456789), 2).assumptions()
    assert "2 releases: something that is proved 0.0123456-zCDP between these data sets." in words


# --- together --------------------------------------------------------------------------------------------------------

OTHERS: list[tuple[dp.Event, tuple[Law, Law]]] = [
    (dp.ApproximateDP(0.5, 1e-10), proved(0.5, 1e-10)),
    (dp.ApproximateDP(2.0, 0.02), proved(2.0, 0.02)),
    (dp.RandomizedResponse(0.9, 4), answers(0.9, 4)),
]


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from(OTHERS), min_size=1, max_size=2),
    st.floats(0.2, 5.0),
    st.sampled_from([0.001, 0.1, 0.9]),
    st.floats(0.0, 4.0),
)
def test_different_kinds_together_equal_the_sum_over_all_outcomes(
    others: list[tuple[dp.Event, tuple[Law, Law]]], scale: float, rate: float, epsilon: float
) -> None:
    noisy = dp.DiscreteLaplace(scale, 2), dp.PoissonSampled(rate, dp.DiscreteLaplace(scale))
    known = [pair for _, pair in others]
    exact = brute_delta([*known, *(pairs_of(event, "replace")[0] for event in noisy)], epsilon)
    low, high = bounds("replace", epsilon, *((event, 1) for event in noisy), *((event, 1) for event, _ in others))
    assert low <= exact * (1 + 1e-10) + 1e-15
    assert exact * (1 - 1e-10) <= high + 1e-15
