"""Federated algorithms; they see nothing of a protection but `aggregate(updates, weights)`."""

from secfed.federated.fedavg import FedAvg
from secfed.federated.fedavgm import FedAvgM
from secfed.federated.fedopt import FedAdagrad, FedAdam, FedYogi
from secfed.federated.fedprox import proximal
from secfed.federated.report import RoundReport
from secfed.federated.state import TrainingState
from secfed.federated.training import Training

__all__ = [
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "RoundReport",
    "Training",
    "TrainingState",
    "proximal",
]
