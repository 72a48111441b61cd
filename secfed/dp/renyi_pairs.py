"""Moments of a sampled release by quadrature: pairs of distributions, each with a bound on the error."""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from secfed.dp.likelihood import log_mixture

Array = npt.NDArray[np.float64]
# Negative log of the quadrature error, and the most work.
_EXPONENT = 70.0
_MOST_QUADRATURE_NODES = 400_000
# Nodes at a time, so that they fit in the processor's cache.
_CHUNK = 1 << 13
_MOST_PANELS = 1000
_PANEL_ERROR = -55.0
# Relative allowance for what is cut off and for rounding.
_INFLATION = 1e-11


def log_expm1(x: float) -> float:
    """Return log(e^x - 1) for x above 0."""
    return float(x + math.log(-math.expm1(-x)))


def log_rest(beta: float, log_ratio: Array) -> Array:
    """Return log(u^a - 1 - a(u - 1)) for a = 1 + beta and u = e^log_ratio; with -log_ratio, plus log_ratio, it is the
    same for a = -beta.
    """
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


def _log_sum(terms: Array) -> float:
    most = float(terms.max())
    return most + math.log(float(np.exp(terms - most).sum())) if math.isfinite(most) else most


def finite_bound(masses: npt.NDArray[np.float64], losses: npt.NDArray[np.float64], beta: float) -> float:
    """Return K of a pair given as probabilities under the first distribution and losses, both `(losses,)`.

    e^K - 1 is the mean of u^a - 1 - a (u - 1) under the second one, u the ratio: nothing cancels.
    """
    some = (masses > 0) & (losses != 0)
    if not some.any():
        return 0.0
    terms = np.log(masses[some]) - losses[some] + log_rest(beta, losses[some])
    return float(np.logaddexp(0.0, _log_sum(terms) + _INFLATION))


def exp_rest(x: Array) -> Array:
    """Return e^x - 1 - x for |x| up to 1; for larger x the result is meaningless."""
    x = np.clip(x, -1.0, 1.0)
    rest = np.ones_like(x)
    for k in range(20, 2, -1):
        rest = 1 + x / k * rest
    return x * x / 2 * rest


class SampledPair:
    """P = (1 - rate) F(0) + rate F(1) against Q = F(0), with F(m) the noise centered at m.

    This direction has the larger moments (Mironov, Talwar, Zhang 2019, Theorem 5).
    """

    reach = 1.0

    def __init__(self, rate: float, scale: float) -> None:
        self.rate, self.scale = rate, scale

    def logs(self, towards: Array, away: Array) -> tuple[Array, Array]:
        """Return log Q / F(0) and log P / Q, given log F(1) / F(0) and log F(-1) / F(0)."""
        return np.zeros_like(towards), log_mixture(self.rate, towards)

    def bound(self, beta: float, *, laplace: bool) -> float:
        """Return K at order 1 + beta."""
        if not laplace:
            return float(np.logaddexp(0.0, self.gaussian_rest(beta)))
        # No loss is larger than at the ends.
        _, ends = self.logs(np.array([1.0, -1.0]) / self.scale, np.array([-1.0, 1.0]) / self.scale)
        pure = beta * float(np.abs(ends).max())
        # Panels so short that logarithms change by at most 4 on each: 16 nodes err by less than _PANEL_ERROR.
        panels = math.ceil(max((4 * self.reach * (1 + beta) + 2) / 4, 1 / 0.6) / self.scale)
        if panels > _MOST_PANELS:
            return pure
        density, towards, away = self.laplace_nodes(panels)
        weight, ratio = self.logs(towards, away)
        return min(pure, float(np.logaddexp(0.0, self.laplace_rest(density + weight, ratio, beta))))

    def gaussian_rest(self, beta: float) -> float:
        """Return log(e^K - 1) for Gaussian noise.

        The trapezoid rule errs by at most 2 N / (e^{2 pi a / step} - 1) if the integrand is analytic within a of the
        real line and its integrals there are at most N. Here N <= e^{bend a^2} (e^K + 1 + 2 alpha rate).
        """
        alpha, scale, rate = 1 + beta, self.scale, self.rate
        bend, wide = 0.5 / scale**2, math.pi * scale**2
        if self.reach > 1:  # a denominator with zeros: |1 - q + q e^{w + iv}| >= cos(v/2) (1 - q + q e^w)
            bend, wide = bend + 0.14 * beta / scale**4, 1.5 * scale**2
        wide = min(wide, math.sqrt(_EXPONENT / bend))
        step = 2 * math.pi * wide / (_EXPONENT + bend * wide**2)

        def integrand(x: Array, at: Array) -> Array:
            """Return the integrand's log, with the density at x and the rest at `at`."""
            weight, ratio = self.logs((x - 0.5) / scale**2, (-x - 0.5) / scale**2)
            if at is not x:
                _, ratio = self.logs((at - 0.5) / scale**2, (-at - 0.5) / scale**2)
            return weight - (x / scale) ** 2 / 2 + log_rest(beta, ratio) - math.log(scale * math.sqrt(2 * math.pi))

        start, end = -self.reach - 13 * scale, 2 * self.reach * alpha + 30 * scale
        if end - start > 400 * step:
            # Cells: density and weight fall and the rest grows, so mixed ends bound each cell from both sides.
            near = 0.5 + scale * np.arange(0.0, 13.5, 0.5)
            further = math.ceil(math.log(max(end / near[-1], 1.0)) / math.log(1.2))
            edges = np.append(near, near[-1] * 1.2 ** np.arange(1.0, further + 1))
            width = np.log(np.diff(edges))
            upper, lower = integrand(edges[:-1], edges[1:]) + width, integrand(edges[1:], edges[:-1]) + width
            end = float(edges[1:][upper > lower.max() - 50][-1])
        count = int((end - start) / step) + 2
        if count > _MOST_QUADRATURE_NODES:
            return math.inf
        sums = []
        for first in range(0, count, _CHUNK):
            x = start + step * np.arange(first, min(first + _CHUNK, count), dtype=np.float64)
            sums.append(_log_sum(integrand(x, x)))
        total = _log_sum(np.array(sums)) + math.log(step)
        total += _INFLATION + 1e-15 * alpha * self.reach * (abs(end) + 1) / scale**2
        return float(np.logaddexp(total, math.log(2) - _EXPONENT + np.logaddexp(total, math.log(2 + 2 * alpha * rate))))

    def laplace_rest(self, density: Array, ratio: Array, beta: float) -> float:
        """Return log(e^K - 1) for Laplace noise, for the larger of both directions."""
        there = _log_sum(density + log_rest(beta, ratio))
        back = _log_sum(density + ratio + log_rest(beta, -ratio))
        return float(np.logaddexp(max(there, back) + _INFLATION, _PANEL_ERROR))

    def laplace_nodes(self, panels: int) -> tuple[Array, Array, Array]:
        """Return logarithms of Gauss-Legendre weights times the density of F(0), of F(1) / F(0) and of F(-1) / F(0)."""
        points, weights = np.polynomial.legendre.leggauss(16)
        x = ((np.arange(panels)[:, None] + (points + 1) / 2) / panels).ravel() / self.scale
        mass = np.log(np.tile(weights / (4 * panels * self.scale), panels)) - x
        end = np.array([1 / self.scale])
        # Left of -1, from -1 to 0, from 0 to 1, right of 1: the outer two have constant ratios.
        density = np.concatenate([math.log(0.5) - end, mass, mass, math.log(0.5) - end])
        towards = np.concatenate([-end, np.full_like(x, -end[0]), 2 * x - end, end])
        away = np.concatenate([end, 2 * x - end, np.full_like(x, -end[0]), -end])
        return density, towards, away


@lru_cache(maxsize=1024)
def pair_bound(pair: type[SampledPair], rate: float, scale: float, beta: float, laplace: bool) -> float:
    """Return K of one release, cached because searches ask for the same orders again and again."""
    return pair(rate, scale).bound(beta, laplace=laplace)


class ReplacedPair(SampledPair):
    """P = (1 - rate) F(0) + rate F(1) against Q = (1 - rate) F(0) + rate F(-1): Poisson sampling, replace.

    It dominates: for any test A, a half-line B with F(1)[B] = F(v)[A] has F(0)[B] <= F(0)[A] and F(-1)[B] <= F(v')[A]
    for all v, v' of norm at most 1 (Neyman-Pearson). The two directions are mirror images.
    """

    reach = 2.0

    def logs(self, towards: Array, away: Array) -> tuple[Array, Array]:
        """Return log Q / F(0) and log P / Q, given log F(1) / F(0) and log F(-1) / F(0)."""
        weight = log_mixture(self.rate, away)
        ratio = log_mixture(self.rate, towards) - weight
        near = np.flatnonzero(np.abs(towards - away) < 1)  # there the difference of two logarithms is only rounding
        some = self.rate * np.exp(away[near] - weight[near])
        ratio[near] = np.log1p(some * np.expm1(towards[near] - away[near]))
        return weight, ratio


class SwappedPair(SampledPair):
    """Fixed-size sampling, replace: delta(epsilon) is that of `SampledPair` for epsilon >= 0, in both directions.

    With y = P/Q - 1 there, e^K - 1 is the integral over y > 0 of (1+y)^alpha + (1+y)^(1-alpha) - 2 - y.

    Source:
        Zhu, Dong, Wang: Optimal Accounting of Differential Privacy via Characteristic Function, AISTATS 2022.
    """

    def laplace_rest(self, density: Array, ratio: Array, beta: float) -> float:
        """Return log(e^K - 1) for Laplace noise: both halves of the line contribute the same."""
        density, ratio = density[ratio > 0], ratio[ratio > 0]
        both = np.logaddexp(log_rest(beta, ratio), ratio + log_rest(beta, -ratio))
        return float(np.logaddexp(_log_sum(density + both) + _INFLATION, _PANEL_ERROR))

    def gaussian_rest(self, beta: float) -> float:
        """Return log(e^K - 1): the whole line's integral, plus the difference between the two.

        The difference is the mean, over r = F(1)/F(0) > 1, of (1+y)^(1-alpha) - 1 + (alpha-1) y, convex in r and
        bounded by its chords, minus r (u^alpha - 1 - alpha (u - 1)) at u = 1 - rate + rate/r, concave and bounded by
        its tangents.
        """
        whole = super().gaussian_rest(beta)
        if whole == math.inf:
            return whole
        rate, scale, alpha = self.rate, self.scale, 1 + beta
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
        return float(np.logaddexp(whole, math.log(extra) + _INFLATION)) if extra > 0 else whole
