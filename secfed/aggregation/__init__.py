"""The hall: the only place where floats meet protocols.

Every aggregator has one method, `aggregate(updates, weights)`.
"""

from secfed.aggregation.aggregate import Aggregate, Aggregator
from secfed.aggregation.aggregators import ClippingWarning, Plain, SecAgg
from secfed.aggregation.noise_shares import NoiseShare, surplus
from secfed.aggregation.pipeline import Pipeline
from secfed.aggregation.privacy import AdaptiveClipping, CentralGaussian, DistributedGaussian, Privacy
from secfed.aggregation.private_pipeline import PrivatePipeline
from secfed.aggregation.transcript import Entry, Resemblance, Transcript

__all__ = [
    "AdaptiveClipping",
    "Aggregate",
    "Aggregator",
    "CentralGaussian",
    "ClippingWarning",
    "DistributedGaussian",
    "Entry",
    "NoiseShare",
    "Pipeline",
    "Plain",
    "Privacy",
    "PrivatePipeline",
    "Resemblance",
    "SecAgg",
    "Transcript",
    "surplus",
]
