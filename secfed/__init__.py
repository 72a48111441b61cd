"""Sums without seeing: secure aggregation for federated learning."""

from secfed import secagg
from secfed.aggregation import Plain, SecAgg
from secfed.errors import SecFedError
from secfed.federated import FedAvg

__all__ = ["FedAvg", "Plain", "SecAgg", "SecFedError", "secagg"]
