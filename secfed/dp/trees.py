"""Sums over all nodes of a binary tree of training steps, as released by DP-FTRL."""

import math
from dataclasses import dataclass

from secfed.dp.checks import check_between, check_count, keep
from secfed.errors import ConfigError

_NOISE = (1e-6, 1e9)
_MOST_STEPS = 2**53


@dataclass(frozen=True, slots=True)
class TreeAggregation:
    """Noisy sums over the nodes of a binary tree whose leaves are training steps.

    Level 0 has one node per step. A node of level l covers 2^l consecutive steps, starting at a multiple of 2^l; a node
    is released once its steps are over. Each node's sum gets its own Gaussian noise. One step of a client is in at most
    one node per level. All prefix sums are sums of nodes.

    The steps in which a client takes part are fixed beforehand and not secret. Its contribution may depend on earlier
    releases.

    Args:
        noise_multiplier: Standard deviation of the noise of each node, divided by `clip_norm`, the largest norm of one
            client's contribution to one step; from 1e-6 to 1e9.
        steps: Steps of the tree. With several trees and each client in only one of them, the steps of the largest.
        participations: Most steps in which one client takes part.

    Raises:
        ConfigError: A parameter is out of range, or there are more participations than steps.

    Source:
        Kairouz, McMahan, Song, Thakkar, Thakurta, Xu: Practical and Private (Deep) Learning without Sampling or
        Shuffling, ICML 2021, Appendix D.
    """

    noise_multiplier: float
    steps: int
    participations: int = 1

    def __post_init__(self) -> None:
        keep(
            self,
            noise_multiplier=check_between("noise_multiplier", self.noise_multiplier, *_NOISE),
            steps=check_count("steps", self.steps),
            participations=check_count("participations", self.participations),
        )
        if self.steps > _MOST_STEPS:
            raise ConfigError(f"steps {self.steps} must be at most 2^53")
        if self.participations > self.steps:
            raise ConfigError(f"participations {self.participations} must be at most the steps, {self.steps}")
        check_between("noise_multiplier of all nodes together", self.joint_noise(), *_NOISE)

    def joint_noise(self) -> float:
        """Return the noise multiplier of one Gaussian release equivalent to all nodes.

        The first steps of the tree are the worst case: they are in as many nodes of each level as possible.
        """
        square_norm = 0
        for level in range(self.steps.bit_length()):
            nodes = self.steps >> level
            full, rest = divmod(self.participations, 1 << level)
            square_norm += min(full, nodes) * 4**level + (rest**2 if full < nodes else 0)
        return self.noise_multiplier / math.sqrt(square_norm)
