"""Calibration: what is found keeps the budget, and hardly less would."""

import math

import pytest

from secfed import dp
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
