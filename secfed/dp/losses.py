"""Laws of the loss of one release, for the lattice engine.

A release is a pair of laws: P if a client's data are there, Q if not; its loss is log P/Q. Here a law of losses is a
list of atoms: masses of P, and a loss each. Continuous laws are integrated by Gauss-Legendre in pieces so short that
it is exact to rounding, and pieces end wherever the caller wants to tell losses apart.
"""

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri_exp

from secfed.errors import ConfigError

Array = npt.NDArray[np.floating[Any]]
# Gaussian noise beyond this many standard deviations counts as a loss without bound; more than its probability.
_SIGMAS = 15.0
_BEYOND = 1e-50
# Nodes and weights of Gauss and Legendre.
_GAUSS = np.polynomial.legendre.leggauss(8)


class Law(Protocol):
    """What the lattice engine needs to know of one release.

    Attributes:
        infinite: Probability of a loss without bound.
        reach: The smallest and the largest of the other losses.
        marks: Two losses between which the lattice is laid, if the law has atoms.
    """

    infinite: float
    reach: tuple[float, float]
    marks: tuple[float, ...]

    def atoms(self, cuts: Array) -> tuple[Array, Array]:
        """Return masses of P and losses, none integrated across a cut."""


class Pair:
    """An explicit pair of laws on finitely many outcomes.

    Args:
        p: Probabilities with the client's data, shape `(outcomes,)`.
        q: Probabilities without them; the same outcomes in the same order.

    Raises:
        ConfigError: These are no laws on the same outcomes.

    Attributes:
        infinite: Probability of outcomes that only the first law has.
        reach: The smallest and the largest of the other losses.
        marks: The two most probable losses, between which the lattice is laid.
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
        self.reach = (float(self._losses.min(initial=0.0)), float(self._losses.max(initial=0.0)))
        losses = self._losses[np.argsort(-self._masses, kind="stable")]
        other = losses[np.abs(losses - losses[0]) > 1e-9] if len(losses) else losses
        self.marks: tuple[float, ...] = (float(losses[0]), float(other[0])) if len(other) else ()

    def atoms(self, cuts: Array) -> tuple[Array, Array]:
        """Return masses of P and losses."""
        return self._masses, self._losses


class NoiseLaw:
    """Loss of sampled noise; F(m) is the noise's law around m, and w is log F(1)/F(0).

    Args:
        scale: The noise's standard deviation or, of Laplace noise, its scale.
        rate: Probability with which the client takes part.
        direction: "there" is (1 - rate) F(0) + rate F(1) against F(0), "back" the reverse; "replaced" has
            (1 - rate) F(0) + rate F(-1) as its second law; "swapped" has the delta of "there" in both directions.
        laplace: Laplace noise, else Gaussian.
        beyond: Probability of Gaussian noise that may count as a loss without bound; by default that beyond 15 standard
            deviations.

    Attributes:
        infinite: Probability of what is left out.
        reach: The smallest and the largest of the other losses.
        marks: The losses of Laplace noise beyond both centres, where its law has atoms.
        end: Which end of their range the losses crowd at: -1, 1 or neither.
    """

    def __init__(
        self, scale: float, rate: float, direction: str, *, laplace: bool, beyond: float | None = None
    ) -> None:
        self.scale, self.rate, self.direction, self.laplace = scale, rate, direction, laplace
        self.infinite = 0.0 if laplace else beyond or _BEYOND
        # Under each of the centers at most half of `beyond` lies on either side.
        sigmas = _SIGMAS if beyond is None else 1e-6 - float(ndtri_exp(math.log(beyond / 2)))
        self.end = {"there": -1, "back": 1}.get(direction, 0) if rate < 1 else 0
        low, high = (0.0, 1.0) if laplace else (-sigmas * scale, 1 + sigmas * scale)
        low = 0.5 if direction == "swapped" else low - (direction == "replaced")
        # So short that 8 nodes are exact to rounding.
        piece = scale / 4 if laplace else min(scale / 8, scale**2 / 4)
        self.grid = np.linspace(low, high, math.ceil((high - low) / piece) + 1)
        ends = self._loss(np.array([1.0, -1.0]) / scale if laplace else (self.grid[[-1, 0]] - 0.5) / scale**2)
        if direction == "swapped":
            ends[1] = -ends[0]
        self.reach = (float(ends.min()), float(ends.max()))
        self.marks: tuple[float, ...] = (float(ends[0]), float(ends[1])) if laplace else ()

    def atoms(self, cuts: Array) -> tuple[Array, Array]:
        """Return masses of P and losses, none integrated across a cut."""
        edges = np.append(self.grid, np.clip(self._place(cuts), self.grid[0], self.grid[-1]))
        edges = np.unique(edges)
        points, weights = _GAUSS
        half = np.diff(edges)[:, None] / 2
        x = (edges[:-1, None] + half * (1 + points)).ravel()
        log_density = np.log((half * weights).ravel())
        if self.laplace:
            ends = np.array([1.0, -1.0]) / self.scale
            w = np.append((2 * x - 1) / self.scale, ends)
            log_density -= x / self.scale + math.log(2 * self.scale)
            log_density = np.append(log_density, math.log(0.5) - np.maximum(ends, 0.0))
        else:
            w = (x - 0.5) / self.scale**2
            log_density -= (x / self.scale) ** 2 / 2 + math.log(self.scale * math.sqrt(2 * math.pi))
        if self.direction == "swapped":
            w, log_density = w[w > 0], log_density[w > 0]
        above = _mix(self.rate, w)
        if self.direction == "back":
            return np.exp(log_density), -above
        losses = above if self.direction != "replaced" else above - _mix(self.rate, -w - 1 / self.scale**2)
        if self.direction != "swapped":
            return np.exp(log_density + above), losses
        masses = np.exp(np.append(log_density + above, log_density))
        return np.append(masses, max(0.0, 1 - masses.sum())), np.concatenate([losses, -losses, [0.0]])

    def _loss(self, w: Array) -> Array:
        if self.direction == "back":
            return -_mix(self.rate, w)
        if self.direction == "replaced":
            return _mix(self.rate, w) - _mix(self.rate, -w - 1 / self.scale**2)
        return _mix(self.rate, w)

    def _place(self, losses: Array) -> Array:
        """Return where the loss has these values; nothing for values that it does not have."""
        size, rate = np.abs(losses), self.rate
        if self.direction == "replaced":
            # A quadratic equation in e^(x / scale^2), mirrored for negative losses.
            with np.errstate(divide="ignore"):
                linear = math.log1p(-rate) + size + np.log(-np.expm1(-size))
            root = np.logaddexp(2 * linear, math.log(4) + 2 * math.log(rate) - 1 / self.scale**2 + size) / 2
            x = (np.logaddexp(linear, root) - math.log(2 * rate)) * self.scale**2 + 0.5
            return np.asarray(np.sign(losses) * x)
        values = {"there": losses, "back": -losses, "swapped": size}[self.direction]
        with np.errstate(invalid="ignore", divide="ignore"):
            near = np.log1p(np.expm1(np.minimum(values, 30.0)) / rate)
            far = values - math.log(rate) + np.log1p(-(1 - rate) * np.exp(-np.maximum(values, 30.0)))
        w = np.where(values < 30, near, far) if rate < 1 else values
        w = w[np.isfinite(w)]
        return np.asarray((1 + self.scale * w) / 2 if self.laplace else 0.5 + self.scale**2 * w)


def _mix(rate: float, w: Array) -> Array:
    """Return log(1 - rate + rate e^w)."""
    if rate == 1:
        return w.copy()
    mixture = np.log1p(rate * np.expm1(np.minimum(w, 30.0)))
    far = w > 30
    if far.any():
        mixture[far] = w[far] + np.log(rate + (1 - rate) * np.exp(-w[far]))
    return np.asarray(mixture)
