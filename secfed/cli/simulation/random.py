"""Repeatable chance for simulations; never for secrets, which come from the operating system."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """Return a generator that follows from a run's seed, and is independent of those for other purposes or numbers."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *numbers])
