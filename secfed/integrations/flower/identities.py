"""Identity keys of Flower nodes, needed against a malicious server only: where they are, and what they sign."""

from __future__ import annotations

import json
from collections.abc import Mapping

from flwr.app import Context

from secfed.errors import ConfigError
from secfed.secagg import SigningKey
from secfed.secagg.identities import read_identity, read_roster

# The entries of a node's configuration: `flower-supernode --node-config 'client-id=3 identity="..." roster="..."'`.
CLIENT_ID, IDENTITY, ROSTER = "client-id", "identity", "roster"


def enrollment(nonce: bytes, node_id: int, client_id: int, key_holder: int) -> bytes:
    """Return what a node signs with its identity key to say who it is.

    Args:
        nonce: The server's, 32 bytes.
        node_id: Flower's id of the node, so that the signature cannot enroll another one.
        client_id: Its number in the roster.
        key_holder: Its number as a key holder, 0 if it is not one.
    """
    return b"secfed/flower/v1 enroll" + nonce + json.dumps([node_id, client_id, key_holder]).encode()


def own_client_id(context: Context) -> int:
    """Return this node's client id from its configuration.

    Raises:
        ConfigError: The node has no client id.
    """
    found = context.node_config.get(CLIENT_ID)
    if type(found) is not int:
        raise ConfigError(f"the node's configuration has {CLIENT_ID} {found!r}, needed its number in the roster")
    return found


def own_identity(context: Context) -> tuple[SigningKey, Mapping[int, bytes]]:
    """Return this node's identity key and the roster from its configuration.

    Raises:
        ConfigError: One is missing or cannot be read.
    """
    paths = []
    for name in (IDENTITY, ROSTER):
        path = context.node_config.get(name)
        if not isinstance(path, str):
            raise ConfigError(f"the node's configuration has {name} {path!r}, needed the path of a file")
        paths.append(path)
    return read_identity(paths[0]), read_roster(paths[1])
