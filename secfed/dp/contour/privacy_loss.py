"""Privacy losses of sampled Gaussian releases: moments as sums over a few nodes, with proved error bounds.

One release compares two distributions P and Q on the line (`docs/accountant.md` says why these dominate). With the
noise in units of the shift, phi the density of N(0, noise^2), v = (2x - 1) / (2 noise^2) and

    1 + y(x) = 1 - rate + rate * exp(v)        l(x) = log(1 + y(x))

* `remove`: P = (1 + y(x)) phi, Q = phi; the loss is l(x).
* `add`: P and Q are swapped; the loss is -l(x).
* `replace`: P = (1 + y(x)) phi, Q = (1 + y(-x)) phi; the loss is l(x) - l(-x).
* `fixed_size`: in both directions delta(epsilon) is that of `remove` for epsilon > 0. The loss is l(x) with density (1
  + y) phi on x > 1/2, -l(x) with density phi on x > 1/2, and else 0.

All quantities are arrays over several laws.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from secfed.dp.likelihood import log_mixture

Reals = npt.NDArray[np.float64]
Direction = Literal["remove", "add", "replace", "fixed_size"]

ROUNDOFF = 2.0**-53  # of float64
# Joints of the chords that bound a tail, between its ends on a logarithmic scale; and ends of a range to try, likewise.
_JOINTS, _ENDS = np.linspace(0.0, 1.0, 11), np.linspace(0.0, 1.0, 7)[:, None]
# Exponent of a tail that is small enough: beyond the ends of a range, less than exp(-_TAIL) of the mass.
_TAIL = 50.0
_REACH = float(np.sqrt(2 * _TAIL))
# Angles to try, relative to the largest useful one.
_PARTS = np.array([1.0, 0.8, 0.6, 0.4, 0.2])


class Kept(dict[Any, Any]):
    """Results that are asked for again, by key."""

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Return the result under a key, computed at the first call."""
        if key not in self:
            self[key] = compute()
        return self[key]


@dataclass(frozen=True, slots=True)
class Laws:
    """Single releases, and how often each is composed.

    Attributes:
        direction: Which pair of distributions.
        rate: Probability that the client takes part, shape `(n,)`.
        noise: Noise in units of the shift, shape `(n,)`.
        count: How often each is released, shape `(n,)`.
    """

    direction: Direction
    rate: Reals
    noise: Reals
    count: Reals
    # What was computed for some order and is asked again: `far_end`, and layouts of `quadrature`.
    kept: Kept = field(default_factory=Kept, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rate)

    def part(self, which: Any) -> "Laws":
        """Return some of the laws."""
        return Laws(self.direction, self.rate[which], self.noise[which], self.count[which])

    @property
    def spread_of_loss(self) -> Reals:
        """A rough standard deviation of each loss, shape `(n,)`: a starting point, not a bound."""
        narrow = np.minimum(1 / self.noise**2, 50.0)
        small = self.rate**2 * np.expm1(narrow)
        large = self.rate * (0.25 / self.noise**4 + 1 / self.noise**2)
        return np.sqrt(np.minimum(small, large)) * (2.0 if self.direction == "replace" else 1.0)


def likelihood(points: Reals, rate: Reals, noise: Reals) -> tuple[Reals, Reals]:
    """Return l(x) and the posterior probability rate * exp(v) / (1 + y), both of the points' shape."""
    v = (points - 0.5) / noise**2
    gain = log_mixture(rate, v)
    return gain, np.minimum(np.exp(np.log(rate) + v - gain), 1.0)


def layout(
    laws: Laws, order: float, frequency: float, tolerance: float, stretch: float
) -> tuple[Reals, Reals, npt.NDArray[np.int64]]:
    """Return the first and last node of each law, and how many it needs; each of shape `(n,)`."""
    start, stop = _range(laws, order)
    noise = laws.noise
    need = np.log(2 * laws.count / tolerance)
    turns = 2.0 if laws.direction == "replace" else 1.0
    widest = np.pi / 2
    angle = np.minimum(np.sqrt(2 * need / stretch) / noise, widest)
    exponent = stretch * angle**2 * noise**2 / 2 + turns * frequency * angle + need + secant_gain(laws, order, angle)
    step = 2 * np.pi * angle * noise**2 / exponent
    return start, stop, whole_steps(stop - start, step) + 3


def whole_steps(length: Reals, step: Reals) -> npt.NDArray[np.int64]:
    """Return how many steps cover each length, at most 10^15, far more than are ever placed."""
    return np.ceil(np.minimum(length / step, 1e15)).astype(np.int64)


def _range(laws: Laws, order: float) -> tuple[Reals, Reals]:
    """Return where the integrand with exp(t loss) has all but exp(-_TAIL) of its mass."""
    near = _REACH * laws.noise
    far = far_end(laws, order)
    return (-far, near) if laws.direction == "add" else (-near, far)


def far_end(laws: Laws, order: float) -> Reals:
    """Return where the side of large |loss| ends, shape `(n,)`: at most exp(-_TAIL) lies beyond."""
    found: Reals = laws.kept.once(order, lambda: _far_end(laws, order))
    return found


def _far_end(laws: Laws, order: float) -> Reals:
    near = _REACH * laws.noise
    shift = {"add": order, "replace": 2 * order + 1}.get(laws.direction, order + 1)
    # The mass may have two humps far apart, or only the first: take the nearest end whose tail is small enough.
    ends = near * (1 + shift / near) ** _ENDS
    bounds = left_tail(laws, order, -ends) if laws.direction == "add" else right_tail(laws, order, ends)
    small = bounds < 4 - _TAIL
    first = np.where(small.any(axis=0), small.argmax(axis=0), len(ends) - 1)
    return np.asarray(ends[first, np.arange(len(laws))])


def tails(laws: Laws, order: float, start: Reals, stop: Reals) -> tuple[Reals, Reals]:
    """Bound the logarithm of the integral of P exp(t loss) left of `start` and right of `stop`.

    l rises with a slope of at most 1 / noise^2 and is convex, so it lies below its chords and above its tangents.
    """
    return left_tail(laws, order, start), right_tail(laws, order, stop)


def left_tail(laws: Laws, order: float, start: Reals) -> Reals:
    """Bound the logarithm of the integral of P exp(t loss) left of `start`, of its shape; see `tails`."""
    below, part = likelihood(start, laws.rate, laws.noise)
    if laws.direction == "add":
        return _normal_tail(-order * below, order * part / laws.noise**2, -start, laws.noise)
    height = (order + 1) * below
    if laws.direction == "replace":
        height -= order * likelihood(-start, laws.rate, laws.noise)[0]
    return np.asarray(height + log_ndtr(start / laws.noise))


def right_tail(laws: Laws, order: float, stop: Reals) -> Reals:
    """Bound the logarithm of the integral of P exp(t loss) right of `stop`, of its shape; see `tails`."""
    noise, rate = laws.noise, laws.rate
    if laws.direction == "add":
        return np.asarray(-order * likelihood(stop, rate, noise)[0] + log_ndtr(-stop / noise))
    power = order + 1
    # From `stop` to where the client surely took part, in pieces; beyond, the slope is at most 1 / noise^2.
    middle = np.maximum(0.5 + noise**2 * (6.0 - np.log(rate)), stop * 1.01)
    joints = stop * (middle / stop) ** _JOINTS.reshape(-1, *[1] * np.ndim(stop))
    height = power * likelihood(joints, rate, noise)[0]
    slopes = np.concatenate([np.diff(height, axis=0) / np.diff(joints, axis=0), [power / noise**2 + 0 * stop]])
    if laws.direction == "replace":
        other, part = likelihood(-joints, rate, noise)
        height, slopes = height - order * other, slopes + order * part / noise**2
    pieces = _normal_tail(height, slopes, joints, noise)
    peak = pieces.max(axis=0)
    return np.asarray(peak + np.log(np.exp(pieces - peak).sum(axis=0)))


def _normal_tail(height: Reals, slope: Reals, start: Reals, noise: Reals) -> Reals:
    """Return the log of the integral of phi(x) exp(height + slope (x - start)) over x > start."""
    lifted = slope * noise - start / noise
    return np.asarray(height - slope * start + (slope * noise) ** 2 / 2 + log_ndtr(lifted))


def secant_gain(laws: Laws, order: float, angle: Reals) -> Reals:
    """Bound the log of how much negative powers of 1 + y grow on a line moved by an angle, relative to the moment.

    |1 + y| is at least cos(angle / 2) (1 + y), and up to a right angle at least 1 - rate. Where the client hardly
    ever took part it shrinks much less; the few other points are bounded by their weight.
    """
    if laws.direction == "remove":
        return np.zeros_like(angle)
    edge = _REACH * laws.noise
    gain, part = likelihood(edge, laws.rate, laws.noise)
    sine = np.sin(np.minimum(angle, np.pi - 1e-3) / 2) ** 2
    everywhere = -0.5 * order * np.log1p(-sine)
    inside = np.where(part < 0.5, -0.5 * order * np.log1p(-4 * part * (1 - part) * sine), everywhere)
    with np.errstate(divide="ignore"):
        beyond = np.minimum(-order * np.log1p(-laws.rate), everywhere - order * gain)
    outside = np.where(angle <= np.pi / 2, beyond, everywhere) + log_ndtr(-_REACH)
    return np.asarray(np.minimum(everywhere, np.logaddexp(inside, outside)))


def strip_error(laws: Laws, order: float, frequency: float, step: Reals, stretch: float) -> Reals:
    """Return the log of the trapezoid rule's error, at the best of several angles."""
    turns = 2.0 if laws.direction == "replace" else 1.0
    ideal = np.minimum((2 * np.pi / step - turns * frequency / laws.noise**2) / stretch, np.pi)
    # Up to a right angle, negative powers of 1 + y grow little: one try there.
    angle = np.concatenate([np.multiply.outer(_PARTS, ideal), np.minimum(ideal, np.pi / 2)[None]])
    angle = np.clip(angle, 1e-9, 3.0)
    size = stretch * angle**2 * laws.noise**2 / 2 + turns * frequency * angle
    size += secant_gain(laws, order, angle) + np.log(2)
    return np.asarray((size + log_trapezoid(2 * np.pi * angle * laws.noise**2 / step)).min(axis=0))


def log_trapezoid(turns: Reals) -> Reals:
    """Return -log(e^turns - 1): the trapezoid rule's error, with turns = 2 pi a / step for a strip of half-width a.

    Infinite for a strip without width.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(-turns - np.log(-np.expm1(-turns)))
