"""Gradient inversion: what it rebuilds from one gradient, and that noise and mixtures leave it nothing."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from secfed.attacks import CrossEntropy, inversion, psnr
from secfed.attacks.networks import Activation, Conv2d, Flatten, Linear, Network
from secfed.errors import ConfigError

DIGITS = load_digits()
SMOOTH = (
    Conv2d(1, 12, 5, 2, 2), Activation("sigmoid"), Conv2d(12, 12, 5, 1, 2), Activation("sigmoid"), Flatten(),
    Linear(192, 10),
)  # fmt: skip
KINKED = (Conv2d(1, 16, 3, padding=1), Activation("relu"), Conv2d(16, 16, 3, 2, 1), Activation("relu"), Flatten(),
          Linear(256, 10))  # fmt: skip


def seen(layers: Any, rows: list[int], seed: int = 0) -> tuple[Network, np.ndarray, dict[str, np.ndarray]]:
    """A network, pictures, and the gradient of these."""
    network = Network.drawn(layers, np.random.default_rng(seed))
    pictures = DIGITS.images[rows][:, None] / 16
    return network, pictures, network.gradients(pictures, np.eye(10)[DIGITS.target[rows]])[0]


def noisy(update: dict[str, np.ndarray], deviation: float) -> dict[str, np.ndarray]:
    """Noise relative to the gradient's norm."""
    random = np.random.default_rng(7)
    norm = np.sqrt(sum((array**2).sum() for array in update.values()))
    return {name: array + deviation * norm * random.normal(size=array.shape) for name, array in update.items()}


@pytest.mark.parametrize("row", [0, 1])
def test_dlg_rebuilds_one_picture_and_its_label(row: int) -> None:
    network, picture, update = seen(SMOOTH, [row])
    found = inversion(network, CrossEntropy(10), update, shape=picture.shape)
    assert psnr(found.inputs, picture) > 55 and found.labels == [DIGITS.target[row]]
    assert found.distance < 1e-8


def test_dlg_rebuilds_a_batch_whose_labels_are_known() -> None:
    network, pictures, update = seen(SMOOTH, [0, 1])
    found = inversion(network, CrossEntropy(10, [0, 1]), update, shape=pictures.shape, steps=600)
    assert psnr(found.inputs, pictures) > 40


def test_cosine_rebuilds_a_picture_from_a_relu_network() -> None:
    network, picture, update = seen(KINKED, [5])
    loss = CrossEntropy(10, [DIGITS.target[5]])
    found = inversion(network, loss, update, shape=picture.shape, method="cosine", steps=300, total_variation=1e-3)
    assert psnr(found.inputs, picture) > 25
    scaled = {name: 7 * array for name, array in update.items()}  # the learning rate need not be known
    again = inversion(network, loss, scaled, shape=picture.shape, method="cosine", steps=300, total_variation=1e-3)
    assert psnr(again.inputs, picture) > 25


@pytest.mark.parametrize(("layers", "method"), [(SMOOTH, "dlg"), (KINKED, "cosine")])
def test_noise_as_large_as_the_gradient_leaves_less_than_the_mean_picture(layers: Any, method: Any) -> None:
    network, picture, update = seen(layers, [3])
    loss = CrossEntropy(10, [DIGITS.target[3]])
    found = inversion(network, loss, noisy(update, 1.0), shape=picture.shape, method=method, steps=60)
    mean = (DIGITS.images / 16).mean(axis=0)[None, None]
    assert psnr(found.inputs, picture) < psnr(mean, picture)


def test_the_gradient_of_many_pictures_does_not_give_one_of_them() -> None:
    network, pictures, update = seen(SMOOTH, list(range(40)))
    found = inversion(network, CrossEntropy(10), update, shape=(1, 1, 8, 8), steps=60)
    mean = (DIGITS.images / 16).mean(axis=0)[None, None]
    best = max(psnr(found.inputs, picture[None]) for picture in pictures)
    assert best < max(psnr(mean, picture[None]) for picture in pictures)


def test_the_same_seed_gives_the_same_guess_and_the_best_of_restarts_counts() -> None:
    network, picture, update = seen(SMOOTH, [4])

    def found(**options: Any) -> Any:
        return inversion(network, CrossEntropy(10), update, shape=picture.shape, steps=20, **options)

    assert np.array_equal(found(seed=3).inputs, found(seed=3).inputs)
    assert not np.array_equal(found(seed=3).inputs, found(seed=4).inputs)
    assert found(seed=3, restarts=3).distance <= found(seed=3).distance


def test_guesses_stay_within_the_bounds() -> None:
    network, picture, update = seen(KINKED, [2])
    for method in ("dlg", "cosine"):
        found = inversion(
            network, CrossEntropy(10, [2]), update, shape=picture.shape, method=method, steps=10, bounds=(0.2, 0.7)
        )
        assert found.inputs.min() >= 0.2 and found.inputs.max() <= 0.7


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"shape": (64,)}, "shape (64,) must have the records"),
        ({"shape": (0, 1, 8, 8)}, "shape (0, 1, 8, 8) must have the records"),
        ({"steps": 0}, "steps 0 and restarts 1 must be at least 1"),
        ({"restarts": 0}, "steps 300 and restarts 0 must be at least 1"),
        ({"bounds": (1.0, 0.0)}, "bounds (1.0, 0.0) must be two finite numbers"),
        ({"method": "newton"}, "method 'newton' must be"),
        ({"total_variation": 0.1}, 'total_variation has no effect with method "dlg"'),
        ({"total_variation": -1.0, "method": "cosine"}, "total_variation -1.0 must be"),
        ({"method": "cosine", "loss": CrossEntropy(10)}, 'method "cosine" needs the labels'),
        ({"loss": CrossEntropy(10, [1, 2])}, "needed 1 whole numbers, one for each record"),
        ({"loss": CrossEntropy(10, [10])}, "labels [10] must be from 0 to 9"),
        ({"update": {}}, "gradients ['0.bias', '0.weight', '2.bias', '2.weight'] are missing or unknown"),
        ({"shape": (1, 1, 6, 8)}, "inputs of shape (1, 1, 6, 8) do not fit the model"),
        ({"loss": CrossEntropy(9, [1])}, "do not fit the model"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options: dict[str, Any], text: str) -> None:
    network, picture, update = seen(KINKED, [0])
    arguments: dict[str, Any] = {"loss": CrossEntropy(10, [0]), "update": update, "shape": picture.shape} | options
    with pytest.raises(ConfigError) as caught:
        inversion(network, arguments.pop("loss"), arguments.pop("update"), **arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(("value", "text"), [(np.nan, "not finite"), (0.0, "zero everywhere")])
def test_gradients_that_tell_nothing_are_refused(value: float, text: str) -> None:
    network, picture, update = seen(KINKED, [0])
    bad = {name: np.full_like(array, value) for name, array in update.items()}
    with pytest.raises(ConfigError, match=text):
        inversion(network, CrossEntropy(10, [0]), bad, shape=picture.shape)
