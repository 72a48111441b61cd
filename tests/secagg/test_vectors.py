"""The published vectors, replayed through secfed byte for byte; the reference rewrites the same files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secfed import errors, secagg
from secfed.crypto.entropy import SeededEntropy, predictable_secrets
from secfed.secagg import messages
from secfed.secagg.stages import EXCHANGES
from secfed.wire import Message, layout
from tests import vectors

FILES = vectors.files("secagg")
DIRECTORY_KEYS = vectors.PROTOCOLS / "secagg" / "vectors" / "directory_keys.json"
SESSIONS = [path for path in FILES if path != DIRECTORY_KEYS]
CLIENT_CHECKS = [f"C{i}" for i in range(1, 23)]
SERVER_CHECKS = [f"S{i}" for i in range(1, 15)]


def parties(vector: dict[str, Any]) -> tuple[secagg.Server, dict[str, secagg.Client]]:
    """Build the server and every client that the steps name."""
    fields = dict(vector["config"])
    for name in ("model_hash", "context"):
        fields[name] = bytes.fromhex(fields[name])
    config = secagg.Config(**fields)
    seeds = {name: bytes.fromhex(seed) for name, seed in vector["seeds"].items()}
    directory = None
    if config.malicious_server:
        directory = {int(name): bytes.fromhex(key) for name, key in vector["directory"].items()}
    policy = secagg.Policy(**vector["policy"]) if vector.get("policy") else None
    entropy = {name: SeededEntropy(seed) for name, seed in seeds.items()}
    server = secagg.Server(config, directory=directory, entropy=entropy.get("server"))
    names = {step["to"].removeprefix("client ") for step in vector["steps"] if step["to"] != "server"}
    clients = {
        name: secagg.Client(
            config,
            int(name),
            np.array(vector["inputs"][name], np.uint64),
            policy=policy,
            signing_key=secagg.SigningKey(entropy[name].draw("identity_key", 32)) if directory else None,
            directory=directory,
            entropy=entropy[name],
        )
        for name in names
    }
    return server, clients


def replay(server: secagg.Server, clients: dict[str, secagg.Client], step: dict[str, Any]) -> None:
    """Feed one step to its party and compare what comes back."""
    if step["to"] != "server":
        reply = clients[step["to"].removeprefix("client ")].receive(bytes.fromhex(step["receives"]))
        assert reply.hex() == step["replies"]
    elif "from" in step:
        data = bytes.fromhex(step["receives"])
        late = data[:2] < bytes(
            (1, EXCHANGES[server.stage].response.kind)
        )  # only the vector about late messages has one
        assert server.receive(step["from"], data) is not late
    else:
        outbox = server.open() if "opens" in step else server.close_stage()
        assert {str(client_id): data.hex() for client_id, data in outbox.items()} == step["sends"]


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_vector_replays_byte_for_byte(path: Path) -> None:
    vector = vectors.load(path)
    with predictable_secrets():
        server, clients = parties(vector)
        *steps, last = vector["steps"]
        for step in steps:
            replay(server, clients, step)
        if "error" in vector:
            expected = vector["error"]
            with pytest.raises(getattr(errors, expected["type"])) as caught:
                replay(server, clients, {"replies": "", "sends": {}, **last})
            assert caught.value.check == expected.get("check", "")
            assert getattr(caught.value, "client_id", None) == expected.get("client_id")
            return
        replay(server, clients, last)
    assert server.sum.tolist() == vector["result"]["sum"]
    assert list(server.survivors) == vector["result"]["survivors"]
    faults = [{"client_id": fault.client_id, "check": fault.check} for fault in server.faults]
    assert faults == vector.get("faults", [])


@pytest.mark.parametrize("name", vectors.load(DIRECTORY_KEYS)["inputs"])
def test_directory_holds_the_key_or_refuses_it(name: str) -> None:
    vector = vectors.load(DIRECTORY_KEYS)
    key, own = bytes.fromhex(vector["inputs"][name]), secagg.SigningKey(bytes(32))
    config = secagg.Config([1, 2, 3], threshold=2, length=1, modulus_bits=8, adversary="malicious_server")
    directory = {1: own.public_bytes, 2: secagg.SigningKey(bytes([1] * 32)).public_bytes, 3: key}
    for build in (
        lambda: secagg.Server(config, directory=directory),
        lambda: secagg.Client(config, 1, [0], signing_key=own, directory=directory),
    ):
        if vector["result"][name] == "accepted":
            build()
        else:
            with pytest.raises(errors.ConfigError, match="client 3"):
                build()


def test_vectors_follow_the_schema() -> None:
    """In one test: a test for each takes longer than to look at it."""
    errors_of = {path.name: [*vectors.validator().iter_errors(vectors.load(path))] for path in FILES}
    assert {name: found for name, found in errors_of.items() if found} == {}


def test_reference_writes_the_files_byte_for_byte() -> None:
    reference = vectors.reference("secagg")
    written = {name: reference.dump(vector) for name, vector in reference.vectors().items()}
    assert written == {path.name: path.read_text() for path in FILES}


@pytest.mark.parametrize("check", CLIENT_CHECKS + SERVER_CHECKS)
def test_every_check_has_a_rejection_vector(check: str) -> None:
    found = [vectors.load(path) for path in FILES if path.name.startswith(f"reject_{check[0]}{int(check[1:]):02d}_")]
    assert found
    assert {vector["error"]["check"] for vector in found} == {check}


def test_messages_are_those_of_the_schema() -> None:
    schema = json.loads((vectors.PROTOCOLS / "secagg" / "messages.json").read_text())
    described = {
        message["name"]: (
            message["kind"],
            tuple(
                (field["name"], None if field["length"] == "variable" else field["length"])
                for field in message["fields"]
            ),
        )
        for message in schema["messages"]
    }
    classes = [value for value in vars(messages).values() if isinstance(value, type) and issubclass(value, Message)]
    assert described == {cls.__name__: (cls.kind, layout(cls)) for cls in classes if cls is not Message}
