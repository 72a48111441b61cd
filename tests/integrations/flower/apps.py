"""A client app as Flower's users write it: it trains by adding its node's number to every weight."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

STEP = 0.001


def model(*, extra: dict[str, np.ndarray] | None = None) -> ArrayRecord:
    """Return a small model of two arrays, and more."""
    arrays = {"layer.weight": np.zeros((3, 4), np.float32), "layer.bias": np.ones(2, np.float32), **(extra or {})}
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def app(mods: Sequence[Any] = (), *, trained: Callable[[int], None] = lambda node: None) -> ClientApp:
    """Return an app without a line about secfed but its mods; `trained` is told when a node trains."""
    client_app = ClientApp(mods=list(mods))

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        assert [*message.content.array_records] == ["arrays"]  # nothing of the protocol reaches the app
        assert isinstance(message.content["config"], ConfigRecord)
        trained(context.node_id)
        new = {
            name: Array(np.asarray(array.numpy() + np.float64(STEP * context.node_id), array.numpy().dtype))
            for name, array in message.content["arrays"].items()
        }
        metrics = MetricRecord({"num-examples": context.node_id, "loss": context.node_id / 8, "secret": 7.25})
        return Message(RecordDict({"arrays": ArrayRecord(new), "metrics": metrics}), reply_to=message)

    @client_app.train("other")
    def train_other(message: Message, context: Context) -> Message:
        return train(message, context)

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": context.node_id, "accuracy": 0.5, "secret": 7.25})
        return Message(RecordDict({"metrics": metrics, "arrays": message.content["arrays"]}), reply_to=message)

    @client_app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"answer": ConfigRecord({"secret": 7.25})}), reply_to=message)

    return client_app
