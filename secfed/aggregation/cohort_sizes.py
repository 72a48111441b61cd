"""Which sizes of random cohorts can run a session of secure aggregation."""

import math
from collections.abc import Callable
from functools import lru_cache

from scipy.special import gammaln

from secfed.dp.events import Event, PoissonSampled
from secfed.dp.rounding import as_given_or_down, exact, up
from secfed.errors import ConfigError

# Largest fraction of delta that may go to cohorts that are too small or too large to aggregate.
MOST_OF_DELTA = 0.1
# More than the relative error of the binomial law in double precision.
_BINOMIAL_MARGIN = 1 + 1e-6
# Every number of clients.
ANY_COHORT = (0, 1 << 62)


def sizes_that_run(
    refusal: Callable[[int], str], *, population: int, expected: int, neighbors: int | None
) -> tuple[int, int]:
    """Return the smallest and the largest cohort, around the expected one, that can run a session.

    On the complete graph, by the rules for thresholds, exactly the cohorts between two sizes can run. On a k-regular
    graph a larger cohort can run wherever a smaller one can.

    Args:
        refusal: Says why a cohort of this many clients cannot run, or nothing ("").
        population: Clients that cohorts are drawn from.
        expected: Size of the expected cohort.
        neighbors: How many clients share pair masks with one client, in cohorts that are large enough; None means all.

    Raises:
        ConfigError: The expected cohort cannot run.
    """

    def runs(clients: int) -> bool:
        return not refusal(clients)

    if found := refusal(expected):
        raise ConfigError(f"the expected cohort of {expected} clients cannot run: {found}")
    most = population + 1
    complete = most if neighbors is None else min(most, neighbors + 1)
    smallest, largest = _last(runs, expected, complete), most
    if expected <= complete and not (runs(complete) and runs(most)):
        largest = _last(runs, expected, complete)
    if expected <= complete or runs(complete):
        smallest = _last(runs, min(expected, complete), 0)
    return smallest, largest


def _last(holds: Callable[[int], bool], start: int, end: int) -> int:
    """Return the last number from start on at which a condition holds; from there to end it fails."""
    if holds(end):
        return end
    while abs(end - start) > 1:
        middle = (start + end) // 2
        start, end = (middle, end) if holds(middle) else (start, middle)
    return start


@lru_cache(64)
def decisive_probability(population: int, sampling_rate: float, cohorts: tuple[int, int]) -> float:
    """Bound the probability that one client decides whether a Poisson cohort is too small or too large for a sum.

    Args:
        population: Clients that may join.
        sampling_rate: Probability with which each of them joins.
        cohorts: The smallest and the largest cohort of which a sum can be made.

    Returns:
        An upper bound on the probability that one fewer than the smallest cohort, or as many as the largest, of the
        other clients joined. It holds whether or not the client is one of the `population`.
    """
    smallest, largest = cohorts
    sizes = [size for size in (smallest - 1, largest) if 0 <= size <= population]
    most = max(
        sum(_binomial(others, sampling_rate, size) for size in sizes if size <= others)
        for others in (population - 1, population)
    )
    return min(1.0, most * _BINOMIAL_MARGIN)


def refusal_of_skips(
    event: Event | None, *, rounds: int, delta: float, cohorts: tuple[int, int], expected: int, population: int
) -> str:
    """Say why cohorts that are too small or too large by chance cost too much of delta, or nothing ("").

    Args:
        event: The event of a round.
        rounds: How many rounds there are.
        delta: What all of them may spend.
        cohorts: The smallest and the largest cohort of which a sum can be made.
        expected: Size of the expected cohort.
        population: Clients that cohorts are drawn from.
    """
    if not (isinstance(event, PoissonSampled) and event.decisive_probability):
        return ""
    cost, allowed = rounds * event.decisive_probability, MOST_OF_DELTA * delta
    if cost <= allowed:
        return ""
    smallest, largest = cohorts
    needed = f"{smallest} to {largest}" if largest <= population else f"at least {smallest}"
    return (
        f"needed {needed} clients in a cohort, expected {expected} by chance: one client may decide whether "
        f"there is a release, which costs {up(cost, 3)} of delta {exact(delta)} in {rounds} rounds, at most "
        f"{as_given_or_down(allowed, 3)} is allowed; more clients, a higher sampling_rate or a lower minimum "
        "make it rarer, cohort_size rules it out"
    )


def _binomial(count: int, rate: float, successes: int) -> float:
    """Return the probability of this many successes, for a rate below 1."""
    ways = gammaln(count + 1) - gammaln(successes + 1) - gammaln(count - successes + 1)
    return math.exp(ways + successes * math.log(rate) + (count - successes) * math.log1p(-rate))
