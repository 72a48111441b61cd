"""Single releases and contours as the accountant chooses them, drawn from fixed seeds."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from secfed.dp.contour.moments import Moments, Releases
from secfed.dp.contour.nodes import Nodes
from secfed.dp.contour.path import ContourPath, choose, frequencies
from secfed.dp.contour.privacy_loss import Direction, Laws
from secfed.dp.contour.quadrature import grids
from secfed.dp.contour.sampled_gaussian import GOAL
from tests.dp.contour.exact import Exact

DIRECTIONS: tuple[Direction, ...] = ("remove", "add", "replace", "fixed_size")


def laws(direction: Direction, rate: float, noise: float, count: float = 1.0) -> Laws:
    """Return one law."""
    return Laws(direction, np.array([rate]), np.array([noise]), np.array([count]))


@dataclass(frozen=True)
class Case:
    """A composition of equal releases, and the contour chosen for it.

    Attributes:
        exact: One release.
        laws: The same, for the library.
        moments: Its moments on a grid of orders.
        path: The contour.
        top: The last value of u on it.
        epsilon, log_delta: What it was chosen for.
    """

    exact: Exact
    laws: Laws
    moments: Moments
    path: ContourPath
    top: float
    epsilon: float
    log_delta: float

    @property
    def order(self) -> float:
        return self.path.order

    def nodes(self, tolerance: float = GOAL / 4, stretch: float = 1.0) -> Nodes:
        """Return nodes as `cgf.evaluate` places them, for another tolerance if wanted."""
        [found] = grids(self.laws, self.order, self.top, tolerance, stretch=stretch)
        return found


@lru_cache(maxsize=512)
def case(direction: Direction, seed: int) -> Case:
    """Draw a setting: rate 1e-6 to 1, noise 0.3 to 50, 1 to 1e6 rounds, delta 1e-12 to 1e-3, all logarithmic."""
    rng = np.random.default_rng([seed, DIRECTIONS.index(direction)])
    while True:
        rate, noise = 10 ** rng.uniform(-6, 0), 0.3 * (50 / 0.3) ** rng.uniform()
        count, log_delta = float(int(10 ** rng.uniform(0, 6))), math.log(10) * rng.uniform(-12, -3)
        drawn = laws(direction, rate, noise, count)
        releases = Releases((drawn,), 0.0)
        moments = Moments.of(releases, log_delta, None)
        epsilon = min(moments.epsilon_guess(log_delta), moments.epsilon_bound(log_delta))
        if epsilon <= 0:
            continue
        path = choose(releases, moments, epsilon, log_delta, GOAL)
        assert path is not None
        top = float(frequencies(path)[0][-1])
        found = Case(Exact(direction, rate, noise), drawn, moments, path, top, epsilon, log_delta)
        # What has more nodes takes long here.
        if found.nodes().loss.shape[1] <= 4000:
            return found
