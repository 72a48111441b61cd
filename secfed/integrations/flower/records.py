"""What secfed puts into Flower's messages and into a client's state.

A message of ours is a `ConfigRecord` named `secfed`, and bytes of the protocol in an `ArrayRecord` named
`secfed.payload`: Flower cuts arrays into chunks, so that a payload may be larger than its limit for one message.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from secfed.encoding.flatten import Update, model_hash
from secfed.errors import ConfigError, MalformedMessageError, ProtocolError

RECORD: Final = "secfed"
PAYLOAD: Final = "secfed.payload"
# The stages that are not the protocol's own.
ENROLL: Final = "ENROLL"  # which identity key is yours?
SURPLUS_NOISE: Final = "SURPLUS_NOISE"
ABORT: Final = "ABORT"  # the server has given up: forget the session
MOST_CHARACTERS: Final = 300  # of a reason that another party gives

Arrays = dict[str, npt.NDArray[Any]]
Value = TypeVar("Value")


def payload(data: bytes) -> ArrayRecord:
    """Put bytes into a record that Flower sends in chunks."""
    return ArrayRecord({"bytes": Array(np.frombuffer(data, np.uint8))})


def payload_bytes(record: ArrayRecord | None) -> bytes:
    """Take the bytes out again.

    Raises:
        MalformedMessageError: There is no such record, or something else is in it.
    """
    if record is None or list(record) != ["bytes"]:
        raise MalformedMessageError(f"the message has no record {PAYLOAD} with an array of bytes", 0)
    # Not `numpy.load`: it also opens archives, and makes room for as much as a header claims.
    file = io.BytesIO(record["bytes"].data)
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # whatever NumPy makes of bytes that are not an array
        raise MalformedMessageError(f"{PAYLOAD} is not an array: {type(error).__name__}", 0) from None
    data = file.read()
    if dtype != np.uint8 or shape != (len(data),):
        raise MalformedMessageError(f"{PAYLOAD} is an array of {dtype}, needed uint8 in one axis, all of them there", 0)
    return data


def task_hash(message_type: str, content: RecordDict, models: dict[str, Arrays]) -> bytes:
    """Return the hash of what nodes are told to do: the model, the other records and the function of the app.

    It goes into the session, so that only nodes with the same task are summed. Otherwise a server could let all but one
    train with a learning rate of 0, and the sum would be that one's update.

    Args:
        message_type: Of the training message, such as `"train"`.
        content: The training message's records, without secfed's own.
        models: Its array records' arrays, by the names of the records.

    Returns:
        32 bytes.
    """
    others = [
        [name, type(record).__name__, sorted(record.items())]
        for name, record in sorted(content.items())
        if not isinstance(record, ArrayRecord)
    ]
    told = json.dumps([message_type, others], default=lambda data: {"bytes": data.hex()})
    return hashlib.sha256(b"secfed/flower/v1 task" + model_hash(models) + told.encode()).digest()


def ours(content: RecordDict) -> ConfigRecord | None:
    """Return our record of a message, None if it has none."""
    return content.config_records.get(RECORD)


def value(record: ConfigRecord, name: str, kind: type[Value]) -> Value:
    """Return an entry of a record.

    Raises:
        MalformedMessageError: It is missing or of another type.
    """
    found = record.get(name)
    if type(found) is not kind:
        raise MalformedMessageError(f"{RECORD}.{name} is a {type(found).__name__}, needed a {kind.__name__}", 0)
    return found


def stage_message(stage: str, session: bytes, data: bytes = b"") -> RecordDict:
    """Return what a message of one stage holds, in either direction."""
    return RecordDict({RECORD: ConfigRecord({"stage": stage, "session": session}), PAYLOAD: payload(data)})


def one_task(messages: list[Message]) -> tuple[str, Arrays, bytes]:
    """Return the name and the arrays of the model that all training messages carry, and the hash of all that they say.

    Raises:
        ConfigError: They carry none, several or different ones, or something else differs.
    """
    tasks: dict[bytes, Message] = {}
    hashes: dict[int, bytes] = {}  # strategies put one content into all messages
    name, model = "", Arrays()
    for message in messages:
        message_type, records = message.metadata.message_type, message.content.array_records
        if message_type.partition(".")[0] != "train" or len(records) != 1:
            raise ConfigError(
                f"a {message_type} message with {len(records)} array records, needed train messages with one, the model"
            )
        if id(message.content) not in hashes:
            [(name, record)] = records.items()
            model = numpy_arrays(record)
            hashes[id(message.content)] = task_hash(message_type, message.content, {name: model})
        tasks[hashes[id(message.content)]] = message
    if len(tasks) > 1 or len({message.metadata.message_type for message in messages}) > 1:
        raise ConfigError(
            f"the strategy sends {len(tasks)} different models or configurations, secure sums need the same for all: "
            "otherwise a server could make the sum equal to one node's update"
        )
    [task] = tasks
    return name, model, task


def response_bytes(reply: Message, stage: str) -> bytes:
    """Return the bytes of a client's answer to one stage.

    Raises:
        ProtocolError: The answer is an error, for which Flower or the client's mod says why.
        MalformedMessageError: It is not an answer to that stage.
    """
    if reply.has_error():
        raise ProtocolError(f"error {reply.error.code}: {readable(reply.error.reason)}", "")
    record = ours(reply.content)
    if record is None or value(record, "stage", str) != stage:
        raise MalformedMessageError(
            "the answer has no secfed record of this stage: the client app needs ClientApp(mods=[SecureMod()])", 0
        )
    return payload_bytes(reply.content.array_records.get(PAYLOAD))


def readable(reason: object) -> str:
    """Return another party's text on one line, and cut: it goes into logs."""
    return " ".join(str(reason)[:MOST_CHARACTERS].split())


@dataclass(frozen=True)
class TrainRequest:
    """What comes with the training message.

    Attributes:
        client_id: The client's id in the session.
        config: The session's parameters, `secagg.Config.to_bytes()`.
        transform: How the update becomes a vector, `Transform.to_bytes()`.
        weight: Name of the metric that is the client's weight.
        metrics: The metrics that are averaged with the update, each with the largest absolute value that it can have.
    """

    client_id: int
    config: bytes
    transform: bytes
    weight: str
    metrics: dict[str, float]

    def to_record(self, stage: str, session: bytes) -> ConfigRecord:
        """Return the record of the training message."""
        return ConfigRecord(
            {
                "stage": stage,
                "session": session,
                "client-id": self.client_id,
                "config": self.config,
                "transform": self.transform,
                "weight": self.weight,
                "metrics": list(self.metrics),
                "metric-bounds": list(self.metrics.values()),
            }
        )

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Self:
        """Read the record of a training message.

        Raises:
            MalformedMessageError: An entry is missing or has another type.
        """
        names: list[Any] = value(record, "metrics", list)
        bounds: list[Any] = value(record, "metric-bounds", list)
        if not all(type(name) is str for name in names) or not len(set(names)) == len(names) == len(bounds):
            raise MalformedMessageError(f"{RECORD}.metrics must be different strings, each with a bound", 0)
        if not all(type(bound) is float and 0 < bound < math.inf for bound in bounds):
            raise MalformedMessageError(f"{RECORD}.metric-bounds must be positive finite numbers", 0)
        return cls(
            value(record, "client-id", int),
            value(record, "config", bytes),
            value(record, "transform", bytes),
            value(record, "weight", str),
            dict(zip(names, bounds, strict=True)),
        )


def numpy_arrays(record: ArrayRecord) -> Arrays:
    """Return the arrays of a model by name."""
    return {name: array.numpy() for name, array in record.items()}


def is_summed(array: npt.NDArray[Any]) -> bool:
    """Tell whether an array is averaged; others, such as a counter of batches, stay as they are."""
    return array.dtype.kind == "f"


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of an update's array: float32, or float64 for a float64 model; float16 would lose digits."""
    return np.dtype(np.float64 if dtype.itemsize > 4 else np.float32)


def example_of(model: Arrays, metrics: int) -> Update:
    """Return what an update of this model looks like.

    Args:
        model: Arrays by name.
        metrics: How many metrics are averaged with it; they become one more array.
    """
    # Zeros take no memory until they are written.
    arrays = {name: np.zeros(array.shape, wide(array.dtype)) for name, array in model.items() if is_summed(array)}
    dtypes = {array.dtype for array in arrays.values()} or {np.dtype(np.float32)}
    return {"arrays": arrays} | ({"metrics": np.zeros(metrics, max(dtypes))} if metrics else {})


def update_of(old: Arrays, new: Arrays, values: list[float]) -> Update:
    """Return the change from one model to another of the same names and shapes, with metrics."""
    like = example_of(old, len(values))
    for name, array in like["arrays"].items():
        np.subtract(new[name], old[name], out=array, dtype=array.dtype, casting="same_kind")
    if values:
        like["metrics"][:] = values
    return like


def stepped(model: Arrays, update: Update) -> ArrayRecord:
    """Return the model after the mean update; arrays that are not summed stay as they are."""
    changes = update["arrays"]
    return ArrayRecord(
        {
            name: Array(np.asarray(array + changes[name], array.dtype) if name in changes else array)
            for name, array in model.items()
        }
    )
