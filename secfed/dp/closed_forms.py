"""Profiles with a closed form: any number of unsampled Gaussian releases, or a single sampled one.

Each returns bounds on the logarithm of delta(epsilon) that include rounding errors.
"""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.special import erfcx, log_ndtr, ndtr

from secfed.dp.contour.privacy_loss import ROUNDOFF, Direction, Reals

_NODES, _WEIGHTS = leggauss(16)


@dataclass(frozen=True, slots=True)
class GaussianProfile:
    """Unsampled Gaussian releases, composed.

    Attributes:
        mu: Distance of the two means in standard deviations: the root of the summed squares over all releases.

    Source:
        Balle, Wang: Improving the Gaussian Mechanism for Differential Privacy, ICML 2018, Theorem 8.
    """

    mu: float

    def value(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return the logarithm of delta, and its slope, of epsilon's shape."""
        log, _ = _gaussian(epsilon, self.mu)
        with np.errstate(invalid="ignore"):
            tail = epsilon + log_ndtr(-epsilon / self.mu - self.mu / 2) - log
        return log, -np.exp(np.minimum(np.nan_to_num(tail), 700.0))

    def bounds(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return lower and upper bounds on the logarithm of delta, of epsilon's shape."""
        log, error = _gaussian(epsilon, self.mu)
        with np.errstate(invalid="ignore"):
            return log - error, log + error


@dataclass(frozen=True, slots=True)
class SingleProfile:
    """One sampled Gaussian release; see `contour.privacy_loss` for the pairs.

    Attributes:
        direction: Which pair of distributions.
        rate: Probability that the client takes part.
        noise: Noise in units of the shift.
    """

    direction: Direction
    rate: float
    noise: float

    def value(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return the logarithm of delta, and its slope, of epsilon's shape."""
        width = 1e-6 * np.maximum(np.abs(epsilon), self.rate)
        (low, high), (low_beyond, high_beyond) = self.bounds(epsilon), self.bounds(epsilon + width)
        middle, beyond = np.maximum(low + high, -2e300) / 2, np.maximum(low_beyond + high_beyond, -2e300) / 2
        with np.errstate(over="ignore"):
            return middle, np.clip((beyond - middle) / width, -1e300, -1e-300)

    def bounds(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return lower and upper bounds on the logarithm of delta, of epsilon's shape."""
        rate, noise = self.rate, self.noise
        excess = np.expm1(np.minimum(epsilon, 700.0))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.direction == "replace":
                return _swap(epsilon, rate, noise)
            if self.direction == "add":
                # 1 - e^epsilon (1 - rate), without cancellation.
                left = rate - excess * (1 - rate)
                inner = np.where(left > 0, np.log(rate) + epsilon - np.log(np.maximum(left, 1e-300)), 0.0)
                factor = np.where(left > 0, np.log(np.maximum(left, 1e-300)), -np.inf)
                loose = 4 * ROUNDOFF * (rate + np.abs(excess)) / np.maximum(left, 1e-300)
            else:
                inner = np.where(epsilon < 600, np.log1p(excess / rate), epsilon - np.log(rate))
                factor = np.full_like(epsilon, np.log(rate))
                loose = 4 * ROUNDOFF * (1 + np.abs(excess) / (rate + excess))
            log, error = _gaussian(inner, 1 / noise)
            # An error in the inner epsilon costs at most the slope times it, and the slope is below this.
            slope = np.maximum(inner, 0.0) * noise**2 + 1.0 + noise
            error = error + (loose + 4 * ROUNDOFF * (np.abs(inner) + 1)) * (slope + 1) + 4 * ROUNDOFF
            return factor + log - error, factor + log + error


def _gaussian(epsilon: Reals, mu: float) -> tuple[Reals, Reals]:
    """Return the logarithm of Phi(-a) - e^epsilon Phi(-b), with b = epsilon / mu + mu / 2 = a + mu, and its error."""
    a = epsilon / mu - mu / 2
    b = epsilon / mu + mu / 2
    slack = 4 * ROUNDOFF * (np.abs(epsilon / mu) + mu)
    # In terms of Mills' ratio m(x) = Phi(-x) / phi(x): phi(a) (m(a) - m(b)), and m' = x m - 1.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        mills_a, mills_b = _mills(np.maximum(a, -30.0)), _mills(np.maximum(b, -30.0))
        size = mills_a - mills_b
        error = 8 * ROUNDOFF * (mills_a + mills_b) / size
        left = a < -5
        if mu < 0.25:
            x = (a + b)[..., None] / 2 + (mu / 2) * _NODES
            slope = 1 - x * _mills(np.maximum(x, -30.0))
            short = (slope * _WEIGHTS).sum(axis=-1) * (mu / 2)
            error_short = 16 * ROUNDOFF * (1 + np.maximum(b, 0.0) ** 2 * 2)
            size, error = np.where(left, size, short), np.where(left, error, error_short)
        far = np.log(size) - a * a / 2 - 0.5 * np.log(2 * np.pi)
        error = error + slack * (np.abs(a) + 2) + 4 * ROUNDOFF * (a * a + 4)
        if not left.any():
            return np.asarray(far), np.asarray(error)
        # Left of the middle nothing cancels.
        whole = ndtr(-a) - np.exp(np.minimum(epsilon + log_ndtr(-b), 0.0))
        plain = np.log(whole)
        error_plain = (
            8 * ROUNDOFF * (np.abs(epsilon) + b * b + 4) * np.exp(epsilon + log_ndtr(-b)) + slack + 4 * ROUNDOFF
        ) / whole
    return np.where(left, plain, far), np.where(left, error_plain, error)


def _mills(x: Reals) -> Reals:
    return np.asarray(np.sqrt(np.pi / 2) * erfcx(x / np.sqrt(2)))


def _swap(epsilon: Reals, rate: float, noise: float) -> tuple[Reals, Reals]:
    """Integrate P - e^epsilon Q beyond the point where the loss is epsilon; that point's error is of second order."""
    tiny = np.maximum(epsilon, 1e-300)
    unit = np.log(rate) - 0.5 / noise**2
    half = np.log1p(-rate) + tiny + np.log(-np.expm1(-tiny)) - np.log(2) - unit
    place = noise**2 * np.where(
        half > -300, half + np.log1p(np.sqrt(1 + np.exp(np.minimum(tiny - 2 * half, 700.0)))), tiny / 2
    )
    place = np.where(half < 300, place, noise**2 * (half + np.log(2)))
    one = np.log(rate) + log_ndtr((1 - place) / noise)
    two = np.log(rate) + epsilon + log_ndtr(-(1 + place) / noise)
    three = np.log1p(-rate) + tiny + np.log(-np.expm1(-tiny)) + log_ndtr(-place / noise)
    kept = 1 - np.exp(two - one) - np.exp(three - one)
    log = one + np.log(np.maximum(kept, 0.0))
    scale = 8 * ROUNDOFF * (np.abs(epsilon) + (place / noise) ** 2 + 1 / noise**2 + np.abs(np.log(rate)) + 8)
    error = scale * (2 / np.maximum(kept, 1e-300))
    return np.where(error < 1, log - error, -np.inf), np.where(error < 1, log, one) + error
