"""What a sum leaks: how exactly, how often and how fast attacks rebuild inputs, on random pictures.

CPU time of one thread.
"""

import statistics
from collections.abc import Iterator

import numpy as np

import secfed
from benchmarks.measure import Line, cpu
from secfed.attacks import ExactInputs, View, exact_inputs, linear_inputs
from secfed.attacks.networks import Activation, Linear, Network

INPUTS, UNITS, CLASSES = 784, 400, 10
CLIENTS, SEEDS = 14, 20


def updates(clients: int, seed: int) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Return pictures, and each one's gradient of the first layer of an untrained network."""
    random = np.random.default_rng(seed)
    network = Network.drawn([Linear(INPUTS, UNITS), Activation("relu"), Linear(UNITS, CLASSES)], random)
    pictures = random.uniform(size=(clients, INPUTS))
    labels = np.eye(CLASSES)[random.integers(CLASSES, size=clients)]
    gradients = [network.gradients(pictures[i : i + 1], labels[i : i + 1])[0] for i in range(clients)]
    return pictures, [{"weight": one["0.weight"], "bias": one["0.bias"]} for one in gradients]


def analytic_recovery() -> Iterator[Line]:
    [picture], [update] = updates(1, 0)
    found = linear_inputs(update["weight"], update["bias"])
    seconds = statistics.median(cpu(lambda: linear_inputs(update["weight"], update["bias"])) for _ in range(15))
    error = float(np.abs(found - picture).max())
    yield Line(
        f"one record's {INPUTS} inputs from its gradient of a linear layer",
        "largest error at most 1e-12",
        f"{error:.0e}",
        error <= 1e-12,
        f"{seconds * 1000:.2f} ms",
    )


def exact_recovery() -> Iterator[Line]:
    """From the sum that secure aggregation shows, rounded to 32 bits."""
    seconds, exact = [], 0
    for seed in range(SEEDS):
        pictures, sent = updates(CLIENTS, seed)
        clip = 1.1 * max(float(np.abs(array).max()) for update in sent for array in update.values())
        session = secfed.SecAgg(threshold=1.0, max_weight=1, clip=clip, bits=32)
        mean = View.of_server(session.aggregate(sent, record=True).transcript).mean
        found: list[ExactInputs] = []
        seconds.append(cpu(lambda mean=mean, found=found: found.append(exact_inputs(mean["weight"], mean["bias"]))))
        if len(found[0].inputs) == CLIENTS:
            exact += bool(np.abs(found[0].inputs[:, None] - pictures).max(axis=2).min(axis=0).max() < 1e-6)
    yield Line(
        f"all {CLIENTS} clients' records from the sum of their gradients under secure aggregation, untrained network",
        f"largest error below 1e-6 in {SEEDS} of {SEEDS} seeds",
        f"{exact} of {SEEDS}",
        exact == SEEDS,
        f"{statistics.median(seconds):.2f} s CPU in the median, {max(seconds):.2f} s at most",
    )


ALL = (analytic_recovery, exact_recovery)
