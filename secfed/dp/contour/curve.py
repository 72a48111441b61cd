"""Epsilon after each round: a curve whose points share contours."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.polynomial import Polynomial

from secfed.dp.contour import smoothed
from secfed.dp.contour.capped import capped
from secfed.dp.contour.cgf import evaluate
from secfed.dp.contour.integral import Contour, assemble
from secfed.dp.contour.inversion import solve
from secfed.dp.contour.moments import Moments, NoOrderError, Releases, log_chernoff
from secfed.dp.contour.path import ContourPath, adapted, choose, frequencies, shortest, work
from secfed.dp.contour.privacy_loss import Reals
from secfed.dp.contour.sampled_gaussian import between, smooth
from secfed.dp.contour.smoothed import Ends, finite_goals

Alone = Callable[[Releases, float, float], tuple[float, float]]
# Target error relative to delta, and the gap that must be reached: relative, and absolute.
_GOAL = 1e-8
_FINE, _TINY = 3e-5, 1e-6
# Counts that share a contour: the last one divided by the first.
_BLOCK = 2.5
# Rows solved first.
_KNOTS = 9
# Relative gap of the guess when the moments give none, and what smoothing costs of epsilon.
_ROUGH, _SMOOTHING = 3e-3, 1e-6
# The most work of an exact contour, see `path.work`: beyond it, a smoothed one takes less time.
_MOST_WORK = 3e7
# Frequencies that make a contour so long that the next block tries it before a new one, and the most that it evaluates
# there in all rows together.
_LONG, _MOST_SHARED = 5_000, 200_000
# Smoothed contours of a block, each started from the last guess of epsilon, and how far off the guess may be.
_TRIES, _CLOSE = 3, 0.3
# Most values of u in all rows that are solved at a time.
_AT_ONCE = 1 << 19


@dataclass(frozen=True, slots=True)
class _Shared:
    """A contour that compositions share.

    Attributes:
        rows: Returns the contour of the compositions with some counts, shape `(rows,)`.
        frequencies: How many frequencies it has.
        needed: About how many of them the largest count needs; the next block needs about as many.
        infinite: Returns bounds on the probability of an infinite loss, which is not in the contour, of some counts.
    """

    rows: Callable[[Reals], Contour]
    frequencies: int
    needed: float = 0.0
    infinite: Callable[[Reals], Ends] | None = None

    def epsilon(self, counts: Reals, log_delta: Reals, guess: Reals) -> tuple[Reals, Reals, Reals]:
        """Return lower and upper bounds on epsilon, and estimates, each of shape `(rows,)`."""
        goals = None
        if self.infinite:
            goals = finite_goals(np.exp(log_delta), *self.infinite(counts), 0.0)
            log_delta = (goals[0] + goals[1]) / 2
        return solve(self.rows(counts), log_delta, guess, goals)


def upper_curve(base: Releases, extra: Releases, counts: Reals, log_delta: Reals, floor: Reals, alone: Alone) -> Reals:
    """Return upper bounds on epsilon after `base` plus some number of releases of `extra`.

    Args:
        base: What was released before.
        extra: One more release.
        counts: How often `extra` was released, ascending, shape `(rows,)`.
        log_delta: Logarithm of delta for each, same shape.
        floor: Values below which no bound is needed, same shape.
        alone: `alone(releases, log_delta, goal)` gives the bounds of one composition.

    Returns:
        Shape `(rows,)`, at least the floor.
    """
    result = np.full(len(counts), np.nan)
    start, shared = 0, None
    while start < len(counts):
        # A single release has a closed form and needs no contour.
        stop = int(np.searchsorted(counts, counts[start] * _BLOCK, side="right")) if start else 1
        rows = slice(start, max(stop, start + 1))
        # Epsilon at half of the last count, and at the last count.
        before = result[[(start - 1) // 2, start - 1]] if start else np.zeros(2)
        result[rows], shared = _block(base, extra, counts[rows], log_delta[rows], floor[rows], alone, before, shared)
        start = rows.stop
    return np.asarray(np.maximum(result, floor))


def _block(
    base: Releases,
    extra: Releases,
    counts: Reals,
    log_delta: Reals,
    floor: Reals,
    alone: Alone,
    before: Reals,
    shared: _Shared | None,
) -> tuple[Reals, _Shared | None]:
    """Solve counts of similar size on one contour, and those that it does not fit one by one.

    Args:
        before: Epsilon at half of the last count before, and at that count; 0 if unknown.
        shared: The contour of the counts before, or None.

    Returns:
        The upper bounds, and the contour for the next counts.
    """
    upper = np.full(len(counts), np.inf)
    last = base.joined(extra, float(counts[-1]))
    if floor[-1] > 0:
        with suppress(NoOrderError):
            orders = Moments.of(last, None, float(floor[-1]), float(log_delta[-1])).order
            size = Moments.at(base, orders).log + counts[:, None] * Moments.at(extra, orders).log + log_chernoff(orders)
            lower = (size - orders * floor[:, None]).min(axis=1) <= log_delta
            upper[lower] = floor[lower]
    # On a logarithmic scale epsilon is nearly a straight line.
    guess = float(before[1] ** 2 / before[0]) if 0 < before[0] < before[1] else np.inf
    growth = float(np.log2(before[1] / before[0])) if guess < np.inf else 1.0

    def solve_on(its: _Shared, guess: float) -> None:
        left = np.flatnonzero(np.isinf(upper))
        start = guess * (counts[left] / counts[-1]) ** growth
        if len(left) > 2 * _KNOTS:
            # Solve a few rows first; interpolate guesses for the others.
            some = np.unique(np.linspace(0, len(left) - 1, _KNOTS).astype(np.intp))
            few = left[some]
            known = its.epsilon(counts[few], log_delta[few], start[some])[2]
            fitted = Polynomial.fit(counts[few], known, len(few) - 1)(counts[left])
            start = np.where(fitted > 0, fitted, guess)
        for part in np.array_split(np.arange(len(left)), -(-len(left) * its.frequencies // _AT_ONCE)):
            rows = left[part]
            low, high, _ = its.epsilon(counts[rows], log_delta[rows], start[part])
            found = (high - low <= _FINE * high + _TINY) | (high <= floor[rows])
            upper[rows[found]] = high[found]

    if shared and shared.needed >= _LONG and shared.frequencies * len(counts) <= _MOST_SHARED and guess < np.inf:
        solve_on(shared, guess)
    contours = _contours(base, extra, counts, last, log_delta, guess)
    while len(counts) > 1 and np.isinf(upper).any() and (found := next(contours, None)):
        shared, last_guess, most = found
        # Fewer releases reveal no more than the last row's.
        upper[np.isinf(upper) & (floor >= most)] = most
        if shared and np.isinf(upper).any():
            solve_on(shared, last_guess)
    for i in np.flatnonzero(np.isinf(upper)):
        upper[i] = alone(base.joined(extra, float(counts[i])), float(log_delta[i]), _GOAL)[1]
    return upper, shared


def _contours(
    base: Releases, extra: Releases, counts: Reals, last: Releases, log_delta: Reals, guess: float
) -> Iterator[tuple[_Shared | None, float, float]]:
    """Yield contours chosen for the last count, which the other rows share: first exact ones, then a smoothed one.

    Yields:
        The contour, or None if it costs too much. A guess of the last epsilon. An upper bound on it.
    """
    end = float(log_delta[-1])
    try:
        moments = Moments.of(last, end, None)
    except NoOrderError:
        return
    most = moments.epsilon_bound(end)
    known = guess < most
    guess = guess if known else min(moments.epsilon_guess(end), most)
    path = choose(last, moments, guess, end, _GOAL, doubtful=not known)
    if path is None:
        bounds = smooth(last, end, _ROUGH, (0.0, most))
        guess, most = between(bounds), min(most, bounds[1])
        yield None, guess, most
        path = choose(last, moments, guess, end, _GOAL) if guess < most else None
    if path:
        yield _exact(base, extra, counts, last, moments, path), guess, most
    yield _smoothed(base, extra, last, log_delta, guess, most), guess, most


def _exact(
    base: Releases, extra: Releases, counts: Reals, last: Releases, moments: Moments, path: ContourPath
) -> _Shared | None:
    """Evaluate both compositions on a contour, or return None if that is too much work."""
    needed = path.frequency * path.period / (2 * np.pi)
    if path.cut is None:
        # The smallest composition decays slowest.
        path = shortest(base.joined(extra, float(counts[0])), path, _GOAL)
    if not work(last, path, _GOAL) <= _MOST_WORK:
        return None
    tolerance = path.tolerance(_GOAL)
    (one, below_one), (two, below_two) = (
        evaluate(base, path, tolerance),
        evaluate(extra, path, tolerance / float(counts[-1])),
    )
    log_base, log_extra = (Moments.at(releases, moments.order).log for releases in (base, extra))
    bulk_base, bulk_extra = (adapted(releases, path).bulk for releases in (base, extra))

    def rows(times: Reals) -> Contour:
        its: ContourPath = replace(path, bulk=bulk_base + times[:, None] * bulk_extra) if len(bulk_base) else path
        below = below_one.plus(below_two, times) if below_one and below_two else None
        return assemble(one.plus(two, times), below, its, moments.order, log_base + times[:, None] * log_extra)

    return _Shared(rows, len(frequencies(path)[0]), needed)


def _smoothed(
    base: Releases, extra: Releases, last: Releases, log_delta: Reals, guess: float, most: float
) -> _Shared | None:
    """Evaluate both compositions, with capped losses, on a smoothed contour, or return None if there is none."""
    if extra.gaussian:
        return None
    count, end, first = last.laws[-1].count[-1:], log_delta[-1:], sum(map(len, base.laws))
    stop = first + sum(map(len, extra.laws))
    for _ in range(_TRIES):
        # A cap below epsilon would only widen the bounds, and a guess is usually closer.
        found = capped(last, float(log_delta.min()), min(most, 1.5 * guess), _SMOOTHING / 10)
        moments = smoothed.moments_of(found.pairs, float(end[0]), None) if found else None
        chosen = smoothed.choose(found.pairs, moments, guess, float(end[0]), _SMOOTHING) if found and moments else None
        if not (found and moments and chosen):
            return None
        common, each = [*found.pairs[:first], *found.pairs[stop:]], [(law, 1) for law, _ in found.pairs[first:stop]]
        shared = _Shared(
            smoothed.rows(common, each, *chosen, moments.order),
            len(frequencies(chosen[0])[0]),
            infinite=partial(_infinite, smoothed.unbounded(common), smoothed.unbounded(each)),
        )
        known = float(shared.epsilon(count, end, np.array([guess]))[2][0])
        if abs(known - guess) <= _CLOSE * guess:
            break
        guess = known
    return shared


def _infinite(base: tuple[float, float], extra: tuple[float, float], times: Reals) -> Ends:
    """Bound the probability of an infinite loss in a base, and in any of some further releases."""
    low, high = (-np.expm1(np.log1p(-one) + times * np.log1p(-more)) for one, more in zip(base, extra, strict=True))
    return low * (1 - 1e-12), high * (1 + 1e-12)
