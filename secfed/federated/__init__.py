"""Federated algorithms; they see nothing of a protection but `aggregate(updates, weights)`."""

from secfed.federated.fedavg import FedAvg
from secfed.federated.training import RoundReport

__all__ = ["FedAvg", "RoundReport"]
