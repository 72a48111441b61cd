"""Parties to bytes and back, between two messages: a crash costs nothing, and nobody answers twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import numpy as np

from secfed.crypto.agreement import KeyPair
from secfed.crypto.signing import SigningKey
from secfed.errors import FaultyClientError, MalformedMessageError, StageError
from secfed.secagg import messages
from secfed.secagg.config import Config, Policy
from secfed.secagg.graph import Graph
from secfed.secagg.stages import Stage
from secfed.wire import Message

if TYPE_CHECKING:
    from secfed.secagg.client import Client
    from secfed.secagg.server import Server

    _C = TypeVar("_C", bound=Client)
    _S = TypeVar("_S", bound=Server)

_SERVER_SETS = ("_answered", "_awaited", "_advertised", "_shared", "_survivors", "_signers")
_SERVER_MAPS = ("_commitments", "_sealed", "_signatures", "_shares")
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
    stage: Annotated[bytes, 1]
    vector: bytes
    nonce: bytes
    signature: bytes
    session_id: bytes
    channel: bytes
    mask: bytes
    self_seed: bytes
    sets: bytes
    maps: bytes


def save_server(server: "Server") -> bytes:
    """Encode a server; see `Server.to_bytes`."""
    if server.stage is None:
        raise StageError("the session is not open: there is nothing to save")
    state: dict[str, Any] = vars(server)
    maps = [_map_to_bytes(state[name]) for name in _SERVER_MAPS]
    accumulator, total = state["_accumulator"], state["_sum"]
    return SavedServer(
        config=server.config.to_bytes(),
        stage=bytes((server.stage,)),
        nonce=state["_nonce"],
        session_id=state["_session_id"],
        sets=b"".join(messages.set_to_bytes(state[name]) for name in _SERVER_SETS),
        keys=_map_to_bytes({number: b"".join(keys) for number, keys in state["_keys"].items()}),
        maps=_map_to_bytes(dict(enumerate(maps))),
        accumulator=b"" if accumulator is None or server.done else accumulator.to_bytes(),
        sum=b"" if total is None else total.tobytes(),
        faults=_map_to_bytes({i: _fault_to_bytes(fault) for i, fault in enumerate(server.faults)}),
        aborts=_map_to_bytes({client_id: reason.encode() for client_id, reason in server.aborts.items()}),
    ).to_bytes()


def resume_server(cls: "type[_S]", data: bytes, *, directory: Mapping[int, bytes] | None, threads: int | None) -> "_S":
    """Decode a server; see `Server.from_bytes`."""
    saved = SavedServer.from_bytes(data)
    config = Config.from_bytes(saved.config)
    server = cls(config, directory=directory, threads=threads)
    state: dict[str, Any] = vars(server)
    server.stage = Stage(saved.stage[0])
    state["_nonce"], state["_session_id"] = saved.nonce, saved.session_id
    _restore_sets(state, _SERVER_SETS, saved.sets, len(config.client_ids))
    for name, part in zip(_SERVER_MAPS, _map_from_bytes(saved.maps).values(), strict=True):
        state[name] = _map_from_bytes(part)
    keys = _map_from_bytes(saved.keys)
    state["_keys"] = {number: (entry[:32], entry[32:64], entry[64:]) for number, entry in keys.items()}
    state["_known_keys"] = {key for entry in keys.values() for key in (entry[:32], entry[32:64])}
    if saved.session_id:
        state["_graph"] = Graph(config, state["_advertised"], saved.session_id)
    if saved.accumulator:
        state["_accumulator"] = server._masking().accumulator(saved.accumulator)
    if saved.sum:
        state["_sum"] = np.frombuffer(saved.sum, config.dtype).copy()
    server.faults = [_fault_from_bytes(entry) for entry in _map_from_bytes(saved.faults).values()]
    server.aborts = {client_id: reason.decode() for client_id, reason in _map_from_bytes(saved.aborts).items()}
    return server


def save_client(client: "Client") -> bytes:
    """Encode a client; see `Client.to_bytes`."""
    state: dict[str, Any] = vars(client)
    vector, channel, mask = state["_vector"], state["_channel"], state["_mask"]
    maps = [_map_to_bytes(state[name]) for name in _CLIENT_MAPS]
    return SavedClient(
        config=state["_config"].to_bytes(),
        client_id=client.client_id.to_bytes(4, "little"),
        stage=bytes((client.stage,)),
        vector=b"" if vector is None else vector.tobytes(),
        nonce=state["_nonce"],
        signature=state["_signature"],
        session_id=state["_session_id"],
        channel=channel.private_bytes() if channel else b"",
        mask=mask.private_bytes() if mask else b"",
        self_seed=state["_self_seed"],
        sets=_map_to_bytes({i: messages.set_to_bytes(state[name]) for i, name in enumerate(_CLIENT_SETS)}),
        maps=_map_to_bytes(dict(enumerate(maps))),
    ).to_bytes()


def resume_client(
    cls: "type[_C]",
    data: bytes,
    *,
    signing_key: SigningKey | None,
    directory: Mapping[int, bytes] | None,
    policy: Policy | None,
    threads: int | None,
) -> "_C":
    """Decode a client; see `Client.from_bytes`."""
    saved = SavedClient.from_bytes(data)
    config = Config.from_bytes(saved.config)
    stage = Stage(saved.stage[0])
    if stage in (Stage.DONE, Stage.ABORTED):
        raise StageError(
            "this client has released its shares or left the session; resuming it could open somebody's vector"
        )
    # Once the masked input is sent the vector is gone, and a client needs one to be built.
    vector = np.frombuffer(saved.vector, config.dtype) if saved.vector else np.zeros(config.length, config.dtype)
    client = cls(
        config,
        int.from_bytes(saved.client_id, "little"),
        vector,
        policy=policy,
        signing_key=signing_key,
        directory=directory,
        threads=threads,
    )
    state: dict[str, Any] = vars(client)
    client.stage = stage
    state["_vector"] = vector.copy() if saved.vector else None
    state["_nonce"], state["_signature"], state["_session_id"] = saved.nonce, saved.signature, saved.session_id
    state["_self_seed"] = saved.self_seed
    state["_channel"] = KeyPair(saved.channel) if saved.channel else None
    state["_mask"] = KeyPair(saved.mask) if saved.mask else None
    clients = len(config.client_ids)
    for name, part in zip(_CLIENT_SETS, _map_from_bytes(saved.sets).values(), strict=True):
        state[name] = messages.set_from_bytes(part, clients) if part else np.zeros(0, np.bool_)
    for name, part in zip(_CLIENT_MAPS, _map_from_bytes(saved.maps).values(), strict=True):
        state[name] = _map_from_bytes(part)
    if saved.session_id:
        state["_graph"] = Graph(config, state["_advertised"], saved.session_id)
    return client


def _restore_sets(state: dict[str, Any], names: tuple[str, ...], data: bytes, clients: int) -> None:
    for name, part in zip(names, messages.column(data, -(-clients // 8), len(names), "sets"), strict=True):
        state[name] = messages.set_from_bytes(part, clients).copy()


def _map_to_bytes(entries: Mapping[int, bytes]) -> bytes:
    parts = []
    for key, value in entries.items():
        parts += [key.to_bytes(4, "little"), len(value).to_bytes(4, "little"), value]
    return b"".join(parts)


def _map_from_bytes(data: bytes) -> dict[int, bytes]:
    entries, offset = {}, 0
    while offset < len(data):
        size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        value = data[offset + 8 : offset + 8 + size]
        if len(value) < size or offset + 8 > len(data):
            raise MalformedMessageError("a saved party ends too early", offset)
        entries[int.from_bytes(data[offset : offset + 4], "little")] = value
        offset += 8 + size
    return entries


def _fault_to_bytes(fault: FaultyClientError) -> bytes:
    return fault.client_id.to_bytes(8, "little") + fault.check.encode() + b"\0" + str(fault.args[0]).encode()


def _fault_from_bytes(data: bytes) -> FaultyClientError:
    check, text = data[8:].split(b"\0", 1)
    return FaultyClientError(text.decode(), int.from_bytes(data[:8], "little"), check.decode())
