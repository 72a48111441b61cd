"""Noise: exact integer samples from a seed, how much of it each client brings, and how the surplus is taken off."""

from secfed.dp.noise.shares import NoiseShare
from secfed.dp.noise.surplus import SurplusNoise

__all__ = ["NoiseShare", "SurplusNoise"]
