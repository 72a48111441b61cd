"""One stage's messages over Flower's grid: out to the nodes, and back until all have answered or time is up."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

POLL_SECONDS: Final = 0.2  # Flower's own `send_and_receive` asks every three seconds


def exchange(
    grid: Grid, contents: Mapping[int, RecordDict], message_type: str, group: str, seconds: float
) -> Iterator[tuple[int, Message]]:
    """Send a message to each node and yield the answers as they come.

    Args:
        grid: The server app's grid.
        contents: What each node is sent, by node id. A mapping that makes each content when it is asked for saves
            memory.
        message_type: As of Flower's messages, such as `"train"`.
        group: Flower's group of the messages.
        seconds: How long to wait for answers; later ones are never fetched.

    Yields:
        The node's id and its answer, which may be an error. A node whose message Flower does not take, or that does not
        answer in time, is left out.
    """
    node_of = {}
    for node, content in contents.items():
        # One message at a time: if Flower refuses some of several, its answer may not say which.
        [sent] = list(grid.push_messages([Message(content, node, message_type, ttl=seconds, group_id=group)])) or [None]
        if sent:
            node_of[sent] = node
    until = time.monotonic() + seconds
    while node_of:
        for reply in grid.pull_messages(list(node_of)):
            if (sent := reply.metadata.reply_to_message_id) in node_of:
                yield node_of.pop(sent), reply
        if time.monotonic() >= until:
            return
        if node_of:
            time.sleep(POLL_SECONDS)
