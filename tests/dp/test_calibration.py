"""Calibration: what is found keeps the budget, and hardly less would."""

import math

import pytest
from scipy.special import ndtr, ndtri

from secfed import dp
from secfed.dp.composition import Composition
from secfed.dp.events import Adjacency
from secfed.dp.remaining import most_rounds
from secfed.errors import ConfigError


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "rounds"),
    [
        (3.0, 1e-5, 0.01, 1000),
        (1.0, 1e-5, 1.0, 1),
        pytest.param(0.1, 1e-9, 0.1, 50, marks=pytest.mark.slow),
        pytest.param(8.0, 1e-6, 0.3, 200, marks=pytest.mark.slow),
        (50.0, 1e-5, 1.0, 10),
        (1.0, 1e-5, 0.1, 1),
        (1000.0, 1e-5, 1.0, 1),
        (1e-4, 1e-9, 1.0, 1),
        (1e-6, 0.1, 1.0, 1),
        pytest.param(1e-3, 0.1, 0.5, 3, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_noise_keeps_the_budget_to_nine_digits(
    epsilon: float, delta: float, rate: float, rounds: int, adjacency: str
) -> None:
    noise = dp.noise_multiplier(
        epsilon=epsilon,
        delta=delta,
        sampling_rate=rate,
        rounds=rounds,
        adjacency=adjacency,  # type: ignore[arg-type]
    )

    def spent(noise: float) -> float:
        return dp.Accountant(adjacency).compose(dp.release(noise, rate), rounds).epsilon(delta)  # type: ignore[arg-type]

    assert spent(noise) <= epsilon
    assert spent(noise * (1 - 1e-8)) > epsilon


def test_noise_for_cohorts_of_fixed_size() -> None:
    noise = dp.noise_multiplier(
        epsilon=3.0, delta=1e-5, sampling_rate=0.1, rounds=100, sampling="fixed", population=200, adjacency="replace"
    )
    release = dp.FixedSizeSampled(20, 200, dp.Gaussian(noise))
    assert 2.999 < dp.Accountant("replace").compose(release, 100).epsilon(1e-5) <= 3.0


def test_sampling_rate_keeps_the_budget() -> None:
    rate = dp.sampling_rate(epsilon=2.0, delta=1e-5, noise_multiplier=1.0, rounds=500)
    assert dp.Accountant().compose(dp.release(1.0, rate), 500).epsilon(1e-5) <= 2.0
    assert dp.Accountant().compose(dp.release(1.0, rate * (1 + 1e-7)), 500).epsilon(1e-5) > 2.0
    assert dp.sampling_rate(epsilon=5.0, delta=1e-5, noise_multiplier=100.0) == 1.0


def test_rounds_keep_the_budget() -> None:
    budget = {"epsilon": 3.0, "delta": 1e-5}
    rounds = dp.rounds(**budget, noise_multiplier=1.1, sampling_rate=0.01)
    accountant = dp.Accountant()
    assert not accountant.would_exceed(dp.release(1.1, 0.01), **budget, count=rounds)
    assert accountant.would_exceed(dp.release(1.1, 0.01), **budget, count=rounds + 1)
    assert dp.rounds(**budget, noise_multiplier=0.1) == 0


def test_sampling_rate_of_one_release_keeps_a_tiny_budget() -> None:
    rate = dp.sampling_rate(epsilon=1e-4, delta=1e-8, noise_multiplier=1.0)
    assert rate < 1e-3
    assert dp.Accountant().compose(dp.release(1.0, rate)).epsilon(1e-8) <= 1e-4
    assert dp.Accountant().compose(dp.release(1.0, rate * (1 + 1e-8))).epsilon(1e-8) > 1e-4


def test_sampling_rate_keeps_the_budget_when_clients_are_replaced() -> None:
    rate = dp.sampling_rate(epsilon=1.0, delta=1e-6, noise_multiplier=1.0, adjacency="replace")
    assert 1 - 1e-7 < dp.Accountant("replace").compose(dp.release(1.0, rate)).epsilon(1e-6) <= 1.0


def test_full_participation_is_refused_where_only_its_lower_bound_is_in_the_budget() -> None:
    low, high = dp.Accountant().compose(dp.Gaussian(3.0)).epsilon(1e-5, bounds=True)
    assert low < high
    rate = dp.sampling_rate(epsilon=low, delta=1e-5, noise_multiplier=3.0)
    assert rate > 1 - 1e-6
    assert dp.Accountant().compose(dp.release(3.0, rate)).epsilon(1e-5) <= low
    assert dp.sampling_rate(epsilon=high, delta=1e-5, noise_multiplier=3.0) == 1.0


@pytest.mark.sampled(1)
@pytest.mark.parametrize("epsilon", [1e-12, 1e-3])
def test_a_large_delta_needs_no_more_than_what_no_epsilon_needs(epsilon: float) -> None:
    # Without any epsilon, delta is 2 Phi(1 / (2 sigma)) - 1 times the rate.
    noise = dp.noise_multiplier(epsilon=epsilon, delta=0.1)
    assert dp.Accountant().compose(dp.Gaussian(noise)).epsilon(0.1) <= epsilon
    assert noise == pytest.approx(0.5 / float(ndtri(0.55)), rel=0.01)
    rate = dp.sampling_rate(epsilon=epsilon, delta=0.1, noise_multiplier=1.0)
    assert dp.Accountant().compose(dp.release(1.0, rate)).epsilon(0.1) <= epsilon
    assert rate == pytest.approx(0.1 / (2 * float(ndtr(0.5)) - 1), rel=0.01)


def test_rounds_of_unsampled_noise_have_the_closed_form() -> None:
    most = 37
    for adjacency, shift in (("add_remove", 1.0), ("replace", 2.0)):
        whole = dp.Gaussian(20.0 / shift / math.sqrt(most + 0.5))
        epsilon = dp.Accountant().compose(whole).epsilon(1e-5)
        assert dp.rounds(epsilon=epsilon, delta=1e-5, noise_multiplier=20.0, adjacency=adjacency) == most  # type: ignore[arg-type]


def test_rounds_of_cohorts_of_fixed_size_keep_the_budget() -> None:
    budget = {"epsilon": 3.0, "delta": 1e-5}
    found = dp.rounds(**budget, noise_multiplier=5.0, sampling_rate=0.1, sampling="fixed", population=200)
    release = dp.FixedSizeSampled(20, 200, dp.Gaussian(5.0))
    assert found > 1
    assert not dp.Accountant().would_exceed(release, **budget, count=found)
    assert dp.Accountant().would_exceed(release, **budget, count=found + 1)


@pytest.mark.parametrize(("rate", "cohort"), [(0.01, 1), (0.29, 29), (0.3, 30), (1.0, 100)])
def test_a_fixed_cohort_is_the_whole_number_that_the_rate_says(rate: float, cohort: int) -> None:
    assert dp.release(2.0, rate, "fixed", 100) == dp.FixedSizeSampled(cohort, 100, dp.Gaussian(2.0))


@pytest.mark.parametrize("sampling", ["poisson", "fixed"])
@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan, True, "0.5"], ids=str)
def test_a_rate_that_is_no_probability_is_refused(sampling: str, rate: float) -> None:
    with pytest.raises(ConfigError, match="sampling_rate"):
        dp.release(1.0, rate, sampling, 100)  # type: ignore[arg-type]


@pytest.mark.parametrize("population", [0, -5, 100.0, True, "100"], ids=str)
def test_a_population_that_is_no_count_is_refused(population: int) -> None:
    with pytest.raises(ConfigError, match=r"population .* must be a whole number of at least 1"):
        dp.release(1.0, 1.0, "fixed", population)


def test_an_unknown_sampling_and_a_missing_population_are_refused() -> None:
    with pytest.raises(ConfigError, match="sampling 'stratified' must be poisson or fixed"):
        dp.release(1.0, 0.1, "stratified", 100)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs the population: the number of clients"):
        dp.release(1.0, 0.1, "fixed")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"epsilon": 0.0}, "epsilon 0.0 must be positive and finite"),
        ({"epsilon": math.inf}, "epsilon inf must be positive and finite"),
        ({"delta": 0.0}, "delta 0.0 must be above 0 and below 1"),
        ({"delta": 1.0}, "delta 1.0 must be above 0 and below 1"),
        ({"rounds": 0}, "rounds 0 must be a whole number of at least 1"),
        ({"rounds": 1.5}, "rounds 1.5 must be a whole number of at least 1"),
        ({"noise_multiplier": 0.0}, "noise_multiplier 0.0 must be from"),
        ({"adjacency": "near"}, "adjacency 'near' must be one of"),
    ],
    ids=str,
)
def test_bad_budgets_are_refused_by_every_calibration(wrong: dict[str, object], text: str) -> None:
    good = {"epsilon": 1.0, "delta": 1e-5, "noise_multiplier": 1.0, "rounds": 10, "sampling_rate": 0.1}
    for ask, found in (
        (dp.noise_multiplier, "noise_multiplier"),
        (dp.sampling_rate, "sampling_rate"),
        (dp.rounds, "rounds"),
    ):
        if found in wrong:
            continue
        with pytest.raises(ConfigError, match=text):
            ask(**{name: value for name, value in {**good, **wrong}.items() if name != found})  # type: ignore[operator]


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"delta": 0.0},
        {"delta": 1.0},
        {"sampling_rate": 1.1},
        {"sampling_rate": 0.0},
        {"rounds": 0},
        {"sampling": "fixed"},
        {"sampling": "fixed", "population": 0},
        {"sampling": "fixed", "population": 7},
        {"sampling": "stratified"},
        {"adjacency": "near"},
    ],
    ids=str,
)
def test_bad_budgets_are_refused(wrong: dict[str, object]) -> None:
    good = {"epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1, "rounds": 10}
    with pytest.raises(ConfigError):
        dp.noise_multiplier(**{**good, **wrong})  # type: ignore[arg-type]


def test_a_budget_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(ConfigError, match="no noise multiplier"):
        dp.noise_multiplier(epsilon=1e-12, delta=1e-30, rounds=10**6)


@pytest.mark.parametrize("rate", [0.104, 0.096, 0.001, 0.10001, 1e-9])
def test_a_rate_that_is_no_whole_cohort_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="of 100 clients is not a whole number"):
        dp.release(1.0, rate, sampling="fixed", population=100)


def test_a_budget_that_no_sampling_rate_keeps_is_refused() -> None:
    with pytest.raises(ConfigError, match="no sampling rate"):
        dp.sampling_rate(epsilon=0.1, delta=1e-20, noise_multiplier=0.1, rounds=10)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("noise", "rate", "budget", "most"),
    [
        (1.1, 0.01, 3.0, 10**9),
        (1.0, 1.0, 4.0, 10**9),
        (0.8, 0.2, 9.0, 10**9),
        (9.0, 0.1, 1.0, 7),
        (50.0, 1e-3, 1.0, 10),
    ],
)
def test_most_rounds_keep_the_budget_and_one_more_does_not(noise: float, rate: float, budget: float, most: int) -> None:
    before, release = Composition.of(((dp.Gaussian(5.0), 2),), "add_remove"), dp.release(noise, rate)
    found = most_rounds(before, release, budget, 1e-6, most)
    assert 0 <= found <= most
    assert before.with_event(release, found).epsilon(1e-6)[1] <= budget if found else True
    assert found == most or before.with_event(release, found + 1).epsilon(1e-6)[1] > budget


def test_most_rounds_are_none_where_the_budget_is_overspent() -> None:
    before = Composition.of(((dp.Gaussian(0.5), 3),), "add_remove")
    assert most_rounds(before, dp.Gaussian(1e6), 0.1, 1e-6) == 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("event", [dp.release(0.9, 0.02), dp.release(3.0), dp.release(0.7, 0.1, "fixed", 50)], ids=str)
@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
@pytest.mark.parametrize("rounds", [1, 30])
def test_cheap_bounds_hold_epsilon_between_them(event: dp.Event, adjacency: Adjacency, rounds: int) -> None:
    composed = Composition.of(((event, rounds),), adjacency)
    low, high = composed.epsilon(1e-6)
    assert composed.floor(1e-6) <= high
    assert composed.ceiling(1e-6) >= low
    assert low <= composed.ceiling(1e-6, enough=100.0)
    assert composed.ceiling(1e-6) == dp.Accountant(adjacency).compose(event, rounds).rdp_epsilon(1e-6)


def test_cheap_bounds_without_a_guarantee_say_so() -> None:
    composed = Composition.of(((dp.NonPrivate(), 1),), "add_remove")
    assert composed.floor(0.1) == 0.0
    assert composed.ceiling(0.1) == math.inf
    assert Composition.of(((dp.release(1.0, 1e-9), 10),), "add_remove").ceiling(1e-5) == 0.0
