"""The exact attack on one recorded round: every client's picture from the sum."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.attacks import exact_inputs
from secfed.cli.leakage import analytic
from secfed.cli.leakage.reconstruction import Reconstruction, reconstruct
from secfed.cli.leakage.scenario import RecordedRound
from secfed.cli.leakage.tasks import Mnist, Perceptron
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]

# Repetitions of the same attack on noise; each uses all the starts of a search.
NULL_RUNS = 3
# Random starts of one search.
ATTEMPTS = 1024


def attack(recorded: RecordedRound) -> Reconstruction:
    """Attack each message by division, and the sum by the exact attack.

    Raises:
        ConfigError: The round is not one on MNIST pictures.
    """
    task = recorded.task
    if not isinstance(task, Mnist):
        raise ConfigError(f"found a round of {task.name}: the exact attack needs the wide perceptron of mnist")
    return reconstruct(recorded, "exact", from_messages, partial(from_a_sum, task), NULL_RUNS)


def from_messages(inputs: Mapping[int, Any]) -> dict[int, Array]:
    """Rebuild the picture behind each message by division: one record needs no search."""
    return analytic.from_messages(inputs)


def from_a_sum(task: Perceptron, mean: Any, clients: int, attempts: int = ATTEMPTS) -> Array:
    """Rebuild the picture of every client from a mean, with the weights that the server sent out.

    Args:
        task: What the clients trained.
        mean: The mean of their updates, by the name of the array.
        clients: How many pictures are in the mean; the server knows it.
        attempts: Random starts until the attack gives up.

    Returns:
        Shape `(clients, pixels)`. If the attack fails, the analytic attack's guesses, shape `(some, pixels)`.
    """
    weights, biases = (np.asarray(mean[name], np.float64).T for name in ("hidden_weight", "hidden_bias"))
    try:
        found = exact_inputs(
            weights,
            biases,
            weights=task.model["hidden_weight"].T,
            biases=task.model["hidden_bias"],
            records=clients,
            attempts=attempts,
        )
    except ConfigError:  # nothing but zeros
        return analytic.from_a_sum(mean)
    return np.clip(found.inputs, 0.0, 1.0) if found.found else analytic.from_a_sum(mean)
