"""The model and the data: nothing here knows of Flower or secfed."""

import numpy as np
from sklearn.datasets import load_digits

HIDDEN, CLASSES, HELD_OUT = 32, 10, 360


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits in a fixed random order: pixels from 0 to 1, and labels."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (pixels[order] / 16).astype(np.float32), labels[order]


def new_model() -> dict[str, np.ndarray]:
    """Return a perceptron with one hidden layer."""
    random = np.random.default_rng(1)
    return {
        "hidden.weight": (random.normal(size=(64, HIDDEN)) / 8).astype(np.float32),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "output.weight": (random.normal(size=(HIDDEN, CLASSES)) / np.sqrt(HIDDEN)).astype(np.float32),
        "output.bias": np.zeros(CLASSES, np.float32),
    }


def predict(model: dict[str, np.ndarray], pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hidden layer and each class's probability."""
    hidden = np.maximum(pixels @ model["hidden.weight"] + model["hidden.bias"], 0)
    scores = hidden @ model["output.weight"] + model["output.bias"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, scores / scores.sum(axis=1, keepdims=True)


def train(model: dict[str, np.ndarray], pixels: np.ndarray, labels: np.ndarray) -> float:
    """Train a model in place, five passes over the data; return the last pass's mean loss."""
    targets = np.eye(CLASSES, dtype=np.float32)[labels]
    for _ in range(5):
        losses = []
        for start in range(0, len(labels), 16):
            x, y = pixels[start : start + 16], targets[start : start + 16]
            hidden, found = predict(model, x)
            losses.append(-np.log(found[y > 0] + 1e-9).mean())
            error = (found - y) / len(x)
            back = (error @ model["output.weight"].T) * (hidden > 0)
            for name, gradient in (
                ("output.weight", hidden.T @ error),
                ("output.bias", error.sum(axis=0)),
                ("hidden.weight", x.T @ back),
                ("hidden.bias", back.sum(axis=0)),
            ):
                model[name] -= np.float32(0.3) * gradient
    return float(np.mean(losses))


def accuracy(model: dict[str, np.ndarray]) -> float:
    """Return the accuracy on the held-out digits, which no client has."""
    pixels, labels = digits()
    return float((predict(model, pixels[:HELD_OUT])[1].argmax(axis=1) == labels[:HELD_OUT]).mean())
