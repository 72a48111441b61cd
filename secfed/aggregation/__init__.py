"""The hall: the only place where floats meet protocols.

Every aggregator has one method, `aggregate(updates, weights)`.
"""

from secfed.aggregation.aggregators import Aggregate, Aggregator, ClippingWarning, Plain, SecAgg
from secfed.aggregation.pipeline import Pipeline
from secfed.aggregation.transcript import Entry, Resemblance, Transcript

__all__ = [
    "Aggregate",
    "Aggregator",
    "ClippingWarning",
    "Entry",
    "Pipeline",
    "Plain",
    "Resemblance",
    "SecAgg",
    "Transcript",
]
