"""Places the nodes of all kinds of laws, in groups small enough that temporary arrays stay small."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from secfed.dp.contour import fixed_size, nodes, privacy_loss
from secfed.dp.contour.nodes import Nodes
from secfed.dp.contour.privacy_loss import Laws, Reals

# Numbers in one temporary array.
_ENTRIES = 1 << 19
# Target error of moments at real orders.
REAL_TOLERANCE = 1e-8


def grids(
    laws: Laws, order: float, frequency: float, tolerance: float, *, stretch: float = 1.0, rows: int = 1
) -> Iterator[Nodes]:
    """Place nodes for moments up to a real part and an imaginary part.

    Args:
        laws: The releases.
        order: Largest t.
        frequency: Largest u.
        tolerance: Target error relative to E[exp(t loss)], for all compositions together.
        stretch: `Cut.stretch` if the laws will be cut.
        rows: How many numbers for each node the caller wants to hold at a time.

    Yields:
        Nodes for a group of laws that need about the same number.
    """
    start, stop, sizes = _layout(laws, order, frequency, tolerance, stretch)
    ranked, first = np.argsort(sizes, kind="stable"), 0
    for i in range(1, len(ranked) + 1):
        if i == len(ranked) or int(sizes[ranked[i]]) * (i + 1 - first) * rows > _ENTRIES:
            some, size = ranked[first:i], int(sizes[ranked[i - 1]])
            if laws.direction == "fixed_size":
                yield fixed_size.place(laws.part(some), start[some], stop[some], size | 1, order, frequency)
            else:
                yield nodes.place(laws.part(some), start[some], stop[some], size, order)
            first = i


def most_nodes(laws: Laws, order: float, frequency: float = 0.0) -> int:
    """Return the most nodes that any law needs for moments up to a real and an imaginary part."""
    return int(_layout(laws, order, frequency, REAL_TOLERANCE, 1.0)[2].max())


def all_nodes(laws: Laws, order: float, frequency: float, tolerance: float, stretch: float) -> int:
    """Return how many nodes `grids` will place for all laws together."""
    return int(np.minimum(_layout(laws, order, frequency, tolerance, stretch)[2], 1 << 40).sum())


def _layout(
    laws: Laws, order: float, frequency: float, tolerance: float, stretch: float
) -> tuple[Reals, Reals, npt.NDArray[np.int64]]:
    """Return where each law's nodes start and stop, and how many there are; computed once."""
    pair = fixed_size if laws.direction == "fixed_size" else privacy_loss
    key = order, frequency, tolerance, stretch
    found: tuple[Reals, Reals, npt.NDArray[np.int64]] = laws.kept.once(key, lambda: pair.layout(laws, *key))
    return found
