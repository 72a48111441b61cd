"""Where a contour runs: t, the step in u, the last u, and where laws are cut in two."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from secfed.dp.contour.fourier_sums import transform_work
from secfed.dp.contour.moments import Moments, RealNodes, Releases, log_chernoff
from secfed.dp.contour.nodes import Cut, Nodes
from secfed.dp.contour.privacy_loss import Reals
from secfed.dp.contour.quadrature import REAL_TOLERANCE, all_nodes, grids

# Cuts of width noise / 2, 1/4, 1/8, ...: see `Cut`.
_STRETCHES = (5.0, 17.0, 65.0, 257.0, 1025.0)
# Most nodes of one law.
_MOST_NODES = 200_000
# Most nodes in all tail bounds together, for one path.
_MOST_EFFORT = 1_000_000
# Most values of u times 2 pi, and the number below which a cut cannot save work.
_MOST_STEPS = 2e5
_FEW_STEPS = 4e4
# Numbers for each node that a bound on what lies beyond U holds at a time.
_ROWS = 12
# If terms exceed delta by this much (a logarithm), a guess from moments is usually far off.
_DOUBTFUL = 6.4
# How much to shorten a contour that cannot be long enough anyway.
_FALLBACK = 4.0
# How much each guess of the length grows, how many guesses there are, and how much shorter the last one may be.
_GROWTH = 1.5
_MOST_GUESSES = 60
_SHORTER = np.array([1.35, 1.2, 1.1])


@dataclass(frozen=True, slots=True)
class ContourPath:
    """Where the contour runs.

    Attributes:
        order: t.
        period: W; the step in u is 2 pi / W.
        frequency: U, the last u.
        cut: Loss at which each law is cut in two so that a part that stays small can be left out; or None.
        stretch: How sharp the cut is (see `Cut`); 1 without a cut.
        bulk_orders: Orders t' that bound what is left out.
        bulk: log E[exp(t' loss)] of it, shape `(m,)` or `(rows, m)`.
        loss: Log of the integrand's terms over delta: the factor by which rounding errors grow.
        tail: Bound on Re K(t + iu) - K(t) for every u from U on, for the composition that the path was chosen for;
            None if unknown: with a cut, with fixed-size cohorts, and for other compositions.
    """

    order: float
    period: float
    frequency: float
    cut: float | None = None
    stretch: float = 1.0
    bulk_orders: Reals = field(default_factory=lambda: np.empty(0), repr=False)
    bulk: Reals = field(default_factory=lambda: np.empty(0), repr=False)
    loss: float = 0.0
    tail: float | None = None

    def tolerance(self, goal: float) -> float:
        """Return the error of the terms that keeps delta within a goal: smaller if terms are much larger than delta."""
        return goal / 4 * float(np.exp(-min(max(self.loss - 4.0, 0.0), 16.0)))


class Smallest(NamedTuple):
    """The smallest of the compositions that share a contour: its transform decays slowest.

    Attributes:
        releases: The composition.
        epsilon: A guess.
        gap: How close together bounds on epsilon must be.
    """

    releases: Releases
    epsilon: float
    gap: float


def choose(
    releases: Releases,
    moments: Moments,
    epsilon: float,
    log_delta: float,
    goal: float,
    *,
    most_loss: float = np.inf,
    doubtful: bool = False,
    smallest: Smallest | None = None,
) -> ContourPath | None:
    """Choose a contour for values of delta near a guess.

    Args:
        releases: The composition.
        moments: Its moments on a grid of orders.
        epsilon: Guess.
        log_delta: Logarithm of the guess of delta.
        goal: Target relative error.
        most_loss: The largest `ContourPath.loss` that is small enough.
        doubtful: The guess may be far off, so a long search for a path may be wasted.
        smallest: A part of the composition that uses the same contour.

    Returns:
        The contour with the least predicted work among the grid's orders. None if none can be exact enough, or if the
        guess must be improved first.
    """
    orders, period = moments.order, periods(moments, epsilon, log_delta, goal)
    # Where moments explode, so does the deviation; U must still be as large as before.
    deviation = np.minimum.accumulate(np.sqrt(np.maximum(moments.variance, 1e-300)))
    # By how much the integrand's terms exceed delta, as a logarithm: rounding matters as much.
    loss = moments.exponent(epsilon) - log_chernoff(orders) - log_delta - np.log1p(orders * deviation)
    work = np.log(period / deviation) + np.maximum(loss - 4.0, 0.0) * 0.7
    work = np.where(np.isfinite(work) & (loss <= most_loss), work, np.inf)
    best = int(np.argmin(work))
    if most_loss < np.inf and not work[best] < np.inf:
        return None
    order, width = float(orders[best]), float(period[best])
    log_goal = log_delta + np.log(goal / 4)
    # The tail is exp(tail) / (pi U) in units of exp(K(t) - t epsilon).
    allowed = log_goal - (moments.log[best] - order * epsilon)
    start = np.sqrt(2 * max(1.0, 3.0 - allowed)) / float(deviation[best])
    # The bound for fixed-size cohorts is a sum that needs nodes made for it, and finer ones on the contour itself.
    kept = None if any(laws.direction == "fixed_size" for laws in releases.laws) else moments.nodes
    tail, lowest = _Tail(releases, order, 1.0, (kept or RealNodes(releases)).up_to(order, _ROWS)), epsilon
    plain = _Candidate(ContourPath(order, width, start, loss=float(loss[best])), start, [(tail, allowed)])
    if smallest:
        its, lowest, gap = smallest
        log_goal = log_delta + np.log(max(goal, gap * order) / 4)
        exponent = Moments.at(its, np.array([order])).log[0] - order * lowest
        plain.limits.append((_Tail(its, order, 1.0, RealNodes(its).up_to(order, _ROWS)), log_goal - exponent))
    path, whole = _without_cut(plain, bool(kept))
    if whole:
        return path
    if doubtful and plain.path.loss > _DOUBTFUL:
        return None
    fine = goal < 1e-6
    most = (_MOST_STEPS if fine else _MOST_STEPS / 10) * (2 if smallest else 1) / width
    last = _longest(releases, order, min(start, 10.0 / max(epsilon, 1e-300)), most)

    def since(stretch: float, loss: float) -> float:
        return tail.since(stretch, loss, allowed, last)

    candidates = [plain]
    for first, cut in _cuts(releases, plain.path, lowest, log_goal, since):
        finer = max(1e-3 * float(np.exp(allowed)), 1e-40)
        nodes = _cut_nodes(releases, order, cut.stretch, _ROWS, finer)
        candidates.append(_Candidate(cut, first, [(_Tail(releases, order, cut.stretch, nodes), allowed)]))
    left = _MOST_EFFORT if fine else _MOST_EFFORT / 4
    shortest = min(start, 10.0 / epsilon) if len(candidates) > 1 else start
    for frequency in shortest * _GROWTH ** np.arange(_MOST_GUESSES):
        if left < 0 or frequency > last:
            break
        for candidate in candidates:
            if frequency < candidate.first:
                continue
            left -= candidate.size
            met = candidate.met(frequency)
            if met == len(candidate.limits):
                shorter = (length for length in frequency / _SHORTER if candidate.met(length) == met)
                return candidate.to(next(shorter, frequency))
            if met and not path:
                path = candidate.to(frequency)
    # No contour is short enough: the bounds will be wide but valid. A longer one costs more than it tells.
    return path if smallest else plain.to(min(most / _FALLBACK, frequency))


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A contour whose length is to be found.

    Attributes:
        path: The contour.
        first: A shorter U surely does not suffice.
        limits: Bounds on the tail beyond U, and what they may be: of the composition, and maybe of the smallest one.
    """

    path: ContourPath
    first: float
    limits: list[tuple["_Tail", float]]

    @property
    def size(self) -> int:
        """The work of a bound."""
        return self.limits[0][0].size

    def to(self, frequency: float) -> ContourPath:
        """Return the contour up to a frequency."""
        return replace(self.path, frequency=float(frequency))

    def met(self, frequency: float) -> int:
        """Return how many limits hold at a frequency; the first one first."""
        held = (tail.log(frequency, self.path.cut) <= most for tail, most in self.limits)
        return len(list(takewhile(bool, held)))


def _without_cut(plain: _Candidate, known: bool) -> tuple[ContourPath | None, bool]:
    """Search for a length, starting from that for a normal distribution; end where a cut may save work.

    Args:
        plain: The contour without a cut.
        known: Whether the tail bound holds for the nodes that the contour will have.

    Returns:
        The contour, None if the composition's limit does not hold; and whether all limits hold.
    """
    (tail, allowed), *others = plain.limits
    frequency, before, path = plain.first, -1.0, None
    for _ in range(20):
        if frequency * plain.path.period > _FEW_STEPS:
            break
        size = tail.log(frequency, None)
        if size <= allowed:
            path = plain.to(frequency)
            if all(other.log(frequency, None) <= most for other, most in others):
                return replace(path, tail=size + float(np.log(np.pi * frequency)) if known else None), True
        # A normal distribution decays with the square of U. Where the bound hardly falls, go farther.
        least = 1.3 if path or size < 1.1 * before else 2.0
        frequency *= float(np.clip(np.sqrt((allowed - 2.0) / min(size, -1.0)), least, 3.0))
        before = min(size, before)
    return path, False


def periods(moments: Moments, epsilon: float, log_delta: float, goal: float) -> Reals:
    """Return the least W for each order: what wraps around is below the goal, relative to delta."""
    orders, exponent = moments.order, moments.exponent(epsilon)
    excess = exponent - (log_delta + np.log(goal / 4))
    distance = orders[:, None] - orders[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        periods = np.where(distance != 0, excess[None, :] / np.abs(distance), np.inf)
    left = np.where(distance > 0, periods, np.inf).min(axis=1)
    left = np.minimum(left, -(log_delta + np.log(goal / 4)) / orders)
    right = np.where(distance < 0, periods, np.inf).min(axis=1)
    return np.asarray(np.maximum(np.maximum(left, right), 1e-300))


def _longest(releases: Releases, order: float, first: float, last: float) -> float:
    """Return the largest U up to `last` at which no law needs too many nodes, or else `first`."""

    def fits(frequency: float) -> bool:
        return releases.most_nodes(order, frequency) <= _MOST_NODES

    if fits(last):
        return last
    for _ in range(8):
        middle = float(np.sqrt(first * last))
        first, last = (middle, last) if fits(middle) else (first, middle)
    return first


class _Tail:
    """Bounds on the integral beyond U, in units of exp(K(t) - t epsilon), for one order and sharpness of the cut."""

    def __init__(self, releases: Releases, order: float, stretch: float, nodes: Iterable[Nodes]) -> None:
        self._gaussian, self._order, self._stretch = releases.gaussian, order, stretch
        self._nodes = []
        for found in nodes:
            moment = found.moments(np.array([order]))[0][0]
            self._nodes.append((found, np.exp(found.mass + order * found.loss - moment[:, None])))

    @property
    def size(self) -> int:
        """Number of nodes, which is the cost of a bound."""
        return sum(tilted.size for _, tilted in self._nodes)

    def log(self, frequency: float, cut: float | None) -> float:
        """Return the logarithm of the bound."""
        total, beyond = -0.5 * self._gaussian * frequency**2, [-np.inf]
        for found, tilted in self._nodes:
            count = found.laws.count
            if cut is None:
                total += float(count @ found.decay(tilted, self._order, frequency))
            else:
                place = Cut.at(found, cut, self._stretch)
                beyond.extend(np.log(count) + found.decay(tilted, self._order, frequency, place))
        if cut is not None:
            total += float(np.logaddexp.reduce(beyond))
        return total - float(np.log(np.pi * frequency))

    def since(self, stretch: float, loss: float, wanted: float, last: float) -> float:
        """Return a frequency below which no cut at or below a loss gives the wanted bound, or infinity.

        `decay` moves the line of integration by at most a right angle, and a move costs at least this much.
        """
        frequency = last * 1.5 ** np.arange(-60.0, 1.0)
        best = np.full(len(frequency), -np.inf)
        for found, tilted in self._nodes:
            laws = found.laws
            beyond = np.log(laws.count * (tilted * (found.loss >= loss)).sum(axis=1) / 2 + 1e-300)
            stiff = np.maximum(stretch * laws.noise**2 - 0.3 * (self._order + 1), 1e-9)
            push = (2.0 if laws.direction == "replace" else 1.0) * frequency[:, None]
            angle = np.minimum(push / stiff, np.pi / 2)
            best = np.maximum(best, (beyond - push * angle + stiff * angle**2 / 2).max(axis=1))
        best -= 0.5 * self._gaussian * frequency**2 + np.log(np.pi * frequency)
        return float(frequency[best <= wanted].min(initial=np.inf)) / 1.5


def _cuts(
    releases: Releases, path: ContourPath, epsilon: float, log_allowed: float, since: Callable[[float, float], float]
) -> Iterator[tuple[float, ContourPath]]:
    """Yield a path for each sharpness, with the largest cut below which all can be neglected, and where it starts.

    This search is most of the work, so cuts that help at no frequency are skipped, see `_Tail.since`.
    """
    if epsilon <= 0 or any(laws.direction == "add" for laws in releases.laws):
        return
    orders = np.geomspace(0.5, 2000.0, 16) / epsilon
    losses = epsilon * 0.5 ** np.arange(1.0, 8.5, 0.5)
    least = len(losses) - 1
    for stretch in _STRETCHES:
        if since(stretch, losses[0]) == np.inf:
            return
        nodes = _cut_nodes(releases, path.order, stretch, len(orders))
        # A cut at a smaller loss leaves out less, so bisect for the largest loss that works. A sharper cut can be at
        # the same loss or a larger one.
        chosen: ContourPath | None = None
        low, high = -1, least + 1
        while high - low > 1:
            middle = (low + high) // 2 if chosen else high - 1
            bulk = _left_out(releases, nodes, float(losses[middle]), stretch, orders)
            if float((bulk + log_chernoff(orders) - orders * epsilon).min()) <= log_allowed:
                high = middle
                chosen = replace(path, cut=float(losses[middle]), stretch=stretch, bulk_orders=orders, bulk=bulk)
            else:
                low = middle
        if chosen is not None:
            least = high
            if (first := since(stretch, losses[high])) < np.inf:
                yield first, chosen


def _cut_nodes(
    releases: Releases, order: float, stretch: float, rows: int, tolerance: float = REAL_TOLERANCE
) -> list[Nodes]:
    return [found for laws in releases.laws for found in grids(laws, order, 0.0, tolerance, stretch=stretch, rows=rows)]


def _left_out(releases: Releases, nodes: list[Nodes], loss: float, stretch: float, orders: Reals) -> Reals:
    """Bound log E[exp(t loss)] of what a cut at a loss leaves out, at each order."""
    bulk = releases.gaussian * orders * (orders + 1) / 2
    for found in nodes:
        bulk = bulk + found.remainder(Cut.at(found, loss, stretch), orders) @ found.laws.count
    return np.asarray(bulk)


def adapted(releases: Releases, path: ContourPath) -> ContourPath:
    """Return the path of a similar composition, with a bound on what its cut leaves out here."""
    if path.cut is None:
        return replace(path, tail=None)
    nodes = _cut_nodes(releases, path.order, path.stretch, len(path.bulk_orders))
    return replace(path, bulk=_left_out(releases, nodes, path.cut, path.stretch, path.bulk_orders))


def work(releases: Releases, path: ContourPath, goal: float) -> float:
    """Predict the work of a contour before allocating anything: nodes of all laws times values of u."""
    if not path.frequency * path.period < np.inf:
        return np.inf
    step, across = _steps(path)
    steps, top = across**2, (across**2 - 1) * step
    laws = sum(len(laws) for laws in releases.laws)
    nodes = sum(all_nodes(laws, path.order, top, path.tolerance(goal), path.stretch) for laws in releases.laws)
    each = (nodes + 100) / max(laws, 1)
    return laws * min((steps + 150) * each, transform_work(each, steps)) * (1 if path.cut is None else 2)


def frequencies(path: ContourPath) -> tuple[Reals, int]:
    """Return the values of u, shape `(k,)`, and the square root of their number."""
    step, across = _steps(path)
    return np.arange(across * across, dtype=np.float64) * step, across


def _steps(path: ContourPath) -> tuple[float, int]:
    """Return the step in u, and the square root of the number of steps."""
    step = 2 * np.pi / path.period
    return step, int(np.ceil(np.sqrt(np.ceil(path.frequency / step) + 1)))
