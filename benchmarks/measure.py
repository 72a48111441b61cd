"""Paired measurements: two things in turn, in one process, so that a machine that drifts does not matter."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    target: str
    found: str
    met: bool
    detail: str = ""


def cpu(function: Callable[[], object]) -> float:
    """Return the CPU seconds of one call, all threads together."""
    start = time.process_time()
    function()
    return time.process_time() - start


def wall(function: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def paired(
    first: Callable[[], object],
    second: Callable[[], object],
    *,
    repeats: int = 7,
    clock: Callable[[Callable[[], object]], float] = cpu,
) -> tuple[float, float, float]:
    """Time two functions in turn after one warm-up.

    Returns:
        The median seconds of each, and the median of the ratio first / second.
    """
    first(), second()
    pairs = [(clock(first), clock(second)) for _ in range(repeats)]
    ratio = statistics.median(a / b for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def print_or_write(table: str, page: Path | None, marker: str) -> None:
    """Print a table, or replace the part of a page between two lines `marker`."""
    if page is None:
        print(table)
        return
    before, _, after = page.read_text().split(marker)
    page.write_text(f"{before}{marker}\n\n{table}\n\n{marker}{after}")
