"""Noise that clients add: how finely to round, how much noise each client adds, and whether the ring holds the sum.

Every client rounds its clipped, rotated vector to whole steps (`encoding.conditional_rounding`) and adds its own
integer noise; the ring sums both. `choose` finds the step: a long step lengthens the rounded vectors, so they need more
noise; a short step lets the sum wrap around the ring. Wrapping costs accuracy, never privacy: the guarantee holds for
the sum before wrapping, and so for everything computed from it.

Source: Kairouz, Liu, Steinke: The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation, ICML 2021; Agarwal, Kairouz, Liu: The Skellam Mechanism for Differentially Private Federated Learning,
NeurIPS 2021; removable noise: Jiang, Wang, Chen: Efficient Federated Learning with Dropout-Resilient Differential
Privacy, EuroSys 2024.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

from secfed.dp.checks import check_positive
from secfed.dp.events import DiscreteGaussianSum, SkellamSum
from secfed.errors import ConfigError, TooFewSurvivorsError

Mechanism = Literal["discrete_gaussian", "skellam"]
MECHANISMS: tuple[Mechanism, ...] = get_args(Mechanism)

# Variance that integer noise needs in addition to a Gaussian's s^2, in square steps. Discrete Gaussian: it is almost
# exactly a randomized rounding of a Gaussian with 1.5^2 less variance. Skellam: with 2.25 more its Renyi bound is
# below the Gaussian's at all whole orders, as (1 + 2.25/m)/m <= 1/s^2 for m = s^2 + 2.25 (integer vectors: the 1-norm
# is at most the square of the Euclidean norm).
NOISE_MARGIN = 2.25
# The sum of two discrete Gaussians of variance v or more is one, up to a factor 1 +- 10 exp(-pi^2 v) of each
# probability. Over all coordinates and additions together this may change no epsilon by more than this.
_CLOSURE_EPSILON = 1e-9
# A weighted sum of random signs exceeds x deviations at most 3.18 times as often as a normal variable does: Bentkus,
# Dzindzalieta: A tight Gaussian bound for weighted sums of Rademacher random variables, Bernoulli 2015.
_SIGNS_FACTOR = 3.1787
# Largest fraction of coordinates that may wrap: above it, the size of the error says little about the damage.
_MOST_WRAPPED = 1e-3
# Accuracy given up for a longer step: fewer wraps, and less noise to draw.
_INDIFFERENCE = 1e-3
_LEAST_OVERHEAD = 1.01
# As in encoding.conditional_rounding: norms in steps, plus the root of the dimension, stay below this.
_LONGEST = 2.0**26
_LARGEST_DIMENSION = 1 << 40
_GRID = 100


@dataclass(frozen=True, slots=True)
class Layers:
    """The noise of each client, in layers, some of which the server can remove once it knows the survivors.

    Layer `k` (from 0) is for sums with fewer than `honest[k - 1]` honest survivors; in others it is removed. Whichever
    clients drop out, the noise left from honest survivors has at least the variance `variance`, and exactly `variance`
    if `honest` contains their number.

    Args:
        variance: Variance of the honest survivors' noise in the sum, per coordinate, in square steps.
        honest: Numbers of honest survivors, descending; the last is the fewest. With one number, nothing is removed.

    Raises:
        ConfigError: The variance is not positive and finite, or the numbers do not fall to at least 1.

    >>> layers = Layers(variance=60.0, honest=(6, 5, 4))
    >>> layers.variances  # of one client: together 60/4
    (10.0, 2.0, 3.0)
    >>> [(honest, layers.kept(honest), honest * layers.per_client(honest)) for honest in (6, 5, 4)]
    [(6, 1, 60.0), (5, 2, 60.0), (4, 3, 60.0)]
    """

    variance: float
    honest: tuple[int, ...]

    def __post_init__(self) -> None:
        check_positive("variance", self.variance)
        falling = all(more > fewer for more, fewer in zip(self.honest, self.honest[1:], strict=False))
        if not (self.honest and falling and self.honest[-1] >= 1):
            raise ConfigError(f"numbers of honest survivors {self.honest} must fall, to at least 1")

    @classmethod
    def removable(
        cls, variance: float, *, clients: int, threshold: int, colluders: int = 0, most: int | None = None
    ) -> "Layers":
        """Make layers for any number of survivors from `threshold` to `clients`.

        Args:
            variance: Variance of the honest survivors' noise in the sum, per coordinate, in square steps.
            clients: Clients in the cohort.
            threshold: Fewest survivors in a sum, colluders among them.
            colluders: Survivors whose noise does not count.
            most: Most layers; each costs every client one more seed. None: one for each number of survivors, so that
                the noise is never more than needed. 1: nothing is removed.

        Raises:
            ConfigError: The numbers are inconsistent.
        """
        if not 0 <= colluders < threshold <= clients:
            raise ConfigError(
                f"threshold {threshold} must be above colluders {colluders} and at most clients {clients}"
            )
        if most is not None and most < 1:
            raise ConfigError(f"layers {most} must be at least 1")
        first, last = clients - colluders, threshold - colluders
        if most is None or most > first - last:
            return cls(variance, tuple(range(first, last - 1, -1)))
        # Equal ratios, so that the surplus is similar for all numbers of survivors.
        numbers = {round(last * (first / last) ** (i / max(1, most - 1))) for i in range(most)}
        return cls(variance, tuple(sorted(numbers, reverse=True)))

    @property
    def variances(self) -> tuple[float, ...]:
        """Variance of each layer of one client, per coordinate, in square steps."""
        pairs = zip(self.honest, self.honest[1:], strict=False)
        # The difference of variance / fewer and variance / more, computed without losing digits.
        return (
            self.variance / self.honest[0],
            *(self.variance * (more - fewer) / (more * fewer) for more, fewer in pairs),
        )

    def kept(self, honest: int) -> int:
        """Return how many layers, from the first, stay in a sum with this many honest survivors.

        Raises:
            TooFewSurvivorsError: All layers together are too little noise for this number.
        """
        for index, needed in enumerate(self.honest):
            if honest >= needed:
                return index + 1
        raise TooFewSurvivorsError(
            f"{honest} honest survivors add too little noise, needed {self.honest[-1]}", honest, self.honest[-1]
        )

    def per_client(self, honest: int) -> float:
        """Return the variance of one client's layers that stay; for errors see `kept`."""
        return self.variance / self.honest[self.kept(honest) - 1]


@dataclass(frozen=True)
class NoisePlan:
    """The public parameters of a sum with distributed noise; made by `choose`.

    Args:
        mechanism: Law of the noise.
        clients: Most clients in a sum.
        threshold: Fewest survivors in a sum, colluders among them.
        colluders: Survivors whose noise does not count.
        dimension: Coordinates of a rotated vector.
        spread: Over how many coordinates the rotation spreads every value.
        clip_norm: Largest Euclidean norm of a client's values.
        noise_multiplier: That of the central Gaussian whose guarantee is met.
        alignment: Largest norm of the sum of all clients' values, divided by `clients * clip_norm`.
        modulus_bits: Bits of the ring.
        step: Length of a step of the lattice, in the unit of the values.
        noise: The noise of each client, in square steps.

    Raises:
        ConfigError: A parameter is out of range.
    """

    mechanism: Mechanism
    clients: int
    threshold: int
    colluders: int
    dimension: int
    spread: int
    clip_norm: float
    noise_multiplier: float
    alignment: float
    modulus_bits: int
    step: float
    noise: Layers

    def __post_init__(self) -> None:
        if self.mechanism not in MECHANISMS:
            raise ConfigError(f"mechanism {self.mechanism!r} must be one of {', '.join(MECHANISMS)}")
        if not 1 <= self.dimension <= _LARGEST_DIMENSION:
            raise ConfigError(f"dimension {self.dimension} must be from 1 to 2^40")
        if not 1 <= self.spread <= self.dimension:
            raise ConfigError(f"spread {self.spread} must be from 1 to dimension {self.dimension}")
        if not 1e-100 <= self.clip_norm <= 1e100:
            raise ConfigError(f"clip_norm {self.clip_norm} must be from 1e-100 to 1e100")
        if not 1e-6 <= self.noise_multiplier <= 1e6:
            raise ConfigError(f"noise_multiplier {self.noise_multiplier} must be from 1e-6 to 1e6")
        if not 0 < self.alignment <= 1:
            raise ConfigError(f"alignment {self.alignment} must be above 0 and at most 1")
        if not 2 <= self.modulus_bits <= 64:
            raise ConfigError(f"modulus_bits {self.modulus_bits} must be from 2 to 64")

    @property
    def noise_variance(self) -> float:
        """Variance of all the noise that one client adds, per coordinate, in square steps."""
        return self.noise.variance / self.noise.honest[-1]

    @property
    def largest_square(self) -> int:
        """Largest squared Euclidean norm of one client's integer vector, in square steps."""
        return _largest_square(self.step, self.clip_norm, self.dimension)

    @property
    def sensitivity(self) -> float:
        """Largest Euclidean norm of one client's integer vector, in steps."""
        return math.sqrt(self.largest_square)

    @property
    def sensitivity_l1(self) -> float:
        """Largest 1-norm of one client's integer vector, in steps."""
        return min(math.sqrt(self.dimension) * self.sensitivity, float(self.largest_square))

    @property
    def largest_entry(self) -> int:
        """A bound, in steps, that an entry of one client's noisy vector exceeds less than once in 2^100 sums."""
        # Bernstein's bound, for both laws: noise of variance v reaches t with probability 2 exp(-t^2 / (2 v + 2 t / 3))
        # at most, which is below 2^-139 here.
        return math.isqrt(self.largest_square) + math.ceil(66 + 14 * math.sqrt(self.noise_variance))

    def event(self, survivors: int) -> DiscreteGaussianSum | SkellamSum:
        """Return what is released if this many clients are in the sum (and surplus layers are removed).

        Raises:
            TooFewSurvivorsError: There are fewer than the threshold: nothing may be released.
        """
        if survivors < self.threshold:
            raise TooFewSurvivorsError(
                f"{survivors} survivors add too little noise, needed {self.threshold}", survivors, self.threshold
            )
        honest = survivors - self.colluders
        kind = DiscreteGaussianSum if self.mechanism == "discrete_gaussian" else SkellamSum
        return kind(self.noise.per_client(honest), honest, self.sensitivity, self.sensitivity_l1, self.dimension)

    def error(self, survivors: int) -> float:
        """Return the expected squared error of the sum per coordinate, in squared units of the values.

        Noise, rounding at its worst, and wrapping at its worst. For the error of a mean divide by the square of what
        the sum is divided by. For errors see `event`.
        """
        modulus = 2.0**self.modulus_bits
        wraps, times, tail = 0.0, 0.5, self._tail(survivors)
        # A coordinate beyond (k - 1/2) moduli wraps k times; the square of k is the sum of the first odd numbers.
        while (part := 2 * times * tail(times * modulus)) > 1e-9 * wraps and times < 1e4:
            wraps += part
            times += 1
        return self.step**2 * (self._noise(survivors) + survivors / 4 + modulus**2 * wraps)

    @cached_property
    def overhead(self) -> float:
        """The error divided by that of Gaussian noise in the same shares, if all clients arrive.

        This is the cost of whole numbers and a finite ring.
        """
        return self.error_ratio * self.noise.honest[0] / self.clients

    @cached_property
    def error_ratio(self) -> float:
        """The error divided by that of central Gaussian noise, if all clients arrive.

        Besides `overhead`, this includes the noise added for clients that might have dropped out or might collude.
        """
        return self.error(self.clients) / (self.noise_multiplier * self.clip_norm) ** 2

    @cached_property
    def wraps(self) -> float:
        """Bound on the expected number of coordinates that wrap if all clients arrive, and on the chance that one does.

        Wrapping adds `2**modulus_bits` steps to a rotated coordinate, which rotating back spreads over all values.
        """
        return self.dimension * self._tail(self.clients)(2.0 ** (self.modulus_bits - 1))

    def _noise(self, survivors: int) -> float:
        return survivors * self.noise.per_client(survivors - self.colluders)

    def _tail(self, survivors: int) -> Callable[[float], float]:
        """Return a bound on the chance that a coordinate of the sum is at least this many steps from 0."""
        norm = self.alignment * survivors * self.clip_norm / self.step
        noise, rounding = self._noise(survivors), survivors / 4
        rotated = norm**2 / self.spread

        def tail(steps: float) -> float:
            # Either everything is random, or the values' part is at its maximum: no coordinate exceeds the norm.
            if self.mechanism == "skellam":
                random = _skellam_tail(steps, noise, rotated + rounding)
                return min(1.0, 2 * random, 2 * _skellam_tail(steps - norm, noise, rounding))
            random = _SIGNS_FACTOR * _normal_tail(steps, rotated + noise + rounding)
            return min(1.0, 2 * random, 2 * _normal_tail(steps - norm, noise + rounding))

        return tail


def choose(
    *,
    clients: int,
    threshold: int,
    dimension: int,
    clip_norm: float,
    noise_multiplier: float,
    bits: int | None = None,
    mechanism: Mechanism = "discrete_gaussian",
    spread: int | None = None,
    colluders: int = 0,
    layers: int = 1,
    alignment: float = 1.0,
    wrap_probability: float | None = None,
    most_overhead: float = 1.1,
) -> NoisePlan:
    """Choose step and noise for the most accurate sum that a ring allows, with the guarantee of a central Gaussian.

    The step is the longest whose predicted error is within 0.1 % of the least. Where bits are scarce, that is with a
    few wraps in a sum, see `NoisePlan.wraps`; never with more than 1 in 1000 coordinates.

    Args:
        clients: Most clients in a sum.
        threshold: Fewest survivors in a sum; their noise alone gives the guarantee.
        dimension: Coordinates of a rotated vector.
        clip_norm: Largest Euclidean norm of a client's values.
        noise_multiplier: Standard deviation of central Gaussian noise, divided by `clip_norm`, as from
            `dp.noise_multiplier`: the guarantee to meet. The discrete Gaussian meets it up to an epsilon of 1e-9,
            Skellam noise in its Renyi divergences of whole orders, from which its epsilon comes out a little larger.
        bits: Bits of the ring, 2 to 64; None takes the fewest that suffice.
        mechanism: `"discrete_gaussian"` or `"skellam"`.
        spread: Over how many coordinates the rotation spreads every value (`Rotation.spread`); None is all.
        colluders: Survivors, at most, whose noise does not count: they may leave it out, or tell it to the server.
        layers: Most layers of noise. 1: all noise stays, too much of it if more than the threshold survive. More:
            surplus layers are removed, see `Layers.removable`.
        alignment: Largest norm of the sum of all clients' values, divided by `clients * clip_norm`. 1 is safe: it holds
            for equal updates. Updates without any likeness have `clients**-0.5`.
        wrap_probability: If given, the largest chance that any coordinate of a sum wraps; 1e-9 costs about one bit.
        most_overhead: How many times the error of Gaussian noise in the same shares the predicted error may be.

    Raises:
        ConfigError: A parameter is out of range, or the bits are too few (the text says how many are enough).
    """
    shares = Layers.removable(1.0, clients=clients, threshold=threshold, colluders=colluders, most=layers)
    # The plan's own checks come first, with a step and noise that are not final.
    start = NoisePlan(
        mechanism, clients, threshold, colluders, dimension, dimension if spread is None else spread, clip_norm,
        noise_multiplier, alignment, 64 if bits is None else bits, clip_norm, shares,
    )  # fmt: skip
    if wrap_probability is not None and not 0 < wrap_probability <= 1:
        raise ConfigError(f"wrap_probability {wrap_probability} must be above 0 and at most 1")
    if not _LEAST_OVERHEAD <= most_overhead < math.inf:
        raise ConfigError(f"most_overhead {most_overhead} must be finite and at least {_LEAST_OVERHEAD}")
    most_wraps = min(_MOST_WRAPPED * dimension, math.inf if wrap_probability is None else wrap_probability)
    at_least = 2 if bits is None else bits
    plan = _best(replace(start, modulus_bits=at_least), most_wraps)
    if plan is not None and plan.overhead <= most_overhead:
        return plan
    low, high, enough = at_least, 65, None
    while high - low > 1:  # more bits are never worse
        middle = (low + high) // 2
        candidate = _best(replace(start, modulus_bits=middle), most_wraps)
        if candidate is not None and candidate.overhead <= most_overhead:
            high, enough = middle, candidate
        else:
            low = middle
    if enough is not None and bits is None:
        return enough
    if plan is None:
        cost = "the sum would wrap around too often"
    else:
        cost = f"{plan.overhead:.3g} times the error of Gaussian noise, needed at most {most_overhead:.6g}"
    found = f"{at_least} bits are too few for {clients} clients, {dimension} coordinates and noise_multiplier "
    found += f"{noise_multiplier:.6g} ({cost})"
    if enough is None:
        raise ConfigError(f"{found}, and no number of bits is enough: the noise is too little to be split into shares")
    raise ConfigError(f"{found}; {high} are enough")


def _best(plan: NoisePlan, most_wraps: float) -> NoisePlan | None:
    """Return the plan with the longest step of nearly minimal overhead, or None if too much wraps at any step."""
    norm, noise, root = plan.clip_norm, plan.noise_multiplier * plan.clip_norm, math.sqrt(plan.dimension)
    # Shorter or longer steps are always far worse.
    shortest = max(min(1e-4 * norm / root, 1e-3 * noise / math.sqrt(plan.clients)), norm / (_LONGEST - 1 - root))
    longest = 2 * (norm + noise)
    if _at(plan, longest).wraps > most_wraps:
        return None
    if _at(plan, shortest).wraps > most_wraps:
        _, shortest = _bisect(shortest, longest, lambda step: _at(plan, step).wraps > most_wraps)
    ratio = (longest / shortest) ** (1 / _GRID)
    grid = [shortest * ratio**i for i in range(_GRID + 1)]
    errors = [_at(plan, step).overhead for step in grid]
    index = errors.index(min(errors))
    low, high = grid[max(index - 1, 0)], grid[min(index + 1, _GRID)]
    while high > low * (1 + 1e-6):  # golden section
        left, right = low**0.618 * high**0.382, low**0.382 * high**0.618
        if _at(plan, left).overhead <= _at(plan, right).overhead:
            high = right
        else:
            low = left
    limit = _at(plan, low).overhead * (1 + _INDIFFERENCE)
    step, _ = _bisect(low, longest, lambda step: _at(plan, step).overhead <= limit)
    return _at(plan, step)


def least_variance(plan: NoisePlan) -> float:
    """Return the variance that the sum's noise needs for the plan's noise multiplier, in square steps."""
    variance = plan.noise_multiplier**2 * plan.largest_square + NOISE_MARGIN
    if plan.mechanism == "discrete_gaussian":
        shares = replace(plan.noise, variance=1.0).variances
        additions = plan.clients * len(shares)
        local = math.log(20 * plan.dimension * additions / _CLOSURE_EPSILON) / math.pi**2
        variance = max(variance, local / min(shares))
    return variance


def _at(plan: NoisePlan, step: float) -> NoisePlan:
    """Return the plan with another step and the matching noise."""
    plan = replace(plan, step=step)
    # A little more, because rounding errors must not cost privacy.
    return replace(plan, noise=replace(plan.noise, variance=least_variance(plan) * (1 + 1e-12)))


def _bisect(low: float, high: float, belongs: Callable[[float], bool]) -> tuple[float, float]:
    """Narrow an interval: the condition holds at its low end, not at its high end."""
    while high > low * (1 + 1e-9):
        middle = math.sqrt(low) * math.sqrt(high)
        if belongs(middle):
            low = middle
        else:
            high = middle
    return low, high


def _largest_square(step: float, clip_norm: float, dimension: int) -> int:
    # Equal to encoding.conditional_rounding's to the last bit. Neither package imports the other; a test compares them.
    norm, root = clip_norm / step, math.sqrt(dimension)
    return max(1, math.floor(min(norm**2 + dimension / 4 + (norm + root / 2), (norm + root) ** 2)))


def _normal_tail(distance: float, variance: float) -> float:
    return math.erfc(distance / math.sqrt(2 * variance)) / 2


def _skellam_tail(distance: float, noise: float, others: float) -> float:
    """Bound the chance that Skellam noise plus a variable with at most normal tails exceeds a distance.

    Args:
        distance: From the mean.
        noise: Variance of the Skellam noise.
        others: Variance of the normal variable.
    """
    if distance <= 0:
        return 1.0
    # Chernoff's bound; any tilt gives one. Newton's method descends to the best tilt from above.
    tilt = min(distance / (noise + others), math.asinh(distance / noise))
    for _ in range(6):
        excess = noise * math.sinh(tilt) + others * tilt - distance
        tilt -= excess / (noise * math.cosh(tilt) + others)
    # cosh(x) - 1, computed without losing digits.
    return math.exp(min(0.0, 2 * noise * math.sinh(tilt / 2) ** 2 + others * tilt**2 / 2 - distance * tilt))
