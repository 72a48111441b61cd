"""Epsilon after each round: a curve whose points share contours."""

import numpy as np
from numpy.polynomial import Polynomial

from secfed.dp.contour.growing import Growing, Shared, close
from secfed.dp.contour.privacy_loss import Reals

# Counts that share a contour: the last one divided by the first.
_BLOCK = 2.5
# Rows solved first.
_KNOTS = 9
# Frequencies that make a contour so long that the next block tries it before a new one, and the most that it evaluates
# there in all rows together.
_LONG, _MOST_SHARED = 5_000, 200_000
# If a row on its own is better by at most this relative difference, the others are not asked alone.
_NO_BETTER = 1e-4
# Most frequencies of all rows that are solved at a time.
_AT_ONCE = 1 << 19


def upper_curve(growing: Growing, counts: Reals, log_delta: Reals, floor: Reals) -> Reals:
    """Return upper bounds on epsilon of a composition that grows.

    Args:
        growing: The composition.
        counts: How often the further releases were made, ascending, shape `(rows,)`.
        log_delta: Logarithm of delta for each, not rising, same shape.
        floor: Values below which no bound is needed, not falling, same shape.

    Returns:
        Shape `(rows,)`, not falling, at least the floor.
    """
    result = np.full(len(counts), np.nan)
    start, shared = 0, None
    while start < len(counts):
        # A single release has a closed form and needs no contour.
        stop = int(np.searchsorted(counts, counts[start] * _BLOCK, side="right")) if start else 1
        rows = slice(start, max(stop, start + 1))
        # Epsilon at half of the last count, and at the last count.
        before = result[[(start - 1) // 2, start - 1]] if start else np.zeros(2)
        result[rows], shared = _block(growing, counts[rows], log_delta[rows], floor[rows], before, shared)
        start = rows.stop
    # Fewer releases reveal no more, so each bound holds for the counts before it too.
    return np.asarray(np.minimum.accumulate(np.maximum(result, floor)[::-1])[::-1])


def _block(
    growing: Growing, counts: Reals, log_delta: Reals, floor: Reals, before: Reals, shared: Shared | None
) -> tuple[Reals, Shared | None]:
    """Solve counts of similar size on one contour, and those that it does not fit one by one.

    Args:
        before: Epsilon at half of the last count before, and at that count; 0 if unknown.
        shared: The contour of the counts before, or None.

    Returns:
        The upper bounds, and the contour for the next counts.
    """
    upper = growing.settled(counts, log_delta, floor)
    # Upper bounds that are not close to the lower ones.
    wide = np.full(len(counts), np.inf)
    # On a logarithmic scale epsilon is nearly a straight line.
    guess = float(before[1] ** 2 / before[0]) if 0 < before[0] < before[1] else np.inf
    growth = float(np.log2(before[1] / before[0])) if guess < np.inf else 1.0

    def solve_on(its: Shared, guess: float) -> None:
        left = np.flatnonzero(np.isinf(upper))
        if not len(left):
            return
        start = guess * (counts[left] / counts[-1]) ** growth
        if len(left) > 2 * _KNOTS:
            # Solve a few rows first; interpolate guesses for the others.
            some = np.unique(np.linspace(0, len(left) - 1, _KNOTS).astype(np.intp))
            few = left[some]
            known = its.epsilon(counts[few], log_delta[few], start[some])[2]
            fitted = Polynomial.fit(counts[few], known, len(few) - 1)(counts[left])
            start = np.where(fitted > 0, fitted, guess)
        parts = min(len(left), -(-len(left) * its.frequencies // _AT_ONCE))
        for part in np.array_split(np.arange(len(left)), parts):
            rows = left[part]
            low, high, _ = its.epsilon(counts[rows], log_delta[rows], start[part])
            found = close(low, high) | (high <= floor[rows])
            upper[rows[found]] = high[found]
            wide[rows] = np.fmin(wide[rows], high)

    if shared and shared.needed >= _LONG and shared.frequencies * len(counts) <= _MOST_SHARED and guess < np.inf:
        solve_on(shared, guess)
    contours = growing.contours(counts, log_delta, guess, float(floor[-1]), float(before[1]))
    while len(counts) > 1 and np.isinf(upper).any() and (found := next(contours, None)):
        shared, last_guess, most = found
        # Fewer releases reveal no more than the last row's.
        upper[np.isinf(upper) & (floor >= most)] = most
        if shared:
            solve_on(shared, last_guess)
    rest = np.flatnonzero(np.isinf(upper))
    # Shared contours suit the larger counts of a block better than the smaller ones: from this row on, they do.
    suited = len(rest)

    def ask(row: int) -> float:
        """Solve a row alone, unless that did not help a smaller count."""
        nonlocal suited
        i = rest[row]
        if row < suited or np.isinf(wide[i]):
            alone = growing.alone(float(counts[i]), float(log_delta[i]))
            if wide[i] <= alone * (1 + _NO_BETTER):
                suited = min(suited, row)
            wide[i] = min(wide[i], alone)
        upper[i] = wide[i]
        return float(max(upper[i], floor[i]))

    def ask_between(first: int, last: int, low: float, high: float) -> None:
        """Solve the rows between two that have close bounds, by halves: fewer releases reveal no more."""
        if last - first > 1 and close(np.array(2 * low - high), np.array(high)):
            upper[rest[first + 1 : last]] = high
        elif last - first > 1:
            middle = (first + last) // 2
            value = ask(middle)
            ask_between(first, middle, low, value)
            ask_between(middle, last, value, high)

    if len(rest):
        low = ask(0)
    if len(rest) > 1:
        ask_between(0, len(rest) - 1, low, ask(len(rest) - 1))
    return upper, shared
