"""Exact inputs from a sum of gradients: through a real secure sum too, and nothing under noise."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import secfed
from secfed.attacks import View, exact_inputs
from secfed.errors import ConfigError

UNITS, CLASSES = 300, 10
PICTURES = np.kron(load_digits().images / 16, np.ones((2, 2))).reshape(-1, 256)


def gradients(records: int, seed: int, classes: int = CLASSES) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Pictures, and each one's gradient of the first layer of an untrained ReLU network."""
    random = np.random.default_rng(seed)
    weight, bias = random.uniform(-1, 1, (UNITS, 256)) / 16, random.uniform(-1, 1, UNITS) / 16
    head = random.uniform(-1, 1, (classes, UNITS)) / UNITS**0.5
    inputs = PICTURES[random.permutation(len(PICTURES))[:records]]
    units = inputs @ weight.T + bias
    error = np.exp(np.maximum(units, 0) @ head.T)
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(records), random.integers(classes, size=records)] -= 1
    slopes = (error @ head) * (units > 0)
    return inputs, [{"weight": np.outer(slope, one), "bias": slope} for slope, one in zip(slopes, inputs, strict=True)]


def summed(found: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return sum(one["weight"] for one in found), sum(one["bias"] for one in found)  # type: ignore[return-value]


def worst(found: np.ndarray, inputs: np.ndarray) -> float:
    """The largest error over the inputs, each held against the guess closest to it."""
    return max(float(np.abs(found - one).max(axis=1).min()) for one in inputs) if len(found) else np.inf


@pytest.mark.parametrize("records", [5, 8, 10])
def test_every_input_of_a_sum_is_recovered_exactly(records: int) -> None:
    inputs, found = gradients(records, seed=records)
    result = exact_inputs(*summed(found))
    assert result.found and result.records == records == len(result.inputs)
    assert worst(result.inputs, inputs) < 1e-8 and result.residual < 1e-10


def secure_mean(found: list[dict[str, np.ndarray]], **options: Any) -> Any:
    aggregator = secfed.SecAgg(threshold=1.0, max_weight=1, clip=0.25, bits=24, rounding_seed=0)
    return View.of_server(aggregator.aggregate(found, record=True, **options).transcript).mean


def test_a_real_secure_sum_gives_all_inputs_up_to_its_rounding() -> None:
    inputs, found = gradients(5, seed=1)
    mean = secure_mean(found)
    result = exact_inputs(mean["weight"], mean["bias"], records=5)
    assert result.found and worst(result.inputs, inputs) < 0.01


def test_noise_of_the_clients_leaves_no_input() -> None:
    inputs, found = gradients(5, seed=1)
    mean = secure_mean(found, privacy=secfed.DistributedGaussian(1.0, 1.0, minimum_survivors=5))
    assert worst(exact_inputs(mean["weight"], mean["bias"], records=5, attempts=128).inputs, inputs) > 0.3


def test_noise_alone_gives_nothing_and_the_same_seed_gives_the_same() -> None:
    random = np.random.default_rng(3)
    weight, bias = random.normal(size=(60, 40)), random.normal(size=60)
    assert not exact_inputs(weight, bias, records=4).found
    _, found = gradients(6, seed=2)
    first, second = (exact_inputs(*summed(found), seed=9) for _ in range(2))
    assert np.array_equal(first.inputs, second.inputs)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (np.ones(3), np.ones(3)),
        (np.ones((3, 2)), np.ones(2)),
        (np.full((3, 2), np.nan), np.ones(3)),
        (np.zeros((3, 2)), np.zeros(3)),
    ],
)
def test_gradients_that_cannot_be_a_layers_are_refused(weight: np.ndarray, bias: np.ndarray) -> None:
    with pytest.raises(ConfigError):
        exact_inputs(weight, bias)
