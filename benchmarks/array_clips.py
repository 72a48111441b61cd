"""Errors of a mean with one clip for all values and with one for each array: `python -m benchmarks.array_clips`.

The first table takes the clients' first updates of the digits of `secfed simulate`, the second an adapter of a million
values in two matrices whose values differ by a factor of 100. All clips come from updates of other data: with
`propose_clips`, 1.25 times the largest values of 50 updates for the digits, twice those of one update for the adapter.
"""

import time
import warnings
from typing import Any

import numpy as np

from benchmarks.compression import ALPHA, CLIENTS, FEW_CLIENTS, SameSum, aggregator, bytes_per_parameter
from secfed.aggregation import ClippingWarning, RandomRotation, propose_clips
from secfed.cli.simulation import perceptron
from secfed.cli.simulation.datasets import LOADERS
from secfed.cli.simulation.random import generator

RUNS, RANK, SIDE = 5, 8, 62_500
Update = dict[str, Any]


def digits(seed: int) -> tuple[list[Update], list[int]]:
    """Return the first update of every client, and their weights."""
    federation = LOADERS["digits"](CLIENTS, ALPHA, seed)
    model = perceptron.init(seed, federation.features, classes=federation.classes)
    found = [
        perceptron.local_update(model, perceptron.Examples(inputs, labels, generator(seed, "batches", client_id)))
        for client_id, (inputs, labels) in federation.clients.items()
    ]
    return [update for update, _ in found], [int(weight) for _, weight in found]


def adapter(seed: int) -> tuple[list[Update], list[int]]:
    """Return updates of the two matrices of an adapter; what all clients agree on is as large as what they do not."""
    random = np.random.default_rng(seed)
    shapes = {"lora_A": ((RANK, SIDE), 1e-4), "lora_B": ((SIDE, RANK), 1e-2)}
    common = {name: random.normal(0, scale, shape) for name, (shape, scale) in shapes.items()}
    updates = [
        {name: (common[name] + random.normal(0, scale, shape)).astype("f4") for name, (shape, scale) in shapes.items()}
        for _ in range(FEW_CLIENTS)
    ]
    return updates, random.integers(20, 129, FEW_CLIENTS).tolist()


def row(options: dict[str, Any], updates: list[Update], weights: list[int]) -> tuple[dict[str, float], float, float]:
    """Return the relative error of each array, the bytes per parameter, and the CPU seconds of one encoding."""
    exact = {name: np.average([update[name] for update in updates], axis=0, weights=weights) for name in updates[0]}
    size = sum(array.size for array in exact.values())
    errors: dict[str, list[float]] = {name: [] for name in exact}
    largest = 1 << (max(weights) - 1).bit_length()
    for run in range(RUNS):
        secured = aggregator(SameSum, options, run, largest)
        mean = secured.aggregate(updates, weights).mean
        for name, array in exact.items():
            errors[name].append(float(np.linalg.norm(mean[name] - array) / np.linalg.norm(array)))
    prepared = secured.prepare(updates[0], range(1, len(updates) + 1))
    prepared.transform.encode(updates[0], 1)
    started = time.process_time()
    for update in updates:
        prepared.transform.encode(update, 1)
    seconds = (time.process_time() - started) / len(updates)
    return {name: float(np.mean(each)) for name, each in errors.items()}, bytes_per_parameter(prepared, size), seconds


def table(updates: list[Update], weights: list[int], public: list[Update], margin: float) -> None:
    """Print a row for each choice."""
    own = propose_clips(*public, margin=margin)
    one = max(own.values())
    print("clips:", {name: f"{clip:.2g}" for name, clip in own.items()})
    print(
        f"| choice | {' | '.join(f'error of {name}' for name in own)} | bytes per parameter | encoding, CPU seconds |"
    )
    print(f"|---|{'---|' * (len(own) + 2)}")
    for bits in (16, 8, 4):
        for name, options in (
            ("one clip", {"clip": one}),
            ("one clip, rotation", {"clip": rotated_clip(public, margin), "compression": RandomRotation()}),
            ("own clips", {"clip": own}),
            ("own clips, scaled weights", {"clip": own, "scale_weights": True}),
        ):
            errors, bytes_each, seconds = row({"bits": bits} | options, updates, weights)
            each = " | ".join(f"{error:.5f}" for error in errors.values())
            print(f"| {bits} bits, {name} | {each} | {bytes_each:.2f} | {seconds:.4f} |", flush=True)


def rotated_clip(public: list[Update], margin: float) -> float:
    """Return a clip that few rotated values exceed, of updates longer than the longest by the margin."""
    squares = [sum(float(np.sum(array.astype(float) ** 2)) for array in update.values()) for update in public]
    size = sum(array.size for array in public[0].values())
    return margin * 4 * (max(squares) / size) ** 0.5


if __name__ == "__main__":
    warnings.simplefilter("ignore", ClippingWarning)
    table(*digits(0), digits(1)[0], 1.25)
    table(*adapter(0), adapter(1)[0][:1], 2.0)
