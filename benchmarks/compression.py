"""Accuracy, error and cost against bytes per parameter: `python -m benchmarks.compression` prints two tables.

The first trains the digits of `secfed simulate` under secure aggregation, the second takes the mean of large vectors.
`--part training` or `--part vectors` prints one of them.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np

import secfed
from secfed.aggregation import ClippingWarning, LowRank, RandomK, RandomRotation
from secfed.aggregation.channels import Channel, InTheClear
from secfed.cli.simulation import perceptron
from secfed.cli.simulation.datasets import LOADERS
from secfed.cli.simulation.random import generator

SEEDS, CLIENTS, ROUNDS, ALPHA = (0, 1, 2), 50, 30, 0.5
SIZE, FEW_CLIENTS = 10**6, 20
# Of the values of the digits' updates as they are, and rotated: few are beyond, and steps are not too wide.
CLIP, ROTATED_CLIP = 0.3, 0.15
# Clips that the second table tries, in root mean squares of the values.
CLIPS = (1, 2, 3, 4, 8, 16, 32, 64)
ROTATION = RandomRotation()
CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("no compression, 16 bits", {}),
    *((f"{bits} bits", {"bits": bits, "clip": CLIP}) for bits in (8, 4, 2)),
    *((f"{bits} bits, rotation", {"bits": bits, "clip": ROTATED_CLIP, "compression": ROTATION}) for bits in (8, 4, 2)),
    *((f"{bits} bits, scaled weights", {"bits": bits, "clip": CLIP, "scale_weights": True}) for bits in (8, 6, 4, 2)),
    *(
        (
            f"{bits} bits, scaled weights, rotation",
            {"bits": bits, "clip": ROTATED_CLIP, "scale_weights": True, "compression": ROTATION},
        )
        for bits in (8, 6, 4, 2)
    ),
    *((f"random-k {fraction}", {"compression": RandomK(fraction)}) for fraction in (0.25, 0.1)),
    *((f"low rank {rank}", {"compression": LowRank(rank)}) for rank in (16, 8, 4)),
    *(
        (
            f"{name}, rotation, {bits} bits, scaled weights",
            {"bits": bits, "clip": ROTATED_CLIP, "scale_weights": True, "compression": (each, ROTATION)},
        )
        for name, each, bits in (
            ("random-k 0.5", RandomK(0.5), 6),
            ("random-k 0.25", RandomK(0.25), 6),
            ("random-k 0.1", RandomK(0.1), 6),
            ("low rank 16", LowRank(16), 6),
            ("low rank 8", LowRank(8), 6),
        )
    ),
]


class SameSum(secfed.SecAgg):
    """Adds the vectors of secure aggregation in the clear: the same sums, bit for bit, in a hundredth of the time."""

    def channel(self, client_ids: Any, transform: Any, round: int, model_hash: bytes) -> Channel:
        """Return a channel without masks."""
        return InTheClear(client_ids, transform.length, transform.modulus_bits)


def aggregator(kind: type[secfed.SecAgg], options: dict[str, Any], seed: int, max_weight: int) -> secfed.SecAgg:
    """Return secure aggregation with one choice of options."""
    return kind(**{"max_weight": max_weight, "rounding_seed": seed} | options)


def bytes_per_parameter(prepared: Any, size: int) -> float:
    """Return the bytes of a client's masked vector, divided by the number of the model's values."""
    transform = prepared.transform
    return float(transform.length * transform.modulus_bits / 8 / size)


def train(options: dict[str, Any], seed: int) -> tuple[float, float]:
    """Return the accuracy after the last round, and the bytes per parameter."""
    federation = LOADERS["digits"](CLIENTS, ALPHA, seed)
    model = perceptron.init(seed, federation.features, classes=federation.classes)
    examples = {
        client_id: perceptron.Examples(inputs, labels, generator(seed, "batches", client_id))
        for client_id, (inputs, labels) in federation.clients.items()
    }
    largest = 1 << (max(len(labels) for _, labels in federation.clients.values()) - 1).bit_length()
    secured = aggregator(SameSum, options, seed, largest)
    training = secfed.FedAvg(perceptron.local_update, aggregator=secured)
    *_, last = training.rounds(model, examples, ROUNDS, seed=seed)
    size = sum(array.size for array in model.values())
    prepared = secured.prepare(model, federation.clients)
    return perceptron.accuracy(last.model, *federation.test), bytes_per_parameter(prepared, size)


def training_table() -> None:
    """Print a row for each choice as soon as it is there."""
    print("| choice | bytes per parameter | accuracy of the seeds | mean |")
    print("|---|---|---|---|")
    for name, options in CHOICES:
        found = [train(options, seed) for seed in SEEDS]
        accuracies = [100 * accuracy for accuracy, _ in found]
        each = ", ".join(f"{accuracy:.1f}" for accuracy in accuracies)
        bytes_each = np.mean([row[1] for row in found])
        print(f"| {name} | {bytes_each:.2f} | {each} | {np.mean(accuracies):.1f} % |", flush=True)


def vector_table() -> None:
    """Print, for a matrix of a million values, the error of the mean, the bytes and the time of one client's encoding.

    Each choice has the best of several clips. The values have tails as those of trained networks have: a normal law
    whose scale differs from column to column.
    """
    random = np.random.default_rng(0)
    scales = np.exp(random.normal(0, 1, 1000))
    common = random.normal(0, 1, (1000, 1000))
    updates = [
        ((common + random.normal(0, 1, (1000, 1000))) * scales / np.sqrt(2)).astype(np.float32) * 0.01
        for _ in range(FEW_CLIENTS)
    ]
    weights = random.integers(20, 129, FEW_CLIENTS)
    mean = np.average(updates, axis=0, weights=weights)
    spread = float(np.sqrt(np.mean(np.square(updates))))
    print("| choice | bytes per parameter | relative error of the mean | encoding, CPU seconds |")
    print("|---|---|---|---|")
    for name, options in CHOICES:
        if "low rank" in name:  # ranks that suit the smaller matrices of the digits
            continue
        found = [mean_of(options, factor * spread, updates, weights) for factor in CLIPS]
        errors = [float(np.linalg.norm(result - mean) / np.linalg.norm(mean)) for result, _, _ in found]
        best = int(np.argmin(errors))
        _, bytes_each, seconds = found[best]
        print(f"| {name} | {bytes_each:.2f} | {errors[best]:.4f} | {seconds:.3f} |", flush=True)


def mean_of(options: dict[str, Any], clip: float, updates: Any, weights: Any) -> tuple[Any, float, float]:
    """Return the mean, the bytes per parameter, and the CPU seconds of one client's encoding."""
    secured = aggregator(SameSum, options | {"clip": clip}, 0, 128)
    prepared = secured.prepare(updates[0], range(1, FEW_CLIENTS + 1))
    transform = prepared.transform
    transform.encode(updates[0], 1)  # what all clients share is made once
    total, started = np.zeros(transform.length, np.uint64), time.process_time()
    for update, weight in zip(updates, weights, strict=True):
        total += transform.encode(update, int(weight))
    seconds = (time.process_time() - started) / FEW_CLIENTS
    total &= np.uint64((1 << transform.modulus_bits) - 1)
    return transform.decode(total, range(FEW_CLIENTS)).mean, bytes_per_parameter(prepared, SIZE), seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["training", "vectors", "all"], default="all")
    part = parser.parse_args().part
    warnings.simplefilter("ignore", ClippingWarning)  # few bits go with a clip that some values exceed
    if part != "vectors":
        training_table()
    if part != "training":
        vector_table()
