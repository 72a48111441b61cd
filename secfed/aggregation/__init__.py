"""The hall: the only place where floats meet protocols.

A transform makes updates vectors and their sum a mean; a channel adds vectors; an aggregator names both. `aggregate` is
`prepare`, where every decision is made, and `run`.

Names are loaded when they are first used: a client that only encodes its update loads neither SciPy nor noise.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secfed.aggregation.aggregate import Aggregate
    from secfed.aggregation.aggregators import Aggregator, Plain, SecAgg
    from secfed.aggregation.paillier import Paillier
    from secfed.aggregation.prepared import ClippingWarning, Prepared
    from secfed.aggregation.privacy import AdaptiveClipping, CentralGaussian, DistributedGaussian, Privacy
    from secfed.aggregation.private_sum import PrivateSum
    from secfed.aggregation.transcript import RecordedMessage, Resemblance, Transcript
    from secfed.aggregation.transform import Decoded, Transform
    from secfed.aggregation.weighted_mean import FloatMean, WeightedMean

__all__ = [
    "AdaptiveClipping",
    "Aggregate",
    "Aggregator",
    "CentralGaussian",
    "ClippingWarning",
    "Decoded",
    "DistributedGaussian",
    "FloatMean",
    "Paillier",
    "Plain",
    "Prepared",
    "Privacy",
    "PrivateSum",
    "RecordedMessage",
    "Resemblance",
    "SecAgg",
    "Transcript",
    "Transform",
    "WeightedMean",
]
_MODULE_OF = {
    "AdaptiveClipping": "privacy",
    "Aggregate": "aggregate",
    "Aggregator": "aggregators",
    "CentralGaussian": "privacy",
    "ClippingWarning": "prepared",
    "Decoded": "transform",
    "DistributedGaussian": "privacy",
    "FloatMean": "weighted_mean",
    "Paillier": "paillier",
    "Plain": "aggregators",
    "Prepared": "prepared",
    "Privacy": "privacy",
    "PrivateSum": "private_sum",
    "RecordedMessage": "transcript",
    "Resemblance": "transcript",
    "SecAgg": "aggregators",
    "Transcript": "transcript",
    "Transform": "transform",
    "WeightedMean": "weighted_mean",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"secfed.aggregation.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'secfed.aggregation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
