"""Which cohorts can run a session of secure aggregation, when their size is a matter of chance."""

from collections.abc import Callable

from secfed.errors import ConfigError


def sizes_that_run(
    refusal: Callable[[int], str], *, population: int, expected: int, neighbors: int | None
) -> tuple[int, int]:
    """Return the smallest and the largest cohort, around the expected one, that can run a session.

    On the complete graph the cohorts that can run are all between two sizes, by the rules for thresholds; on a
    k-regular graph a larger cohort can wherever a smaller one can.

    Args:
        refusal: Says why a cohort of so many clients cannot run, or nothing ("").
        population: Clients that cohorts are drawn from.
        expected: Size of the expected cohort.
        neighbors: Clients that share pair masks with one client, where cohorts are large enough; None is all.

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
    """Return the last number on the way from start, where something holds, to end; it stops holding once."""
    if holds(end):
        return end
    while abs(end - start) > 1:
        middle = (start + end) // 2
        start, end = (middle, end) if holds(middle) else (start, middle)
    return start
