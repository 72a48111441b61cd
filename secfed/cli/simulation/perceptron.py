"""The models that the command line trains, in numpy, as dictionaries of arrays: a perceptron, logistic regression."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secfed.cli.simulation.random import generator
from secfed.federated import proximal

Array = npt.NDArray[np.float64]
Model = dict[str, Array]

LOCAL_EPOCHS = 5
BATCH = 10
LEARNING_RATE = 0.2


@dataclass(frozen=True)
class Examples:
    """One client's data and its own random generator.

    Two runs that start from examples with generators in the same state, and call on the same clients, train alike.

    Attributes:
        inputs: Shape `(rows, features)`.
        labels: Shape `(rows,)`.
        generator: Draws the batches; each local training moves it on.
    """

    inputs: Array = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    generator: np.random.Generator = field(repr=False)


def init(seed: int, features: int = 64, hidden: int | None = 32, classes: int = 10) -> Model:
    """Draw a perceptron with one hidden layer: He's normal weights, biases of 0.

    Without a hidden layer (None) it is logistic regression, which starts at 0.
    """
    if hidden is None:
        return {"output_weight": np.zeros((features, classes)), "output_bias": np.zeros(classes)}
    random = generator(seed, "model")
    return {
        "hidden_weight": random.normal(0.0, np.sqrt(2 / features), (features, hidden)),
        "hidden_bias": np.zeros(hidden),
        "output_weight": random.normal(0.0, np.sqrt(2 / hidden), (hidden, classes)),
        "output_bias": np.zeros(classes),
    }


def gradient(model: Model, inputs: Array, labels: npt.NDArray[np.int64]) -> tuple[float, Model]:
    """Return the mean cross-entropy of a batch and its gradient, which has the model's structure."""
    hidden, logits = _forward(model, inputs)
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -float(np.log(probabilities[rows, labels]).mean())
    error = probabilities
    error[rows, labels] -= 1.0
    error /= len(labels)
    slope = {"output_weight": hidden.T @ error, "output_bias": error.sum(axis=0)}
    if "hidden_weight" not in model:
        return loss, slope
    hidden_error = (error @ model["output_weight"].T) * (hidden > 0)
    return loss, {
        "hidden_weight": inputs.T @ hidden_error,
        "hidden_bias": hidden_error.sum(axis=0),
        **slope,
    }


def local_update(model: Model, data: Examples, mu: float = 0.0) -> tuple[Model, int]:
    """Train on one client's data: a few epochs of gradient descent on small batches.

    Args:
        model: Left as it is.
        data: The client's examples.
        mu: FedProx's pull back toward the model; 0 means no pull.

    Returns:
        The change of the model, and the number of examples.
    """
    trained = {name: array.copy() for name, array in model.items()}
    for _ in range(LOCAL_EPOCHS):
        order = data.generator.permutation(len(data.labels))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            _, slope = gradient(trained, data.inputs[batch], data.labels[batch])
            slope = proximal(slope, trained, model, mu)
            for name, array in trained.items():
                array -= LEARNING_RATE * slope[name]
    return {name: trained[name] - model[name] for name in model}, len(data.labels)


def accuracy(model: Model, inputs: Array, labels: npt.NDArray[np.int64]) -> float:
    """Return the fraction of inputs whose largest logit is at the label."""
    return float((_forward(model, inputs)[1].argmax(axis=1) == labels).mean())


def _forward(model: Model, inputs: Array) -> tuple[Array, Array]:
    """Return the last layer's inputs, which are the model's without a hidden layer, and the logits."""
    hidden = inputs
    if "hidden_weight" in model:
        hidden = np.maximum(inputs @ model["hidden_weight"] + model["hidden_bias"], 0.0)
    return hidden, hidden @ model["output_weight"] + model["output_bias"]
