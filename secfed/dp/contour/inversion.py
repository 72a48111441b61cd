"""Epsilon from delta: a root of a function of epsilon that comes with certified bounds."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secfed.dp.contour.privacy_loss import Reals

# A relative step of Newton's method that is small enough to be the last one.
_LAST_STEP = 1e-8
# Without a value above and one below after this many steps, steps larger than this part of epsilon lead nowhere.
_FEW_STEPS, _LOST = 10, 1e-3
# How many times the estimated error to move away from the estimate.
_FACTORS = (1.001, *1.5 ** np.arange(1.0, 29.0))


class Profile(Protocol):
    """A delta for every epsilon, with bounds."""

    def value(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return the logarithm of delta, and its slope."""

    def bounds(self, epsilon: Reals) -> tuple[Reals, Reals]:
        """Return a lower and an upper bound of the logarithm of delta."""


def solve(
    profile: Profile, log_delta: Reals, guess: Reals, goals: tuple[Reals, Reals] | None = None
) -> tuple[Reals, Reals, Reals]:
    """Find the epsilon at which delta has a given value.

    Args:
        profile: delta as a function of epsilon.
        log_delta: Logarithm of the value, shape `(rows,)`.
        guess: Where to start, above 0, same shape.
        goals: What the lower bound of log delta must reach at the lower end, and what the upper bound may be at the
            upper end; by default `log_delta`.

    Returns:
        Lower and upper bounds on epsilon (infinite if none was found), and the estimate, at least 0.
    """
    epsilon, slope, bracket, lost = _newton(profile, log_delta, guess)
    goals, bounds, directions = goals or (log_delta, log_delta), profile.bounds(epsilon), (-1.0, 1.0)
    # A contour says nothing where it does not even show that delta is at most 1.
    lost = lost | ~(bounds[1] <= 1.0)
    scale, steps = np.where(epsilon > 0, epsilon, guess), []
    for goal, bound, sign in zip(goals, bounds, directions, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            step = np.maximum(sign * (bound - goal), 0.0) / np.maximum(-slope, 1e-290)
        # Where delta is flat or its bound infinite, start closer than any step that could help.
        steps.append(np.where(step < 1e3 * scale, step, 1e-6 * scale))
    nearest = 4e-16 * epsilon
    # Epsilon is never below 0.
    found = [np.where(epsilon > 0, -np.inf, 0.0), np.full(len(epsilon), np.inf)]

    def improve(ends: Sequence[Reals], where: Sequence[npt.NDArray[np.bool_]]) -> bool:
        """Take ends that hold and are closer than the known ones; return whether any was closer."""
        some = False
        for side, sign in enumerate(directions):
            closer = where[side] & np.isfinite(ends[side]) & (sign * ends[side] < sign * found[side])
            if closer.any():
                some = True
                bound = profile.bounds(np.where(closer, ends[side], epsilon))[side]
                closer &= sign * (bound - goals[side]) <= 0
                found[side][closer] = ends[side][closer]
        return some

    for factor in _FACTORS:
        ends = [epsilon + sign * (factor * step + nearest) for sign, step in zip(directions, steps, strict=True)]
        if not improve(ends, (~lost, ~lost)):
            break
        if factor == _FACTORS[0]:
            # Where delta jumps to 0, only the bracket's ends may do. Others can be closer.
            improve(bracket, [np.isinf(known) for known in found])
    return found[0], found[1], epsilon


def _newton(
    profile: Profile, log_delta: Reals, guess: Reals
) -> tuple[Reals, Reals, tuple[Reals, Reals], npt.NDArray[np.bool_]]:
    """Search by Newton's method, and by halves where that leads nowhere.

    Returns:
        The estimate of epsilon, and the slope of log delta there. The largest epsilon with a larger delta and the
        smallest one with a smaller delta, of all that were tried; infinite if there was none. The rows in which the
        search found nothing.
    """
    epsilon, before = guess, np.inf
    least, most = np.full(len(guess), -np.inf), np.full(len(guess), np.inf)
    for steps_taken in range(40):
        log, slope = profile.value(epsilon)
        larger, steep = log > log_delta, np.maximum(np.abs(slope), 1e-290)
        least, most = np.where(larger, epsilon, least), np.where(larger, most, epsilon)
        with np.errstate(invalid="ignore", over="ignore"):
            change = (log - log_delta) / steep
            middle = (least + most) / 2
        # Where delta is flat or lost in rounding errors, Newton's step could go anywhere.
        target = np.clip(epsilon + change, 0.0, 2 * epsilon + guess)
        outside = ((target <= least) | (target >= most)) & (target != epsilon)
        target = np.where(outside & np.isfinite(middle), middle, target)
        target = np.where(most <= 0, 0.0, target)
        moved = float((np.abs(target - epsilon) / np.maximum(target, 1e-100)).max())
        epsilon = target
        # What is left after such a step is about its square. Once steps stop shrinking, they are only rounding.
        if moved <= _LAST_STEP or (before < 1e-7 and moved > before / 4):
            break
        # On a contour that does not suit, all values may be wrong.
        if steps_taken > _FEW_STEPS and moved > _LOST and not np.isfinite(middle).any():
            break
        before = moved
    lost = ~np.isfinite(middle) & (np.abs(change) > _LOST * epsilon) & (epsilon > 0)
    return epsilon, slope, (least, most), lost


def epsilon_of(profile: Profile, log_delta: float) -> tuple[float, float]:
    """Return lower and upper bounds on epsilon(delta) from a closed form; epsilon is at least 0."""
    if profile.bounds(np.zeros(1))[1][0] <= log_delta:
        return 0.0, 0.0
    # A guess within a factor of 4.
    guess = np.ones(1)
    while profile.value(guess)[0][0] > log_delta and guess < 1e300:
        guess = guess * 4
    while profile.value(guess / 4)[0][0] <= log_delta and guess > 1e-12:
        guess = guess / 4
    lower, upper, _ = solve(profile, np.array([log_delta]), guess / 2)
    return max(float(lower[0]), 0.0), float(upper[0])
