"""The likelihood ratio of a sampled release: with some probability the client takes part."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
# Above this, e^w may overflow, and the 1 no longer matters.
_FAR = 30.0


def log_mixture(rate: float | Reals, log_ratio: Reals) -> Reals:
    """Return log(1 - rate + rate e^w), accurate even near 0.

    Args:
        rate: Probability that the client takes part, above 0 and at most 1; broadcasts with `log_ratio`.
        log_ratio: w, the loss if the client takes part; any shape.
    """
    if np.all(rate == 1):
        return log_ratio.copy()
    near = np.log1p(rate * np.expm1(np.minimum(log_ratio, _FAR)))
    if log_ratio.max(initial=0.0) <= _FAR:
        return np.asarray(near)
    far = np.maximum(log_ratio, _FAR)
    return np.where(log_ratio > _FAR, far + np.log(rate + (1 - rate) * np.exp(-far)), near)


def log_gaussian_mixture(parts: Iterable[tuple[float, float]], scale: float, log_ratio: Reals) -> Reals:
    """Return the log of the density of Gaussian noise around a random center over that around 0, accurate even near 0.

    Args:
        parts: Each center, from 0 to 1, and its probability; these sum to 1.
        scale: The noise's standard deviation.
        log_ratio: w, the log of the density around 1 over that around 0; any shape.
    """
    # Around the center c the density is e^{c w + c (1 - c) / (2 scale^2)} times that around 0.
    logs = [(c * log_ratio + c * (1 - c) / (2 * scale**2), share) for c, share in parts]
    rest, top = np.zeros_like(log_ratio), np.full_like(log_ratio, -np.inf)
    for log, share in logs:
        rest += share * np.expm1(np.minimum(log, _FAR))
        np.maximum(top, log, out=top)
    # Near 0 the logarithm of a sum would lose the difference from 1.
    far = (top > _FAR) | (rest < -0.5)
    gain = np.log1p(np.where(far, 0.0, rest))
    if far.any():
        gain[far] = top[far] + np.log(sum(share * np.exp(log[far] - top[far]) for log, share in logs))
    return np.asarray(gain)
