"""Epsilon from delta: a root of a function of epsilon that comes with certified bounds."""

from itertools import chain
from typing import Protocol

import numpy as np

from secfed.dp.contour.privacy_loss import Reals

# A relative step of Newton's method that is small enough to be the last one.
_LAST_STEP = 1e-8
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
        guess: Where to start, same shape.
        goals: What the lower bound of log delta must reach at the lower end, and what the upper bound may be at the
            upper end; by default `log_delta`.

    Returns:
        Lower and upper bounds on epsilon (infinite if none was found), and the estimate between them.
    """
    epsilon, before = guess, np.inf
    least, most = np.full(len(guess), -np.inf), np.full(len(guess), np.inf)
    for _ in range(40):
        log, slope = profile.value(epsilon)
        larger, steep = log > log_delta, np.maximum(np.abs(slope), 1e-290)
        least, most = np.where(larger, epsilon, least), np.where(larger, most, epsilon)
        with np.errstate(invalid="ignore", over="ignore"):
            # Far beyond the answer, a value may be lost in rounding errors.
            change = np.where(log > -1e290, (log - log_delta) / steep, -0.5 * np.abs(epsilon))
        change = np.clip(change, -20 / steep, 20 / steep)
        # Keep Newton's step inside the bracket.
        outside = (epsilon + change < least) | (epsilon + change > most)
        with np.errstate(invalid="ignore"):
            middle = (least + most) / 2 - epsilon
        change = np.where(outside & np.isfinite(middle), middle, change)
        epsilon = epsilon + change
        moved = float((np.abs(change) / np.maximum(np.abs(epsilon), 1e-300)).max())
        # What is left after such a step is about its square. Once steps stop shrinking, they are only rounding.
        if moved <= _LAST_STEP or (before < 1e-7 and moved > before / 4):
            break
        before = moved
    goals, bounds, directions = goals or (log_delta, log_delta), profile.bounds(epsilon), (-1.0, 1.0)
    steps = []
    for goal, bound, sign in zip(goals, bounds, directions, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            step = np.maximum(sign * (bound - goal), 0.0) / np.maximum(-slope, 1e-290)
        # Where the bound itself is infinite, start closer than any step that could help.
        steps.append(np.where(np.isfinite(step), step, 1e-6 * np.abs(epsilon)))
    nearest = 4e-16 * np.abs(epsilon) + 1e-300
    found = [np.full(len(epsilon), sign * np.inf) for sign in directions]
    wider = (
        [epsilon + sign * (f * step + nearest) for sign, step in zip(directions, steps, strict=True)] for f in _FACTORS
    )
    # Where delta jumps to 0, only the bracket's ends may do.
    for ends in chain(wider, [[least, most]]):
        for side, sign in enumerate(directions):
            open_ = ~np.isfinite(found[side]) & np.isfinite(ends[side])
            if open_.any():
                bound = profile.bounds(np.where(np.isfinite(ends[side]), ends[side], epsilon))[side]
                holds = open_ & (sign * (bound - goals[side]) <= 0)
                found[side][holds] = ends[side][holds]
    return found[0], found[1], epsilon


def epsilon_of(profile: Profile, log_delta: float) -> tuple[float, float]:
    """Return lower and upper bounds on epsilon(delta) from a closed form; epsilon is at least 0."""
    if profile.bounds(np.zeros(1))[1][0] <= log_delta:
        return 0.0, 0.0
    # log delta falls, and is concave where it matters: double to find a bracket, halve it, then use Newton.
    low, high = 0.0, 1e-12
    while profile.value(np.array([high]))[0][0] > log_delta and high < 1e300:
        low, high = high, high * 4
    for _ in range(16):
        middle = (low + high) / 2
        inside = profile.value(np.array([middle]))[0][0] > log_delta
        low, high = (middle, high) if inside else (low, middle)
    lower, upper, _ = solve(profile, np.array([log_delta]), np.array([(low + high) / 2]))
    return max(float(lower[0]), 0.0), float(upper[0])
