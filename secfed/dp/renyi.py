"""Renyi differential privacy: the second engine, and the only one for events with proved moments and nothing more.

The Renyi divergence of order `1 + b` of a release, times b, is the logarithm K(b) of a moment. Moments multiply under
composition, and each order gives an upper bound on epsilon; the smallest one counts. Everything here is an upper bound
on K in both directions, including numerical errors.

* Gaussian and Laplace: closed forms.
* Sampled Gaussian noise: the moment of the dominating pair by the trapezoid rule on the whole line. The integrand is
  analytic, so the error falls exponentially with the number of nodes; it is added.
* Sampled Laplace noise, and pairs of few losses: sums over the losses of their law, see `dominating_pairs`.
* Bounded range: a closed form.
* Sums of integers: published bounds; a general theorem covers sampling. K is convex, which gives orders between whole
  numbers.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

from secfed.dp import events as kinds
from secfed.dp.contour.pairs import Law
from secfed.dp.dominating_pairs import laws
from secfed.dp.events import Adjacency, Composed, DiscreteLaplace, Event, FixedSizeSampled, Gaussian, Laplace, Release
from secfed.dp.likelihood import log_mixture
from secfed.dp.mechanisms import ExponentialMechanism, Proved, ZeroConcentrated
from secfed.dp.mixtures import GaussianMixture
from secfed.dp.renyi_pairs import exp_rest, fixed_size_moment, law_moment, log_expm1, mixture_moment
from secfed.dp.responses import take_off
from secfed.errors import ConfigError, UnsupportedEventError

Array = npt.NDArray[np.float64]
Side = Literal["remove", "add", "replace"]
# Largest order for which the general theorem's sum is computed; above it only convexity is used.
_MOST_TERMS = 600


def epsilon(events: Iterable[tuple[Event, int]], adjacency: Adjacency, delta: float, enough: float = 0.0) -> float:
    """Return an upper bound on epsilon.

    Args:
        events: Each event and how often it was released.
        adjacency: Which data sets are adjacent.
        delta: Above 0 and below 1.
        enough: The search stops once the bound is at most this.

    Returns:
        At least 0; infinite if there is no guarantee.

    Raises:
        ConfigError: A parameter is out of range.
        UnsupportedEventError: No bound is proved for an event.

    Source:
        Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020, Proposition 12.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta {delta} must be above 0 and below 1")
    lost, parts = take_off(_merge(events, adjacency))
    if not lost < delta * (1 - 1e-15):
        return math.inf
    log_left = math.log(delta * (1 - 1e-15) - lost) - math.log1p(-lost) if lost else math.log(delta)

    def curve(betas: Array) -> Array:
        return _rounded_up(_total(parts, adjacency, betas), _conversion(betas), -log_left) / betas

    return max(0.0, _smallest(curve, enough))


def delta(events: Iterable[tuple[Event, int]], adjacency: Adjacency, epsilon: float) -> float:
    """Return an upper bound on delta; the parameters are those of `epsilon`.

    Raises:
        ConfigError: A parameter is out of range.
        UnsupportedEventError: No bound is proved for an event.
    """
    if not 0 <= epsilon < math.inf:
        raise ConfigError(f"epsilon {epsilon} must be at least 0 and finite")
    lost, parts = take_off(_merge(events, adjacency))

    def curve(betas: Array) -> Array:
        return _rounded_up(_total(parts, adjacency, betas), _conversion(betas), -betas * epsilon)

    found = math.exp(min(0.0, _smallest(curve, enough=-math.inf)))
    return min(1.0, lost + (1 - lost) * found * (1 + 1e-15)) if lost else found


def moments(event: Event, adjacency: Adjacency, orders: npt.ArrayLike) -> Array:
    """Return upper bounds on the Renyi divergence, the larger of both directions.

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
    kinds.check_adjacency(adjacency, one_sided=True)
    betas = np.asarray(orders, np.float64) - 1
    if betas.ndim != 1 or not np.all((betas > 0) & (betas < math.inf)):
        raise ConfigError("orders must be finite numbers above 1, in one dimension")
    return _log_moment(event, adjacency, betas) / betas


def _merge(events: Iterable[tuple[Event, int]], adjacency: Adjacency) -> dict[Event, int]:
    kinds.check_adjacency(adjacency, one_sided=True)
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


def _rounded_up(*terms: Array | float) -> Array:
    """Return an upper bound on a sum of terms, each of which is off by a few units in its last place."""
    return np.asarray(sum(terms) + 2e-15 * sum(np.abs(term) for term in terms))


def _conversion(betas: Array) -> Array:
    return np.asarray(-betas * np.log1p(1 / betas) - np.log1p(betas))


def _smallest(curve: Callable[[Array], Array], enough: float) -> float:
    """Return the least value found on a curve with one minimum: walk by factors of 4, then refine."""
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
    for distance in 0.5 ** np.arange(1, 9):
        if not enough < least < math.inf:
            break
        closer = place + distance * np.array([-1.0, 1.0])
        values = curve(4.0**closer)
        if values.min() < least:
            least, place = values.min(), closer[np.argmin(values)]
    # If the bound keeps improving with the order, as for Laplace noise, a huge order comes close to it.
    return float(min(least, curve(np.array([4.0**20]))[0]))


def _log_moment(event: Event, adjacency: Adjacency, betas: Array) -> Array:
    """Return K, the larger of both directions."""
    replace, event = adjacency == "replace", kinds.simplified(event)
    if isinstance(event, kinds.NonPrivate):
        return np.full_like(betas, math.inf)
    if isinstance(event, Composed):
        return _total(_merge(event.events, adjacency), adjacency, betas)
    if isinstance(event, ExponentialMechanism):
        return _bounded_range(event.epsilon, betas)
    if isinstance(event, ZeroConcentrated):
        return np.asarray(betas * (1 + betas) * event.rho)
    sides: tuple[Side, ...] = ("replace",) if replace else ("remove", "add")
    if isinstance(event, GaussianMixture):
        return np.array([mixture_moment(*event.scaled(), float(beta), sides) for beta in betas])
    if isinstance(event, kinds.PoissonSampled | FixedSizeSampled):
        rate, release, fixed = event.sampling_rate, event.event, isinstance(event, FixedSizeSampled)
        assert not isinstance(release, Composed)
        # With a fixed size another client replaces the one that leaves: the sum changes by up to twice the norm.
        shift = 2.0 if replace or fixed else 1.0
        unsampled = _plain(release, shift, betas)
        if rate == 1:
            return unsampled
        if isinstance(release, Gaussian):
            scale, shares = release.noise_multiplier / (2.0 if fixed else 1.0), (1 - rate, rate)
            if fixed and replace:
                found = np.array([fixed_size_moment(rate, scale, float(beta)) for beta in betas])
            else:
                found = np.array([mixture_moment(scale, (0.0, 1.0), shares, float(beta), sides[:1]) for beta in betas])
        elif isinstance(release, Laplace | DiscreteLaplace):
            found = _listed(event, adjacency, betas)
        else:
            found = _general(release, rate, betas, replace=replace, fixed=fixed)
        # The moment is jointly convex in both laws: sampling never makes it larger than this.
        return np.asarray(np.minimum(found, log_mixture(rate, unsampled)))
    if isinstance(event, Proved):
        return _listed(event, adjacency, betas)
    assert isinstance(event, Release)
    return _plain(event, 2.0 if replace else 1.0, betas)


def _listed(event: Event, adjacency: Adjacency, betas: Array) -> Array:
    """Return K of a release whose losses are listed; infinite if they are not."""
    its: Adjacency = "replace" if adjacency == "replace" else "add_remove"
    return np.array([_listed_moment(event, its, float(beta)) for beta in betas])


@lru_cache(maxsize=1024)
def _listed_moment(event: Event, adjacency: Adjacency, beta: float) -> float:
    """Return K at one order, cached because searches ask for the same orders again and again."""
    return max((law_moment(law, beta) for ((law, _),) in _laws(event, adjacency)), default=math.inf)


@lru_cache(maxsize=64)
def _laws(event: Event, adjacency: Adjacency) -> tuple[list[tuple[Law, int]], ...]:
    return laws({event: 1}, adjacency)


def _bounded_range(length: float, betas: Array) -> Array:
    """Return K of losses in an interval of a given length: `docs/accountant.md`, section 2.3, has the proof.

    The worst losses are the ends t and t - length of the worst interval, and e^t has a closed form. Possible rounding
    errors are added; where they matter, Hoeffding's bound is as good.
    """
    spread, top = -np.expm1(-(betas + 1) * length), -math.expm1(-length)
    end = np.log(betas / (1 + betas) * spread) - np.log(-np.expm1(-betas * length))  # t - length
    terms = [betas * length, betas * end, np.log(spread), -np.log1p(betas), np.full_like(betas, -math.log(top))]
    worst = sum(terms) + 1e-14 * (1 + sum(np.abs(term) for term in terms))
    return np.asarray(np.minimum(worst, betas * (1 + betas) * length**2 / 8))


def _plain(release: Release, shift: float, betas: Array) -> Array:
    """Return K of a release whose sum changes by `shift` times its norm."""
    alphas = 1 + betas
    if isinstance(release, Gaussian):
        return np.asarray(betas * alphas * (shift / release.noise_multiplier) ** 2 / 2)
    if isinstance(release, Laplace):
        return _laplace(shift / release.noise_multiplier, betas)
    if isinstance(release, DiscreteLaplace):
        return _listed(release, "replace" if shift > 1 else "add_remove", betas)
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
    first = np.arange(1.0, min(honest, 100.0))  # the terms decrease; all later ones are at most the hundredth
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
    tiny = (alphas * exp_rest(betas * loss) + betas * exp_rest(-alphas * loss)) / (alphas + betas)
    return np.asarray(np.where(alphas * loss < 1, np.log1p(tiny), large - np.log(alphas + betas)))


def _between(whole: Callable[[Array], Array], betas: Array) -> Array:
    """Return K at real orders from upper bounds at whole ones: K is convex, and 0 at order 1."""
    low = np.floor(betas)
    points, places = np.unique([low, np.ceil(betas)], return_inverse=True)
    below, above = np.where(points > 0, whole(np.maximum(points, 1.0)), 0.0)[places.reshape(2, -1)]
    return np.asarray(np.where(betas == low, below, below * (1 - (betas - low)) + above * (betas - low)))


def _general(release: Release, rate: float, betas: Array, *, replace: bool, fixed: bool) -> Array:
    """Return K of a sampled release of which only K is known.

    Add_remove: Zhu and Wang 2019, Theorem 5. Replace, fixed size: Wang, Balle, Kasiviswanathan 2019, Theorem 9.
    Replace, Poisson: the same proof, with the mixture in the denominator split by convexity (client absent or present).
    """
    degrees = np.arange(2.0, _MOST_TERMS + 1)
    away = _plain(release, 2.0 if replace or fixed else 1.0, degrees - 1)
    if not replace:
        factor = np.where(degrees == 2, 1.0, 3.0)
        # Subtract 1, the sum of the binomial weights.
        logs = away + np.log(factor) + np.log1p(-np.exp(-away) / factor)
        logs += degrees * math.log(rate)
        remaining = math.log1p(-rate)
    else:
        near = away if fixed else _plain(release, 1.0, degrees - 1)
        logs = near + math.log(2)
        logs[0] = min(math.log(4) + log_expm1(near[0]), logs[0])
        if not fixed:
            present = away + math.log(2)
            present[0] = log_expm1(away[0])
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
