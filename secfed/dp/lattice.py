"""Privacy loss distributions on a lattice: the third engine, for any discrete mechanism, with bounds on both sides.

A release is a pair of laws: P if a client's data are there, Q if not. Its loss log P/Q is a random variable, and the
losses of many releases add up, so that their law is a convolution, done by Fourier transform. Every error has a bound:

* *Lattice, upper*: each loss is split between its two neighbours on the lattice so that the masses of P and of Q both
  stay ("connect the dots"). Merging them again is post-processing, so the split pair gives away at least as much.
* *Lattice, lower*: all outcomes whose losses lie in one cell are merged, which is post-processing, and the merged loss
  is rounded down. Cells are shifted until merged losses meet the lattice, so that little is left to round.
* *Continuous laws* are first cut at the edges of those cells and integrated by Gauss-Legendre in short pieces. What is
  left out at 15 standard deviations counts as a loss without bound above, and not at all below.
* *Tilting*: P's masses are multiplied by e^(order * loss) and normalised, so that the losses that matter lie in the
  middle of the transform's window, at ordinary size, whatever delta is. delta is their mean weight, times a factor.
* *Window*: what lies outside wraps around; its mass is bounded by Chernoff's inequality and counts at full weight.
* *Round-off*: a transform of n values errs by at most `_FFT * log2(n)` of their Euclidean norm (Higham 2002, Theorem
  24.2), which powers and products of numbers of size at most 1 add up; Cauchy and Schwarz do the rest.

Source:
    Doroshenko, Ghazi, Kamath, Kumar, Manurangsi: Connect the Dots: Tighter Discrete Approximations of Privacy Loss
    Distributions, PoPETs 2022.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from secfed.dp import events as kinds
from secfed.dp.events import Adjacency, Event, FixedSizeSampled, Gaussian, Laplace, PoissonSampled
from secfed.dp.lattice_masses import MOST_CELLS, Array, Losses, LossSum, lower_lattice, upper_lattice
from secfed.dp.losses import Law, NoiseLaw, Pair
from secfed.errors import ConfigError, UnsupportedEventError

_FFT = 1e-15
# Relative error of a mass after all (quadrature, exponentials), and of a loss; per release.
_MASS_ERROR = 4e-14
_LOSS_ERROR = 1e-15
_MOST_WINDOW = 1 << 22
_CHUNK = 1 << 13


def bounds_delta(
    events: Iterable[tuple[Event, int]], adjacency: Adjacency, epsilon: float, step: float | None = None
) -> tuple[float, float]:
    """Return a lower and an upper bound of delta.

    Args:
        events: Each event and how often it was released: `Gaussian` and `Laplace`, also sampled.
        adjacency: Which data sets are adjacent.
        epsilon: At least 0 and finite.
        step: Largest distance of lattice points; by default about a hundredth of the deviation of one release's loss.

    Raises:
        ConfigError: A parameter is out of range.
        UnsupportedEventError: This engine has no law for an event.
    """
    found = [pairs_delta(laws, epsilon, step) for laws in directions(events, adjacency)]
    return max(lower for lower, _ in found), max(upper for _, upper in found)


def bounds_epsilon(
    events: Iterable[tuple[Event, int]], adjacency: Adjacency, delta: float, step: float | None = None
) -> tuple[float, float]:
    """Return a lower and an upper bound of epsilon; the parameters are those of `bounds_delta`.

    Raises:
        ConfigError: A parameter is out of range.
        UnsupportedEventError: This engine has no law for an event.
    """
    found = [pairs_epsilon(laws, delta, step) for laws in directions(events, adjacency)]
    return max(lower for lower, _ in found), max(upper for _, upper in found)


def pairs_delta(pairs: Iterable[tuple[Law, int]], epsilon: float, step: float | None = None) -> tuple[float, float]:
    """Return bounds of delta of a composition, in the direction in which the pairs are given.

    Args:
        pairs: Each `Pair` and how often it was released.
        epsilon: At least 0 and finite.
        step: As for `bounds_delta`.

    Raises:
        ConfigError: A parameter is out of range.
    """
    if not 0 <= epsilon < math.inf:
        raise ConfigError(f"epsilon {epsilon} must be at least 0 and finite")
    laws = _checked(pairs)
    order = tilt(rough_sum(laws), epsilon)
    step = lattice_step(laws, order, step)
    if epsilon > sum(count * law.reach[1] for law, count in laws) * (1 + 1e-9) + 1e-9:
        # Only losses without bound are left; of noise, what is cut off counts as such, from above alone.
        exact = [(law, count) for law, count in laws if isinstance(law, Pair)]
        return unbounded(exact) * (1 - 1e-12), min(1.0, unbounded(laws) * (1 + 1e-12))
    upper = TiltedSum([(upper_lattice(law, step), count) for law, count in laws], step, order, epsilon)
    lower = TiltedSum([(lower_lattice(law, step, order), count) for law, count in laws], step, order, epsilon)
    return lower.delta(epsilon, -1), upper.delta(epsilon, 1)


def pairs_epsilon(pairs: Iterable[tuple[Law, int]], delta: float, step: float | None = None) -> tuple[float, float]:
    """Return bounds of epsilon of a composition, in the direction in which the pairs are given.

    Args:
        pairs: Each `Pair` and how often it was released.
        delta: Above 0 and below 1.
        step: As for `bounds_delta`.

    Returns:
        Both at least 0; the upper one is infinite where there is no guarantee.

    Raises:
        ConfigError: A parameter is out of range.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta {delta} must be above 0 and below 1")
    laws = _checked(pairs)
    rough = rough_sum(laws)
    orders = 2.0 ** np.arange(-30.0, 31.0, 0.5)
    exponents = np.array([(rough.log_moment(order) - math.log(delta)) / order for order in orders])
    guess = max(0.0, float(exponents.min()))
    order = tilt(rough, guess)
    step = lattice_step(laws, order, step)
    upper = [(upper_lattice(law, step), count) for law, count in laws]
    lower = [(lower_lattice(law, step, order), count) for law, count in laws]
    return solve(lower, step, rough, guess, delta, -1), solve(upper, step, rough, guess, delta, 1)


def _checked(pairs: Iterable[tuple[Law, int]]) -> list[tuple[Law, int]]:
    laws = list(pairs)
    for _, count in laws:
        if isinstance(count, bool) or not count >= 1 or int(count) != count:
            raise ConfigError(f"count {count!r} must be a whole number of at least 1")
    if not laws:
        raise ConfigError("found no releases, needed at least one")
    return laws


def directions(events: Iterable[tuple[Event, int]], adjacency: Adjacency) -> list[list[tuple[Law, int]]]:
    """Return the laws of all releases, and how often each was released, in each direction.

    Raises:
        UnsupportedEventError: This engine has no law for an event.
    """
    kinds.check_adjacency(adjacency)
    parts = list(kinds.Composed(tuple(events)).events)
    flat: dict[Event, int] = {}
    while parts:
        event, count = parts.pop()
        if isinstance(event, kinds.Composed):
            parts += [(inner, count * times) for inner, times in event.events]
        else:
            flat[event] = flat.get(event, 0) + int(count)
    sides = ("there", "back") if adjacency == "add_remove" else ("there",)
    return [[(_law(event, adjacency, side), count) for event, count in flat.items()] for side in sides]


def _law(event: Event, adjacency: Adjacency, direction: str) -> Law:
    if isinstance(event, kinds.NonPrivate):
        return Pair([1.0, 0.0], [0.0, 1.0])
    release, rate = event, 1.0
    if isinstance(event, PoissonSampled | FixedSizeSampled):
        release, rate = event.event, event.sampling_rate
    if not isinstance(release, Gaussian | Laplace):
        raise UnsupportedEventError(f"the lattice engine has no law for {event} under {adjacency}")
    replace, laplace = adjacency == "replace", isinstance(release, Laplace)
    if replace and rate < 1:
        direction = "swapped" if isinstance(event, FixedSizeSampled) else "replaced"
        if laplace and direction == "replaced":
            raise UnsupportedEventError(f"the lattice engine has no law for {event} under {adjacency}")
    # Two data sets whose sums are twice the norm apart, but for Poisson sampling, where the absent client lies between.
    twice = isinstance(event, FixedSizeSampled) or (replace and rate == 1)
    scale = release.noise_multiplier / (2 if twice else 1)
    return NoiseLaw(scale, rate, direction, laplace=laplace)


def rough_sum(laws: Sequence[tuple[Law, int]]) -> LossSum:
    """Return the losses without a lattice: for choices, not for bounds."""
    parts = []
    for law, count in laws:
        masses, losses = law.atoms(np.empty(0))
        parts.append((Losses(losses, 1.0, masses, 0.0), count))
    return LossSum(parts)


def tilt(rough: LossSum, epsilon: float) -> float:
    """Return the tilt, at least 0, under which the mean of the total loss is epsilon, or one that is strong enough.

    Gaussian losses need less than 20 deviations down to a delta of 1e-80; near the largest loss that there is, more
    would leave nothing but that loss, and delta a difference of nearly equal numbers.
    """
    deviation = math.sqrt(rough.spread(0.0)[1])
    low, high = 0.0, 1.0
    most = 20 / deviation if deviation > 0 else 1.0
    while high < most and rough.spread(high)[0] < epsilon:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rough.spread(middle)[0] < epsilon else (low, middle)
    return min(low, most)


def lattice_step(laws: Sequence[tuple[Law, int]], order: float, step: float | None) -> float:
    """Return the distance of the lattice's points: at most a given one, or about a hundredth of a loss's deviation.

    Raises:
        ConfigError: The step is not positive and finite.
    """
    if step is None:
        rough = rough_sum(laws)
        variance, count = rough.spread(order)[1], sum(count for _, count in laws)
        finest = max(24 * math.sqrt(variance) / _MOST_WINDOW, *(2 * np.ptp(law.reach) / MOST_CELLS for law, _ in laws))
        step = max(math.sqrt(min(variance, rough.spread(0.0)[1]) / count) / 100, finest)
        step = step or 1e-3
    if not 0 < step < math.inf:
        raise ConfigError(f"step {step} must be positive and finite")
    return on_marks(laws, step)


def on_marks(laws: Sequence[tuple[Law, int]], step: float) -> float:
    """Return a step that is no larger, and suits the first law with atoms."""
    marks = next((law.marks for law, _ in laws if law.marks), None)
    if marks is None:
        return step
    # A whole, even number of steps between the marks: atoms of one law fall on the lattice.
    apart = abs(marks[1] - marks[0])
    return apart / (2 * math.ceil(apart / (2 * step)))


def unbounded(parts: Sequence[tuple[Losses | Law, int]]) -> float:
    """Return the probability that some loss is without bound."""
    if any(part.infinite >= 1 for part, _ in parts):
        return 1.0
    return -math.expm1(sum(count * math.log1p(-part.infinite) for part, count in parts))


def _norm(values: Array) -> float:
    """Return the Euclidean norm, without the threads of BLAS, which take longer in sum."""
    return math.sqrt(float((values * values).sum()))


def _norms(values: Array) -> Array:
    """Return the Euclidean norm of the first value, of the first two, and so on; not below, for all their rounding."""
    squares = np.cumsum(values * values)
    return np.asarray(np.sqrt(squares, out=squares) * (1 + 1e-9))


def _power(values: Array, count: int) -> Array:
    """Return a power by squaring: each product errs by at most 2.5e-16, so the power by `count` times that."""
    result = np.empty_like(values)
    # What the processor's cache holds.
    for start in range(0, len(values), _CHUNK):
        square, rest = values[start : start + _CHUNK].copy(), int(count)
        power = square.copy() if rest & 1 else np.ones_like(square)
        while rest := rest >> 1:
            square *= square
            if rest & 1:
                power *= square
        result[start : start + _CHUNK] = power
    return result


def _beyond(ladder: Sequence[tuple[float, float]], top: float, bottom: float) -> float:
    """Return Chernoff's bound of the tilted mass outside a window."""
    above = min(0.0, *(log - more * top for more, log in ladder if more > 0))
    below = min(0.0, *(log - more * bottom for more, log in ladder if more < 0))
    return math.exp(above) + math.exp(below)


class TiltedSum:
    """The law of the total loss, tilted, in a window around epsilon."""

    def __init__(
        self,
        parts: Sequence[tuple[Losses, int]],
        step: float,
        order: float,
        epsilon: float,
        most: int = _MOST_WINDOW,
    ) -> None:
        from scipy import fft

        # A stronger tilt has nothing to tell apart on this lattice.
        self.order = order = min(order, 4 / step)
        self.deviation, self.total = 0.0, LossSum(parts)
        releases = float(sum(count for _, count in parts))
        self.infinite = unbounded(parts)
        self.offset = sum(count * part.offset for part, count in parts)
        widest = max(float(np.abs(part.losses).max(initial=0.0)) for part, _ in parts)
        self.loss_error = releases * _LOSS_ERROR * (1 + widest)
        # The tilt multiplies masses by the exponential of a rounded number.
        self.mass_error = releases * (_MASS_ERROR + 1e-15 * order * widest)
        self.log_moment = self.total.log_moment(order)
        self.empty = self.log_moment == -math.inf
        if self.empty:
            return
        self.most = self.offset + sum(count * float(part.losses.max()) for part, count in parts) + self.loss_error
        self.deviation = max(math.sqrt(self.total.spread(order)[1]), step)
        size, ladder = 1 << 10, self._ladder()
        while True:
            top, bottom = epsilon - self.offset + size * step / 2, epsilon - self.offset - size * step / 2
            self.outside = _beyond(ladder, top - step, bottom)
            if size >= most or self.outside < 1e-15:
                break
            size *= 2
        product, error = np.ones(size // 2 + 1, complex), 0.0
        for part, count in parts:
            law = np.bincount(part.index % size, part.tilted(order), size)
            product *= _power(fft.rfft(law), count)
            error += float(count) * (_FFT * math.log2(size) * _norm(law))
        first = math.floor(bottom / step)
        masses = np.roll(fft.irfft(product, size), -(first % size))
        # The transform back, and powers, whose relative error grows with the exponent.
        self.error = error + _norm(masses) * (_FFT * math.log2(size) + 4e-16 * releases)
        self.places, self.masses = (first + np.arange(size)) * step, masses
        # Weights of losses j steps beyond a point of the lattice: exp(-order x), and that times 1 - exp(-x).
        beyond = step * np.arange(float(size))
        self.fading = np.exp(-order * beyond)
        self.rising = self.fading * -np.expm1(-beyond)
        self.norms = _norms(self.fading), _norms(self.rising)

    def _ladder(self) -> list[tuple[float, float]]:
        """Return changes of the order, and what they add to the logarithm of the moment."""
        changes = 2.0 ** np.arange(-1, 6) / self.deviation
        return [
            (float(more), self.total.log_moment(self.order + more) - self.log_moment) for more in (*changes, *-changes)
        ]

    def delta(self, epsilon: float, sign: int) -> float:
        """Return the most (sign 1) or the least (sign -1) that delta of these losses can be."""
        infinite = self.infinite * (1 + sign * 1e-12)
        if self.empty or epsilon >= self.most:
            return min(1.0, infinite)
        at = epsilon - self.offset - sign * self.loss_error
        first = int(np.searchsorted(self.places, at, "right"))
        value = norm = 0.0
        if first < len(self.places):
            # A loss j steps above the first one above: 1 - exp(-x) of the sum, with nothing that cancels.
            ahead = float(self.places[first]) - at
            fade, rise = math.exp(-self.order * ahead), -math.expm1(-ahead)
            masses, count = self.masses[first:], len(self.places) - first
            inner = float((self.rising[:count] * masses).sum()) * (1 - rise)
            value = fade * (inner + float((self.fading[:count] * masses).sum()) * rise)
            norm = fade * (float(self.norms[1][count - 1]) * (1 - rise) + float(self.norms[0][count - 1]) * rise)
        # No weight is larger than (order / (1 + order))^order / (1 + order).
        most = math.exp(self.order * math.log(self.order / (1 + self.order)) if self.order else 0.0) / (1 + self.order)
        value += sign * (norm * self.error + self.outside * most)
        value *= max(0.0, 1 + 2 * sign * (self.mass_error + 1e-15 * (abs(self.log_moment) + abs(self.order * at))))
        log_delta = self.log_moment - self.order * at + math.log(value) if value > 0 else -math.inf
        bound = min(1.0, math.exp(min(log_delta, 0.0)) + infinite)
        return max(bound, math.ulp(0.0)) if sign > 0 and value > 0 else bound


def solve(
    parts: Sequence[tuple[Losses, int]],
    step: float,
    rough: LossSum,
    guess: float,
    delta: float,
    sign: int,
    most: int = _MOST_WINDOW,
    near: float = 1e-5,
) -> float:
    """Return the epsilon at which a bound of delta has this value, rounded to its own side; move the window there.

    With a window smaller than the largest one, the search ends at a relative distance of `near`.
    """
    if unbounded(parts) * (1 + sign * 1e-12) >= delta:
        return math.inf
    for _ in range(4):
        composition = TiltedSum(parts, step, tilt(rough, guess), guess, most)
        tolerance = 1e-13 * (1 + guess) if most == _MOST_WINDOW else near * guess
        low, high = _bracket(partial(composition.delta, sign=sign), guess, delta, tolerance)
        found = high if sign > 0 else low
        if found == math.inf or abs(found - guess) <= composition.deviation / 10:
            break
        # With bounded work, a window that says no more than what was known is the last one.
        if most < _MOST_WINDOW and (found >= guess if sign > 0 else found == 0):
            break
        guess = found
    return found


def _bracket(curve: Callable[[float], float], guess: float, delta: float, tolerance: float) -> tuple[float, float]:
    """Return neighbouring epsilons, with the curve at least delta at the first (or it is 0), at most at the second."""

    def gap(epsilon: float) -> float:
        value = curve(epsilon)
        return min(max(math.log(value / delta), -50.0), 50.0) if value > 0 else -50.0

    low = high = float(guess)
    at_low = at_high = gap(guess)
    # Short steps at first: far from the guess the window's tilt says nothing.
    jump = guess / 16 if guess else 0.01
    while at_high > 0 and high < math.inf:
        low, at_low = high, at_high
        high, jump = high + jump, 2 * jump
        at_high = gap(high)
    while at_low <= 0:
        if low == 0:
            return 0.0, 0.0
        high, at_high = low, at_low
        low, jump = max(0.0, low - jump), 2 * jump
        at_low = gap(low)
    last = 0
    for _ in range(200):
        if high - low <= tolerance:
            break
        middle = low + (high - low) * min(max(at_low / (at_low - at_high), 1e-6), 1 - 1e-6)
        value = gap(middle)
        # The Illinois rule: an end that stays counts half, so that it does not stay for ever.
        if value > 0:
            at_high, low, at_low = (at_high / 2 if last > 0 else at_high), middle, value
        else:
            at_low, high, at_high = (at_low / 2 if last < 0 else at_low), middle, value
        last = 1 if value > 0 else -1
    return low, high
