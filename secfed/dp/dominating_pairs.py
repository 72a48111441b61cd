"""The table of dominating pairs: for each event, two laws whose privacy loss bounds that of the release or equals it.

F(m) is the noise centered at m, in units of what one client can change, and q is the sampling rate.

| release | adjacency | direction | with the client's data | without it |
|---|---|---|---|---|
| unsampled | `add_remove` | `remove` | F(1) | F(0) |
| unsampled | `replace` | `remove` | F(2) | F(0) |
| Poisson | `add_remove` | `remove` | (1 - q) F(0) + q F(1) | F(0) |
| Poisson | `add_remove` | `add` | F(0) | (1 - q) F(0) + q F(1) |
| Poisson | `replace` | `replace` | (1 - q) F(0) + q F(1) | (1 - q) F(0) + q F(-1) |
| fixed size | `add_remove` | `remove`, `add` | as Poisson, with F(2) for F(1) | |
| fixed size | `replace` | `fixed_size` | the larger of `remove` and `add`, in both directions | |

Adjacency `remove` or `add` is one direction of `add_remove`. Gaussian noise bounds a sum of discrete Gaussians, up to a
slack; with one coordinate its exact law is used (`discrete_gaussian`). Mechanisms without such noise (`responses`,
`mechanisms`, `mixtures`) have their own laws. `docs/accountant.md`, section 2, has the proofs.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from secfed.dp.contour.pairs import Law, MixtureLaw, NoiseLaw, RangeLaw
from secfed.dp.contour.privacy_loss import Direction
from secfed.dp.discrete_gaussian import one_coordinate_pair
from secfed.dp.events import (
    NOISE_MULTIPLIERS,
    Adjacency,
    DiscreteGaussianSum,
    Event,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    PoissonSampled,
    SkellamSum,
)
from secfed.dp.mechanisms import ExponentialMechanism
from secfed.dp.mixtures import GaussianMixture
from secfed.dp.responses import responses, sampled

# Width r of the rounding that turns continuous Gaussian noise into discrete noise, in lattice units.
_ROUNDING = 1.5
# Least noise whose losses are listed. With less noise, the list would take too much time and memory.
_LEAST_LAPLACE, _LEAST_GAUSSIAN = 1e-3, 0.01
_DIRECTIONS: dict[Adjacency, tuple[Direction, ...]] = {
    "add_remove": ("remove", "add"),
    "remove": ("remove",),
    "add": ("add",),
}


class NoisePair(NamedTuple):
    """A row of the table.

    Attributes:
        directions: One direction, or two that must both be compared.
        rate: q; 1 without sampling.
        noise: The noise in units of the shift.
    """

    directions: tuple[Direction, ...]
    rate: float
    noise: float


def gaussian_pair(event: Event, adjacency: Adjacency) -> tuple[NoisePair, float] | None:
    """Return the Gaussian pair of a release, and the slack of the comparison.

    Returns:
        The slack bounds |log ratio| of the true probabilities to those of the pair. None for releases that no Gaussian
        pair bounds.
    """
    release = unsampled(event)
    if isinstance(release, Gaussian):
        return _noise_pair(event, adjacency, float(release.noise_multiplier)), 0.0
    if not isinstance(release, DiscreteGaussianSum):
        return None
    variance = release.noise_variance * release.clients - _ROUNDING**2
    if variance <= 0:
        return None
    slack = release.dimension * _slack(release, _ROUNDING**2)
    return _noise_pair(event, adjacency, math.sqrt(variance) / release.sensitivity), slack


def weaker(event: Event) -> tuple[Event, float] | None:
    """Return a release with an exact pair that reveals no more than an event, and the slack of the comparison.

    For a sum of discrete Gaussians it is Gaussian: the sum with a little continuous noise on top, of clients that
    contribute in one coordinate only (`docs/accountant.md`, section 7).

    Returns:
        Events with an exact pair as they are. None if nothing is known, or if the noise of a sum is so little that this
        would say nothing.
    """
    release = unsampled(event)
    if isinstance(release, ExponentialMechanism | SkellamSum):
        return None
    if not isinstance(release, DiscreteGaussianSum):
        return event, 0.0
    variance, more = release.noise_variance * release.clients, _ROUNDING**2
    shift, rest = math.floor(min(release.sensitivity, release.sensitivity_l1)), variance * more / (variance + more)
    if not shift or rest < 0.25 or (release.clients > 1 and release.noise_variance < 0.25):
        return None
    noise = math.sqrt(variance + more) * (1 + 1e-12) / shift
    if not NOISE_MULTIPLIERS[0] <= noise <= NOISE_MULTIPLIERS[1]:
        return None
    gaussian = Gaussian(noise)
    sampled = replace(event, event=gaussian) if isinstance(event, PoissonSampled | FixedSizeSampled) else gaussian
    return sampled, _slack(release, rest)


def _slack(release: DiscreteGaussianSum, variance: float) -> float:
    """Bound |log ratio| of a sum's probabilities in one coordinate to those of the Gaussian it is compared with.

    Args:
        release: The sum.
        variance: Of the rounding, or of what of the sum's noise lies between the lattice points; at least 1/4.
    """
    # Twice the sum over k >= 1 of exp(-2 pi^2 r^2 k^2), as a ratio; and the sum's own law.
    uneven = 2.0 * math.exp(-2 * math.pi**2 * variance) * 1.001
    k = np.arange(1, min(release.clients, 10_000))
    terms = np.exp(-2 * math.pi**2 * release.noise_variance * k / (k + 1))
    added = float(terms.sum()) + max(0, release.clients - 10_000) * float(terms[-1] if len(terms) else 0.0)
    return 2 * math.atanh(uneven) + 5 * added


def laws(events: dict[Event, int], adjacency: Adjacency) -> tuple[list[tuple[Law, int]], ...]:
    """Return the privacy losses of all releases, and their counts, in each direction; empty if one has none."""
    found: list[list[tuple[Law, int]]] = []
    # Without random participation, both directions are the same.
    chance = any(isinstance(event, PoissonSampled | FixedSizeSampled | GaussianMixture) for event in events)
    for direction in _DIRECTIONS.get(adjacency, ("remove",)) if chance else ("remove",):
        listed = [(_law(event, adjacency, direction), count) for event, count in events.items()]
        found.append([(law, count) for law, count in listed if law is not None])
        if len(found[-1]) < len(listed):
            return ()
    return tuple(found)


def unsampled(event: Event) -> Event:
    """Return what a sampled event releases, or the event itself."""
    return event.event if isinstance(event, PoissonSampled | FixedSizeSampled) else event


def _noise_pair(event: Event, adjacency: Adjacency, noise: float) -> NoisePair:
    if isinstance(event, PoissonSampled) and event.sampling_rate < 1:
        return NoisePair(_DIRECTIONS.get(adjacency, ("replace",)), float(event.sampling_rate), noise)
    if isinstance(event, FixedSizeSampled):
        # The cohort's size is fixed, so another client takes the missing one's place: twice the shift.
        return NoisePair(_DIRECTIONS.get(adjacency, ("fixed_size",)), event.sampling_rate, noise / 2)
    return NoisePair(("remove",), 1.0, noise / 2 if adjacency == "replace" else noise)


def _law(event: Event, adjacency: Adjacency, direction: Direction) -> Law | None:
    """Return the privacy loss of a release in one direction of its adjacency, or None."""
    if isinstance(event, ExponentialMechanism):
        return RangeLaw(event.epsilon)
    if isinstance(event, GaussianMixture):
        return MixtureLaw(*event.scaled(), "replace" if adjacency == "replace" else direction)
    if mixture := responses(event, adjacency):
        return mixture.pair()
    if isinstance(event, PoissonSampled | FixedSizeSampled) and (pair := sampled(event, adjacency, direction)):
        return pair
    if isinstance(event, DiscreteGaussianSum):
        return one_coordinate_pair(event, adjacency)
    release = unsampled(event)
    if not isinstance(release, Gaussian | Laplace):
        return None
    directions, rate, noise = _noise_pair(event, adjacency, float(release.noise_multiplier))
    its, laplace = direction if direction in directions else directions[0], isinstance(release, Laplace)
    tiny = noise < (_LEAST_LAPLACE if laplace else _LEAST_GAUSSIAN)
    return None if tiny else NoiseLaw(noise, rate, its, laplace=laplace)
