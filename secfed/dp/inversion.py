"""From contours and closed forms to certified values of delta and epsilon, for one direction."""

from typing import Protocol

import numpy as np

from secfed.dp.contour import assemble, build, line, plan, shortest
from secfed.dp.ladder import Moments, Releases
from secfed.dp.laws import Reals

# Error aimed at, relative to delta; what is reached is in the bounds.
_GOAL = 1e-11
# Counts on one contour: the last over the first.
_BLOCK = 1.6
# Relative gap that a contour shared by several counts must reach.
_FINE = 1e-7
# The first attempt, which only serves as a guess.
_ROUGH = 1e-3


class Profile(Protocol):
    """delta as a function of epsilon, with bounds."""

    def value(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return the logarithm of delta, and its slope."""

    def bounds(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return a lower and an upper bound of the logarithm of delta."""


def delta_bounds(releases: Releases, epsilon: float) -> tuple[float, float]:
    """Return lower and upper bounds of the logarithm of delta(epsilon)."""
    moments = Moments.of(releases, None, epsilon)
    chernoff = float(moments.exponent(epsilon).min())
    means, logs = moments.saddle()
    ranked = np.argsort(means)
    guess = min(float(np.interp(epsilon, means[ranked], logs[ranked])), chernoff)
    at = np.array([epsilon])
    low = high = np.array([np.nan])
    for goal in (_ROUGH, _GOAL):
        contour = build(releases, moments, plan(releases, moments, epsilon, guess, goal), goal)
        value = float(contour.value(at)[0][0])
        guess = value if np.isfinite(value) else guess
    low, high = contour.bounds(at)
    return float(low[0]), float(min(high[0], chernoff, 0.0))


def epsilon_bounds(releases: Releases, log_delta: float) -> tuple[float, float]:
    """Return lower and upper bounds of epsilon(delta)."""
    moments = Moments.of(releases, log_delta, None)
    chernoff = moments.epsilon_bound(log_delta)
    means, logs = moments.saddle()
    ranked = np.argsort(-logs)
    guess = min(float(np.interp(-log_delta, -logs[ranked], means[ranked])), chernoff)
    guess = _near(releases, moments, log_delta, guess)
    contour = build(releases, moments, plan(releases, moments, guess, log_delta, _GOAL), _GOAL)
    low, high, _ = solve(contour, np.array([log_delta]), np.array([guess]))
    return float(low[0]), float(min(high[0], chernoff))


def _near(releases: Releases, moments: Moments, log_delta: float, guess: float) -> float:
    """Improve a guess of epsilon on short contours, until one of them reaches delta itself."""
    for _ in range(8):
        estimate = min(log_delta, float(moments.exponent(guess).min()))
        contour = build(releases, moments, plan(releases, moments, guess, estimate, _ROUGH), _ROUGH)
        log, slope = (float(part[0]) for part in contour.value(np.array([guess])))
        if np.isfinite(log) and abs(log - log_delta) < 1.0:
            found = float(solve(contour, np.array([log_delta]), np.array([guess]))[2][0])
            return found if abs(found - guess) < 4 / abs(slope) else guess
        change = (log_delta - log) / slope if np.isfinite(log) else -0.3 * abs(guess)
        most = 0.5 * abs(guess) + 0.1 / contour.order
        guess = min(guess + float(np.clip(change, -most, most)), moments.epsilon_bound(log_delta))
    return guess


def solve(profile: Profile, log_delta: Reals, guess: Reals) -> tuple[Reals, Reals, Reals]:
    """Find epsilon where delta has a value.

    Args:
        profile: delta as a function of epsilon.
        log_delta: Logarithm of the value, shape `(rows,)`.
        guess: Where to start, same shape.

    Returns:
        Lower and upper bounds of epsilon (infinite where none was found), and the estimate between them.
    """
    epsilon = guess
    for _ in range(40):
        log, slope = profile.value(epsilon)
        with np.errstate(invalid="ignore"):
            change = np.where(np.isfinite(log), (log_delta - log) / slope, 0.0)
        change = np.clip(change, -20 / np.abs(slope), 20 / np.abs(slope))
        epsilon = epsilon + change
        if (np.abs(change) <= 1e-15 * np.abs(epsilon)).all():
            break
    slope = -profile.value(epsilon)[1]
    low, high = profile.bounds(epsilon)
    with np.errstate(invalid="ignore"):
        down, up = np.abs(log_delta - low) / slope, np.abs(high - log_delta) / slope
    least = 4e-16 * np.abs(epsilon) + 1e-300
    lower, upper = np.full(len(epsilon), -np.inf), np.full(len(epsilon), np.inf)
    for factor in (1.001, 2.0, 10.0, 100.0):
        for side, ends, margin in ((0, lower, -down), (1, upper, up)):
            tried = epsilon + factor * margin + (least if side else -least)
            tried = np.where(np.isfinite(tried), tried, epsilon)
            bound = profile.bounds(tried)[side]
            with np.errstate(invalid="ignore"):
                holds = (bound <= log_delta) if side else (bound >= log_delta)
            ends[holds & ~np.isfinite(ends)] = tried[holds & ~np.isfinite(ends)]
        if np.isfinite(lower).all() and np.isfinite(upper).all():
            break
    return lower, upper, epsilon


def curve(base: Releases, extra: Releases, counts: Reals, log_delta: Reals) -> Reals:
    """Return upper bounds of epsilon after `extra` was released some numbers of times on top of `base`.

    Args:
        base: What was released before.
        extra: One more release.
        counts: How often, ascending, shape `(rows,)`.
        log_delta: Logarithm of delta for each, same shape.

    Returns:
        Shape `(rows,)`, at least 0.
    """
    result = np.full(len(counts), np.nan)
    start = 0
    while start < len(counts):
        stop = int(np.searchsorted(counts, counts[start] * _BLOCK, side="right"))
        rows = slice(start, max(stop, start + 1))
        result[rows] = _block(base, extra, counts[rows], log_delta[rows])
        start = rows.stop
    return np.maximum(result, 0.0)


def _block(base: Releases, extra: Releases, counts: Reals, log_delta: Reals) -> Reals:
    """Treat counts of like size on one contour; those that it does not suit, one by one."""
    upper = np.full(len(counts), np.inf)
    if len(counts) > 2:
        last = base.joined(extra, float(counts[-1]))
        moments = Moments.of(last, float(log_delta[-1]), None)
        means, logs = moments.saddle()
        ranked = np.argsort(-logs)
        end = float(log_delta[-1])
        guess = min(float(np.interp(-end, -logs[ranked], means[ranked])), moments.epsilon_bound(end))
        guess = _near(last, moments, end, guess)
        fine = plan(last, moments, guess, end, _GOAL)
        if fine.cut is None:
            # The shortest composition fades last.
            fine = shortest(base.joined(extra, float(counts[0])), fine, _GOAL)
            one, two = line(base, fine, _GOAL / 4)[0], line(extra, fine, _GOAL / 4 / float(counts[-1]))[0]
            ladder = Moments.at(base, moments.order).log + counts[:, None] * Moments.at(extra, moments.order).log
            contour = assemble(one.plus(two, counts), None, fine, moments.order, ladder)
            start = np.interp(counts, [0.0, float(counts[-1])], [0.0, guess])
            lower, upper, _ = solve(contour, log_delta, start)
            upper[~(upper - lower <= _FINE * np.abs(upper))] = np.inf
    for i in np.flatnonzero(~np.isfinite(upper)):
        upper[i] = epsilon_bounds(base.joined(extra, float(counts[i])), float(log_delta[i]))[1]
    return upper


def epsilon_of(profile: Profile, log_delta: float) -> tuple[float, float]:
    """Return lower and upper bounds of epsilon(delta) of a closed form; epsilon is at least 0."""
    if profile.bounds(np.zeros(1))[1][0] <= log_delta:
        return 0.0, 0.0
    # log delta falls and is concave where it matters: bracket by doubling, then halve, before Newton's steps.
    low, high = 0.0, 1e-12
    while profile.value(np.array([high]))[0][0] > log_delta and high < 1e300:
        low, high = high, high * 4
    for _ in range(12):
        middle = (low + high) / 2
        inside = profile.value(np.array([middle]))[0][0] > log_delta
        low, high = (middle, high) if inside else (low, middle)
    lower, upper, _ = solve(profile, np.array([log_delta]), np.array([(low + high) / 2]))
    return max(float(lower[0]), 0.0), float(upper[0])
