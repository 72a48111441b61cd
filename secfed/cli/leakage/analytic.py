"""The analytic attack on one recorded round: the inputs of the first layer by division."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.attacks import linear_candidates, linear_inputs
from secfed.cli.leakage.reconstruction import Reconstruction, reconstruct
from secfed.cli.leakage.scenario import RecordedRound
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]

# Repetitions of the same attack on noise.
NULL_RUNS = 200
# How far beyond black and white a pixel may be: fixed-point rounding.
_TOLERANCE = 0.02


def attack(recorded: RecordedRound) -> Reconstruction:
    """Attack each message and the sum."""
    return reconstruct(recorded, "analytic", from_messages, lambda mean, clients: from_a_sum(mean), NULL_RUNS)


def from_messages(inputs: Mapping[int, Any]) -> dict[int, Array]:
    """Rebuild the picture behind each message: for each client one guess, shape `(1, pixels)`."""
    return {client_id: guess(update)[None] for client_id, update in inputs.items()}


def from_a_sum(mean: Any) -> Array:
    """Rebuild a picture from each unit of the first layer, and keep those that are pictures, shape `(some, pixels)`.

    A unit that several clients' pictures turned on rarely gives one.
    """
    weights, biases = _first_layer(mean)
    try:
        found = linear_candidates(weights, biases)
    except ConfigError:
        return np.zeros((1, weights.shape[1]))
    like = (found > -_TOLERANCE).all(axis=1) & (found < 1 + _TOLERANCE).all(axis=1)
    return np.clip(found[like], 0.0, 1.0) if like.any() else guess(mean)[None]


def guess(update: Any) -> Array:
    """Rebuild the one input of the first layer, in the range of pixels."""
    weights, biases = _first_layer(update)
    try:
        return np.clip(linear_inputs(weights, biases), 0.0, 1.0)
    except ConfigError:  # nothing to divide by
        return np.zeros(weights.shape[1])


def _first_layer(update: Any) -> tuple[Array, Array]:
    weights, biases = update["hidden_weight"], update["hidden_bias"]
    return np.asarray(weights, np.float64).T, np.asarray(biases, np.float64)
