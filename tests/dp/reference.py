"""Delta of a composition by another method: losses on a grid, convolved by Fourier transforms.

Nothing here is from `secfed`. Losses are weighted by exp(t loss), so that rare ones keep their digits. Then each is
divided between its four neighbors on a grid, so that means of cubic polynomials stay the same. Two grids, one four
times as fine and twice as long as the other, tell how far off they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.special import log_ndtr, ndtr

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(8)
# Noise beyond this many standard deviations is left out: in a million releases there is some with probability 4e-22.
_SIGMAS = 11.0
# Cells, their probabilities, and the logarithm of their scale.
_Law = tuple[np.ndarray, np.ndarray, float]


@dataclass(frozen=True)
class Losses:
    """The loss of one release in one direction: masses on points.

    Attributes:
        loss: At each point.
        log_mass: Logarithm of its probability with the client's data.
    """

    loss: np.ndarray
    log_mass: np.ndarray

    def log_moment(self, order: float) -> tuple[float, float]:
        """Return K(t) and the variance of the loss, weighted by exp(t loss)."""
        weight = self.log_mass + order * self.loss
        top = max(float(weight.max()), 0.0)
        small = order * self.loss < 1
        with np.errstate(over="ignore"):
            excess = float(np.where(small, np.exp(self.log_mass) * np.expm1(np.minimum(order * self.loss, 1)), 0).sum())
            tall = np.exp(np.minimum(weight, 700.0)) - np.exp(self.log_mass)
            excess += float(np.where(small, 0, tall).sum())
        tilted = np.exp(weight - top)
        total = float(tilted.sum())
        log = math.log1p(excess) if excess < 10 else math.log(total) + top
        mean = float(tilted @ self.loss) / total
        return log, float(tilted @ (self.loss - mean) ** 2) / total


def gaussian_losses(kind: str, rate: float, noise: float, panels: int) -> Losses:
    """Return the loss of sampled Gaussian noise over a shift of 1.

    Args:
        kind: `remove`, `add`, `swap` (the other world has the opposite contribution) or `fixed` (replacement in a
            cohort of fixed size: that of `remove` in both directions).
        rate: Probability that the client takes part.
        noise: Standard deviation.
        panels: How many pieces of 8 points.
    """

    def density(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logarithm of that with the client's data, of the noise's alone, and the loss."""
        absent = -((x / noise) ** 2) / 2 - math.log(noise * math.sqrt(2 * math.pi))
        gain = _gain(rate, (x - 0.5) / noise**2)
        if kind == "add":
            return absent, absent, -gain
        return absent + gain, absent, gain - _gain(rate, (-x - 0.5) / noise**2) if kind == "swap" else gain

    reach = _SIGMAS * noise
    low, high = 0.5 if kind == "fixed" else -reach - (kind == "swap"), 1 + reach
    half = (high - low) / panels / 2
    x = (low + half * (2 * np.arange(panels)[:, None] + 1 + _POINTS)).ravel()
    weights = np.log(np.tile(half * _WEIGHTS, panels))
    first, absent, loss = density(x)
    first += weights
    if kind != "fixed":
        return Losses(loss, first)
    absent += weights
    atom = max(1 - float((np.exp(absent) + np.exp(first)).sum()), 1e-300)
    return Losses(np.concatenate([loss, -loss, [0.0]]), np.concatenate([first, absent, [math.log(atom)]]))


def laplace_losses(kind: str, rate: float, scale: float, panels: int) -> Losses:
    """Return the loss of sampled Laplace noise (`remove` or `add`): between 0 and 1 it changes, beyond it does not."""
    half = 0.5 / panels
    x = (half * (2 * np.arange(panels)[:, None] + 1 + _POINTS)).ravel()
    inside = np.log(np.tile(half * _WEIGHTS, panels)) - x / scale - math.log(2 * scale)
    gain = _gain(rate, np.concatenate([(2 * x - 1) / scale, [-1 / scale, 1 / scale]]))
    absent = np.concatenate([inside, [math.log(0.5), math.log(0.5) - 1 / scale]])
    return Losses(-gain, absent) if kind == "add" else Losses(gain, absent + gain)


def _gain(rate: float, w: np.ndarray) -> np.ndarray:
    return np.where(w < 30, np.log1p(rate * np.expm1(np.minimum(w, 30))), math.log(rate) + w)


class Composition:
    """A composition of equal releases on two grids, for values of epsilon near one.

    Args:
        make: Returns the losses of a release, on a number of pieces.
        rounds: How often it is composed.
        epsilon: Where delta is going to be asked.
        cells: Of the coarse grid; the fine one has eight times as many.

    Attributes:
        most: Chernoff's bound of delta.
    """

    def __init__(self, make: Callable[[int], Losses], rounds: int, epsilon: float, cells: int) -> None:
        rough = make(500)
        spread = math.sqrt(max(rough.log_moment(0.0)[1], 1e-300) * rounds)
        found: list[tuple[float, float, float]] = []
        for order in 1e-4 / spread * 2.0 ** (np.arange(100) / 2):
            log, variance = rough.log_moment(float(order))
            # delta <= c(t) exp(K(t) - t epsilon): Canonne, Kamath, Steinke 2020.
            size = order * math.log(order) - (order + 1) * math.log1p(order)
            found.append((float(order), rounds * log - order * epsilon + size, rounds * variance))
            if len(found) > 12 and found[-1][1] > min(each[1] for each in found) + 60:
                break
        orders, bound, variances = np.array(found).T
        best = int(np.argmin(bound))
        self.most = math.exp(min(float(bound[best]), 0.0))
        self._order, self._rounds, self._epsilon = float(orders[best]), rounds, epsilon
        # What comes from beyond the ends of the circle is less than exp(-25) of the result.
        goal = float(bound[best]) - math.log1p(self._order * math.sqrt(variances[best])) - 25
        right = ((bound - goal) / (orders - self._order + 1e-300))[best + 1 :].min(initial=math.inf)
        left = ((bound - goal) / (self._order - orders + 1e-300))[:best].min(initial=math.inf)
        width = max(right, min(left, -goal / self._order), 2 / self._order)
        # A grid that is too coarse says nothing.
        fits = width / cells * self._order < 10
        self._laws = [self._law(make, width * k, cells * k**3, 4000 * k) for k in (1, 2)] if fits else []

    def _law(self, make: Callable[[int], Losses], width: float, cells: int, panels: int) -> _Law:
        """Return where the cells are and their probabilities, weighted by exp(t (loss - epsilon))."""
        losses, step, order = make(panels), width / cells, self._order
        log, _ = losses.log_moment(order)
        mass = np.exp(losses.log_mass + order * losses.loss - log)
        place = losses.loss / step
        some = (np.abs(place) < 1e15) & (mass > 0)
        mass, place = mass[some], place[some]
        cell = np.floor(place).astype(np.int64)
        f = place - cell
        # Lagrange's polynomials.
        shares = (-f * (f - 1) * (f - 2) / 6, (f + 1) * (f - 1) * (f - 2) / 2, -(f + 1) * f * (f - 2) / 2)
        grid = np.bincount((cell + 2) % cells, mass * (f + 1) * f * (f - 1) / 6, cells)
        for shift, share in zip((-1, 0, 1), shares, strict=True):
            grid += np.bincount((cell + shift) % cells, mass * share, cells)
        law = fft.irfft(fft.rfft(grid / mass.sum()) ** self._rounds, cells)
        start = math.floor((self._epsilon - width / 2) / step)
        law = np.roll(law, -(start % cells))
        return (start + np.arange(cells)) * step, law, self._rounds * log

    def delta(self, epsilon: float) -> tuple[float, float]:
        """Return delta at an epsilon of at least 0, and an estimate of its relative error: infinite if unknown."""
        values = []
        for place, law, log in self._laws:
            above = place > epsilon
            more = place[above] - epsilon
            kernel = np.exp(-self._order * more) * -np.expm1(-more)
            total = float(law[above] @ kernel)
            noise = 1e-15 * float(kernel.sum()) * float(law.max()) + 1e-15 * self._rounds * total
            if not total > 10 * noise:
                return math.nan, math.inf
            values.append(math.exp(min(math.log(total) + log - self._order * epsilon, 1.0)))
        if not values or not max(values) <= 1:
            return math.nan, math.inf
        return values[1], abs(values[1] - values[0]) / values[1] + noise / total


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return delta of unsampled Gaussian releases: a closed form."""
    return float(ndtr(mu / 2 - epsilon / mu) - np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def one_delta(rate: float, noise: float, epsilon: float) -> float:
    """Return delta of one release of the kinds `remove` and `fixed`: what the unsampled one has at another epsilon."""
    more = epsilon - math.log(rate) if epsilon > 600 else math.log1p(math.expm1(epsilon) / rate)
    return rate * gaussian_delta(1 / noise, more)
