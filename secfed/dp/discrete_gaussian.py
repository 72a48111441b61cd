"""Sums of discrete Gaussians in one coordinate: with so few losses, they can be listed."""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from secfed.dp.contour.pairs import Pair
from secfed.dp.events import Adjacency, DiscreteGaussianSum

# Most losses, and most clients: with more, rounding in the convolutions could exceed the error allowed for a mass.
_MOST_LOSSES, _MOST_CLIENTS = 8192, 10_000
# Standard deviations listed, and standard deviations kept while convolving: what is left out has at most e^-450 of the
# mass, and the last mass listed has e^-113.
_LISTED, _KEPT = 15.0, 30.0
_Long = npt.NDArray[np.longdouble]


def one_coordinate_pair(event: DiscreteGaussianSum, adjacency: Adjacency) -> Pair | None:
    """Return the pair for a sum of one coordinate; None for several coordinates or too many losses.

    The distribution is log-concave, so the largest shift in whole steps dominates: `docs/accountant.md`, section 7.
    """
    shift = math.floor(min(event.sensitivity, event.sensitivity_l1)) * (2 if adjacency == "replace" else 1)
    width = _LISTED * math.sqrt(event.noise_variance * event.clients)
    if event.dimension > 1 or not 2 * width + 2 * shift <= _MOST_LOSSES or event.clients > _MOST_CLIENTS:
        return None
    if event.clients > 1 and event.noise_variance < 0.25:
        return None  # every answer also needs moments, and none are proved here
    if np.finfo(np.longdouble).eps > 2e-19:
        return None  # float64 would lose too many digits
    return _pair(event.noise_variance, event.clients, shift)


@lru_cache(maxsize=64)
def _pair(variance: float, clients: int, shift: int) -> Pair:
    deviation = math.sqrt(variance * clients)
    listed = math.ceil(_LISTED * deviation)
    reach = max(math.ceil(_KEPT * deviation), listed + shift)
    x = np.arange(-reach, reach + 1).astype(np.longdouble)
    one = np.exp(-(x * x) / (2 * np.longdouble(variance)))
    masses = _power(one / one.sum(), clients, reach)
    # Outcomes from -listed to listed + shift.
    here = masses[reach - listed - shift : reach + listed + 1]
    there = masses[reach - listed : reach + listed + shift + 1]
    losses = np.asarray(np.log(here) - np.log(there), np.float64)
    # The sum is as subgaussian as a Gaussian of its variance parameter.
    rest = 2 * math.exp(-((listed / deviation) ** 2) / 2)
    pair = Pair.of_losses(np.asarray(here, np.float64), losses, rest)
    pair.certain = 0.0
    return pair


def _power(masses: _Long, count: int, reach: int) -> _Long:
    """Return the distribution of a sum of `count` draws, from -reach to reach; all terms are positive, so none
    cancel."""
    result: _Long | None = None
    while True:
        if count % 2:
            result = masses if result is None else np.convolve(result, masses)[reach : 3 * reach + 1]
        count //= 2
        if not count:
            assert result is not None
            return result
        masses = np.convolve(masses, masses)[reach : 3 * reach + 1]
