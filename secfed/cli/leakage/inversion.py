"""Gradient inversion on one recorded round: faces out of a convolutional network's gradients."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.attacks import CrossEntropy, inversion, label, label_counts
from secfed.cli.leakage.reconstruction import Reconstruction, reconstruct
from secfed.cli.leakage.scenario import RecordedRound
from secfed.cli.leakage.tasks import Faces
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]

# Repetitions of the same attack on noise: each costs as much as the attack.
NULL_RUNS = 3
# Messages that are attacked.
_MOST_MESSAGES = 8
_TOTAL_VARIATION = 0.02
# With more pictures than this, one search counts as large.
_MANY = 10


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of a search, and those of one for more than ten pictures at once."""

    few: int = 200
    many: int = 100


_STEPS = Steps()


def attack(recorded: RecordedRound) -> Reconstruction:
    """Attack the messages of up to eight clients, and the sum.

    Raises:
        ConfigError: The round is not one on faces.
    """
    task = recorded.task
    if not isinstance(task, Faces):
        raise ConfigError(f"found a round of {task.name}: gradient inversion needs the convolutional network of faces")
    return reconstruct(recorded, "inversion", partial(from_messages, task), partial(from_a_sum, task), NULL_RUNS)


def from_messages(task: Faces, inputs: Mapping[int, Any], steps: Steps | None = None) -> dict[int, Array]:
    """Rebuild the picture behind each of the first messages; the label comes from the last layer's biases."""
    found = {}
    for client_id in list(inputs)[:_MOST_MESSAGES]:
        gradient = task.gradient(inputs[client_id])
        found[client_id] = _search(task, gradient, [label(gradient[task.last_bias])], steps)
    return found


def from_a_sum(task: Faces, mean: Any, clients: int, steps: Steps | None = None) -> Array:
    """Rebuild the pictures behind a mean, one for each client; how often each label occurs comes from the biases."""
    gradient = task.gradient(mean)
    counts = label_counts(gradient[task.last_bias], task.bias_gradients, clients)
    return _search(task, gradient, np.repeat(np.arange(task.classes), counts).tolist(), steps)


def _search(task: Faces, gradient: dict[str, Array], labels: list[int], steps: Steps | None) -> Array:
    steps = steps or _STEPS
    found = inversion(
        task.model,
        CrossEntropy(task.classes, labels),
        gradient,
        shape=(len(labels), 1, task.side, task.side),
        method="cosine",
        steps=steps.few if len(labels) <= _MANY else steps.many,
        total_variation=_TOTAL_VARIATION,
    )
    return found.inputs.reshape(len(labels), -1)
