"""Parties to bytes and back, between two messages: a crash costs nothing, and nobody answers twice.

What a party holds is saved field by field, as the types in `states.py` say. What is resumed must fit together.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from secfed.crypto.agreement import KeyPair, is_sound
from secfed.crypto.shamir import SHARE_BYTES, shares_from_bytes
from secfed.crypto.signing import SIGNATURE_BYTES
from secfed.errors import FaultyClientError, MalformedMessageError, SecFedError
from secfed.secagg import messages
from secfed.secagg.config import HASH_BYTES, Config, Policy
from secfed.secagg.graph import Graph, Set
from secfed.secagg.opening import owners_held
from secfed.secagg.stages import Stage
from secfed.secagg.states import Contribution, Held, Joined, Keys, Masked, Shared, Signed, held_in
from secfed.wire import Message

State = dict[str, Any]
Kind = TypeVar("Kind", bound=Held)

_SERVER_SETS = ("_answered", "_awaited", "_advertised", "_shared", "_survivors")
_SERVER_MAPS = ("_commitments", "_sealed", "_unopened", "_signatures", "_shares")
_LAYOUT = 2  # of saved parties; those of another layout are refused


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
    state: bytes  # empty after the end


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


def save_client(config: Config, client_id: int, policy: Policy, stage: Stage, state: Held | None) -> bytes:
    """Encode a client; see `Client.to_bytes`."""
    saved = SavedClient(
        config=config.to_bytes(),
        client_id=client_id.to_bytes(4, "little"),
        policy=json.dumps(asdict(policy)).encode(),
        stage=bytes((stage,)),
        state=_fields_to_bytes(state) if state else b"",
    )
    return _sealed_off(saved)


def resume_client(data: bytes) -> tuple[Config, int, Policy, Stage, Held | None]:
    """Decode a client: configuration, id, policy, stage and what it holds, None after the end; see `Client.from_bytes`.

    Raises:
        MalformedMessageError: These bytes are no saved client.
    """
    with _named_errors():
        saved = SavedClient.from_bytes(_whole(data))
        config, stage, state = Config.from_bytes(saved.config), Stage(saved.stage[0]), None
        client_id = int.from_bytes(saved.client_id, "little")
        if stage < Stage.DONE:
            state = _fields_from_bytes(held_in(stage, config), saved.state, config)
            _demand(stage is not Stage.CONSISTENCY_CHECK or config.malicious_server)
            _check_client(config, config.number(client_id), state)
        return config, client_id, Policy(**json.loads(saved.policy)), stage, state


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


def _check_client(config: Config, me: int, state: Held) -> None:
    """Check that what a client holds has the right sizes and comes from the right clients."""
    if isinstance(state, Joined | Keys | Shared):
        vector: Any = state.vector
        _demand(vector.shape == (config.length,) and not int(vector.max()) >> config.modulus_bits)
    if isinstance(state, Keys):
        _demand(len(state.signature) == (SIGNATURE_BYTES if config.malicious_server else 0))
    if isinstance(state, Shared | Masked):
        _demand(bool(state.advertised[me]))
        holders = set(state.graph.holders(me).tolist())
        _demand(state.shares.keys() <= holders)
    if isinstance(state, Shared):
        neighbors = set(state.graph.neighbors(me).tolist())
        _demand(state.opening_keys.keys() == state.mask_keys.keys() == neighbors)
        _demand(all(is_sound(key) for key in state.mask_keys.values()))
        _demand(state.shares.keys() == holders - neighbors)
    if isinstance(state, Masked):
        _demand(bool(state.shared[me]))
    if isinstance(state, Signed):
        _demand(bool(state.survivors[me]))


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
    data = bytes((_LAYOUT,)) + saved.to_bytes()
    return data + hashlib.sha256(data).digest()


def _whole(data: bytes) -> bytes:
    """Take off the digest: it guards against damage, not against malice (who may write here may read the secrets)."""
    body, digest = data[:-HASH_BYTES], data[-HASH_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise MalformedMessageError(f"these {len(data)} bytes are no saved party, or a damaged one", len(body))
    if body[:1] != bytes((_LAYOUT,)):
        raise MalformedMessageError(f"a saved party of layout {body[:1].hex()}, this is layout {_LAYOUT:02x}", 0)
    return body[1:]


# How a field of each type is saved; a graph is made again.
_CODECS: dict[Any, tuple[Callable[[Any], bytes], Callable[[bytes, Config], Any]]] = {
    bytes: (bytes, lambda data, config: data),
    dict[int, bytes]: (lambda entries: _map_to_bytes(entries), lambda data, config: _map_from_bytes(data)),
    KeyPair: (KeyPair.private_bytes, lambda data, config: KeyPair(data)),
    Set: (messages.set_to_bytes, lambda data, config: messages.set_from_bytes(data, len(config.client_ids))),
    Contribution: (np.ndarray.tobytes, lambda data, config: np.frombuffer(data, config.dtype).copy()),
    Graph: (lambda graph: b"", lambda data, config: None),  # see `_fields_from_bytes`
}


def _fields_to_bytes(state: Held) -> bytes:
    """Encode every field by its type, in order."""
    hints = get_type_hints(type(state))
    parts = [_CODECS[hints[field.name]][0](getattr(state, field.name)) for field in fields(state)]
    return _map_to_bytes(dict(enumerate(parts)))


def _fields_from_bytes(kind: type[Kind], data: bytes, config: Config) -> Kind:
    """Decode every field by its type, in order; an annotation is its length, or that of each value of a map."""
    hints, annotated, values = get_type_hints(kind), get_type_hints(kind, include_extras=True), dict[str, Any]()
    for field, part in zip(fields(kind), _map_from_bytes(data).values(), strict=True):
        hint, whole = hints[field.name], annotated[field.name]
        if hint is Graph:
            values[field.name] = Graph(config, values["advertised"], values["session_id"])
            continue
        values[field.name] = value = _CODECS[hint][1](part, config)
        if isinstance(value, dict):
            _demand(all(number < len(config.client_ids) for number in value))
        if get_origin(whole) is Annotated:
            entries = value.values() if isinstance(value, dict) else [value]
            _demand(all(len(entry) == get_args(whole)[1] for entry in entries))
    return kind(**values)


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
