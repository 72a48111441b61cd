"""FedProx: the pull toward the model of the round, and what it does to training."""

import doctest
import math
from typing import Any

import numpy as np
import pytest

import secfed
from secfed.errors import ConfigError, EncodingError
from secfed.federated import fedprox, proximal


def quadratic(mu: float, steps: int = 200, rate: float = 0.1) -> Any:
    """Local training on half the squared distance to the client's value, as a user would write it."""

    def local_update(model: np.ndarray, data: float) -> tuple[np.ndarray, int]:
        local = model.copy()
        for _ in range(steps):
            local -= rate * proximal(local - data, local, model, mu)
        return local - model, 1

    return local_update


@pytest.mark.parametrize("mu", [0.0, 0.1, 1.0, 4.0])
def test_client_ends_where_the_proximal_loss_is_least(mu: float) -> None:
    """The least of (x - data)^2 / 2 + mu (x - model)^2 / 2 is at (data + mu model) / (1 + mu)."""
    model = np.array([3.0, -1.0])
    update, _ = quadratic(mu)(model, 5.0)
    assert model + update == pytest.approx((5.0 + mu * model) / (1 + mu), abs=1e-8)


def test_mu_of_zero_is_fedavg_to_the_last_bit() -> None:
    def without(model: np.ndarray, data: float) -> tuple[np.ndarray, int]:
        local = model.copy()
        for _ in range(3):
            local -= 0.1 * (local - data)
        return local - model, 1

    models = []
    for update in (without, quadratic(0.0, steps=3)):
        reports = secfed.FedAvg(update, aggregator=secfed.Plain()).rounds(np.ones(4), [0.3, 7.0], count=5)
        models.append([report.model for report in reports])
    assert np.array_equal(models[0], models[1])
    gradient = [np.array([-0.0, 1.0])]
    assert proximal(gradient, [np.ones(2)], [np.zeros(2)], 0.0) is gradient


def test_under_secure_aggregation_the_pull_is_that_in_the_clear() -> None:
    models = []
    for aggregator in (secfed.Plain(), secfed.SecAgg(threshold=2, clip=8.0)):
        *_, last = secfed.FedAvg(quadratic(0.5), aggregator=aggregator).rounds(np.ones(4), [0.0, 2.0, 4.0], count=3)
        models.append(last.model)
    assert models[1] == pytest.approx(models[0], abs=3 * 8 / 2**11)


def test_arrays_without_axes_stay_arrays() -> None:
    found = proximal([np.array(1.0)], [np.array(3.0)], [np.array(1.0)], 0.5)
    assert isinstance(found[0], np.ndarray) and found[0].shape == () and found[0] == 2.0


def test_every_array_is_pulled_and_structure_and_dtypes_stay() -> None:
    gradient = {"b": np.ones((2, 3), np.float32), "a": [np.zeros(2)]}
    local = {"b": np.full((2, 3), 4.0, np.float32), "a": [np.array([1.0, 2.0])]}
    model = {"b": np.full((2, 3), 2.0, np.float32), "a": [np.zeros(2)]}
    found = proximal(gradient, local, model, 0.5)
    assert list(found) == ["b", "a"] and found["b"].dtype == np.float32 and found["a"][0].dtype == np.float64
    assert np.array_equal(found["b"], np.full((2, 3), 2.0)) and found["a"][0].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("mu", [-0.1, math.nan, math.inf])
def test_mu_that_is_negative_or_not_finite_is_refused(mu: float) -> None:
    with pytest.raises(ConfigError, match=f"mu {mu} must be at least 0 and finite"):
        proximal(np.ones(2), np.ones(2), np.zeros(2), mu)


def test_models_that_do_not_fit_the_gradient_are_refused() -> None:
    with pytest.raises(EncodingError, match=r"shape \(3,\), needed \(2,\)"):
        proximal(np.ones(2), np.ones(3), np.zeros(2), 0.1)
    with pytest.raises(EncodingError, match=r"arrays \['b', 'c'\] are in one but not in the other"):
        proximal(
            {"a": np.ones(2), "b": np.ones(2)},
            {"a": np.ones(2), "b": np.ones(2)},
            {"a": np.ones(2), "c": np.ones(2)},
            1.0,
        )


def test_examples_in_the_documentation_run() -> None:
    outcome = doctest.testmod(fedprox)
    assert outcome.attempted >= 2 and outcome.failed == 0
