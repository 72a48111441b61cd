"""FedAvgM, FedAdagrad, FedAdam and FedYogi step as Flower's strategies do, from the same means.

Two things differ on purpose and are made equal here. Flower starts `v` at 0 (the paper: at `tau**2` or above), and its
FedAdam corrects the moments for their start, which the paper's algorithm does not.
"""

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy
from flwr.supercore.task_identity import TaskIdentity

import secfed

TAU = 0.05
MOMENTS = {"beta_1": 0.7, "beta_2": 0.9, "tau": TAU}
PAIRS = [
    pytest.param(secfed.FedAvgM, strategy.FedAvgM, {"server_learning_rate": 0.3, "server_momentum": 0.8}, id="fedavgm"),
    pytest.param(secfed.FedAdagrad, strategy.FedAdagrad, {"tau": TAU}, id="fedadagrad"),
    pytest.param(secfed.FedAdam, strategy.FedAdam, MOMENTS, id="fedadam"),
    pytest.param(secfed.FedYogi, strategy.FedYogi, MOMENTS, id="fedyogi"),
]
ROUNDS = 6


class Grid:
    """As much of Flower's grid as a strategy asks when it configures a round."""

    def get_node_ids(self) -> list[int]:
        return [1, 2, 3]


def updates(client: int) -> np.ndarray:
    """Some that are small, some that change their sign; row by round."""
    return np.random.default_rng(client).normal(0.1, [0.01, 0.1, 1.0, 3.0], (ROUNDS, 4))


def flower_models(theirs: Any, options: dict[str, float], model: np.ndarray) -> list[np.ndarray]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # messages name them
    flower = theirs(**options)
    adam = theirs is strategy.FedAdam
    if theirs is not strategy.FedAvgM:
        flower.v_t = {"w": np.full(4, TAU**2)}
    models = []
    for number in range(1, ROUNDS + 1):
        if adam:
            b1, b2 = flower.beta_1 ** (number + 1), flower.beta_2 ** (number + 1)
            flower.eta = options["eta"] * (1 - b1) / np.sqrt(1 - b2)
        flower.configure_train(number, ArrayRecord({"w": as_array(model)}), ConfigRecord(), Grid())
        replies = []
        for client in (1, 2, 3):
            asked = Message(RecordDict(), dst_node_id=client, message_type="train")
            trained = ArrayRecord({"w": as_array(model + updates(client)[number - 1])})
            content = RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": client})})
            replies.append(Message(content, reply_to=asked))
        arrays, _ = flower.aggregate_train(number, replies)
        assert arrays is not None
        model = arrays["w"].numpy()
        models.append(model)
    return models


def as_array(values: np.ndarray) -> Any:
    return next(iter(ArrayRecord([values]).values()))


@pytest.mark.parametrize(("ours", "theirs", "options"), PAIRS)
def test_models_are_those_of_flowers_strategy(ours: Any, theirs: Any, options: dict[str, float]) -> None:
    start = np.array([1.0, -0.5, 0.0, 2.0])
    called = iter(np.repeat(np.arange(ROUNDS), 3))  # three clients in each round

    def local_update(model: np.ndarray, client: int) -> tuple[np.ndarray, int]:
        return updates(client)[next(called)], client

    eta = {} if theirs is strategy.FedAvgM else {"server_learning_rate": 0.2}
    training = ours(local_update, aggregator=secfed.Plain(), **options, **eta)
    mine = [report.model for report in training.rounds(start, [1, 2, 3], count=ROUNDS)]
    expected = flower_models(theirs, options | ({"eta": 0.2} if eta else {}), start)
    assert np.array(mine) == pytest.approx(np.array(expected), rel=1e-9, abs=1e-12)
