"""Parties to bytes and back, between two messages: a crash costs nothing, and nobody answers twice.

A party's state comes as the dictionary of its attributes, and goes back as one to be laid over a new party.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from secfed.crypto.agreement import KeyPair, is_sound
from secfed.crypto.shamir import SHARE_BYTES, shares_from_bytes
from secfed.crypto.signing import SIGNATURE_BYTES
from secfed.errors import FaultyClientError, MalformedMessageError, SecFedError
from secfed.secagg import messages
from secfed.secagg.config import HASH_BYTES, Config, Policy
from secfed.secagg.graph import Graph
from secfed.secagg.opening import owners_held
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
    with _named_errors():
        return _resume_server(SavedServer.from_bytes(_whole(data)))


def _resume_server(saved: SavedServer) -> tuple[Config, State, bytes]:
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
    _check_server(config, state)
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
    with _named_errors():
        return _resume_client(SavedClient.from_bytes(_whole(data)))


def _resume_client(saved: SavedClient) -> tuple[Config, State]:
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
    _check_client(config, state)
    return config, state


@contextmanager
def _named_errors() -> Iterator[None]:
    """Turn what bytes with a right digest and wrong contents cause into the error that says so."""
    try:
        yield
    except SecFedError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError):
        raise MalformedMessageError("these bytes are no saved party: their contents do not fit together", 0) from None


def _demand(fact: bool) -> None:
    if not fact:
        raise ValueError


def _check_client(config: Config, state: State) -> None:
    """Check that a client has what its stage needs, in the right sizes and from the right clients."""
    stage, graph = state["stage"], state.get("_graph")
    if stage >= Stage.DONE:
        return
    me = config.number(state["client_id"])
    began, keyed = stage > Stage.ADVERTISE_KEYS, stage > Stage.SHARE_KEYS
    masked = stage > Stage.MASKED_INPUT_COLLECTION
    signed = SIGNATURE_BYTES if config.malicious_server and began else 0
    for name, size in (
        ("_nonce", 32 * began),
        ("_signature", signed),
        ("_share_seed", 32 * (began and not keyed)),
        ("_session_id", HASH_BYTES * keyed),
        ("_self_seed", 32 * (keyed and not masked)),
    ):
        _demand(len(state[name]) == size)
    _demand((state["_channel"] is not None) == (began and not keyed))
    _demand((state["_mask"] is not None) == (began and not masked))
    vector = state["_vector"]
    _demand((vector is not None) == (not masked))
    _demand(vector is None or (vector.shape == (config.length,) and not int(vector.max()) >> config.modulus_bits))
    for name, there in (("_advertised", keyed), ("_shared", masked), ("_survivors", stage > Stage.CONSISTENCY_CHECK)):
        needed = there and (name != "_survivors" or config.malicious_server)
        _demand(len(state[name]) == len(config.client_ids) * needed)
        _demand(not needed or bool(state[name][me]))
    holders = set(graph.holders(me).tolist()) if graph else set()
    neighbors = set(graph.neighbors(me).tolist()) if graph else set()
    waiting = neighbors if keyed and not masked else set()
    _demand(state["_opening_keys"].keys() == state["_mask_keys"].keys() == waiting)
    _demand(all(len(key) == 16 for key in state["_opening_keys"].values()))
    _demand(all(is_sound(key) for key in state["_mask_keys"].values()))
    _demand(state["_shares"].keys() <= holders)
    _demand(all(len(pair) == 2 * SHARE_BYTES for pair in state["_shares"].values()))
    if keyed and not masked:
        _demand(state["_shares"].keys() == holders - neighbors)


def _check_server(config: Config, state: State) -> None:
    """Check that a server has what its stage needs, in the right sizes and from the right clients."""
    stage, clients = state["stage"], len(config.client_ids)
    keyed, collecting = stage > Stage.ADVERTISE_KEYS, stage > Stage.SHARE_KEYS
    _demand(len(state["_nonce"]) == 32 and len(state["_session_id"]) in (0, HASH_BYTES))
    signed = SIGNATURE_BYTES if config.malicious_server else 0
    for channel_key, mask_key, signature in state["_keys"].values():
        _demand(is_sound(channel_key) and is_sound(mask_key) and len(signature) == signed)
    total = state["_sum"]
    _demand(total is None or total.shape == (config.length,))
    for name in ("_keys", *_SERVER_MAPS):
        _demand(all(number < clients for number in state[name]))
    for name, size in (("_commitments", HASH_BYTES), ("_unopened", -(-clients // 8)), ("_signatures", SIGNATURE_BYTES)):
        _demand(all(len(value) == size for value in state[name].values()))
    for data in state["_unopened"].values():
        messages.set_from_bytes(data, clients)
    _demand((total is not None) == (stage is Stage.DONE))
    if stage is Stage.ABORTED:
        return
    _demand(bool(state["_session_id"]) == keyed)

    def numbers(name: str) -> set[int]:
        return set(np.flatnonzero(state[name]).tolist())

    now = numbers("_answered")
    _demand(state["_keys"].keys() == (numbers("_advertised") if keyed else now))
    _demand(numbers("_survivors") <= numbers("_shared") <= numbers("_advertised"))
    if stage is Stage.SHARE_KEYS:
        _demand(state["_sealed"].keys() == state["_commitments"].keys() == now)
    if collecting:
        _demand(numbers("_shared") <= state["_commitments"].keys())
    graph: Any = state.get("_graph")
    for number, data in state["_sealed"].items():
        _demand(len(data) == messages.SEALED_BYTES * len(graph.neighbors(number)))
    if stage > Stage.MASKED_INPUT_COLLECTION:
        _demand(bool(numbers("_survivors")))
    if stage is Stage.UNMASKING:
        _demand(state["_shares"].keys() == now)
    for number, data in state["_shares"].items():
        unopened = state["_unopened"].get(number)
        owners = owners_held(
            graph, state["_shared"], number, None if unopened is None else messages.set_from_bytes(unopened, clients)
        )
        _demand(len(data) == SHARE_BYTES * len(owners) and shares_from_bytes(data) is not None)


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
