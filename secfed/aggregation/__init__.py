"""The hall: the only place where floats meet protocols.

A transform makes updates vectors and their sum a mean; a channel adds vectors; an aggregator names both. `aggregate` is
`prepare`, where every decision is made, and `run`.
"""

from secfed.aggregation.aggregate import Aggregate
from secfed.aggregation.aggregator import Aggregator
from secfed.aggregation.aggregators import Plain, SecAgg
from secfed.aggregation.array_clips import ArrayClips, propose_clips
from secfed.aggregation.compressed import Compressed, Maps
from secfed.aggregation.paillier import Paillier
from secfed.aggregation.per_array import PerArrayClipping
from secfed.aggregation.prepared import ClippingWarning, Prepared
from secfed.aggregation.privacy import AdaptiveClipping, CentralGaussian, DistributedGaussian, Privacy
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.scaled_mean import ScaledMean
from secfed.aggregation.transcript import RecordedMessage, Resemblance, Transcript
from secfed.aggregation.transform import Decoded, Transform
from secfed.aggregation.weighted_mean import FloatMean, WeightedMean
from secfed.encoding.compression import Compression, LowRank, RandomK, RandomRotation

__all__ = [
    "AdaptiveClipping",
    "Aggregate",
    "Aggregator",
    "ArrayClips",
    "CentralGaussian",
    "ClippingWarning",
    "Compressed",
    "Compression",
    "Decoded",
    "DistributedGaussian",
    "FloatMean",
    "LowRank",
    "Maps",
    "Paillier",
    "PerArrayClipping",
    "Plain",
    "Prepared",
    "Privacy",
    "PrivateSum",
    "RandomK",
    "RandomRotation",
    "RecordedMessage",
    "Resemblance",
    "ScaledMean",
    "SecAgg",
    "Transcript",
    "Transform",
    "WeightedMean",
    "propose_clips",
]
