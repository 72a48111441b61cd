"""Losses of releases from fixed-size cohorts under replacement (`fixed_size`): positive, negative, or 0.

The loss is l(x) with density (1 + y) phi on x > 1/2, -l(x) with density phi there, and else 0. The half-line becomes
a line by x = 1/2 + scale log(1 + e^r), on which the trapezoid rule converges exponentially, as in `privacy_loss`.
"""

from collections.abc import Sequence
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
# Ratio of the ends of a piece of frequencies, how many pieces there are, and how many distances of two copies of the
# loss are tried for each.
_RATIO, _PIECES, _SHORTER = 1.5, 20, 5
# Most blocks of losses that are compared with those above them.
_BLOCKS = 200


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
        bounded too. Without a cut, two copies of the loss are compared: in pieces of u by the squares of differences
        that are small enough, and beyond by the density's total variation.
        """
        if cut is not None:
            edge = log_ndtr((0.5 - cut.position) * np.sqrt(cut.stretch - 1) / self.laws.noise)
            # The chosen angle is below a right angle.
            height = np.pi**2 / 8 * self.laws.noise**2 * cut.stretch
            piece = np.log(np.pi / 2 * self.laws.noise) + edge + height
            return np.asarray(np.logaddexp(Nodes.decay(self, tilted, order, frequency, cut), piece))
        variation, copies = self._kept.once(("near", order), lambda: self._near(tilted))
        edges: Reals = frequency * _RATIO ** np.arange(float(_PIECES + 1))
        # On a grid, the largest distance at which 1 - cos rises up to the end of the first piece, and smaller ones.
        largest = int(np.ceil(np.log(edges[1] / np.pi) / np.log(_RATIO)))
        squares = copies.squares(range(largest, largest + _PIECES + _SHORTER - 1))
        some = np.lib.stride_tricks.sliding_window_view(squares, _SHORTER, axis=1)
        # 1 - cos is at least this much of an angle's square up to the angle; the same for each piece.
        angle = edges[1] * _RATIO ** -(largest + np.arange(float(_SHORTER)))
        lost = 0.9 * edges[:-1] ** 2 * ((1 - np.cos(angle)) / angle**2 * some).max(axis=2)
        near = 0.5 * np.log1p(-np.clip(lost, 0.0, 1 - ROUNDOFF))
        far = np.log(tilted[:, :1] + variation[:, None] / edges[1:])
        alone = np.log(tilted[:, 0] + variation / frequency)
        best = np.maximum(np.maximum.accumulate(near, axis=1), far).min(axis=1)
        return np.asarray(np.minimum(best, np.minimum(alone, 0.0)))

    def _near(self, tilted: Reals) -> tuple[Reals, "_Copies"]:
        """Return the total variation of the loss's tilted density, shape `(n,)`, and two copies of the tilted loss."""
        half = self.density.shape[1]
        negative, positive = (part * np.exp(self.density) for part in (tilted[:, 1 : half + 1], tilted[:, -half:]))
        joined = np.pad(np.concatenate([negative[:, ::-1], positive], axis=1), ((0, 0), (1, 1)))
        variation = np.abs(np.diff(joined, axis=1)).sum(axis=1) * 1.05
        ascending = np.concatenate([np.arange(half, 0, -1), [0], np.arange(half + 1, 2 * half + 1)])
        away = self.loss - (tilted * self.loss).sum(axis=1)[:, None]
        return variation, _Copies(away[:, ascending], tilted[:, ascending])

    def missed(self, order: float, angle: Reals, stiffness: Reals) -> Reals:
        """Return the log of the trapezoid rule's error on a moved line; see `Nodes`."""
        noise, stop = self.laws.noise, self.points[:, -1]
        turn = np.minimum(1.0, angle * noise**2 / self.scale)
        shift = self.scale * turn / noise**2
        cost = ((angle + shift) ** 2 - angle**2) * stiffness / 2
        cost = cost + (stop + order + 1) * self.scale / noise**2 * -np.log(np.cos(turn / 2))
        return np.asarray(cost - 2 * np.log(np.cos(turn / 2)) + log_trapezoid(2 * np.pi * turn / self.step))


class _Copies:
    """Two independent copies of a loss.

    Args:
        losses: Ascending, with a mean near 0, shape `(n, nodes)`.
        masses: Their probabilities, same shape.
    """

    def __init__(self, losses: Reals, masses: Reals) -> None:
        self._losses = losses
        # Probability, first and second moment below each loss, shape `(n, 3, nodes + 1)`.
        self._sums = np.zeros((len(losses), 3, losses.shape[1] + 1))
        np.cumsum(np.stack([masses, masses * losses, masses * losses**2], axis=1), axis=2, out=self._sums[:, :, 1:])
        self._known: dict[int, Reals] = {}

    def squares(self, powers: Sequence[int]) -> Reals:
        """Return E[(L - L')^2; |L - L'| <= distance] from below, at distances of `_RATIO` to minus these powers.

        Returns:
            Shape `(n, powers)`.
        """
        if missing := [power for power in powers if power not in self._known]:
            distances = _RATIO ** -np.array(missing, np.float64)
            found = [_squares(*law, distances) for law in zip(self._losses, self._sums, strict=True)]
            self._known.update(zip(missing, np.transpose(found), strict=True))
        return np.stack([self._known[power] for power in powers], axis=1)


def _squares(losses: Reals, sums: Reals, distances: Reals) -> Reals:
    """Return the same for one law, shape `(m,)`, from the losses, the sums and the distances."""
    # In blocks, whose members count as if they were at its end.
    first = np.arange(0, len(losses), 1 + len(losses) // _BLOCKS)
    after = np.append(first[1:], len(losses))
    last = losses[after - 1]
    # The losses within the distance above each block, but the last, part of whose mass may lie outside.
    stop = np.maximum(np.searchsorted(losses, losses[first] + distances[:, None], side="right") - 1, after)
    mass, mean, square = sums[:, stop] - sums[:, None, after]
    # Where all losses are at one point, what is left is rounding of the sums.
    rounding = 8 * ROUNDOFF * len(losses) * (square + 2 * np.abs(last) * sums[2, -1] ** 0.5 + last**2)
    pairs = square - 2 * last * mean + last**2 * mass - rounding
    return np.asarray(2 * ((sums[0, after] - sums[0, first]) * pairs).sum(axis=1))


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
