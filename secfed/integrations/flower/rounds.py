"""One training round on the server: the report of it, and the stages of its session over Flower's grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from secfed.aggregation import Decoded, Prepared
from secfed.dp.events import Event
from secfed.errors import SecFedError, TooFewSurvivorsError
from secfed.integrations.flower.exchange import exchange
from secfed.integrations.flower.records import (
    ABORT,
    PAYLOAD,
    RECORD,
    SURPLUS_NOISE,
    Arrays,
    TrainRequest,
    payload,
    response_bytes,
    stage_message,
)
from secfed.paillier import Config as PaillierConfig
from secfed.paillier import Server as PaillierServer
from secfed.paillier import Stage as PaillierStage
from secfed.secagg import Config, Server, Stage

LOGGER = logging.getLogger("flwr")


@dataclass
class RoundReport:
    """What one training round did.

    Attributes:
        round: The round's number.
        nodes: Flower's ids of the nodes that were asked to train.
        survivors: Ids of those whose update is in the mean; empty if the round failed.
        dropouts: Why each other node is not in it, by id.
        failure: Why there is no mean ("" if there is one). The model is then unchanged.
        event: What was released, None without privacy or if the round failed.
        bytes_up: Protocol bytes that each node sent, by id.
        bytes_down: Protocol bytes that each node received, by id, without the model.
        seconds: Wall time of each stage after the training.
    """

    round: int
    nodes: tuple[int, ...]
    survivors: tuple[int, ...] = ()
    dropouts: dict[int, str] = field(default_factory=dict)
    failure: str = ""
    event: Event | None = field(default=None, repr=False)
    bytes_up: dict[int, int] = field(default_factory=dict, repr=False)
    bytes_down: dict[int, int] = field(default_factory=dict, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)


class Round:
    """One round, from the inner strategy's messages to the mean.

    Args:
        grid: Where messages go.
        node_of: Flower's node ids by client id.
        message_type: Of the training messages, such as `"train"`: the stages go to the same function of the app.
        arrays_name: Name of the model's record.
        model: The model's arrays.
        prepared: The aggregation.
        server: The server's half of the session, not opened yet.
        holders: Node ids of the key holders by number, under Paillier encryption.
        report: The round's report, which is filled in.
        seconds: How long nodes may take to answer a stage.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        node_of: dict[int, int],
        holders: dict[int, int],
        message_type: str,
        arrays_name: str,
        model: Arrays,
        prepared: Prepared,
        server: Server | PaillierServer,
        report: RoundReport,
        seconds: float,
    ) -> None:
        self.arrays_name, self.model, self.message_type = arrays_name, model, message_type
        self.prepared, self.server, self.report = prepared, server, report
        self._grid, self._node_of, self._seconds = grid, node_of, seconds
        self._holders = holders
        self._answered = set[int]()  # client ids, in the stage that is open
        self.asked_to_open = False
        self._client_of = {node: client_id for client_id, node in node_of.items()}

    @property
    def config(self) -> Config | PaillierConfig:
        """The session's parameters."""
        return self.server.config

    @property
    def opening(self) -> str:
        """The stage that the training messages open."""
        secure = isinstance(self.server, Server)
        return Stage.ADVERTISE_KEYS.name if secure else PaillierStage.ENCRYPTED_INPUT_COLLECTION.name

    def training_messages(self, messages: list[Message], weight: str, metrics: dict[str, float]) -> Iterator[Message]:
        """Open the session, and yield the inner strategy's messages with the session's parameters and first requests.

        Args:
            messages: The inner strategy's, one for each node.
            weight: Name of the metric that is the weight.
            metrics: The metrics that are averaged with the update, each with its bound.
        """
        requests, session, stage = self.server.open(), self.config.hash, self.opening
        config, transform = self.config.to_bytes(), self.prepared.transform.to_bytes()
        for message in messages:
            node = message.metadata.dst_node_id
            if (client_id := self._client_of.get(node)) is None:
                continue
            # A new content for each node: strategies share one among all messages.
            content = RecordDict(dict(message.content.items()))
            request = TrainRequest(client_id, config, transform, weight, metrics)
            content[RECORD] = request.to_record(stage, session)
            content[PAYLOAD] = payload(requests[client_id])
            self.report.bytes_down[node] = len(requests[client_id]) + len(config) + len(transform)
            yield Message(content, node, self.message_type, group_id=message.metadata.group_id)

    def take(self, stage: str, node: int, reply: Message, receive: Callable[[int, bytes], Any] | None = None) -> None:
        """Take one node's answer; if it is wrong, the node drops out.

        Args:
            stage: The stage that it answers.
            node: The sender, according to Flower.
            reply: The answer, which may be an error.
            receive: What takes the bytes, by default the server.
        """
        holders = stage == PaillierStage.DECRYPTION.name
        parties, report = ({node: i for i, node in self._holders.items()} if holders else self._client_of), self.report
        if (party := parties.get(node)) is None:
            return
        try:
            data = response_bytes(reply, stage)
            report.bytes_up[node] = report.bytes_up.get(node, 0) + len(data)
            (receive or self.server.receive)(party, data)
            if not holders:
                self._answered.add(party)
        except SecFedError as error:
            report.dropouts.setdefault(node, f"{stage}: {error}")
            LOGGER.warning("secfed: node %d drops out in %s: %s", node, stage, error)

    def decoded(self) -> Decoded:
        """Run the stages that are left, and decode the sum.

        Raises:
            TooFewSurvivorsError: Too few nodes are left.
            FaultyClientError: A node ended the session.
            EncodingError: This is not a sum of encoded vectors.
        """
        server, report = self.server, self.report
        while True:
            try:
                requests = server.close_stage()
            except TooFewSurvivorsError:
                self._name_silent(self._answered)
                raise
            if server.done or server.stage is None:
                break
            left = requests if isinstance(server, Server) else server.survivors
            self._name_silent(left)
            self._ask(server.stage.name, requests)
        report.survivors = tuple(sorted(self._node_of[client_id] for client_id in server.survivors))
        for node in report.survivors:
            report.dropouts.pop(node, None)  # they fell silent only after their input was in the sum
        total, private = server.sum, self.prepared.private
        if private and (surplus := private.surplus_noise(server.survivors)):
            if surplus.request:
                self._ask(SURPLUS_NOISE, dict.fromkeys(server.survivors, surplus.request), surplus.receive)
            total = surplus.subtract(total)
        return self.prepared.transform.decode(total, server.survivors)

    def _name_silent(self, left: Iterable[int]) -> None:
        """Record a reason for each node that dropped out without one; `left` has the client ids of the others."""
        for client_id in set(self._node_of) - set(left):
            self.report.dropouts.setdefault(self._node_of[client_id], "no answer in time")

    def _ask(
        self, stage: str, requests: Mapping[int, bytes], receive: Callable[[int, bytes], Any] | None = None
    ) -> None:
        """Send one stage's requests, by client id or number of a key holder, and take the answers."""
        begin, contents = time.monotonic(), {}
        holders = stage == PaillierStage.DECRYPTION.name
        if not holders:
            self._answered.clear()
        self.asked_to_open |= holders or stage == Stage.UNMASKING.name
        for party, request in requests.items():
            if (node := (self._holders if holders else self._node_of).get(party)) is None:
                continue
            self.report.bytes_down[node] = self.report.bytes_down.get(node, 0) + len(request)
            contents[node] = stage_message(stage, self.config.hash, request)
            if holders:
                contents[node][RECORD]["config"] = self.config.to_bytes()
        group = str(self.report.round)
        for node, reply in exchange(self._grid, contents, self.message_type, group, self._seconds):
            self.take(stage, node, reply, receive)
        self.report.seconds[stage] = time.monotonic() - begin

    def abort(self) -> None:
        """Tell the nodes that are still in to forget their secrets, without waiting for an answer."""
        if not isinstance(self.server, Server):
            return  # under Paillier encryption clients hold nothing
        for client_id, request in self.server.abort("no mean").items():
            content = stage_message(ABORT, self.config.hash, request)
            node = self._node_of[client_id]
            list(self._grid.push_messages([Message(content, node, self.message_type, ttl=self._seconds)]))
