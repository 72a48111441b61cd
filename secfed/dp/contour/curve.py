"""Epsilon after each round: a curve whose points share contours."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.polynomial import Polynomial

from secfed.dp.contour.cgf import evaluate
from secfed.dp.contour.integral import Contour, assemble
from secfed.dp.contour.inversion import solve
from secfed.dp.contour.moments import Moments, NoOrderError, Releases, log_chernoff
from secfed.dp.contour.path import ContourPath, adapted, choose, frequencies, shortest, work
from secfed.dp.contour.privacy_loss import Reals
from secfed.dp.contour.sampled_gaussian import Effort, between, smooth

Alone = Callable[[Releases, float, float], tuple[float, float]]
# Target error relative to delta, and the relative gap that must be reached.
_GOAL = 1e-8
_FINE = 1e-6
# Counts that share a contour: the last one divided by the first.
_BLOCK = 2.5
# Rows solved first.
_KNOTS = 9
# Relative gap of the guess when the moments give none.
_ROUGH = 1e-3
# The most work of a shared contour for each row: beyond it, contours of their own are cheaper. See `path.work`.
_WORK_PER_ROW = 2e7
# Frequencies that make a contour so long that the next block tries it before a new one, and the most that it evaluates
# there in all rows together.
_LONG, _MOST_SHARED = 5_000, 200_000


@dataclass(frozen=True, slots=True)
class _Shared:
    """A contour that compositions share.

    Attributes:
        rows: Returns the contour of the compositions with some counts, shape `(rows,)`.
        frequencies: How many frequencies it has.
        needed: About how many of them the largest count needs; the next block needs about as many.
    """

    rows: Callable[[Reals], Contour]
    frequencies: int
    needed: float


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
    last, end = base.joined(extra, float(counts[-1])), float(log_delta[-1])
    if floor[-1] > 0:
        with suppress(NoOrderError):
            orders = Moments.of(last, None, float(floor[-1]), end).order
            size = Moments.at(base, orders).log + counts[:, None] * Moments.at(extra, orders).log + log_chernoff(orders)
            lower = (size - orders * floor[:, None]).min(axis=1) <= log_delta
            upper[lower] = floor[lower]
    # On a logarithmic scale epsilon is nearly a straight line.
    guess = float(before[1] ** 2 / before[0]) if 0 < before[0] < before[1] else np.inf
    growth = float(np.log2(before[1] / before[0])) if guess < np.inf else 1.0

    def solve_on(rows: Callable[[Reals], Contour], guess: float) -> None:
        left = np.flatnonzero(~np.isfinite(upper))
        if not len(left):
            return
        start = guess * (counts[left] / counts[-1]) ** growth
        if len(left) > 2 * _KNOTS:
            # Solve a few rows first; interpolate guesses for the others.
            some = np.unique(np.linspace(0, len(left) - 1, _KNOTS).astype(np.intp))
            few = left[some]
            known = solve(rows(counts[few]), log_delta[few], start[some])[2]
            fitted = Polynomial.fit(counts[few], known, len(few) - 1)(counts[left])
            start = np.where(fitted > 0, fitted, guess)
        low, high, _ = solve(rows(counts[left]), log_delta[left], start)
        found = (high - low <= _FINE * np.abs(high)) | (high <= floor[left])
        upper[left[found]] = high[found]

    if shared and shared.needed >= _LONG and shared.frequencies * len(counts) <= _MOST_SHARED and guess < np.inf:
        solve_on(shared.rows, guess)
    if len(counts) > 1 and not np.isfinite(upper).all():
        shared, guess = _share(base, extra, counts, last, end, guess)
        if shared:
            solve_on(shared.rows, guess)
    for i in np.flatnonzero(~np.isfinite(upper)):
        upper[i] = alone(base.joined(extra, float(counts[i])), float(log_delta[i]), _GOAL)[1]
    return upper, shared


def _share(
    base: Releases, extra: Releases, counts: Reals, last: Releases, log_delta: float, guess: float
) -> tuple[_Shared | None, float]:
    """Evaluate both compositions on a contour chosen for the last count, which the other rows share.

    Returns:
        The contour, or None, and a guess of the last epsilon.
    """
    try:
        moments = Moments.of(last, log_delta, None)
    except NoOrderError:
        return None, guess
    most = moments.epsilon_bound(log_delta)
    known = guess < most
    guess = guess if known else min(moments.epsilon_guess(log_delta), most)
    path = choose(last, moments, guess, log_delta, _GOAL, doubtful=not known)
    if path is None:
        guess = between(smooth(last, log_delta, _ROUGH, (0.0, most)))
        path = choose(last, moments, guess, log_delta, _GOAL) if guess < most else None
    needed = path.frequency * path.period / (2 * np.pi) if path else 0.0
    if path and path.cut is None:
        # The smallest composition decays slowest.
        path = shortest(base.joined(extra, float(counts[0])), path, _GOAL)
    if path is None or not work(last, path, _GOAL) <= min(Effort(last).left, _WORK_PER_ROW * len(counts)):
        return None, guess
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

    return _Shared(rows, len(frequencies(path)[0]), needed), guess
