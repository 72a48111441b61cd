"""Federated algorithms. They call `aggregate(updates, weights)` and do not depend on how updates are protected."""

from secfed.federated.evaluation import evaluate
from secfed.federated.fedasync import FedAsync
from secfed.federated.fedavg import FedAvg
from secfed.federated.fedavgm import FedAvgM
from secfed.federated.fedbuff import FedBuff
from secfed.federated.fedopt import FedAdagrad, FedAdam, FedYogi
from secfed.federated.fedprox import proximal
from secfed.federated.local_noise import local_noise
from secfed.federated.report import RoundReport
from secfed.federated.state import TrainingState
from secfed.federated.training import Training

__all__ = [
    "FedAdagrad",
    "FedAdam",
    "FedAsync",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedYogi",
    "RoundReport",
    "Training",
    "TrainingState",
    "evaluate",
    "local_noise",
    "proximal",
]
