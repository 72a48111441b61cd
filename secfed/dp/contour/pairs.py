"""Any pair of distributions as a list of losses: discrete mechanisms, Laplace noise, and Gaussian noise.

A release is a pair of distributions, P with a client's data and Q without; its loss is log P/Q. Here the losses are a
list of masses of P, each with its loss. Continuous distributions are integrated by Gauss-Legendre in pieces so short
that sums of exp(z loss) are exact up to rounding.
"""

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp, ndtri_exp

from secfed.dp.likelihood import log_gaussian_mixture, log_mixture
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]
# Gaussian noise beyond this many standard deviations counts as an infinite loss, and a bound on its probability.
_SIGMAS = 15.0
_BEYOND = 1e-50
# Gauss-Legendre nodes and weights, and the most that z times the loss may change on a piece.
_GAUSS = np.polynomial.legendre.leggauss(16)
_TURN = 8.0
_LOG_2 = math.log(2)
# Relative error of a mass from quadrature and exponentials.
MASS_ERROR = 4e-14


class Law(Protocol):
    """What a contour needs to know about one release.

    Attributes:
        infinite: Upper bound on the probability of an infinite loss.
        certain: Lower bound on it.
        most: Upper bound on the finite losses.
    """

    infinite: float
    certain: float
    most: float

    def atoms(self, order: float, lowest: float = -math.inf) -> tuple[Array, Array]:
        """Return masses of P and losses, for sums of exp(z loss).

        Args:
            order: Largest |z| at which sums are accurate.
            lowest: Smaller losses may be inaccurate; the masses of all of them are not.
        """

    def size(self, order: float, lowest: float = -math.inf) -> int:
        """Return about how many atoms there are."""

    def delta(self, epsilon: float) -> tuple[float, float] | None:
        """Return bounds on delta of one release at an epsilon of at least 0, or None without a closed form."""

    def variation(self) -> float:
        """Return an upper bound on delta(0), the total variation of P and Q."""
        found = self.delta(0.0)
        return found[1] if found else 1.0


class Pair(Law):
    """An explicit pair of distributions on finitely many outcomes.

    Args:
        p: Probabilities with the client's data, shape `(outcomes,)`.
        q: Probabilities without it; the same outcomes in the same order.

    Raises:
        ConfigError: The two are not probabilities of the same outcomes.

    Attributes:
        infinite, certain: Probability of outcomes that only `p` has.
        most: The largest finite loss.
    """

    def __init__(self, p: npt.ArrayLike, q: npt.ArrayLike) -> None:
        first, second = np.array(p, np.float64), np.array(q, np.float64)
        if first.ndim != 1 or first.shape != second.shape or not first.size:
            raise ConfigError(
                f"p and q have shapes {first.shape} and {second.shape}, needed one and the same dimension"
            )
        for name, law in (("p", first), ("q", second)):
            if not (np.all(law >= 0) and abs(law.sum() - 1) <= 1e-9):
                raise ConfigError(f"{name} must be probabilities that sum to 1, found a sum of {law.sum()}")
        both = (first > 0) & (second > 0)
        self.infinite = float(first[second == 0].sum())
        self._masses, other_masses = first[both], second[both]
        with np.errstate(over="ignore", under="ignore"):
            ratio = self._masses / other_masses
        normal = (ratio > 1e-300) & (ratio < 1e300)
        logs = np.log(self._masses) - np.log(other_masses)
        self._losses = np.log(ratio, out=logs, where=normal)
        self.certain = self.infinite
        self.most = float(self._losses.max(initial=-math.inf))

    @classmethod
    def of_losses(cls, masses: Array, losses: Array, infinite: float = 0.0) -> "Pair":
        """Return a pair from its losses, when they are known more precisely than a ratio of probabilities.

        Args:
            masses: Probability of each loss under the first distribution, `(losses,)`; with `infinite` they sum to 1.
            losses: Finite, `(losses,)`.
            infinite: Probability of outcomes that only the first distribution has.

        Raises:
            ConfigError: The probabilities do not sum to 1.
        """
        total = float(masses.sum()) + infinite
        if not (np.all(masses >= 0) and infinite >= 0 and abs(total - 1) <= 1e-9):
            raise ConfigError(f"masses must be probabilities that sum to 1, found a sum of {total}")
        pair = cls.__new__(cls)
        some = masses > 0
        pair._masses, pair._losses = masses[some], losses[some]
        pair.infinite = pair.certain = infinite
        pair.most = float(pair._losses.max(initial=-math.inf))
        return pair

    def atoms(self, order: float, lowest: float = -math.inf) -> tuple[Array, Array]:
        """Return masses of P and losses; they are exact for all orders."""
        return self._masses, self._losses

    def size(self, order: float, lowest: float = -math.inf) -> int:
        """Return how many losses there are."""
        return len(self._masses)

    def delta(self, epsilon: float) -> tuple[float, float]:
        """Return bounds on delta of one release at an epsilon of at least 0: a sum over the losses."""
        larger = self._losses > epsilon
        masses, losses = self._masses[larger], self._losses[larger]
        value = float((-masses * np.expm1(epsilon - losses)).sum()) + self.infinite
        # A relative error of each mass, and a few roundings of each loss.
        error = MASS_ERROR * value + 4e-16 * float((masses * (1 + losses + epsilon)).sum())
        return max(0.0, value - error), min(1.0, value + error)


class RangeLaw(Law):
    """Loss with density e^{l/2} on [-length, length]: the worst case for losses in an interval of that length.

    Args:
        length: The interval's length, above 0.

    Attributes:
        infinite, certain: 0.
        most: `length`.
    """

    def __init__(self, length: float) -> None:
        self.infinite = self.certain = 0.0
        self.most = length

    def _pieces(self, order: float) -> int:
        return math.ceil(min(2 * self.most * (order + 1) / _TURN, 1e9))

    def size(self, order: float, lowest: float = -math.inf) -> int:
        """Return about how many atoms there are."""
        return len(_GAUSS[0]) * self._pieces(order)

    def atoms(self, order: float, lowest: float = -math.inf) -> tuple[Array, Array]:
        """Return masses of P and losses, accurate for sums of exp(z loss) with |z| up to an order; see `Law`."""
        pieces = self._pieces(order)
        half = self.most / pieces
        points, weights = _GAUSS
        centers = half * (2 * np.arange(pieces) + 1 - pieces)
        losses = (centers[:, None] + half * points).ravel()
        density = np.exp((losses - self.most) / 2) / (-2 * math.expm1(-self.most))
        return np.tile(half * weights, pieces) * density, losses

    def delta(self, epsilon: float) -> tuple[float, float]:
        """Return bounds on delta of one release at an epsilon of at least 0: a closed form."""
        if epsilon >= self.most:
            return 0.0, 0.0
        whole = -math.expm1(-self.most)
        value = math.expm1((epsilon - self.most) / 2) ** 2 / whole
        # Rounding of the difference, and of the rest.
        error = 4e-16 * self.most / whole + 1e-14 * value
        return max(0.0, value - error), min(1.0, value + error)


class NoiseLaw(Law):
    """Loss of sampled noise; F(m) is the noise centered at m, and w is log F(1)/F(0).

    Args:
        scale: Standard deviation of Gaussian noise, or the scale of Laplace noise.
        rate: Probability with which the client takes part.
        direction: "remove" is (1 - rate) F(0) + rate F(1) against F(0), "add" the reverse; "replace" has
            (1 - rate) F(0) + rate F(-1) as its second distribution; "fixed_size" has the delta of "remove" in both
            directions.
        laplace: Laplace noise, else Gaussian.
        beyond: Probability of Gaussian noise that may count as an infinite loss; by default that beyond 15 standard
            deviations.

    Attributes:
        infinite: Upper bound on the probability left out.
        certain: 0.
        most: The largest finite loss.
    """

    certain = 0.0

    def __init__(
        self, scale: float, rate: float, direction: str, *, laplace: bool, beyond: float | None = None
    ) -> None:
        self.scale, self.rate, self.direction, self.laplace = scale, rate, direction, laplace
        self.infinite = 0.0 if laplace else beyond or _BEYOND
        # For each center, at most half of `beyond` lies on either side.
        sigmas = _SIGMAS if beyond is None else 1e-6 - float(ndtri_exp(math.log(beyond / 2)))
        low, high = (0.0, 1.0) if laplace else (-sigmas * scale, 1 + sigmas * scale)
        low = 0.5 if direction == "fixed_size" else low - (direction == "replace")
        self._edges = self._split(low, high)
        self.most = float(self._losses_at(self._edges).max())

    def _split(self, low: float, high: float) -> Array:
        """Return the edges of pieces of a range of noise values."""
        # The client's effect on the loss sets in within scale^2.
        piece = self.scale / 2 if self.laplace else min(self.scale / 2, self.scale**2)
        # An even number, so that the middle is an edge: there is the peak of Laplace noise under "replace".
        return np.linspace(low, high, 2 * max(1, math.ceil((high - low) / piece / 2)) + 1)

    def _steps(self, order: float, lowest: float) -> npt.NDArray[np.int64]:
        """Return how many parts each piece is cut into."""
        losses = self._losses_at(self._edges)
        turns = order * np.abs(np.diff(losses)) / _TURN
        turns[np.maximum(losses[:-1], losses[1:]) < lowest] = 1
        return np.asarray(np.maximum(np.ceil(np.minimum(turns, 1e9)), 1), np.int64)

    def size(self, order: float, lowest: float = -math.inf) -> int:
        """Return about how many atoms there are."""
        return len(_GAUSS[0]) * int(self._steps(order, lowest).sum())

    def atoms(self, order: float, lowest: float = -math.inf) -> tuple[Array, Array]:
        """Return masses of P and losses, accurate for sums of exp(z loss) with |z| up to an order; see `Law`."""
        steps = self._steps(order, lowest)
        within = np.arange(int(steps.sum())) - np.repeat(np.cumsum(steps) - steps, steps)
        half = np.repeat(np.diff(self._edges) / steps, steps)[:, None] / 2
        left = np.repeat(self._edges[:-1], steps)[:, None] + 2 * half * within[:, None]
        points, weights = _GAUSS
        x = (left + half * (1 + points)).ravel()
        log_density = np.log((half * weights).ravel())
        if self.laplace:  # beyond the ends the loss is constant
            x = np.append(x, self._edges[[0, -1]])
            log_density = np.append(log_density - math.log(self.scale), [0.0, 0.0]) - np.abs(x) / self.scale - _LOG_2
        else:
            log_density -= (x / self.scale) ** 2 / 2 + math.log(self.scale * math.sqrt(2 * math.pi))
        if self.direction == "fixed_size":
            some = x > 0.5
            x, log_density = x[some], log_density[some]
        above = self._gain(self._ratio(x))
        if self.direction == "add":
            return np.exp(log_density), -above
        if self.direction != "fixed_size":
            return np.exp(log_density + above), self._losses_at(x) if self.direction == "replace" else above
        masses = np.exp(np.append(log_density + above, log_density))
        return np.append(masses, max(0.0, 1 - masses.sum())), np.concatenate([above, -above, [0.0]])

    def delta(self, epsilon: float) -> tuple[float, float] | None:
        """Return bounds on delta of one release at an epsilon of at least 0, or None without a closed form.

        For Laplace noise the best test is for large sums. Unsampled, delta is 1 - exp((w - 1 / scale) / 2); a sampled
        release reduces to that, as with Gaussian noise.
        """
        if not self.laplace or self.direction == "replace":
            return None
        if epsilon >= self.most:
            return 0.0, 0.0
        rate, gain = self.rate, math.expm1(min(epsilon, 700.0))
        if self.direction == "add":
            factor = rate - gain * (1 - rate)
            w = epsilon + math.log(rate) - math.log(factor) if factor > 0 else math.inf
        else:
            factor, w = rate, math.log1p(gain / rate) if epsilon < 600 else epsilon - math.log(rate)
        value = max(0.0, -factor * math.expm1((w - 1 / self.scale) / 2)) if w < 1 / self.scale else 0.0
        # Rounding errors in w and in the factor.
        error = 1e-15 * (rate + gain * (1 - rate)) * (8 + 1 / self.scale) + 1e-14 * value
        return max(0.0, value - error), value + error

    def variation(self) -> float:
        """Return an upper bound on delta(0): that of the noise at its two centers, times the rate."""
        half = (1.0 if self.direction == "replace" else 0.5) / self.scale
        centers = -math.expm1(-half) if self.laplace else math.erf(half / math.sqrt(2))
        return self.rate * centers * (1 + 1e-14)

    def _losses_at(self, x: Array) -> Array:
        """Return the loss at these noise values; for `fixed_size`, the nonnegative one."""
        above = self._gain(self._ratio(x))
        if self.direction == "add":
            return -above
        return above - self._gain(self._ratio(-x)) if self.direction == "replace" else above

    def _ratio(self, x: Array) -> Array:
        """Return w at these noise values."""
        if self.laplace:
            return np.asarray(np.clip(2 * x - 1, -1.0, 1.0) / self.scale)
        return np.asarray((x - 0.5) / self.scale**2)

    def _gain(self, w: Array) -> Array:
        """Return the log of the density with the client divided by the density of the noise alone."""
        return log_mixture(self.rate, w)


class MixtureLaw(NoiseLaw):
    """Loss of Gaussian noise around a random center, against the same noise around 0.

    Sums of e^{c x} with c from 0 to 1 have no zeros wherever 1 + e^x has none, so the pieces are those of `NoiseLaw`.

    Args:
        scale: The noise's standard deviation; the largest center is 1.
        centers: From 0 to 1.
        shares: Probability of each; they sum to 1.
        direction: "remove", "add", or "replace": against the same noise around the opposite centers.
    """

    def __init__(self, scale: float, centers: tuple[float, ...], shares: tuple[float, ...], direction: str) -> None:
        self._parts = list(zip(centers, shares, strict=True))
        super().__init__(scale, 1.0, direction, laplace=False)

    def _gain(self, w: Array) -> Array:
        return log_gaussian_mixture(self._parts, self.scale, w)

    def delta(self, epsilon: float) -> tuple[float, float]:
        """Return bounds on delta of one release at an epsilon of at least 0.

        The loss is monotone, so the best test is a half-line. An error in its endpoint lowers delta only in second
        order.
        """
        back = self.direction == "add"
        low, high = float(self._edges[0]), float(self._edges[-1])
        for _ in range(9):  # each finds six bits
            points = np.linspace(low, high, 65)
            beyond = (self._losses_at(points) > epsilon) != back
            after = 1 + int(np.searchsorted(beyond[1:-1], True))
            low, high = points[after - 1], points[after]
        end, (centers, shares) = float(low + high) / 2, np.array(self._parts).T
        sign = -1.0 if back else 1.0
        mixed = float(logsumexp(np.log(shares) + log_ndtr(sign * (centers - end) / self.scale)))
        if self.direction == "replace":
            other = float(logsumexp(np.log(shares) + log_ndtr((-centers - end) / self.scale)))
        else:
            other = float(log_ndtr(-sign * end / self.scale))
        first, second = (other, mixed) if back else (mixed, other)
        most = math.exp(min(first, 0.0))
        value = max(0.0, -most * math.expm1(min(0.0, second + epsilon - first)))
        # Both tails' logarithms are at most this large, which bounds their rounding errors.
        error = 1e-15 * most * (8 + abs(first) + abs(second) + 2 * epsilon)
        return max(0.0, value - error), min(1.0, value + error + self.infinite)

    variation = Law.variation  # not that of a single center
