"""Differential privacy: events, the accountant, calibration, exact noise, and the ledger.

It knows nothing about learning.
"""

from secfed.dp.accountant import Accountant, Bounds
from secfed.dp.calibration import noise_multiplier, release, rounds, sampling_rate
from secfed.dp.events import (
    Composed,
    DiscreteGaussianSum,
    DiscreteLaplace,
    Event,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    NonPrivate,
    PoissonSampled,
    SkellamSum,
)
from secfed.dp.ledger import Ledger
from secfed.dp.mechanisms import ApproximateDP, ExponentialMechanism, RandomizedResponse, ZeroConcentrated
from secfed.dp.mixtures import GaussianMixture
from secfed.dp.trees import TreeAggregation

__all__ = [
    "Accountant",
    "ApproximateDP",
    "Bounds",
    "Composed",
    "DiscreteGaussianSum",
    "DiscreteLaplace",
    "Event",
    "ExponentialMechanism",
    "FixedSizeSampled",
    "Gaussian",
    "GaussianMixture",
    "Laplace",
    "Ledger",
    "NonPrivate",
    "PoissonSampled",
    "RandomizedResponse",
    "SkellamSum",
    "TreeAggregation",
    "ZeroConcentrated",
    "noise_multiplier",
    "release",
    "rounds",
    "sampling_rate",
]
