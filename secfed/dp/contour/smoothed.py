"""Epsilon and delta of any pairs of distributions, on contours that a little Gaussian noise makes short.

The transform of a loss with atoms, or of one that is nearly always 0, decays slowly or not at all. So we add one more
release, a Gaussian one with a tiny mu, whose transform decays like exp(-mu^2 u^2 / 2). More releases reveal more, so
the result is an upper bound. For the lower bound we subtract what the tiny release adds; the density of the loss at
epsilon, which the same contour gives, bounds it. `docs/accountant.md`, section 4.5, has the proof.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from secfed.dp.contour.cgf import Cgf, log1p, relative, waves
from secfed.dp.contour.integral import Contour, WarmStart, assemble
from secfed.dp.contour.inversion import solve
from secfed.dp.contour.moments import Moments, NoOrderError, log_chernoff
from secfed.dp.contour.pairs import MASS_ERROR, Law
from secfed.dp.contour.path import ContourPath, frequencies, periods
from secfed.dp.contour.privacy_loss import Reals

Pairs = Sequence[tuple[Law, int]]
Ends = tuple[Reals, Reals]
# Target relative gap, and target error of a contour relative to delta.
_GAP, _GOAL = 5e-7, 1e-10
# Most values of u, and most losses of one law.
_MOST_STEPS, _MOST_ATOMS = 120_000, 400_000
_TRIES = 6
# Largest gap of log delta at which a contour is reused for another epsilon.
_SAME = 1e-5
# Losses that add less than exp(-_NOTHING) of a moment need not be accurate.
_NOTHING = 45.0
# Most values of u of all contours of a query.
_MOST_SPENT = 300_000
# Rounding of a logarithm of delta from moments of many releases, with a margin.
MARGIN = 1e-9


def epsilon_bounds(
    pairs: Pairs, log_delta: float, gap: float = _GAP, guess: float | None = None, excess: float = 0.0
) -> tuple[float, float]:
    """Return lower and upper bounds on epsilon of a composition, in the direction of the pairs.

    Args:
        pairs: Each law and how often it was released.
        log_delta: Logarithm of delta.
        gap: Target relative gap.
        guess: Where to start; by default, an estimate from the moments.
        excess: The true delta may be smaller than that of the pairs by at most this fraction of it.

    Returns:
        Both at least 0; the upper one is infinite if there is no guarantee or none was found.
    """
    delta, (certain, infinite) = math.exp(log_delta), map(float, unbounded(pairs))
    if certain * (1 - excess) >= delta:
        return math.inf, math.inf
    if variation(pairs) <= delta:
        return 0.0, 0.0
    goals = np.array(finite_goals(delta, certain, infinite, excess))
    if _alone(pairs, 0.0):
        return _invert(pairs, delta)
    moments = moments_of(pairs, goals[1], None)
    if moments is None:
        loss, mass = _one_loss(pairs)
        ends = [loss + math.log1p(-min(math.exp(goal) / mass, 1 - 1e-16)) for goal in goals]
        low, high = (max(0.0, end + sign * 1e-12 * (1 + abs(end))) for end, sign in zip(ends, (-1, 1), strict=True))
        return low, high if delta > infinite else math.inf
    low, high = 0.0, math.inf
    if delta > infinite:
        high = max(0.0, min(_most(pairs), moments.epsilon_bound(goals[1]) if len(moments.order) else math.inf))
    if guess is None:
        guess = moments.epsilon_guess(goals[0]) if len(moments.order) else 0.0
    spent, finer = 0, gap
    least = 1e-3 * math.sqrt(moments.variance[0]) if len(moments.order) else 0.0
    while spent <= _MOST_SPENT:
        if guess < least:
            if delta > infinite and delta_bounds(pairs, 0.0)[1] <= delta:
                return 0.0, 0.0
            least = 0.0  # check this only once
        contour = build(pairs, moments, guess, log_delta, finer) if 0 < guess < math.inf else None
        if contour is None:
            break
        spent += len(contour.waves) + _MOST_SPENT // _TRIES
        least_end, most_end, middle = (
            float(part[0])
            for part in solve(contour, goals.mean(keepdims=True), np.array([guess]), (goals[:1], goals[1:]))
        )
        low, high = max(low, least_end), min(high, most_end)
        if high - low <= 10 * gap * high:
            break
        if abs(middle - guess) <= 1e-3 * guess:
            # Where delta falls steeply, smoothing costs more than planned. A gap shrinks as its cause does.
            if finer < gap or not low < high < math.inf:
                break
            finer = gap * 5 * gap * high / (high - low)
        guess = middle if low < middle < high else (low + min(high, 2 * guess)) / 2
    return float(low), float(high)


def delta_bounds(pairs: Pairs, epsilon: float, start: WarmStart | None = None) -> tuple[float, float]:
    """Return lower and upper bounds on delta at an epsilon of at least 0; see `epsilon_bounds`.

    Args:
        pairs: Each law and how often it was released.
        epsilon: At least 0.
        start: The contour to try first; the one that answers is stored in it.
    """
    certain, infinite = map(float, unbounded(pairs))
    if epsilon >= _most(pairs):
        return certain, infinite
    if alone := _alone(pairs, epsilon):
        return alone
    # What the upper bound counts as an infinite loss may be a loss of 0: subtract it from the lower bound.
    lost, at = infinite - certain, np.array([epsilon])
    if start and start.contour and start.subject is pairs:
        below, above = (float(bound[0]) for bound in start.contour.bounds(at))
        if above - below <= _SAME:
            return certain + max(0.0, math.exp(below) - lost), min(1.0, math.exp(min(above, 0.0)) + infinite)
    moments = moments_of(pairs, None, epsilon)
    if moments is None:
        loss, mass = _one_loss(pairs)
        more = mass * max(0.0, -math.expm1(epsilon - loss))
        return min(certain + more * (1 - 1e-12), 1.0), min(infinite + more * (1 + 1e-12) + 1e-15 * mass, 1.0)
    if not len(moments.order):
        return certain, 1.0
    low, high = 0.0, math.exp(min(float(moments.exponent(epsilon).min()), 0.0))
    guess = math.log(max(high, 1e-320))
    guess = min(guess, moments.log_delta_guess(epsilon))
    for _ in range(_TRIES):
        contour = build(pairs, moments, epsilon, guess)
        if contour is None:
            break
        below, above = (float(bound[0]) for bound in contour.bounds(at))
        low, high = max(low, math.exp(below)), min(high, math.exp(min(above, 0.0)))
        if start:
            start.keep(contour, pairs, None, epsilon)
        value = float(contour.value(at)[0][0])
        if not math.isfinite(value) or abs(value - guess) < 2:
            break
        guess = value
    return certain + max(0.0, low - lost), min(1.0, high + infinite)


def finite_goals(delta: Reals | float, certain: Reals | float, infinite: Reals | float, excess: float) -> Ends:
    """Return what the bounds of log delta must reach at the ends of epsilon, where infinite losses are left out.

    Args:
        delta: Delta.
        certain: Lower bound on the probability of an infinite loss.
        infinite: Upper bound on it.
        excess: The true delta may be smaller than that of the pairs by at most this fraction of it.

    Returns:
        For the lower and the upper end.
    """
    # Losses that may be infinite or 0 lower the upper goal and raise the lower one.
    least = (delta + (infinite - certain)) / (1 - excess) - certain
    return np.log(np.maximum(least, 1e-320)), np.log(np.maximum(delta - infinite, 1e-320))


def unbounded(pairs: Sequence[tuple[Law, Reals | float]]) -> Ends:
    """Return lower and upper bounds on the probability that some loss is infinite, of the shape of the counts."""
    with np.errstate(divide="ignore"):
        least, most = (
            -np.expm1(sum(count * np.log1p(-min(part, 1.0)) for part, count in parts))
            for parts in ([(law.certain, n) for law, n in pairs], [(law.infinite, n) for law, n in pairs])
        )
    return np.asarray(np.abs(least) * (1 - 1e-12)), np.asarray(np.minimum(1.0, np.abs(most) * (1 + 1e-12)))


def variation(pairs: Pairs) -> float:
    """Bound delta(0): the sum of the releases' total variations."""
    return sum(count * law.variation() for law, count in pairs) * (1 + 1e-12)


def at_most(pairs: Pairs, epsilon: float, delta: float) -> bool:
    """Return whether Chernoff's bound shows that delta at an epsilon above 0 is at most a given one."""
    left = delta - float(unbounded(pairs)[1])
    if not left > 0 or (moments := moments_of(pairs, None, epsilon, math.log(left))) is None:
        return False
    return bool((moments.exponent(epsilon) <= math.log(left) - MARGIN).any())


def _alone(pairs: Pairs, epsilon: float) -> tuple[float, float] | None:
    """Return bounds on delta of a single release with a closed form; None otherwise."""
    (law, count), *others = pairs
    return law.delta(epsilon) if count == 1 and not others else None


def _invert(pairs: Pairs, delta: float) -> tuple[float, float]:
    """Return bounds on epsilon from the closed form of delta, by bisection."""

    def larger(epsilon: float, side: int) -> bool:
        found = _alone(pairs, epsilon)
        return bool(found and found[side] > delta)

    most, ends = max(0.0, _most(pairs)), list[float]()
    for side in (0, 1):
        low, high = 0.0, most
        if ends and low < ends[0] < most:
            # The second end is close to the first.
            near = ends[0] * (1 + 1e-12)
            low, high = (near, most) if larger(near, side) else (ends[0], near)
        for _ in range(80):
            middle = (low + high) / 2
            if middle in (low, high):
                break
            low, high = (middle, high) if larger(middle, side) else (low, middle)
        ends.append(math.inf if larger(most, side) else (low, high)[side])
    return ends[0], ends[1]


def _most(pairs: Pairs) -> float:
    """Return an upper bound on the finite losses."""
    sizes = [count * law.most for law, count in pairs]
    return sum(sizes) + 1e-14 * sum(map(abs, sizes))


def _one_loss(pairs: Pairs) -> tuple[float, float]:
    """Return the only finite loss, and its probability."""
    log, mean, _ = moments_at(pairs, np.zeros(1))[:, 0]
    return float(mean), math.exp(log)


def moments_of(
    pairs: Pairs, log_delta: float | None, epsilon: float | None, enough: float = -math.inf
) -> Moments | None:
    """Evaluate K on orders around the best one for Chernoff's bound; None if there is only one loss."""
    variance = float(moments_at(pairs, np.zeros(1))[2][0])
    if not variance > 0:
        return None

    # A contour reaches imaginary parts far above its order, and needs more atoms there; some laws always have many.
    limits = [(law, min(_MOST_ATOMS, max(_MOST_ATOMS / 16, 4.0 * law.size(0.0)))) for law, _ in pairs]

    def columns_at(orders: Reals) -> Reals:
        while len(orders) and any(law.size(float(orders[-1])) > most for law, most in limits):
            orders = orders[:-1]
        return np.array([orders, *moments_at(pairs, orders)]) if len(orders) else np.empty((4, 0))

    try:
        return Moments.around_best(columns_at, 0.1 / math.sqrt(variance), log_delta, epsilon, enough)
    except NoOrderError:
        return Moments(*np.empty((4, 0)))


def moments_at(pairs: Pairs, orders: Reals) -> Reals:
    """Return K, and the tilted loss's mean and variance, at each order; shape `(3, m)`."""
    columns = np.zeros((3, len(orders)))
    for law, count in pairs:
        masses, losses = law.atoms(float(orders[-1]))
        for i, order in enumerate(orders):
            log = order * losses + np.log(np.maximum(masses, 1e-320))
            top = float(log.max())
            tilted = np.exp(log - top)
            total = float(tilted.sum())
            mean = float((tilted * losses).sum()) / total
            variance = float((tilted * (losses - mean) ** 2).sum()) / total
            columns[:, i] += count * np.array([math.log(total) + top, mean, variance])
    return columns


def build(pairs: Pairs, moments: Moments, epsilon: float, log_delta: float, gap: float = _GAP) -> Contour | None:
    """Evaluate the integrand on the contour that `choose` returns. If it returns None, return None."""
    found = choose(pairs, moments, epsilon, log_delta, gap)
    return found and rows((), pairs, *found, moments.order)(np.ones(1))


def choose(
    pairs: Pairs, moments: Moments, epsilon: float, log_delta: float, gap: float, longer: float = 1.0
) -> tuple[ContourPath, float] | None:
    """Choose the cheapest contour for values of delta near a guess.

    Args:
        pairs: The composition.
        moments: Its moments on a grid of orders.
        epsilon: Guess.
        log_delta: Logarithm of the guess of delta.
        gap: Relative gap of epsilon that smoothing may cost.
        longer: How many times the usual number of steps and losses the contour may have.

    Returns:
        The contour, and mu^2 of the added Gaussian release; None if no order gives one.
    """
    orders, exponent = moments.order, moments.exponent(epsilon)
    if not len(orders):
        return None
    log_delta = min(log_delta, float(exponent.min()))
    width = periods(moments, epsilon, log_delta, _GOAL)
    loss = np.maximum(exponent - log_chernoff(orders) - log_delta, 0.0)
    # Smoothing raises delta by a fraction of about smoothing * t (t + 1), and epsilon by that over t.
    smoothing = gap * max(epsilon, 1e-12) / (orders + 1)
    with np.errstate(over="ignore"):
        last = np.sqrt(2 * (30 + loss) / smoothing)
        work = np.log(last * width) + np.maximum(loss - 12, 0.0) * 3
    best = int(np.argmin(work))
    if not work[best] < 300:
        return None
    order, period = float(orders[best]), float(width[best])
    frequency = min(float(last[best]), longer * _MOST_STEPS * 2 * math.pi / period)
    lowest = -_NOTHING / order
    while any(law.size(math.hypot(order, frequency), lowest) > longer * _MOST_ATOMS for law, _ in pairs):
        frequency *= 0.8
    # At least a few steps, none far beyond the last frequency.
    period = max(period, 32 * math.pi / frequency)
    return ContourPath(order, period, frequency), 2 * (30 + float(loss[best])) / frequency**2


def rows(base: Pairs, extra: Pairs, path: ContourPath, mu2: float, orders: Reals) -> Callable[[Reals], Contour]:
    """Evaluate K on a contour that several compositions share.

    Args:
        base: What all have in common.
        extra: What they have several times.
        path: The contour.
        mu2: mu^2 of the added Gaussian release.
        orders: Real orders that bound the trapezoid rule's error.

    Returns:
        For the numbers of times, shape `(rows,)`, the contour of these compositions.
    """
    (first, *_), (each, *_) = moments_at(base, orders), moments_at(extra, orders)
    first = first + mu2 * orders * (orders + 1) / 2
    common, one = _cgf(base, path, mu2), _cgf(extra, path, 0.0)

    def at(times: Reals) -> Contour:
        return assemble(common.plus(one, times), None, path, orders, first + times[:, None] * each, mu2)

    return at


def _cgf(pairs: Pairs, path: ContourPath, mu2: float) -> Cgf:
    """Evaluate K of the releases and of the tiny Gaussian one along a contour."""
    at, across = frequencies(path)
    order = path.order
    log, mean = mu2 * order * (order + 1) / 2, mu2 * (order + 0.5)
    whole, error = (-0.5 * mu2 * at**2).astype(np.complex128), np.zeros(len(at))
    for law, count in pairs:
        # K of one release. Losses that add less than exp(-_NOTHING) of it may turn fast.
        (each,), *_ = moments_at([(law, 1)], np.array([order]))
        masses, losses = law.atoms(math.hypot(order, float(at[-1])), (float(each) - _NOTHING) / order)
        weight = order * losses + np.log(np.maximum(masses, 1e-320))
        top = float(weight.max())
        tilted = np.exp(weight - top)
        total = float(tilted.sum())
        tilted /= total
        center = float((tilted * losses).sum())
        wave, inexact = waves(tilted[None], (losses - center)[None], float(at[1]), across)
        whole += count * log1p(wave)[0]
        error += count * np.log1p(relative(inexact + MASS_ERROR, wave))[0]
        log += count * (math.log(total) + top)
        mean += count * center
    return Cgf(log, 0.0, mean, whole, error, -0.5 * mu2 * float(at[-1]) ** 2)
