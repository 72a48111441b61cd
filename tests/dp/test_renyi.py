"""The Renyi engine: its moments against exact sums and plain quadrature, its guarantees against closed forms."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import gammaln, ive, log_ndtr, logsumexp

from secfed.dp import renyi
from secfed.dp.events import (
    Adjacency,
    Composed,
    DiscreteGaussianSum,
    Event,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    NonPrivate,
    PoissonSampled,
    SkellamSum,
)
from secfed.errors import ConfigError, UnsupportedEventError

Array = npt.NDArray[np.float64]
ORDERS = np.array([1.1, 1.5, 2.0, 3.7, 8.0, 20.0])


def gaussian_delta(noise: float, epsilon: float) -> float:
    """Balle and Wang 2018, equation 6, for one release."""
    first = log_ndtr(0.5 / noise - epsilon * noise)
    return float(np.exp(first) * -np.expm1(epsilon + log_ndtr(-0.5 / noise - epsilon * noise) - first))


def gaussian_epsilon(noise: float, delta: float) -> float:
    low, high = 0.0, 2.0
    while gaussian_delta(noise, high) > delta:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(noise, middle) > delta else (low, middle)
    return low


def line(noise: float, order: float) -> tuple[Array, Array, Array, float]:
    """Points, density of N(0, noise^2), and likelihood ratios of N(1) to N(0)."""
    x = np.linspace(-1 - 14 * noise, 2 * order + 14 * noise, 400_001)
    density = np.exp(-(x**2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
    return x, density, np.exp((2 * x - 1) / (2 * noise**2)), x[1] - x[0]


def divergence(first: Array, second: Array, order: float) -> float:
    """Renyi divergence of two laws on the integers, less what underflows."""
    both = (first > 0) & (second > 0)
    return float(logsumexp(order * np.log(first[both]) + (1 - order) * np.log(second[both]))) / (order - 1)


# --- moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.1, 0.9])
@pytest.mark.parametrize("noise", [0.3, 1.0, 5.0, 100.0])
def test_whole_orders_of_the_sampled_gaussian_equal_the_binomial_sum(rate: float, noise: float) -> None:
    for order in (2, 3, 8, 40):
        k = np.arange(2.0, order + 1)
        binomials = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        growth = k * (k - 1) / (2 * noise**2)
        terms = binomials + k * math.log(rate) + (order - k) * math.log1p(-rate)
        exact = np.logaddexp(0, logsumexp(terms + growth + np.log(-np.expm1(-growth)))) / (order - 1)
        found = renyi.moments(PoissonSampled(rate, Gaussian(noise)), "add_remove", [order])[0]
        assert exact * (1 - 1e-12) <= found <= exact * (1 + 1e-9)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.1), (0.3, 2.0), (0.5, 0.7), (0.9, 4.0)])
def test_moments_of_every_sampling_are_those_of_its_dominating_pair(rate: float, noise: float) -> None:
    fixed = FixedSizeSampled(round(rate * 100), 100, Gaussian(2 * noise))
    for order in ORDERS:
        x, density, _, step = line(noise, order)
        logs = -(x**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
        one, other = (1 + rate * (np.exp((sign * 2 * x - 1) / (2 * noise**2)) - 1) for sign in (1, -1))
        remove = np.exp(logs + order * np.log(one)) - density * (1 + order * (one - 1))
        replace = np.exp(logs + order * np.log(one) + (1 - order) * np.log(other))
        replace -= density * (other + order * (one - other))
        swap = np.exp(logs + order * np.log(one)) + np.exp(logs + (1 - order) * np.log(one)) - density * (1 + one)
        swap[x < 0.5] = 0
        cases: list[tuple[Event, Adjacency, Array, float]] = [
            (PoissonSampled(rate, Gaussian(noise)), "add_remove", remove, 1e-7),
            (fixed, "add_remove", remove, 1e-7),
            (PoissonSampled(rate, Gaussian(noise)), "replace", replace, 1e-7),
            (fixed, "replace", swap, 5e-3),
        ]
        for event, adjacency, terms, gap in cases:
            exact = math.log1p(float(terms.sum()) * step) / (order - 1)
            found = renyi.moments(event, adjacency, [order])[0]
            assert exact * (1 - 1e-7) <= found <= exact * (1 + gap), (event, adjacency, order)


def test_removing_a_client_shows_more_than_adding_one() -> None:
    for rate, noise in [(0.01, 1.1), (0.5, 0.7), (0.9, 4.0)]:
        found = renyi.moments(PoissonSampled(rate, Gaussian(noise)), "add_remove", ORDERS)
        for order, value in zip(ORDERS, found, strict=True):
            _, density, ratio, step = line(noise, order)
            add = float((density * (1 + rate * (ratio - 1)) ** (1 - order)).sum()) * step
            assert math.log(add) / (order - 1) <= value * (1 + 1e-7)


def test_moments_of_gaussian_noise_are_quadratic_and_replacing_a_client_counts_twice() -> None:
    np.testing.assert_allclose(renyi.moments(Gaussian(3.0), "add_remove", ORDERS), ORDERS / 18, rtol=1e-14)
    np.testing.assert_allclose(renyi.moments(Gaussian(3.0), "replace", ORDERS), 4 * ORDERS / 18, rtol=1e-14)


@pytest.mark.parametrize("scale", [0.05, 0.5, 3.0, 1000.0])
def test_laplace_equals_its_closed_form_and_stays_below_its_largest_loss(scale: float) -> None:
    orders = np.append(ORDERS, 1e4)
    found = renyi.moments(Laplace(scale), "add_remove", orders)
    logs = np.logaddexp(
        np.log(orders) + (orders - 1) / scale - np.log(2 * orders - 1),
        np.log(orders - 1) - orders / scale - np.log(2 * orders - 1),
    )
    np.testing.assert_allclose(found, logs / (orders - 1), rtol=1e-10, atol=1e-15)
    assert (found <= 1 / scale).all() and (np.diff(found) > 0).all()


def test_whole_orders_of_the_sampled_laplace_equal_the_binomial_sum() -> None:
    for rate, scale in [(0.01, 1.0), (0.4, 0.3), (0.1, 10.0)]:
        for order in (2, 5, 12):
            k = np.arange(order + 1.0)
            raised = (k - 1) * np.append([0, 0], renyi.moments(Laplace(scale), "add_remove", k[2:]))
            binomials = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
            terms = binomials + k * math.log(rate) + (order - k) * math.log1p(-rate) + raised
            found = renyi.moments(PoissonSampled(rate, Laplace(scale)), "add_remove", [order])[0]
            assert found == pytest.approx(float(logsumexp(terms)) / (order - 1), rel=1e-8)


@pytest.mark.parametrize(("rate", "scale"), [(0.01, 1.0), (0.5, 0.5), (1e-4, 3.0)])
def test_moments_of_sampled_laplace_noise_are_those_of_its_dominating_pair(rate: float, scale: float) -> None:
    x, step = np.linspace(-60, 60, 1_200_001, retstep=True)
    density = np.exp(-np.abs(x) / scale) / (2 * scale)
    one, other = (rate * np.expm1((np.abs(x) - np.abs(x - sign)) / scale) for sign in (1, -1))
    fixed = FixedSizeSampled(round(rate * 10**4), 10**4, Laplace(2 * scale))
    for order in ORDERS[:5]:
        remove = density * ((1 + one) ** order - 1 - order * one)
        ratio = (one - other) / (1 + other)
        replace = density * (1 + other) * ((1 + ratio) ** order - 1 - order * ratio)
        swap = np.where(x > 0.5, density * ((1 + one) ** order + (1 + one) ** (1 - order) - 2 - one), 0.0)
        cases: list[tuple[Event, Adjacency, Array]] = [
            (PoissonSampled(rate, Laplace(scale)), "replace", replace),
            (fixed, "add_remove", remove),
            (fixed, "replace", swap),
        ]
        for event, adjacency, terms in cases:
            exact = math.log1p(float(terms.sum()) * step) / (order - 1)
            found = renyi.moments(event, adjacency, [order])[0]
            assert exact * (1 - 1e-5) <= found <= exact * (1 + 1e-5), (event, adjacency, order)


def test_replacing_in_sampled_laplace_noise_lies_between_adding_and_the_convexity_bound() -> None:
    for event in (PoissonSampled(0.1, Laplace(2.0)), FixedSizeSampled(1, 10, Laplace(2.0))):
        replace, add = (renyi.moments(event, adjacency, ORDERS) for adjacency in ("replace", "add_remove"))
        bound = np.log(0.9 + 0.1 * np.exp((ORDERS - 1) * renyi.moments(Laplace(1.0), "add_remove", ORDERS)))
        assert (add <= replace * (1 + 1e-9)).all() and (replace <= bound / (ORDERS - 1)).all()


def test_k_is_convex_and_divergence_rises_with_the_order() -> None:
    orders = 1 + 2.0 ** np.arange(-20, 8, 0.5)
    for sampled in (PoissonSampled(0.01, Gaussian(0.8)), FixedSizeSampled(1, 100, Gaussian(0.8))):
        for adjacency in ("add_remove", "replace"):
            found = renyi.moments(sampled, adjacency, orders)
            assert (np.diff(found) > -1e-3 * found[1:]).all() and (found > 0).all()


# --- sums of integers ------------------------------------------------------------------------------------------------


def discrete_gaussian_sum(variance: float, clients: int) -> Array:
    half = np.arange(-60.0, 61.0)
    one = np.exp(-(half**2) / (2 * variance))
    total = one = one / one.sum()
    for _ in range(clients - 1):
        total = np.convolve(total, one)
    return total


@pytest.mark.parametrize(("variance", "clients"), [(0.25, 2), (0.5, 3), (1.0, 5), (4.0, 4), (0.1, 1)])
def test_discrete_gaussian_sum_is_no_worse_than_promised(variance: float, clients: int) -> None:
    law = discrete_gaussian_sum(variance, clients)
    for shift in (1, 3):
        bound = renyi.moments(DiscreteGaussianSum(variance, clients, shift, shift, 1), "add_remove", ORDERS)
        for order, value in zip(ORDERS, bound, strict=True):
            exact = divergence(law[shift:], law[:-shift], order)
            assert exact <= value * (1 + 1e-9)
            assert variance < 1 or value <= exact * 1.01


def test_one_discrete_gaussian_is_the_gaussian_and_many_narrow_ones_are_refused() -> None:
    event = DiscreteGaussianSum(0.04, 1, 2.0, 4.0, 100)
    np.testing.assert_allclose(renyi.moments(event, "add_remove", ORDERS), ORDERS * 4 / 0.08, rtol=1e-14)
    with pytest.raises(UnsupportedEventError, match=r"below 0\.25"):
        renyi.moments(DiscreteGaussianSum(0.2, 2, 2.0, 4.0, 100), "add_remove", ORDERS)


def skellam(variance: float) -> Array:
    return np.asarray(ive(np.abs(np.arange(-200, 201)), variance))


@pytest.mark.parametrize("variance", [4.0, 30.0])
def test_skellam_sum_is_no_worse_than_promised(variance: float) -> None:
    law = skellam(variance)
    for shift in (1, 4):
        for adjacency, moved in (("add_remove", shift), ("replace", 2 * shift)):
            bound = renyi.moments(SkellamSum(variance / 8, 8, shift, shift, 1), adjacency, ORDERS)
            for order, value in zip(ORDERS, bound, strict=True):
                assert divergence(law[moved:], law[:-moved], order) <= value


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.8])
def test_sampled_integer_sums_are_no_worse_than_promised(rate: float) -> None:
    law, shift, pad = skellam(9.0), 2, 10
    none, plus, minus = law[pad:-pad], law[pad - shift : -pad - shift], law[pad + shift : -pad + shift]
    twice = law[pad - 2 * shift : -pad - 2 * shift]
    event = SkellamSum(0.9, 10, shift, shift, 1)
    poisson, fixed = PoissonSampled(rate, event), FixedSizeSampled(round(rate * 50), 50, event)

    def mixed(first: Array, second: Array) -> Array:
        return (1 - rate) * first + rate * second

    cases: list[tuple[Event, Adjacency, Array, Array]] = [
        (poisson, "add_remove", mixed(none, plus), none),
        (poisson, "add_remove", none, mixed(none, plus)),
        (poisson, "replace", mixed(none, plus), mixed(none, minus)),
        (poisson, "replace", mixed(none, plus), none),
        (fixed, "add_remove", mixed(none, twice), none),
        (fixed, "add_remove", none, mixed(none, twice)),
        (fixed, "replace", mixed(none, twice), none),
        (fixed, "replace", mixed(minus, plus), mixed(minus, none)),
    ]
    for sampled, adjacency, first, second in cases:
        bound = renyi.moments(sampled, adjacency, ORDERS)
        for order, value in zip(ORDERS, bound, strict=True):
            assert divergence(first, second, order) <= value * (1 + 1e-9), (sampled, adjacency, order)


def test_sampling_an_integer_sum_helps() -> None:
    event = DiscreteGaussianSum(4.0, 100, 20.0, 100.0, 1000)
    for adjacency in ("add_remove", "replace"):
        whole = renyi.epsilon([(event, 10)], adjacency, 1e-5)
        assert renyi.epsilon([(PoissonSampled(0.01, event), 10)], adjacency, 1e-5) < whole / 3
        assert renyi.epsilon([(FixedSizeSampled(1, 100, event), 10)], adjacency, 1e-5) < whole / 1.5


# --- guarantees ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.05, 0.5, 1.0, 20.0, 1000.0])
@pytest.mark.parametrize("delta", [0.3, 1e-5, 1e-20, 1e-30])
def test_epsilon_of_gaussian_noise_is_above_the_exact_one_and_not_far(noise: float, delta: float) -> None:
    for rounds in (1, 1000, 10**9):
        exact = gaussian_epsilon(noise / math.sqrt(rounds), delta)
        found = renyi.epsilon([(Gaussian(noise), rounds)], "add_remove", delta)
        assert exact <= found
        assert delta > 0.1 or exact < 1e-3 or found <= 1.3 * exact


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.1, 0.9])
def test_delta_of_one_sampled_release_is_above_the_exact_one(rate: float) -> None:
    for noise in (0.3, 1.0, 10.0):
        for epsilon in (0.0, 0.1, 1.0, 5.0):
            exact = rate * gaussian_delta(noise, math.log1p(math.expm1(epsilon) / rate))
            found = renyi.delta([(PoissonSampled(rate, Gaussian(noise)), 1)], "add_remove", epsilon)
            assert exact <= found <= 1


def test_the_tutorial_of_dp_sgd_on_mnist_is_reproduced() -> None:
    """60,000 examples, batches of 250, noise multiplier 1.3, 15 epochs: published as 1.18 by Mironov's conversion."""
    orders = np.arange(2.0, 64.0)
    spent = 3600 * renyi.moments(PoissonSampled(250 / 60_000, Gaussian(1.3)), "add_remove", orders)
    published = spent + math.log(1e5) / (orders - 1)
    assert round(float(published.min()), 2) == 1.18 and orders[np.argmin(published)] == 17
    assert 0.8 < renyi.epsilon([(PoissonSampled(250 / 60_000, Gaussian(1.3)), 3600)], "add_remove", 1e-5) < 1.18


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "event",
    [
        Gaussian(1.1),
        Laplace(2.0),
        PoissonSampled(0.01, Gaussian(1.1)),
        FixedSizeSampled(1, 100, Gaussian(1.1)),
        PoissonSampled(0.01, Laplace(2.0)),
        SkellamSum(4.0, 100, 20.0, 100.0, 1000),
        PoissonSampled(0.01, SkellamSum(4.0, 100, 20.0, 100.0, 1000)),
    ],
    ids=lambda event: repr(event)[:40],
)
@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_delta_and_epsilon_are_inverse_and_monotone(event: Event, adjacency: Adjacency) -> None:
    epsilons = [renyi.epsilon([(event, 50)], adjacency, delta) for delta in (1e-2, 1e-5, 1e-10, 1e-30)]
    assert all(low <= high for low, high in pairwise(epsilons))
    for delta, epsilon in zip((1e-5, 1e-10), epsilons[1:3], strict=True):
        assert renyi.delta([(event, 50)], adjacency, epsilon) == pytest.approx(delta, rel=0.05)
    more = [renyi.epsilon([(event, count)], adjacency, 1e-5) for count in (1, 10, 1000)]
    assert all(low <= high for low, high in pairwise(more))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_epsilon_rises_with_the_sampling_rate_and_falls_with_the_noise(adjacency: Adjacency) -> None:
    def poisson(rate: float, noise: float) -> Event:
        return PoissonSampled(rate, Gaussian(noise))

    def fixed(rate: float, noise: float) -> Event:
        return FixedSizeSampled(round(rate * 10_000), 10_000, Gaussian(noise))

    for event in (poisson, fixed):
        rising = [renyi.epsilon([(event(rate, 1.0), 100)], adjacency, 1e-6) for rate in (1e-4, 1e-2, 0.1, 0.5, 1.0)]
        falling = [renyi.epsilon([(event(0.1, noise), 100)], adjacency, 1e-6) for noise in (0.3, 0.5, 1.0, 3.0, 10.0)]
        assert rising == sorted(rising) and falling == sorted(falling, reverse=True)


def test_replacing_a_client_is_worse_than_adding_one_and_a_fixed_size_worse_than_poisson() -> None:
    poisson, fixed = PoissonSampled(0.01, Gaussian(1.1)), FixedSizeSampled(100, 10_000, Gaussian(1.1))
    found = {
        (event, adjacency): renyi.epsilon([(event, 1000)], adjacency, 1e-5)
        for event in (poisson, fixed)
        for adjacency in ("add_remove", "replace")
    }
    assert found[poisson, "add_remove"] == pytest.approx(1.7118, abs=1e-3)
    assert found[poisson, "add_remove"] < found[poisson, "replace"] < found[fixed, "add_remove"]
    assert found[fixed, "add_remove"] < found[fixed, "replace"] == pytest.approx(12.526, abs=1e-2)


def test_a_composition_counts_each_part_and_order_does_not_matter() -> None:
    first, second = PoissonSampled(0.01, Gaussian(1.1)), Gaussian(20.0)
    nested = Composed(((first, 30), (Composed(((second, 2), (first, 1))), 5)))
    parts: list[list[tuple[Event, int]]] = [
        [(nested, 2)],
        [(second, 20), (first, 70)],
        [(first, 40), (second, 20), (first, 30)],
    ]
    found = [renyi.epsilon(events, "replace", 1e-6) for events in parts]
    assert max(found) - min(found) < 1e-12
    together = renyi.moments(nested, "add_remove", ORDERS)
    apart = 35 * renyi.moments(first, "add_remove", ORDERS) + 10 * renyi.moments(second, "add_remove", ORDERS)
    np.testing.assert_allclose(together, apart, rtol=1e-13)


def test_sampling_everyone_is_no_sampling() -> None:
    for event in (Gaussian(2.0), Laplace(2.0), SkellamSum(4.0, 100, 20.0, 100.0, 1000)):
        for adjacency in ("add_remove", "replace"):
            plain = renyi.moments(event, adjacency, ORDERS)
            np.testing.assert_array_equal(renyi.moments(PoissonSampled(1.0, event), adjacency, ORDERS), plain)
        np.testing.assert_array_equal(renyi.moments(FixedSizeSampled(5, 5, event), "replace", ORDERS), plain)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("noise", [0.05, 1.0, 1000.0])
@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.5])
def test_extremes_have_finite_answers(noise: float, rate: float) -> None:
    for adjacency, rounds, delta in (("add_remove", 1, 1e-30), ("add_remove", 10**9, 1e-5), ("replace", 1000, 1e-30)):
        found = renyi.epsilon([(PoissonSampled(rate, Gaussian(noise)), rounds)], adjacency, delta)
        assert 0 <= found <= renyi.epsilon([(Gaussian(noise), rounds)], adjacency, delta) * (1 + 1e-3)


def test_nothing_private_has_no_guarantee_and_nothing_at_all_costs_nothing() -> None:
    assert renyi.epsilon([(Gaussian(1.0), 3), (NonPrivate(), 1)], "add_remove", 1e-5) == math.inf
    assert renyi.delta([(NonPrivate(), 1)], "replace", 10.0) == 1
    assert renyi.epsilon([], "add_remove", 1e-5) == 0


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_delta_out_of_range_is_refused(wrong: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        renyi.epsilon([(Gaussian(1.0), 1)], "add_remove", wrong)


@pytest.mark.parametrize("wrong", [-0.1, math.inf, math.nan])
def test_epsilon_out_of_range_is_refused(wrong: float) -> None:
    with pytest.raises(ConfigError, match="epsilon"):
        renyi.delta([(Gaussian(1.0), 1)], "add_remove", wrong)


@pytest.mark.parametrize("wrong", [[1.0], [0.5, 2.0], [math.nan], [math.inf], [[2.0]], 2.0])
def test_orders_out_of_range_are_refused(wrong: npt.ArrayLike) -> None:
    with pytest.raises(ConfigError, match="orders"):
        renyi.moments(Gaussian(1.0), "add_remove", wrong)


def test_what_is_no_event_count_or_adjacency_is_refused() -> None:
    with pytest.raises(ConfigError):
        renyi.epsilon([("gaussian", 1)], "add_remove", 1e-5)  # type: ignore[list-item]
    with pytest.raises(ConfigError):
        renyi.epsilon([(Gaussian(1.0), 0)], "add_remove", 1e-5)
    with pytest.raises(ConfigError):
        renyi.epsilon([(Gaussian(1.0), 1)], "zero_out", 1e-5)  # type: ignore[arg-type]
