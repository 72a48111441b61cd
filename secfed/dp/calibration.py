"""The noise, the sampling rate or the number of rounds that a budget allows."""

import math
from collections.abc import Callable
from typing import Literal

from secfed.dp.checks import check_budget, check_count, check_rate
from secfed.dp.composition import Composition
from secfed.dp.contour.integral import WarmStart
from secfed.dp.events import Adjacency, Event, FixedSizeSampled, Gaussian, PoissonSampled
from secfed.dp.remaining import most_rounds
from secfed.errors import ConfigError

Sampling = Literal["poisson", "fixed"]

# Relative accuracy of the result.
_ACCURACY = 1e-9
_LEAST_NOISE, _MOST_NOISE = 1e-3, 1e9
# Log gap at which a search with cheap bounds ends, and the most evaluations after it.
_NEAR = 0.02
_MOST_TRIES = 60
# Bounds this far apart (log) come from the slowest evaluations; each counts as this many.
_WIDE, _SLOW = 1e-3, 6
_MOST_CEILINGS = 5
# Assumed log gap of the bounds if there is no lower one, and the most by which parameters may then differ.
_UNKNOWN = 0.1
_LOOSE = 0.003
# A value whose log of epsilon over budget is beyond this does not enter the slope.
_FAR = 3.0


def release(
    noise_multiplier: float, sampling_rate: float = 1.0, sampling: Sampling = "poisson", population: int | None = None
) -> Event:
    """Return the event of one round.

    Args:
        noise_multiplier: Standard deviation of the noise, divided by `clip_norm`.
        sampling_rate: Probability that a client joins (`"poisson"`), or the cohort's fraction of all (`"fixed"`).
        sampling: How a cohort is drawn: `"poisson"` (each client joins independently) or `"fixed"` (a set number).
        population: Number of clients; needed for `"fixed"`.

    Raises:
        ConfigError: The sampling rate is out of range, or it does not give a whole number of clients.
    """
    gaussian = Gaussian(noise_multiplier)
    sampling_rate = check_rate(sampling_rate)
    if sampling == "poisson":
        return gaussian if sampling_rate == 1 else PoissonSampled(sampling_rate, gaussian)
    if sampling != "fixed":
        raise ConfigError(f"sampling {sampling!r} must be poisson or fixed")
    if population is None:
        raise ConfigError("sampling fixed needs the population: the number of clients")
    population = check_count("population", population)
    cohort = round(sampling_rate * population)
    if cohort < 1 or abs(cohort - sampling_rate * population) > 1e-6:
        raise ConfigError(f"sampling_rate {sampling_rate} of {population} clients is not a whole number of at least 1")
    return FixedSizeSampled(cohort, population, gaussian)


def noise_multiplier(
    *,
    epsilon: float,
    delta: float,
    sampling_rate: float = 1.0,
    rounds: int = 1,
    sampling: Sampling = "poisson",
    population: int | None = None,
    adjacency: Adjacency = "add_remove",
) -> float:
    """Return the least noise multiplier that keeps within a budget, to nine digits and rounded up.

    Args:
        epsilon: Budget.
        delta: Budget.
        sampling_rate: Probability that a client joins (`"poisson"`), or the cohort's fraction of all (`"fixed"`).
        rounds: Number of releases.
        sampling: How a cohort is drawn: `"poisson"` (each client joins independently) or `"fixed"` (a set number).
        population: Number of clients; needed for `"fixed"`.
        adjacency: `"add_remove"` or `"replace"`.

    Returns:
        The noise multiplier; its epsilon is at most the budget.

    Raises:
        ConfigError: A parameter is out of range, or no noise meets the budget.

    >>> round(noise_multiplier(epsilon=3.0, delta=1e-5, sampling_rate=0.01, rounds=1000), 4)
    0.8136
    """
    epsilon, delta = check_budget(epsilon, delta)
    rounds = check_count("rounds", rounds)
    release(1.0, sampling_rate, sampling, population)  # reject bad parameters before the search

    def composed(logarithm: float) -> Composition:
        event = release(math.exp(logarithm), sampling_rate, sampling, population)
        return Composition.of([(event, rounds)], adjacency)

    found = _falling(composed, epsilon, delta, math.log(_LEAST_NOISE), math.log(_MOST_NOISE))
    if found is None:
        raise ConfigError(
            f"no noise multiplier up to {_MOST_NOISE:g} meets epsilon {epsilon} at delta {delta} for {rounds} rounds"
        )
    return math.exp(found)


def sampling_rate(
    *, epsilon: float, delta: float, noise_multiplier: float, rounds: int = 1, adjacency: Adjacency = "add_remove"
) -> float:
    """Return the largest rate of Poisson sampling that keeps within a budget, to nine digits and rounded down.

    Args:
        epsilon: Budget.
        delta: Budget.
        noise_multiplier: Noise standard deviation over clip_norm.
        rounds: Number of releases.
        adjacency: `"add_remove"` or `"replace"`.

    Returns:
        The sampling rate, at most 1.

    Raises:
        ConfigError: A parameter is out of range, or no rate from 1e-12 up meets the budget.
    """
    epsilon, delta = check_budget(epsilon, delta)
    rounds = check_count("rounds", rounds)

    def composed(logarithm: float) -> Composition:
        return Composition.of([(release(noise_multiplier, min(1.0, math.exp(-logarithm))), rounds)], adjacency)

    if composed(0.0).epsilon(delta)[1] <= epsilon:
        return 1.0
    found = _falling(composed, epsilon, delta, 0.0, math.log(1e12))
    if found is None:
        raise ConfigError(f"no sampling rate of at least 1e-12 meets epsilon {epsilon} at delta {delta}")
    return math.exp(-found)


def rounds(
    *,
    epsilon: float,
    delta: float,
    noise_multiplier: float,
    sampling_rate: float = 1.0,
    sampling: Sampling = "poisson",
    population: int | None = None,
    adjacency: Adjacency = "add_remove",
) -> int:
    """Return how many rounds fit into a budget, at most 10^9; 0 if not even one fits.

    Args:
        epsilon: Budget.
        delta: Budget.
        noise_multiplier: Noise standard deviation over clip_norm.
        sampling_rate: Probability that a client joins (`"poisson"`), or the cohort's fraction of all (`"fixed"`).
        sampling: How a cohort is drawn: `"poisson"` (each client joins independently) or `"fixed"` (a set number).
        population: Number of clients; needed for `"fixed"`.
        adjacency: `"add_remove"` or `"replace"`.

    Raises:
        ConfigError: A parameter is out of range.
    """
    epsilon, delta = check_budget(epsilon, delta)
    event = release(noise_multiplier, sampling_rate, sampling, population)
    return most_rounds(Composition.of((), adjacency), event, epsilon, delta)


def _falling(
    composed: Callable[[float], Composition], budget: float, delta: float, low: float, high: float
) -> float | None:
    """Return the least argument at which a falling epsilon is at most the budget, rounded up, or None.

    Cheap bounds come first: they show where to start and what to skip. Secant steps inside a bracket follow, because
    the logarithm of epsilon is nearly linear in the logarithm of the noise.
    """
    known = _first(lambda x: not composed(x).exceeds(budget, delta), low, high)
    if known is None:
        return None
    left, right, at, step = max(low, known - 2 * _NEAR), high, known, 0.25
    # If the total variation shows that epsilon is 0, no other engine is needed.
    best = _first(lambda x: composed(x).nothing(delta), left, high)
    right = high if best is None else best
    for _ in range(_MOST_CEILINGS):
        if at >= right or composed(at).ceiling(delta, budget) <= budget:
            break
        at, step = min(at + step, high), 2 * step
    if at >= right and best is not None:
        at = (left + right) / 2
    known_values: list[tuple[float, float]] = []
    slope = 1.5
    tries, width = 0, _UNKNOWN
    starts, renewed = (WarmStart(), WarmStart()), False
    while tries < _MOST_TRIES:
        lower, upper = composed(at).epsilon(delta, starts)
        if upper > 0:
            # An epsilon of 0 does not tell how close the engines are.
            width = math.log(upper / lower) if 0 < lower <= upper < math.inf else _UNKNOWN
        if not renewed and abs(math.log(max(upper, 1e-300) / budget)) < _NEAR and width > 3 * slope * _ACCURACY:
            # The contour of an earlier query is too far off for nine digits: choose one here.
            starts, renewed = (WarmStart(), WarmStart()), True
            continue
        tries += _SLOW if width > _WIDE else 1
        value = math.inf if upper == math.inf else math.log(max(upper, 1e-300) / budget)
        if abs(value) < _FAR:
            if known_values and known_values[-1][1] != value:
                slope = min(max((known_values[-1][1] - value) / (at - known_values[-1][0]), 1e-3), 1e3)
            known_values = [*known_values[-2:], (at, value)]
        if value > 0:
            left = max(left, at)
            if at >= high:
                return None
            if best is None:
                at, step = min(at + step, high), 2 * step
                continue
        else:
            right = best = at
            # If the engines differ by more than the distance to the budget, going on gains nothing.
            if at <= low or -value <= slope * _ACCURACY / 2 + 0.1 * width:
                break
        if right - left <= max(_ACCURACY, min(0.03 * width, _LOOSE)):
            break
        # Aim a little to the right, to stay within the budget; if a step leaves the bracket, bisect.
        for aimed in (_where_zero(known_values), at + value / slope, (left + right) / 2):
            if left < aimed + _ACCURACY / 4 < right:
                at = aimed + _ACCURACY / 4
                break
    return best


def _where_zero(points: list[tuple[float, float]]) -> float:
    """Return where the parabola through the last three (argument, value) pairs, or the line through two, is 0.

    The parabola gives the argument for each value (inverse interpolation). The result is infinite with fewer than two
    points, or if two have the same value.
    """
    if len(points) < 2 or len({value for _, value in points}) < len(points):
        return math.inf
    return sum(at * math.prod(other / (other - value) for _, other in points if other != value) for at, value in points)


def _first(holds: Callable[[float], bool], low: float, high: float) -> float | None:
    """Return an argument near the least one from which a condition stays true; None if it fails at the end."""
    if not holds(high):
        return None
    while high - low > _NEAR:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
