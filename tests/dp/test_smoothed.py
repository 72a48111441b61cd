"""Smoothed contours: their bounds hold exact answers between them, and lie close together."""

import math
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.special import ndtr

from secfed.dp import composition, dominating_pairs, renyi
from secfed.dp.accountant import Accountant
from secfed.dp.contour import smoothed
from secfed.dp.contour.pairs import NoiseLaw, Pair
from secfed.dp.events import (
    Adjacency,
    Composed,
    DiscreteLaplace,
    Event,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    PoissonSampled,
    SkellamSum,
)
from secfed.errors import ConfigError
from tests.dp.test_renyi import gaussian_delta, gaussian_epsilon


def pairs_epsilon(pairs: smoothed.Pairs, delta: float) -> tuple[float, float]:
    return smoothed.epsilon_bounds(pairs, math.log(delta))


def directions(events: list[tuple[Event, int]], adjacency: Adjacency) -> tuple[smoothed.Pairs, ...]:
    flat: dict[Event, int] = {}
    composition._flatten(events, 1, flat)
    return dominating_pairs.laws(flat, adjacency)


def bounds_epsilon(events: list[tuple[Event, int]], adjacency: Adjacency, delta: float) -> tuple[float, float]:
    found = [pairs_epsilon(pairs, delta) for pairs in directions(events, adjacency)]
    return max(low for low, _ in found), max(high for _, high in found)


def bounds_delta(events: list[tuple[Event, int]], adjacency: Adjacency, epsilon: float) -> tuple[float, float]:
    found = [smoothed.delta_bounds(pairs, epsilon) for pairs in directions(events, adjacency)]
    return max(low for low, _ in found), max(high for _, high in found)


def binary(chance: float) -> Pair:
    """Randomized response that tells the truth with this probability."""
    return Pair([chance, 1 - chance], [1 - chance, chance])


def binary_delta(chance: float, rounds: int, epsilon: float) -> float:
    """Delta of many such responses, in rational numbers."""
    truth, factor = Fraction(chance), Fraction(math.exp(epsilon))
    lie = Fraction(1 - chance)
    total = Fraction(0)
    for k in range(rounds + 1):
        gain = truth**k * lie ** (rounds - k) - factor * lie**k * truth ** (rounds - k)
        total += math.comb(rounds, k) * max(gain, Fraction(0))
    return float(total)


# --- explicit pairs --------------------------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("chance", "rounds"), [(0.6, 10), (0.75, 30), (0.52, 200)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.55])
def test_randomized_response_equals_the_binomial_sum(chance: float, rounds: int, share: float) -> None:
    epsilon = share * rounds * math.log(chance / (1 - chance))
    exact = binary_delta(chance, rounds, epsilon)
    lower, upper = smoothed.delta_bounds([(binary(chance), rounds)], epsilon)
    assert lower <= exact <= upper and upper - lower <= 5e-3 * exact


def test_randomized_response_has_the_right_epsilon_down_to_tiny_deltas() -> None:
    for delta in (0.1, 1e-5, 1e-30):
        lower, upper = pairs_epsilon([(binary(0.52), 100)], delta)
        assert binary_delta(0.52, 100, upper) <= delta <= binary_delta(0.52, 100, lower)
        assert 0 < upper - lower <= 3e-6 * upper


def test_different_pairs_together_equal_the_sum_over_all_outcomes() -> None:
    laws = [([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]), ([0.1, 0.9], [0.3, 0.7]), ([0.25, 0.25, 0.5], [0.3, 0.3, 0.4])]
    counts = [2, 3, 1]
    each = [law for law, count in zip(laws, counts, strict=True) for _ in range(count)]
    first = np.array([math.prod(outcome) for outcome in product(*(law[0] for law in each))])
    second = np.array([math.prod(outcome) for outcome in product(*(law[1] for law in each))])
    pairs = [(Pair(*law), count) for law, count in zip(laws, counts, strict=True)]
    back = [(Pair(law[1], law[0]), count) for law, count in zip(laws, counts, strict=True)]
    for epsilon in (0.0, 0.5, 2.0):
        for direction, one, other in ((pairs, first, second), (back, second, first)):
            exact = float(np.maximum(one - math.exp(epsilon) * other, 0).sum())
            lower, upper = smoothed.delta_bounds(direction, epsilon)
            assert lower <= exact <= upper <= lower + 2e-3 * exact


def test_outcomes_of_one_law_only_count_as_lost() -> None:
    pair = Pair([0.9, 0.1, 0.0], [0.8, 0.0, 0.2])
    for rounds in (1, 4):
        lost = 1 - 0.9**rounds
        for epsilon in (0.0, 3.0):
            exact = lost + max(0.9**rounds - math.exp(epsilon) * 0.8**rounds, 0)
            lower, upper = smoothed.delta_bounds([(pair, rounds)], epsilon)
            assert lower <= exact <= upper <= exact + 1e-9
    assert pairs_epsilon([(pair, 5)], 0.3) == (math.inf, math.inf)
    assert pairs_epsilon([(Pair([1, 0], [0, 1]), 1)], 0.5) == (math.inf, math.inf)


def test_equal_laws_cost_nothing() -> None:
    pair = Pair([0.25, 0.75], [0.25, 0.75])
    assert pairs_epsilon([(pair, 100)], 1e-5) == (0, 0)
    lower, upper = smoothed.delta_bounds([(pair, 100)], 0.0)
    assert lower == 0 and upper < 1e-9


def test_tiny_probabilities_keep_their_losses() -> None:
    pair = Pair([1 - 1e-300, 1e-300], [1 - 1e-280, 1e-280])
    _, upper = smoothed.delta_bounds([(pair, 1)], 1.0)
    assert upper <= 1e-280


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([0.5, 0.5], [1.0]),
        ([], []),
        ([0.5, 0.4], [0.5, 0.5]),
        ([1.5, -0.5], [0.5, 0.5]),
        ([math.nan, 1.0], [0.5, 0.5]),
        ([[1.0]], [[1.0]]),
    ],
)
def test_what_is_no_pair_of_laws_is_refused(p: list[float], q: list[float]) -> None:
    with pytest.raises(ConfigError):
        Pair(p, q)


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("noise", "rounds"), [(0.3, 2), (1.0, 1), (1.0, 20), (20.0, 100), (300.0, 1)])
@pytest.mark.parametrize("delta", [0.01, 1e-30])
def test_gaussian_composition_holds_the_closed_form_between_its_bounds(noise: float, rounds: int, delta: float) -> None:
    total = noise / math.sqrt(rounds)
    exact = gaussian_epsilon(total, delta)
    lower, upper = bounds_epsilon([(Gaussian(noise), rounds)], "add_remove", delta)
    assert lower <= exact <= upper and upper - lower <= 1e-4 * exact + 1e-9
    delta = min(delta, gaussian_delta(total, 0.0))
    lower, upper = bounds_delta([(Gaussian(noise), rounds)], "add_remove", exact)
    assert lower <= delta * (1 + 1e-9) and delta * (1 - 1e-9) <= upper <= 1.02 * lower


@pytest.mark.parametrize(
    ("rate", "noise"), [pytest.param(1e-3, 0.8, marks=pytest.mark.slow), (0.1, 0.5), (0.1, 1.0), (0.9, 3.0)]
)
@pytest.mark.slow
def test_one_sampled_release_holds_the_closed_form_between_its_bounds(rate: float, noise: float) -> None:
    for epsilon in (0.0, 0.05, 3.0):
        exact = rate * gaussian_delta(noise, math.log1p(math.expm1(epsilon) / rate))
        lower, upper = bounds_delta([(PoissonSampled(rate, Gaussian(noise)), 1)], "add_remove", epsilon)
        # At 0 most losses of the rarely sampled release are nearer than smoothing tells apart.
        near = 0.4 if epsilon == 0 and rate < 0.01 else 0.01
        assert lower <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= upper <= lower + near * exact


def test_adding_a_client_in_one_sampled_release_equals_its_closed_form() -> None:
    rate, noise, epsilon = 0.3, 1.0, 0.2
    # Where the loss exceeds epsilon: the half-line on which 1 - rate + rate e^w is below e^-epsilon.
    edge = 0.5 + noise**2 * math.log((math.exp(-epsilon) - (1 - rate)) / rate)
    absent, present = ndtr(edge / noise), (1 - rate) * ndtr(edge / noise) + rate * ndtr((edge - 1) / noise)
    exact = float(absent - math.exp(epsilon) * present)
    law = NoiseLaw(noise, rate, "add", laplace=False)
    lower, upper = smoothed.delta_bounds([(law, 1)], epsilon)
    assert lower <= exact <= upper and upper - lower <= 1e-3 * exact


def laplace_delta(scale: float, rounds: int, epsilon: float) -> float:
    """Delta of one or several releases: exact for one, by recursion on the law of one more loss."""
    most = 1 / scale
    if rounds == 1:
        return 1 - math.exp(epsilon) if epsilon < -most else max(0.0, -math.expm1((epsilon - most) / 2))
    points, weights = np.polynomial.legendre.leggauss(24)
    # The next loss is most or -most with mass 1/2 and e^-most / 2, else has density e^{(l - most) / 2} / 4.
    edges = np.unique(np.clip([-most, most, epsilon - (rounds - 1) * most, *(epsilon + k * most for k in range(-3, 4))],
                              -most, most))  # fmt: skip
    total = laplace_delta(scale, rounds - 1, epsilon - most) / 2
    total += math.exp(-most) / 2 * laplace_delta(scale, rounds - 1, epsilon + most)
    for low, high in pairwise(edges):
        for point, weight in zip(points, weights, strict=True):
            loss = low + (high - low) * (1 + point) / 2
            mass = weight * (high - low) / 2 * math.exp((loss - most) / 2) / 4
            total += mass * laplace_delta(scale, rounds - 1, epsilon - loss)
    return total


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_laplace_releases_equal_repeated_integration(rounds: int) -> None:
    for scale, epsilon in ((1.0, 0.3), (1.0, 0.9), (3.0, 0.25)):
        exact = laplace_delta(scale, rounds, epsilon)
        lower, upper = bounds_delta([(Laplace(scale), rounds)], "add_remove", epsilon)
        assert lower <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= upper <= lower + 1e-4 * exact


def test_many_laplace_releases_stay_below_their_largest_loss() -> None:
    lower, upper = bounds_epsilon([(Laplace(1.0), 30)], "add_remove", 1e-20)
    assert 29.99 < lower <= upper <= 30 + 1e-9
    lower, upper = bounds_epsilon([(Laplace(1.0), 30)], "replace", 1e-5)
    assert 30 < lower <= upper < 60 and upper - lower < 0.01


def test_one_sampled_laplace_release_holds_the_closed_form_between_its_bounds() -> None:
    rate, scale, epsilon = 0.2, 0.5, 0.4
    exact = rate * laplace_delta(scale, 1, math.log1p(math.expm1(epsilon) / rate))
    lower, upper = bounds_delta([(PoissonSampled(rate, Laplace(scale)), 1)], "add_remove", epsilon)
    assert lower <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= upper <= lower + 1e-4 * exact


def test_replacing_in_sampled_laplace_noise_equals_the_integral_and_no_other_replacement_is_worse() -> None:
    rate, scale, epsilon = 0.3, 0.7, 0.4
    x = np.linspace(-40.0, 40.0, 800_001)

    def delta(client: float, other: float) -> float:
        noise, first, second = (np.exp(-np.abs(x - center) / scale) / (2 * scale) for center in (0.0, client, other))
        more = (1 - rate) * noise + rate * first - math.exp(epsilon) * ((1 - rate) * noise + rate * second)
        return float(np.maximum(more, 0.0).sum() * (x[1] - x[0]))

    exact = delta(1.0, -1.0)
    lower, upper = bounds_delta([(PoissonSampled(rate, Laplace(scale)), 1)], "replace", epsilon)
    assert lower <= exact * (1 + 1e-7) and exact * (1 - 1e-7) <= upper <= lower + 1e-4 * exact
    for client, other in ((1.0, 0.0), (0.0, -1.0), (0.8, -1.0), (1.0, -0.6)):
        assert delta(client, other) <= upper


def test_replacing_a_sampled_client_equals_the_integral_and_no_other_replacement_is_worse() -> None:
    rate, noise = 0.4, 0.8
    grid = np.linspace(-6, 6, 601)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    cell = (grid[1] - grid[0]) ** 2

    def at(angle: float, norm: float) -> np.ndarray:
        squares = (x - norm * math.cos(angle)) ** 2 + (y - norm * math.sin(angle)) ** 2
        return np.asarray(np.exp(-squares / (2 * noise**2)) / (2 * math.pi * noise**2))

    for epsilon in (0.0, 0.7):
        lower, upper = bounds_delta([(PoissonSampled(rate, Gaussian(noise)), 1)], "replace", epsilon)
        found = []
        for angle, norm, other in ((math.pi, 1, 1), (2.5, 1, 1), (1.5, 1, 1), (math.pi, 1, 0.5), (0.0, 1, 0)):
            first, second = ((1 - rate) * at(0, 0) + rate * law for law in (at(0, norm), at(angle, other)))
            found.append(float(np.maximum(first - math.exp(epsilon) * second, 0).sum()) * cell)
        assert lower - 1e-4 <= found[0] <= upper + 1e-4 and upper - lower < 1e-3
        assert max(found[1:]) < lower


def test_a_fixed_size_is_as_bad_in_both_directions_and_worse_than_removing() -> None:
    event, poisson = FixedSizeSampled(3, 10, Gaussian(2.0)), PoissonSampled(0.3, Gaussian(1.0))
    for epsilon in (0.1, 1.0):
        exact = 0.3 * gaussian_delta(1.0, math.log1p(math.expm1(epsilon) / 0.3))
        for adjacency in ("add_remove", "replace"):
            lower, upper = bounds_delta([(event, 1)], adjacency, epsilon)
            assert lower <= exact * (1 + 1e-9) and exact * (1 - 1e-9) <= upper <= lower + 0.01 * exact
        many = bounds_delta([(event, 20)], "replace", epsilon)[0]
        assert many > bounds_delta([(poisson, 20)], "add_remove", epsilon)[1]


CASES: list[tuple[list[tuple[Event, int]], Adjacency]] = [
    ([(PoissonSampled(0.01, Gaussian(1.1)), 300)], "add_remove"),
    ([(PoissonSampled(0.05, Gaussian(1.0)), 40), (PoissonSampled(0.2, Gaussian(2.0)), 20)], "replace"),
    ([(FixedSizeSampled(1, 20, Gaussian(2.0)), 50)], "add_remove"),
    ([(FixedSizeSampled(1, 20, Gaussian(2.0)), 50), (Gaussian(30.0), 10)], "replace"),
    ([(PoissonSampled(0.1, Laplace(1.0)), 20), (Laplace(10.0), 5)], "add_remove"),
    ([(FixedSizeSampled(1, 10, Laplace(2.0)), 20)], "replace"),
    ([(PoissonSampled(0.1, Laplace(2.0)), 300)], "replace"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("events", "adjacency"), CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("delta", [1e-5, pytest.param(1e-20, marks=pytest.mark.slow)])
def test_no_bound_is_above_that_of_renyi(events: list[tuple[Event, int]], adjacency: Adjacency, delta: float) -> None:
    lower, upper = bounds_epsilon(events, adjacency, delta)
    assert lower <= upper <= lower * 1.003 + 1e-6
    assert upper < renyi.epsilon(events, adjacency, delta)


def test_compositions_may_be_nested() -> None:
    nested = Composed(((Gaussian(5.0), 2), (Composed(((Gaussian(5.0), 1),)), 3)))
    exact = gaussian_epsilon(5 / math.sqrt(10), 1e-5)
    lower, upper = bounds_epsilon([(nested, 2)], "add_remove", 1e-5)
    assert lower <= exact <= upper < lower + 1e-3


def test_replacing_under_plain_noise_is_noise_of_half_the_size() -> None:
    found = bounds_epsilon([(Gaussian(4.0), 3)], "replace", 1e-5)
    assert found == bounds_epsilon([(Gaussian(2.0), 3)], "add_remove", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "noise", "rounds"), [(0.01, 1.1, 1000), (0.001, 0.8, 5000), (0.1, 0.3, 3)])
def test_the_contour_engine_lies_between_the_bounds(rate: float, noise: float, rounds: int) -> None:
    cohort = round(rate * 1000)
    for event in (PoissonSampled(rate, Gaussian(noise)), FixedSizeSampled(cohort, 1000, Gaussian(2 * noise))):
        for adjacency in ("add_remove", "replace"):
            for delta in (1e-5, 1e-20):
                found = Accountant(adjacency).compose(event, rounds).epsilon(delta, bounds=True)
                lower, upper = bounds_epsilon([(event, rounds)], adjacency, delta)
                assert lower <= found.upper and found.lower <= upper and upper <= lower * 1.01


# --- what has no law -------------------------------------------------------------------------------------------------


def test_events_without_a_law_are_left_to_moments() -> None:
    total = SkellamSum(4.0, 100, 20.0, 100.0, 1000)
    cases: list[tuple[Event, Adjacency]] = [
        (total, "add_remove"),
        (PoissonSampled(0.1, total), "add_remove"),
        (PoissonSampled(0.1, total), "replace"),
    ]
    for event, adjacency in cases:
        assert directions([(Gaussian(1.0), 1), (event, 1)], adjacency) == ()
        assert Accountant(adjacency).compose(event).epsilon(1e-5, bounds=True).lower == 0


@pytest.mark.parametrize("event", [Laplace(5.0), PoissonSampled(0.3, Laplace(1.0)), DiscreteLaplace(9.0)], ids=repr)
@pytest.mark.parametrize("factor", [1.0 + 1e-6, 1.01, 1.5, 4.0])
def test_epsilon_is_zero_where_delta_is_larger_than_that_of_zero(event: Event, factor: float) -> None:
    accountant = Accountant().compose(event, 3)
    delta = factor * accountant.delta(0.0)
    low, high = accountant.epsilon(delta, bounds=True)
    assert low == 0.0 and 0.0 <= high <= 1e-6
