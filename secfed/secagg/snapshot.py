"""Parties to bytes and back, between two messages: a crash costs nothing, and nobody answers twice.

A party's state comes as the dictionary of its attributes, and goes back as one to be laid over a new party.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from secfed.crypto.agreement import KeyPair
from secfed.errors import FaultyClientError, MalformedMessageError
from secfed.secagg import messages
from secfed.secagg.config import HASH_BYTES, Config, Policy
from secfed.secagg.graph import Graph
from secfed.secagg.stages import Stage
from secfed.wire import Message

State = dict[str, Any]

_SERVER_SETS = ("_answered", "_awaited", "_advertised", "_shared", "_survivors")
_SERVER_MAPS = ("_commitments", "_sealed", "_unopened", "_signatures", "_shares")
_CLIENT_SETS = ("_advertised", "_shared", "_survivors")
_CLIENT_MAPS = ("_opening_keys", "_mask_keys", "_shares")


@dataclass(frozen=True, slots=True)
class SavedServer(Message):
    """A server between two messages."""

    kind: ClassVar[int] = 101
    config: bytes
    stage: Annotated[bytes, 1]
    nonce: bytes
    session_id: bytes
    sets: bytes
    keys: bytes  # by number: channel key, mask key, signature
    maps: bytes
    accumulator: bytes  # empty before MaskedInputCollection
    sum: bytes  # empty before DONE
    faults: bytes
    aborts: bytes


@dataclass(frozen=True, slots=True)
class SavedClient(Message):
    """A client between two messages, secrets included."""

    kind: ClassVar[int] = 102
    config: bytes
    client_id: Annotated[bytes, 4]
    policy: bytes
    stage: Annotated[bytes, 1]
    vector: bytes
    nonce: bytes
    signature: bytes
    session_id: bytes
    channel: bytes
    mask: bytes
    share_seed: bytes
    self_seed: bytes
    sets: bytes
    maps: bytes


def save_server(config: Config, state: Mapping[str, Any]) -> bytes:
    """Encode a server's attributes; see `Server.to_bytes`."""
    maps = [_map_to_bytes(state[name]) for name in _SERVER_MAPS]
    accumulator, total = state["_accumulator"], state["_sum"]
    saved = SavedServer(
        config=config.to_bytes(),
        stage=bytes((state["stage"],)),
        nonce=state["_nonce"],
        session_id=state["_session_id"],
        sets=b"".join(messages.set_to_bytes(state[name]) for name in _SERVER_SETS),
        keys=_map_to_bytes({number: b"".join(keys) for number, keys in state["_keys"].items()}),
        maps=_map_to_bytes(dict(enumerate(maps))),
        accumulator=b"" if accumulator is None or total is not None else accumulator.to_bytes(),
        sum=b"" if total is None else total.tobytes(),
        faults=_map_to_bytes({i: _fault_to_bytes(fault) for i, fault in enumerate(state["faults"])}),
        aborts=_map_to_bytes({client_id: reason.encode() for client_id, reason in state["aborts"].items()}),
    )
    return _sealed_off(saved)


def resume_server(data: bytes) -> tuple[Config, State, bytes]:
    """Decode a server to its configuration, attributes and saved accumulator (empty if none); see `Server.from_bytes`.

    Raises:
        MalformedMessageError: These bytes are no saved server.
    """
    saved = SavedServer.from_bytes(_whole(data))
    config = Config.from_bytes(saved.config)
    keys = _map_from_bytes(saved.keys)
    state: State = {
        "stage": Stage(saved.stage[0]),
        "_nonce": saved.nonce,
        "_session_id": saved.session_id,
        "_keys": {number: (entry[:32], entry[32:64], entry[64:]) for number, entry in keys.items()},
        "_known_keys": {key for entry in keys.values() for key in (entry[:32], entry[32:64])},
        "_sum": np.frombuffer(saved.sum, config.dtype).copy() if saved.sum else None,
        "faults": [_fault_from_bytes(entry) for entry in _map_from_bytes(saved.faults).values()],
        "aborts": {number: reason.decode() for number, reason in _map_from_bytes(saved.aborts).items()},
    }
    clients = len(config.client_ids)
    sets = messages.column(saved.sets, -(-clients // 8), len(_SERVER_SETS), "sets")
    state |= {name: messages.set_from_bytes(part, clients) for name, part in zip(_SERVER_SETS, sets, strict=True)}
    state |= {name: _map_from_bytes(part) for name, part in _named(saved.maps, _SERVER_MAPS).items()}
    if saved.session_id:
        state["_graph"] = Graph(config, state["_advertised"], saved.session_id)
    return config, state, saved.accumulator


def save_client(config: Config, state: Mapping[str, Any]) -> bytes:
    """Encode a client's attributes; see `Client.to_bytes`."""
    vector, channel, mask = state["_vector"], state["_channel"], state["_mask"]
    maps = [_map_to_bytes(state[name]) for name in _CLIENT_MAPS]
    saved = SavedClient(
        config=config.to_bytes(),
        client_id=state["client_id"].to_bytes(4, "little"),
        policy=json.dumps(asdict(state["_policy"])).encode(),
        stage=bytes((state["stage"],)),
        vector=b"" if vector is None else vector.tobytes(),
        nonce=state["_nonce"],
        signature=state["_signature"],
        session_id=state["_session_id"],
        channel=channel.private_bytes() if channel else b"",
        mask=mask.private_bytes() if mask else b"",
        share_seed=state["_share_seed"],
        self_seed=state["_self_seed"],
        sets=_map_to_bytes({i: messages.set_to_bytes(state[name]) for i, name in enumerate(_CLIENT_SETS)}),
        maps=_map_to_bytes(dict(enumerate(maps))),
    )
    return _sealed_off(saved)


def resume_client(data: bytes) -> tuple[Config, State]:
    """Decode a client to its configuration and attributes; see `Client.from_bytes`.

    Raises:
        MalformedMessageError: These bytes are no saved client.
    """
    saved = SavedClient.from_bytes(_whole(data))
    config = Config.from_bytes(saved.config)
    state: State = {
        "client_id": int.from_bytes(saved.client_id, "little"),
        "_policy": Policy(**json.loads(saved.policy)),
        "stage": Stage(saved.stage[0]),
        "_vector": np.frombuffer(saved.vector, config.dtype).copy() if saved.vector else None,
        "_nonce": saved.nonce,
        "_signature": saved.signature,
        "_session_id": saved.session_id,
        "_channel": KeyPair(saved.channel) if saved.channel else None,
        "_mask": KeyPair(saved.mask) if saved.mask else None,
        "_share_seed": saved.share_seed,
        "_self_seed": saved.self_seed,
    }
    clients = len(config.client_ids)
    for name, part in _named(saved.sets, _CLIENT_SETS).items():
        state[name] = messages.set_from_bytes(part, clients) if part else np.zeros(0, np.bool_)
    state |= {name: _map_from_bytes(part) for name, part in _named(saved.maps, _CLIENT_MAPS).items()}
    if saved.session_id and state["stage"] < Stage.DONE:
        state["_graph"] = Graph(config, state["_advertised"], saved.session_id)
    return config, state


def _sealed_off(saved: Message) -> bytes:
    data = saved.to_bytes()
    return data + hashlib.sha256(data).digest()


def _whole(data: bytes) -> bytes:
    """Take off the digest: it guards against damage, not against malice (who may write here may read the secrets)."""
    body, digest = data[:-HASH_BYTES], data[-HASH_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise MalformedMessageError(f"these {len(data)} bytes are no saved party, or a damaged one", len(body))
    return body


def _named(data: bytes, names: tuple[str, ...]) -> dict[str, bytes]:
    """Decode a map whose keys are the places in a list of names."""
    return dict(zip(names, _map_from_bytes(data).values(), strict=True))


def _map_to_bytes(entries: Mapping[int, bytes]) -> bytes:
    parts = []
    for key, value in entries.items():
        parts += [key.to_bytes(4, "little"), len(value).to_bytes(4, "little"), value]
    return b"".join(parts)


def _map_from_bytes(data: bytes) -> dict[int, bytes]:
    entries, offset = {}, 0
    while offset < len(data):
        size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        entries[int.from_bytes(data[offset : offset + 4], "little")] = data[offset + 8 : offset + 8 + size]
        offset += 8 + size
    return entries


def _fault_to_bytes(fault: FaultyClientError) -> bytes:
    return f"{fault.client_id}\0{fault.check}\0{fault.args[0]}".encode()


def _fault_from_bytes(data: bytes) -> FaultyClientError:
    client_id, check, text = data.decode().split("\0", 2)
    return FaultyClientError(text, int(client_id), check)
