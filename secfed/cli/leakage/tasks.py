"""What the clients of a recorded round train, each on its own picture."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from secfed.attacks import Network
from secfed.attacks.networks import Activation, Conv2d, Flatten, Linear
from secfed.cli.simulation import perceptron
from secfed.cli.simulation.datasets import LOADERS
from secfed.cli.simulation.random import generator

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Update = dict[str, Array]

# The convolutional network's step: small, as in training.
_LEARNING_RATE = 0.1


class Task(ABC):
    """A data set, a model that everybody knows, and what local training makes of one picture.

    Attributes:
        name: Of the data set.
        classes: Number of labels.
        side: Pixels of a side.
        pictures: Those that clients may have, in an order that the seed decides, shape `(pictures, pixels)`.
        labels: Their labels, shape `(pictures,)`.
        others: Pictures that no client has, and their labels; an adversary may have them.
    """

    name: ClassVar[str]
    classes: int
    side: int
    pictures: Array
    labels: Labels
    others: tuple[Array, Labels]

    @abstractmethod
    def update(self, picture: Array, label: int) -> Update:
        """Train on one picture, shape `(pixels,)`, and return the change of the model."""


class Perceptron(Task):
    """A data set of digits, a perceptron with one hidden layer of ReLUs, several local steps.

    Attributes:
        hidden: Units of the hidden layer.
        model: The perceptron.
    """

    hidden: ClassVar[int]

    def __init__(self, seed: int) -> None:
        federation = LOADERS[self.name](1, 0.5, seed)
        pictures, labels = federation.clients[1]
        order = generator(seed, "pictures").permutation(len(labels))
        self.pictures, self.labels, self.others = pictures[order], labels[order], federation.test
        self.classes, self.side = federation.classes, round(federation.features**0.5)
        self.model = perceptron.init(seed, federation.features, self.hidden, federation.classes)
        self._random = generator(seed, "batches")  # of no effect: a batch is one picture

    def update(self, picture: Array, label: int) -> Update:
        """Return the change by some epochs of gradient descent."""
        data = perceptron.Examples(picture[None], np.array([label]), self._random)
        return perceptron.local_update(self.model, data)[0]


class Digits(Perceptron):
    """Handwritten digits of 8 x 8 pixels, 32 hidden units."""

    name, hidden = "digits", 32


class WideDigits(Perceptron):
    """The same pictures, 300 hidden units: wide enough for the exact attack, and small enough to encrypt."""

    name, hidden = "digits", 300


class Mnist(Perceptron):
    """Handwritten digits of 28 x 28 pixels, 400 hidden units: wide enough for the exact attack."""

    name, hidden = "mnist", 400


class Faces(Task):
    """Faces of 25 x 25 pixels in 10 classes, a convolutional network of ReLUs, one step.

    Attributes:
        model: The network.
        last_bias: Name of the last layer's biases.
        bias_gradients: Their mean gradient for each label, shape `(classes, classes)`.
    """

    name = "faces"

    def __init__(self, seed: int) -> None:
        federation = LOADERS[self.name](1, 0.5, seed)
        self.classes, self.side = 10, round(federation.features**0.5)
        faces, others = (inputs[labels == 1] for inputs, labels in (federation.clients[1], federation.test))
        order = generator(seed, "pictures").permutation(len(faces))
        self.pictures, self.labels = faces[order], np.arange(len(faces)) % self.classes
        self.others = others, np.arange(len(others)) % self.classes
        layers = (
            Conv2d(1, 16, 5, 2, 2), Activation("relu"), Conv2d(16, 32, 3, 2, 1), Activation("relu"), Flatten(),
            Linear(32 * 7 * 7, self.classes),
        )  # fmt: skip
        self.model = Network.drawn(layers, generator(seed, "model"))
        self.last_bias = list(self.model.shapes)[-1]
        # How the adversary's own pictures change the last biases, by label.
        gradients = [
            self.gradient(self.update(picture, int(label)))[self.last_bias]
            for picture, label in zip(*self.others, strict=True)
        ]
        self.bias_gradients = np.array(
            [
                np.mean([gradients[row] for row in np.flatnonzero(self.others[1] == one)], axis=0)
                for one in range(self.classes)
            ]
        )

    def update(self, picture: Array, label: int) -> Update:
        """Return the change by one step of gradient descent."""
        inputs = picture.reshape(1, 1, self.side, self.side)
        gradient = self.model.gradients(inputs, np.eye(self.classes)[[label]])[0]
        return {name: -_LEARNING_RATE * array for name, array in gradient.items()}

    def gradient(self, change: Any) -> Update:
        """Return the gradient behind a change of the model."""
        return {name: np.asarray(array, np.float64) / -_LEARNING_RATE for name, array in change.items()}
