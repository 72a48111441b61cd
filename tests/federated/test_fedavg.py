"""FedAvg against a few lines of numpy, in the clear and under secure aggregation."""

import doctest
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secfed
from secfed.errors import ConfigError
from secfed.federated import fedavg
from secfed.secagg import Stage
from tests.examples import examples

Data = tuple[np.ndarray, np.ndarray]


def linear_clients(count: int = 6, seed: int = 0) -> dict[int, Data]:
    generator = np.random.default_rng(seed)
    truth = np.array([1.0, -2.0, 0.5])
    clients = {}
    for client_id in range(1, count + 1):
        x = generator.normal(size=(10 * client_id, 3))
        clients[client_id] = (x, x @ truth + 0.1 * generator.normal(size=len(x)))
    return clients


def local_update(model: dict[str, Any], data: Data) -> tuple[dict[str, Any], int]:
    """Five steps of gradient descent on the mean square; the update has the model's structure."""
    x, y = data
    weights, bias = model["layers"][0].copy(), model["bias"].copy()
    for _ in range(5):
        error = x @ weights + bias - y
        weights -= 0.05 * x.T @ error / len(y)
        bias -= 0.05 * error.mean()
    return {"layers": [weights - model["layers"][0]], "bias": bias - model["bias"]}, len(y)


def start() -> dict[str, Any]:
    return {"layers": [np.zeros(3)], "bias": np.zeros(1)}


def flat(model: dict[str, Any]) -> np.ndarray:
    return np.concatenate([model["bias"], model["layers"][0]])


def written_by_hand(clients: dict[int, Data], rounds: int, learning_rate: float = 1.0) -> list[np.ndarray]:
    """Algorithm 1 of McMahan et al. 2017, with the server's learning rate."""
    weights, bias, models = np.zeros(3), np.zeros(1), []
    examples = sum(len(y) for _, y in clients.values())
    for _ in range(rounds):
        step_weights, step_bias = np.zeros(3), np.zeros(1)
        for x, y in clients.values():
            update, count = local_update({"layers": [weights], "bias": bias}, (x, y))
            step_weights = step_weights + update["layers"][0] * count / examples
            step_bias = step_bias + update["bias"] * count / examples
        weights, bias = weights + learning_rate * step_weights, bias + learning_rate * step_bias
        models.append(np.concatenate([bias, weights]))
    return models


@pytest.mark.parametrize("learning_rate", [1.0, 0.3, 2.0])
def test_fedavg_in_the_clear_is_that_of_the_paper(learning_rate: float) -> None:
    training = secfed.FedAvg(local_update, aggregator=secfed.Plain(), server_learning_rate=learning_rate)
    reports = list(training.rounds(start(), linear_clients(), count=12))
    expected = written_by_hand(linear_clients(), 12, learning_rate)
    for report, model in zip(reports, expected, strict=True):
        assert flat(report.model) == pytest.approx(model, abs=1e-12)
    assert [report.number for report in reports] == list(range(1, 13))


def test_fedavg_under_secure_aggregation_is_close_to_that_in_the_clear() -> None:
    training = secfed.FedAvg(local_update, aggregator=secfed.SecAgg(threshold=4, clip=4.0))
    *_, last = training.rounds(start(), linear_clients(), count=12)
    assert flat(last.model) == pytest.approx(written_by_hand(linear_clients(), 12)[-1], abs=12 * 4 / 2**11)
    assert last.survivors == tuple(range(1, 7))


def test_model_is_learned_although_clients_fall_silent() -> None:
    def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return {cohort[number % len(cohort)]: list(Stage)[number % 5]}

    training = secfed.FedAvg(local_update, aggregator=secfed.SecAgg(threshold=4, clip=4.0))
    *_, last = training.rounds(start(), linear_clients(), count=15, dropouts=dropouts)
    assert last.model["layers"][0] == pytest.approx([1.0, -2.0, 0.5], abs=0.1)


@examples(7, 30)
@given(st.sampled_from(["f2", "f4", "f8"]), st.integers(1, 5), st.integers(0, 2**32))
def test_model_keeps_its_structure_and_dtype(dtype: str, clients: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    model = {"b": generator.normal(size=(2, 3)).astype(dtype), "a": [generator.normal(size=4).astype(dtype)]}
    updates = [generator.normal(size=10).astype(dtype) for _ in range(clients)]

    def constant(model: Any, update: np.ndarray) -> tuple[Any, int]:
        return {"b": update[:6].reshape(2, 3), "a": [update[6:]]}, 1

    [report] = secfed.FedAvg(constant, aggregator=secfed.Plain()).rounds(model, updates, count=1)
    mean = np.mean(np.array(updates, float), axis=0)
    assert list(report.model) == ["b", "a"]
    assert report.model["b"].dtype == report.model["a"][0].dtype == np.dtype(dtype)
    tolerance = 4 * float(np.finfo(dtype).eps) * 8
    assert report.model["b"] == pytest.approx(model["b"] + mean[:6].reshape(2, 3), abs=tolerance)
    assert report.model["a"][0] == pytest.approx(model["a"][0] + mean[6:], abs=tolerance)


@pytest.mark.parametrize("learning_rate", [0, -1.0, math.nan, math.inf])
def test_learning_rate_that_is_no_positive_number_is_refused(learning_rate: float) -> None:
    with pytest.raises(ConfigError, match="server_learning_rate"):
        secfed.FedAvg(local_update, aggregator=secfed.Plain(), server_learning_rate=learning_rate)


def test_examples_in_the_documentation_run() -> None:
    outcome = doctest.testmod(fedavg)
    assert outcome.attempted >= 5
    assert outcome.failed == 0
