"""Sums of exponentials at many equally spaced frequencies: a nonuniform fast Fourier transform with a proved error.

Each point is spread over the cells of a fine grid with a narrow normal density. The grid is transformed, and the
density's effect on each frequency is divided out. Points near 0 are summed as a power series instead, because their sum
hardly differs from its value at frequency 0 and the difference must keep its digits.

Source:
    Greengard, Lee: Accelerating the Nonuniform Fast Fourier Transform, SIAM Review 2004. The error bound follows from
    Poisson's summation formula, see `docs/accountant.md`, section 5.5.
"""

import math

import numpy as np
import numpy.typing as npt

from secfed.dp.contour.privacy_loss import ROUNDOFF, Reals

Complexes = npt.NDArray[np.complex128]
# Grid cells per frequency, and how many cells a point's density reaches on either side.
_OVERSAMPLING = 8
_REACH = 16
_SHARPNESS = 0.875 * math.pi / _REACH
# Rounding error of the transform, relative to the sum of the weights; see section 5.5.
ERROR = 6e-15
# Points closer to 0 than this, times the largest frequency, are summed with this many powers; the rest is below 1e-20.
_NEAR = 4.0
_POWERS = 38
# Points of one cell added in a row.
_RUN = 16
# Roundings of a power series: NumPy sums in pairs, so at most 16 + log2(n) additions follow each other.
ROUNDINGS = 100


def transform_work(points: float, frequencies: float) -> float:
    """Predict the work of a transform, in units of what one point at one frequency costs in a plain sum."""
    return 1e5 + 60.0 * points + 300.0 * frequencies


def fourier_sums(weights: Reals, points: Reals, step: float, count: int) -> tuple[Complexes, float]:
    """Return the sums over all points of weight * (exp(iu point) - 1), at u = 0, step, 2 step, ...

    Args:
        weights: Not negative, shape `(n,)`.
        points: Shape `(n,)`.
        step: Distance of the frequencies.
        count: How many frequencies.

    Returns:
        The sums, shape `(count,)`, and a bound on their error. `ROUNDINGS` roundings of the sum of the moduli come on
        top.
    """
    from scipy import fft

    frequencies = np.arange(float(count)) * step
    near = np.abs(points) * frequencies[-1] <= _NEAR
    sums = _powers(weights[near], points[near], frequencies)
    weights, points = weights[~near], points[~near]
    total = float(weights.sum())
    if not total > 0:
        return sums, 0.0
    size = fft.next_fast_len(_OVERSAMPLING * count + 4 * _REACH, real=True)
    place = points * (step * size / (2 * np.pi))
    cell = np.rint(place)
    offset = place - cell
    # exp(-b (offset - j)^2) for j = -reach, ..., reach, each from the one before.
    factor = np.exp(2 * _SHARPNESS * offset)
    spread = weights * np.exp(-_SHARPNESS * offset * offset - 2 * _SHARPNESS * _REACH * offset)
    cells = cell.astype(np.int64) % size
    # Consecutive points on one cell are added first: shorter chains of additions, and less to spread.
    starts = np.flatnonzero((np.diff(cells, prepend=-1) != 0) | (np.arange(len(cells)) % _RUN == 0))
    few = len(starts) < 0.7 * len(cells)
    runs = cells[starts] if few else cells
    sparse = len(runs) < size // 8
    filled, runs = np.unique(runs, return_inverse=True) if sparse else (np.arange(size), runs)
    grid = np.zeros(size + 2 * _REACH)
    for j in range(2 * _REACH + 1):
        part = spread * math.exp(-_SHARPNESS * (j - _REACH) ** 2)
        reached = filled + j if sparse else slice(j, j + size)
        grid[reached] += np.bincount(runs, np.add.reduceat(part, starts) if few else part, len(filled))
        spread *= factor
    # The grid is a circle: what is spread past one end belongs to the other.
    circle = grid[_REACH : size + _REACH]
    circle[-_REACH:] += grid[:_REACH]
    circle[:_REACH] += grid[size + _REACH :]
    waves = np.conj(fft.rfft(circle)[:count])
    waves *= np.exp((np.pi / size * np.arange(count)) ** 2 / _SHARPNESS) * math.sqrt(_SHARPNESS / math.pi)
    turned = 4 * float(frequencies[-1] * (weights * np.abs(points)).sum())
    # Additions to a cell: those in a run, the runs on the same cell, and the cells that reach it.
    # (Not `@`: for long vectors it starts threads, which takes longer.)
    sums_of_runs = np.add.reduceat(weights, starts) if few else weights
    added = float((np.bincount(runs) * np.bincount(runs, sums_of_runs)).sum()) + (_RUN + 2 * _REACH) * total
    return sums + (waves - total), ERROR * total + (turned + 2 * added) * ROUNDOFF


def _powers(weights: Reals, points: Reals, frequencies: Reals) -> Complexes:
    """Sum weight * (exp(iu point) - 1) as a power series in u."""
    moments, term = [], weights
    for power in range(1, _POWERS + 1):
        term = term * points
        moments.append(float(term.sum()) / math.factorial(power) * (-1) ** (power // 2))
    square = frequencies * frequencies
    real, imaginary = np.zeros(len(frequencies)), np.zeros(len(frequencies))
    for power in range(_POWERS, 0, -1):
        if power % 2:
            imaginary = imaginary * square + moments[power - 1]
        else:
            real = (real + moments[power - 1]) * square
    return np.asarray(real + 1j * imaginary * frequencies)
