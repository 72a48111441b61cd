"""Which of Flower's nodes is which client of the roster, and which holds the key; each proves it by a signature."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.signing import verify
from secfed.errors import ConfigError, SecFedError
from secfed.integrations.flower.exchange import exchange
from secfed.integrations.flower.identities import CLIENT_ID, enrollment
from secfed.integrations.flower.records import ENROLL, ours, readable, stage_message, value

LOGGER = logging.getLogger("flwr")
NODE_CONFIG: Final = """each SuperNode started with --node-config 'client-id=3 identity="..." roster="..."'"""


class Enrollment:
    """Which node is which client or key holder, as the nodes said and proved it to the server.

    Args:
        roster: Public identity keys by client id; None: clients have no identity.
        key_holders: Public identity keys by key holder's number; None: the first node that claims a number gets it.

    Attributes:
        client_of: Client ids by node id.
        holders: Node ids of the key holders, by number.
    """

    def __init__(self, roster: Mapping[int, bytes] | None, key_holders: Mapping[int, bytes] | None) -> None:
        self._roster, self._key_holders = roster, key_holders
        self._asked: set[int] = set()  # nodes that answered
        self.client_of: dict[int, int] = {}
        self.holders: dict[int, int] = {}

    def ask(self, grid: Grid, nodes: list[int], message_type: str, server_round: int, seconds: float) -> None:
        """Ask nodes that were not asked before who they are; a node that cannot prove it is logged and left out.

        Args:
            grid: Where messages go.
            nodes: Flower's node ids.
            message_type: Of the training messages.
            server_round: The round's number.
            seconds: How long nodes may take to answer.
        """
        nonce = SystemEntropy().draw("nonce", 32)
        contents = {node: stage_message(ENROLL, nonce) for node in nodes if node not in self._asked}
        for node, reply in exchange(grid, contents, message_type, str(server_round), seconds):
            try:
                self._enroll(node, reply, nonce)
            except SecFedError as error:
                LOGGER.warning("secfed: node %d does not enroll: %s", node, error)

    def _enroll(self, node: int, reply: Message, nonce: bytes) -> None:
        """Take one node's answer.

        Raises:
            ConfigError: The node does not prove what it says, or is not in the roster.
            MalformedMessageError: Something is missing in its answer.
        """
        if reply.has_error():
            raise ConfigError(f"error {reply.error.code}: {readable(reply.error.reason)}")
        record = ours(reply.content) or ConfigRecord()
        client_id, holder = value(record, "client-id", int), value(record, "key-holder", int)
        signature = value(record, "signature", bytes)
        signed = enrollment(nonce, node, client_id, holder)
        if self._roster is not None:
            self._client(node, client_id, self._roster, signature, signed)
        if holder:
            self._holder(node, holder, signature, signed)
        self._asked.add(node)

    def _client(self, node: int, client_id: int, roster: Mapping[int, bytes], signature: bytes, signed: bytes) -> None:
        if client_id == 0:
            raise ConfigError(f"its configuration has no {CLIENT_ID}, needed {NODE_CONFIG}")
        if client_id not in roster:
            raise ConfigError(f"client id {client_id} is not in the roster")
        if not verify(roster[client_id], signature, signed):
            raise ConfigError(f"it does not hold the identity key of client {client_id}")
        # A key holder may come back as another node of Flower's.
        self.client_of = {other: one for other, one in self.client_of.items() if one != client_id} | {node: client_id}

    def _holder(self, node: int, holder: int, signature: bytes, signed: bytes) -> None:
        if self._key_holders is not None:
            if holder not in self._key_holders or not verify(self._key_holders[holder], signature, signed):
                raise ConfigError(f"it does not hold the identity key of key holder {holder}")
        elif self.holders.get(holder, node) != node:
            LOGGER.warning(
                "secfed: nodes %d and %d both say that they are key holder %d: give SecureStrategy "
                "key_holders=, one of them may lie",
                self.holders[holder],
                node,
                holder,
            )
            return
        self.holders[holder] = node
