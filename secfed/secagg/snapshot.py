"""Save and resume a party between two messages: a crash loses nothing, and no party answers twice.

A party's state is saved field by field, by the types in `states.py`. A resumed state must be consistent.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from secfed.crypto.agreement import KeyPair, is_sound
from secfed.crypto.shamir import SHARE_BYTES, shares_from_bytes
from secfed.crypto.signing import SIGNATURE_BYTES
from secfed.errors import FaultyClientError, MalformedMessageError, SecFedError
from secfed.secagg import masking, messages
from secfed.secagg.config import Config, Policy
from secfed.secagg.graph import Graph
from secfed.secagg.masking import Accumulator, Vector
from secfed.secagg.opening import owners_held, unopened_sets
from secfed.secagg.stages import Stage
from secfed.secagg.states import (
    SEEN,
    Advertised,
    Advertising,
    Collecting,
    Contribution,
    Done,
    Held,
    Joined,
    Keys,
    Masked,
    Opening,
    Seen,
    Shared,
    Sharing,
    Signed,
    Signing,
    held_in,
)  # fmt: skip
from secfed.wire import HASH_BYTES, Message, Pieces, Set, set_from_bytes, set_to_bytes

State = TypeVar("State", bound=Held | Seen)

_LAYOUT = 2  # of saved parties; those of another layout are refused


@dataclass(frozen=True, slots=True)
class SavedServer(Message):
    """A server between two messages."""

    kind: ClassVar[int] = 101
    uncopied: ClassVar[frozenset[str]] = frozenset({"state"})
    config: bytes
    stage: Annotated[bytes, 1]
    state: bytes
    answered: bytes
    awaited: bytes
    faults: bytes
    aborts: bytes


@dataclass(frozen=True, slots=True)
class SavedClient(Message):
    """A client between two messages, secrets included."""

    kind: ClassVar[int] = 102
    uncopied: ClassVar[frozenset[str]] = frozenset({"state"})
    config: bytes
    client_id: Annotated[bytes, 4]
    policy: bytes
    stage: Annotated[bytes, 1]
    state: bytes  # empty after the end


def save_server(
    config: Config,
    stage: Stage,
    state: Seen,
    answered: Set,
    awaited: Set,
    faults: Sequence[FaultyClientError],
    aborts: Mapping[int, str],
) -> bytes:
    """Encode a server; see `Server.to_bytes`."""
    saved = SavedServer(
        config=config.to_bytes(),
        stage=bytes((stage,)),
        state=_fields_to_bytes(state),
        answered=set_to_bytes(answered),
        awaited=set_to_bytes(awaited),
        faults=_map_to_bytes({i: _fault_to_bytes(fault) for i, fault in enumerate(faults)}),
        aborts=_map_to_bytes({client_id: reason.encode() for client_id, reason in aborts.items()}),
    )
    return _sealed_off(saved)


def resume_server(
    data: bytes | bytearray, threads: int | None
) -> tuple[Config, Stage, Seen, Set, Set, list[FaultyClientError], dict[int, str]]:
    """Decode a server to what `save_server` takes; see `Server.from_bytes`.

    Raises:
        MalformedMessageError: These bytes are not a saved server.
    """
    with _named_errors():
        saved = SavedServer.from_bytes(_whole(data))
        config, stage = Config.from_bytes(saved.config), Stage(saved.stage[0])
        _demand(stage is not Stage.CONSISTENCY_CHECK or config.malicious_server)
        state = _fields_from_bytes(SEEN[stage], saved.state, config, threads)
        sets = [set_from_bytes(part, len(config.client_ids)) for part in (saved.answered, saved.awaited)]
        _check_server(config, state, set(_numbers(sets[0])))
        faults = [_fault_from_bytes(bytes(entry)) for entry in _map_from_bytes(saved.faults).values()]
        aborts = {client_id: bytes(reason).decode() for client_id, reason in _map_from_bytes(saved.aborts).items()}
        return config, stage, state, sets[0], sets[1], faults, aborts


def save_client(config: Config, client_id: int, policy: Policy, stage: Stage, state: Held | None) -> bytes:
    """Encode a client; see `Client.to_bytes`."""
    saved = SavedClient(
        config=config.to_bytes(),
        client_id=client_id.to_bytes(4, "little"),
        policy=json.dumps(asdict(policy)).encode(),
        stage=bytes((stage,)),
        state=_fields_to_bytes(state) if state and stage < Stage.DONE else b"",
    )
    return _sealed_off(saved)


def resume_client(data: bytes | bytearray) -> tuple[Config, int, Policy, Stage, Held | None]:
    """Decode a client: configuration, id, policy, stage and what it holds, None after the end; see `Client.from_bytes`.

    Raises:
        MalformedMessageError: These bytes are not a saved client.
    """
    with _named_errors():
        saved = SavedClient.from_bytes(_whole(data))
        config, stage, state = Config.from_bytes(saved.config), Stage(saved.stage[0]), None
        client_id = int.from_bytes(saved.client_id, "little")
        if stage < Stage.DONE:
            state = _fields_from_bytes(held_in(stage, config), saved.state, config)
            _demand(stage is not Stage.CONSISTENCY_CHECK or config.malicious_server)
            _check_client(config, config.position(client_id), state)
        return config, client_id, Policy(**json.loads(saved.policy)), stage, state


@contextmanager
def _named_errors() -> Iterator[None]:
    """Turn what bytes with a right digest and wrong contents cause into the error that says so."""
    try:
        yield
    except SecFedError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError):
        raise MalformedMessageError(
            "these bytes are not a saved party: their contents do not fit together", 0
        ) from None


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


def _check_server(config: Config, state: Seen, answered: set[int]) -> None:
    """Check that what a server holds has the right sizes and comes from the right clients."""
    if isinstance(state, Advertising):
        signed = SIGNATURE_BYTES if config.malicious_server else 0
        _demand(state.channel_keys.keys() == state.mask_keys.keys() == state.signatures.keys() == answered)
        _demand(all(len(signature) == signed for signature in state.signatures.values()))
        _demand(all(is_sound(key) for key in state.known_keys))
    if isinstance(state, Advertised):
        _demand(state.mask_keys.keys() == _numbers(state.advertised))
        _demand(all(is_sound(key) for key in state.mask_keys.values()))
    if isinstance(state, Sharing):
        _demand(state.sealed.keys() == state.commitments.keys() == answered)
        for position, data in state.sealed.items():
            _demand(len(data) == messages.SEALED_BYTES * len(state.graph.neighbors(position)))
    if isinstance(state, Collecting):
        _demand(_numbers(state.shared) <= state.mask_keys.keys() & state.commitments.keys())
        unopened_sets(state)
    if isinstance(state, Signing | Opening):
        _check_server(config, state.collected, answered)
        _demand(bool(state.survivors.any()) and not (state.survivors & ~state.collected.shared).any())
    if isinstance(state, Signing):
        _demand(state.signatures.keys() == answered)
    if isinstance(state, Opening):
        _demand(state.shares.keys() == answered)
        unopened = unopened_sets(state.collected)
        for position, data in state.shares.items():
            owners = owners_held(state.collected, position, unopened.get(position))
            _demand(len(data) == SHARE_BYTES * len(owners) and shares_from_bytes(data) is not None)
    if isinstance(state, Done):
        _demand(state.sum.shape == (config.length,) and bool(state.survivors.any()))


def _numbers(members: Set) -> set[int]:
    return set(np.flatnonzero(members).tolist())


def _sealed_off(saved: Message) -> bytes:
    """Add the layout and a digest. Long parts are copied here, once, and nowhere else."""
    parts, digest = [bytes((_LAYOUT,)), *saved.to_chunks()], hashlib.sha256()
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def _whole(data: bytes | bytearray) -> memoryview:
    """Take off the digest: it guards against damage, not against malice (who may write here may read the secrets)."""
    body, digest = memoryview(data)[:-HASH_BYTES], data[-HASH_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise MalformedMessageError(f"these {len(data)} bytes are not a saved party, or a damaged one", len(body))
    if body[:1] != bytes((_LAYOUT,)):
        raise MalformedMessageError(f"a saved party of layout {body[:1].hex()}, this is layout {_LAYOUT:02x}", 0)
    return body[1:]


# How a field of each type is saved and resumed: from its bytes, the configuration, the number of threads and the fields
# before it.
_Codec = tuple[Callable[[Any], Any], Callable[[Any, Config, int | None, Mapping[str, Any]], Any]]
_VECTOR: _Codec = (
    lambda vector: np.ascontiguousarray(vector).data.cast("B"),
    lambda data, config, *_: np.frombuffer(data, config.dtype).copy(),
)
_CODECS: dict[Any, _Codec] = {
    bytes: (bytes, lambda data, *_: bytes(data)),
    dict[int, bytes]: (
        lambda entries: _map_to_bytes(entries),
        lambda data, *_: {key: bytes(part) for key, part in _map_from_bytes(data).items()},
    ),
    KeyPair: (KeyPair.private_bytes, lambda data, *_: KeyPair(bytes(data))),
    Set: (set_to_bytes, lambda data, config, *_: set_from_bytes(data, len(config.client_ids))),
    Contribution: _VECTOR,
    Vector: _VECTOR,
    Graph: (lambda graph: b"", lambda _, config, __, before: Graph(config, before["advertised"], before["session_id"])),
    Accumulator: (
        lambda accumulator: accumulator.to_bytes(),
        lambda data, config, threads, before: masking.create(config, before["session_id"], threads).accumulator(data),
    ),
    Collecting: (
        lambda state: _fields_to_bytes(state),
        lambda data, config, threads, _: _fields_from_bytes(Collecting, data, config, threads),
    ),
}


def _fields_to_bytes(state: Held | Seen) -> Any:
    """Encode every field by its type, in order."""
    hints = get_type_hints(type(state))
    parts = [_CODECS[hints[field.name]][0](getattr(state, field.name)) for field in fields(state) if field.init]
    return _map_to_bytes(dict(enumerate(parts)))


def _fields_from_bytes(
    kind: type[State], data: bytes | memoryview, config: Config, threads: int | None = None
) -> State:
    """Decode every field by its type, in order; an annotation is its length, or that of each value of a map."""
    hints, annotated, values = get_type_hints(kind), get_type_hints(kind, include_extras=True), dict[str, Any]()
    saved = [field.name for field in fields(kind) if field.init]
    for name, part in zip(saved, _map_from_bytes(data).values(), strict=True):
        values[name] = value = _CODECS[hints[name]][1](part, config, threads, values)
        if isinstance(value, dict):
            _demand(all(position < len(config.client_ids) for position in value))
        if get_origin(annotated[name]) is Annotated:
            entries = value.values() if isinstance(value, dict) else [value]
            _demand(all(len(entry) == get_args(annotated[name])[1] for entry in entries))
    return kind(**values)


def _map_to_bytes(entries: Mapping[int, Any]) -> Any:
    """Put values behind their keys and lengths; they may be bytes, memoryviews or pieces."""
    parts: list[Any] = []
    for key, value in entries.items():
        parts += [key.to_bytes(4, "little"), len(value).to_bytes(4, "little")]
        parts += value if isinstance(value, Pieces) else [value]
    return Pieces(sum(map(len, parts)), parts)


def _map_from_bytes(data: bytes | memoryview) -> dict[int, bytes | memoryview]:
    """Find the values, where they lie."""
    entries: dict[int, bytes | memoryview] = {}
    offset = 0
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
