"""Differential privacy: what was released, what it spent, and exact noise.

This room knows nothing of learning or of protocols.
"""

from secfed.dp.events import (
    Composed,
    DiscreteGaussianSum,
    Event,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    NonPrivate,
    PoissonSampled,
    SkellamSum,
)

__all__ = [
    "Composed",
    "DiscreteGaussianSum",
    "Event",
    "FixedSizeSampled",
    "Gaussian",
    "Laplace",
    "NonPrivate",
    "PoissonSampled",
    "SkellamSum",
]
