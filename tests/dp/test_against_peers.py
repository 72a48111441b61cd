"""Epsilon of settings drawn from the whole promised range agrees with other methods, and is found in time.

`tests.dp.reference` computes delta by convolution on a grid. Where its two grids do not agree to a percent it cannot
decide, and at most a stated share of the settings is such. Where dp-accounting is installed, its PLDs are compared too.
"""

import math
import resource
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from secfed import dp
from secfed.dp.events import Adjacency, Event
from tests.dp.reference import Composition, gaussian_delta, gaussian_losses, laplace_losses, one_delta

POPULATION = 10**10
WAYS = ("poisson add_remove", "poisson replace", "fixed add_remove", "fixed replace", "unsampled", "laplace")
# A quarter more of the most usual way, and Laplace noise now and then.
SHARES = (0.35, 0.2, 0.15, 0.2, 0.05, 0.05)
# Ten times what a query is to take.
SECONDS = 20.0
# The reference decides if its estimate of its own relative error is at most this.
DECIDED = 0.01
# Two grids may agree by chance: this much more is allowed, relative to delta.
FLOOR = 1e-4


@dataclass(frozen=True)
class Setting:
    """Equal rounds, and a delta.

    Attributes:
        way: One of `WAYS`.
        rate, noise, rounds: Of one release.
        delta: At which epsilon is asked.
    """

    way: str
    rate: float
    noise: float
    rounds: int
    delta: float

    @property
    def adjacency(self) -> Adjacency:
        return "replace" if self.way.endswith("replace") else "add_remove"

    @property
    def event(self) -> Event:
        if self.way == "unsampled":
            return dp.Gaussian(self.noise)
        if self.way == "laplace":
            return dp.PoissonSampled(self.rate, dp.Laplace(self.noise))
        if self.way.startswith("fixed"):
            return dp.FixedSizeSampled(round(self.rate * POPULATION), POPULATION, dp.Gaussian(self.noise))
        return dp.PoissonSampled(self.rate, dp.Gaussian(self.noise))

    def bounds(self) -> tuple[float, float]:
        """Ask the accountant."""
        return dp.Accountant(self.adjacency).compose(self.event, self.rounds).epsilon(self.delta, bounds=True)

    def deltas(self, epsilons: tuple[float, ...]) -> list[tuple[float, float]]:
        """Return delta at each epsilon by the reference, and its relative error: infinite if unknown."""
        # A cohort of fixed size moves the sum by twice the norm.
        noise = self.noise / 2 if self.way.startswith("fixed") else self.noise
        if self.way == "unsampled":
            return [(gaussian_delta(math.sqrt(self.rounds) / noise, epsilon), 1e-10) for epsilon in epsilons]
        if self.rounds == 1 and self.way not in ("poisson replace", "laplace"):
            return [(one_delta(self.rate, noise, epsilon), 1e-8) for epsilon in epsilons]
        kinds = {"poisson replace": ("swap",), "fixed replace": ("fixed",)}.get(self.way, ("remove", "add"))
        losses = laplace_losses if self.way == "laplace" else gaussian_losses
        results = [(math.nan, math.inf)]
        for cells in (1 << 15, 1 << 18):
            if max(error for _, error in results) > DECIDED:
                found = [
                    Composition(partial(losses, kind, self.rate, noise), self.rounds, epsilons[-1], cells)
                    for kind in kinds
                ]
                # The direction that surely has less does not count.
                found = [composition for composition in found if composition.most > self.delta / 2] or found
                each = [[composition.delta(epsilon) for composition in found] for epsilon in epsilons]
                results = [(max(value for value, _ in pair), max(error for _, error in pair)) for pair in each]
        return results


def draw(count: int, seed: int) -> list[Setting]:
    """Draw settings evenly on a logarithmic scale.

    Rate 1e-7 to 1, noise 0.3 to 50, 1 to 1e6 rounds, delta 1e-12 to 1e-3.
    """
    rng = np.random.default_rng(seed)
    settings = []
    for _ in range(count):
        way = str(rng.choice(WAYS, p=SHARES))
        rate, noise = 10 ** rng.uniform(-7, 0), 0.3 * (50 / 0.3) ** rng.uniform()
        rounds, delta = int(10 ** rng.uniform(0, 6)), 10 ** rng.uniform(-12, -3)
        settings.append(Setting(way, round(rate * POPULATION) / POPULATION, noise, rounds, delta))
    return settings


@pytest.mark.parametrize(
    ("count", "seed"), [pytest.param(10, 1, id="some"), pytest.param(520, 2, id="many", marks=pytest.mark.slow)]
)
def test_bounds_hold_what_convolution_on_a_grid_gives(count: int, seed: int) -> None:
    undecided, slowest, widths, memory = [], 0.0, [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for setting in draw(count, seed):
        start = time.process_time()
        low, high = setting.bounds()
        slowest = max(slowest, time.process_time() - start)
        assert slowest <= SECONDS, setting
        assert 0 <= low <= high < math.inf, setting
        widths.append((high - low) / high if high else 0.0)
        (above, error), (below, other) = setting.deltas((low, high))
        if max(error, other) > DECIDED:
            undecided.append(setting)
            continue
        # Delta is at least as asked at the lower value of epsilon, and at most that at the upper one.
        if low > 0:
            assert above >= setting.delta * (1 - 3 * error - FLOOR), (setting, low, above / setting.delta, error)
        assert below <= setting.delta * (1 + 3 * other + FLOOR), (setting, high, below / setting.delta, other)
    print(len(undecided), "undecided", f"slowest {slowest:.1f} s, median gap {np.median(widths):.1e}", undecided)
    assert len(undecided) <= 0.1 * count
    # The bounds are near each other, or it would be easy to hold the truth.
    assert np.median(widths) < 1e-6 and np.mean(np.array(widths) < 1e-3) > 0.9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory <= 1 << 20  # in KiB


def pld_epsilon(setting: Setting, interval: float, pessimistic: bool) -> float:
    """Return epsilon by dp-accounting."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    made = pld.from_gaussian_mechanism(
        setting.noise,
        pessimistic_estimate=pessimistic,
        value_discretization_interval=interval,
        sampling_prob=setting.rate,
        use_connect_dots=pessimistic,
    )
    return float(made.self_compose(setting.rounds).get_epsilon_for_delta(setting.delta))


@pytest.mark.integrations
@pytest.mark.parametrize(("count", "seed"), [(60, 3), (60, 4)])
def test_bounds_overlap_those_of_dp_accounting(count: int, seed: int) -> None:
    compared, ratios = 0, []
    for setting in draw(count, seed):
        # Its grids are too coarse or too long for the rest, and its transforms lose deltas below 1e-10.
        if setting.way != "poisson add_remove" or setting.delta < 1e-10 or setting.rate < 1e-5:
            continue
        low, high = setting.bounds()
        if not 1e-3 <= high <= 100:
            continue
        interval = high / 20_000
        most, least = (pld_epsilon(setting, interval, pessimistic) for pessimistic in (True, False))
        compared += 1
        ratios.append(most / low if low else 1.0)
        # Sums in doubles move its values by up to 1e-4.
        assert low <= most * (1 + 1e-4), (setting, low, most)
        assert least * (1 - 1e-4) <= high, (setting, high, least)
    print(compared, "compared; dp-accounting's upper value over our lower one:", min(ratios), np.median(ratios))
    assert compared >= count / 20
