"""How good a reconstruction is, compared with one made without any information.

PSNR alone misleads: a reconstruction with a lower PSNR than the mean picture may still reveal the person. So report it
with re-identification, the baseline without information, and the same attack on noise.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]

# Side of the square window of the structural similarity, and the constants that keep its fractions from 0 / 0.
_SIDE = 7
_K1, _K2 = 0.01, 0.03
# An exact reconstruction has no error to divide by; this is the PSNR of an error of 1e-16.
MOST_PSNR = 320.0


def mse(guess: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the mean squared error of two arrays of the same shape.

    Args:
        guess: The reconstruction.
        truth: The original.

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
        guess: The reconstruction; values outside 0 to `peak` are used as they are.
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


def ssim(guess: npt.ArrayLike, truth: npt.ArrayLike, peak: float = 1.0) -> float:
    """Return the structural similarity of two pictures, from -1 to 1: the mean over all windows of 7 x 7 pixels.

    It compares means, variances and covariance inside each window, so it responds to shapes where PSNR responds to
    distances. All pixels of a window have equal weight, and (co)variances are sample ones (divided by 48, not 49).

    Args:
        guess: The reconstruction, shape `(height, width)`, one channel. A guess with values that are not finite, or
            whose squares overflow, gets the worst score, -1.
        truth: The original, of the same shape, with values from 0 to `peak`.
        peak: Largest value of the original.

    Raises:
        ConfigError: The shapes differ or are not those of a picture of at least 7 x 7 pixels, the truth is not finite,
            or the peak is not positive.

    Source: Wang, Bovik, Sheikh, Simoncelli, *Image Quality Assessment: From Error Visibility to Structural Similarity*,
    IEEE Transactions on Image Processing 2004, section III-B; the uniform window is the default of scikit-image.
    """
    from scipy.ndimage import uniform_filter

    if not peak > 0:
        raise ConfigError(f"peak {peak} must be positive")
    found, wanted = np.asarray(guess, np.float64), np.asarray(truth, np.float64)
    if found.shape != wanted.shape:
        raise ConfigError(f"the guess has shape {found.shape}, the truth {wanted.shape}: needed the same")
    if found.ndim != 2 or min(found.shape) < _SIDE:
        raise ConfigError(f"found shape {found.shape}, needed (height, width), both at least {_SIDE}")
    if not np.isfinite(wanted).all():
        raise ConfigError("the truth has a value that is not finite")

    inside = np.s_[:, _SIDE // 2 : -(_SIDE // 2), _SIDE // 2 : -(_SIDE // 2)]  # centers of windows in the picture
    with np.errstate(over="ignore", invalid="ignore"):
        pictures = np.stack([found, wanted, found * found, wanted * wanted, found * wanted])
        means = np.asarray(uniform_filter(pictures, (1, _SIDE, _SIDE)), np.float64)[inside]
        squares = means[0] ** 2 + means[1] ** 2
        sample = _SIDE**2 / (_SIDE**2 - 1)
        variances, covariance = sample * (means[2] + means[3] - squares), sample * (means[4] - means[0] * means[1])
        c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
        luminance = (2 * means[0] * means[1] + c1) / (squares + c1)
        value = float(np.mean(luminance * (2 * covariance + c2) / (variances + c2)))
    return value if math.isfinite(value) else -1.0


def identified(guess: npt.ArrayLike, candidates: npt.ArrayLike) -> int:
    """Return the index of the candidate that correlates most with a guess: the one an adversary would name.

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
    """A mean and its 95 % interval, by Student's t; with one value the interval is infinite.

    Args:
        mean: The mean.
        lower: Lower end of the interval.
        upper: Upper end of the interval.
    """

    mean: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Any) -> "Interval":
        """Summarize measurements, shape `(count,)`.

        Args:
            values: The measurements.
        """
        from scipy import stats

        found = np.asarray(values, np.float64)
        mean = float(found.mean())
        if len(found) < 2:
            return cls(mean, -math.inf, math.inf)
        half = float(stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found)))
        return cls(mean, mean - half, mean + half)
