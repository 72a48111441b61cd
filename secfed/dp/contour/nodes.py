"""The privacy loss of sampled Gaussian releases as masses on a few nodes, with proved error bounds."""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import log_ndtr, ndtr

from secfed.dp.contour.privacy_loss import (
    ROUNDOFF,
    Kept,
    Laws,
    Reals,
    likelihood,
    log_trapezoid,
    secant_gain,
    strip_error,
    tails,
)

# Angles to try, relative to the best one for a normal distribution.
_FACTORS = np.array([4.0, 2.0, 1.0, 0.5, 0.25, 0.1])
# No sum of terms with exponents up to this overflows.
_MOST_EXPONENT = 600.0
# Numbers at a time, so that they fit in the processor's cache.
_CACHE = 1 << 15


@dataclass(frozen=True, slots=True)
class Nodes:
    """A release's loss as masses on nodes.

    Attributes:
        laws: The releases.
        loss: The loss at each node, shape `(n, nodes)`.
        mass: Logarithm of each node's probability under P, same shape.
        part: Posterior probability that the client took part, at each node; it is the loss's rate of change. Same
        shape.
        mirror: The same at the mirrored point (`replace`), else empty.
        points: The nodes on the line, same shape.
        step: Distance between nodes, shape `(n,)`.
        order: Largest real part t for which the moments are accurate.
    """

    laws: Laws
    loss: Reals = field(repr=False)
    mass: Reals = field(repr=False)
    part: Reals = field(repr=False)
    mirror: Reals = field(repr=False)
    points: Reals = field(repr=False)
    step: Reals = field(repr=False)
    order: float
    # Results that bounds at several frequencies share.
    _kept: Kept = field(default_factory=Kept, repr=False, compare=False, kw_only=True)

    def moments(self, orders: Reals) -> tuple[Reals, Reals, Reals]:
        """Return log E[exp(t loss)] under P, and mean and variance of the loss tilted by exp(t loss).

        Args:
            orders: Values of t, shape `(m,)`, none above `order`.

        Returns:
            Three arrays of shape `(m, n)`.
        """
        exponent, mass = orders[:, None, None] * self.loss, np.exp(self.mass)
        # Where the moment is near 1, its distance from 1 must keep its digits.
        if orders.max() * self.loss.max() <= _MOST_EXPONENT:
            tilted = np.expm1(exponent, out=exponent)
            tilted *= mass
            excess = tilted.sum(axis=2)
            # Add the masses themselves, and center the losses so that the variance keeps its digits.
            center = np.einsum("nk,nk->n", mass, self.loss)
            away = self.loss - center[:, None]
            square = away * away
            total = excess + mass.sum(axis=1)
            mean = (np.einsum("mnk,nk->mn", tilted, away) + np.einsum("nk,nk->n", mass, away)) / total
            second = (np.einsum("mnk,nk->mn", tilted, square) + np.einsum("nk,nk->n", mass, square)) / total
            return np.log1p(excess), center + mean, np.maximum(second - mean * mean, 0.0)
        weight = exponent + self.mass
        top = np.maximum(weight.max(axis=2, keepdims=True), 0.0)
        tilted = np.exp(weight - top)
        total = tilted.sum(axis=2)
        with np.errstate(over="ignore", invalid="ignore"):
            excess = mass * np.expm1(np.minimum(exponent, 1.0))
            np.copyto(excess, tilted * np.exp(top) - mass, where=exponent > 1)
            excess = excess.sum(axis=2)
            log = np.where(excess < 1e3, np.log1p(excess), np.log(total) + top[..., 0])
        mean = np.einsum("mnk,nk->mn", tilted, self.loss) / total
        square = (self.loss - mean[..., None]) ** 2
        return log, mean, np.einsum("mnk,mnk->mn", tilted, square) / total

    def truncation(self, order: float, log_moment: Reals) -> Reals:
        """Bound the mass beyond both ends of the nodes, relative to E[exp(t loss)], for any imaginary part.

        Args:
            order: t.
            log_moment: log E[exp(t loss)], shape `(n,)`.

        Returns:
            Shape `(n,)`.
        """
        left, right = tails(self.laws, order, self.points[:, 0], self.points[:, -1])
        with np.errstate(over="ignore"):
            return np.exp(left - log_moment) + np.exp(right - log_moment)

    def discretization(self, order: float, frequency: float, stretch: float = 1.0) -> Reals:
        """Bound the error of the trapezoid rule relative to E[exp(t loss)], up to an imaginary part.

        Args:
            order: t.
            frequency: Largest imaginary part u.
            stretch: `Cut.stretch` for the part of a law on one side of a cut.

        Returns:
            Shape `(n,)`: 2 N(a) / (exp(2 pi a / step) - 1), with N(a) bounded on the line with imaginary part a.
        """
        return np.exp(np.minimum(strip_error(self.laws, order, frequency, self.step, stretch), 700.0))

    def remainder(self, cut: "Cut", orders: Reals) -> Reals:
        """Bound log E[exp(t loss)] over what a cut leaves out.

        Args:
            cut: The cut.
            orders: Values of t, shape `(m,)`; they may be above `order`.

        Returns:
            Shape `(m, n)`.
        """
        sharpness = np.sqrt(cut.stretch - 1) / self.laws.noise
        left = log_ndtr((cut.position[:, None] - self.points) * sharpness[:, None])
        density, inside = self.mass + left, np.empty((len(orders), len(self.laws)))
        some = max(1, _CACHE // density.size)
        for first in range(0, len(orders), some):
            exponent = orders[first : first + some, None, None] * self.loss + density
            peak = exponent.max(axis=2, keepdims=True)
            exponent -= peak
            inside[first : first + some] = np.log(np.exp(exponent, out=exponent).sum(axis=2)) + peak[..., 0]
        # Past the last node, the cut's weight falls like a normal density of its width.
        noise, place, stop = self.laws.noise, cut.position, self.points[:, -1]
        power = orders[:, None] + 1
        ratio = likelihood(stop, self.laws.rate, noise)[0] - (stop - 0.5) / noise**2
        sharp = cut.stretch - 1
        middle = (sharp * place + power) / cut.stretch
        height = (cut.stretch * middle**2 - sharp * place**2 - power) / (2 * noise**2)
        beyond = power * ratio + height - 0.5 * np.log(4 * cut.stretch)
        beyond = beyond + log_ndtr(np.sqrt(cut.stretch) * (middle - stop) / noise)
        if self.laws.direction == "replace":
            beyond = beyond - orders[:, None] * np.log1p(-self.laws.rate)
        beyond = np.where(place < stop, beyond, np.inf)
        return np.asarray(np.logaddexp(inside, beyond) + 1e-6)

    def decay(self, tilted: Reals, order: float, frequency: float, cut: "Cut | None" = None) -> Reals:
        """Bound log |E[exp((t + iu) loss)]| - log E[exp(t loss)] for **all** u of at least `frequency`.

        The line of integration is moved into the complex plane, where exp(iu loss) shrinks as u grows.

        Args:
            tilted: The nodes' probabilities tilted by exp(t loss), shape `(n, nodes)`.
            order: t.
            frequency: Smallest u.
            cut: Bound only the part of the law beyond the cut.

        Returns:
            Shape `(n,)`.
        """
        noise = self.laws.noise
        weight = tilted if cut is None else tilted * cut.weight
        mass = weight.sum(axis=1) + 1e-300
        slope = (weight * (self.part + (self.mirror if self.mirror.size else 0.0))).sum(axis=1) / mass
        best = np.zeros(len(self.laws))
        ideal = frequency * slope / noise**2
        stiffness = noise**2 * (1.0 if cut is None else cut.stretch)
        angle = np.minimum(np.multiply.outer(_FACTORS, ideal * noise**2 / stiffness), np.pi / 2)
        missed = np.exp(np.minimum(np.log(2) + self.missed(order, angle, stiffness), 700.0))
        sums, some = np.empty_like(angle), max(1, _CACHE // weight.size)
        # Where masses underflow and factors overflow, this line of integration gives no bound.
        with np.errstate(over="ignore", invalid="ignore"):
            if cut is not None:
                # The part beyond a cut may be as small as the mass outside the nodes.
                missed = missed + self._left_out(tilted, order, angle, cut)
                still = self._left_out(tilted, order, np.zeros_like(angle[:1]), cut)[0]
                missing = self._kept.once(
                    ("mass", order, cut.stretch), lambda: self.discretization(order, 0.0, cut.stretch)
                )
                best = np.log(mass + still + missing)
            for first in range(0, len(angle), some):
                exponent = self._shrink(angle[first : first + some, :, None], order, frequency)
                change = np.expm1(exponent, out=exponent) if cut is None else np.exp(exponent, out=exponent)
                sums[first : first + some] = (weight * change).sum(axis=-1)
            sums = sums + missed
            sums = np.log1p(np.maximum(sums, ROUNDOFF - 1)) if cut is None else np.log(sums + 1e-300)
        sums = np.where(np.isnan(sums), np.inf, sums)
        return np.asarray(np.minimum(best, (sums + angle**2 * stiffness / 2).min(axis=0)))

    def _left_out(self, tilted: Reals, order: float, angle: Reals, cut: "Cut") -> Reals:
        """Bound what lies beyond a cut and both ends of the nodes, on moved lines, relative to E[exp(t loss)].

        Returns:
            Shape `(k, n)`, as the angles have.
        """

        def moment() -> Reals:
            most = tilted.argmax(axis=1)[:, None]
            log = np.take_along_axis(self.mass + order * self.loss, most, 1)
            return np.asarray(log - np.log(np.take_along_axis(tilted, most, 1)))[:, 0]

        log_moment = self._kept.once(("moment", order), moment)
        if not self.mirror.size:
            return np.asarray(self._kept.once(("ends", order), lambda: self.truncation(order, log_moment)) + 0 * angle)
        # Negative powers of 1 + y(-x) grow as in `secant_gain`, least where the client surely did not take part.
        ends = self.points[:, 0], self.points[:, -1]
        left, right = self._kept.once(("tails", order), lambda: tails(self.laws, order, *ends))
        sine, part = np.sin(angle / 2) ** 2, self.mirror[:, -1]
        everywhere = -0.5 * order * np.log1p(-sine)
        gain = np.where(part < 0.5, -0.5 * order * np.log1p(-4 * part * (1 - part) * sine), everywhere)
        left = left + everywhere + np.log(cut.weight[:, 0] + 1e-300)
        return np.asarray(np.exp(left - log_moment) + np.exp(right + gain - log_moment))

    def missed(self, order: float, angle: Reals, stiffness: Reals) -> Reals:
        """Bound the trapezoid rule's error on a moved line, by moving the line once more.

        Args:
            order: t.
            angle: How far the line was moved, over noise^2; shape `(k, n)`.
            stiffness: Cost of a move, shape `(n,)`.

        Returns:
            Log of half the error relative to E[exp(t loss)], shape `(k, n)`.
        """
        noise = self.laws.noise
        # Up to a right angle in total, negative powers of 1 + y grow little; beyond it, the move itself gains more.
        most = np.array([np.pi / 2, np.pi - 1e-3]).reshape(2, 1, 1)
        again = np.minimum(np.clip(most - angle, 0.0, np.pi / 2), 2 * np.pi * noise**2 / (self.step * stiffness))
        gained = secant_gain(self.laws, order, angle + again) + again**2 * stiffness / 2
        return np.asarray((gained + log_trapezoid(2 * np.pi * again * noise**2 / self.step)).min(axis=0))

    def _shrink(self, angle: Reals, order: float, frequency: float) -> Reals:
        """Return the log of the integrand's modulus on the moved line, relative to the real line."""
        sine = np.sin(angle / 2) ** 2

        def modulus(part: Reals) -> Reals:
            return np.asarray(0.5 * np.log1p(-4 * part * (1 - part) * sine))

        def turn(part: Reals) -> Reals:
            # The divisor is not negative: the angle is at most a right angle.
            return np.asarray(np.arctan(part * np.sin(angle) / np.maximum(1 - 2 * part * sine, 1e-300)))

        if self.laws.direction == "add":
            return -order * modulus(self.part) - frequency * turn(self.part)
        exponent = (order + 1) * modulus(self.part) - frequency * turn(self.part)
        if self.laws.direction == "replace":
            exponent += -order * modulus(self.mirror) - frequency * turn(self.mirror)
        return exponent


@dataclass(frozen=True, slots=True)
class Cut:
    """A smooth split of laws at a loss: the part beyond it, and the rest.

    Attributes:
        position: Point of the line at which each law is cut, shape `(n,)`.
        weight: Share of each node that lies beyond the cut, Phi((x - position) / width), shape `(n, nodes)`.
        stretch: 1 + (noise / width)^2: cost of shifting the line of integration by iy, in units of y^2 / 2 noise^2.
    """

    position: Reals
    weight: Reals = field(repr=False)
    stretch: float

    @classmethod
    def at(cls, found: Nodes, loss: float, stretch: float) -> "Cut":
        """Cut where the loss has a given value above 0; `add` has no cut."""
        laws = found.laws
        with np.errstate(over="ignore", divide="ignore"):
            if laws.direction == "replace":
                # Solve a quadratic equation for exp(x / noise^2), in logarithms of its terms.
                unit = np.log(laws.rate) - 0.5 / laws.noise**2
                linear = np.log1p(-laws.rate) + loss + np.log(-np.expm1(-loss))
                half = linear - np.log(2) - unit
                position = laws.noise**2 * (half + np.log1p(np.sqrt(1 + np.exp(loss - 2 * half))))
            else:
                level = loss + np.log(laws.rate - np.expm1(-loss) * (1 - laws.rate))
                position = 0.5 + laws.noise**2 * (level - np.log(laws.rate))
        sharpness = np.sqrt(stretch - 1) / laws.noise[:, None]
        return cls(position, ndtr((found.points - position[:, None]) * sharpness), stretch)


def place(laws: Laws, start: Reals, stop: Reals, size: int, order: float) -> Nodes:
    """Place the nodes of laws that share a number of nodes."""
    step = (stop - start) / (size - 2)
    # Multiples of the step: a point near 0 must not carry the rounding error of a distant one.
    points = (np.floor(start / step)[:, None] + np.arange(size)) * step[:, None]
    noise, rate = laws.noise[:, None], laws.rate[:, None]
    density = -0.5 * (points / noise) ** 2 + np.log(step[:, None] / (noise * np.sqrt(2 * np.pi)))
    gain, part = likelihood(points, rate, noise)
    mirror = np.empty((0, 0))
    if laws.direction == "add":
        loss, mass = -gain, density
    elif laws.direction == "remove":
        loss, mass = gain, density + gain
    else:
        other, mirror = likelihood(-points, rate, noise)
        loss, mass = gain - other, density + gain
    return Nodes(laws, loss, mass, part, mirror, points, step, order)
