"""The inputs of a linear layer from its gradient: exact for one record, a mixture for more, nothing under noise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.attacks import linear_candidates, linear_inputs, mse, psnr
from secfed.errors import ConfigError


def gradient(records: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a linear layer: records of shape (n, inputs), errors of shape (n, outputs)."""
    return errors.T @ records, errors.sum(axis=0)


@given(st.integers(1, 40), st.integers(1, 800), st.integers(0, 2**32 - 1))
def test_one_record_is_recovered_to_machine_precision(outputs: int, inputs: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    record = random.uniform(0, 1, inputs)
    errors = random.normal(size=(1, outputs)) * 10.0 ** random.integers(-6, 6)
    errors[0, random.random(outputs) < 0.5] = 0.0  # units that were off
    if not errors.any():
        return
    weights, biases = gradient(record[None], errors)
    assert np.abs(linear_inputs(weights, biases) - record).max() < 1e-12
    candidates = linear_candidates(weights, biases)
    assert len(candidates) == np.count_nonzero(biases)
    assert np.abs(candidates - record).max() < 1e-12


def test_a_unit_that_one_record_turned_on_tells_that_record_in_a_sum() -> None:
    random = np.random.default_rng(3)
    records = random.uniform(0, 1, (3, 20))
    errors = np.array([[1.0, 0, 0, 2], [0, -2.0, 0, 1], [0, 0, 0.5, 3]])
    candidates = linear_candidates(*gradient(records, errors))
    for record in records:
        assert np.abs(candidates - record).max(axis=1).min() < 1e-12
    mixture = linear_inputs(*gradient(records, errors))
    assert min(np.abs(mixture - record).max() for record in records) > 0.1
    assert np.abs(candidates[0] - (errors[:, 3] @ records) / errors[:, 3].sum()).max() < 1e-12  # the largest first


def test_noise_far_above_the_gradient_leaves_no_more_than_chance() -> None:
    random = np.random.default_rng(4)
    found = []
    for _ in range(200):
        record = random.uniform(0, 1, 64)
        weights, biases = gradient(record[None], random.normal(size=(1, 32)))
        noisy = linear_inputs(weights + 100 * random.normal(size=weights.shape), biases + 100 * random.normal(size=32))
        found.append(np.corrcoef(noisy, record)[0, 1])
    assert abs(np.mean(found)) < 5 / math.sqrt(200 * 64)  # five standard deviations of chance: once in a million runs


@pytest.mark.parametrize(
    ("weights", "biases", "text"),
    [
        (np.ones(3), np.ones(3), "shapes"),
        (np.ones((3, 2)), np.ones(2), "shapes"),
        (np.full((3, 2), np.nan), np.ones(3), "not finite"),
        (np.ones((3, 2)), np.array([1, np.inf, 1]), "not finite"),
        (np.ones((3, 2)), np.zeros(3), "zero everywhere"),
    ],
)
def test_gradients_that_are_none_are_refused(weights: np.ndarray, biases: np.ndarray, text: str) -> None:
    for attack in (linear_inputs, linear_candidates):
        with pytest.raises(ConfigError, match=text):
            attack(weights, biases)


def test_psnr_is_that_of_its_definition() -> None:
    truth = np.linspace(0, 1, 50)
    assert psnr(truth, truth) == 320
    assert psnr(truth + 0.1, truth) == pytest.approx(20)
    assert psnr(255 * truth + 25.5, 255 * truth, peak=255) == pytest.approx(20)
    assert mse([1.0, 2.0], [1.0, 4.0]) == 2
    assert psnr(np.full(50, np.inf), truth) == -320
    with pytest.raises(ConfigError, match="needed the same"):
        psnr([1.0], [1.0, 2.0])
    with pytest.raises(ConfigError, match="peak 0"):
        psnr([1.0], [1.0], peak=0)
