"""Sums over all nodes of a binary tree of training steps, as DP-FTRL releases them."""

import math
from dataclasses import dataclass

from secfed.dp.checks import check_between, check_count, keep
from secfed.errors import ConfigError

_NOISE = (1e-6, 1e9)
_MOST_STEPS = 2**53


@dataclass(frozen=True, slots=True)
class TreeAggregation:
    """Noisy sums over the nodes of a binary tree whose leaves are steps of a training.

    Level 0 has one node for each step. A node of level l stands for 2^l steps in a row, the first of which is a
    multiple of 2^l from the start; only nodes whose steps are all over are released. Each node's sum gets Gaussian
    noise of its own. One step of a client is in at most one node of each level. All prefix sums are sums of nodes.

    In which steps a client takes part is fixed beforehand, and no secret. What it contributes may depend on everything
    that was released before.

    Args:
        noise_multiplier: Standard deviation of the noise of each node, divided by `clip_norm`, the largest norm of one
            client's contribution to one step; from 1e-6 to 1e9.
        steps: Steps of the tree. Where there are several trees, and each client takes part in one of them only, those
            of the largest tree.
        participations: Steps in which one client takes part, at most.

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
        """Return the noise multiplier of the one Gaussian release that all nodes are together.

        The first steps of the tree are the worst ones: they fill as many nodes of each level as there can be.
        """
        square_norm = 0
        for level in range(self.steps.bit_length()):
            nodes = self.steps >> level
            full, rest = divmod(self.participations, 1 << level)
            square_norm += min(full, nodes) * 4**level + (rest**2 if full < nodes else 0)
        return self.noise_multiplier / math.sqrt(square_norm)
