"""Bounds on a lattice, with bounded work: where contours would be too long, and for Laplace noise.

The cells get wider with the loss, so that few of them hold both the many losses near 0 and the rare large
ones. The bounds are those of `lattice`.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from secfed.dp.events import Adjacency, Event
from secfed.dp.ladder import Releases
from secfed.dp.lattice import TiltedSum, directions, on_marks, rough_sum, solve, tilt, unbounded
from secfed.dp.lattice_masses import MOST_CELLS, Array, Losses, LossSum, lower_lattice, upper_lattice
from secfed.dp.losses import Law, NoiseLaw

# Work that a query may take: values in a transform, atoms of all laws, and cells of one size.
WINDOW = 1 << 19
_ATOMS = 1_000_000
_FINE_CELLS = 512
_ATTEMPTS = 3
# The widest cell, as a loss.
_WIDEST = 8.0
# For Laplace noise: values in a first transform, how near the last search ends, and releases that are very many.
_FEW = 1 << 15
_NEAR = 1e-11
_MANY = 10**8
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
    for attempt in range(2 * _ATTEMPTS):
        laws = _noises(releases, log_delta)
        if laws is None or epsilon > _WIDEST * WINDOW / 32:
            return low, high
        step, parts, order = _bounded(laws, epsilon)
        total = TiltedSum(parts, step, order, epsilon, WINDOW)
        found = total.delta(epsilon, 1)
        before, log_delta = log_delta, math.log(found)
        high = min(high, log_delta)
        # From a poor start it takes more attempts, where they are cheap.
        cheap = not total.empty and len(total.masses) <= WINDOW // 8
        if log_delta > before - 2 or (attempt + 1 >= _ATTEMPTS and not cheap):
            break
    merged = [(lower_lattice(law, step, order, _wide_cells(law, step)), count) for law, count in laws or ()]
    lost = sum(count * law.infinite for law, count in laws or ())
    found = TiltedSum(merged, step, order, epsilon, WINDOW).delta(epsilon, -1) - lost
    return (math.log(found) if found > 0 else -math.inf), high


def events_epsilon(events: Iterable[tuple[Event, int]], adjacency: Adjacency, delta: float) -> tuple[float, float]:
    """Return the bounds of `lattice.bounds_epsilon`, with bounded work."""
    low, high, log_delta = 0.0, 0.0, math.log(delta)
    orders = 2.0 ** np.arange(-30.0, 31.0, 0.5)
    for laws in directions(events, adjacency):
        rough, most = rough_sum(laws), _window(laws)
        few = _FEW if most == WINDOW else WINDOW // 2
        # The other direction seldom says more, and where noise is large nothing does: few cells show it.
        if high < math.inf and _total(laws, rough, high, 1, few).delta(high, 1) <= delta:
            continue
        guess = max(0.0, min((rough.log_moment(order) - log_delta) / order for order in orders))
        found = solve(*_lattice(laws, rough, guess, 1, few), rough, guess, delta, 1, few)
        guess = found if 0 < found < math.inf else guess
        upper = solve(*_lattice(laws, rough, guess, 1, most), rough, guess, delta, 1, most, _NEAR)
        guess, lower = (upper if 0 < upper < math.inf else guess), 0.0
        # Near the largest loss, or where little is known, the first window may hold no lower bound.
        for start in (guess, 0.9 * guess):
            if not lower > 0:
                lower = solve(*_lattice(laws, rough, start, -1, WINDOW), rough, start, delta, -1, WINDOW, _NEAR)
        low, high = max(low, float(lower)), max(high, float(upper))
    return low, high


def events_delta(events: Iterable[tuple[Event, int]], adjacency: Adjacency, epsilon: float) -> tuple[float, float]:
    """Return the bounds of `lattice.bounds_delta`, with bounded work."""
    low, high = 0.0, 0.0
    for laws in directions(events, adjacency):
        if epsilon > sum(count * law.reach[1] for law, count in laws) * (1 + 1e-9) + 1e-9:
            # Only noise that is left out counts as a larger loss.
            high = max(high, min(1.0, unbounded(laws) * (1 + 1e-12)))
            continue
        rough, most = rough_sum(laws), _window(laws)
        if low and _total(laws, rough, epsilon, 1, _FEW).delta(epsilon, 1) <= low:
            continue
        high = max(high, _total(laws, rough, epsilon, 1, most).delta(epsilon, 1))
        low = max(low, _total(laws, rough, epsilon, -1, most).delta(epsilon, -1))
    return low, high


def _lattice(
    laws: Sequence[tuple[Law, int]], rough: LossSum, epsilon: float, sign: int, most: int
) -> tuple[list[tuple[Losses, int]], float]:
    """Return the lattice from above (sign 1) or from below (-1) whose window holds losses near epsilon, and its step.

    The window is 17 deviations wide: what is outside has a probability of 1e-15.
    """
    order = tilt(rough, epsilon)
    variance, count = rough.spread(order)[1], sum(count for _, count in laws)
    finest = max(17 * math.sqrt(variance) / most, *(2 * float(np.ptp(law.reach)) / MOST_CELLS for law, _ in laws))
    wanted = math.sqrt(min(variance, rough.spread(0.0)[1]) / count) / 100
    step = on_marks(laws, max(wanted, finest) or 1e-3)
    if sign > 0:
        return [(upper_lattice(law, step), count) for law, count in laws], step
    return [(lower_lattice(law, step, order), count) for law, count in laws], step


def _total(laws: Sequence[tuple[Law, int]], rough: LossSum, epsilon: float, sign: int, most: int) -> TiltedSum:
    """Return the sum of all losses on such a lattice."""
    parts, step = _lattice(laws, rough, epsilon, sign, most)
    return TiltedSum(parts, step, tilt(rough, epsilon), epsilon, most)


def _window(laws: Sequence[tuple[Law, int]]) -> int:
    """Return how many values a transform may have: more for very many releases, whose steps must be fine."""
    return WINDOW if sum(count for _, count in laws) < _MANY else 2 * WINDOW


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
