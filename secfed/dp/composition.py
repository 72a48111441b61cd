"""A prepared composition: an engine for each direction, and the answer that they give together."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from secfed.dp import renyi
from secfed.dp.closed_forms import SingleProfile
from secfed.dp.contour.curve import upper_curve
from secfed.dp.contour.growing import Growing, GrowingPairs, GrowingSampled
from secfed.dp.contour.integral import WarmStart
from secfed.dp.contour.inversion import epsilon_of
from secfed.dp.contour.moments import Releases
from secfed.dp.contour.privacy_loss import Direction, Laws, Reals
from secfed.dp.dominating_pairs import gaussian_pair, laws, unsampled, weaker
from secfed.dp.engines import Engine, GaussianEngine, PairsEngine
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
# Releases with a largest finite loss; for a larger epsilon, delta is the probability of an infinite loss.
_BOUNDED = Laplace | DiscreteLaplace | ApproximateDP | RandomizedResponse | ExponentialMechanism


@dataclass(frozen=True, slots=True)
class Composition:
    """A composition, prepared for one adjacency.

    Attributes:
        adjacency: Which data sets are adjacent.
        events: What is composed, with `Composed` flattened.
        engines: One for each direction, one or two; empty if only moments are known.
        slack: Bound on |log ratio| of the true probabilities to those of the law accounted for.
        exact: Whether the pairs are exactly those of the releases; if not, they only bound them.
    """

    adjacency: Adjacency
    events: dict[Event, int]
    engines: tuple[Engine, ...] = field(repr=False)
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
        if moments_only:
            return cls(adjacency, flat, tuple(map(PairsEngine, pairs)), slack, exact)
        sides = range(max(map(len, groups), default=1))
        listed = ([_laws(names[side % len(names)], rows) for names, rows in groups.items()] for side in sides)
        engines = tuple(GaussianEngine(Releases(tuple(some), square_distance)) for some in listed)
        return cls(adjacency, flat, engines, slack, exact)

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
        most = math.inf if self._gaussian else renyi.epsilon(self.events.items(), self.adjacency, delta)
        # Ratios within exp(slack): (epsilon, delta) becomes (epsilon + 2 slack, exp(slack) delta).
        log_delta = math.log(delta) - self.slack
        low, high = 0.0, 0.0 if self.engines else math.inf
        for engine, start in zip(self.engines, starts or (None, None), strict=False):
            if high and engine.at_most(low, math.exp(log_delta)):
                continue
            found = engine.epsilon(log_delta, most, start)
            low, high = max(low, found[0]), max(high, found[1])
        high = min(high + 2 * self.slack, most)
        if self._gaussian and (high == math.inf or high - low > _TIGHT * high):
            high = min(high, renyi.epsilon(self.events.items(), self.adjacency, delta))
        if not self.exact:
            return min(self._epsilon_below(delta) if below else 0.0, high), high
        return min(max(low, self.floor(delta)) if high - low > _WIDE * high else low, high), high

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
        moments = 1.0 if self._gaussian else renyi.delta(self.events.items(), self.adjacency, epsilon)
        at, low, high = max(epsilon - 2 * self.slack, 0.0), 0.0, 0.0 if self.engines else 1.0
        for engine, start in zip(self.engines, starts or (None, None), strict=False):
            # No other direction can be worse than 1.
            if high >= 1 or (high and engine.at_most(at, low)):
                continue
            found = engine.delta(at, moments, start)
            low, high = max(low, found[0]), max(high, found[1])
        variation = max((engine.variation for engine in self.engines), default=1.0)
        most = min(min(high, variation) * math.exp(self.slack), moments, 1.0)
        if self._gaussian and not high - low <= _TIGHT * high:
            most = min(most, renyi.delta(self.events.items(), self.adjacency, epsilon))
        bounded = all(isinstance(unsampled(event), _BOUNDED) for event in self.events)
        least = low if self.exact else self._delta_below(epsilon) if below else 0.0
        return min(least, most), max(most, 0.0 if bounded else tiny)

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
        return (composed, slack) if composed.exact and composed.engines and slack < 1 else None

    def floor(self, delta: float) -> float:
        """Return a cheap lower bound on epsilon: an observer of all releases sees each of them."""
        return max((epsilon_of(one, math.log(delta))[0] for one in self._alone()), default=0.0)

    def exceeds(self, epsilon: float, delta: float) -> bool:
        """Return whether a single one of the releases already spends more than a budget."""
        return any(float(one.bounds(np.array([epsilon]))[0][0]) > math.log(delta) for one in self._alone())

    def _alone(self) -> Iterator[SingleProfile]:
        """Yield the profiles of some of the sampled releases, each on its own."""
        if self.private and self.exact:
            for laws in (laws for releases in self._releases for laws in releases.laws):
                for rate, noise in zip(laws.rate[:8], laws.noise[:8], strict=True):
                    yield SingleProfile(laws.direction, float(rate), float(noise))

    def nothing(self, delta: float) -> bool:
        """Return whether the releases' total variation shows that epsilon is 0."""
        known = self.private and self.engines and self.exact
        return bool(known and max(engine.variation for engine in self.engines) <= delta)

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
        gaussian = _paired(self._releases, step._releases) if after._gaussian else []
        others = after.engines and not after._gaussian
        pairs = _paired(laws(self.events, self.adjacency), laws(step.events, self.adjacency)) if others else []
        growing: list[Growing] = [GrowingSampled(*both, _bounds) for both in gaussian]
        growing += [GrowingPairs(*both, alone) for both in pairs]
        if not growing:
            return np.array([alone(i + 1) for i in range(count)])
        slacks = self.slack + step.slack * counts if gaussian else np.zeros(count)
        best = np.zeros(count)
        for one in growing:
            best = np.maximum(best, upper_curve(one, counts, math.log(delta) - slacks, best))
        if not (after.exact or after._gaussian):
            # Moments may be smaller than those of the pairs, which are only bounds.
            more = (self.with_event(event, i + 1).events.items() for i in range(count))
            best = np.minimum(best, [renyi.epsilon(events, self.adjacency, delta) for events in more])
        return best + 2 * slacks

    def mu(self) -> float:
        """Return mu, the distance of the two means in standard deviations, of unsampled Gaussian releases.

        Raises:
            UnsupportedEventError: There are other events.
        """
        if len(self._releases) != 1 or self._releases[0].laws or not self.exact or not self.private:
            raise UnsupportedEventError("mu is exact for unsampled Gaussian releases only, found other events")
        return math.sqrt(self._releases[0].gaussian)

    @property
    def _releases(self) -> list[Releases]:
        """The directions of Gaussian noise, if there is no other."""
        return [engine.releases for engine in self.engines if isinstance(engine, GaussianEngine)]

    @property
    def _gaussian(self) -> bool:
        return bool(self._releases)


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


def _bounds(releases: Releases, log_delta: float, goal: float) -> tuple[float, float]:
    return GaussianEngine(releases).epsilon(log_delta, goal=goal)
