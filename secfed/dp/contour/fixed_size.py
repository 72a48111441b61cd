"""Losses of releases from fixed-size cohorts under replacement (`fixed_size`): positive, negative, or 0.

The loss is l(x) with density (1 + y) phi on x > 1/2, -l(x) with density phi there, and else 0. The half-line becomes
a line by x = 1/2 + scale log(1 + e^r), on which the trapezoid rule converges exponentially, as in `privacy_loss`.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from secfed.dp.contour.nodes import Cut, Nodes
from secfed.dp.contour.privacy_loss import (
    ROUNDOFF,
    Laws,
    Reals,
    far_end,
    likelihood,
    log_trapezoid,
    right_tail,
    whole_steps,
)
from secfed.dp.likelihood import log_mixture

# Imaginary parts of r to try.
_TURNS = np.array([1.6, 1.2, 0.8, 0.5, 0.3, 0.15])[:, None]
_EDGE = 1e-21
# Larger frequencies, relative to the smallest one, up to which copies of the loss are compared by squares.
_FARTHER = 2.0 ** np.arange(1, 12)


@dataclass(frozen=True, slots=True)
class PairNodes(Nodes):
    """Nodes in this order: the atom at 0, the negative losses, the positive ones by ascending x.

    Attributes:
        scale: Of the substitution, shape `(n,)`; `step` is in r.
        density: Logarithm of the loss's density over the mass at each positive node, shape `(n, nodes / 2)`.
        frequency: Largest imaginary part u.
    """

    scale: Reals
    density: Reals = field(repr=False)
    frequency: float

    def truncation(self, order: float, log_moment: Reals) -> Reals:
        """Bound the mass outside the nodes, relative to E[exp(t loss)]; see `Nodes`."""
        laws, stop = self.laws, self.points[:, -1]
        gain, _ = likelihood(stop, laws.rate, laws.noise)
        right = np.exp(right_tail(laws, order, stop) - log_moment) + np.exp(
            -order * gain + log_ndtr(-stop / laws.noise)
        )
        # (e^((z+1)l) - 1) (1 - e^(-zl)) near l = 0.
        first = self.points[:, -self.density.shape[1]]
        gain, _ = likelihood(first, laws.rate, laws.noise)
        left = (order + 1 + self.frequency) ** 2 * gain**2 * np.exp((order + 1) * gain) * (first - 0.5)
        return np.asarray(right + left * 0.4 / laws.noise)

    def discretization(self, order: float, frequency: float, stretch: float = 1.0) -> Reals:
        """Bound the error of the trapezoid rule relative to E[exp(t loss)]; see `Nodes`."""
        cost = _cost(self.laws, self.scale, self.points[:, -1], order, frequency, stretch)
        errors = np.log(2) + cost + log_trapezoid(2 * np.pi * _TURNS / self.step)
        return np.asarray(np.exp(np.minimum(errors.min(axis=0), 700.0)))

    def decay(self, tilted: Reals, order: float, frequency: float, cut: Cut | None = None) -> Reals:
        """Bound the modulus of the moment for all u of at least `frequency`; see `Nodes`.

        With a cut, the line of integration is moved as for the other kinds, and the piece from 1/2 to the line is
        bounded too. Without a cut, two copies of the loss are compared: for small u by the squared difference, for
        larger u by the density's total variation.
        """
        if cut is not None:
            edge = log_ndtr((0.5 - cut.position) * np.sqrt(cut.stretch - 1) / self.laws.noise)
            # The chosen angle is below a right angle.
            height = np.pi**2 / 8 * self.laws.noise**2 * cut.stretch
            piece = np.log(np.pi / 2 * self.laws.noise) + edge + height
            return np.asarray(np.logaddexp(Nodes.decay(self, tilted, order, frequency, cut), piece))
        variation, distance, sums = self._kept.once(("near", order), lambda: self._near(tilted))
        last = frequency * _FARTHER
        inside = (distance[:, None] <= np.pi / (2 * last)[:, None]).sum(axis=2)
        mass, first, second = np.take_along_axis(sums, inside[None], axis=2)
        # Where the mass inside is at one point, the difference is only the rounding of the sums.
        squares = 2 * (mass * second * (1 - 8 * ROUNDOFF * tilted.shape[1]) - first**2)
        near = 0.5 * np.log1p(-np.clip(0.9 * 2 / np.pi**2 * frequency**2 * squares, 0.0, 1 - ROUNDOFF))
        far = np.log(tilted[:, :1] + variation[:, None] / last)
        alone = np.log(tilted[:, 0] + variation / frequency)
        return np.asarray(np.minimum(np.maximum(near, far).min(axis=1), np.minimum(alone, 0.0)))

    def _near(self, tilted: Reals) -> tuple[Reals, Reals, Reals]:
        """Return what bounds at all frequencies share.

        Returns:
            The total variation of the loss's tilted density, shape `(n,)`. The losses' distances from their tilted
            mean, ascending, shape `(n, nodes)`. The tilted probability, first and second moment within each distance,
            the first ones 0, shape `(3, n, nodes + 1)`.
        """
        half = self.density.shape[1]
        negative, positive = (part * np.exp(self.density) for part in (tilted[:, 1 : half + 1], tilted[:, -half:]))
        joined = np.pad(np.concatenate([negative[:, ::-1], positive], axis=1), ((0, 0), (1, 1)))
        variation = np.abs(np.diff(joined, axis=1)).sum(axis=1) * 1.05
        away = self.loss - (tilted * self.loss).sum(axis=1)[:, None]
        ranked = np.argsort(np.abs(away), axis=1)
        away, mass = (np.take_along_axis(part, ranked, axis=1) for part in (away, tilted))
        sums = np.zeros((3, len(tilted), tilted.shape[1] + 1))
        np.cumsum([mass, mass * away, mass * away**2], axis=2, out=sums[:, :, 1:])
        return variation, np.abs(away), sums

    def missed(self, order: float, angle: Reals, stiffness: Reals) -> Reals:
        """Return the log of the trapezoid rule's error on a moved line; see `Nodes`."""
        noise, stop = self.laws.noise, self.points[:, -1]
        turn = np.minimum(1.0, angle * noise**2 / self.scale)
        shift = self.scale * turn / noise**2
        cost = ((angle + shift) ** 2 - angle**2) * stiffness / 2
        cost = cost + (stop + order + 1) * self.scale / noise**2 * -np.log(np.cos(turn / 2))
        return np.asarray(cost - 2 * np.log(np.cos(turn / 2)) + log_trapezoid(2 * np.pi * turn / self.step))


def layout(
    laws: Laws, order: float, frequency: float, tolerance: float, stretch: float
) -> tuple[Reals, Reals, npt.NDArray[np.int64]]:
    """Return the first and last r of each law, and how many nodes it needs; each of shape `(n,)`."""
    stop = far_end(laws, order)
    scale = _scale(laws, order)
    slope = (order + 1 + frequency) ** 2 * (laws.rate / laws.noise**2) ** 2 * 0.4 / laws.noise
    first = np.minimum((_EDGE / laws.count / np.maximum(slope, 1e-300)) ** (1 / 3), scale)
    start = np.log(np.expm1(first / scale))
    reach = (stop - 0.5) / scale
    end = reach + np.log(-np.expm1(-reach))
    need = np.log(2 * laws.count / tolerance)
    step = (2 * np.pi * _TURNS / (need + _cost(laws, scale, stop, order, frequency, stretch))).max(axis=0)
    return start, end, 2 * whole_steps(end - start, step) + 5


def place(laws: Laws, start: Reals, end: Reals, size: int, order: float, frequency: float) -> PairNodes:
    """Place the nodes of laws that share a number of nodes."""
    half = (size - 1) // 2
    step = (end - start) / (half - 1)
    r = start[:, None] + np.arange(half) * step[:, None]
    scale, noise, rate = _scale(laws, order)[:, None], laws.noise[:, None], laws.rate[:, None]
    distance = scale * np.logaddexp(0.0, r)
    points = 0.5 + distance
    stretched = np.log(scale * step[:, None]) - np.logaddexp(0.0, -r)
    mass = stretched - 0.5 * (points / noise) ** 2 - np.log(noise * np.sqrt(2 * np.pi))
    # Computed from the distance: near 1/2 the loss is small and would lose digits.
    v = distance / noise**2
    gain = log_mixture(rate, v)
    part = np.minimum(np.exp(np.log(rate) + v - gain), 1.0)
    atom = np.maximum(1 - (np.exp(mass) + np.exp(mass + gain)).sum(axis=1, keepdims=True), 1e-300)
    nowhere = np.full((len(laws), half + 1), -1e300)
    return PairNodes(
        laws=laws,
        loss=np.concatenate([np.zeros_like(atom), -gain, gain], axis=1),
        mass=np.concatenate([np.log(atom), mass, mass + gain], axis=1),
        part=np.concatenate([np.zeros_like(atom), part, part], axis=1),
        mirror=np.empty((0, 0)),
        points=np.concatenate([nowhere, points], axis=1),
        step=step,
        order=order,
        scale=scale[:, 0],
        density=-(stretched + np.log(part) - 2 * np.log(noise)),
        frequency=frequency,
    )


def _scale(laws: Laws, order: float) -> Reals:
    return np.asarray(np.minimum(laws.noise, 4 * laws.noise**2 / (order + 1)))


def _cost(laws: Laws, scale: Reals, stop: Reals, order: float, frequency: float, stretch: float) -> Reals:
    """Bound the log of how much the integrand grows on lines of r with the imaginary parts `_TURNS`.

    On such a line, Im x is at most scale * turn, and Re x falls by at most -scale log cos(turn / 2).

    Returns:
        Shape `(turns, n)`.
    """
    noise, shrunk = laws.noise, np.log(np.cos(_TURNS / 2))
    angle, back = scale * _TURNS / noise**2, -scale * shrunk
    cost = frequency * angle + angle**2 * noise**2 * stretch / 2 + (stop + order + 1) * back / noise**2
    cost = cost - shrunk - order * np.log(np.cos(np.minimum(angle, 3.0) / 2))
    sharp = np.sqrt(stretch - 1) / noise
    cost = cost + back * sharp * (sharp * stop + 1) * (stretch > 1)
    return np.where(angle < 3.0, cost, 1e9)
