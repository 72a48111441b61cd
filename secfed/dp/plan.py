"""Where a contour runs: which t, how fine, how far, and with which laws cut in two."""

from dataclasses import dataclass, field, replace

import numpy as np

from secfed.dp.ladder import Moments, Releases, log_chernoff
from secfed.dp.laws import Cut, Reals
from secfed.dp.nodes import all_nodes, grids, most_nodes

# Cuts of width spread / 2, 1/4, 1/8, ...: see `Cut`.
_STRETCHES = (5.0, 17.0, 65.0, 257.0, 1025.0)
# Nodes of one law that are too many.
_MOST_NODES = 20_000
# Nodes in all bounds of tails together, for one plan.
_MOST_EFFORT = 1_000_000
# Most values of u times 2 pi, and how many are so few that a cut cannot save work.
_MOST_STEPS = 2e5
_FEW_STEPS = 1e4


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the contour runs.

    Attributes:
        order: t.
        period: W; the step in u is 2 pi / W.
        frequency: U, the last u.
        cut: Loss at which each law is cut in two, so that what is never large is left out; or nothing.
        stretch: How sharp the cut is (see `Cut`); 1 without a cut.
        rest_orders: Orders t' for a bound of what is left out.
        rest: log E[exp(t' loss)] of it.
    """

    order: float
    period: float
    frequency: float
    cut: float | None
    stretch: float
    rest_orders: Reals = field(repr=False)
    rest: Reals = field(repr=False)


def plan(
    releases: Releases, moments: Moments, epsilon: float, log_delta: float, goal: float, *, steep: bool = False
) -> Plan:
    """Choose a contour for values of delta near a guess.

    Args:
        releases: The composition.
        moments: Its ladder.
        epsilon: Guess.
        log_delta: Logarithm of the guess of delta.
        goal: Relative error aimed at.
        steep: Go nearer to where moments explode: less is lost to rounding, and more steps are needed.

    Returns:
        The contour that promises least work among the ladder's orders.
    """
    orders, exponent = moments.order, moments.exponent(epsilon)
    excess = exponent - (log_delta + np.log(goal / 4))
    distance = orders[:, None] - orders[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        periods = np.where(distance != 0, excess[None, :] / np.abs(distance), np.inf)
    left = np.where(distance > 0, periods, np.inf).min(axis=1)
    left = np.minimum(left, -(log_delta + np.log(goal / 4)) / orders)
    right = np.where(distance < 0, periods, np.inf).min(axis=1)
    period = np.maximum(np.maximum(left, right), 1e-300)
    # Where moments explode, so does the deviation; U still has to be as long as before.
    deviation = np.sqrt(np.maximum(moments.variance, 1e-300))
    if not steep:
        deviation = np.minimum.accumulate(deviation)
    loss = exponent - log_chernoff(orders) - log_delta - np.log1p(orders * deviation)
    work = np.log(period / deviation) + np.maximum(loss - 4.0, 0.0) * 0.7
    best = int(np.argmin(np.where(np.isfinite(work), work, np.inf)))
    order, width = float(orders[best]), float(period[best])
    # The tail is exp(fade) / (pi U) in units of exp(K(t) - t epsilon).
    allowed = log_delta + np.log(goal / 4) - (moments.log[best] - order * epsilon)
    start = np.sqrt(2 * max(1.0, 3.0 - allowed)) / float(deviation[best])
    nothing = np.empty(0)
    simple = Plan(order, width, start, None, 1.0, nothing, nothing)
    tail = _Tail(releases, order, 1.0)
    frequency = start
    for _ in range(8):
        simple = replace(simple, frequency=frequency)
        if frequency * width > _FEW_STEPS:
            break
        size = tail.log(frequency, None)
        if size <= allowed:
            return simple
        # A normal law fades with the square of U.
        frequency *= float(np.clip(np.sqrt((allowed - 2.0) / min(size, -1.0)), 1.3, 3.0))
    divided = _cuts(releases, simple, epsilon, log_delta + np.log(goal / 4))
    tails = [_Tail(releases, order, candidate.stretch, allowed) for candidate in divided]
    fine = goal < 1e-6
    last = (_MOST_STEPS if fine else _MOST_STEPS / 10) / width
    left, nodes = _MOST_EFFORT if fine else _MOST_EFFORT / 4, sum(its.size for its in (tail, *tails))
    for frequency in (min(start, 10.0 / epsilon) if divided else start) * 1.5 ** np.arange(60):
        left -= nodes
        if (
            left < 0
            or frequency > last
            or any(most_nodes(laws, order, frequency) > _MOST_NODES for laws in releases.laws)
        ):
            break
        for candidate, its in zip([simple, *divided], [tail, *tails], strict=True):
            if (candidate.cut is not None or frequency >= start) and its.log(frequency, candidate.cut) <= allowed:
                return replace(candidate, frequency=float(frequency))
    # No contour is short enough: the bounds will be wide, but they hold.
    return replace(simple, frequency=float(min(last, frequency)))


def shortest(releases: Releases, plan: Plan, goal: float) -> Plan:
    """Return the plan with U as long as another composition needs on the same contour, as far as that can be."""
    tail = _Tail(releases, plan.order, 1.0)
    for frequency in plan.frequency * 1.3 ** np.arange(12):
        longer = replace(plan, frequency=float(frequency))
        if tail.log(longer.frequency, None) <= np.log(goal) - 8:
            break
    return longer


class _Tail:
    """Bounds of the integral beyond U, in units of exp(K(t) - t epsilon), for one order and sharpness of a cut."""

    def __init__(self, releases: Releases, order: float, stretch: float, wanted: float = 0.0) -> None:
        self._gaussian, self._order, self._stretch = releases.gaussian, order, stretch
        tolerance = 1e-8 if stretch == 1 else max(1e-3 * float(np.exp(wanted)), 1e-40)
        self._nodes = []
        for laws in releases.laws:
            for found in grids(laws, order, 0.0, tolerance, stretch=stretch, rows=12):
                moment = found.moments(np.array([order]))[0][0]
                self._nodes.append((found, np.exp(found.mass + order * found.loss - moment[:, None])))

    @property
    def size(self) -> int:
        """Number of nodes, which is what a bound costs."""
        return sum(tilted.size for _, tilted in self._nodes)

    def log(self, frequency: float, cut: float | None) -> float:
        """Return the logarithm of the bound."""
        fade, shares = -0.5 * self._gaussian * frequency**2, [-np.inf]
        for found, tilted in self._nodes:
            count = found.laws.count
            if cut is None:
                fade += float(count @ found.decay(tilted, self._order, frequency))
            else:
                place = Cut.at(found, cut, self._stretch)
                shares.extend(np.log(count) + found.decay(tilted, self._order, frequency, place))
        if cut is not None:
            fade += float(np.logaddexp.reduce(shares))
        return fade - float(np.log(np.pi * frequency))


def _cuts(releases: Releases, plan: Plan, epsilon: float, log_allowed: float) -> list[Plan]:
    """Return a plan for each sharpness with the largest cut below which all can be neglected."""
    if epsilon <= 0 or any(laws.kind == "ADD" for laws in releases.laws):
        return []
    orders = np.geomspace(0.5, 2000.0, 16) / epsilon
    losses = epsilon * 0.5 ** np.arange(1, 9)
    plans = []
    for stretch in _STRETCHES:
        nodes = [
            found
            for laws in releases.laws
            for found in grids(laws, plan.order, 0.0, 1e-8, stretch=stretch, rows=len(orders))
        ]
        # The smaller the loss, the less is left out: the largest possible one is found by halving.
        chosen: Plan | None = None
        low, high = -1, len(losses)
        while high - low > 1:
            middle = (low + high) // 2 if chosen else high - 1
            rest = releases.gaussian * orders * (orders + 1) / 2
            for found in nodes:
                rest = rest + found.remainder(Cut.at(found, losses[middle], stretch), orders) @ found.laws.count
            if float((rest + log_chernoff(orders) - orders * epsilon).min()) <= log_allowed:
                high = middle
                chosen = replace(plan, cut=float(losses[middle]), stretch=stretch, rest_orders=orders, rest=rest)
            else:
                low = middle
        if chosen is not None:
            plans.append(chosen)
    return plans


def work(releases: Releases, plan: Plan, goal: float) -> float:
    """Predict the work of a contour before anything is allocated: nodes of all laws, times the values of u."""
    steps = plan.frequency * plan.period / (2 * np.pi) + 2
    nodes = sum(all_nodes(laws, plan.order, plan.frequency, goal / 4, plan.stretch) for laws in releases.laws)
    return float((steps + 150) * (nodes + 100))


def frequencies(plan: Plan) -> tuple[Reals, int]:
    """Return the values of u, shape `(k,)`, and the root of their number."""
    step = 2 * np.pi / plan.period
    across = int(np.ceil(np.sqrt(np.ceil(plan.frequency / step) + 1)))
    return np.arange(across * across, dtype=np.float64) * step, across
