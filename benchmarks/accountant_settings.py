"""The settings of which `benchmarks.accountant` asks epsilon; it needs nothing but NumPy, so any script can use it."""

import math
from dataclasses import dataclass

import numpy as np

# So large that every rate drawn is a whole cohort: the loss of one round depends on their ratio alone.
POPULATION = 10**10


@dataclass(frozen=True)
class Setting:
    """Equal rounds of a sampled Gaussian sum, and a delta.

    Attributes:
        kind: `"dp-sgd"`, `"fl"` or `"wide"`.
        sampling: `"poisson"`, or `"fixed"`: cohorts of `cohort` clients among `POPULATION`.
        adjacency: `"add_remove"` or `"replace"`.
        rate: Sampling rate, 1 for all clients in every round.
        noise: Noise multiplier.
        rounds: Number of rounds.
        delta: At which epsilon is asked.
    """

    kind: str
    sampling: str
    adjacency: str
    rate: float
    noise: float
    rounds: int
    delta: float

    @property
    def cohort(self) -> int:
        """Clients drawn in each round if sampling is `"fixed"`."""
        return max(1, round(self.rate * POPULATION))

    def __str__(self) -> str:
        return (
            f"{self.kind}, {self.sampling}, {self.adjacency}, rate {self.rate:g}, noise {self.noise:g}, "
            f"{self.rounds:,} rounds, delta {self.delta:g}"
        )


def _draw(generator: np.random.Generator, low: float, high: float) -> float:
    """Draw evenly on a logarithmic scale; four digits, so that a setting is fully told by what is printed."""
    return float(f"{math.exp(generator.uniform(math.log(low), math.log(high))):.4g}")


def _sampled(i: int) -> tuple[str, str]:
    """Return sampling and adjacency: a quarter fixed, replace; a quarter Poisson, replace; the rest add_remove."""
    return (("fixed", "replace"), ("poisson", "replace"), ("poisson", "add_remove"), ("poisson", "add_remove"))[i % 4]


def realistic() -> list[Setting]:
    """Return 400 settings as people train with: 200 of DP-SGD, then 200 of federated learning.

    DP-SGD: rate 1e-4 to 0.05, noise 0.5 to 4, 100 to 50,000 rounds of which each example joins 1 to 500 in the mean.
    Federated learning: rate 0.01 to 0.5, and 1 in each fifth setting; noise 0.3 to 10, 10 to 2,000 rounds. Delta from
    1e-10 to 1e-4. All are drawn evenly on a logarithmic scale, from a fixed seed.
    """
    generator = np.random.default_rng(19)
    settings = []
    for i in range(200):
        rate, noise = _draw(generator, 1e-4, 0.05), _draw(generator, 0.5, 4)
        fewest, most = max(100, math.ceil(1 / rate)), min(50_000, math.floor(500 / rate))
        rounds = min(max(round(_draw(generator, fewest, most)), fewest), most)
        settings.append(Setting("dp-sgd", *_sampled(i), rate, noise, rounds, _draw(generator, 1e-10, 1e-4)))
    for i in range(200):
        rate, noise = _draw(generator, 0.01, 0.5), _draw(generator, 0.3, 10)
        rounds, delta = round(_draw(generator, 10, 2_000)), _draw(generator, 1e-10, 1e-4)
        settings.append(Setting("fl", *_sampled(i), 1.0 if i % 5 == 0 else rate, noise, rounds, delta))
    return settings


def wide() -> list[Setting]:
    """Return 300 settings from a wide range, drawn evenly on a logarithmic scale, from a fixed seed.

    Rate 1e-7 to 1, noise 0.3 to 50, 1 to a million rounds, delta 1e-12 to 1e-3.
    """
    generator = np.random.default_rng(20)
    settings = []
    for i in range(300):
        rate, noise = _draw(generator, 1e-7, 1), _draw(generator, 0.3, 50)
        rounds, delta = round(_draw(generator, 1, 1e6)), _draw(generator, 1e-12, 1e-3)
        settings.append(Setting("wide", *_sampled(i), rate, noise, rounds, delta))
    return settings


def curves() -> list[Setting]:
    """Return 72 settings of which epsilon is asked after each of 1,000 rounds."""
    return [
        Setting("curve", *way, rate, noise, 1_000, delta)
        for rate in (1e-4, 1e-3, 0.01, 0.1)
        for noise in (0.6, 1.0, 2.0)
        for delta in (1e-5, 1e-8)
        for way in (("poisson", "add_remove"), ("poisson", "replace"), ("fixed", "replace"))
    ]
