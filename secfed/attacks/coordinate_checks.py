"""Does every coordinate have its noise? Check each across rounds: alone, in blocks, in combs, and by counting.

The sum over R rounds of the squares of a coordinate's noise, in units of the claimed variance, is chi-squared with R
degrees of freedom. These checks look only for too little noise. More noise breaks no promise of privacy, and sums over
all coordinates show it.

Noise on a lattice: let g be the smallest distance of released values in standard deviations. The probability that R
rounds have a norm of at most r is at most (1 + g^2 / 4)^R times the normal probability for r + g sqrt(R) / 2, because
each lattice point is as likely as its cell, up to that factor. Discrete Gaussian and Skellam noise have an excess
kurtosis of at most g^2, which widens the sum of n squares like that of 1 + g^2 / 2 times fewer squares; this is used if
a limit is at least one lattice step. So the limits are exact for normal noise, and on a coarse lattice the checks find
less. A contribution that is too long only adds to the squares, so an error of the clip raises no alarm here.

Power, computed from the distribution for a total false alarm of 1e-6. Too little noise on one coordinate is missed in
at most one case in 1,000 if this fraction of the standard deviation, or less, is left:

=========== ======== ========= ========= =========
coordinates 8 rounds 22 rounds 40 rounds 64 rounds
=========== ======== ========= ========= =========
1,000       0.022    0.16      0.28      0.38
20,000      0.015    0.13      0.26      0.36
1,000,000   0.009    0.11      0.23      0.33
=========== ======== ========= ========= =========

So with a hundred coordinates or more, four rounds find a coordinate without any noise; half the noise on one of them
takes more than 64 rounds. Of 20,000 coordinates, 100 neighboring ones (they contain a block of 64) or 12 (a block of 8)
are found if this fraction, or less, is left:

========== ======== ========= ========= =========
neighbors  8 rounds 22 rounds 40 rounds 64 rounds
========== ======== ========= ========= =========
12         0.35     0.55      0.65      0.71
100        0.72     0.82      0.87      0.89
========== ======== ========= ========= =========

Source: the law of the sum of squares; the bound for a lattice is Jensen's inequality in each cell, and a ball around
the mean is the likeliest of its size (Anderson, 1955).
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from secfed.attacks.checks import MISSED, Check

Array = npt.NDArray[np.float64]

_WIDEST_COMB = 64
_COUNTED = (1e-1, 1e-2, 1e-3, 1e-4)


def each_coordinate(squares: Array, rounds: int, gap: float, share: float) -> tuple[Check, float]:
    """Check the coordinate with the least noise.

    Args:
        squares: For each coordinate, the sum over rounds of its squared noise, in units of the claimed variance.
        rounds: How many rounds were summed.
        gap: Upper bound on the noise's lattice step, in units of the claimed standard deviation.
        share: Probability of a false alarm, at most.

    Returns:
        The check, and the resolution: it finds one coordinate whose noise is too small by this fraction.
    """
    low = _limit(rounds, share / len(squares), gap)
    found = math.sqrt(float(squares.min()) / rounds)
    largest = math.sqrt(special.gammainccinv(rounds / 2, MISSED) * 2 / rounds)
    meaning = "least standard deviation of the noise of a coordinate / claimed"
    return Check("noise_of_each_coordinate", found, low, math.inf, meaning), 1 - low / largest


def scattered(squares: Array, rounds: int, gap: float, share: float) -> Check:
    """Count the coordinates with little noise, wherever they are; the parameters are those of `each_coordinate`.

    The count is at most binomial. This assumes that coordinates have independent noise.
    """
    checks = []
    for chance in _COUNTED:
        low = _limit(rounds, chance, gap)
        found = int(np.count_nonzero(squares <= rounds * low**2)) if low > 0 else 0
        most = _binomial_limit(len(squares), chance, share / len(_COUNTED))
        meaning = f"number of coordinates with less than {low:.3g} of the claimed standard deviation"
        checks.append(Check("noise_of_scattered_coordinates", found, 0.0, most, meaning))
    return max(checks, key=lambda check: check.found / max(check.high, 1.0))


def blocks(squares: Array, rounds: int, gap: float, share: float) -> Check:
    """Check stretches of 2, 4, 8, ... coordinates, each overlapping half of the previous one; see `each_coordinate`."""
    size = len(squares)
    widths = [1 << power for power in range(1, size.bit_length()) if 1 << power <= size // 2]
    until = np.concatenate([[0.0], np.cumsum(squares)])
    groups = []
    for width in widths:
        starts = np.append(np.arange(0, size - width, width // 2), size - width)
        groups.append((until[starts + width] - until[starts], np.full(len(starts), width)))
    return _groups("noise_of_blocks", "stretch", groups, rounds, gap, share)


def combs(squares: Array, rounds: int, gap: float, share: float) -> Check:
    """Check every second coordinate, every third, and so on up to every 64th; see `each_coordinate`."""
    size = len(squares)
    groups = []
    for step in range(2, min(_WIDEST_COMB, size // 2) + 1):
        padded = np.zeros(-(-size // step) * step)
        padded[:size] = squares
        sums = padded.reshape(-1, step).sum(axis=0)
        groups.append((sums, (size - 1 - np.arange(step)) // step + 1))
    return _groups("noise_of_combs", "comb", groups, rounds, gap, share)


def _groups(
    name: str, what: str, groups: list[tuple[Array, npt.NDArray[np.int64]]], rounds: int, gap: float, share: float
) -> Check:
    """Check sums over groups of coordinates against their distribution; each list of groups gets an equal share."""
    worst = Check(name, 1.0, 0.0, math.inf, f"standard deviation of the noise in a {what} / claimed")
    for sums, widths in groups:
        found = np.sqrt(np.maximum(sums, 0.0) / (rounds * widths))
        distinct, where = np.unique(widths, return_inverse=True)
        limits = [_limit_of_group(rounds * int(width), share / (len(groups) * len(sums)), gap) for width in distinct]
        low = np.array(limits)[where]
        ratios = found / np.maximum(low, 1e-300)
        at = int(np.argmin(ratios))
        if low[at] > 0 and (not worst.low or ratios[at] < worst.found / worst.low):
            meaning = f"standard deviation of the noise in a {what} of {widths[at]} coordinates / claimed"
            worst = Check(name, float(found[at]), float(low[at]), math.inf, meaning)
    return worst


def _limit_of_group(squares: int, chance: float, gap: float) -> float:
    """Return a limit like `_limit`; if it is at least a lattice step, use the kurtosis, which is sharper.

    In exact sums for small numbers of squares, probabilities of 1e-3 or less were exceeded by at most 0.2 %.
    """
    half = squares / (1 + gap**2 / 2) / 2
    low = math.sqrt(special.gammaincinv(half, chance / 1.01) / half)
    return low if low >= gap and chance <= 1e-3 else _limit(squares, chance, gap)


def _limit(squares: int, chance: float, gap: float) -> float:
    """Return a limit for the root mean square of this many values, undercut with at most this probability."""
    if gap >= 2:
        return 0.0
    log_chance = math.log(chance) - squares * math.log1p(gap**2 / 4)
    if log_chance < -700:
        return 0.0
    return max(0.0, math.sqrt(special.gammaincinv(squares / 2, math.exp(log_chance)) * 2 / squares) - gap / 2)


def _binomial_limit(trials: int, chance: float, error: float) -> float:
    """Return the smallest number that a binomial count exceeds with at most this probability."""
    mean = trials * chance
    counts = np.arange(int(mean), min(trials, int(mean + 20 * math.sqrt(mean) + 100)))
    enough = special.betainc(counts + 1.0, trials - counts, chance) <= error
    return float(counts[np.argmax(enough)]) if enough.any() else float(trials)
