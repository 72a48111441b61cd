"""Sampled Gaussian releases whose far losses are merged, so that a smoothed contour needs few losses of them.

If one loss is so large that the total surely exceeds epsilon, delta does not depend on how this loss is distributed
beyond that point: it is linear in exp(-loss) there. So losses above a cap are split between the cap and infinity.
Losses far below all others are raised. `docs/accountant.md`, section 4.6, has the proof.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from scipy.special import log_ndtr, ndtri_exp

from secfed.dp.contour.moments import Releases
from secfed.dp.contour.pairs import Array, Law, NoiseLaw

# Part of delta that noise may have which counts as an infinite loss because it is so rare.
_RARE = 1e-7
# Steps between two edges, to place a cap.
_STEPS = 17
# Orders of Chernoff's bound on low losses, relative to 1 / cap, and the most losses of one law for it.
_ORDERS, _MOST_ATOMS = np.geomspace(1e-3, 1e5, 33), 100_000


class CappedLaw(NoiseLaw):
    """Loss of sampled Gaussian noise; P and Q are those of `NoiseLaw`.

    Args:
        noise: The noise's standard deviation.
        rate: Probability with which the client takes part.
        direction: "remove", "add", "replace" or "fixed_size", as in `NoiseLaw`.
        beyond: Probability of noise that may count as an infinite loss.
        low: Probability of the losses that are raised to `least`.
        cap: Losses above it are split between it and infinity. The law takes the next larger cap that suits it.

    Attributes:
        infinite, certain: Bounds on the probability of an infinite loss; `certain` is 0 if no loss is above the cap.
        most, least: Largest and smallest finite loss.
        raised: Probability of losses that were raised.
    """

    def __init__(self, noise: float, rate: float, direction: str, *, beyond: float, low: float, cap: float) -> None:
        super().__init__(noise, rate, direction, laplace=False, beyond=beyond)
        # Along the line of noise values, from the smallest loss to the largest.
        edges = self._edges[::-1] if direction == "add" else self._edges
        near = float(ndtri_exp(math.log(low))) * noise  # below 0
        losses = self._losses_at(edges)
        last = max(int(np.searchsorted(losses, cap)), 1)
        far = float(edges[-1])
        if capped := last < len(edges):
            between = np.linspace(edges[last - 1], edges[last], _STEPS)
            far = float(between[min(max(int(np.searchsorted(self._losses_at(between), cap)), 1), _STEPS - 1)])
        if direction == "fixed_size":
            start, far = 0.5, max(far, min(-near, float(edges[-1])))
        else:
            start = min(-near, float(edges[0])) if direction == "add" else max(near, float(edges[0]))
        self._edges = self._split(min(start, far), max(start, far))
        self.least, self.most = (float(loss) for loss in self._losses_at(np.array([start, far])))
        self._merge(start, far, capped)

    def _merge(self, start: float, far: float, capped: bool) -> None:
        """Compute the probabilities of what lies beyond the two ends."""
        noise, cap, side = self.scale, self.most, -1.0 if self.direction == "add" else 1.0
        stay, join = (math.log1p(-self.rate) if self.rate < 1 else -math.inf), math.log(self.rate)
        other = -1.0 if self.direction == "replace" else 0.0
        centers = np.array([0.0, 1.0, other])
        idle, active, against = (float(log) for log in log_ndtr(side * (centers - far) / noise))
        if self.direction == "add":  # P is the noise alone
            up = math.exp(join + cap + (far - 0.5) / noise**2 + idle)
            down = math.exp(join + cap + active)
            at_cap = math.exp(cap + float(np.logaddexp(stay + idle, join + active)))
            self.raised = math.exp(float(log_ndtr(-start / noise)))
        else:
            up = math.exp(join + active)
            # (e^cap - 1) times a probability, which may be tiny where e^cap is huge.
            kept = math.exp(stay + idle)
            kept = kept * math.expm1(cap) if cap < 1 else math.exp(cap + stay + idle) - kept
            down = kept + math.exp(join + cap + against)
            at_cap = math.exp(cap + float(np.logaddexp(stay + idle, join + against)))
            low = log_ndtr((start - centers[:2]) / noise)
            self.raised = math.exp(float(np.logaddexp(stay + low[0], join + low[1])))
        if self.direction == "fixed_size":
            self.raised, self.least = math.exp(idle), -cap
        error = 1e-15 * (up + down) * (10 + abs(idle) + abs(active) + abs(against) + abs(cap) + abs(join))
        self.infinite = max(0.0, up - down) + error
        self.certain = max(0.0, up - down - error) if capped else 0.0
        self._ends = np.array([self.raised, at_cap]), np.array([self.least, cap])

    def atoms(self, order: float, lowest: float = -math.inf) -> tuple[Array, Array]:
        """Return masses of P and losses, accurate for sums of exp(z loss) with |z| up to an order; see `Law`."""
        masses, losses = super().atoms(order, lowest)
        if self.direction == "fixed_size":  # the last one is what is left at a loss of 0
            masses[-1] = max(0.0, masses[-1] - self._ends[0].sum() - self.infinite)
        return np.append(masses, self._ends[0]), np.append(losses, self._ends[1])


class GaussianNoise(NamedTuple):
    """A release of sampled Gaussian noise, with the arguments of `CappedLaw`."""

    noise: float
    rate: float
    direction: str

    @classmethod
    def parts(cls, releases: Releases) -> list[tuple["GaussianNoise", int]]:
        """Return the releases of a composition, and how often each was made."""
        found = [
            (cls(float(noise), float(rate), laws.direction), int(count))
            for laws in releases.laws
            for rate, noise, count in zip(laws.rate, laws.noise, laws.count, strict=True)
        ]
        if releases.gaussian > 0:
            found.append((cls(1 / math.sqrt(releases.gaussian), 1.0, "remove"), 1))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class CappedReleases:
    """A composition of capped laws, and maybe of others.

    Attributes:
        pairs: Each law and how often it was released.
        excess: Delta of the pairs is at least the true one, and at most this fraction of itself larger, at every
            epsilon up to the largest for which they were made.
    """

    pairs: list[tuple[Law, int]]
    excess: float


def capped(
    parts: Sequence[tuple[Law | GaussianNoise, int]], log_delta: float, epsilon: float, excess: float
) -> CappedReleases | None:
    """Return a composition in which losses of Gaussian noise are capped for values of epsilon up to a given one.

    Args:
        parts: Releases, and how often each was made. Laws other than Gaussian noise stay as they are.
        log_delta: Logarithm of delta, which says how rare noise must be to be left out.
        epsilon: The largest value of interest, at least 0; may be infinite.
        excess: Target of the attribute `excess`.

    Returns:
        None if probabilities would underflow.
    """
    noises = {i: noise for i, (part, _) in enumerate(parts) if (noise := _gaussian(part))}
    if not noises:
        return CappedReleases(cast(list[tuple[Law, int]], [*parts]), 0.0)
    counts = sum(parts[i][1] for i in noises)
    beyond = math.exp(max(log_delta, -690.0)) * _RARE / counts
    if beyond < 1e-280 or any(each.noise < 1e-3 for each in noises.values()):
        return None
    low = max(beyond, excess / (8 * counts))

    def laws(cap: float) -> dict[int, CappedLaw]:
        return {i: CappedLaw(*each, beyond=beyond, low=low, cap=cap) for i, each in noises.items()}

    def joined(found: dict[int, CappedLaw]) -> list[tuple[Law, int]]:
        return [(found[i] if i in found else cast(Law, part), count) for i, (part, count) in enumerate(parts)]

    found = laws(epsilon)
    if any(law.certain > 0 for law in found.values()):
        # A total of the other losses below -depth has a probability of at most excess / 4.
        found = laws(epsilon + _depth(joined(found), excess / 4))
    raised = sum(parts[i][1] * law.raised for i, law in found.items())
    # Some loss is infinite with a probability of at least 1 - exp(-infinite), and delta is at least that.
    infinite = sum(parts[i][1] * law.certain for i, law in found.items())
    ratio = infinite / -math.expm1(-infinite) if infinite > 0 else 1.0
    return CappedReleases(joined(found), raised + ratio * (raised + excess / 4) * (1 + 1e-9))


def _gaussian(part: Law | GaussianNoise) -> GaussianNoise | None:
    """Return the Gaussian noise that a part consists of, or None."""
    if isinstance(part, GaussianNoise):
        return part
    if type(part) is NoiseLaw and not part.laplace:
        return GaussianNoise(part.scale, part.rate, part.direction)
    return None


def _depth(laws: Sequence[tuple[Law, int]], probability: float) -> float:
    """Return a number s for which the total of all losses but one is below -s with at most a given probability.

    The one left out is of a capped law, and raised losses do not count. By Chernoff's bound with orders of at least 1,
    where the capped laws have larger moments than the real ones.
    """
    top = max(law.most for law, _ in laws)
    # Fewer orders where there are many kinds of releases.
    orders = np.unique(np.maximum(_ORDERS[:: 1 + len(laws) // 20] / max(top, 1e-300), 1.0)).tolist()
    rounding = 1e-12 * (1 + sum(count for _, count in laws))

    def depth(order: float) -> float:
        if any(law.size(order) > _MOST_ATOMS for law, _ in laws):
            return math.inf
        total, least = 0.0, 0.0
        for law, count in laws:
            masses, losses = law.atoms(order)
            logs = np.log(np.maximum(masses, 1e-320)) - order * losses
            log = float(logs.max()) + math.log(float(np.exp(logs - logs.max()).sum()))
            total, least = total + count * log, min(least, log)
        return (total - least - math.log(probability) + rounding + 1e-9 * abs(total)) / order

    # As moments are convex, the bound first falls and then rises: try every second order, and those next to the best.
    tried: list[float] = []
    for order in orders[::2]:
        tried.append(depth(order))
        if tried[-1] > min(tried):
            break
    best = 2 * tried.index(min(tried))
    tried += [depth(orders[i]) for i in (best - 1, best + 1) if 0 <= i < len(orders)]
    sizes = [count * max(0.0, -law.least) for law, count in laws if isinstance(law, CappedLaw)]
    if len(sizes) == len(laws):
        tried.append(sum(sizes))
    return max(min(tried), 0.0)
