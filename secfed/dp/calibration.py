"""The noise, the sampling rate or the number of rounds that a budget allows."""

import math
from collections.abc import Callable
from typing import Literal

from secfed.dp.accountant import Accountant, check_budget, largest
from secfed.dp.events import Adjacency, Event, FixedSizeSampled, Gaussian, PoissonSampled, check_count
from secfed.errors import ConfigError

Sampling = Literal["poisson", "fixed"]

# Relative accuracy of what is found.
_ACCURACY = 1e-9
_LEAST_NOISE, _MOST_NOISE = 1e-3, 1e9
_MOST_ROUNDS = 10**9


def release(
    noise_multiplier: float, sampling_rate: float = 1.0, sampling: Sampling = "poisson", population: int | None = None
) -> Event:
    """Return the event of one round.

    Args:
        noise_multiplier: Noise standard deviation over clip_norm.
        sampling_rate: Probability that a client joins (`"poisson"`), or the cohort's fraction of all (`"fixed"`).
        sampling: How a cohort is drawn.
        population: Number of clients; needed for `"fixed"`.

    Raises:
        ConfigError: The sampling rate is out of range, or no whole number of the population.
    """
    gaussian = Gaussian(noise_multiplier)
    if not 0 < sampling_rate <= 1:
        raise ConfigError(f"sampling_rate {sampling_rate} must be above 0 and at most 1")
    if sampling == "poisson":
        return gaussian if sampling_rate == 1 else PoissonSampled(sampling_rate, gaussian)
    if sampling != "fixed":
        raise ConfigError(f"sampling {sampling!r} must be poisson or fixed")
    if population is None:
        raise ConfigError("sampling fixed needs the population: the number of clients")
    check_count("population", population)
    cohort = round(sampling_rate * population)
    if cohort < 1 or abs(cohort - sampling_rate * population) > 1e-6:
        raise ConfigError(f"sampling_rate {sampling_rate} of {population} clients is no whole number of at least 1")
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
    """Return the least noise multiplier that keeps a budget, to nine digits, never below it.

    Args:
        epsilon: Budget.
        delta: Budget.
        sampling_rate: See `release`.
        rounds: Number of releases.
        sampling: See `release`.
        population: See `release`.
        adjacency: `"add_remove"` or `"replace"`.

    Returns:
        The noise multiplier; epsilon at it is at most the budget.

    Raises:
        ConfigError: A parameter is out of range, or no noise keeps the budget.

    >>> round(noise_multiplier(epsilon=3.0, delta=1e-5, sampling_rate=0.01, rounds=1000), 4)
    0.8136
    """
    check_budget(epsilon, delta)
    check_count("rounds", rounds)
    release(1.0, sampling_rate, sampling, population)  # refuses before the search does

    def spent(logarithm: float) -> float:
        event = release(math.exp(logarithm), sampling_rate, sampling, population)
        return Accountant(adjacency).compose(event, rounds).epsilon(delta)

    low, high = math.log(_LEAST_NOISE), math.log(_MOST_NOISE)
    # Unsampled noise is enough in any case, and a first guess.
    guess = min(
        max(math.log(math.sqrt(2 * rounds * math.log(1.25 / delta)) / epsilon) + math.log(sampling_rate), low + 1),
        high - 1,
    )
    found = _falling(spent, epsilon, guess, low, high)
    if found is None:
        raise ConfigError(
            f"no noise multiplier up to {_MOST_NOISE:g} keeps epsilon {epsilon} at delta {delta} for {rounds} rounds"
        )
    return math.exp(found)


def sampling_rate(
    *, epsilon: float, delta: float, noise_multiplier: float, rounds: int = 1, adjacency: Adjacency = "add_remove"
) -> float:
    """Return the largest rate of Poisson sampling that keeps a budget, to nine digits, never above it.

    Args:
        epsilon: Budget.
        delta: Budget.
        noise_multiplier: Noise standard deviation over clip_norm.
        rounds: Number of releases.
        adjacency: `"add_remove"` or `"replace"`.

    Returns:
        The sampling rate, at most 1.

    Raises:
        ConfigError: A parameter is out of range, or no rate from 1e-12 on keeps the budget.
    """
    check_budget(epsilon, delta)
    check_count("rounds", rounds)

    def spent(logarithm: float) -> float:
        event = release(noise_multiplier, min(1.0, math.exp(-logarithm)))
        return Accountant(adjacency).compose(event, rounds).epsilon(delta)

    if spent(0.0) <= epsilon:
        return 1.0
    found = _falling(spent, epsilon, 3.0, 0.0, math.log(1e12))
    if found is None:
        raise ConfigError(f"no sampling rate from 1e-12 on keeps epsilon {epsilon} at delta {delta}")
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
    """Return the most rounds that keep a budget, at most 10^9; 0 if not even one does.

    Args:
        epsilon: Budget.
        delta: Budget.
        noise_multiplier: Noise standard deviation over clip_norm.
        sampling_rate: See `release`.
        sampling: See `release`.
        population: See `release`.
        adjacency: `"add_remove"` or `"replace"`.

    Raises:
        ConfigError: A parameter is out of range.
    """
    check_budget(epsilon, delta)
    event = release(noise_multiplier, sampling_rate, sampling, population)
    empty = Accountant(adjacency)
    return largest(
        lambda count: count == 0 or not empty.would_exceed(event, epsilon=epsilon, delta=delta, count=count),
        most=_MOST_ROUNDS,
    )


def _falling(spent: Callable[[float], float], budget: float, guess: float, low: float, high: float) -> float | None:
    """Return the least argument at which a falling function is at most the budget, from above; or nothing.

    The logarithm of epsilon is nearly linear in the logarithm of the noise: secant steps, kept inside a bracket.
    """

    def excess(at: float) -> float:
        value = spent(at)
        return math.inf if value == math.inf else math.log(max(value, 1e-300) / budget)

    left, right = (low, math.inf), (high, -math.inf)
    at, step = guess, 0.5
    while True:
        value = excess(at)
        if value > 0:
            left = (at, value)
            if right[1] != -math.inf or at >= high:
                break
            at = min(high, at + step)
        else:
            right = (at, value)
            if left[1] != math.inf or at <= low:
                break
            at = max(low, at - step)
        step *= 2
    if right[1] == -math.inf and left[0] >= high:
        return None
    if left[1] == math.inf and right[0] <= low:
        return right[0]
    side = 0
    while right[0] - left[0] > _ACCURACY / 2:
        share = 0.5 if not math.isfinite(left[1] + right[1]) or side > 1 else left[1] / (left[1] - right[1])
        # A little to the side of the longer half, so that the bracket closes from both ends.
        at = left[0] + (right[0] - left[0]) * share
        at += (_ACCURACY / 4) * (1 if right[0] - at > at - left[0] else -1)
        at = min(max(at, left[0] + _ACCURACY / 8), right[0] - _ACCURACY / 8)
        value = excess(at)
        before = right[0] - left[0]
        left, right = ((at, value), right) if value > 0 else (left, (at, value))
        side = 0 if right[0] - left[0] < before / 2 else side + 1
    return right[0]
