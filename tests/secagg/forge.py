"""What an attacker has: real parties driven by hand up to any stage, and messages that the library would never make."""

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from secfed import errors
from secfed.crypto import aead
from secfed.crypto.agreement import KeyPair
from secfed.crypto.entropy import SeededEntropy
from secfed.crypto.signing import SigningKey
from secfed.secagg import Client, Config, Policy, Server, binding, messages
from secfed.secagg.graph import Graph
from secfed.secagg.messages import SEALED_BYTES
from secfed.secagg.stages import EXCHANGES, Stage
from secfed.secagg.states import Advertised, Opening, Signing
from secfed.wire import Message, layout, set_from_bytes, set_to_bytes

IDS = (2, 3, 5, 8, 13)
RING = tuple(range(1, 12))  # enough clients for a graph with four neighbors
SHARE = 36
SEALED = SEALED_BYTES
P = 2**255 - 19
ORDER_8 = tuple(
    int.from_bytes(bytes.fromhex(text), "little")
    for text in (
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    )
)
# Every 32-byte string that X25519 takes to the all-zero secret (cr.yp.to/ecdh.html, RFC 7748 section 6.1).
LOW_ORDER = sorted(
    {
        (number | high).to_bytes(32, "little")
        for number in (0, 1, *ORDER_8, P - 1, P, P + 1, P + ORDER_8[0], P + ORDER_8[1], 2 * P - 1, 2 * P, 2 * P + 1)
        for high in (0, 1 << 255)
        if (number | high) < 1 << 256
    }
)
NOT_CANONICAL = [(P + 9).to_bytes(32, "little"), (9 | 1 << 255).to_bytes(32, "little"), b"\xff" * 32]
MESSAGES = [cls for each in EXCHANGES.values() for cls in (each.request, each.response)] + [messages.Abort]


def complete(ids: Iterable[int] = IDS, threshold: int = 4, **fields: Any) -> Config:
    """A small configuration on the complete graph, malicious server unless said otherwise."""
    return Config(ids, threshold, **{"length": 6, "modulus_bits": 16, "adversary": "malicious_server"} | fields)


def ring(threshold: int = 3, **fields: Any) -> Config:
    """A small configuration in which nobody neighbors everybody."""
    return Config(
        RING, threshold, **{"length": 6, "modulus_bits": 16, "neighbors": 4, "adversary": "malicious_server"} | fields
    )


def identities(config: Config) -> dict[int, SigningKey]:
    return {client_id: SigningKey(bytes([7]) * 28 + client_id.to_bytes(4, "big")) for client_id in config.client_ids}


class Session:
    """A server and its clients; the test is the network between them.

    Attributes:
        requests: Every request that the honest server made, by stage and client id.
        responses: Every response that an honest client made.
        refused: Clients that refused a request or aborted in `answer`.
    """

    def __init__(
        self,
        config: Config,
        vectors: Mapping[int, Any] | None = None,
        *,
        policy: Policy | None = None,
        configs: Mapping[int, Config] | None = None,
        seed: int | None = None,
        threads: int | None = 1,
    ) -> None:
        self.config = config
        rng = np.random.default_rng(seed if seed is not None else 1)
        if vectors is None:
            top = (1 << config.modulus_bits) - 1
            vectors = {i: rng.integers(0, top, config.length, np.uint64, endpoint=True) for i in config.client_ids}
        self.vectors = {i: np.array(vector, np.uint64) for i, vector in vectors.items()}
        self.identities = identities(config) if config.malicious_server else {}
        self.directory = {i: key.public_bytes for i, key in self.identities.items()} or None

        def entropy(party: int) -> SeededEntropy | None:
            return None if seed is None else SeededEntropy(seed.to_bytes(16, "little") + party.to_bytes(16, "little"))

        self.server = Server(config, directory=self.directory, entropy=entropy(0), threads=threads)
        self.clients = {
            i: Client(
                (configs or {}).get(i, config),
                i,
                self.vectors[i],
                policy=policy,
                signing_key=self.identities.get(i),
                directory=self.directory,
                entropy=entropy(i),
                threads=threads,
            )
            for i in config.client_ids
        }
        self.graph: Graph | None = None  # see `graph`
        self.outbox = self.server.open()
        self.requests: dict[Stage, dict[int, bytes]] = {Stage.ADVERTISE_KEYS: dict(self.outbox)}
        self.responses: dict[Stage, dict[int, bytes]] = {}

    @property
    def stage(self) -> Stage:
        assert self.server.stage is not None
        return self.server.stage

    def reply(self, client_id: int) -> bytes:
        """Let one client answer the request that waits for it; the server does not get it yet."""
        response = self.clients[client_id].receive(self.outbox[client_id])
        self.responses.setdefault(self.stage, {})[client_id] = response
        return response

    def answer(self, silent: Collection[int] = ()) -> None:
        """Deliver this stage's requests and responses, except from and to the silent."""
        for client_id in self.outbox:
            if client_id not in silent:
                assert self.server.receive(client_id, self.reply(client_id))

    def close(self) -> None:
        self.outbox = self.server.close_stage()
        self.requests[self.stage] = dict(self.outbox)

    def to(self, stage: Stage, silent: Mapping[int, Stage] | None = None) -> "Session":
        """Run until the requests of a stage wait; `silent` gives the first stage that a client does not answer."""
        while self.stage < stage:
            self.answer([i for i, first in (silent or {}).items() if first <= self.stage])
            self.close()
        return self

    def finish(self, silent: Mapping[int, Stage] | None = None) -> "Session":
        return self.to(Stage.DONE, silent)

    def expected_sum(self, survivors: Collection[int] | None = None) -> list[int]:
        """What the sum must be, in Python's integers."""
        chosen = self.server.survivors if survivors is None else survivors
        return total(self.config, self.vectors, chosen)

    def assert_sum(self) -> None:
        assert self.server.done
        assert self.server.sum.tolist() == self.expected_sum()


def total(config: Config, vectors: Mapping[int, Any], chosen: Collection[int]) -> list[int]:
    columns = zip(*(vectors[i].tolist() for i in chosen), strict=True)
    return [sum(column) % (1 << config.modulus_bits) for column in columns]


# Messages that the API forbids.


def opened(data: bytes) -> Any:
    """Decode a message of any kind."""
    return next(cls for cls in MESSAGES if cls.kind == data[1]).from_bytes(data)


def edit(data: bytes, **fields: bytes | Callable[[bytes], bytes]) -> bytes:
    """Return a message with fields replaced, or changed by a function."""
    message = opened(data)
    changed = {name: value(getattr(message, name)) if callable(value) else value for name, value in fields.items()}
    return dataclasses.replace(message, **changed).to_bytes()


def any_message(cls: type[Message]) -> bytes:
    """Return a message of a kind that decodes, whatever it says."""
    return cls(*(bytes(size or 0) for _, size in layout(cls))).to_bytes()


def bitmap(config: Config, ids: Collection[int]) -> bytes:
    return set_to_bytes(np.isin(config.ids, list(ids)))


def listed(config: Config, data: bytes) -> tuple[int, ...]:
    return tuple(config.ids[set_from_bytes(data, len(config.client_ids))].tolist())


def with_part(part: bytes, index: int, size: int) -> Callable[[bytes], bytes]:
    """Replace one part of a column."""
    return lambda column: column[: index * size] + part + column[(index + 1) * size :]


def without_part(index: int, size: int) -> Callable[[bytes], bytes]:
    return lambda column: column[: index * size] + column[(index + 1) * size :]


def flipped(data: bytes, byte: int = -1, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[byte] ^= 1 << bit
    return bytes(changed)


def session_id(session: Session) -> bytes:
    if Stage.SHARE_KEYS in session.responses:  # also after the end
        found: bytes = opened(next(iter(session.responses[Stage.SHARE_KEYS].values()))).session_id
        return found
    return seen(session.server).session_id


def graph(session: Session) -> Graph:
    """The session's graph; after the end, the one that was asked for before."""
    state = seen(session.server)
    if isinstance(state, Advertised):
        session.graph = state.graph
    assert session.graph is not None
    return session.graph


def holders(session: Session, client_id: int) -> list[int]:
    """The ids of a client's holders."""
    return session.config.ids[graph(session).holders(session.config.position(client_id))].tolist()


def others(session: Session, client_id: int) -> list[int]:
    """The ids of a client's holders without itself, in the order of a sealed column."""
    return [i for i in holders(session, client_id) if i != client_id]


def channel(session: Session, client_id: int) -> KeyPair:
    """The channel key of an insider; take it before the client forgets it in ShareKeys."""
    pair: KeyPair = held(session.clients[client_id]).channel
    return pair


def seal(
    session: Session, insider: KeyPair, sender: int, receiver: int, shares: bytes, session_name: bytes | None = None
) -> bytes:
    """Seal anything as an insider whose channel key is known."""
    name = session_name or session_id(session)
    key = opened(session.responses[Stage.ADVERTISE_KEYS][receiver]).channel_key
    sealing_key, _ = binding.channel_keys(insider, key, name, sender, receiver)
    return aead.seal(sealing_key, shares, binding.sealing_data(name, sender, receiver))


def advertise(
    session: Session, client: int, key: SigningKey | None = None, **changed: Any
) -> messages.AdvertiseKeysResponse:
    """Advertise fresh keys in a client's name; `changed` replaces what the signature is bound to."""
    channel_key, mask_key = KeyPair(b"\x11" * 31 + b"\x01").public_bytes, KeyPair(b"\x11" * 31 + b"\x02").public_bytes
    signature = b""
    if session.config.malicious_server:
        nonce = opened(session.requests[Stage.ADVERTISE_KEYS][client]).nonce
        bound = {"config": session.config, "nonce": nonce, "client_id": client} | changed
        signed = binding.advertisement(bound["config"], bound["nonce"], bound["client_id"], channel_key, mask_key)
        signature = (key or session.identities[client]).sign(signed)
    return messages.AdvertiseKeysResponse(channel_key, mask_key, signature)


def sign_survivors(
    session: Session, client_id: int, survivors: Collection[int], session_name: bytes | None = None
) -> bytes:
    """Sign a set of survivors in the name of a client whose identity key is known."""
    members = bitmap(session.config, survivors)
    return session.identities[client_id].sign(binding.survivors(session_name or session_id(session), members))


def unmasking_request(
    session: Session,
    survivors: Collection[int],
    dropouts: Collection[int],
    signatures: Mapping[int, bytes] | None = None,
) -> bytes:
    """Build an UnmaskingRequest from any lists."""
    config, signed = session.config, dict(sorted((signatures or {}).items()))
    sets = [bitmap(config, ids) for ids in (survivors, dropouts, signed)]
    return messages.UnmaskingRequest(*sets, b"".join(signed.values())).to_bytes()


# What a party remembers.


def held(client: Client) -> Any:
    """What a client holds in its stage."""
    return vars(client)["_state"]


def seen(server: Server) -> Any:
    """What a server holds once keys are advertised."""
    state = vars(server)["_state"]
    return state.collected if isinstance(state, Signing | Opening) else state


_PUBLIC = {"_setup", "_entropy", "_busy", "_lock"}


def state(party: Client | Server, *, without: Collection[str] = ()) -> Any:
    """Everything that a party remembers, in a form that can be compared."""
    return {name: _plain(value) for name, value in vars(party).items() if name not in {*_PUBLIC, *without}}


def _plain(value: Any) -> Any:
    match value:
        case np.ndarray():
            return value.dtype.str, value.shape, value.tobytes()
        case KeyPair():
            return value.private_bytes()
        case Graph():
            return vars(value)["_session_id"], vars(value)["_members"].tobytes()
        case dict():
            return {key: _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case Exception():
            return repr(value)
        case bytes() | int() | str() | None | set():
            return value
        case weakref.ref():
            return repr(value())
        case np.generic() | np.dtype():
            return repr(value)
        case _ if dataclasses.is_dataclass(value):
            return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            return {name: _plain(part) for name, part in vars(value).items()}


def strings(value: Any) -> list[bytes]:
    """Every byte string inside what `state` returns."""
    match value:
        case bytes():
            return [value]
        case dict() | list() | tuple() | set():
            parts = itertools.chain(value, value.values()) if isinstance(value, dict) else value
            return [found for part in parts for found in strings(part)]
        case _:
            return []


def secrets_of(client: Client) -> set[bytes]:
    """The secrets that a client holds now: private keys, seeds, keys of its channels, shares, the vector."""
    found: list[bytes] = []
    for field in dataclasses.fields(held(client)) if held(client) else ():
        value = getattr(held(client), field.name)
        match field.name:
            case "channel" | "mask":
                found.append(value.private_bytes())
            case "share_seed" | "self_seed":
                found.append(value)
            case "opening_keys":
                found += value.values()
            case "shares":
                found += [pair[i : i + SHARE] for pair in value.values() for i in (0, SHARE)]
            case "vector":
                found.append(value.tobytes())
    return set(found)


def assert_forgot(client: Client, secrets: Collection[bytes]) -> None:
    """Nothing that the client still remembers contains one of the secrets."""
    remembered = b"|".join(strings(state(client)))
    assert not [secret for secret in secrets if secret in remembered]
    assert held(client) is None
    assert secrets_of(client) == set()


def assert_silent(client: Client, *requests: bytes) -> None:
    """The client answers nothing any more, neither the given requests nor any other kind, and cannot be resumed."""
    for data in (*requests, *map(any_message, MESSAGES)):
        with pytest.raises(errors.StageError) as caught:
            client.receive(data)
        assert caught.value.check == "C2"
    with pytest.raises(errors.StageError):
        Client.from_bytes(client.to_bytes())


def assert_aborts(client: Client, data: bytes, check: str, honest: bytes = b"") -> errors.FaultyServerError:
    """The client blames the server with this check, forgets everything, says nothing of it, and never answers again."""
    secrets = secrets_of(client)
    assert secrets
    with pytest.raises(errors.FaultyServerError) as caught:
        client.receive(data)
    assert caught.value.check == check
    assert str(caught.value).startswith(f"{check}: ")
    assert client.stage is Stage.ABORTED
    assert_forgot(client, secrets)
    assert not [secret for secret in secrets if secret.hex() in str(caught.value) or repr(secret) in repr(caught.value)]
    assert_silent(client, data, *([honest] if honest else []))
    return caught.value


def assert_refuses(client: Client, data: bytes, check: str) -> None:
    """The client refuses the message and is what it was before."""
    before, saved = state(client), client.to_bytes()
    kind = errors.StageError if check == "C2" else errors.MalformedMessageError
    with pytest.raises(kind) as caught:
        client.receive(data)
    assert caught.value.check == check
    assert state(client) == before
    assert client.to_bytes() == saved


def assert_server_refuses(server: Server, client_id: int, data: bytes, check: str) -> None:
    """The server refuses the message, names the sender, and is what it was before but for the entry in `faults`."""
    before, faults = state(server, without=["faults"]), len(server.faults)
    with pytest.raises(errors.FaultyClientError) as caught:
        server.receive(client_id, data)
    assert (caught.value.check, caught.value.client_id) == (check, client_id)
    assert state(server, without=["faults"]) == before
    assert [(fault.check, fault.client_id) for fault in server.faults[faults:]] == [(check, client_id)]
