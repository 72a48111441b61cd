"""Networks in NumPy: their gradients against differences, and against those of PyTorch's layers by formula."""

from typing import Any

import numpy as np
import pytest
from scipy import signal

from secfed.attacks.networks import Activation, AvgPool2d, Conv2d, Flatten, Layer, Linear, Network
from secfed.errors import ConfigError

NETWORKS: dict[str, tuple[tuple[int, ...], list[Layer]]] = {
    "perceptron": ((3, 7), [Linear(7, 5), Activation("tanh"), Linear(5, 4)]),
    "convolutions": (
        (2, 2, 9, 8),
        [Conv2d(2, 3, 3, 2, 1), Activation("sigmoid"), Conv2d(3, 2, 2), Activation("tanh"), Flatten(), Linear(24, 4)],
    ),
    "pooling": ((2, 1, 7, 7), [Conv2d(1, 3, 4, padding=2), AvgPool2d(3), Activation("relu"), Flatten(), Linear(12, 4)]),
}
EVERY_NETWORK = pytest.mark.parametrize("name", NETWORKS)


def drawn(name: str) -> tuple[Network, np.ndarray, np.ndarray]:
    shape, layers = NETWORKS[name]
    random = np.random.default_rng(len(name))
    targets = random.dirichlet(np.ones(4), shape[0])
    return Network.drawn(layers, random), random.normal(size=shape), targets


def loss(network: Network, inputs: np.ndarray, targets: np.ndarray) -> float:
    logits = network.logits(inputs)
    logs = logits - logits.max(axis=1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return float(-(targets * logs).sum() / len(inputs))


def difference(value: Any, array: np.ndarray, place: tuple[int, ...]) -> float:
    """Derivative of `value()` by one entry of an array, which is put back."""
    before, found = array[place], []
    for sign in (1, -1):
        array[place] = before + sign * 1e-6
        found.append(value())
    array[place] = before
    return float(found[0] - found[1]) / 2e-6


@EVERY_NETWORK
def test_gradients_are_those_of_the_loss(name: str) -> None:
    network, inputs, targets = drawn(name)
    of_parameters, of_inputs, of_targets = network.gradients(inputs, targets)
    assert {name: array.shape for name, array in of_parameters.items()} == network.shapes
    random = np.random.default_rng(1)
    pairs = [(of_inputs, inputs), (of_targets, targets)]
    pairs += [(of_parameters[name], array) for name, array in network.parameters.items()]
    for gradient, array in pairs:
        assert gradient.shape == array.shape
        for _ in range(5):
            place = tuple(int(random.integers(size)) for size in array.shape)
            assert difference(lambda: loss(network, inputs, targets), array, place) == pytest.approx(
                gradient[place], abs=1e-8
            )


@EVERY_NETWORK
def test_complex_parameters_give_the_directional_derivative_of_gradients(name: str) -> None:
    network, inputs, targets = drawn(name)
    random = np.random.default_rng(2)
    direction = {name: random.normal(size=array.shape) for name, array in network.parameters.items()}

    def moved(step: complex) -> tuple[np.ndarray, np.ndarray]:
        shifted = {name: array + step * direction[name] for name, array in network.parameters.items()}
        return network.input_gradients(inputs, targets, shifted)

    for exact, ahead, behind in zip(moved(1e-30j), moved(1e-6), moved(-1e-6), strict=True):
        assert np.allclose(exact.imag / 1e-30, (ahead - behind) / 2e-6, atol=1e-7)
    assert all(map(np.array_equal, moved(0), network.gradients(inputs, targets)[1:]))


def test_convolution_is_that_of_scipy() -> None:
    random = np.random.default_rng(3)
    layer = Conv2d(2, 3, 3, padding=1)
    weight, bias, inputs = random.normal(size=(3, 2, 3, 3)), random.normal(size=3), random.normal(size=(2, 2, 6, 5))
    found = layer.forward([weight, bias], inputs).output
    for record in range(2):
        for channel in range(3):
            parts = [signal.correlate2d(inputs[record, i], weight[channel, i], "same") for i in range(2)]
            assert np.allclose(found[record, channel], sum(parts) + bias[channel])


@pytest.mark.parametrize("padding", [0, 1])
def test_a_convolution_takes_inputs_whatever_their_layout_in_memory(padding: int) -> None:
    random = np.random.default_rng(4)
    layer = Conv2d(2, 3, 3, stride=2, padding=padding)
    weight, bias, inputs = random.normal(size=(3, 2, 3, 3)), random.normal(size=3), random.normal(size=(4, 2, 9, 8))
    expected = layer.forward([weight, bias], inputs)
    slope = random.normal(size=expected.output.shape)
    doubled = np.repeat(inputs, 2, axis=3)
    for same in (np.asfortranarray(inputs), doubled[..., ::2], inputs[::-1].copy()[::-1]):
        found = layer.forward([weight, bias], same)
        assert np.array_equal(found.output, expected.output)
        assert np.array_equal(found.to_inputs(np.asfortranarray(slope)), expected.to_inputs(slope))
        assert np.array_equal(found.to_parameters(slope)[0], expected.to_parameters(slope)[0])


@pytest.mark.parametrize("shape", [(2, 6, 5), (1, 3, 6, 5), (1, 2, 2, 5), (1, 2, 6, 0)])
def test_inputs_that_do_not_fit_a_convolution_are_refused(shape: tuple[int, ...]) -> None:
    layer = Conv2d(2, 3, 5, padding=1)
    with pytest.raises(ConfigError) as caught:
        layer.forward([np.zeros((3, 2, 5, 5)), np.zeros(3)], np.zeros(shape))
    assert f"found inputs of shape {shape}, needed (records, 2, height, width) of at least 5 x 5" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda p: p.pop("2.bias"), "parameters ['2.bias'] are missing or unknown"),
        (lambda p: p.update(other=np.zeros(1)), "parameters ['other'] are missing or unknown"),
        (lambda p: p.update({"0.bias": np.zeros(6)}), "parameter 0.bias has shape (6,), needed (5,)"),
        (lambda p: p.update({"0.bias": np.full(5, np.nan)}), "parameter 0.bias has a value that is not finite"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(change: Any, text: str) -> None:
    network = drawn("perceptron")[0]
    parameters = dict(network.parameters)
    change(parameters)
    with pytest.raises(ConfigError) as caught:
        Network(network.layers, parameters)
    assert text in str(caught.value)
