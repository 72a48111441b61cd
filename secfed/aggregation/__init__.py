"""The only package that connects floats with protocols.

A transform turns updates into vectors and their sum into a mean; a channel adds vectors; an aggregator chooses both.
`aggregate` is `prepare`, which makes every decision, followed by `run`.

Names are loaded when first used: a client that only encodes its update loads neither SciPy nor noise.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_MODULE_OF = {
    "AdaptiveClipping": "secfed.aggregation.privacy",
    "Aggregate": "secfed.aggregation.aggregate",
    "Aggregator": "secfed.aggregation.aggregator",
    "ArrayClips": "secfed.aggregation.array_clips",
    "CentralGaussian": "secfed.aggregation.privacy",
    "ClippingWarning": "secfed.aggregation.prepared",
    "Compressed": "secfed.aggregation.compressed",
    "Compression": "secfed.encoding.compression",
    "Decoded": "secfed.aggregation.transform",
    "DistributedGaussian": "secfed.aggregation.privacy",
    "FloatMean": "secfed.aggregation.weighted_mean",
    "LowRank": "secfed.encoding.compression",
    "Maps": "secfed.aggregation.compressed",
    "Paillier": "secfed.aggregation.paillier",
    "PerArrayClipping": "secfed.aggregation.per_array",
    "Plain": "secfed.aggregation.aggregators",
    "Prepared": "secfed.aggregation.prepared",
    "Privacy": "secfed.aggregation.privacy",
    "PrivateSum": "secfed.aggregation.private_sum",
    "RandomK": "secfed.encoding.compression",
    "RandomRotation": "secfed.encoding.compression",
    "RecordedMessage": "secfed.aggregation.transcript",
    "Resemblance": "secfed.aggregation.transcript",
    "ScaledMean": "secfed.aggregation.scaled_mean",
    "SecAgg": "secfed.aggregation.aggregators",
    "Transcript": "secfed.aggregation.transcript",
    "Transform": "secfed.aggregation.transform",
    "WeightedMean": "secfed.aggregation.weighted_mean",
    "propose_clips": "secfed.aggregation.array_clips",
}


if not TYPE_CHECKING:  # or a type checker would accept every name

    def __getattr__(name: str) -> Any:
        if name in _MODULE_OF:
            return getattr(import_module(_MODULE_OF[name]), name)
        raise AttributeError(f"module 'secfed.aggregation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
