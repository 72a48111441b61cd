"""Renyi differential privacy: the second engine, and the only one for events of which no more than moments is proved.

The Renyi divergence of order `1 + b` of a release, times b, is the logarithm K(b) of a moment. Moments multiply under
composition, and every order turns them into an upper bound of epsilon; the smallest counts. Everything here is an upper
bound of K in both directions, its numerical error included, and shares nothing with the other engines.

* Gaussian and Laplace: closed forms. Sampled: the moment of the dominating pair, by the trapezoid rule on the whole
  line (an analytic integrand: the error falls exponentially with the number of nodes, and is added) or by
  Gauss-Legendre on the pieces of a Laplace density. Tiny moments are integrated as `u^a - 1 - a(u - 1)`, which is
  never negative: nothing cancels.
* Sums of integers: published bounds, sampled by a general theorem. Orders between whole numbers use that K is convex.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp, ndtr

from secfed.dp import events as kinds
from secfed.dp.events import Adjacency, Composed, Event, FixedSizeSampled, Gaussian, Laplace, Release
from secfed.errors import ConfigError, UnsupportedEventError

Array = npt.NDArray[np.floating[Any]]
# Logarithms of what quadrature misses, and the most work that it takes on.
_EXPONENT = 70.0
_MOST_NODES = 400_000
_MOST_PANELS = 1000
_PANEL_ERROR = -55.0
# Relative: what is cut off, and rounding.
_INFLATION = 1e-11
# Largest order for which a general theorem's sum is written out; above it only convexity is used.
_MOST_TERMS = 600


def epsilon(events: Iterable[tuple[Event, int]], adjacency: Adjacency, delta: float, enough: float = 0.0) -> float:
    """Return an upper bound of epsilon.

    Args:
        events: Each event and how often it was released.
        adjacency: Which data sets are adjacent.
        delta: Above 0 and below 1.
        enough: A bound that is small enough: no better one is looked for.

    Returns:
        At least 0; infinite where there is no guarantee.

    Raises:
        ConfigError: A parameter is out of range.
        UnsupportedEventError: No bound is proved for an event.

    Source:
        Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020, Proposition 12.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta {delta} must be above 0 and below 1")
    parts = _merge(events, adjacency)

    def curve(betas: Array) -> Array:
        return (_total(parts, adjacency, betas) + _conversion(betas) - math.log(delta)) / betas

    return max(0.0, _smallest(curve, enough))


def delta(events: Iterable[tuple[Event, int]], adjacency: Adjacency, epsilon: float) -> float:
    """Return an upper bound of delta; the parameters are those of `epsilon`.

    Raises:
        ConfigError: A parameter is out of range.
        UnsupportedEventError: No bound is proved for an event.
    """
    if not 0 <= epsilon < math.inf:
        raise ConfigError(f"epsilon {epsilon} must be at least 0 and finite")
    parts = _merge(events, adjacency)

    def curve(betas: Array) -> Array:
        return _total(parts, adjacency, betas) + _conversion(betas) - betas * epsilon

    return math.exp(min(0.0, _smallest(curve, enough=-math.inf)))


def moments(event: Event, adjacency: Adjacency, orders: npt.ArrayLike) -> Array:
    """Return upper bounds of the Renyi divergence, the larger of both directions.

    Args:
        event: What was released, once.
        adjacency: Which data sets are adjacent.
        orders: Real numbers above 1, shape `(count,)`.

    Returns:
        Shape `(count,)`.

    Raises:
        ConfigError: A parameter is out of range.
        UnsupportedEventError: No bound is proved for the event.
    """
    kinds.check_event(event)
    kinds.check_adjacency(adjacency)
    betas = np.asarray(orders, np.float64) - 1
    if betas.ndim != 1 or not np.all((betas > 0) & (betas < math.inf)):
        raise ConfigError("orders must be finite numbers above 1, in one dimension")
    return _log_moment(event, adjacency, betas) / betas


def _merge(events: Iterable[tuple[Event, int]], adjacency: Adjacency) -> dict[Event, int]:
    kinds.check_adjacency(adjacency)
    merged: dict[Event, int] = {}
    for event, count in Composed(tuple(events)).events:
        parts = _merge(event.events, adjacency) if isinstance(event, Composed) else {event: 1}
        for part, times in parts.items():
            merged[part] = merged.get(part, 0) + int(count) * times
    return merged


def _total(parts: dict[Event, int], adjacency: Adjacency, betas: Array) -> Array:
    total = np.zeros_like(betas)
    for event, count in parts.items():
        total += float(count) * _log_moment(event, adjacency, betas)
    return total


def _conversion(betas: Array) -> Array:
    return np.asarray(-betas * np.log1p(1 / betas) - np.log1p(betas))


def _smallest(curve: Callable[[Array], Array], enough: float) -> float:
    """Return the least value seen of a curve with one valley: walk by factors of 4, then look closer."""
    places = np.arange(-2.0, 3.0)
    values = curve(4.0**places)
    while values.min() > enough:
        best = int(np.argmin(values))
        if best == 0 and places[0] > -30:
            more = places[0] - np.arange(4.0, 0.0, -1.0)
            places, values = np.append(more, places), np.append(curve(4.0**more), values)
        elif best == len(places) - 1 and places[-1] < 24:
            more = places[-1] + np.arange(1.0, 4.0)
            places, values = np.append(places, more), np.append(values, curve(4.0**more))
        else:
            break
    least, place = values.min(), places[np.argmin(values)]
    for width in (1.0, 0.25, 0.0625, 0.0625 / 4):
        if not enough < least < math.inf:
            break
        closer = place + width * np.array([-0.75, -0.5, -0.25, 0.25, 0.5, 0.75])
        values = curve(4.0**closer)
        if values.min() < least:
            least, place = values.min(), closer[np.argmin(values)]
    # A bound that no order improves on, as of Laplace noise, is approached far out.
    return float(min(least, curve(np.array([4.0**20]))[0]))


def _log_moment(event: Event, adjacency: Adjacency, betas: Array) -> Array:
    replace = adjacency == "replace"
    if isinstance(event, kinds.NonPrivate):
        return np.full_like(betas, math.inf)
    if isinstance(event, Composed):
        return _total(_merge(event.events, adjacency), adjacency, betas)
    if isinstance(event, kinds.PoissonSampled | FixedSizeSampled):
        rate, release, fixed = event.sampling_rate, event.event, isinstance(event, FixedSizeSampled)
        # Where the size is fixed, who leaves is replaced by someone else: the sum moves by up to twice the norm.
        shift = 2.0 if replace or fixed else 1.0
        unsampled = _plain(release, shift, betas)
        if rate == 1:
            return unsampled
        if isinstance(release, Gaussian | Laplace):
            scale = release.noise_multiplier / (2.0 if fixed else 1.0)
            pair = _ReplacedPair if replace and not fixed else _SwappedPair if replace else _SampledPair
            laplace = isinstance(release, Laplace)
            sampled = np.array([_bound(pair, rate, scale, float(beta), laplace) for beta in betas])
        else:
            sampled = _general(release, rate, betas, replace=replace, fixed=fixed)
        # The moment is jointly convex in both laws: sampling never makes it larger than this.
        return np.asarray(np.minimum(sampled, _log_mixture(rate, unsampled)))
    return _plain(event, 2.0 if replace else 1.0, betas)


def _plain(release: Release, shift: float, betas: Array) -> Array:
    """Return K of a release whose sum moves by `shift` times its norm."""
    alphas = 1 + betas
    if isinstance(release, Gaussian):
        return np.asarray(betas * alphas * (shift / release.noise_multiplier) ** 2 / 2)
    if isinstance(release, Laplace):
        return _laplace(shift / release.noise_multiplier, betas)
    honest, variance = float(release.clients), release.noise_variance
    total, l1, l2 = honest * variance, shift * release.sensitivity_l1, shift * release.sensitivity
    if isinstance(release, kinds.SkellamSum):

        def whole(betas: Array) -> Array:  # Agarwal, Kairouz, Liu 2021, section 3
            extra = np.minimum(((2 * betas + 1) * l2**2 + 6 * l1) / (4 * total**2), 3 * l1 / (2 * total))
            return np.asarray(betas * ((1 + betas) * l2**2 / (2 * total) + extra))

        return _between(whole, betas)
    # Kairouz, Liu, Steinke 2021, Proposition 14. Only coordinates that change count, and those are whole numbers.
    if honest > 1 and not variance >= 0.25:
        raise UnsupportedEventError(f"{release} has noise_variance {variance}: no bound is proved below 0.25")
    first = np.arange(1.0, min(honest, 100.0))  # the terms fall; all others are at most the hundredth
    tau = 10 * float(np.exp(-2 * math.pi**2 * variance * first / (first + 1)).sum())
    tau += 10 * max(0.0, honest - 100) * math.exp(-2 * math.pi**2 * variance * 100 / 101)
    changed = min(float(release.dimension), l1)
    scale = math.sqrt(total)
    norm = l2 / scale
    each = np.minimum(norm**2 + 2 * (l1 / scale) * tau + tau**2 * changed, (norm + math.sqrt(changed) * tau) ** 2)
    return np.asarray(betas * np.minimum(alphas / 2 * norm**2 + tau * changed, alphas / 2 * each))


def _laplace(loss: float, betas: Array) -> Array:
    """Return K of Laplace noise; the largest loss of one dimension dominates (log K is convex in the shift)."""
    alphas = 1 + betas
    large = np.logaddexp(np.log(alphas) + betas * loss, np.log(betas) - alphas * loss)
    tiny = (alphas * _exp_rest(betas * loss) + betas * _exp_rest(-alphas * loss)) / (alphas + betas)
    return np.asarray(np.where(alphas * loss < 1, np.log1p(tiny), large - np.log(alphas + betas)))


def _exp_rest(x: Array) -> Array:
    """Return e^x - 1 - x of x up to 1 in size; larger ones may come out as anything."""
    x = np.clip(x, -1.0, 1.0)
    rest = np.ones_like(x)
    for k in range(20, 2, -1):
        rest = 1 + x / k * rest
    return x * x / 2 * rest


def _between(whole: Callable[[Array], Array], betas: Array) -> Array:
    """Return K at real orders from an upper bound at whole ones: K is convex, and 0 at order 1."""
    low = np.floor(betas)
    points, places = np.unique([low, np.ceil(betas)], return_inverse=True)
    below, above = np.where(points > 0, whole(np.maximum(points, 1.0)), 0.0)[places.reshape(2, -1)]
    return np.asarray(np.where(betas == low, below, below * (1 - (betas - low)) + above * (betas - low)))


def _general(release: Release, rate: float, betas: Array, *, replace: bool, fixed: bool) -> Array:
    """Return K of a sampled release of which only K is known.

    Add_remove: Zhu and Wang 2019, Theorem 5. Replace, fixed size: Wang, Balle, Kasiviswanathan 2019, Theorem 9.
    Replace, Poisson: the latter's proof, the mixture in the denominator split by convexity: client absent or present.
    """
    degrees = np.arange(2.0, _MOST_TERMS + 1)
    away = _plain(release, 2.0 if replace or fixed else 1.0, degrees - 1)
    if not replace:
        factor = np.where(degrees == 2, 1.0, 3.0)
        # The binomial weights sum to 1, which is taken off.
        logs = away + np.log(factor) + np.log1p(-np.exp(-away) / factor)
        logs += degrees * math.log(rate)
        remaining = math.log1p(-rate)
    else:
        near = away if fixed else _plain(release, 1.0, degrees - 1)
        logs = near + math.log(2)
        logs[0] = min(math.log(4) + _log_expm1(near[0]), logs[0])
        if not fixed:
            present = away + math.log(2)
            present[0] = _log_expm1(away[0])
            logs = np.logaddexp(math.log1p(-rate) + logs, math.log(rate) + present)
        logs += degrees * math.log(rate)
        remaining = 0.0

    def whole(betas: Array) -> Array:
        alphas = 1 + betas[:, None]
        left = alphas - degrees
        binomials = gammaln(alphas + 1) - gammaln(degrees + 1) - gammaln(np.maximum(left, 0.0) + 1)
        terms = np.where(left >= 0, binomials + logs + left * remaining, -math.inf)
        return np.asarray(np.logaddexp(0.0, logsumexp(terms, axis=1) + 1e-9))

    found = np.full_like(betas, math.inf)
    inside = betas <= _MOST_TERMS - 1
    found[inside] = _between(whole, betas[inside])
    return found


def _log_expm1(x: float) -> float:
    return float(x + math.log(-math.expm1(-x)))


def _log_mixture(rate: float, log_ratio: Array) -> Array:
    """Return log(1 - rate + rate e^w), exact also where it is tiny."""
    near = np.log1p(rate * np.expm1(np.minimum(log_ratio, 30.0)))
    far = log_ratio + np.log(rate + (1 - rate) * np.exp(-np.maximum(log_ratio, 0.0)))
    return np.asarray(np.where(log_ratio < 30, near, far))


def _log_rest(beta: float, log_ratio: Array) -> Array:
    """Return log(u^a - 1 - a(u - 1)) for a = 1 + beta and u = e^log_ratio; with -log_ratio, plus log_ratio, it is the
    same of a = -beta.
    """
    alpha, size = 1 + beta, np.abs(log_ratio)
    with np.errstate(divide="ignore", invalid="ignore"):
        decay = np.exp(-beta * size)
        above = alpha * log_ratio + np.log(-np.expm1(-beta * size) + beta * decay * np.expm1(-size))
        below = np.log(np.exp(-size) * np.expm1(-beta * size) - beta * np.expm1(-size))
        rest = np.where(log_ratio > 0, above, below)
        small = np.flatnonzero(alpha * size < 0.1)
        t = np.expm1(log_ratio[small])
        series = np.ones_like(t)
        for k in range(18, 2, -1):
            series = 1 + (alpha + 1 - k) * t / k * series
        rest[small] = math.log(alpha * beta / 2) + np.log(t * t * series)
    return rest


def _log_sum(terms: Array) -> float:
    most = float(terms.max())
    return most + math.log(float(np.exp(terms - most).sum())) if math.isfinite(most) else most


class _SampledPair:
    """P = (1 - rate) F(0) + rate F(1) against Q = F(0), with F(m) the noise's law around m.

    Of the two directions this one has the larger moments (Mironov, Talwar, Zhang 2019, Theorem 5).
    """

    reach = 1.0

    def __init__(self, rate: float, scale: float) -> None:
        self.rate, self.scale = rate, scale

    def logs(self, towards: Array, away: Array) -> tuple[Array, Array]:
        """Return log Q / F(0) and log P / Q, given log F(1) / F(0) and log F(-1) / F(0)."""
        return np.zeros_like(towards), _log_mixture(self.rate, towards)

    def bound(self, beta: float, *, laplace: bool) -> float:
        """Return K at order 1 + beta."""
        if not laplace:
            return float(np.logaddexp(0.0, self.gaussian_rest(beta)))
        # No loss is larger than at the ends.
        _, ends = self.logs(np.array([1.0, -1.0]) / self.scale, np.array([-1.0, 1.0]) / self.scale)
        pure = beta * float(np.abs(ends).max())
        # Panels so short that logarithms change by at most 4 on each: 16 nodes miss less than _PANEL_ERROR.
        panels = math.ceil(max((4 * self.reach * (1 + beta) + 2) / 4, 1 / 0.6) / self.scale)
        if panels > _MOST_PANELS:
            return pure
        density, towards, away = self.laplace_nodes(panels)
        weight, ratio = self.logs(towards, away)
        return min(pure, float(np.logaddexp(0.0, self.laplace_rest(density + weight, ratio, beta))))

    def gaussian_rest(self, beta: float) -> float:
        """Return log(e^K - 1) for Gaussian noise.

        The trapezoid rule errs by at most 2 N / (e^{2 pi a / step} - 1) if the integrand is analytic within a of the
        real line, and there has integrals of size at most N: here N <= e^{bend a^2} (e^K + 1 + 2 alpha rate).
        """
        alpha, scale, rate = 1 + beta, self.scale, self.rate
        bend, wide = 0.5 / scale**2, math.pi * scale**2
        if self.reach > 1:  # a denominator with zeros: |1 - q + q e^{w + iv}| >= cos(v/2) (1 - q + q e^w)
            bend, wide = bend + 0.14 * beta / scale**4, 1.5 * scale**2
        wide = min(wide, math.sqrt(_EXPONENT / bend))
        step = 2 * math.pi * wide / (_EXPONENT + bend * wide**2)

        def integrand(x: Array, at: Array) -> Array:
            """Return the logarithm, with the density at x and the rest at `at`."""
            weight, _ = self.logs((x - 0.5) / scale**2, (-x - 0.5) / scale**2)
            _, ratio = self.logs((at - 0.5) / scale**2, (-at - 0.5) / scale**2)
            return weight - (x / scale) ** 2 / 2 + _log_rest(beta, ratio) - math.log(scale * math.sqrt(2 * math.pi))

        start, end = -self.reach - 13 * scale, 2 * self.reach * alpha + 30 * scale
        if end - start > 400 * step:
            # Cells: density and weight fall, the rest grows, so that mixed ends bound each cell from both sides.
            near = 0.5 + scale * np.arange(0.0, 13.5, 0.5)
            further = math.ceil(math.log(max(end / near[-1], 1.0)) / math.log(1.2))
            edges = np.append(near, near[-1] * 1.2 ** np.arange(1.0, further + 1))
            width = np.log(np.diff(edges))
            upper, lower = integrand(edges[:-1], edges[1:]) + width, integrand(edges[1:], edges[:-1]) + width
            end = float(edges[1:][upper > lower.max() - 50][-1])
        count = int((end - start) / step) + 2
        if count > _MOST_NODES:
            return math.inf
        x = start + step * np.arange(count)
        total = _log_sum(integrand(x, x)) + math.log(step)
        total += _INFLATION + 1e-15 * alpha * self.reach * (abs(end) + 1) / scale**2
        return float(np.logaddexp(total, math.log(2) - _EXPONENT + np.logaddexp(total, math.log(2 + 2 * alpha * rate))))

    def laplace_rest(self, density: Array, ratio: Array, beta: float) -> float:
        """Return log(e^K - 1) for Laplace noise, in the larger of both directions."""
        there = _log_sum(density + _log_rest(beta, ratio))
        back = _log_sum(density + ratio + _log_rest(beta, -ratio))
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
def _bound(pair: type[_SampledPair], rate: float, scale: float, beta: float, laplace: bool) -> float:
    """Return K of one release: searches for a number of rounds ask for the same orders again and again."""
    return pair(rate, scale).bound(beta, laplace=laplace)


class _ReplacedPair(_SampledPair):
    """P = (1 - rate) F(0) + rate F(1) against Q = (1 - rate) F(0) + rate F(-1): Poisson sampling, replace.

    It dominates: whatever test A is taken, a half-line B with F(1)[B] = F(v)[A] has F(0)[B] <= F(0)[A] and
    F(-1)[B] <= F(v')[A] for all v, v' of norm at most 1 (Neyman and Pearson). Both directions are mirror images.
    """

    reach = 2.0

    def logs(self, towards: Array, away: Array) -> tuple[Array, Array]:
        weight = _log_mixture(self.rate, away)
        above = _log_mixture(self.rate, towards)
        with np.errstate(over="ignore", invalid="ignore"):
            near = np.log1p(self.rate * np.exp(away - weight) * np.expm1(towards - away))
        return weight, np.where(np.abs(towards - away) < 1, near, above - weight)


class _SwappedPair(_SampledPair):
    """Fixed-size sampling, replace: delta(epsilon) is that of `_SampledPair` for epsilon >= 0, in both directions.

    With y = P/Q - 1 there, e^K - 1 is the integral over y > 0 of (1+y)^alpha + (1+y)^(1-alpha) - 2 - y.

    Source:
        Zhu, Dong, Wang: Optimal Accounting of Differential Privacy via Characteristic Function, AISTATS 2022.
    """

    def laplace_rest(self, density: Array, ratio: Array, beta: float) -> float:
        density, ratio = density[ratio > 0], ratio[ratio > 0]
        both = np.logaddexp(_log_rest(beta, ratio), ratio + _log_rest(beta, -ratio))
        return float(np.logaddexp(_log_sum(density + both) + _INFLATION, _PANEL_ERROR))

    def gaussian_rest(self, beta: float) -> float:
        """Return log(e^K - 1): the whole line's integral, plus what the two differ by.

        That is the mean, over r = F(1)/F(0) > 1, of (1+y)^(1-alpha) - 1 + (alpha-1) y, convex in r and bounded by its
        chords, minus r (u^alpha - 1 - alpha (u - 1)) at u = 1 - rate + rate/r, concave and bounded by its tangents.
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
        u = _log_mixture(rate, w)
        convex = np.exp(u + _log_rest(beta, -u))
        slope = np.append(np.diff(convex) / np.diff(r), beta * rate)
        middle = np.append((w[1:] + w[:-1]) / 2, w[-1])
        v = _log_mixture(rate, -middle)
        rest = np.exp(_log_rest(beta, v))
        fall = rest - alpha * rate * np.exp(-middle) * np.expm1(beta * v)
        # A linear function's mean over a cell is its value at the mean of r.
        mean = np.divide(one, none, out=r.copy(), where=none > 0)
        mean = np.clip(mean, r, np.append(r[1:], math.inf))
        linear = convex + slope * (mean - r) - np.exp(middle) * rest - fall * (mean - np.exp(middle))
        extra = float((none * np.maximum(linear, 0.0)).sum())
        return float(np.logaddexp(whole, math.log(extra) + _INFLATION)) if extra > 0 else whole
