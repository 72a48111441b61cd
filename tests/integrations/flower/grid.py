"""A grid without processes: nodes are client apps in this process, and answer when they are pulled.

Flower's engines start processes, which takes seconds; what the mod and the strategy do with messages is tested here,
and that Flower's engines carry them in `test_engines.py`.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

Change = Callable[[int, RecordDict], RecordDict]
# A folder for the nodes of each grid. (A TemporaryDirectory that is not closed warns, and many grids are made.)
FOLDERS = tempfile.mkdtemp()
atexit.register(shutil.rmtree, FOLDERS)
CRASHED = 2  # Flower's code for a client app that raised


class Node:
    """One client app, with the state that Flower keeps for it between messages."""

    def __init__(self, app: Any, node_id: int, node_config: dict[str, Any]) -> None:
        self.app = app
        self.context = Context(1, node_id, node_config, RecordDict(), {})

    def files(self) -> set[str]:
        """What lies in this node's folder, by kind: `session`, `round`."""
        folder = Path(self.context.node_config["state-folder"])
        found = folder.glob(f"secfed-*/{self.context.run_id}-{self.context.node_id}/*")
        return {path.name.partition("-")[0] for path in found}

    def answer(self, message: Message) -> Message:
        try:
            return self.app(message, self.context)
        except Exception as error:  # as Flower does
            return Message(Error(CRASHED, repr(error)), reply_to=message)


class InProcessGrid(Grid):
    """Answers a message when its reply is pulled.

    Attributes:
        nodes: The nodes by Flower's id.
        sent: All messages that were pushed.
        replies: All replies, in order.
        silent: Called with a node id and a message: whether the node does not answer it.
        to_node: Called with a node id and the content of a message: what the node gets instead.
        to_server: Called with a node id and the content of an answer: what the server gets instead.
    """

    def __init__(self, apps: dict[int, Any], node_config: Callable[[int], dict[str, Any]] = lambda node: {}) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        folder = tempfile.mkdtemp(dir=FOLDERS)
        self.nodes = {
            node: Node(app, node, {"state-folder": folder, **node_config(node)}) for node, app in apps.items()
        }
        self.sent: list[Message] = []
        self.replies: list[Message] = []
        self.silent: Callable[[int, Message], bool] = lambda node, message: False
        self.to_node: Change = lambda node, content: content
        self.to_server: Change = lambda node, content: content
        self._waiting: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = name = uuid4().hex
            self.sent.append(message)
            self._waiting[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for name in message_ids:
            message = self._waiting.get(name)
            if message is None or self.silent(message.metadata.dst_node_id, message):
                continue
            del self._waiting[name]
            reply = self.deliver(message)
            found.append(reply)
        return found

    def deliver(self, message: Message) -> Message:
        """Let a node answer a message, whether it is the first time or not."""
        node = message.metadata.dst_node_id
        # Copies, as over a network: a mod may change what it was given.
        content = self.to_node(node, RecordDict(dict(message.content.items())))
        reply = self.nodes[node].answer(Message(content, metadata=message.metadata))
        self.replies.append(reply)
        if reply.has_error():
            return reply
        return Message(self.to_server(node, RecordDict(dict(reply.content.items()))), metadata=reply.metadata)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(list(self.push_messages(messages)))
