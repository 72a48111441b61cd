"""A Gaussian release to which a client contributes a random amount."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from secfed.dp.checks import check_between, keep
from secfed.errors import ConfigError

_NOISE = (1e-6, 1e9)
# Least noise divided by the largest contribution: with less, integration takes too many pieces.
_LEAST_RELATIVE = 0.01
# Most contributions: every loss is a sum over all of them.
_MOST_PARTS = 100


@dataclass(frozen=True, slots=True)
class GaussianMixture:
    """Gaussian noise on a sum to which a client contributes a vector whose largest norm is drawn at random, in secret.

    A matrix mechanism with sampled clients reduces to this. Each release draws the contribution independently, and
    independently of all other clients.

    Args:
        noise_multiplier: Standard deviation of the noise in each coordinate, divided by `clip_norm`; from 1e-6 to 1e9,
            and at least 0.01 times the largest contribution.
        contributions: Largest norms of the client's contribution, divided by `clip_norm`; from 0 to 1e9, one of them
            above 0; at most 100.
        probabilities: Probability of each; they sum to 1 within 1e-9, and are divided by their sum.

    Raises:
        ConfigError: A parameter is out of range, or the numbers of contributions and probabilities differ.

    Source:
        Choquette-Choo, Ganesh, Steinke, Thakurta: Privacy Amplification for Matrix Mechanisms, ICLR 2024.
    """

    noise_multiplier: float
    contributions: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        keep(
            self,
            noise_multiplier=check_between("noise_multiplier", self.noise_multiplier, *_NOISE),
            contributions=_numbers("contributions", self.contributions, _NOISE[1]),
            probabilities=_numbers("probabilities", self.probabilities, 1.0),
        )
        if len(self.contributions) != len(self.probabilities):
            found = f"{len(self.contributions)} contributions and {len(self.probabilities)} probabilities"
            raise ConfigError(f"found {found}, needed as many of both")
        if not abs(math.fsum(self.probabilities) - 1) <= 1e-9:
            raise ConfigError(f"probabilities must sum to 1, found a sum of {math.fsum(self.probabilities)}")
        largest = max(each for each, share in self._parts() if share > 0)
        if not largest > 0:
            raise ConfigError("contributions must be above 0 with some probability, found 0 only")
        if not self.noise_multiplier >= _LEAST_RELATIVE * largest:
            found = f"noise_multiplier {self.noise_multiplier} for contributions of up to {largest}"
            raise ConfigError(f"{found}: the noise must be at least {_LEAST_RELATIVE} times the largest one")

    def _parts(self) -> Iterable[tuple[float, float]]:
        return zip(self.contributions, self.probabilities, strict=True)

    def scaled(self) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
        """Return noise and contributions in units of the largest contribution, and probabilities that sum to 1.

        Contributions of probability 0 are left out, and equal ones are merged.
        """
        total, merged = math.fsum(self.probabilities), dict[float, float]()
        for each, share in self._parts():
            if share > 0:
                merged[each] = merged.get(each, 0.0) + share / total
        largest = max(merged)
        return self.noise_multiplier / largest, tuple(each / largest for each in merged), tuple(merged.values())


def _numbers(name: str, numbers: Any, most: float) -> tuple[float, ...]:
    try:
        listed = list(numbers)
    except TypeError:
        raise ConfigError(f"{name} {numbers!r:.100} must be a sequence of numbers") from None
    if not 1 <= len(listed) <= _MOST_PARTS:
        raise ConfigError(f"{name} must be from 1 to {_MOST_PARTS} numbers, found {len(listed)}")
    return tuple(check_between(f"{name}[{i}]", number, 0.0, most) for i, number in enumerate(listed))
