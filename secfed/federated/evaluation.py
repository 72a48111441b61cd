"""Evaluation on the clients' own data. The server sees only the mean of their figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from secfed.aggregation.aggregate import Aggregate
from secfed.aggregation.aggregator import Aggregator
from secfed.encoding.flatten import flatten, structure, unflatten
from secfed.errors import ConfigError, EncodingError
from secfed.federated.results import Model

Evaluation = Callable[[Model, Any], tuple[Mapping[str, float], float]]


def evaluate(
    evaluation: Evaluation, model: Model, clients: Sequence[Any] | Mapping[int, Any], *, aggregator: Aggregator
) -> tuple[dict[str, float], Aggregate]:
    """Let every client evaluate a model, and return the weighted mean of their figures.

    Args:
        evaluation: `evaluation(model, data) -> (figures, weight)`: figures by name, such as `{"accuracy": 0.9}`, the
            same names for all clients; the weight is the number of examples. The model is the client's own copy.
        model: Array, or list or dictionary of arrays.
        clients: Each client's data: a list (ids from 1) or a dictionary by client id.
        aggregator: How figures become a mean, as for `secfed.FedAvg`. Its clip bounds each figure: under `SecAgg` and
            `Paillier`, larger ones are clipped, with a `ClippingWarning`.

    Returns:
        The means by name, and the aggregate they come from, with the survivors.

    Raises:
        ConfigError: There are no clients, or the parameters do not work for this number of clients.
        EncodingError: A client's figures are not finite numbers, or have other names than the first client's.
        TooFewSurvivorsError: Too few clients.
    """
    data = dict(clients) if isinstance(clients, Mapping) else dict(enumerate(clients, start=1))
    if not data:
        raise ConfigError("found no client, needed at least one")
    like, values = structure(model), flatten(model)
    found: dict[int, dict[str, Any]] = {}
    weights: dict[int, float] = {}
    for client_id in sorted(data):
        figures, weights[client_id] = evaluation(unflatten(values, like), data[client_id])
        try:
            found[client_id] = {name: np.array([float(value)]) for name, value in figures.items()}
        except (TypeError, ValueError):
            raise EncodingError(f"client {client_id}: found figures {figures!r:.100}, needed numbers by name") from None
    aggregate = aggregator.aggregate(found, weights)
    mean: Any = aggregate.mean
    return {name: float(value[0]) for name, value in mean.items()}, aggregate
