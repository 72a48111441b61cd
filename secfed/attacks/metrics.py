"""How good a reconstruction is, and how good one without any information would be.

PSNR alone misleads (a reconstruction below the mean picture's PSNR may still tell the person), so it goes with
re-identification, the baseline of no information, and the same attack on noise.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]

# An exact reconstruction has no error to divide by; this is the PSNR of an error of 1e-16.
MOST_PSNR = 320.0


def mse(guess: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the mean squared error of two arrays of the same shape.

    Raises:
        ConfigError: The shapes differ.
    """
    found, wanted = np.asarray(guess, np.float64), np.asarray(truth, np.float64)
    if found.shape != wanted.shape:
        raise ConfigError(f"the guess has shape {found.shape}, the truth {wanted.shape}: needed the same")
    return float(np.mean((found - wanted) ** 2))


def psnr(guess: npt.ArrayLike, truth: npt.ArrayLike, peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio in decibels, at most 320.

    Args:
        guess: The reconstruction; values beyond 0 and `peak` count as they are.
        truth: The original, of the same shape, with values from 0 to `peak`.
        peak: Largest value of the original.

    Raises:
        ConfigError: The shapes differ, or the peak is not positive.
    """
    if not peak > 0:
        raise ConfigError(f"peak {peak} must be positive")
    error = mse(guess, truth)
    if not math.isfinite(error):
        return -MOST_PSNR
    return min(MOST_PSNR, 10 * math.log10(peak * peak / error)) if error else MOST_PSNR


def identified(guess: npt.ArrayLike, candidates: npt.ArrayLike) -> int:
    """Return the number of the candidate that correlates most with a guess: whom an adversary would name.

    Args:
        guess: Shape `(values,)`.
        candidates: Shape `(candidates, values)`.

    Raises:
        ConfigError: The shapes do not fit.
    """
    found, known = np.asarray(guess, np.float64).ravel(), np.asarray(candidates, np.float64)
    if known.ndim != 2 or known.shape[1] != len(found):
        raise ConfigError(f"the guess has {len(found)} values, the candidates shape {known.shape}")
    centred = known - known.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    scores = centred @ (found - found.mean()) / np.where(lengths > 0, lengths, np.inf)
    return int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the 95 % interval around it, by Student's t; of one value the interval is unknown (infinite)."""

    mean: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Any) -> "Interval":
        """Summarize measurements, shape `(count,)`."""
        from scipy import stats

        found = np.asarray(values, np.float64)
        mean = float(found.mean())
        if len(found) < 2:
            return cls(mean, -math.inf, math.inf)
        half = float(stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found)))
        return cls(mean, mean - half, mean + half)
