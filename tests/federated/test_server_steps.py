"""The server's steps of FedAvgM, FedAdagrad, FedAdam and FedYogi, against a few lines written from the papers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import secfed
from secfed.errors import ConfigError
from secfed.federated import Training
from secfed.secagg import Stage

ALGORITHMS = [secfed.FedAvgM, secfed.FedAdagrad, secfed.FedAdam, secfed.FedYogi]
START = {"weights": np.array([[0.5, -1.0], [2.0, 0.0]]), "bias": np.array([0.25])}


def toward(model: dict[str, np.ndarray], data: float) -> tuple[dict[str, np.ndarray], int]:
    """Go part of the way to a value: means change in size and sign from round to round."""
    return {name: 0.7 * (data - array) * np.abs(array - 0.3) for name, array in model.items()}, 1


def means(model: dict[str, np.ndarray], clients: list[float]) -> np.ndarray:
    return flat({name: np.mean([toward(model, data)[0][name] for data in clients], axis=0) for name in model})


def flat(model: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([model["bias"].ravel(), model["weights"].ravel()])


def fedavgm(x: float, d: float, m: float, v: float) -> tuple[float, float, float]:
    m = 0.8 * m + d
    return x + 0.3 * m, m, v


def adaptive(next_v: Callable[[float, float], float], beta_1: float) -> Callable[..., tuple[float, float, float]]:
    """Lines 10 to 14 of Algorithm 2, for one parameter."""

    def step(x: float, d: float, m: float, v: float) -> tuple[float, float, float]:
        m = beta_1 * m + (1 - beta_1) * d
        v = next_v(v, d)
        return x + 0.3 * m / (math.sqrt(v) + 0.05), m, v

    return step


def yogi(v: float, d: float) -> float:
    sign = 1 if v > d**2 else -1 if v < d**2 else 0
    return v - (1 - 0.9) * d**2 * sign


CASES = [
    pytest.param(secfed.FedAvgM, {"server_momentum": 0.8}, fedavgm, id="fedavgm"),
    pytest.param(secfed.FedAdagrad, {"tau": 0.05}, adaptive(lambda v, d: v + d**2, 0.0), id="fedadagrad"),
    pytest.param(
        secfed.FedAdam,
        {"beta_1": 0.6, "beta_2": 0.9, "tau": 0.05},
        adaptive(lambda v, d: 0.9 * v + (1 - 0.9) * d**2, 0.6),
        id="fedadam",
    ),
    pytest.param(secfed.FedYogi, {"beta_1": 0.6, "beta_2": 0.9, "tau": 0.05}, adaptive(yogi, 0.6), id="fedyogi"),
]


@pytest.mark.parametrize(("algorithm", "options", "step"), CASES)
def test_steps_are_those_of_the_paper_parameter_by_parameter(algorithm: Any, options: Any, step: Any) -> None:
    clients = [1.0, -2.0, 0.5]
    training = algorithm(toward, aggregator=secfed.Plain(), server_learning_rate=0.3, **options)
    before, m, v = START, [0.0] * 5, [0.05**2] * 5
    for report in training.rounds(START, clients, count=6):
        mean = means(before, clients)
        expected = []
        for i, x in enumerate(flat(before)):
            value, m[i], v[i] = step(float(x), float(mean[i]), m[i], v[i])
            expected.append(value)
        assert flat(report.model) == pytest.approx(expected, rel=1e-12)
        before = report.model


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "aggregator",
    [secfed.SecAgg(threshold=2, clip=8.0, bits=24), pytest.param("paillier", marks=pytest.mark.slow)],
    ids=["secagg", "paillier"],
)
def test_protected_training_is_close_to_that_in_the_clear(algorithm: Any, aggregator: Any) -> None:
    """With a tau of 0.1 a rounding error is not blown up."""
    options = {} if algorithm is secfed.FedAvgM else {"tau": 0.1}
    if aggregator == "paillier":
        aggregator = secfed.Paillier(2048, clip=8.0)
    models = []
    for chosen in (secfed.Plain(), aggregator):
        *_, last = algorithm(toward, aggregator=chosen, server_learning_rate=0.1, **options).rounds(
            START, [1.0, -2.0, 0.5], count=3
        )
        models.append(flat(last.model))
    assert models[1] == pytest.approx(models[0], abs=2e-3)
    assert not np.array_equal(models[0], flat(START))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_private_training_spends_what_fedavg_spends(algorithm: Any) -> None:
    """The step is taken after the release, so epsilon cannot depend on it."""
    spent = []
    for kind in (secfed.FedAvg, algorithm):
        training = kind(toward, aggregator=secfed.SecAgg(), privacy=secfed.CentralGaussian(1.0, 2.0))
        *_, last = training.rounds(START, [1.0] * 5, count=2)
        spent.append(last.accountant.events)
        assert np.isfinite(flat(last.model)).all() and not np.array_equal(flat(last.model), flat(START))
    assert spent[0] == spent[1]


def test_momentum_of_zero_is_fedavg_to_the_last_bit() -> None:
    plain = secfed.FedAvg(toward, aggregator=secfed.Plain()).rounds(START, [1.0, 3.0], count=4)
    still = secfed.FedAvgM(toward, aggregator=secfed.Plain(), server_momentum=0.0).rounds(START, [1.0, 3.0], count=4)
    for one, other in zip(plain, still, strict=True):
        assert np.array_equal(flat(one.model), flat(other.model))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_failed_round_leaves_the_optimizer_as_it_was(algorithm: Any) -> None:
    def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return dict.fromkeys(cohort[1:], Stage.MASKED_INPUT_COLLECTION) if number == 2 else {}

    def models(count: int, **options: Any) -> list[np.ndarray]:
        training = algorithm(toward, aggregator=secfed.SecAgg(threshold=2, clip=64.0, bits=24))
        return [flat(report.model) for report in training.rounds(START, [1.0, 1.0, 1.0], count, **options)]

    first, second, third = models(3, dropouts=dropouts)
    assert np.array_equal(first, second)
    assert third == pytest.approx(models(2)[1], abs=5e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_runs_of_one_training_share_no_memory(algorithm: Any) -> None:
    training = algorithm(toward, aggregator=secfed.Plain())
    runs = [[flat(report.model) for report in training.rounds(START, [1.0, 3.0], count=3)] for _ in range(2)]
    assert np.array_equal(runs[0], runs[1])


@pytest.mark.parametrize("number", [-0.1, 1.0, math.nan])
def test_rates_of_fading_outside_their_range_are_refused(number: float) -> None:
    for algorithm, name in [
        (secfed.FedAvgM, "server_momentum"),
        (secfed.FedAdagrad, "beta_1"),
        (secfed.FedAdam, "beta_2"),
        (secfed.FedYogi, "beta_2"),
    ]:
        with pytest.raises(ConfigError, match=f"{name} {number} must be at least 0 and below 1"):
            algorithm(toward, aggregator=secfed.Plain(), **{name: number})


@pytest.mark.parametrize("number", [0.0, -1.0, math.nan, math.inf])
def test_server_learning_rate_and_tau_must_be_positive(number: float) -> None:
    for algorithm in ALGORITHMS:
        for name in ["server_learning_rate"] + ["tau"] * (algorithm is not secfed.FedAvgM):
            with pytest.raises(ConfigError, match=f"{name} {number} must be positive and finite"):
                algorithm(toward, aggregator=secfed.Plain(), **{name: number})


class Odd(Training):
    """Returns whatever it is told."""

    returned: Any = None

    def step(self, values: Any, mean: Any, memory: Any) -> Any:
        return self.returned


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (np.zeros(5), r"Odd.step returned ndarray, needed \(values, memory\)"),
        ((np.zeros(4), {}), r"Odd.step returned values of shape \(4,\), needed \(5,\)"),
    ],
)
def test_step_of_ones_own_that_does_not_fit_is_refused(returned: Any, reason: str) -> None:
    training = Odd(toward, aggregator=secfed.Plain())
    training.returned = returned
    with pytest.raises(ConfigError, match=reason):
        list(training.rounds(START, [1.0], count=1))
