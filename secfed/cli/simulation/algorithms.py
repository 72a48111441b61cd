"""The algorithms that a simulation can run."""

from collections.abc import Callable
from functools import partial
from typing import Any

from secfed.cli.simulation import perceptron
from secfed.federated import FedAdagrad, FedAdam, FedAsync, FedAvg, FedAvgM, FedBuff, FedYogi, Training

_CLASSES: dict[str, Callable[..., Training]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedAvg,  # its own half is the clients'
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedbuff": FedBuff,
    "fedasync": FedAsync,
}


def training(name: str, parameters: dict[str, float], **options: Any) -> Training:
    """Make a training of the perceptron.

    Args:
        name: Of the algorithm, in `algorithm_parameters.DEFAULTS`.
        parameters: With the names that its defaults have.
        options: `aggregator`, `privacy` and so on.
    """
    of_server = {key: value for key, value in parameters.items() if key != "mu"}
    return _CLASSES[name](partial(perceptron.local_update, mu=parameters.get("mu", 0.0)), **of_server, **options)
