"""Moments of one release: of any pair with finitely many losses, and of Gaussian noise by quadrature.

Each is an upper bound. The quadrature error is proved and added, and where a moment is near 1 its distance from 1 keeps
its digits: e^K - 1 is the mean of u^a - 1 - a (u - 1) under the second distribution, u the ratio of the two, which is
never negative, so nothing cancels.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import logsumexp, ndtr

from secfed.dp.contour.pairs import Array, Law
from secfed.dp.likelihood import log_gaussian_mixture, log_mixture

# Negative log of the quadrature error, and the most terms.
_EXPONENT = 70.0
_MOST_TERMS = 1_000_000
# Standard deviations beyond which the integrand is negligible.
_SIGMAS = 15.0
# Most losses of one law, and the log of the error of Gauss-Legendre, see `law_moment`.
_MOST_LOSSES, _LOSS_ERROR = 32_000, -55.0
# Relative allowance for what is cut off and for rounding.
_INFLATION = 1e-11


def log_expm1(x: float) -> float:
    """Return log(e^x - 1) for x above 0."""
    return float(x + math.log(-math.expm1(-x)))


def exp_rest(x: Array) -> Array:
    """Return e^x - 1 - x for |x| up to 1; for larger x the result is meaningless."""
    x = np.clip(x, -1.0, 1.0)
    rest = np.ones_like(x)
    for k in range(20, 2, -1):
        rest = 1 + x / k * rest
    return x * x / 2 * rest


def log_rest(beta: float, log_ratio: Array) -> Array:
    """Return log(u^a - 1 - a (u - 1)) for a = 1 + beta and u = e^log_ratio."""
    alpha, size = 1 + beta, np.abs(log_ratio)
    with np.errstate(divide="ignore", invalid="ignore"):
        high, low = np.expm1(-beta * size), np.expm1(-size)
        rest = np.log(np.where(log_ratio > 0, beta * low * (1 + high) - high, high * (1 + low) - beta * low))
        rest += alpha * np.maximum(log_ratio, 0.0)
        small = np.flatnonzero(alpha * size < 0.1)
        t = np.expm1(log_ratio[small])
        series = np.ones_like(t)
        for k in range(18, 2, -1):
            series = 1 + (alpha + 1 - k) * t / k * series
        rest[small] = math.log(alpha * beta / 2) + np.log(t * t * series)
    return np.asarray(rest)


def law_moment(law: Law, beta: float) -> float:
    """Return K at order 1 + beta of a release from its losses.

    Densities are integrated by Gauss-Legendre with 16 nodes on pieces on which u^a changes by at most a factor of e^2;
    it errs by less than exp(`_LOSS_ERROR`).
    """
    if law.infinite > 0:
        return math.inf
    order = 4 * (1 + beta)
    pure = beta * law.most
    if law.size(order) > _MOST_LOSSES:
        return pure
    masses, losses = law.atoms(order)
    some = (masses > 0) & (losses != 0)
    if not some.any():
        return 0.0
    terms = np.log(masses[some]) - losses[some] + log_rest(beta, losses[some])
    return min(pure, float(np.logaddexp(0.0, np.logaddexp(logsumexp(terms) + _INFLATION, _LOSS_ERROR))))


@lru_cache(maxsize=1024)
def mixture_moment(
    scale: float,
    centers: tuple[float, ...],
    shares: tuple[float, ...],
    beta: float,
    sides: tuple[Literal["remove", "add", "replace"], ...],
) -> float:
    """Return K at order 1 + beta of Gaussian noise around a random center, the larger of some directions.

    Cached because searches ask for the same orders again and again.

    Args:
        scale: Standard deviation of the noise; the largest center is 1.
        centers: From 0 to 1.
        shares: Probability of each, above 0; they sum to 1.
        beta: Above 0.
        sides: `"remove"` compares the mixture with the noise around 0, `"add"` is the reverse, and `"replace"` compares
            it with the mixture of the opposite centers. For Poisson sampling (centers 0 and 1) `"remove"` is the larger
            one of the first two (Mironov, Talwar, Zhang 2019, Theorem 5).
    """
    places, weights = np.array(centers), np.array(shares)
    # The moment is jointly convex in both distributions, so revealing the drawn center makes it larger.
    log_each = beta * (1 + beta) * ((2 if "replace" in sides else 1) * places / scale) ** 2 / 2
    if log_each.max() < 30:
        told = math.log1p(float((weights * np.expm1(log_each)).sum()))
    else:
        told = float(logsumexp(np.log(weights) + log_each))
    told *= 1 + _INFLATION
    if len(weights) == 1:
        return told
    return min(told, max(float(np.logaddexp(0.0, _rest(scale, places, weights, beta, side))) for side in sides))


def _rest(scale: float, centers: Array, shares: Array, beta: float, side: str) -> float:
    """Return log(e^K - 1) of one direction.

    The trapezoid rule errs by at most 2 N / (e^{2 pi a / step} - 1) if the integrand is analytic within a of the real
    line and its integrals there are at most N. Let u be the mixture's density divided by that of the noise. All centers
    are from 0 to 1, so the arguments of the terms of u at x + i y differ by at most t = y / scale^2. Therefore cos(t /
    2) u(x) <= |u(x + i y)| <= u(x) where t < pi, and cos(t / 2)^-beta <= e^{0.14 beta t^2} where t <= 1.5. Hence N <=
    e^{bend a^2} (e^K + 1 + 2 alpha moved), where `moved` is the probability of a center above 0.
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
    parts = list(zip(centers.tolist(), shares.tolist(), strict=True))

    def log_ratio(x: Array) -> Array:
        return log_gaussian_mixture(parts, scale, (x - 0.5) / scale**2)

    above = log_ratio(x)
    if side == "remove":
        weight, ratio = np.zeros_like(x), above
    elif side == "add":
        weight, ratio = above, -above
    else:
        weight = log_ratio(-x)
        ratio = above - weight
    terms = weight - (x / scale) ** 2 / 2 + log_rest(beta, ratio)
    total = float(logsumexp(terms)) + math.log(step / (scale * math.sqrt(2 * math.pi)))
    total += _INFLATION + 2e-15 * alpha * (abs(start) + abs(end) + 1) / scale**2
    moved = float(shares[centers > 0].sum())
    missed = math.log(2) - _EXPONENT + np.logaddexp(total, math.log(2 + 2 * alpha * moved))
    return float(np.logaddexp(total, missed))


@lru_cache(maxsize=1024)
def fixed_size_moment(rate: float, scale: float, beta: float) -> float:
    """Return K at order 1 + beta of Gaussian noise from fixed-size cohorts under replacement.

    Delta(epsilon) is that of `"remove"` for epsilon >= 0, in both directions. With y = P/Q - 1 there, e^K - 1 is the
    integral over y > 0 of (1+y)^alpha + (1+y)^(1-alpha) - 2 - y. That is the whole line's integral for `"remove"`, plus
    a difference: the mean, over r = F(1)/F(0) > 1, of (1+y)^(1-alpha) - 1 + (alpha-1) y, convex in r and bounded by its
    chords, minus r (u^alpha - 1 - alpha (u - 1)) at u = 1 - rate + rate/r, concave and bounded by its tangents.

    Source:
        Zhu, Dong, Wang: Optimal Accounting of Differential Privacy via Characteristic Function, AISTATS 2022.
    """
    whole = _rest(scale, np.array([0.0, 1.0]), np.array([1 - rate, rate]), beta, "remove")
    if whole == math.inf:
        return whole
    alpha = 1 + beta
    first = 0.03 * min(1.0, 1 / (alpha * rate), 1 / scale)
    last = math.log(1 / rate) + 40
    w = np.append(0.0, first * 1.05 ** np.arange(math.ceil(math.log(last / first) / math.log(1.05)) + 1))
    tail = np.append(w, math.inf) * scale**2 + 0.5
    none, one = -np.diff(ndtr(-tail / scale)), -np.diff(ndtr(-(tail - 1) / scale))
    r = np.exp(w)
    u = log_mixture(rate, w)
    convex = np.exp(u + log_rest(beta, -u))
    slope = np.append(np.diff(convex) / np.diff(r), beta * rate)
    middle = np.append((w[1:] + w[:-1]) / 2, w[-1])
    v = log_mixture(rate, -middle)
    rest = np.exp(log_rest(beta, v))
    fall = rest - alpha * rate * np.exp(-middle) * np.expm1(beta * v)
    # A linear function's integral over a cell: from the integral of 1, and that of r beyond the cell's start.
    further = np.clip(one - none * r, 0.0, np.append(none[:-1] * np.diff(r), math.inf))
    linear = none * (convex - np.exp(middle) * rest - fall * (r - np.exp(middle))) + (slope - fall) * further
    extra = float(np.maximum(linear, 0.0).sum())
    more = math.log(extra) + _INFLATION if extra > 0 else -math.inf
    return float(np.logaddexp(0.0, np.logaddexp(whole, more)))
