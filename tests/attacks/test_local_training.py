"""Gradient inversion of changes by several local steps: the slope, what it rebuilds, and what defeats it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from secfed.attacks import CrossEntropy, inversion, psnr
from secfed.attacks.inversion import _Matching
from secfed.attacks.networks import Activation, Conv2d, Flatten, Linear, Network
from secfed.errors import ConfigError

DIGITS = load_digits()
PERCEPTRON = Flatten(), Linear(64, 50), Activation("sigmoid"), Linear(50, 10)
LENET = (
    Conv2d(1, 12, 5, 2, 2), Activation("sigmoid"), Conv2d(12, 12, 5, 1, 2), Activation("sigmoid"), Flatten(),
    Linear(192, 10),
)  # fmt: skip
KINKED = (Conv2d(1, 16, 3, padding=1), Activation("relu"), Conv2d(16, 16, 3, 2, 1), Activation("relu"), Flatten(),
          Linear(256, 10))  # fmt: skip
MEAN = (DIGITS.images / 16).mean(axis=0)[None, None]
Arrays = dict[str, np.ndarray]


def trained(layers: Any, rows: list[int], steps: int, rate: float) -> tuple[Network, np.ndarray, Arrays]:
    """A network, a client's pictures, and its change of the network by gradient descent on all of them."""
    network = Network.drawn(layers, np.random.default_rng(0))
    pictures, after = DIGITS.images[rows][:, None] / 16, network
    for _ in range(steps):
        gradient = after.gradients(pictures, np.eye(10)[DIGITS.target[rows]])[0]
        moved = {name: array - rate * gradient[name] for name, array in after.parameters.items()}
        after = replace(after, parameters=moved)
    return network, pictures, {name: after.parameters[name] - array for name, array in network.parameters.items()}


@pytest.mark.parametrize("layers", [PERCEPTRON, LENET], ids=["perceptron", "lenet"])
@pytest.mark.parametrize("rate", [0.1, 2.0])
def test_the_slope_is_that_of_finite_differences(layers: Any, rate: float) -> None:
    network, pictures, change = trained(layers, [0, 1], steps=4, rate=rate)
    random = np.random.default_rng(1)
    guess, targets = random.uniform(size=pictures.shape), random.dirichlet(np.ones(10), 2)
    matching = _Matching(network, change, squared=True, local_steps=4, learning_rate=rate)
    _, *slopes = matching.distance(guess, targets)
    for number, slope in enumerate(slopes):
        for _ in range(4):
            ahead = [np.zeros_like(guess), np.zeros_like(targets)]
            ahead[number] = random.normal(size=ahead[number].shape)
            # Two lengths, extrapolated: their errors of second order cancel. What is left is rounding, about 1e-9.
            wide, narrow = (
                (
                    matching.distance(guess + h * ahead[0], targets + h * ahead[1])[0]
                    - matching.distance(guess - h * ahead[0], targets - h * ahead[1])[0]
                )
                / (2 * h)
                for h in (2e-4, 1e-4)
            )
            assert np.vdot(slope, ahead[number]) == pytest.approx((4 * narrow - wide) / 3, rel=1e-6)


def test_the_slope_of_the_cosine_is_that_of_finite_differences() -> None:
    network, pictures, change = trained(PERCEPTRON, [0, 1], steps=4, rate=0.5)
    random, targets = np.random.default_rng(1), np.eye(10)[[0, 1]]
    guess = random.uniform(size=pictures.shape)
    matching = _Matching(network, change, squared=False, local_steps=4, learning_rate=0.5)
    slope, h = matching.distance(guess, targets)[1], 1e-4
    for _ in range(4):
        ahead = random.normal(size=guess.shape)
        there, back = (matching.distance(guess + side * h * ahead, targets)[0] for side in (1, -1))
        assert np.vdot(slope, ahead) == pytest.approx((there - back) / (2 * h), rel=5e-3)  # a step of 1e-3, not complex


def test_the_distance_of_the_truth_is_zero_and_of_one_step_that_of_its_gradient() -> None:
    network, pictures, change = trained(LENET, [0, 1], steps=5, rate=0.3)
    targets = np.eye(10)[DIGITS.target[[0, 1]]]
    five = _Matching(network, change, squared=True, local_steps=5, learning_rate=0.3)
    assert five.distance(pictures, targets)[0] < 1e-28
    network, pictures, change = trained(LENET, [0, 1], steps=1, rate=0.3)
    gradient = {name: -array / 0.3 for name, array in change.items()}
    guess = np.random.default_rng(2).uniform(size=pictures.shape)
    of_change = _Matching(network, change, squared=True, learning_rate=0.3).distance(guess, targets)
    of_gradient = _Matching(network, gradient, squared=True).distance(guess, targets)
    for one, other in zip(of_change, of_gradient, strict=True):
        assert np.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "layers", [PERCEPTRON, pytest.param(LENET, marks=pytest.mark.slow)], ids=["perceptron", "lenet"]
)
@pytest.mark.parametrize("row", [0, 1])
def test_five_steps_on_one_picture_give_it_away_with_its_label(layers: Any, row: int) -> None:
    network, picture, change = trained(layers, [row], steps=5, rate=0.1)
    found = inversion(network, CrossEntropy(10), change, shape=picture.shape, local_steps=5, learning_rate=0.1)
    assert psnr(found.inputs, picture) > 45 and found.labels == [DIGITS.target[row]]


def test_lenet_gives_a_picture_away_after_five_steps_if_its_label_is_known() -> None:
    network, picture, change = trained(LENET, [1], steps=5, rate=0.1)
    loss = CrossEntropy(10, [DIGITS.target[1]])
    found = inversion(network, loss, change, shape=picture.shape, local_steps=5, learning_rate=0.1, steps=150)
    assert psnr(found.inputs, picture) > 45


def test_five_steps_on_two_pictures_with_known_labels_give_both_away() -> None:
    network, pictures, change = trained(PERCEPTRON, [0, 1], steps=5, rate=0.1)
    found = inversion(network, CrossEntropy(10, [0, 1]), change, shape=pictures.shape, local_steps=5, learning_rate=0.1)
    assert psnr(found.inputs, pictures) > 45


def test_who_takes_five_steps_of_a_relu_network_for_one_finds_less() -> None:
    network, picture, change = trained(KINKED, [5], steps=5, rate=0.1)
    loss = CrossEntropy(10, [DIGITS.target[5]])

    def quality(local_steps: int) -> float:
        found = inversion(
            network, loss, change, shape=picture.shape, method="cosine", steps=150, total_variation=1e-3,
            local_steps=local_steps, learning_rate=0.1,
        )  # fmt: skip
        return psnr(found.inputs, picture)

    assert quality(5) > 22 and quality(1) < 15


@pytest.mark.parametrize(("layers", "in_each_entry"), [(PERCEPTRON, True), (LENET, False)], ids=["perceptron", "lenet"])
def test_noise_as_large_as_the_change_leaves_less_than_the_mean_picture(layers: Any, in_each_entry: bool) -> None:
    """For the perceptron the deviation in each entry is the change's norm; for LeNet the norms are equal, far less."""
    network, picture, change = trained(layers, [3], steps=5, rate=0.1)
    random = np.random.default_rng(7)
    norm = np.sqrt(sum((array**2).sum() for array in change.values()))
    deviation = norm if in_each_entry else norm / np.sqrt(sum(array.size for array in change.values()))
    noisy = {name: array + deviation * random.normal(size=array.shape) for name, array in change.items()}
    loss = CrossEntropy(10, [DIGITS.target[3]])
    found = inversion(network, loss, noisy, shape=picture.shape, local_steps=5, learning_rate=0.1, steps=30)
    assert psnr(found.inputs, picture) < psnr(MEAN, picture)


class Stubborn:
    """A model of one's own whose gradients are only those at its own parameters."""

    def __init__(self, network: Network) -> None:
        self.parameters, self.gradients_at = network.parameters, network.gradients
        self.input_gradients = network.input_gradients

    def gradients(self, inputs: Any, targets: Any) -> Any:
        return self.gradients_at(inputs, targets)


def test_a_model_with_gradients_at_its_own_parameters_only_does_for_one_step() -> None:
    network, picture, change = trained(PERCEPTRON, [0], steps=1, rate=0.1)
    model: Any = Stubborn(network)
    found = inversion(model, CrossEntropy(10), change, shape=picture.shape, learning_rate=0.1)
    assert psnr(found.inputs, picture) > 45
    with pytest.raises(ConfigError, match="a model whose method gradients takes parameters"):
        inversion(model, CrossEntropy(10), change, shape=picture.shape, learning_rate=0.1, local_steps=2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"local_steps": 0}, "local_steps 0 must be a whole number, at least 1"),
        ({"local_steps": 2.5}, "local_steps 2.5 must be a whole number"),
        ({"local_steps": "5"}, "local_steps '5' must be a whole number"),
        ({"learning_rate": None}, "local_steps 5 needs the client's learning_rate: found None"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 must be a positive, finite number"),
        ({"learning_rate": -0.1}, "learning_rate -0.1 must be"),
        ({"learning_rate": np.nan}, "learning_rate nan must be"),
        ({"learning_rate": np.inf}, "learning_rate inf must be"),
        ({"learning_rate": "0.1"}, "learning_rate '0.1' must be"),
        ({"learning_rate": 1e200}, "training a guess diverges: 5 local steps at learning_rate 1e+200"),
        ({"update": {}}, "changes ['1.bias', '1.weight', '3.bias', '3.weight'] are missing or unknown"),
    ],
)
def test_settings_of_local_training_that_cannot_be_are_refused(options: dict[str, Any], text: str) -> None:
    relu = Flatten(), Linear(64, 20), Activation("relu"), Linear(20, 10)
    network, picture, change = trained(relu, [0], steps=5, rate=0.1)
    arguments = {"update": change, "shape": picture.shape, "local_steps": 5, "learning_rate": 0.1} | options
    with pytest.raises(ConfigError) as caught:
        inversion(network, CrossEntropy(10, [0]), **arguments)
    assert text in str(caught.value)


def test_a_change_of_nothing_is_refused() -> None:
    network, picture, change = trained(PERCEPTRON, [0], steps=1, rate=0.1)
    nothing = {name: np.zeros_like(array) for name, array in change.items()}
    with pytest.raises(ConfigError, match="the change is zero everywhere"):
        inversion(network, CrossEntropy(10), nothing, shape=picture.shape, local_steps=3, learning_rate=0.1)
