"""The engines of the accountant: each bounds epsilon and delta of a composition in one direction.

Bounds are a lower and an upper one. `most` is a known upper bound, which a result may exceed; `start` says where a
search starts. `at_most` says whether a cheap bound shows that delta at an epsilon is at most a given one. `variation`
bounds delta(0).
"""

import math
from dataclasses import dataclass

import numpy as np

from secfed.dp.closed_forms import GaussianProfile, SingleProfile
from secfed.dp.contour import sampled_gaussian, smoothed
from secfed.dp.contour.capped import capped
from secfed.dp.contour.integral import WarmStart
from secfed.dp.contour.inversion import Profile, epsilon_of
from secfed.dp.contour.moments import Moments, NoOrderError, Releases
from secfed.dp.contour.smoothed import Pairs

Ends = tuple[float, float]
# By how much capped losses may raise delta, relative to it.
_EXCESS = 1e-7


@dataclass(frozen=True, slots=True)
class GaussianEngine:
    """Gaussian noise, sampled or not: closed forms and exact contours."""

    releases: Releases

    @property
    def variation(self) -> float:
        """The sum of the releases' total variations."""
        return self.releases.variation

    def epsilon(
        self,
        log_delta: float,
        most: float = math.inf,
        start: WarmStart | None = None,
        goal: float = sampled_gaussian.GOAL,
    ) -> Ends:
        """Return lower and upper bounds on epsilon, for a target relative error of delta."""
        if math.log(self.variation) <= log_delta:
            return 0.0, 0.0
        if profile := self._profile():
            low, high = epsilon_of(profile, log_delta)
        else:
            low, high = sampled_gaussian.epsilon_bounds(self.releases, log_delta, goal, start)
        return max(low, 0.0), max(high, 0.0)

    def delta(self, epsilon: float, most: float = 1.0, start: WarmStart | None = None) -> Ends:
        """Return lower and upper bounds on delta."""
        if profile := self._profile():
            low, high = (float(bound[0]) for bound in profile.bounds(np.array([epsilon])))
        else:
            low, high = sampled_gaussian.delta_bounds(self.releases, epsilon, start)
        return math.exp(min(low, 0.0)), math.exp(min(high, 0.0))

    def at_most(self, epsilon: float, delta: float) -> bool:
        """Return whether the closed form or Chernoff's bound shows this."""
        if not delta > 0:
            return False
        if profile := self._profile():
            return bool(profile.bounds(np.array([epsilon]))[1][0] <= math.log(delta))
        if epsilon <= 0:
            return False
        try:
            moments = Moments.of(self.releases, None, epsilon, math.log(delta))
        except NoOrderError:
            return False
        return bool(moments.exponent(epsilon).min() <= math.log(delta))

    def _profile(self) -> Profile | None:
        """Return a closed form, if there is one."""
        laws = self.releases.laws
        if not laws:
            return GaussianProfile(math.sqrt(self.releases.gaussian))
        if self.releases.gaussian == 0 and len(laws) == len(laws[0]) == 1 and laws[0].count[0] == 1:
            return SingleProfile(laws[0].direction, float(laws[0].rate[0]), float(laws[0].noise[0]))
        return None


@dataclass(frozen=True, slots=True)
class PairsEngine:
    """Any pairs of distributions: smoothed contours."""

    pairs: Pairs

    @property
    def variation(self) -> float:
        """The sum of the releases' total variations."""
        return smoothed.variation(self.pairs)

    def epsilon(self, log_delta: float, most: float, start: WarmStart | None = None) -> Ends:
        """Return lower and upper bounds on epsilon; no contour is reused."""
        found = capped(self.pairs, log_delta, most, _EXCESS)
        if not found:
            return smoothed.epsilon_bounds(self.pairs, log_delta)
        low, high = smoothed.epsilon_bounds(found.pairs, log_delta, excess=found.excess)
        return min(low, most), high

    def delta(self, epsilon: float, most: float, start: WarmStart | None = None) -> Ends:
        """Return lower and upper bounds on delta."""
        # Noise that is left out must be rare also where delta is tiny: about 1e-50, as in `NoiseLaw`.
        rare = min(math.log(max(most, 1e-300)) - 10.0, -99.0)
        # A contour that a search uses again must suit every epsilon.
        found = None if start else capped(self.pairs, rare, epsilon, _EXCESS)
        if not found:
            return smoothed.delta_bounds(self.pairs, epsilon, start)
        low, high = smoothed.delta_bounds(found.pairs, epsilon)
        return low * (1 - found.excess), high

    def at_most(self, epsilon: float, delta: float) -> bool:
        """Return whether Chernoff's bound shows this."""
        return epsilon > 0 and smoothed.at_most(self.pairs, epsilon, delta)


Engine = GaussianEngine | PairsEngine
