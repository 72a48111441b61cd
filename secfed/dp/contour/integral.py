"""One contour integral of a composition's moments: delta(epsilon) between certified bounds.

With K(z) = sum of log E_P[exp(z loss)] over all releases of a composition and any t > 0,

    delta(epsilon) = 1/pi Re integral_0^inf exp(K(z) - z epsilon) / (z (z + 1)) du,    z = t + iu.

Only three things are approximate: the trapezoid rule in u, the cutoff at U, and quadrature for K. `docs/accountant.md`
bounds each error, and the bounds returned here include all of them and rounding.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from secfed.dp.contour.cgf import CgfRows, Complexes, evaluate
from secfed.dp.contour.moments import Moments, Releases, log_chernoff
from secfed.dp.contour.path import ContourPath, frequencies
from secfed.dp.contour.privacy_loss import ROUNDOFF, Reals


@dataclass(frozen=True, slots=True)
class Waves:
    """Terms of a sum over u of factor * exp(iu x), ready for any x; u is 0, step, 2 step, ...

    exp(iu x) for u = (a * across + b) * step is a product of two numbers out of 2 * across. So a sum takes two matrix
    products, and at most `across` additions in a row.

    Attributes:
        factor: The terms, shape `(rows, across, across)`: the second index is a, the third b.
        step: The step in u.
        size: Sum of the terms' moduli, shape `(rows,)`.
        turning: Sum of u times the terms' moduli, same shape.
    """

    factor: Complexes = field(repr=False)
    step: float
    size: Reals
    turning: Reals

    @classmethod
    def of(cls, values: Complexes, size: Reals, kernel: Complexes | Reals, step: float) -> "Waves":
        """Arrange terms values * kernel, the first one halved.

        Args:
            values: Shape `(rows, across**2)`.
            size: Bound on their moduli, same shape.
            kernel: One for each u.
            step: The step in u.
        """
        across, halved, moduli = math.isqrt(len(kernel)), kernel.copy(), np.abs(kernel)
        halved[0] /= 2
        sums = (np.einsum("rj,j->r", size, part) for part in (moduli, moduli * (np.arange(len(kernel)) * step)))
        return cls((values * halved).reshape(len(values), across, across), step, *sums)

    def __len__(self) -> int:
        return int(self.factor.shape[1]) ** 2

    def at(self, x: Reals) -> Reals:
        """Return the real part of the sum at an x for each row; shape `(rows,)`."""
        inner, outer, *_ = self._turns(x)
        return np.asarray((outer * self._within(inner)).sum(axis=1).real)

    def with_slope(self, x: Reals) -> tuple[Reals, Reals]:
        """Return the same as `at`, and its slope; shape `(rows,)`."""
        inner, outer, within, between = self._turns(x)
        sums = self._within(inner)
        slopes = self._within(inner * within) + between * sums
        return (outer * sums).sum(axis=1).real, -(outer * slopes).sum(axis=1).imag

    def _turns(self, x: Reals) -> tuple[Complexes, Complexes, Reals, Reals]:
        """Return exp(iu x) for u = b * step, and for u = a * across * step, and these u."""
        count = np.arange(float(self.factor.shape[1]))
        within, between = count * self.step, count * len(count) * self.step
        inner, outer = (np.exp(1j * np.multiply.outer(x, part)) for part in (within, between))
        return inner, outer, within, between

    def _within(self, inner: Complexes) -> Complexes:
        """Sum over b. Not by `@`, which may start threads and then takes longer."""
        return np.asarray(np.einsum("rab,rb->ra", self.factor, inner))

    def rounding(self, x: Reals) -> Reals:
        """Bound the rounding error of the sum at an x: exponentials, products and additions."""
        across = self.factor.shape[1]
        return np.asarray((4 * np.abs(x) * self.turning + (50 + 2 * across) * self.size) * ROUNDOFF)


@dataclass(frozen=True, slots=True)
class Contour:
    """The integrand on one contour, ready for any epsilon near the one it was planned for.

    Several compositions may share a contour, one per row.

    Attributes:
        order: t.
        period: W; the step in u is 2 pi / W.
        orders: Real orders t' at which K is known; they bound the trapezoid rule's error.
        log_moments: K there, shape `(rows, m)`.
        log: K(t), shape `(rows,)`.
        log_error: Bound on its rounding error, same shape.
        mean: Mean of the tilted loss, shape `(rows,)`.
        waves: exp(K(t + iu) - K(t) - iu mean) / (z (z + 1)) for each u, the first halved.
        error: Bound on the summed errors of all terms, shape `(rows,)`, except those that depend on epsilon.
        bulk_orders: Orders t' that bound what a cut left out; empty without a cut.
        bulk: log E[exp(t' loss)] of it, shape `(m,)` or `(rows, m)`.
        smoothing: mu^2 of a Gaussian release added to the composition; the lower bound subtracts its effect.
        density: With smoothing, the waves of the loss's density, that is, without the division by z (z + 1).
        density_error: Bound on the density's error in units of exp(K(t) - t epsilon), shape `(rows,)`.
    """

    order: float
    period: float
    orders: Reals = field(repr=False)
    log_moments: Reals = field(repr=False)
    log: Reals
    log_error: Reals
    mean: Reals
    waves: Waves
    error: Reals
    bulk_orders: Reals = field(repr=False)
    bulk: Reals = field(repr=False)
    smoothing: float = 0.0
    density: Waves | None = None
    density_error: Reals = field(default_factory=lambda: np.zeros(1))

    def value(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return the computed logarithm of delta, and its slope; shape `(rows,)`, as epsilon."""
        total, slope = self.waves.with_slope(self.mean - epsilon)
        with np.errstate(divide="ignore", invalid="ignore"):
            log = self.log - self.order * epsilon + np.log(np.maximum(total, 0.0) * 2 / self.period)
            return log, np.where(total > 0, -slope / total, 0.0) - self.order

    def bounds(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return a lower and an upper bound of the logarithm of delta, of epsilon's shape `(rows,)`."""
        step = 2 / self.period  # over pi
        x = self.mean - epsilon
        value = self.waves.at(x) * step
        error = self.error + self.waves.rounding(x) * step
        scale = self.log - self.order * epsilon
        rounding = self.log_error + 8 * ROUNDOFF * (np.abs(self.log) + self.order * np.abs(epsilon) + 8)
        orders, far = self.orders, np.abs(self.orders - self.order) * self.period
        with np.errstate(divide="ignore", over="ignore"):
            chernoff = self.log_moments + (1e-6 + log_chernoff(orders)) - orders * epsilon[:, None] - scale[:, None]
            aliases = chernoff - far - np.log(-np.expm1(-far))
            own = self.order * self.period
            left = np.where(orders < self.order, aliases, np.inf).min(axis=1)
            left = np.minimum(left, -own - np.log(-np.expm1(-own)) - scale)
            right = np.where(orders > self.order, aliases, np.inf).min(axis=1)
            bulk = np.zeros(len(epsilon))
            if self.bulk.size:
                log = self.bulk + log_chernoff(self.bulk_orders) - self.bulk_orders * epsilon[:, None]
                bulk = np.exp(log.min(axis=1) - scale)
            low = value - error - np.exp(left) - np.exp(right)
            if self.density:
                density = (self.density.at(x) + self.density.rounding(x)) * step + self.density_error
                low -= self.smoothing * np.exp(self.smoothing / 8) * np.maximum(density, 0.0)
            low = np.log(np.maximum(low, 0.0)) + (scale - rounding)
            high = np.log(np.maximum(value + error, 0.0) + bulk) + (scale + rounding)
        return low, high


@dataclass(slots=True)
class WarmStart:
    """How the last query of a search was answered, so that the next one, nearby, can start from there.

    Attributes:
        contour: The contour; None before the first query.
        subject: The composition it was built for. Another composition needs its own contour, on the same path.
        path: Where the contour runs; None if no other composition can use it.
        orders: Real orders of the moments, shape `(m,)`.
        epsilon: The answer, if epsilon is searched for.
    """

    contour: Contour | None = None
    subject: object = None
    path: ContourPath | None = None
    orders: Reals = field(default_factory=lambda: np.empty(0), repr=False)
    epsilon: float = 0.0

    def keep(self, contour: Contour, subject: object, path: ContourPath | None, epsilon: float) -> None:
        """Store an answer."""
        self.contour, self.subject, self.path, self.epsilon = contour, subject, path, epsilon
        self.orders = contour.orders


def build(releases: Releases, moments: Moments, path: ContourPath, goal: float) -> Contour:
    """Evaluate the integrand along a contour, for one composition.

    Args:
        releases: The composition.
        moments: Its moments.
        path: Where the contour runs; chosen for this composition, or `adapted`.
        goal: Target relative error of delta.

    Returns:
        The contour, of one row.
    """
    one, below = evaluate(releases, path, path.tolerance(goal), path.tail)
    return assemble(one.alone(), below.alone() if below else None, path, moments.order, moments.log[None])


def assemble(
    lines: CgfRows, below: CgfRows | None, path: ContourPath, orders: Reals, log_moments: Reals, smoothing: float = 0.0
) -> Contour:
    """Turn K along a contour into the integrand and its errors.

    Args:
        lines: K of each row.
        below: With a cut, K of the part below it.
        path: Where the contour runs.
        orders: Real orders t'.
        log_moments: K there, shape `(rows, m)`.
        smoothing: mu^2 of the added Gaussian release whose effect the lower bound subtracts.

    Returns:
        The contour.
    """
    if (path.cut is None) != (below is None):
        raise ValueError("a path with a cut needs what lies below it, and one without has none")
    at, _ = frequencies(path)
    z = path.order + 1j * at
    kernel = 1 / (z * (z + 1))
    values, size, errors = lines.factor, lines.size, _errors(lines.size, lines.error)
    if below is not None:
        mass = np.exp(below.log)[:, None]
        bulk_size = mass * below.size
        values = values - mass * below.factor
        size = size + bulk_size
        errors += _errors(bulk_size, below.error)
    step = 2 / path.period
    tail = np.exp(np.minimum(lines.tail, 0.0)) / (np.pi * at[-1])
    density, density_error = None, np.zeros(1)
    if smoothing:
        density = Waves.of(values, size, np.ones_like(at), float(at[1]))
        density_error = errors.sum(axis=1) * step + tail / smoothing
    return Contour(
        path.order,
        path.period,
        orders,
        log_moments,
        lines.log,
        lines.log_error,
        lines.mean,
        Waves.of(values, size, kernel, float(at[1])),
        np.einsum("rj,j->r", errors, np.abs(kernel)) * step + tail,
        path.bulk_orders,
        path.bulk,
        smoothing,
        density,
        density_error,
    )


def _errors(size: Reals, error: Reals) -> Reals:
    """Bound the errors of exponentials of a size, from those of their exponents."""
    result = np.minimum(error, 600.0)
    np.expm1(result, out=result)
    with np.errstate(over="ignore"):
        result *= size
    return result
