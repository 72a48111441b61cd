"""Releases that are mixtures of randomized responses: few losses, the same in both directions.

The two distributions share a draw. With some probability everything is revealed. Otherwise a loss l is drawn, and
binary randomized response gives the true answer with probability e^l / (1 + e^l). Every pair with finitely many losses
that is its own mirror image has this form. `docs/accountant.md`, section 2.3, has the pairs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from secfed.dp.contour.pairs import Array, Pair
from secfed.dp.events import Adjacency, DiscreteLaplace, Event, FixedSizeSampled, PoissonSampled
from secfed.dp.likelihood import log_mixture
from secfed.dp.mechanisms import ApproximateDP, RandomizedResponse
from secfed.errors import UnsupportedEventError

# Relative allowance: exceeds the rounding of sums of a few thousand exponentials.
_INFLATION = 1e-12


@dataclass(frozen=True, slots=True)
class Responses:
    """A mixture of randomized responses.

    Attributes:
        losses: Loss of each response, at least 0, `(responses,)`.
        weights: Probability of each, `(responses,)`; with `lost` they sum to 1.
        lost: Probability that everything is revealed.
    """

    losses: Array
    weights: Array
    lost: float = 0.0

    def pair(self) -> Pair:
        """Return the pair of distributions, the same in both directions."""
        losses = np.concatenate([self.losses, -self.losses])
        return Pair.of_losses(np.tile(self.weights, 2) * expit(losses), losses, self.lost)


def responses(event: Event, adjacency: Adjacency) -> Responses | None:
    """Return the mixture of a release, or None where its pair is not a mixture.

    Raises:
        UnsupportedEventError: The event has no bound under this adjacency.
    """
    if isinstance(event, ApproximateDP):
        return Responses(np.array([event.epsilon]), np.array([1 - event.delta]), event.delta)
    if isinstance(event, RandomizedResponse):
        if adjacency != "replace":
            raise UnsupportedEventError(
                f"{event} has no bound under adjacency {adjacency!r}: whether the client answered is seen; needed "
                "adjacency 'replace'"
            )
        # Two answers are each true in one of the two worlds; the others reveal nothing. Divided by e^epsilon.
        lie = math.exp(-event.epsilon)
        total = 1 + (event.outcomes - 1) * lie
        weights = np.array([(1 + lie) / total, (event.outcomes - 2) * lie / total])
        return Responses(np.array([event.epsilon, 0.0]), weights)
    if isinstance(event, DiscreteLaplace):
        return geometric(event, 2 if adjacency == "replace" else 1)
    return None


def geometric(event: DiscreteLaplace, shift: int) -> Responses:
    """Return the mixture of discrete Laplace noise around two integers, `shift` times the sensitivity apart."""
    far = shift * event.sensitivity
    here = _masses(event, far)
    there = here[::-1]
    losses = (2 * np.arange(far + 1) - far) / (event.noise_multiplier * event.sensitivity)
    some = 2 * np.arange(far + 1) > far
    weights = here[some] + there[some]
    if far % 2:
        return Responses(losses[some], weights)
    return Responses(np.append(losses[some], 0.0), np.append(weights, here[far // 2]))


def sampled(event: PoissonSampled | FixedSizeSampled, adjacency: Adjacency, direction: str) -> Pair | None:
    """Return the pair of sampled discrete Laplace noise, or None for other noise.

    Args:
        event: The release.
        adjacency: Which data sets are adjacent.
        direction: "remove" or "add"; it matters under `"add_remove"` only.
    """
    release, rate = event.event, event.sampling_rate
    if not isinstance(release, DiscreteLaplace):
        return None
    if rate == 1:
        return geometric(release, 2 if adjacency == "replace" or isinstance(event, FixedSizeSampled) else 1).pair()
    step = release.noise_multiplier * release.sensitivity
    if adjacency == "replace" and isinstance(event, PoissonSampled):
        # Noise around -far, 0 and far, on outcomes from "-far or below" to "far or above".
        far = release.sensitivity
        x = np.arange(-far, far + 1)
        absent = np.exp(-np.abs(x) / step) * math.tanh(0.5 / step)
        absent[[0, -1]] = _masses(release, far)[-1]
        apart = _masses(release, 2 * far)
        present = apart[::-1]  # around far
        towards, away = ((np.abs(x) - np.abs(x - sign * far)) / step for sign in (1, -1))
        losses = log_mixture(rate, towards) - log_mixture(rate, away)
        return Pair.of_losses((1 - rate) * absent + rate * present, losses)
    far = release.sensitivity * (2 if isinstance(event, FixedSizeSampled) else 1)
    absent = _masses(release, far)
    mixed = (1 - rate) * absent + rate * absent[::-1]
    losses = log_mixture(rate, (2 * np.arange(far + 1) - far) / step)
    if adjacency == "replace":
        more = losses > 0
        masses = np.concatenate([mixed[more], absent[more]])
        rest = max(0.0, 1 - float(masses.sum()))
        return Pair.of_losses(np.append(masses, rest), np.concatenate([losses[more], -losses[more], [0.0]]))
    return Pair.of_losses(mixed, losses) if direction == "remove" else Pair.of_losses(absent, -losses)


def _masses(event: DiscreteLaplace, far: int) -> Array:
    """Return the probabilities of the noise around 0: of 0 and below, 1, 2, ..., and of `far` and above."""
    step = event.noise_multiplier * event.sensitivity
    masses = np.exp(-np.arange(far + 1) / step) * math.tanh(0.5 / step)
    end = expit(1 / step)
    masses[0], masses[-1] = end, end * math.exp(-far / step)
    return masses


def take_off(events: Mapping[Event, int]) -> tuple[float, dict[Event, int]]:
    """Separate the deltas of `ApproximateDP` events: unless one of them reveals everything, moments exist.

    Args:
        events: Each event and how often.

    Returns:
        A bound on the probability that one reveals everything, and the events without that.
    """
    log_kept, left = 0.0, dict[Event, int]()
    for event, count in events.items():
        rest = event
        if isinstance(event, ApproximateDP) and event.delta:
            log_kept += count * math.log1p(-event.delta)
            rest = ApproximateDP(event.epsilon)
        left[rest] = left.get(rest, 0) + count
    return min(1.0, -math.expm1(log_kept) * (1 + _INFLATION)), left
