"""Bounds of sampled Gaussian releases on a lattice, with bounded work: where contours would be too long.

The cells get wider with the loss, so that few of them hold both the many losses near 0 and the rare large
ones. The bounds are those of `lattice`.
"""

import math
from collections.abc import Sequence

import numpy as np

from secfed.dp.ladder import Releases
from secfed.dp.lattice import TiltedSum, solve, tilt
from secfed.dp.lattice_masses import Array, Losses, LossSum, lower_lattice, upper_lattice
from secfed.dp.losses import Law, NoiseLaw

# Work that a query may take: values in a transform, atoms of all laws, and cells of one size.
WINDOW = 1 << 19
_ATOMS = 1_000_000
_FINE_CELLS = 512
_ATTEMPTS = 3
# The widest cell, as a loss.
_WIDEST = 8.0
_SIDES: dict[str, str] = {"REMOVE": "there", "ADD": "back", "SWAP": "replaced", "PAIR": "swapped"}


def releases_epsilon(
    releases: Releases, log_delta: float, guess: float, *, below: bool = True, enough: float = 0.0
) -> tuple[float, float]:
    """Return bounds of epsilon of sampled Gaussian releases in one direction, with bounded work.

    Args:
        releases: The composition.
        log_delta: Logarithm of delta.
        guess: An upper bound of epsilon, or an estimate.
        below: Look for a lower bound, too.
        enough: An upper bound that is small enough: no better one is looked for.

    Returns:
        The bounds; 0 and infinity where the work is too much.
    """
    delta, low, high = math.exp(max(log_delta, -700.0)), 0.0, math.inf
    laws = _noises(releases, log_delta)
    if laws is None or not 0 < guess < _WIDEST * WINDOW / 32:
        return low, high
    step = 0.0
    for attempt in range(_ATTEMPTS):
        step, parts, _ = _bounded(laws, guess, coarse=attempt == 0)
        total = LossSum(parts)
        found = solve(parts, step, total, guess, delta, 1, WINDOW if attempt else WINDOW // 4)
        high, before = min(high, found), guess
        if not 0 < found < math.inf:
            break
        guess = found
        if high <= enough:
            break
        if attempt and found > 0.7 * before:
            break
    if not below:
        return low, high
    merged = [(lower_lattice(law, step, tilt(total, guess), _wide_cells(law, step)), count) for law, count in laws]
    # What is left out may count as a loss of 0 where both signs are possible: it is taken off.
    lost = sum(count * law.infinite for law, count in laws)
    return solve(merged, step, total, guess, delta + lost, -1, WINDOW), high


def releases_delta(releases: Releases, epsilon: float, log_delta: float) -> tuple[float, float]:
    """Return bounds of the logarithm of delta, as `releases_epsilon` does of epsilon.

    Args:
        releases: The composition.
        epsilon: Above 0.
        log_delta: An upper bound of the logarithm of delta, or an estimate.
    """
    low, high = -math.inf, 0.0
    for _ in range(_ATTEMPTS):
        laws = _noises(releases, log_delta)
        if laws is None or epsilon > _WIDEST * WINDOW / 32:
            return low, high
        step, parts, order = _bounded(laws, epsilon)
        found = TiltedSum(parts, step, order, epsilon, WINDOW).delta(epsilon, 1)
        before, log_delta = log_delta, math.log(found)
        high = min(high, log_delta)
        if log_delta > before - 2:
            break
    merged = [(lower_lattice(law, step, order, _wide_cells(law, step)), count) for law, count in laws or ()]
    lost = sum(count * law.infinite for law, count in laws or ())
    found = TiltedSum(merged, step, order, epsilon, WINDOW).delta(epsilon, -1) - lost
    return (math.log(found) if found > 0 else -math.inf), high


def _noises(releases: Releases, log_delta: float) -> list[tuple[NoiseLaw, int]] | None:
    """Return the laws of releases, cut where no more than a millionth of delta is beyond; nothing if that is too much.

    Masses are no logarithms here, and must not underflow.
    """
    counts = sum(float(part.count.sum()) for part in releases.laws) + float(releases.gaussian > 0)
    beyond = math.exp(max(log_delta, -690.0)) * 1e-6 / counts
    if beyond < 1e-280:
        return None
    rows = [
        (float(spread), float(rate), _SIDES[part.kind], int(count))
        for part in releases.laws
        for rate, spread, count in zip(part.rate, part.spread, part.count, strict=True)
    ]
    if releases.gaussian > 0:
        rows.append((1 / math.sqrt(releases.gaussian), 1.0, "there", 1))
    # See `NoiseLaw`: 8 nodes on each piece.
    if sum(8 * (40 * spread + 2) / min(spread / 8, spread**2 / 4) for spread, *_ in rows) > _ATOMS:
        return None
    return [(NoiseLaw(spread, rate, side, laplace=False, beyond=beyond), count) for spread, rate, side, count in rows]


def _bounded(
    laws: Sequence[tuple[NoiseLaw, int]], epsilon: float, *, coarse: bool = False
) -> tuple[float, list[tuple[Losses, int]], float]:
    """Choose a step for losses near epsilon; return it, the upper lattice, and the tilt."""
    # Losses near epsilon are to be told apart, and the window is to hold them.
    least = (min(4 * epsilon, max(law.reach[1] for law, _ in laws)) + 4 * epsilon) / WINDOW
    step = min(_WIDEST / 2, max(least, epsilon / (200 if coarse else 2000)))
    while True:
        parts = [(upper_lattice(law, step, _wide_cells(law, step)), count) for law, count in laws]
        total = LossSum(parts)
        order = tilt(total, epsilon)
        # The split adds at most step^2 / 4 to a loss's variance: that must not matter in the sum.
        fine = max(least, 0.05 * math.sqrt(total.spread(order)[1] / sum(count for _, count in laws)))
        if step <= fine * 2:
            return step, parts, order
        step = fine


def _wide_cells(law: Law, step: float) -> Array:
    """Return indices of lattice points around all losses; each doubling of the loss has the same number of them."""
    low, high = law.reach[0] / step - 2, law.reach[1] / step + 2
    half, most = np.arange(float(_FINE_CELLS)), max(-low, high)
    pieces, start, gap = [half], float(_FINE_CELLS), 1.0
    while start <= most + 2 * gap:
        # No cell is so wide that ratios within it overflow.
        wide = 2 * gap * step > _WIDEST
        end = most + 3 * gap if wide else start + _FINE_CELLS * gap
        pieces.append(np.arange(start, end, gap))
        if wide:
            break
        start, gap = end, gap * 2
    points = np.concatenate(pieces)
    both = np.concatenate([-points[:0:-1], points])
    first, last = np.searchsorted(both, [low, high])
    return np.asarray(both[max(first - 1, 0) : last + 2])
