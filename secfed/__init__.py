"""Sums without seeing: secure aggregation for federated learning.

Names are loaded when they are first used, so a client that imports `secfed.secagg` loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from secfed.errors import SecFedError

if TYPE_CHECKING:
    from secfed import attacks, dp, paillier, secagg
    from secfed.aggregation import CentralGaussian, DistributedGaussian, Paillier, Plain, SecAgg
    from secfed.federated import FedAdagrad, FedAdam, FedAsync, FedAvg, FedAvgM, FedBuff, FedYogi

    __version__: str

__all__ = [
    "CentralGaussian",
    "DistributedGaussian",
    "FedAdagrad",
    "FedAdam",
    "FedAsync",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedYogi",
    "Paillier",
    "Plain",
    "SecAgg",
    "SecFedError",
    "attacks",
    "dp",
    "paillier",
    "secagg",
]
_PACKAGES = ("aggregation", "attacks", "dp", "federated", "paillier", "secagg")
_PACKAGE_OF = {
    "CentralGaussian": "aggregation",
    "DistributedGaussian": "aggregation",
    "FedAdagrad": "federated",
    "FedAdam": "federated",
    "FedAvg": "federated",
    "FedAvgM": "federated",
    "FedYogi": "federated",
    "FedAsync": "federated",
    "FedBuff": "federated",
    "Paillier": "aggregation",
    "Plain": "aggregation",
    "SecAgg": "aggregation",
}


if not TYPE_CHECKING:  # or a type checker would accept every name

    def __getattr__(name: str) -> Any:
        if name in _PACKAGE_OF:
            return getattr(import_module(f"secfed.{_PACKAGE_OF[name]}"), name)
        if name in _PACKAGES:
            return import_module(f"secfed.{name}")
        if name == "__version__":
            from importlib.metadata import version

            return version("secfed")
        raise AttributeError(f"module 'secfed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES, "__version__"})
