"""The model: its gradient is the gradient, and its training is repeatable."""

import numpy as np
import pytest

from secfed.cli.simulation import perceptron

ROWS = 12


def examples(seed: int = 0) -> perceptron.Examples:
    random = np.random.default_rng(1)
    return perceptron.Examples(random.random((ROWS, 6)), random.integers(4, size=ROWS), np.random.default_rng(seed))


def model() -> perceptron.Model:
    return perceptron.init(3, features=6, hidden=5, classes=4)


@pytest.mark.parametrize("name", ["hidden_weight", "hidden_bias", "output_weight", "output_bias"])
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    data, center, width = examples(), model(), 1e-6
    _, slope = perceptron.gradient(center, data.inputs, data.labels)
    for place in np.ndindex(center[name].shape):
        losses = []
        for sign in (1, -1):
            moved = {other: array.copy() for other, array in center.items()}
            moved[name][place] += sign * width
            losses.append(perceptron.gradient(moved, data.inputs, data.labels)[0])
        assert (losses[0] - losses[1]) / (2 * width) == pytest.approx(slope[name][place], abs=1e-8)


def test_the_loss_of_a_model_of_zeros_is_that_of_guessing() -> None:
    data = examples()
    zeros = {name: np.zeros_like(array) for name, array in model().items()}
    assert perceptron.gradient(zeros, data.inputs, data.labels)[0] == pytest.approx(np.log(4))


def test_local_training_lowers_the_loss_and_weighs_by_examples() -> None:
    data, before = examples(), model()
    update, weight = perceptron.local_update(before, data)
    after = {name: before[name] + update[name] for name in before}
    assert weight == ROWS
    losses = [perceptron.gradient(each, data.inputs, data.labels)[0] for each in (before, after)]
    assert losses[1] < losses[0]


def test_local_training_leaves_the_model_as_it_was() -> None:
    before = model()
    perceptron.local_update(before, examples())
    assert all(np.array_equal(array, model()[name]) for name, array in before.items())


def test_local_training_is_the_same_for_the_same_model_and_generator() -> None:
    first, _ = perceptron.local_update(model(), examples(seed=5))
    second, _ = perceptron.local_update(model(), examples(seed=5))
    other, _ = perceptron.local_update(model(), examples(seed=6))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_batches_differ_from_round_to_round() -> None:
    data = examples()
    first, _ = perceptron.local_update(model(), data)
    second, _ = perceptron.local_update(model(), data)
    assert not all(np.array_equal(first[name], second[name]) for name in first)


def test_accuracy_counts_the_inputs_whose_largest_logit_is_at_the_label() -> None:
    data = examples()
    zeros = {name: np.zeros_like(array) for name, array in model().items()}
    zeros["output_bias"][2] = 1.0  # always says 2
    assert perceptron.accuracy(zeros, data.inputs, data.labels) == float((data.labels == 2).mean())


def test_the_seed_decides_the_first_model() -> None:
    assert all(np.array_equal(perceptron.init(1)[name], array) for name, array in perceptron.init(1).items())
    assert not np.array_equal(perceptron.init(1)["hidden_weight"], perceptron.init(2)["hidden_weight"])
