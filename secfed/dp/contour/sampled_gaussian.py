"""Certified delta and epsilon of sampled Gaussian releases in one direction: which contours to try, and when to end."""

import numpy as np

from secfed.dp.closed_forms import GaussianProfile, SingleProfile
from secfed.dp.contour import smoothed
from secfed.dp.contour.capped import GaussianNoise, capped
from secfed.dp.contour.integral import Contour, WarmStart, build
from secfed.dp.contour.inversion import epsilon_of, solve
from secfed.dp.contour.moments import MOST_NODES, Moments, NoOrderError, Releases
from secfed.dp.contour.path import ContourPath, adapted, choose, work

# Target error relative to delta; the bounds include the error actually reached.
GOAL = 1e-11
# Gap above which another contour is tried.
_ENOUGH = 1e-7
# Contours for one delta, each started from the last value.
_TRIES = 3
# Most work of all contours of one query: see `path.work`.
_MOST_WORK = 1.5e8
# Work of a contour cheap enough to build at the first guess, and the gap below which that guess is good enough.
_LITTLE_WORK = 3e7
_CLOSE = 0.01
# Gap above which a contour is tried whose terms are only a little smaller, and how much, as a logarithm.
_MUCH, _LESS = 5e-7, 0.5
# Extra for each further kind of release: ten thousand take seconds, and no other engine is as tight.
_KIND_WORK = 3e5
# Values of epsilon that a guess interpolates, and how many kinds of releases it considers.
_GUESSES, _KINDS = np.geomspace(1e-9, 1e3, 241), 8
# Relative gap above which a smoothed contour is tried too.
_WIDE = 1e-3
# Known bounds are close together up to this ratio.
_SIMILAR = 3.0
# Its target relative gap, and the most by which capped losses may raise delta.
_FINE_GAP = 1e-5
_MOST_EXCESS = 1e-6


class Effort:
    """The work that contours may still cost in one query; see `path.work`."""

    def __init__(self, releases: Releases) -> None:
        more = max(0, sum(len(laws) for laws in releases.laws) - 1)
        self.left, self.little = _MOST_WORK + more * _KIND_WORK, _LITTLE_WORK + more * _KIND_WORK

    def build(self, releases: Releases, moments: Moments, path: ContourPath, goal: float) -> Contour | None:
        """Build a contour, or return None if it would cost more than is left."""
        cost = work(releases, path, goal)
        if not cost <= self.left:
            return None
        self.left -= cost
        return build(releases, moments, path, goal)


def delta_bounds(releases: Releases, epsilon: float, start: WarmStart | None = None) -> tuple[float, float]:
    """Return lower and upper bounds on the logarithm of delta(epsilon).

    Args:
        releases: The composition.
        epsilon: At least 0.
        start: The contour to try first; the one that answers is stored in it.
    """
    at, best = np.array([epsilon]), (-np.inf, 0.0)
    if start and (contour := _warm_contour(releases, GOAL, start)):
        low, high = (float(bound[0]) for bound in contour.bounds(at))
        if high - low <= _ENOUGH:
            return low, min(high, 0.0)
    try:
        moments = Moments.of(releases, None, epsilon)
    except NoOrderError:
        return _smoothed_delta(releases, epsilon, -50.0)
    chernoff, effort = float(moments.exponent(epsilon).min()), Effort(releases)
    best = (-np.inf, min(chernoff, 0.0))
    guess = min(moments.log_delta_guess(epsilon), chernoff)
    for _ in range(_TRIES):
        path = choose(releases, moments, epsilon, guess, GOAL)
        contour = effort.build(releases, moments, path, GOAL) if path else None
        if contour is None:
            break
        low, high = (float(bound[0]) for bound in contour.bounds(at))
        best = _meet(best, (low, high))
        value = float(contour.value(at)[0][0])
        if best[1] - best[0] <= _ENOUGH:
            if start:
                start.keep(contour, releases, path, epsilon)
            return best
        if not np.isfinite(value) or abs(value - guess) < 0.5:
            break
        guess = value
    if epsilon > 0 and not best[1] - best[0] <= _WIDE:
        best = _meet(best, _smoothed_delta(releases, epsilon, max(best)))
    return best


def epsilon_bounds(
    releases: Releases, log_delta: float, goal: float = GOAL, start: WarmStart | None = None
) -> tuple[float, float]:
    """Return lower and upper bounds on epsilon(delta), for a target relative error of delta; below 0 they count as 0.

    Args:
        releases: The composition.
        log_delta: Logarithm of delta.
        goal: The relative error.
        start: The contour to try first; the one that answers is stored in it.
    """

    def answer(contour: Contour | None, path: ContourPath | None, guess: float) -> tuple[float, float, float]:
        if contour is None:
            return -np.inf, np.inf, guess
        low, high, middle = (float(part[0]) for part in solve(contour, np.array([log_delta]), np.array([guess])))
        if start and near((low, high)):
            start.keep(contour, releases, path, middle)
        return low, high, middle

    def near(bounds: tuple[float, float]) -> bool:
        return bounds[1] - bounds[0] <= _ENOUGH * abs(bounds[1]) < np.inf

    if start and (contour := _warm_contour(releases, goal, start)):
        low, high, _ = answer(contour, start.path, start.epsilon)
        if near((low, high)):
            return low, high

    def unsampled(known: float) -> float:
        """Return the smaller one of a known upper bound and that of the unsampled releases."""
        profile = GaussianProfile(releases.unsampled)
        helps = known == np.inf or profile.bounds(np.array([known]))[1][0] < log_delta
        return min(known, epsilon_of(profile, log_delta)[1]) if helps else known

    try:
        moments = Moments.of(releases, log_delta, None)
    except NoOrderError:
        best = (-np.inf, unsampled(np.inf))
        return _meet(best, smooth(releases, log_delta, _FINE_GAP, best))
    best = (-np.inf, moments.epsilon_bound(log_delta))
    if best[1] <= 0:
        return best
    guess = min(moments.epsilon_guess(log_delta), best[1])
    effort, tried = Effort(releases), None
    # A contour at the first guess usually suffices, or shows where the next one must be.
    found: float | None = None
    fine = choose(releases, moments, guess, log_delta, goal, doubtful=True)
    if fine and work(releases, fine, goal) <= effort.little:
        contour, tried = effort.build(releases, moments, fine, goal), fine
        low, high, middle = answer(contour, fine, guess)
        best = _meet(best, (low, high))
        if near(best):
            return best
        if best[1] - best[0] <= _CLOSE * abs(best[1]):
            found = middle
    best = (best[0], unsampled(best[1]))
    if found is None:
        best = _meet(best, smooth(releases, log_delta, _WIDE, best))
        if near(best) or best[1] <= 0:
            return best
        found = between(best)
    most_loss = np.inf
    for _ in range(_TRIES):
        fine = choose(releases, moments, found, log_delta, goal, most_loss=most_loss)
        if tried and not fine and most_loss < np.inf and best[1] - best[0] > _MUCH * best[1]:
            # Terms that are a little smaller help a little.
            fine = choose(releases, moments, found, log_delta, goal, most_loss=tried.loss - _LESS)
        if not fine or (tried and (fine.order, fine.frequency, fine.cut) == (tried.order, tried.frequency, tried.cut)):
            break
        contour, tried = effort.build(releases, moments, fine, goal), fine
        low, high, _ = answer(contour, fine, found)
        best = _meet(best, (low, high))
        if near(best) or not high - low < np.inf:
            break
        # The terms must shrink as much as the gap.
        most_loss = fine.loss - float(np.log((high - low) / (_ENOUGH * max(abs(high), 1e-300)))) - 1.0
    if not best[1] - best[0] <= _WIDE * abs(best[1]):
        best = _meet(best, smooth(releases, log_delta, _FINE_GAP, best))
    return best


def smooth(
    releases: Releases, log_delta: float, gap: float, known: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float]:
    """Return bounds on epsilon(delta) from smoothed contours, which stay short where others get long.

    Args:
        releases: The composition.
        log_delta: Logarithm of delta.
        gap: Target relative gap.
        known: Known bounds; the search starts between them if they are close together.
    """
    most = known[1]
    found = capped(GaussianNoise.parts(releases), log_delta, most, min(gap / 10, _MOST_EXCESS))
    if found is None:
        return -np.inf, np.inf
    start = None
    if known[0] > 0 and most <= _SIMILAR * known[0]:
        start = (known[0] + most) / 2
    elif gap < _WIDE:
        # A fine contour takes long, so start near the answer. A coarse one may start anywhere.
        start = min(max(rare_guess(releases, log_delta), known[0]), most)
    low, high = smoothed.epsilon_bounds(found.pairs, log_delta, gap, start, found.excess)
    return min(low, most), high


def rare_guess(releases: Releases, log_delta: float) -> float:
    """Estimate epsilon where participation is rare: a starting point, not a bound.

    Either one release has a large loss, or all losses together are nearly normally distributed.
    """
    square, one = releases.gaussian, np.full(len(_GUESSES), -np.inf)
    for laws in releases.laws:
        square += float(laws.count @ laws.spread_of_loss**2)
        for i in np.argsort(laws.noise)[:_KINDS]:
            profile = SingleProfile(laws.direction, float(laws.rate[i]), float(laws.noise[i]))
            with np.errstate(invalid="ignore"):
                one = np.logaddexp(one, np.log(laws.count[i]) + profile.bounds(_GUESSES)[1])
    largest = np.fmax(one, GaussianProfile(np.sqrt(square)).bounds(_GUESSES)[1])
    return float(np.interp(-log_delta, -np.minimum.accumulate(largest), _GUESSES))


def between(bounds: tuple[float, float]) -> float:
    """Return a guess of epsilon between bounds: near the upper one, which is the better one if they are far apart."""
    low, high = bounds
    return (max(low, 0.9 * high) + high) / 2


def _warm_contour(releases: Releases, goal: float, start: WarmStart) -> Contour | None:
    """Return this composition on the contour of the last query, or None if that costs much."""
    if start.subject is releases:
        return start.contour
    if start.path is None:
        return None
    if releases.most_nodes(float(start.orders[-1])) > MOST_NODES:
        return None
    moments, path = Moments.at(releases, start.orders), adapted(releases, start.path)
    if not work(releases, path, goal) <= _LITTLE_WORK:
        return None
    start.contour, start.subject = build(releases, moments, path, goal), releases
    return start.contour


def _smoothed_delta(releases: Releases, epsilon: float, log_delta: float) -> tuple[float, float]:
    """Return bounds on the logarithm of delta from a smoothed contour."""
    found = capped(GaussianNoise.parts(releases), log_delta, epsilon, _MOST_EXCESS / 100)
    if found is None:
        return -np.inf, 0.0
    low, high = smoothed.delta_bounds(found.pairs, epsilon)
    low *= 1 - found.excess
    return float(np.log(low)) if low > 0 else -np.inf, float(np.log(high)) if high > 0 else -np.inf


def _meet(one: tuple[float, float], two: tuple[float, float]) -> tuple[float, float]:
    return max(one[0], two[0]), min(one[1], two[1])
