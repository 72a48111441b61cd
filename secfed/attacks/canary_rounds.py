"""One round with canaries: known contributions, and what else is in the release."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]
Release = Callable[[list[Array], int], npt.ArrayLike]

_MOST_PARTS = 16
# Values that differ by less than this, in units of the noise, may be equal.
_ARITHMETIC = 1e-6


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same in all rounds."""

    clients: int
    size: int
    clip_norm: float
    noise_std: float
    oversize: float
    excluded: float  # contribution of a client whose coin says no, in units of its canary: 0 or -1

    @property
    def parts(self) -> int:
        """Number of stretches into which each round is divided."""
        return min(_MOST_PARTS, self.size // (4 * self.clients))


@dataclass(frozen=True, slots=True)
class Round:
    """What one round left, in units of the claimed noise."""

    rest: Array  # noise without the directions of the canaries, which are taken out part by part
    freedom: int  # dimensions of `rest`
    part_freedom: int  # dimensions in each of the parts of equal size
    weights: Array  # of each canary: how often it should be in the sum
    excess: Array  # of each canary: its projection beyond what it should be
    squares: Array  # of all noise, coordinate by coordinate
    gaps: tuple[float, float]  # the smallest distance of two values of the release, and of two of the noise


def run(
    release: Release,
    setting: Setting,
    number: int,
    generator: np.random.Generator,
    *,
    aligned: bool,
    coins: bool = True,
) -> Round:
    """Release one sum, and separate the noise from the canaries.

    Args:
        release: The real pipeline, from clip to decoded sum. It takes the contributions of all clients, a list of
            arrays of shape `(size,)` that it may change (zeros for clients left out under `"add_remove"`), and the
            round, from 0. It returns the noisy sum, shape `(size,)`. It must draw its noise as in production.
        setting: What is claimed.
        number: The round.
        generator: Where coins and directions come from.
        aligned: Whether all clients push the same way; otherwise their canaries are orthogonal.
        coins: Whether coins decide who contributes if the canaries are orthogonal; otherwise all do.

    Raises:
        ConfigError: `release` returned a wrong shape or a value that is not finite.
    """
    size, clients = setting.size, setting.clients
    signs = generator.integers(0, 2, size) * 2.0 - 1.0
    included = (generator.integers(0, 2, clients) > 0) | (not coins)
    if not aligned:  # canary i is spread over every coordinate j with j % clients == i
        strides = [slice(client, None, clients) for client in range(clients)]
        owners = np.arange(size) % clients
        each = weights = np.where(included, 1.0, setting.excluded)
    else:
        strides = [slice(None)] * clients
        owners = np.zeros(size, np.int64)
        each, weights = np.ones(clients), np.array([float(clients)])
    norms = np.sqrt(np.bincount(owners))
    contributions = []
    for stride, weight in zip(strides, each, strict=True):
        contribution = np.zeros(size)
        contribution[stride] = signs[stride]
        contribution *= weight * setting.oversize * setting.clip_norm / np.linalg.norm(contribution)
        contributions.append(contribution)
    released = np.asarray(release(contributions, number), np.float64)
    if released.shape != (size,) or not np.isfinite(released).all():
        raise ConfigError(f"release returned shape {released.shape}, needed {size} finite numbers")
    expected = signs * (weights / norms)[owners] * setting.clip_norm
    noise = (released - expected) / setting.noise_std

    excess = np.bincount(owners, noise * signs) / norms
    cells = np.arange(size) // (size // setting.parts) * len(norms) + owners
    counts = np.bincount(cells)
    rest = noise - signs * (np.bincount(cells, noise * signs) / np.maximum(counts, 1))[cells]
    freedom = size - int(np.count_nonzero(counts))
    gaps = _gap(released / setting.noise_std), _gap(noise)
    return Round(rest, freedom, size // setting.parts - len(norms), weights, excess, noise**2, gaps)


def step(seen: list[Round]) -> float:
    """Return a distance in units of the claimed noise that is at least the lattice step of the release or the noise.

    Without a lattice, values come so close to each other that it is almost 0.
    """
    return max(min(each.gaps[kind] for each in seen) for kind in (0, 1))


def _gap(values: Array) -> float:
    gaps = np.diff(np.sort(values))
    return float(gaps[gaps > _ARITHMETIC].min(initial=math.inf))
