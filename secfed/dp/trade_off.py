"""Error rates of tests, and Gaussian privacy, from the delta for each epsilon.

A release is described by its profile: for each epsilon, the least delta for which it is (epsilon, delta)-private, the
larger of both directions of a pair of adjacent data sets. This module uses only that the profile falls, is convex in
exp(epsilon), and is known between two certified bounds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr, ndtri, ndtri_exp

from secfed.dp.closed_forms import GaussianProfile
from secfed.dp.contour.privacy_loss import Reals

# From a number to a certified lower and upper value.
Certified = Callable[[float], tuple[float, float]]

# Relative error of two sums or products of float64 is below this.
_LOOSE = 2.0**-50
# Slopes between close points lose digits; this relative allowance is far more than that.
_CHORD = 1e-9
# Golden-section search ends when values differ by less than the first fraction, or by less than their bounds do if that
# is below the second fraction, or after this many steps.
_SAME, _BLUR = 1e-8, 1e-6
_STEPS = 24
_GOLDEN = (math.sqrt(5) - 1) / 2
# Smaller false positive rates count as this one: exp(epsilon) up to its inverse is a float64.
_SMALLEST = 1e-300
# How many lines are used to bound a whole curve.
_LINES = 96
# How close the upper value of mu comes to the lower one, and how many deltas may be computed for it.
_NEAR = 1e-3
_FIRST, _MOST = 24, 200
# Largest mu considered.
_LARGEST_MU = 1e6


@dataclass(frozen=True, slots=True)
class TradeOff:
    """The least error of any test that tells two adjacent data sets apart, from a release's profile.

    Let `delta` be the profile, x = exp(epsilon), and a the false positive rate. The least false negative rate is

        f(a) = sup over x >= 1 of max(0, 1 - delta(x) - x a, (1 - delta(x) - a) / x).

    Each x gives a line that is nowhere above f, even with an upper value of delta; that is the lower value. The profile
    is the larger of both directions, so f is the symmetric trade-off: f is its own inverse, and no test is better in
    either order of the two data sets.

    The upper value bounds, for each of the two kinds of lines, the supremum over all x, not only those tried.
    T(x) = delta(x) + a x is convex, and so is -u (1 - a - delta(1/u)) in u = 1/x (the perspective of a convex
    function). Outside the interval between two points, a convex function lies above the line through them. So between
    two neighboring points tried, it lies above the lines through pairs of points on either side. The certified bounds
    are used so that each line is as low as possible. As delta falls, the function also lies above the value from the
    lower delta of the larger epsilon. Past the end of the range of epsilon, lines are below the best one.

    One kind suffices except near f(a) = a. Let (P, Q) attain t = delta(1), A = {p > q}, c = (1 - t)/2. Then
    P(A) - x Q(A) = t - (x - 1) Q(A), and the other direction has at least t - (x - 1)(1 - t - Q(A)). One of Q(A) and
    1 - t - Q(A) is at most c, so delta(x) >= t - (x - 1) c, which says that both lines of x are at most c at a = c.
    For a < c the second line of x, of slope -1/x, is therefore at most c + (c - a) = 1 - t - a, the first line of
    x = 1; for a > c so is the first line of x, of slope -x.

    Args:
        delta: The profile: from epsilon to the bounds on delta.
        epsilon: Its inverse: from delta to the bounds on epsilon.

    Source:
        Dong, Roth, Su: Gaussian Differential Privacy, 2022, Proposition 6. Wasserman, Zhou: A Statistical Framework for
        Differential Privacy, 2010, Theorem 2.4.
    """

    delta: Certified
    epsilon: Certified
    _known: dict[float, tuple[float, float]] = field(default_factory=dict, repr=False)

    def bounds(self, rate: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return bounds on the false negative rate at a false positive rate, and on 1 minus it, to full precision.

        Args:
            rate: False positive rate, from 0 to 1.

        Returns:
            Lower and upper value of the least false negative rate; lower and upper value of the largest true positive
            rate.
        """
        low, high = self._at(0.0)
        miss, hit = [0.0], [1.0]
        miss_above, hit_below = [0.0], [1.0]
        if rate <= (1 - low) / 2:
            least, most = self._first(rate)
            hit.append(most)
            miss.append(_below(1 - most))
            hit_below.append(least)
            miss_above.append(_above(1 - least))
        if rate >= (1 - high) / 2:
            least, most = self._second(rate)
            miss.append(least)
            hit.append(_above(1 - least))
            miss_above.append(most)
            hit_below.append(_below(1 - most))
        # A blind guess does as well as this.
        lower, upper = max(miss), min(max(miss_above), _above(1 - rate))
        least, most = max(min(hit_below), rate), min(1.0, max(min(hit), rate))
        return (min(lower, upper), upper), (least, max(least, most))

    def curve(self, rates: Reals) -> Reals:
        """Return upper values of the largest true positive rate at each false positive rate, `(count,)`.

        One set of lines serves all rates, so this is cheaper than calling `bounds` for each, and slightly looser.

        Args:
            rates: False positive rates above 0 and at most 1, `(count,)`.
        """
        smallest = max(_SMALLEST, float(rates.min()))
        # Beyond this, delta is too small to matter, or the line is above 1.
        farthest = min(self.epsilon(min(smallest / 1000, 0.5))[1], -math.log(smallest))
        places = np.linspace(0.0, farthest, _LINES)
        deltas = np.array([self._at(float(place))[1] for place in places])[:, None]
        growth = np.exp(places)[:, None]
        first = deltas + growth * rates
        second = 1 - (1 - deltas - rates) / growth
        found = np.minimum(first.min(axis=0), second.min(axis=0)) + _LOOSE
        return np.asarray(np.minimum(1.0, np.maximum(found, rates)))

    def _at(self, epsilon: float) -> tuple[float, float]:
        if epsilon not in self._known:
            self._known[epsilon] = self.delta(epsilon)
        return self._known[epsilon]

    def _first(self, rate: float) -> tuple[float, float]:
        """Return bounds on the least delta + exp(epsilon) rate."""
        if rate == 0:
            low, high = self.delta(math.inf)
            return low, high
        if rate < _SMALLEST:
            return 0.0, self._first(_SMALLEST)[1]

        def value(epsilon: float, side: int) -> float:
            return self._at(epsilon)[side] + math.exp(epsilon) * rate

        # Beyond this, exp(epsilon) rate alone is more than the value at 0.
        farthest = math.log(self._at(0.0)[1] / rate + 1)
        places = _golden(value, farthest)
        best = min(value(place, 1) for place in places) * (1 + _LOOSE)
        axis = np.exp(np.array(places))
        floors = np.array([self._at(place)[0] for place in places[1:]]) + axis[:-1] * rate
        lows, highs = (np.array([value(place, side) for place in places]) for side in (0, 1))
        return min(_least(axis, lows, highs, floors) * (1 - _CHORD), best), best

    def _second(self, rate: float) -> tuple[float, float]:
        """Return bounds on the largest (1 - delta - rate) / exp(epsilon), at least 0."""

        def value(epsilon: float, side: int) -> float:
            left = (1 - self._at(epsilon)[side]) - rate
            return left * math.exp(-epsilon)

        start = value(0.0, 1)
        if start > 0:
            # Beyond this, exp(-epsilon) (1 - rate) is less than the value at 0.
            farthest = math.log((1 - rate) / start)
        elif rate < 1:
            # There it is at least half of (1 - rate) exp(-epsilon), so the best one is not much farther.
            farthest = self.epsilon((1 - rate) / 2)[1] + math.log(2)
        else:
            farthest = math.inf
        if not farthest < 600:
            return 0.0, 1 - rate
        places = _golden(lambda epsilon, side: -value(epsilon, side), farthest)
        # A difference of numbers up to 1 is off by at most two units in the last place of 1.
        best = max(0.0, *(value(place, 1) - 2 * _LOOSE * math.exp(-place) for place in places))
        axis = np.exp(-np.array(places))[::-1]
        lows, highs = (-np.array([value(place, side) for place in places])[::-1] for side in (0, 1))
        floors = -axis[1:] * (1 - np.array([self._at(place)[0] for place in places[1:]])[::-1] - rate)
        # Where (1 - delta - rate) is negative, 0 is above the value.
        least = _least(axis, lows, highs, np.minimum(floors, 0.0))
        # Left of the last point the value is below that at 0.
        return best, max(best, -least * (1 + _CHORD) + 2 * _LOOSE)


def gaussian(mu: float, rate: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return what `TradeOff.bounds` returns for releases that are exactly mu-Gaussian private.

    Args:
        mu: Distance of the two means in standard deviations.
        rate: False positive rate, from 0 to 1.

    Source:
        Dong, Roth, Su: Gaussian Differential Privacy, 2022, equation 6.
    """
    if rate in (0.0, 1.0):
        return (1.0 - rate, 1.0 - rate), (rate, rate)
    place = float(ndtri(rate))
    # The place is off by a few units in its last digit; the slope of log Phi is at most |place| + 1.
    error = 1e-14 + 1e-15 * (abs(place) + mu) * (abs(place + mu) + 2)
    miss, hit = float(ndtr(-place - mu)), float(ndtr(place + mu))
    return (
        (max(0.0, miss * (1 - error)), min(1.0, miss * (1 + error))),
        (max(0.0, hit * (1 - error)), min(1.0, hit * (1 + error))),
    )


def least_mu(delta: Certified, epsilon: Certified, least_delta: float) -> tuple[float, float]:
    """Return bounds on the least mu for which a release is mu-Gaussian private for every delta from `least_delta` up.

    That is: for each such delta, the release is (e, delta)-private with the epsilon e that mu has there. Let E be the
    epsilon of `least_delta`, and G the profile of mu. It suffices that the release's profile is at most G for epsilons
    from 0 to E. If e is beyond E, delta(e) <= least_delta <= delta; else delta(e) <= G(e) = delta.

    Delta is convex in x = exp(epsilon), so between two epsilons tried it is at most the line through their upper
    values. G is convex too, so the line minus G is largest where G has the line's slope, -Phi(-e/mu - mu/2). It
    suffices that G is not below the line at that one place. Intervals where that fails are halved.

    An upper value may be close to 1 if epsilon is small. Since the profile is the larger of both directions,
    1 - delta(x) >= (1 - delta(y)) (1 + x) / (1 + y) for x <= y: the least trade-off that (log y, delta(y)) allows is
    symmetric and has its corner at (1 - delta(y)) / (1 + y). So 1 - delta and 1 - G are compared too. If mu is above
    about 15 and small epsilons decide it, float64 has no digits left for 1 - delta, and the upper value is loose.

    Args:
        delta: The profile: from epsilon to the bounds on delta.
        epsilon: Its inverse: from delta to the bounds on epsilon.
        least_delta: Above 0 and below 1.

    Returns:
        Lower and upper value; the upper one is infinite if there is none.
    """
    nearest, farthest = epsilon(least_delta)
    if farthest == 0:
        return 0.0, 0.0
    if farthest == math.inf:
        places = np.array([0.0] if nearest in (0.0, math.inf) else [0.0, nearest / 2])
    else:
        places = np.linspace(0.0, farthest, _FIRST)
    values = np.array([delta(float(place)) for place in places])
    while True:
        # Epsilon is above `nearest`, so delta there is at least least_delta; a `nearest` of 0 tells nothing.
        lows = np.append(values[:, 0], least_delta if 0 < nearest < math.inf else 0.0)
        at = np.append(places, nearest if nearest < math.inf else 0.0)
        claimed = lows >= least_delta
        lower = _largest(partial(_nowhere_above, at[claimed], lows[claimed]))
        if farthest == math.inf:
            return lower, math.inf
        upper = np.append(values[:-1, 1], min(values[-1, 1], least_delta))
        # The profile falls, so bounds found at a smaller epsilon hold here too.
        chords = _Chords(places, np.minimum.accumulate(upper))
        reference = _largest(chords.points_below)
        if reference >= _LARGEST_MU:
            return lower, math.inf
        target = reference * (1 + _NEAR / 2)
        bad = np.flatnonzero(~chords.below(target))
        if not len(bad) or len(places) + len(bad) > _MOST:
            found = _largest(chords.all_below, above=True)
            return min(lower, found), found
        middles = (places[bad] + places[bad + 1]) / 2
        places = np.insert(places, bad + 1, middles)
        values = np.insert(values, bad + 1, [delta(float(place)) for place in middles], axis=0)


class _Chords:
    """Upper bounds on a profile between the epsilons tried.

    Args:
        places: Epsilons, rising, `(count,)`.
        deltas: Upper values of delta, `(count,)`.
    """

    def __init__(self, places: Reals, deltas: Reals) -> None:
        with np.errstate(divide="ignore"):
            corners = np.log1p(-deltas) - np.logaddexp(0.0, places)
        best = np.maximum.accumulate(corners[::-1])[::-1]
        self.places = places
        # Logarithms of lower values of 1 - delta and of upper values of delta.
        self.log_kept = np.minimum(best + np.logaddexp(0.0, places) - 1e-14 * (1 + places), 0.0)
        with np.errstate(divide="ignore"):
            self.log_delta = np.log(np.minimum(deltas, -np.expm1(self.log_kept)) * (1 + 1e-14))

    def points_below(self, mu: float) -> bool:
        """Return whether the profile of mu is above the upper values at all epsilons tried."""
        fine = (_gauss(self.places, mu)[0] >= self.log_delta) | (_left(self.places, mu) <= self.log_kept)
        return bool(fine.all())

    def all_below(self, mu: float) -> bool:
        """Return whether the profile of mu is above the upper values everywhere."""
        return bool(self.below(mu).all())

    def below(self, mu: float) -> npt.NDArray[np.bool_]:
        """Return whether the profile of mu is above the upper values between neighbors, `(count - 1,)`."""
        start, width = self.places[:-1], np.diff(self.places)
        delta, kept = np.exp(self.log_delta), np.exp(self.log_kept)
        stretch, ok = _log_expm1(width), np.zeros(len(width), bool)
        for values, falls in ((delta, -np.diff(delta)), (kept, np.diff(kept))):
            with np.errstate(divide="ignore"):
                slope = np.log(np.maximum(falls, 0.0)) - start - stretch
            # Where the line does not fall, G still does, so G is lowest at the end.
            tangent = np.where(slope >= 0, 0.0, mu * (-ndtri_exp(np.minimum(slope, -1e-300)) - mu / 2))
            tangent = np.where(slope == -np.inf, np.inf, tangent)
            place = np.clip(tangent, start, self.places[1:])
            share = np.exp(np.minimum(_log_expm1(place - start) - stretch, 0.0))
            with np.errstate(divide="ignore"):
                line = np.log(values[:-1] * (1 - share) + values[1:] * share)
            error = 1e-12 + 1e-15 * self.places[1:]
            if values is delta:
                ok |= _gauss(place, mu)[0] >= line + error
            else:
                ok |= _left(place, mu) <= line - error
        return ok


def _log_expm1(number: Reals) -> Reals:
    with np.errstate(divide="ignore"):
        return np.asarray(number + np.log(-np.expm1(-number)))


def _gauss(places: Reals, mu: float) -> tuple[Reals, Reals]:
    """Return lower and upper values of the log of delta of mu-Gaussian privacy."""
    low, high = GaussianProfile(mu).bounds(places)
    return np.nan_to_num(low, nan=-np.inf, neginf=-np.inf, posinf=0.0), np.nan_to_num(high, nan=0.0, neginf=-np.inf)


def _left(places: Reals, mu: float) -> Reals:
    """Return an upper value of the log of 1 minus the delta of mu; nothing cancels here."""
    a, b = places / mu - mu / 2, places / mu + mu / 2
    found = np.logaddexp(log_ndtr(a), places + log_ndtr(-b))
    return np.asarray(found + 1e-14 * (1 + places + a * a + b * b))


def _nowhere_above(places: Reals, lows: Reals, mu: float) -> bool:
    """Return whether mu is possible: no lower value of delta is surely above the delta of mu."""
    return not (_gauss(places, mu)[1] < np.log(lows)).any()


def _largest(holds: Callable[[float], bool], *, above: bool = False) -> float:
    """Return where a condition starts to hold as mu grows: the last mu where it fails, or with `above` the first
    after."""
    low, high = 0.0, 1.0
    if holds(high):
        while high > 1e-9 and holds(high / 2):
            high /= 2
        low = high / 2
        if high <= 1e-9:
            return high if above else 0.0
    else:
        while not holds(high):
            low, high = high, 2 * high
            if low >= _LARGEST_MU:
                return math.inf if above else low
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high if above else low


def _golden(value: Callable[[float, int], float], farthest: float) -> list[float]:
    """Search for the least value of a function with one minimum, and return the places tried, ascending.

    Args:
        value: The lower (0) or upper (1) value at a place.
        farthest: End of the range, which starts at 0.
    """
    low, high = 0.0, farthest
    if not farthest > 0:
        return [0.0]
    places = {low, high}
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    for _ in range(_STEPS):
        places |= {left, right}
        found = [value(place, 1) for place in (low, left, right, high)]
        least = abs(min(found))
        if max(found) - min(found) <= _SAME * least + min(abs(found[1] - value(left, 0)), _BLUR * least):
            break
        if found[1] <= found[2]:
            high, right = right, left
            left = high - _GOLDEN * (high - low)
        else:
            low, left = left, right
            right = low + _GOLDEN * (high - low)
    return sorted(places)


def _least(axis: Reals, lows: Reals, highs: Reals, floors: Reals) -> float:
    """Return a lower bound of a convex function, from its first to its last place.

    Args:
        axis: Places, rising, `(count,)`.
        lows: Lower values there, `(count,)`.
        highs: Upper values there, `(count,)`.
        floors: A lower bound between each two neighbors, `(count - 1,)`.
    """
    if len(axis) == 1:
        return float(lows[0])
    least = math.inf
    for k in range(len(axis) - 1):
        start, end = axis[k], axis[k + 1]
        # Lines through the interval's ends and points outside: value at the start, and at the end.
        ends = []
        for near, far, others in ((k, end, slice(0, k)), (k + 1, start, slice(k + 2, None))):
            with np.errstate(divide="ignore"):
                reach = np.abs(far - axis[near]) / np.abs(axis[near] - axis[others])
            beyond = lows[near] * (1 + reach) - reach * highs[others]
            beyond = beyond[np.isfinite(beyond)]
            here = np.full_like(beyond, lows[near])
            ends.append((here, beyond) if near == k else (beyond, here))
        (left_start, left_end), (right_start, right_end) = ends
        best = float(floors[k])
        best = max([best, *np.minimum(left_start, left_end).tolist(), *np.minimum(right_start, right_end).tolist()])
        if len(left_start) and len(right_start):
            # The larger of two lines is least at an end or where they cross.
            at_start = left_start[:, None] - right_start
            at_end = left_end[:, None] - right_end
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.clip(at_start / (at_start - at_end), 0.0, 1.0)
            meet = np.minimum(
                left_start[:, None] + share * (left_end - left_start)[:, None],
                right_start + share * (right_end - right_start),
            )
            outer = np.minimum(np.maximum(left_start[:, None], right_start), np.maximum(left_end[:, None], right_end))
            found = np.where((at_start > 0) != (at_end > 0), np.minimum(meet, outer), outer)
            best = max(best, float(np.nan_to_num(found, nan=-np.inf).max()))
        least = min(least, best)
    return least


def _below(number: float) -> float:
    return max(0.0, math.nextafter(number, -math.inf))


def _above(number: float) -> float:
    return min(1.0, math.nextafter(number, math.inf))
