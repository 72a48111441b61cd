"""The probability that a round ends without a sum because too many clients dropped out."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.special import bdtr

from secfed.aggregation.cohort_sizes import ANY_COHORT

# Sizes of a Poisson cohort that are checked one by one; more sizes are checked in this many groups.
_SIZES = 200
# Cohorts further from the expected size are less likely than 1 in 10^20, and counted as failures.
_DEVIATIONS = 10.0


@dataclass(frozen=True, slots=True)
class Needed:
    """The clients that must survive for a round to give a sum.

    Attributes:
        survivors: Fewest survivors of the cohort.
        neighbors: Neighbors of each client on a k-regular graph, who hold its shares; 0 on the complete graph.
        holders: Fewest survivors among each client's neighbors.
    """

    survivors: int
    neighbors: int = 0
    holders: int = 0

    def failure(self, clients: int, dropout_fraction: float) -> float:
        """Return an upper bound on the probability that a round of this many clients gives no sum.

        Clients drop out independently of each other. On the complete graph the tail is exact. On a k-regular one it is
        the exact tail of one client's neighbors, times the clients (a union bound): a client that drops out needs
        holders too. The bound assumes the worst case, that all dropouts come after the graph is drawn.
        """
        total = _fewer(self.survivors, clients, dropout_fraction)
        if self.neighbors:
            total += clients * _fewer(self.holders, self.neighbors, dropout_fraction)
        return min(1.0, total)


def _fewer(needed: int, clients: int, dropout_fraction: float) -> float:
    """Return the probability that fewer than needed of this many clients survive."""
    if needed <= 0:
        return 0.0
    return 1.0 if needed > clients else float(bdtr(needed - 1, clients, 1 - dropout_fraction))


def any_of(rounds: int, failure: float) -> float:
    """Return the probability that at least one of independent rounds fails."""
    return 1.0 if failure >= 1 else -math.expm1(rounds * math.log1p(-failure))


def poisson_failure(
    needed: Callable[[int], Needed | None],
    *,
    population: int,
    sampling_rate: float,
    dropout_fraction: float,
    cohorts: tuple[int, int] = ANY_COHORT,
) -> float:
    """Return an upper bound on the probability that a round with a Poisson cohort gives no sum.

    Args:
        needed: The clients that must survive in a cohort of this size; None: it cannot run.
        population: Clients that may join.
        sampling_rate: Probability with which each of them does.
        dropout_fraction: Probability with which a client of the cohort drops out.
        cohorts: The smallest and the largest cohort that runs.
    """
    mean = population * sampling_rate
    reach = _DEVIATIONS * (math.sqrt(mean * (1 - sampling_rate)) + 1)
    low, high = max(0, math.floor(mean - reach)), min(population, math.ceil(mean + reach))
    total, at_most = 0.0, max(1, (high - low) // _SIZES)
    for first in range(low, high + 1, at_most):
        last = min(first + at_most - 1, high)
        weight = float(bdtr(last, population, sampling_rate))
        if first > 0:
            weight -= float(bdtr(first - 1, population, sampling_rate))
        total += max(0.0, weight) * max(
            1.0
            if not cohorts[0] <= size <= cohorts[1] or (who := needed(size)) is None
            else who.failure(size, dropout_fraction)
            for size in {first, last}
        )
    return min(1.0, total)
