"""Moments of a mixture of Gaussians by quadrature, with a bound on its error."""

import math
from functools import lru_cache

import numpy as np
from scipy.special import logsumexp

from secfed.dp.renyi_pairs import Array, log_rest

# Negative log of the quadrature error, and the most terms.
_EXPONENT = 70.0
_MOST_TERMS = 1_000_000
# Standard deviations beyond which the integrand is negligible.
_SIGMAS = 15.0
# Relative allowance for what is cut off and for rounding.
_INFLATION = 1e-11


@lru_cache(maxsize=1024)
def mixture_moment(
    scale: float, contributions: tuple[float, ...], probabilities: tuple[float, ...], beta: float, replace: bool
) -> float:
    """Return an upper bound on K at order 1 + beta, the larger of both directions.

    Let u be the mixture's density divided by that of the noise, and r the ratio of the two distributions. Then e^K - 1
    is the integral of r^a - 1 - a (r - 1) under the second one, in which nothing cancels.

    Args:
        scale: Standard deviation of the noise; the largest contribution is 1.
        contributions: From 0 to 1.
        probabilities: Above 0; they sum to 1.
        beta: Above 0.
        replace: Compare contributions in one direction with the same ones in the opposite direction. Otherwise compare
            the mixture with the noise alone.
    """
    centers, shares = np.array(contributions), np.array(probabilities)
    # The moment is jointly convex in both distributions, so revealing the drawn contribution makes it larger.
    log_each = beta * (1 + beta) * ((2 if replace else 1) * centers / scale) ** 2 / 2
    if log_each.max() < 30:
        told = math.log1p(float((shares * np.expm1(log_each)).sum()))
    else:
        told = float(logsumexp(np.log(shares) + log_each))
    told *= 1 + _INFLATION
    if len(shares) == 1:
        return told
    sides = ["replace"] if replace else ["remove", "add"]
    return min(told, max(_quadrature(scale, centers, shares, beta, side) for side in sides))


def _quadrature(scale: float, centers: Array, shares: Array, beta: float, side: str) -> float:
    """Return K of one direction.

    The trapezoid rule errs by at most 2 N / (e^{2 pi a / step} - 1) if the integrand is analytic within a of the real
    line and its integrals there are at most N. All contributions are from 0 to 1, so the arguments of the terms of u at
    x + i y differ by at most t = y / scale^2. Therefore cos(t / 2) u(x) <= |u(x + i y)| <= u(x) where t < pi, and cos(t
    / 2)^-beta <= e^{0.14 beta t^2} where t <= 1.5. Hence N <= e^{bend a^2} (e^K + 1 + 2 alpha moved), where `moved` is
    the probability of a contribution above 0.
    """
    alpha, bend, wide = 1 + beta, 0.5 / scale**2, math.pi * scale**2
    if side != "remove":  # negative powers of u
        bend, wide = bend + 0.14 * beta / scale**4, 1.5 * scale**2
    wide = min(wide, math.sqrt(_EXPONENT / bend))
    step = 2 * math.pi * wide / (_EXPONENT + bend * wide**2)
    # The ratio's power tilts the noise by at most alpha + beta to the right, or by beta to the left.
    reach = {"remove": (0.0, alpha), "add": (beta, 1.0), "replace": (1.0, alpha + beta)}[side]
    start, end = -reach[0] - _SIGMAS * scale, reach[1] + _SIGMAS * scale
    count = int((end - start) / step) + 2
    if not count * len(shares) <= _MOST_TERMS:
        return math.inf
    x = start + step * np.arange(count, dtype=np.float64)
    above = _log_ratio(x, scale, centers, shares)
    if side == "remove":
        weight, ratio = np.zeros_like(x), above
    elif side == "add":
        weight, ratio = above, -above
    else:
        weight = _log_ratio(-x, scale, centers, shares)
        ratio = above - weight
    terms = weight - (x / scale) ** 2 / 2 + log_rest(beta, ratio)
    total = float(logsumexp(terms)) + math.log(step / (scale * math.sqrt(2 * math.pi)))
    total += _INFLATION + 2e-15 * alpha * (abs(start) + abs(end) + 1) / scale**2
    moved = float(shares[centers > 0].sum())
    missed = math.log(2) - _EXPONENT + np.logaddexp(total, math.log(2 + 2 * alpha * moved))
    return float(np.logaddexp(0.0, np.logaddexp(total, missed)))


def _log_ratio(x: Array, scale: float, centers: Array, shares: Array) -> Array:
    """Return log u at x, accurate even where it is tiny."""
    logs = centers[:, None] * (x - centers[:, None] / 2) / scale**2
    rest = (shares[:, None] * np.expm1(np.minimum(logs, 30.0))).sum(axis=0)
    far = (logs.max(axis=0) > 30) | (rest < -0.5)
    rest[far] = 0.0
    ratio = np.log1p(rest)
    ratio[far] = logsumexp(logs[:, far] + np.log(shares)[:, None], axis=0)
    return np.asarray(ratio)
