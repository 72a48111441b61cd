"""The hall: the only place where floats meet protocols.

A transform makes updates vectors and their sum a mean; a channel adds vectors; an aggregator names both. `aggregate` is
`prepare`, where every decision is made, and `run`.
"""

from secfed.aggregation.aggregate import Aggregate
from secfed.aggregation.aggregators import Aggregator, Plain, SecAgg
from secfed.aggregation.costs import Costs, StageCost
from secfed.aggregation.feasibility import Found, Problem
from secfed.aggregation.paillier import Paillier
from secfed.aggregation.plan import Plan
from secfed.aggregation.preflight import Preflight, preflight
from secfed.aggregation.prepared import ClippingWarning, Prepared
from secfed.aggregation.privacy import AdaptiveClipping, CentralGaussian, DistributedGaussian, Privacy
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.suggestions import Suggestion
from secfed.aggregation.transcript import RecordedMessage, Resemblance, Transcript
from secfed.aggregation.transform import Decoded, Transform
from secfed.aggregation.weighted_mean import FloatMean, WeightedMean

__all__ = [
    "AdaptiveClipping",
    "Aggregate",
    "Aggregator",
    "CentralGaussian",
    "ClippingWarning",
    "Costs",
    "Decoded",
    "DistributedGaussian",
    "FloatMean",
    "Found",
    "Paillier",
    "Plain",
    "Plan",
    "Preflight",
    "Prepared",
    "Privacy",
    "PrivateSum",
    "Problem",
    "RecordedMessage",
    "Resemblance",
    "SecAgg",
    "StageCost",
    "Suggestion",
    "Transcript",
    "Transform",
    "WeightedMean",
    "preflight",
]
