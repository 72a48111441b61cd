"""The likelihood ratio of a sampled release: with some probability the client takes part."""

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
