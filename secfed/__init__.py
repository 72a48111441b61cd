"""Sums without seeing: secure aggregation for federated learning."""

from secfed import attacks, dp, secagg
from secfed.aggregation import CentralGaussian, DistributedGaussian, Plain, SecAgg
from secfed.errors import SecFedError
from secfed.federated import FedAvg

__all__ = [
    "CentralGaussian",
    "DistributedGaussian",
    "FedAvg",
    "Plain",
    "SecAgg",
    "SecFedError",
    "attacks",
    "dp",
    "secagg",
]
