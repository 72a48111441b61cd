"""Federated training on real handwriting: 13 writers, whose digits never leave them, train one classifier.

Needs scikit-learn for its data set (the extra "cli").
"""

import numpy as np
from sklearn.datasets import load_digits

import secfed

digits = load_digits()
inputs, labels = digits.data / 16.0, digits.target
test = np.arange(len(labels)) % 5 == 0
# The rows of this data set are in the order of its 13 writers.
writers = [part[~test[part]] for part in np.array_split(np.arange(len(labels)), 13)]


def probabilities(model, x):
    scores = x @ model["weights"] + model["bias"]
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def local_update(model, rows):
    """Ten steps of gradient descent on one writer's digits; the update, and how many digits it comes from."""
    start = {name: array.copy() for name, array in model.items()}
    x, targets = inputs[rows], np.eye(10)[labels[rows]]
    for _ in range(10):
        error = (probabilities(model, x) - targets) / len(rows)
        model = {"weights": model["weights"] - x.T @ error, "bias": model["bias"] - error.sum(axis=0)}
    return {name: model[name] - start[name] for name in start}, len(rows)


training = secfed.FedAvg(local_update, aggregator=secfed.SecAgg(threshold=2 / 3, clip=2.0))
model = {"weights": np.zeros((64, 10)), "bias": np.zeros(10)}
for report in training.rounds(model, writers, count=10, sampling_rate=0.9, seed=0):
    accuracy = (probabilities(report.model, inputs[test]).argmax(axis=1) == labels[test]).mean()
    if report.number % 5 == 0:
        print(f"round {report.number}: accuracy {accuracy:.3f}, {len(report.survivors)} writers in the sum")
assert accuracy > 0.9
