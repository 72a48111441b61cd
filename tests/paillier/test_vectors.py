"""The published vectors, replayed through secfed byte for byte; the reference rewrites the same files."""

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secfed import errors, paillier
from secfed.crypto.entropy import SeededEntropy, predictable_secrets
from secfed.paillier import integers, messages
from secfed.paillier.keys import FEWEST_KEY_BITS, LABEL
from secfed.wire import Message, layout
from tests import vectors

FILES = vectors.files("paillier")
CHECKS = [
    *(f"C{i}" for i in range(1, 4)),
    *(f"S{i}" for i in range(1, 11)),
    *(f"K{i}" for i in range(1, 7)),
    "P1",
    "H1",
]
# What `paillier.Config` cannot be told: it sorts ids, and takes a key where the vector has a key's id.
NOT_EXPRESSIBLE = {"reject_config_ids_not_ascending", "reject_config_another_key"}

load = cache(vectors.load)


def has_threshold_key(path: Path) -> bool:
    """Whether a vector is about a threshold key: its sessions, its refusals, its bytes and its shares."""
    return "threshold_key" in load(path)["inputs"]


THRESHOLD = [path for path in FILES if has_threshold_key(path)]
ORDINARY = [path for path in FILES if not has_threshold_key(path)]
WITH_STEPS = [path for path in ORDINARY if "steps" in load(path)]
KEYS, ENCRYPT, PACK, CONFIG, REJECT_CONFIG, REJECT_ENTRY, REJECT_KEY = (
    [path for path in ORDINARY if path.stem.startswith(start) and "steps" not in load(path)]
    for start in ("key_", "encrypt_", "pack_", "config_", "reject_config_", "reject_entry_", "reject_P1_")
)


def by_name(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@cache
def public_key(data: str) -> paillier.PublicKey:
    return paillier.PublicKey.from_bytes(bytes.fromhex(data), insecure_size=True)


@cache
def private_key(data: str) -> paillier.PrivateKey:
    return paillier.PrivateKey.from_bytes(bytes.fromhex(data), insecure_size=True)


def config_of(vector: dict[str, Any]) -> paillier.Config:
    fields = dict(vector["config"])
    del fields["key_id"]
    fields["weights"] = dict(zip(fields["client_ids"], fields["weights"], strict=False)) or None
    for name in ("model_hash", "context"):
        fields[name] = bytes.fromhex(fields[name])
    return paillier.Config(public_key(vector["inputs"]["public_key"]), **fields)


class Parties:
    """The server, the clients and the key holder of a vector, made when a step first names them."""

    def __init__(self, vector: dict[str, Any]) -> None:
        self.config, self.inputs = config_of(vector), vector["inputs"]
        assert self.config.public_key.id.hex() == vector["config"]["key_id"]
        self.entropy = {name: SeededEntropy(bytes.fromhex(seed)) for name, seed in vector["seeds"].items()}
        noise = self.inputs["noise"]["server"] if self.config.weights else None
        self.server = paillier.Server(self.config, noise=noise, entropy=self.entropy["server"])
        self.opened = paillier.OpenedSums()
        self.key_holder = paillier.KeyHolder(self.config, private_key(self.inputs["private_key"]), opened=self.opened)
        self.clients: dict[str, paillier.Client] = {}

    def client(self, name: str) -> paillier.Client:
        if name not in self.clients:
            vector = np.array(self.inputs["vectors"][name], np.uint64)
            noise = self.inputs["noise"]["clients"]
            self.clients[name] = paillier.Client(
                self.config, int(name), vector, noise=noise, entropy=self.entropy[name]
            )
        return self.clients[name]

    def replay(self, step: dict[str, Any]) -> None:
        """Feed one step to its party and compare what comes back."""
        if step["to"] == "key holder 1":
            assert self.key_holder.receive(bytes.fromhex(step["receives"])).hex() == step["replies"]
        elif step["to"] != "server":
            reply = self.client(step["to"].removeprefix("client ")).receive(bytes.fromhex(step["receives"]))
            assert reply.hex() == step["replies"]
        elif "from" in step:
            data = bytes.fromhex(step["receives"])
            late = self.server.stage is paillier.Stage.DECRYPTION and data[1:2] == bytes([66])
            assert self.server.receive(step["from"], data) is not late
        else:
            if "closes" in step:
                assert str(self.server.stage) == step["closes"]
            outbox = self.server.open() if "opens" in step else self.server.close_stage()
            assert {str(party): data.hex() for party, data in outbox.items()} == step["sends"]

    def state(self) -> Any:
        """What a refused message must leave as it was."""
        clients = {name: client.stage for name, client in self.clients.items()}
        server = self.server
        return clients, server.stage, server._survivors.tolist(), list(server._products), self.opened.to_bytes()


@by_name(WITH_STEPS)
def test_vector_replays_byte_for_byte(path: Path) -> None:
    vector = load(path)
    with predictable_secrets():
        parties = Parties(vector)
        *steps, last = vector["steps"]
        for step in steps:
            parties.replay(step)
        if "error" in vector:
            refused(parties, last, vector["error"])
            return
        parties.replay(last)
    if "opened" in vector["result"]:
        opened = json.loads(parties.opened.to_bytes())
        assert opened == {parties.config.hash.hex(): vector["result"]["opened"]}
        return
    assert parties.server.sum.tolist() == vector["result"]["sum"]
    assert list(parties.server.survivors) == vector["result"]["survivors"]
    assert parties.server.faults == []


def refused(parties: Parties, step: dict[str, Any], error: dict[str, Any]) -> None:
    if step["to"].startswith("client"):
        parties.client(step["to"].removeprefix("client "))
    before = parties.state()
    with pytest.raises(getattr(errors, error["type"])) as caught:
        parties.replay({"replies": "", "sends": {}, **step})
    found = caught.value
    assert found.check == error.get("check", "")
    for name in ("client_id", "holder_id"):
        assert getattr(found, name, None) == error.get(name)
    faults = [{"type": type(fault).__name__, **vars(fault)} for fault in parties.server.faults]
    assert faults == ([error] if "from" in step else [])
    if "closes" in step:  # the session is over
        assert parties.server.stage is paillier.Stage.ABORTED
    elif error["check"] == "C3":
        assert parties.client(step["to"].removeprefix("client ")).stage is paillier.Stage.ABORTED
    elif error["check"] != "K6":  # a plaintext that is refused has been opened
        assert parties.state() == before


@by_name(KEYS)
def test_key_has_these_numbers_and_this_id(path: Path) -> None:
    vector = load(path)
    inputs, result = vector["inputs"], vector["result"]
    public, private = public_key(inputs["public_key"]), private_key(inputs["private_key"])
    assert private.public_key == public
    a_p, a_q = private.subgroup
    numbers = {"p": private.p, "q": private.q, "n": public.n, "h": public.h, "a_p": a_p, "a_q": a_q}
    found: dict[str, Any] = {name: str(number) for name, number in numbers.items()}
    assert found | {"key_bits": public.key_bits, "key_id": public.id.hex()} == result
    assert public.to_bytes().hex() == inputs["public_key"]
    assert private.to_bytes().hex() == inputs["private_key"]


@by_name(REJECT_KEY)
def test_bytes_that_are_no_key_are_refused(path: Path) -> None:
    vector = load(path)
    [(kind, data)] = vector["inputs"].items()
    reader = {"public_key": paillier.PublicKey, "private_key": paillier.PrivateKey}[kind]
    with pytest.raises(getattr(errors, vector["error"]["type"])) as caught:
        reader.from_bytes(bytes.fromhex(data), insecure_size=vector["config"]["minimum_key_bits"] < FEWEST_KEY_BITS)
    assert caught.value.check == vector["error"]["check"]


@pytest.mark.sampled(6)
@by_name(ENCRYPT)
def test_plaintexts_encrypt_to_these_bytes_and_come_back(path: Path) -> None:
    vector = load(path)
    inputs, config = vector["inputs"], vector["config"]
    key, plaintexts = public_key(inputs["public_key"]), [int(plaintext) for plaintext in inputs["plaintexts"]]
    ciphertexts = key.encrypt(plaintexts, seed=bytes.fromhex(inputs["noise_seed"]), **config)
    column = integers.column(ciphertexts, key.ciphertext_bytes(config["degree"]))
    assert column.hex() == vector["result"]["ciphertexts"]
    assert private_key(inputs["private_key"]).decrypt(ciphertexts, degree=config["degree"]) == plaintexts


@by_name(PACK)
def test_entries_go_into_these_plaintexts(path: Path) -> None:
    vector = load(path)
    fields, result = dict(vector["config"]), vector["result"]
    key_bits, additions = fields.pop("key_bits"), fields.pop("additions")
    name = {512: "key_ordinary", 2048: "key_full_size"}[key_bits]
    key = public_key(load(vectors.PROTOCOLS / "paillier" / "vectors" / f"{name}.json")["inputs"]["public_key"])
    config = paillier.Config(key, [1, 2], weights={1: additions - 1, 2: 1}, **fields)
    packing = config.packing
    entries = config.entries(np.array(vector["inputs"]["vector"], np.uint64))
    plaintexts = packing.pack(entries)
    assert {
        "entries": entries.tolist(),
        "slot_bits": packing.slot_bits,
        "slots": packing.slots,
        "count": packing.plaintexts,
        "plaintexts": [str(plaintext) for plaintext in plaintexts],
    } == result
    totals = packing.unpack(plaintexts, additions)
    assert totals is not None
    assert totals.tolist() == entries.tolist()


@by_name(CONFIG)
def test_configuration_has_this_hash_and_layout(path: Path) -> None:
    vector = load(path)
    result, config = vector["result"], config_of(vector)
    assert config.public_key.id.hex() == vector["config"]["key_id"]
    assert hashlib.sha256(LABEL + b"config" + bytes.fromhex(result["config_bytes"])).digest() == config.hash
    assert config.hash.hex() == result["config_hash"]
    assert config.session_id(bytes.fromhex(vector["inputs"]["nonce"])).hex() == result["session_id"]
    found = config.packing.slot_bits, config.packing.slots, config.packing.plaintexts
    assert found == (result["slot_bits"], result["slots"], result["count"])


@by_name([path for path in REJECT_CONFIG if path.stem not in NOT_EXPRESSIBLE])
def test_configuration_that_breaks_a_rule_is_refused(path: Path) -> None:
    with pytest.raises(errors.ConfigError):
        config_of(load(path))


@by_name([path for path in REJECT_CONFIG if path.stem in NOT_EXPRESSIBLE])
def test_configuration_of_secfed_cannot_break_these_rules(path: Path) -> None:
    vector = load(path)
    config = config_of(vector)
    assert list(config.client_ids) == sorted(vector["config"]["client_ids"])
    same_key = config.public_key.id.hex() == vector["config"]["key_id"]
    assert same_key is (path.stem != "reject_config_another_key")


@by_name(REJECT_ENTRY)
def test_entry_beyond_the_bound_is_refused(path: Path) -> None:
    vector = load(path)
    with pytest.raises(errors.EncodingError):
        paillier.Client(config_of(vector), 1, np.array(vector["inputs"]["vectors"]["1"]))


def test_every_vector_is_replayed_by_one_test() -> None:
    replayed = [*WITH_STEPS, *KEYS, *ENCRYPT, *PACK, *CONFIG, *REJECT_CONFIG, *REJECT_ENTRY, *REJECT_KEY]
    assert sorted(replayed) == ORDINARY
    assert sorted(ORDINARY + THRESHOLD) == FILES


def test_vectors_follow_the_schema() -> None:
    """In one test: a test for each takes longer than to look at it."""
    errors_of = {path.name: [*vectors.validator().iter_errors(load(path))] for path in FILES}
    assert {name: found for name, found in errors_of.items() if found} == {}


@pytest.mark.parametrize("power", ["gmpy2", pytest.param("python", marks=pytest.mark.slow)])
def test_reference_writes_the_files_byte_for_byte(power: str) -> None:
    """Powers are nearly all of its work, and gmpy2 takes them in a fraction of the time."""
    reference = vectors.reference("paillier")
    if power == "gmpy2":
        import gmpy2

        reference.pow = lambda *of: int(gmpy2.powmod(*of)) if len(of) == 3 else pow(*of)  # type: ignore[attr-defined]
    written = {name: reference.dump(vector) for name, vector in reference.vectors().items()}
    assert written == {path.name: path.read_text() for path in FILES}


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_has_a_rejection_vector(check: str) -> None:
    found = [load(path) for path in FILES if path.name.startswith(f"reject_{check}_")]
    assert found
    assert {vector["error"]["check"] for vector in found} == {check}


def test_checks_are_those_of_the_specification() -> None:
    text = (vectors.PROTOCOLS / "paillier" / "README.md").read_text()
    assert re.findall(r"^\| ([A-Z]\d+) \|", text, re.MULTILINE) == CHECKS


def test_messages_are_those_of_the_schema() -> None:
    schema = json.loads((vectors.PROTOCOLS / "paillier" / "messages.json").read_text())
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
    assert {cls.__name__: kind for kind, cls in messages._CLASSES.items()} == {
        name: kind for name, (kind, _) in described.items()
    }
