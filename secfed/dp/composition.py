"""A prepared composition: picks the engine that is exact for it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from secfed.dp import renyi
from secfed.dp.closed_forms import GaussianProfile, SingleProfile
from secfed.dp.contour import sampled_gaussian, smoothed
from secfed.dp.contour.capped import capped
from secfed.dp.contour.curve import upper_curve
from secfed.dp.contour.growing import Growing, GrowingPairs, GrowingSampled
from secfed.dp.contour.integral import WarmStart
from secfed.dp.contour.inversion import Profile, epsilon_of
from secfed.dp.contour.moments import Moments, NoOrderError, Releases
from secfed.dp.contour.pairs import Law
from secfed.dp.contour.privacy_loss import Direction, Laws, Reals
from secfed.dp.dominating_pairs import gaussian_pair, laws, unsampled, weaker
from secfed.dp.events import (
    Adjacency,
    Composed,
    DiscreteGaussianSum,
    DiscreteLaplace,
    Event,
    Laplace,
    NonPrivate,
    simplified,
)
from secfed.dp.mechanisms import ApproximateDP, ExponentialMechanism, RandomizedResponse
from secfed.errors import UnsupportedEventError

Kind = TypeVar("Kind")
# Relative gap above which Renyi moments are tried too.
_TIGHT = 1e-6
# For a larger epsilon, the bound on delta at this one is used.
_FARTHEST = 1e15
# Relative gap above which a single release may give a better lower value.
_WIDE = 0.1
# By how much capped losses may raise delta, relative to it.
_EXCESS = 1e-7
# Releases with a largest finite loss; for a larger epsilon, delta is the probability of an infinite loss.
_BOUNDED = Laplace | DiscreteLaplace | ApproximateDP | RandomizedResponse | ExponentialMechanism


@dataclass(frozen=True, slots=True)
class Composition:
    """A composition, prepared for one adjacency.

    Attributes:
        adjacency: Which data sets are adjacent.
        events: What is composed, with `Composed` flattened.
        directions: The pairs of distributions to compare, one or two; empty with noise other than Gaussian.
        pairs: The same for any kind of law, used with other releases; empty if only moments are known.
        slack: Bound on |log ratio| of the true probabilities to those of the law accounted for.
        exact: Whether the pairs are exactly those of the releases; if not, they only bound them.
    """

    adjacency: Adjacency
    events: dict[Event, int]
    directions: tuple[Releases, ...] = field(repr=False)
    pairs: tuple[list[tuple[Law, int]], ...] = field(repr=False)
    slack: float
    exact: bool

    @classmethod
    def of(cls, events: Iterable[tuple[Event, int]], adjacency: Adjacency) -> "Composition":
        """Prepare events.

        Raises:
            UnsupportedEventError: An event has no proved bound under this adjacency.
        """
        flat: dict[Event, int] = {}
        _flatten(events, 1, flat)
        groups: dict[tuple[Direction, ...], list[tuple[float, float, int]]] = {}
        square_distance, slack, exact, moments_only = 0.0, 0.0, True, False
        for event, count in flat.items():
            if isinstance(event, NonPrivate):
                continue
            found = gaussian_pair(event, adjacency)
            if found is None:
                moments_only, exact = True, exact and not isinstance(event, ExponentialMechanism)
                renyi.moments(event, adjacency, [2.0])  # raises if there is no moment bound either
                continue
            (names, rate, noise), loose = found
            slack += count * loose
            exact = exact and not loose
            if rate == 1.0:
                square_distance += count / noise**2
            else:
                groups.setdefault(names, []).append((rate, noise, count))
        lattice = any(isinstance(event, DiscreteGaussianSum) for event in flat)
        pairs = laws(flat, adjacency) if moments_only or lattice else ()
        if lattice and pairs:  # the exact laws of the sums, not their bounds
            exact = not any(isinstance(event, ExponentialMechanism) for event in flat)
            moments_only, slack = True, 0.0
        directions: tuple[Releases, ...] = ()
        if not moments_only:
            directions = tuple(
                Releases(
                    tuple(_laws(names[side % len(names)], rows) for names, rows in groups.items()), square_distance
                )
                for side in range(max(map(len, groups), default=1))
            )
        return cls(adjacency, flat, directions, pairs, slack, exact)

    @property
    def private(self) -> bool:
        """Whether there is any guarantee."""
        return not any(isinstance(event, NonPrivate) for event in self.events)

    def with_event(self, event: Event, count: int) -> "Composition":
        """Return the composition with one more event.

        Raises:
            UnsupportedEventError: The event has no proved bound under this adjacency.
        """
        return Composition.of([*self.events.items(), (event, count)], self.adjacency)

    def epsilon(self, delta: float, starts: Sequence[WarmStart] = (), *, below: bool = False) -> tuple[float, float]:
        """Return lower and upper bounds on epsilon.

        Args:
            delta: Above 0 and below 1.
            starts: In a search, where to start, one per direction: see `WarmStart`.
            below: Where the pairs are only bounds, find a lower bound from weaker releases; without this it is 0.
        """
        if not self.events:
            return 0.0, 0.0
        if not self.private:
            return math.inf, math.inf
        if not self.directions:
            moments = renyi.epsilon(self.events.items(), self.adjacency, delta)
            low, high = 0.0, 0.0 if self.pairs else math.inf
            for pairs in self.pairs:
                if low and smoothed.at_most(pairs, low, delta):
                    continue
                found = _pairs_epsilon(pairs, math.log(delta), moments)
                low, high = max(low, found[0]), max(high, found[1])
            high = min(high, moments)
            return min(low if self.exact else self._epsilon_below(delta) if below else 0.0, high), high
        # Ratios within exp(slack): (epsilon, delta) becomes (epsilon + 2 slack, exp(slack) delta).
        log_delta = math.log(delta) - self.slack
        low, high = 0.0, 0.0
        for i, direction in enumerate(self.directions):
            if high and _chernoff(direction, low, log_delta) <= log_delta:
                continue
            found = _epsilon(direction, log_delta, start=starts[i] if starts else None)
            low, high = max(low, found[0]), max(high, found[1])
        high += 2 * self.slack
        if high == math.inf or high - low > _TIGHT * high:
            high = min(high, renyi.epsilon(self.events.items(), self.adjacency, delta))
        if not self.exact:
            return min(self._epsilon_below(delta) if below else 0.0, high), high
        return (min(max(low, self.floor(delta)), high) if high - low > _WIDE * high else low), high

    def delta(self, epsilon: float, starts: Sequence[WarmStart] = (), *, below: bool = False) -> tuple[float, float]:
        """Return lower and upper bounds on delta; for `starts` and `below` see `epsilon`."""
        if not self.events:
            return 0.0, 0.0
        if not self.private:
            return 1.0, 1.0
        # The true value is above 0 even if it underflows.
        tiny = math.ulp(0.0)
        if epsilon > _FARTHEST:
            return 0.0, max(renyi.delta(self.events.items(), self.adjacency, _FARTHEST), tiny)
        if not self.directions:
            moments, both = renyi.delta(self.events.items(), self.adjacency, epsilon), starts or (None, None)
            low, high = 0.0, 0.0 if self.pairs else 1.0
            for pairs, start in zip(self.pairs, both, strict=False):
                if low and smoothed.at_most(pairs, epsilon, low):
                    continue
                found = _pairs_delta(pairs, epsilon, moments, start)
                low, high = max(low, found[0]), max(high, found[1])
            bounded = all(isinstance(unsampled(event), _BOUNDED) for event in self.events)
            high = max(0.0 if bounded else tiny, min(high, moments))
            return min(max(0.0, low) if self.exact else self._delta_below(epsilon) if below else 0.0, high), high
        low, high = -math.inf, -math.inf
        for i, direction in enumerate(self.directions):
            at = max(epsilon - 2 * self.slack, 0.0)
            if high >= 0:
                # No other direction can be worse.
                break
            if high > -math.inf and _chernoff(direction, at, low) <= low:
                continue
            found = _delta(direction, at, starts[i] if starts else None)
            low, high = max(low, found[0]), max(high, found[1])
        high = min(high + self.slack, 0.0, math.log(max(one.variation for one in self.directions)) + self.slack)
        least, most = (math.exp(low) if self.exact else self._delta_below(epsilon) if below else 0.0), math.exp(high)
        if not high - low <= _TIGHT:
            most = min(most, renyi.delta(self.events.items(), self.adjacency, epsilon))
        return least, max(most, tiny)

    def _epsilon_below(self, delta: float) -> float:
        """Return a lower bound on epsilon, from releases that reveal no more than these."""
        found = self._weaker()
        if found is None or not (raised := delta * math.exp(found[1]) * (1 + 1e-15)) < 1:
            return 0.0
        return max(0.0, found[0].epsilon(raised)[0] - 2 * found[1])

    def _delta_below(self, epsilon: float) -> float:
        """Return a lower bound on delta, from releases that reveal no more than these."""
        found = self._weaker()
        return found[0].delta(epsilon + 2 * found[1])[0] * math.exp(-found[1]) * (1 - 1e-15) if found else 0.0

    def _weaker(self) -> tuple["Composition", float] | None:
        """Return a composition whose pairs are exact and that reveals no more, up to the slack that is returned too.

        Releases that no exact pair is known for are left out.
        """
        kept, slack = [], 0.0
        for event, count in self.events.items():
            if found := weaker(event):
                kept.append((found[0], count))
                slack += count * found[1]
        composed = Composition.of(kept, self.adjacency)
        known = composed.exact and (composed.directions or composed.pairs)
        return (composed, slack) if known and slack < 1 else None

    def floor(self, delta: float) -> float:
        """Return a cheap lower bound on epsilon: an observer of all releases sees each of them."""
        return max((epsilon_of(one, math.log(delta))[0] for one in self._alone()), default=0.0)

    def exceeds(self, epsilon: float, delta: float) -> bool:
        """Return whether a single one of the releases already spends more than a budget."""
        return any(float(one.bounds(np.array([epsilon]))[0][0]) > math.log(delta) for one in self._alone())

    def _alone(self) -> Iterator[SingleProfile]:
        """Yield the profiles of some of the sampled releases, each on its own."""
        if self.private and self.exact:
            for laws in (laws for direction in self.directions for laws in direction.laws):
                for rate, noise in zip(laws.rate[:8], laws.noise[:8], strict=True):
                    yield SingleProfile(laws.direction, float(rate), float(noise))

    def nothing(self, delta: float) -> bool:
        """Return whether the releases' total variation shows that epsilon is 0."""
        if not (self.private and self.directions and self.exact):
            return False
        return math.log(max(direction.variation for direction in self.directions)) <= math.log(delta)

    def ceiling(self, delta: float, enough: float = 0.0) -> float:
        """Return a cheap upper bound on epsilon; the search stops at `enough`."""
        if self.nothing(delta):
            return 0.0
        return renyi.epsilon(self.events.items(), self.adjacency, delta, enough) if self.private else math.inf

    def curve(self, event: Event, count: int, delta: float) -> Reals:
        """Return the upper epsilon after each of `count` more releases of an event, `(count,)`."""
        after, step = self.with_event(event, 1), Composition.of([(event, 1)], self.adjacency)
        if not after.private:
            return np.full(count, math.inf)

        def alone(times: int) -> float:
            return self.with_event(event, times).epsilon(delta)[1]

        counts = np.arange(1.0, count + 1)
        # Each part may have Gaussian pairs although the whole has none, and the reverse.
        gaussian = _paired(self.directions, step.directions) if after.directions else []
        pairs = _paired(laws(self.events, self.adjacency), laws(step.events, self.adjacency)) if after.pairs else []
        growing: list[Growing] = [GrowingSampled(*both, _epsilon) for both in gaussian]
        growing += [GrowingPairs(*both, alone) for both in pairs]
        if not growing:
            return np.array([alone(i + 1) for i in range(count)])
        slacks = self.slack + step.slack * counts if gaussian else np.zeros(count)
        best = np.zeros(count)
        for one in growing:
            best = np.maximum(best, upper_curve(one, counts, math.log(delta) - slacks, best))
        if not (after.exact or after.directions):
            # Moments may be smaller than those of the pairs, which are only bounds.
            more = (self.with_event(event, i + 1).events.items() for i in range(count))
            best = np.minimum(best, [renyi.epsilon(events, self.adjacency, delta) for events in more])
        return best + 2 * slacks

    def mu(self) -> float:
        """Return mu, the distance of the two means in standard deviations, of unsampled Gaussian releases.

        Raises:
            UnsupportedEventError: There are other events.
        """
        if len(self.directions) != 1 or self.directions[0].laws or not self.exact or not self.private:
            raise UnsupportedEventError("mu is exact for unsampled Gaussian releases only, found other events")
        return math.sqrt(self.directions[0].gaussian)


def _flatten(events: Iterable[tuple[Event, int]], times: int, into: dict[Event, int]) -> None:
    for event, count in events:
        if isinstance(event, Composed):
            _flatten(event.events, times * count, into)
        else:
            event = simplified(event)
            into[event] = into.get(event, 0) + times * int(count)


def _laws(direction: Direction, rows: list[tuple[float, float, int]]) -> Laws:
    rate, noise, count = np.array(rows, np.float64).T
    return Laws(direction, rate, noise, count)


def _paired(base: Sequence[Kind], extra: Sequence[Kind]) -> list[tuple[Kind, Kind]]:
    """Pair the directions of two compositions; one that has a single direction has the same in both."""
    sides = range(max(len(base), len(extra)) if base and extra else 0)
    return [(base[min(side, len(base) - 1)], extra[min(side, len(extra) - 1)]) for side in sides]


def _profile(releases: Releases) -> Profile | None:
    """Return a closed form, if there is one."""
    if not releases.laws:
        return GaussianProfile(math.sqrt(releases.gaussian))
    if releases.gaussian == 0 and len(releases.laws) == 1 and len(releases.laws[0]) == 1:
        law = releases.laws[0]
        if law.count[0] == 1:
            return SingleProfile(law.direction, float(law.rate[0]), float(law.noise[0]))
    return None


def _epsilon(
    releases: Releases, log_delta: float, goal: float = sampled_gaussian.GOAL, start: WarmStart | None = None
) -> tuple[float, float]:
    if math.log(releases.variation) <= log_delta:
        return 0.0, 0.0
    profile = _profile(releases)
    if profile is None:
        low, high = sampled_gaussian.epsilon_bounds(releases, log_delta, goal, start)
    else:
        low, high = epsilon_of(profile, log_delta)
    return max(low, 0.0), max(high, 0.0)


def _pairs_epsilon(pairs: smoothed.Pairs, log_delta: float, most: float) -> tuple[float, float]:
    """Return bounds on epsilon of any pairs, from a known upper bound."""
    found = capped(pairs, log_delta, most, _EXCESS)
    if not found:
        return smoothed.epsilon_bounds(pairs, log_delta)
    low, high = smoothed.epsilon_bounds(found.pairs, log_delta, excess=found.excess)
    return min(low, most), high


def _pairs_delta(pairs: smoothed.Pairs, epsilon: float, most: float, start: WarmStart | None) -> tuple[float, float]:
    """Return bounds on delta of any pairs, from a known upper bound."""
    # Noise that is left out must be rare also where delta is tiny: about 1e-50, as in `NoiseLaw`.
    rare = min(math.log(max(most, 1e-300)) - 10.0, -99.0)
    # A contour that a search uses again must suit every epsilon.
    found = None if start else capped(pairs, rare, epsilon, _EXCESS)
    if not found:
        return smoothed.delta_bounds(pairs, epsilon, start)
    low, high = smoothed.delta_bounds(found.pairs, epsilon)
    return low * (1 - found.excess), high


def _delta(releases: Releases, epsilon: float, start: WarmStart | None) -> tuple[float, float]:
    profile = _profile(releases)
    if profile is None:
        return sampled_gaussian.delta_bounds(releases, epsilon, start)
    low, high = profile.bounds(np.array([epsilon]))
    return float(low[0]), float(high[0])


def _chernoff(releases: Releases, epsilon: float, enough: float) -> float:
    """Bound the logarithm of delta(epsilon) cheaply, to show that a direction does not matter."""
    profile = _profile(releases)
    if profile is not None:
        return float(profile.bounds(np.array([epsilon]))[1][0])
    if epsilon <= 0:
        return 0.0
    try:
        return float(Moments.of(releases, None, epsilon, enough).exponent(epsilon).min())
    except NoOrderError:
        return 0.0
