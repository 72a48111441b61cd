"""One contour integral of a composition's moments: delta(epsilon) between certified bounds.

With K(z) = sum of log E_P[exp(z loss)] over all releases of a composition and any t > 0,

    delta(epsilon) = 1/pi Re integral_0^inf exp(K(z) - z epsilon) / (z (z + 1)) du,    z = t + iu.

The trapezoid rule in u, cut off at U, and quadrature for K are the only approximations; `docs/accountant.md` bounds
each of their errors, and the bounds returned here hold all of them, rounding included.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from secfed.dp.ladder import Moments, Releases, log_chernoff
from secfed.dp.laws import Cut, Nodes, Reals
from secfed.dp.nodes import grids, most_nodes

Complexes = npt.NDArray[np.complex128]
_UNIT = 2.0**-53
# Numbers in one array of temporaries.
_ENTRIES = 1 << 17
# Cuts of width spread / 2, 1/4, 1/8, ...: see `Cut`.
_STRETCHES = (5.0, 17.0, 65.0, 257.0, 1025.0)
# Nodes of one law that are too many.
_MOST_NODES = 20_000
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


def plan(releases: Releases, moments: Moments, epsilon: float, log_delta: float, goal: float) -> Plan:
    """Choose a contour for values of delta near a guess.

    Args:
        releases: The composition.
        moments: Its ladder.
        epsilon: Guess.
        log_delta: Logarithm of the guess of delta.
        goal: Relative error aimed at.

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
    deviation = np.sqrt(moments.variance)
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
        found = tail.log(frequency, None)
        if found <= allowed:
            return simple
        # A normal law fades with the square of U.
        frequency *= float(np.clip(np.sqrt((allowed - 2.0) / min(found, -1.0)), 1.3, 3.0))
    divided = _cuts(releases, simple, epsilon, log_delta + np.log(goal / 4))
    tails = [_Tail(releases, order, candidate.stretch, allowed) for candidate in divided]
    last = (_MOST_STEPS if goal < 1e-6 else _MOST_STEPS / 10) / width
    for frequency in (min(start, 10.0 / epsilon) if divided else start) * 1.5 ** np.arange(60):
        if frequency > last or any(most_nodes(laws, order, frequency) > _MOST_NODES for laws in releases.laws):
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
        rests = np.tile(releases.gaussian * orders * (orders + 1) / 2, (len(losses), 1))
        for laws in releases.laws:
            for found in grids(laws, plan.order, 0.0, 1e-8, stretch=stretch, rows=len(orders)):
                for k, loss in enumerate(losses):
                    rests[k] += found.remainder(Cut.at(found, loss, stretch), orders) @ found.laws.count
        sizes = (rests + log_chernoff(orders) - orders * epsilon).min(axis=1)
        for loss, rest, size in zip(losses, rests, sizes, strict=True):
            if size <= log_allowed:
                plans.append(replace(plan, cut=float(loss), stretch=stretch, rest_orders=orders, rest=rest))
                break
    return plans


@dataclass(frozen=True, slots=True)
class Line:
    """K along a contour, for some releases; lines of two compositions add up.

    Attributes:
        log: K(t).
        mean: Mean of the tilted loss.
        exponent: K(t + iu) - K(t) - iu mean, at each u.
        wrong: Bound of its error, quadrature and rounding together, at each u.
        fade: Bound of its real part for all u from the last on.
    """

    log: float
    mean: float
    exponent: Complexes = field(repr=False)
    wrong: Reals = field(repr=False)
    fade: float

    def plus(self, other: "Line", times: Reals) -> "Lines":
        """Add another composition some number of times, `(rows,)`."""
        return Lines(
            self.log + times * other.log,
            self.mean + times * other.mean,
            self.exponent + times[:, None] * other.exponent,
            self.wrong + times[:, None] * other.wrong,
            self.fade + times * other.fade,
        )


@dataclass(frozen=True, slots=True)
class Lines:
    """Several lines on one contour: the fields of `Line`, with rows in front."""

    log: Reals
    mean: Reals
    exponent: Complexes = field(repr=False)
    wrong: Reals = field(repr=False)
    fade: Reals


def frequencies(plan: Plan) -> tuple[Reals, int]:
    """Return the values of u, shape `(k,)`, and the root of their number."""
    step = 2 * np.pi / plan.period
    across = int(np.ceil(np.sqrt(np.ceil(plan.frequency / step) + 1)))
    return np.arange(across * across, dtype=np.float64) * step, across


def line(releases: Releases, plan: Plan, tolerance: float) -> tuple[Line, Line | None]:
    """Evaluate K along a contour.

    Args:
        releases: The composition.
        plan: Where the contour runs.
        tolerance: Error aimed at in K.

    Returns:
        The line, and with a cut that of what lies below it; its K(t) is relative to the whole's.
    """
    at, across = frequencies(plan)
    order, top, step = plan.order, float(at[-1]), float(at[1])
    gaussian = releases.gaussian
    log, mean = gaussian * order * (order + 1) / 2, gaussian * (order + 0.5)
    whole = (-0.5 * gaussian * at**2).astype(np.complex128)
    wrong, wrong_below = np.zeros(len(at)), np.zeros(len(at))
    below, fade, shares, mass_below = whole.copy(), float(whole.real[-1]), [-np.inf], 0.0
    for laws in releases.laws:
        for found in grids(laws, order, top, tolerance, stretch=plan.stretch, rows=2 * across + 4):
            count = found.laws.count
            moment, center, _ = (row[0] for row in found.moments(np.array([order])))
            tilted = np.exp(found.mass + order * found.loss - moment[:, None])
            centred = found.loss - center[:, None]
            log += float(moment @ count)
            mean += float(center @ count)
            wave = _waves(tilted, centred, step, across)
            whole += count @ _log1p(wave)
            each = _error(found, tilted, centred, at, order, plan.stretch, moment)
            wrong += count @ np.log1p(each / np.abs(1 + wave))
            if plan.cut is None:
                fade += float(count @ found.decay(tilted, order, top))
                continue
            cut = Cut.at(found, plan.cut, plan.stretch)
            shares.extend(np.log(count) + found.decay(tilted, order, top, cut))
            share = tilted * (1 - cut.weight)
            mass = share.sum(axis=1)
            wave = _waves(share / mass[:, None], centred, step, across)
            mass_below += float(count @ np.log(mass))
            below += count @ _log1p(wave)
            wrong_below += count @ np.log1p(each / (mass[:, None] * np.abs(1 + wave)))
    if plan.cut is None:
        return Line(log, mean, whole, wrong, fade), None
    fade += float(np.logaddexp.reduce(shares))
    return Line(log, mean, whole, wrong, fade), Line(mass_below, 0.0, below, wrong_below, fade)


def _error(
    found: Nodes, tilted: Reals, centred: Reals, at: Reals, order: float, stretch: float, moment: Reals
) -> Reals:
    """Bound the error of E[exp((t + iu) loss)] relative to E[exp(t loss)], at each u; shape `(n, k)`."""
    top = float(at[-1])
    quadrature = found.discretisation(order, top, stretch) + found.truncation(order, moment)
    if stretch > 1:
        quadrature += found.discretisation(order, top)
    moved = np.minimum(2.0, at * (tilted * np.abs(centred)).sum(axis=1)[:, None])
    lifted = np.minimum(2.0, (tilted * np.abs(np.expm1(np.minimum(-order * found.loss, 700.0)))).sum(axis=1))
    rounding = moved * (found.loss.shape[1] + 100) + 200 * lifted[:, None]
    return np.asarray(quadrature[:, None] + rounding * _UNIT)


@dataclass(frozen=True, slots=True)
class Contour:
    """The integrand on one contour, ready for any epsilon near the one it was planned for.

    Several compositions may share a contour: they are rows.

    Attributes:
        order: t.
        period: W; the step in u is 2 pi / W.
        orders: Orders of the ladder that bounds what the trapezoid rule adds.
        ladder: K there, shape `(rows, m)`.
        log: K(t), shape `(rows,)`.
        mean: Mean of the tilted loss, shape `(rows,)`.
        frequencies: The values of u, shape `(k,)`.
        factor: exp(K(t + iu) - K(t) - iu mean) / (z (z + 1)), shape `(rows, k)`, the first halved.
        size: Bound of what a relative error of the first order does to each term, same shape.
        spent: Bound of the errors of all terms together, shape `(rows,)`, but for those that depend on epsilon.
        rest_orders: Orders t' for a bound of what a cut left out; empty without a cut.
        rest: log E[exp(t' loss)] of it.
    """

    order: float
    period: float
    orders: Reals = field(repr=False)
    ladder: Reals = field(repr=False)
    log: Reals
    mean: Reals
    frequencies: Reals = field(repr=False)
    factor: Complexes = field(repr=False)
    size: Reals = field(repr=False)
    spent: Reals
    rest_orders: Reals = field(repr=False)
    rest: Reals = field(repr=False)

    def value(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return the logarithm of delta as it is computed, and its slope; shape `(rows,)`, as epsilon."""
        waves = self.factor * np.exp(1j * self.frequencies * (self.mean - epsilon)[:, None])
        total = waves.real.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (waves.imag * self.frequencies).sum(axis=1) / total - self.order
            log = self.log - self.order * epsilon + np.log(np.maximum(total, 0.0) * 2 / self.period)
        return log, np.where(total > 0, slope, -self.order)

    def bounds(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return a lower and an upper bound of the logarithm of delta, of epsilon's shape `(rows,)`."""
        step = 2 / self.period  # over pi
        turn = self.frequencies * (self.mean - epsilon)[:, None]
        value = (self.factor * np.exp(1j * turn)).real.sum(axis=1) * step
        spent = self.spent + (self.size * (4 * np.abs(turn) + 40)).sum(axis=1) * (step * _UNIT)
        scale = self.log - self.order * epsilon
        spent += np.abs(value) * 8 * _UNIT * (np.abs(self.log) + self.order * np.abs(epsilon) + 8)
        orders, far = self.orders, np.abs(self.orders - self.order) * self.period
        with np.errstate(divide="ignore", over="ignore"):
            chernoff = self.ladder + (1e-6 + log_chernoff(orders)) - orders * epsilon[:, None] - scale[:, None]
            aliases = chernoff - far - np.log(-np.expm1(-far))
            own = self.order * self.period
            left = np.where(orders < self.order, aliases, np.inf).min(axis=1)
            left = np.minimum(left, -own - np.log(-np.expm1(-own)) - scale)
            right = np.where(orders > self.order, aliases, np.inf).min(axis=1)
            rest = np.zeros(len(epsilon))
            if len(self.rest):
                log = self.rest + log_chernoff(self.rest_orders) - self.rest_orders * epsilon[:, None]
                rest = np.exp(log.min(axis=1) - scale)
            low = np.log(np.maximum(value - spent - np.exp(left) - np.exp(right), 0.0)) + scale
            high = np.log(np.maximum(value + spent, 0.0) + rest) + scale
        return low, high


def build(releases: Releases, moments: Moments, plan: Plan, goal: float) -> Contour:
    """Evaluate the integrand along a contour, for one composition.

    Args:
        releases: The composition.
        moments: Its ladder.
        plan: Where the contour runs.
        goal: Error aimed at, relative to exp(K(t) - t epsilon).

    Returns:
        The contour, of one row.
    """
    one, below = line(releases, plan, goal / 4)
    empty = Line(0.0, 0.0, np.zeros(1, np.complex128), np.zeros(1), 0.0)
    return assemble(one.plus(empty, np.zeros(1)), below, plan, moments.order, moments.log[None])


def assemble(lines: Lines, below: Line | None, plan: Plan, orders: Reals, ladder: Reals) -> Contour:
    """Turn K along a contour into the integrand and its errors.

    Args:
        lines: K of each row.
        below: With a cut, what lies below it.
        plan: Where the contour runs.
        orders: Of the ladder.
        ladder: K there, shape `(rows, m)`.

    Returns:
        The contour.
    """
    at, _ = frequencies(plan)
    z = plan.order + 1j * at
    kernel = 1 / (z * (z + 1))
    values = np.exp(lines.exponent)
    size = np.abs(values)
    with np.errstate(over="ignore"):
        wrong = size * np.expm1(np.minimum(lines.wrong, 600.0))
    if below is not None:
        rest = np.exp(below.exponent + below.log)
        values = values - rest
        size = size + np.abs(rest)
        wrong = wrong + np.abs(rest) * np.expm1(np.minimum(below.wrong, 600.0))
    values = values * kernel
    values[:, 0] /= 2
    size, wrong = size * np.abs(kernel), (wrong * np.abs(kernel)).sum(axis=1) * (2 / plan.period)
    tail = np.exp(np.minimum(lines.fade, 0.0)) / (np.pi * at[-1])
    rounding = size.sum(axis=1) * (len(at) * _UNIT * 2 / plan.period)
    spent = wrong + tail + rounding
    return Contour(
        plan.order,
        plan.period,
        orders,
        ladder,
        lines.log,
        lines.mean,
        at,
        values,
        size,
        spent,
        plan.rest_orders,
        plan.rest,
    )


def _waves(tilted: Reals, centred: Reals, step: float, across: int) -> Complexes:
    """Return E[exp(iu loss)] - 1 under tilted probabilities at u = 0, step, 2 step, ...; shape `(n, across**2)`.

    exp(iu loss) - 1 for u = (a * across + b) * step is put together from a few such factors by matrix products, without
    losing the small differences from 1.
    """
    mixed = np.zeros((len(tilted), across, across), np.complex128)
    block = max(16, _ENTRIES // (across * len(tilted)))
    for start in range(0, tilted.shape[1], block):
        loss, share = centred[:, start : start + block], tilted[:, None, start : start + block]
        one = _turns(loss * step, across)
        two = _turns(loss * (across * step), across)
        two *= share
        mixed += two @ one.transpose(0, 2, 1)
        mixed += two.sum(axis=2)[:, :, None]
        one *= share
        mixed += one.sum(axis=2)[:, None, :]
    return mixed.reshape(len(tilted), -1)


def _log1p(wave: Complexes) -> Complexes:
    """Return log(1 + wave); numpy's own takes the modulus first, and loses a small real part."""
    x, y = wave.real, wave.imag
    result = np.empty(wave.shape, np.complex128)
    result.real = 0.5 * np.log1p(x * (2 + x) + y * y)
    result.imag = np.arctan2(y, 1 + x)
    return result


def _turns(angle: Reals, count: int) -> Complexes:
    """Return exp(i k angle) - 1 for k from 0 to count - 1 by doubling, without cancellation; `(n, count, nodes)`."""
    result = np.zeros((len(angle), count, angle.shape[1]), np.complex128)
    done = 1
    while done < count:
        half = np.sin(angle * (done / 2))
        ahead = (-2 * half * half + 1j * np.sin(angle * done))[:, None]
        some = min(done, count - done)
        before = result[:, :some]
        result[:, done : done + some] = before * ahead + before + ahead
        done += some
    return result
