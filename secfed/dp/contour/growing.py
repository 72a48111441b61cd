"""Compositions that grow by the same releases again and again, and the contours that they share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from secfed.dp.contour import smoothed
from secfed.dp.contour.capped import GaussianNoise, capped
from secfed.dp.contour.cgf import evaluate
from secfed.dp.contour.integral import Contour, assemble
from secfed.dp.contour.inversion import solve
from secfed.dp.contour.moments import Moments, NoOrderError, Releases, chernoff
from secfed.dp.contour.pairs import Law
from secfed.dp.contour.path import ContourPath, Smallest, adapted, choose, frequencies, work
from secfed.dp.contour.privacy_loss import Reals
from secfed.dp.contour.sampled_gaussian import GOAL, between, rare_guess, smooth
from secfed.dp.contour.smoothed import Ends, Pairs, finite_goals

Part = TypeVar("Part")
# Target error relative to delta.
_GOAL = 1e-7
# Relative gap of the guess when the moments give none, and what smoothing costs of epsilon.
_ROUGH, _SMOOTHING = 3e-3, 1e-6
# The most work of an exact contour, see `path.work`: beyond it, a smoothed one takes less time.
_MOST_WORK = 3e7
# How much longer than usual smoothed contours may be, for rows that the one before does not fit.
_LONGER = (1.0, 6.0)
# Smoothed contours, each started from the last guess of epsilon, and how far off the guess may be.
_TRIES, _NEAR = 3, 0.3
# Least logarithm of delta that infinite losses must leave.
_LEAST = -690.0
# Gap that a shared contour must reach: relative to epsilon, and absolute; and the part of it that the tail beyond the
# contour may cost the smallest composition.
_FINE, _TINY, _PART = 3e-5, 1e-6, 0.2


@dataclass(frozen=True, slots=True)
class Shared:
    """A contour that compositions share.

    Attributes:
        rows: Returns the contour of the compositions with some counts, shape `(rows,)`.
        frequencies: How many frequencies it has.
        needed: About how many of them the largest count needs; larger counts need about as many.
        infinite: Returns bounds on the probability of an infinite loss, which is not in the contour, of some counts.
    """

    rows: Callable[[Reals], Contour]
    frequencies: int
    needed: float = 0.0
    infinite: Callable[[Reals], Ends] | None = None

    def epsilon(self, counts: Reals, log_delta: Reals, guess: Reals) -> tuple[Reals, Reals, Reals]:
        """Return lower and upper bounds on epsilon, and estimates, each of shape `(rows,)`."""
        goals = None
        if self.infinite:
            goals = finite_goals(np.exp(log_delta), *self.infinite(counts), 0.0)
            log_delta = (goals[0] + goals[1]) / 2
        return solve(self.rows(counts), log_delta, guess, goals)


def close(low: Reals, high: Reals) -> npt.NDArray[np.bool_]:
    """Return whether bounds are so close together that nothing better is needed."""
    with np.errstate(invalid="ignore"):
        return np.asarray(high - low <= _FINE * high + _TINY)


class Attempt(NamedTuple):
    """A contour that some counts may share.

    Attributes:
        shared: The contour, or None if it costs too much or gives no close bounds at the last count.
        guess: Of epsilon at the last count; infinite if unknown.
        most: An upper bound on it.
    """

    shared: Shared | None
    guess: float
    most: float


class Growing(Protocol):
    """A composition that grows: a base, and some further releases one to many times."""

    def settled(self, counts: Reals, log_delta: Reals, floor: Reals) -> Reals:
        """Return 0 or the floor where a cheap bound shows that epsilon is at most that, and infinity elsewhere."""

    def contours(
        self, counts: Reals, log_delta: Reals, guess: float, floor: float, least: float = 0.0
    ) -> Iterator[Attempt]:
        """Yield contours that some counts share, chosen for the last one.

        Args:
            counts: How often the further releases were made, ascending, shape `(rows,)`.
            log_delta: Logarithm of delta for each, same shape.
            guess: Of epsilon at the last count; infinite if unknown.
            floor: Value at the last count below which no bound is needed.
            least: Epsilon at the count before the first; 0 if unknown.
        """

    def alone(self, count: float, log_delta: float) -> float:
        """Return an upper bound on epsilon at one count."""


@dataclass(frozen=True, slots=True)
class GrowingSampled:
    """Sampled Gaussian releases in one direction, see `Growing`.

    Attributes:
        base: What was released before.
        extra: One more release.
        bounds: `bounds(releases, log_delta, goal)` gives the bounds of one composition.
    """

    base: Releases
    extra: Releases
    bounds: Callable[[Releases, float, float], tuple[float, float]]

    @property
    def _goal(self) -> float:
        """Target error relative to delta: without sampling, contours are short enough to be as exact as queries."""
        return _GOAL if self.base.laws or self.extra.laws else GOAL

    def alone(self, count: float, log_delta: float) -> float:
        """Return an upper bound on epsilon at one count."""
        return self.bounds(self.base.joined(self.extra, count), log_delta, self._goal)[1]

    def settled(self, counts: Reals, log_delta: Reals, floor: Reals) -> Reals:
        """Return 0 or the floor where total variation or Chernoff's bound shows that epsilon is at most that."""
        known = np.full(len(counts), np.inf)
        for i, count in enumerate(counts.tolist()):
            if np.log(self.base.joined(self.extra, count).variation) > log_delta[i]:
                break
            known[i] = 0.0
        if floor[-1] > 0:
            last = self.base.joined(self.extra, float(counts[-1]))
            with suppress(NoOrderError):
                order = Moments.of(last, None, float(floor[-1]), float(log_delta[-1])).order
                base, extra = (Moments.at(releases, order).log for releases in (self.base, self.extra))
                known = _floored(known, order, base + counts[:, None] * extra, log_delta, floor)
        return known

    def contours(
        self, counts: Reals, log_delta: Reals, guess: float, floor: float, least: float = 0.0
    ) -> Iterator[Attempt]:
        """Yield exact contours, and then smoothed ones; see `Growing`."""
        last, end = self.base.joined(self.extra, float(counts[-1])), float(log_delta[-1])
        try:
            moments = Moments.of(last, end, None)
        except NoOrderError:
            return
        most = moments.epsilon_bound(end)
        known = guess < most
        guess = guess if known else min(moments.epsilon_guess(end), most)
        first = self.base.joined(self.extra, float(counts[0]))

        def smallest(guess: float) -> Smallest:
            at = guess * float(counts[0] / counts[-1])
            if 0 < least < guess:
                # On a logarithmic scale epsilon is nearly a straight line.
                before = counts[0] - 1
                at = least * float((guess / least) ** (np.log(counts[0] / before) / np.log(counts[-1] / before)))
            return Smallest(first, at, _PART * (_FINE * at + _TINY))

        path = choose(last, moments, guess, end, self._goal, doubtful=not known, smallest=smallest(guess))
        if path is None and not known:
            # The moments gave a poor guess, so find a better one. A smoothed contour also bounds epsilon. That may end
            # the search where the other direction is worse, and where epsilon is often 0: near the sum of the releases'
            # total variations. Elsewhere a closed form is cheaper.
            if floor > 0 or end > np.log(last.variation) - 2:
                bounds = smooth(last, end, _ROUGH, (0.0, most))
                guess, most = between(bounds), min(most, bounds[1])
                yield Attempt(None, guess, most)
            else:
                guess = min(rare_guess(last, end), most)
            path = choose(last, moments, guess, end, self._goal, smallest=smallest(guess))
        if path:
            yield Attempt(self._exact(counts, last, moments, path), guess, most)
        if not self.extra.gaussian:
            pairs_for, attempt = (
                partial(self._capped, counts[-1], float(log_delta.min()), most),
                Attempt(None, guess, most),
            )
            for longer in _LONGER:
                attempt = _smoothed(pairs_for, counts[-1:], log_delta[-1:], attempt, floor, longer)
                yield attempt

    def _exact(self, counts: Reals, last: Releases, moments: Moments, path: ContourPath) -> Shared | None:
        """Evaluate both compositions on a contour, or return None if that is too much work."""
        needed = path.frequency * path.period / (2 * np.pi)
        if not work(last, path, self._goal) <= _MOST_WORK:
            return None
        tolerance, both = path.tolerance(self._goal), (self.base, self.extra)
        (one, below_one), (two, below_two) = (
            evaluate(self.base, path, tolerance),
            evaluate(self.extra, path, tolerance / float(counts[-1])),
        )
        log_base, log_extra = (Moments.at(releases, moments.order).log for releases in both)
        bulk_base, bulk_extra = (adapted(releases, path).bulk for releases in both)

        def rows(times: Reals) -> Contour:
            its = replace(path, bulk=bulk_base + times[:, None] * bulk_extra) if len(bulk_base) else path
            below = below_one.plus(below_two, times) if below_one and below_two else None
            return assemble(one.plus(two, times), below, its, moments.order, log_base + times[:, None] * log_extra)

        return Shared(rows, len(frequencies(path)[0]), needed)

    def _capped(self, last: float, log_delta: float, most: float, guess: float) -> tuple[Pairs, Pairs] | None:
        """Return base and extra with losses capped for a guess of epsilon."""
        # A cap below epsilon would only widen the bounds, and a guess is usually closer than `most`.
        base, extra = GaussianNoise.parts(self.base), GaussianNoise.parts(self.extra)
        return _capped(base, extra, last, log_delta, min(most, 1.5 * guess))


@dataclass(frozen=True, slots=True)
class GrowingPairs:
    """Any kind of releases in one direction, see `Growing`.

    Attributes:
        base: What was released before.
        extra: What is released each time.
        upper: `upper(count)` gives an upper bound on epsilon.
    """

    base: Pairs
    extra: Pairs
    upper: Callable[[int], float]

    def alone(self, count: float, log_delta: float) -> float:
        """Return an upper bound on epsilon at one count."""
        return self.upper(int(count))

    def settled(self, counts: Reals, log_delta: Reals, floor: Reals) -> Reals:
        """Return 0 or the floor where total variation or Chernoff's bound shows that epsilon is at most that."""
        base, extra = (smoothed.variation(pairs) for pairs in (self.base, self.extra))
        known = np.where(base + counts * extra <= np.exp(log_delta), 0.0, np.inf)
        goal = finite_goals(np.exp(log_delta), *_infinite(self.base, self.extra, counts), 0.0)[1]
        if floor[-1] > 0 and goal[-1] > _LEAST:
            last = _joined(self.base, self.extra, counts[-1])
            if moments := smoothed.moments_of(last, None, float(floor[-1]), float(goal[-1])):
                logs = [smoothed.moments_at(pairs, moments.order)[0] for pairs in (self.base, self.extra)]
                known = _floored(known, moments.order, logs[0] + counts[:, None] * logs[1], goal, floor)
        return known

    def contours(
        self, counts: Reals, log_delta: Reals, guess: float, floor: float, least: float = 0.0
    ) -> Iterator[Attempt]:
        """Yield a smoothed contour; see `Growing`. Asking for each count takes less time than a longer one."""
        both = partial(self._both, counts[-1], float(log_delta.min()))
        yield _smoothed(both, counts[-1:], log_delta[-1:], Attempt(None, guess, np.inf), floor)

    def _both(self, last: float, log_delta: float, guess: float) -> tuple[Pairs, Pairs]:
        found = _capped(self.base, self.extra, last, log_delta, 1.5 * guess)
        return found or (self.base, self.extra)


def _floored(known: Reals, order: Reals, log: Reals, log_delta: Reals, floor: Reals) -> Reals:
    """Return known bounds, or the floor where Chernoff's bound shows that epsilon is at most that.

    Args:
        known: Upper bounds, shape `(rows,)`.
        order: Real orders, shape `(m,)`.
        log: K there, shape `(rows, m)`.
        log_delta: Logarithm of delta, shape `(rows,)`.
        floor: Same shape.
    """
    if not len(order):
        return known
    least = chernoff(np.array(np.broadcast_arrays(order, log)), None, floor[:, None]).min(axis=1)
    return np.where(least <= log_delta - smoothed.MARGIN, np.minimum(known, floor), known)


def _joined(
    base: Sequence[tuple[Part, int]], extra: Sequence[tuple[Part, int]], times: float
) -> list[tuple[Part, int]]:
    """Return a base, and what is released several times after it."""
    return [*base, *((part, int(times) * count) for part, count in extra)]


def _capped(
    base: Sequence[tuple[Law | GaussianNoise, int]],
    extra: Sequence[tuple[Law | GaussianNoise, int]],
    times: float,
    log_delta: float,
    epsilon: float,
) -> tuple[Pairs, Pairs] | None:
    """Return both with losses capped for values up to an epsilon, where the second is released several times."""
    found = capped(_joined(base, extra, times), log_delta, epsilon, _SMOOTHING / 10)
    if found is None:
        return None
    once = [(law, count) for (law, _), (_, count) in zip(found.pairs[len(base) :], extra, strict=True)]
    return found.pairs[: len(base)], once


def _smoothed(
    pairs_for: Callable[[float], tuple[Pairs, Pairs] | None],
    last: Reals,
    log_delta: Reals,
    before: Attempt,
    floor: float,
    longer: float = 1.0,
) -> Attempt:
    """Evaluate a base and further releases on a smoothed contour.

    Args:
        pairs_for: Returns both for a guess of epsilon.
        last: The largest count, shape `(1,)`.
        log_delta: Logarithm of delta, same shape.
        before: What is known.
        floor: Value below which no bound is needed.
        longer: How much longer than usual the contour may be.
    """
    _, guess, most = before
    for _ in range(_TRIES):
        if (found := pairs_for(guess)) is None:
            break
        base, extra = found
        joined = _joined(base, extra, last[0])
        infinite = partial(_infinite, base, extra)
        goal = float(finite_goals(np.exp(log_delta), *infinite(last), 0.0)[1][0])
        if goal < _LEAST or (moments := smoothed.moments_of(joined, goal, None)) is None:
            break
        guess = guess if guess < np.inf else moments.epsilon_guess(goal)
        chosen = smoothed.choose(joined, moments, guess, float(log_delta[0]), _SMOOTHING, longer)
        if chosen is None:
            break
        shared = Shared(
            smoothed.rows(base, extra, *chosen, moments.order), len(frequencies(chosen[0])[0]), infinite=infinite
        )
        low, high, known = shared.epsilon(last, log_delta, np.array([guess]))
        if not 0 < known[0] < np.inf:
            break
        near, guess, most = abs(known[0] - guess) <= _NEAR * guess, float(known[0]), min(most, float(high[0]))
        if near:
            return Attempt(shared if close(low, high).all() or most <= floor else None, guess, most)
    return Attempt(None, guess, most)


def _infinite(base: Pairs, extra: Pairs, times: Reals) -> Ends:
    """Bound the probability of an infinite loss in a base, and in any of some further releases."""
    return smoothed.unbounded([*base, *((law, count * times) for law, count in extra)])
