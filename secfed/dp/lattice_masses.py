"""Losses of one release on lattice points, from above and from below.

*From above* each loss is split between its two neighbors on the lattice so that the masses of P and of Q both stay;
*from below* all outcomes whose losses lie in one cell are merged, and the merged loss is rounded down.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.dp.losses import Law, NoiseLaw, Pair
from secfed.errors import ConfigError

Array = npt.NDArray[Any]
MOST_CELLS = 1 << 18
_CROWD = 64


class Losses:
    """Masses at losses `offset + step * index`, and the mass of losses without bound."""

    def __init__(self, index: Array, step: float, masses: Array, infinite: float, offset: float = 0.0) -> None:
        keep = masses > 0
        self.index, self.losses, self.log_masses = (
            index[keep].astype(np.int64),
            index[keep] * step,
            np.log(masses[keep]),
        )
        self.infinite, self.offset = infinite, offset

    def log_moment(self, order: float) -> float:
        """Return the logarithm of the mean of exp(order * loss)."""
        terms = self.log_masses + order * self.losses
        most = float(terms.max(initial=-math.inf))
        return most + math.log(float(np.exp(terms - most).sum())) if most > -math.inf else most

    def tilted(self, order: float) -> Array:
        """Return the tilted masses; they sum to 1."""
        return np.asarray(np.exp(self.log_masses + order * self.losses - self.log_moment(order)))

    def spread(self, order: float) -> tuple[float, float]:
        """Return mean and variance of the tilted law."""
        tilted = self.tilted(order)
        mean = float((tilted * self.losses).sum())
        return mean, float((tilted * (self.losses - mean) ** 2).sum())


class LossSum:
    """Several independent losses, each several times."""

    def __init__(self, parts: Sequence[tuple[Losses, int]]) -> None:
        self.parts = parts

    def log_moment(self, order: float) -> float:
        """Return the logarithm of the mean of exp(order * loss) of the sum."""
        return sum(float(count) * part.log_moment(order) for part, count in self.parts)

    def spread(self, order: float) -> tuple[float, float]:
        """Return mean and variance of the tilted law of the sum."""
        spreads = [(part.spread(order), float(count)) for part, count in self.parts]
        return sum(count * mean for (mean, _), count in spreads), sum(count * var for (_, var), count in spreads)


def cells_around(law: Law, step: float, shift: float) -> Array:
    """Return whole numbers k such that all losses lie between the first and the last `shift + step * k`.

    Raises:
        ConfigError: There would be too many.
    """
    low, high = math.floor((law.reach[0] - shift) / step) - 1, math.ceil((law.reach[1] - shift) / step) + 1
    if high - low > 8 * MOST_CELLS:
        raise ConfigError(f"step {step} is too small for losses from {law.reach[0]:.3g} to {law.reach[1]:.3g}")
    return np.arange(float(low), high + 1.0)


def upper_lattice(law: Law, step: float, cells: Array | None = None) -> Losses:
    """Return the upper lattice: masses split between neighbours."""
    shift = _shift(law, step)
    cells = cells_around(law, step, shift) if cells is None else cells
    points = shift + cells * step
    masses, losses = law.atoms(points)
    place = np.clip(np.searchsorted(points, losses, "right") - 1, 0, len(cells) - 2)
    share = np.clip(np.expm1(points[place] - losses) / np.expm1(points[place] - points[place + 1]), 0.0, 1.0)
    total = np.bincount(place, masses * (1 - share), len(cells)) + np.bincount(place + 1, masses * share, len(cells))
    return Losses(cells, step, total, law.infinite, shift)


def _shift(law: Law, step: float) -> float:
    """Return what puts a law's marks on the lattice."""
    return math.remainder(law.marks[0], step) if law.marks else 0.0


def lower_lattice(law: Law, step: float, order: float, given: Array | None = None) -> Losses:
    """Return the lower lattice: cells merged, and what they then lose rounded down."""
    shift = _shift(law, step)
    if given is None and isinstance(law, NoiseLaw) and not law.marks and law.end:
        # Where losses crowd at one end of their range, the lattice is laid so that the last cells fit too.
        best = math.inf
        for trial in step * np.arange(-8, 8) / 16:
            cells = cells_around(law, step, trial)
            cells = cells[:_CROWD] if law.end < 0 else cells[-_CROWD:]
            total, excess = _fit(law, step, trial, cells, 3)
            inner = slice(None, -1) if law.end < 0 else slice(1, None)
            cost = float((total[inner] * excess[inner] ** 2).sum())
            best, shift = (cost, float(trial)) if cost < best else (best, shift)
    cells = cells_around(law, step, shift) if given is None else given
    # With given cells, work is bounded: further rounds change little.
    rounds = 0 if isinstance(law, Pair) else 4 if given is None else 2
    total, excess = _fit(law, step, shift, cells, rounds)
    # Of noise, what is left out counts for nothing here.
    infinite = law.infinite if isinstance(law, Pair) else 0.0
    if not total.any():
        return Losses(cells, step, total, infinite)
    # What lies under the common offset goes down by a whole step; the offset that costs least counts.
    kept = total > 0
    weights = np.exp(np.log(total[kept]) + order * (step * cells[kept] - step * cells[kept].max()))
    ranks = np.argsort(excess[kept])
    offsets, weights = excess[kept][ranks], weights[ranks]
    cost = step * (np.cumsum(weights) - weights) - weights.sum() * offsets
    offset = float(offsets[np.argmin(cost)])
    return Losses(cells + np.floor((excess - offset) / step), step, total, infinite, shift + offset)


def _fit(law: Law, step: float, shift: float, cells: Array, rounds: int) -> tuple[Array, Array]:
    """Merge outcomes around `shift + step * cells`; shift edges until merged losses lie there.

    Returns:
        Masses of P, and merged losses minus the lattice's.
    """
    middles, gaps = (cells[:-1] + cells[1:]) / 2, step * np.diff(cells)
    cuts = shift + step * middles
    for round in range(rounds + 1):
        masses, losses = law.atoms(cuts)
        place = np.searchsorted(cuts, losses)
        total = np.bincount(place, masses, len(cells)).astype(np.float64)
        other = np.bincount(place, masses * np.exp(shift + step * cells[place] - losses), len(cells))
        # A smaller excess is rounded down further, which is on the safe side.
        excess = np.log(np.divide(total, np.maximum(other, 1e-300), out=np.ones_like(total), where=total > 0))
        if round < rounds:
            cuts = np.clip(cuts - (excess[1:] + excess[:-1]) / 2, cuts - gaps / 4, cuts + gaps / 4)
            cuts = np.clip(cuts, shift + step * middles - 0.4 * gaps, shift + step * middles + 0.4 * gaps)
    return total, excess
