"""Calibration: what is found keeps the budget, and hardly less would."""

import math

import pytest

from secfed import dp
from secfed.dp.accountant import most_rounds
from secfed.dp.composition import Composition
from secfed.dp.events import Adjacency
from secfed.errors import ConfigError


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "rounds"),
    [(3.0, 1e-5, 0.01, 1000), (1.0, 1e-5, 1.0, 1), (0.1, 1e-9, 0.1, 50), (8.0, 1e-6, 0.3, 200), (50.0, 1e-5, 1.0, 10)],
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


@pytest.mark.parametrize("rate", [0.104, 0.096, 0.001])
def test_a_rate_that_is_no_whole_cohort_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="of 100 clients is no whole number"):
        dp.release(1.0, rate, sampling="fixed", population=100)


def test_a_budget_that_no_sampling_rate_keeps_is_refused() -> None:
    with pytest.raises(ConfigError, match="no sampling rate"):
        dp.sampling_rate(epsilon=0.1, delta=1e-20, noise_multiplier=0.1, rounds=10)


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
