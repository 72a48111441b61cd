"""What parties agree on: which configurations are refused, in which words; that every field counts; packing."""

import dataclasses
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secfed import errors
from secfed.crypto import packing
from secfed.secagg import Config, Policy, Server, SigningKey
from secfed.secagg.client import Client
from tests.examples import examples
from tests.secagg.forge import RING, complete, ring

IDS = "needed 1 to 2147483646; number the clients of the session from 1 and keep which id has which number"
NINE = range(1, 10)


def texts(**fields: Any) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        Config(**{"client_ids": NINE, "threshold": 5, "length": 10} | fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"threshold": 4}, "threshold 4 must be more than half of 9 clients"),
        ({"threshold": 1}, "threshold 1 must be a whole number from 2 to 9 (9 clients)"),
        ({"threshold": 10}, "threshold 10 must be a whole number from 2 to 9 (9 clients)"),
        ({"threshold": 0}, "threshold 0 must be a whole number from 2 to 9 (9 clients)"),
        ({"threshold": -5}, "threshold -5 must be a whole number from 2 to 9 (9 clients)"),
        ({"threshold": 0.6}, "threshold 0.6 must be a whole number"),
        ({"threshold": "5"}, "threshold '5' must be a whole number"),
        ({"threshold": None}, "threshold None must be a whole number"),
        ({"threshold": 5, "neighbors": 4}, "threshold 5 must be a whole number from 2 to 4 (4 neighbors)"),
        ({"threshold": 2, "neighbors": 3}, "neighbors 3 must be even, or 8 for all other clients"),
        ({"neighbors": 0}, "neighbors 0 must be a whole number from 1 to 8, the other clients"),
        ({"neighbors": 9}, "neighbors 9 must be a whole number from 1 to 8, the other clients"),
        ({"neighbors": 2.0}, "neighbors 2.0 must be a whole number"),
        ({"colluders": 5}, "threshold 5 must be more than 5 colluders, who could otherwise unmask alone"),
        ({"colluders": -1}, "colluders -1 must be a whole number from 0 to 9"),
        (
            {"colluders": 2, "adversary": "malicious_server"},
            "threshold 5 must be at least 6 against a malicious server with 9 clients and 2 colluders",
        ),
        (
            {"threshold": 2, "neighbors": 4, "adversary": "malicious_server"},
            "threshold 2 must be at least 3 against a malicious server with 4 neighbors and 0 colluders",
        ),
        ({"length": 0}, "length 0 must be a whole number from 1 to 4294967296"),
        ({"length": 1.5}, "length 1.5 must be a whole number"),
        ({"modulus_bits": 0}, "modulus_bits 0 must be a whole number from 1 to 64"),
        ({"modulus_bits": 65}, "modulus_bits 65 must be a whole number from 1 to 64"),
        ({"round": -1}, "round -1 must be a whole number from 0 to 18446744073709551615"),
        ({"round": 2**64}, "round 18446744073709551616 must be a whole number from 0 to 18446744073709551615"),
        ({"model_hash": b""}, "model_hash has 0 bytes, needs 32"),
        ({"model_hash": bytes(33)}, "model_hash has 33 bytes, needs 32"),
        ({"context": bytes(1025)}, "context has 1025 bytes, at most 1024 are allowed"),
        ({"adversary": "malicious"}, "adversary 'malicious' must be one of 'semi_honest', 'malicious_server'"),
        ({"masking": "none"}, "masking 'none' must be one of 'aes128_ctr'"),
        ({"client_ids": [1.0, 2, 3]}, "client id 1.0 must be a whole number"),
        ({"client_ids": [7]}, "1 clients: needed 2 to 16777216; a sum of one client is its vector"),
        ({"client_ids": []}, "0 clients: needed 2 to 16777216; a sum of one client is its vector"),
        ({"client_ids": [0, 1, 2]}, f"client ids from 0 to 2: {IDS}"),
        ({"client_ids": [1, 2**31 - 1]}, f"client ids from 1 to 2147483647: {IDS}"),
        ({"client_ids": [1, 2, 2, 3]}, "1 of 4 client ids occur twice: ids must be distinct"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_what_was_found_and_needed(fields: dict[str, Any], text: str) -> None:
    assert texts(**fields) == text


def test_the_smallest_and_largest_that_can_work_are_accepted() -> None:
    assert Config([1, 2], 2, 1, 1).holders == 2
    assert Config([1, 2**31 - 2], 2, 1, 64, round=2**64 - 1, context=bytes(1024)).dtype == np.uint64
    assert Config(NINE, 5, 10).neighbors == 8
    assert Config(NINE, 2, 10, neighbors=2).holders == 2
    assert not Config(NINE, 2, 10, neighbors=2).complete
    assert Config(reversed(NINE), 9, 10).client_ids == tuple(NINE)
    assert [Config([1, 2], 2, 1, bits).dtype.itemsize for bits in (8, 9, 16, 17, 32, 33)] == [1, 2, 2, 4, 4, 8]


def test_a_configuration_cannot_be_changed() -> None:
    config = complete()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.threshold = 2  # type: ignore[misc]


BASE = Config(NINE, 6, 10, 16, colluders=1, adversary="malicious_server", round=3, model_hash=b"m" * 32, context=b"c")
CHANGES: list[dict[str, Any]] = [
    {"client_ids": range(2, 11)},
    {"client_ids": range(1, 9)},
    {"threshold": 7},
    {"length": 11},
    {"modulus_bits": 17},
    {"neighbors": 6, "threshold": 6},
    {"colluders": 2},
    {"neighbors": 6, "threshold": 6, "session_colluders": 1},
    {"neighbors": 6, "threshold": 6, "session_colluders": 2},
    {"adversary": "semi_honest"},
    {"round": 4},
    {"model_hash": b"n" * 32},
    {"context": b"d"},
    {"context": b"cc"},
    {"context": b""},
]


def changed(**fields: Any) -> Config:
    names = [field.name for field in dataclasses.fields(BASE)]
    values = {name: getattr(BASE, name) for name in names} | {"neighbors": None} | fields
    return Config(**values)


def test_every_field_changes_the_hash() -> None:
    assert changed().hash == BASE.hash
    hashes = [changed(**fields).hash for fields in CHANGES]
    assert len({*hashes, BASE.hash}) == len(CHANGES) + 1
    assert {name for fields in CHANGES for name in fields} >= {f.name for f in dataclasses.fields(BASE)} - {"masking"}


def test_the_way_it_is_written_does_not_change_the_hash() -> None:
    assert Config([3, 1, 2], 2, 5).hash == Config((1, 2, 3), 2, 5, neighbors=2).hash
    assert Config(np.array([3, 1, 2]), 2, 5) == Config({1, 2, 3}, 2, 5)


@pytest.mark.parametrize("name", ["threshold", "length", "modulus_bits", "neighbors", "colluders", "round"])
def test_numpy_integers_are_integers(name: str) -> None:
    value = getattr(BASE, name)
    assert changed(**{name: np.int64(value)}).hash == BASE.hash


@pytest.mark.parametrize("ids", [[1.5, 2.7, 3.2], ["1", "2", "3"], [True, 2, 3]])
def test_ids_that_are_no_whole_numbers_are_refused(ids: Any) -> None:
    with pytest.raises(errors.ConfigError):
        Config(ids, 2, 5)


def test_a_vector_that_no_message_can_carry_is_refused() -> None:
    with pytest.raises(errors.ConfigError):
        Config([1, 2], 2, 2**29, 64)
    assert Config([1, 2], 2, 2**29 - 1, 64).length == 2**29 - 1
    assert Config([1, 2], 2, 2**32, 7).length == 2**32


# Bytes.


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    ids = draw(st.sets(st.integers(1, 2**31 - 2), min_size=2, max_size=9))
    n = len(ids)
    neighbors = draw(st.sampled_from([None, *range(2, n - 1, 2)]))
    held = neighbors or n
    threshold = draw(st.integers(max(2, held // 2 + 1), held))
    return Config(
        ids,
        threshold,
        draw(st.integers(1, 2**29 - 1)),
        draw(st.integers(1, 64)),
        neighbors=neighbors,
        colluders=draw(st.integers(0, max(0, 2 * threshold - held - 1))),
        adversary=draw(st.sampled_from(["semi_honest", "malicious_server"])),
        round=draw(st.integers(0, 2**64 - 1)),
        model_hash=draw(st.binary(min_size=32, max_size=32)),
        context=draw(st.binary(max_size=100)),
    )


@given(configurations())
@settings(deadline=None)
def test_bytes_come_back_as_the_same_configuration(config: Config) -> None:
    data = config.to_bytes()
    again = Config.from_bytes(data)
    assert again == config
    assert (again.to_bytes(), again.hash) == (data, config.hash)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_secfeds_errors(data: bytes) -> None:
    with pytest.raises((errors.MalformedMessageError, errors.ConfigError)):
        Config.from_bytes(data)


@given(configurations(), st.integers(0, 2**16), st.integers(1, 255))
@examples(34, 300)
def test_altered_bytes_are_another_configuration_or_an_error(config: Config, place: int, change: int) -> None:
    data = bytearray(config.to_bytes())
    data[place % len(data)] ^= change
    try:
        again = Config.from_bytes(bytes(data))
    except (errors.MalformedMessageError, errors.ConfigError):
        return
    assert again != config
    assert again.hash != config.hash


def test_truncated_or_longer_bytes_are_malformed() -> None:
    for config in (BASE, ring(), complete()):
        data = config.to_bytes()
        for broken in [data[:size] for size in range(len(data))] + [data + b"\0"]:
            with pytest.raises(errors.SecFedError):
                Config.from_bytes(broken)


def test_there_is_one_encoding_of_a_configuration() -> None:
    data = Config([3, 5], 2, 5).to_bytes()
    swapped = data[:4] + data[8:12] + data[4:8] + data[12:]
    with pytest.raises(errors.MalformedMessageError):
        Config.from_bytes(swapped)


# Policy.


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Policy(minimum_cohort=12), "the configuration has 11 clients, this client's policy needs 12"),
        (Policy(minimum_threshold=4), "the configuration has 3 as threshold, this client's policy needs 4"),
        (Policy(minimum_neighbors=5), "the configuration has 4 neighbors, this client's policy needs 5"),
        (
            Policy(minimum_colluders=1),
            "the configuration has 0 tolerated colluders, this client's policy needs 1",
        ),
        (
            Policy(minimum_session_colluders=2),
            "the configuration has 0 tolerated colluders in the whole session, this client's policy needs 2",
        ),
        (
            Policy(adversary="malicious_server"),
            "the configuration is for a semi-honest server, this client's policy needs malicious_server",
        ),
    ],
    ids=["cohort", "threshold", "neighbors", "colluders", "session_colluders", "adversary"],
)
def test_policy_says_what_a_configuration_lacks(policy: Policy, text: str) -> None:
    assert policy.objection(ring(adversary="semi_honest")) == text


def test_policy_refuses_a_sum_that_could_be_split() -> None:
    strict = Policy(indivisible=True)
    for threshold, colluders, divisible in ((2, 0, True), (3, 0, False), (3, 1, True), (4, 1, False), (4, 2, True)):
        config = Config(RING, threshold, 5, neighbors=4, colluders=colluders)
        assert config.indivisible is not divisible
        assert bool(strict.objection(config)) is divisible
    # Against a malicious server it takes signatures of the whole session.
    fields: dict[str, Any] = {"neighbors": 4, "colluders": 1, "adversary": "malicious_server"}
    assert "without session_colluders lets the server split" in strict.objection(Config(RING, 4, 5, **fields))
    assert strict.objection(Config(RING, 4, 5, session_colluders=1, **fields)) == ""
    assert strict.objection(complete()) == ""
    assert Policy().objection(Config([1, 2], 2, 1)) == ""


def test_policy_has_nothing_against_exactly_what_it_needs() -> None:
    policy = Policy(5, 4, 4, 1, "malicious_server", indivisible=True, minimum_session_colluders=1)
    assert policy.objection(complete(colluders=1)) == ""
    whole = Config(RING, 4, 5, neighbors=4, colluders=1, session_colluders=2, adversary="malicious_server")
    assert dataclasses.replace(policy, minimum_session_colluders=2).objection(whole) == ""
    assert dataclasses.replace(policy, minimum_session_colluders=3).objection(whole)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"adversary": "malicous_server"}, "adversary 'malicous_server' must be one of"),
        ({"adversary": None}, "adversary None must be one of"),
        ({"minimum_cohort": float("nan")}, "minimum_cohort nan must be a whole number"),
        ({"minimum_cohort": 2.0}, "minimum_cohort 2.0 must be a whole number"),
        ({"minimum_threshold": "3"}, "minimum_threshold '3' must be a whole number"),
        ({"minimum_neighbors": True}, "minimum_neighbors True must be a whole number"),
        ({"minimum_colluders": -1}, "minimum_colluders -1 must not be negative"),
        ({"minimum_session_colluders": None}, "minimum_session_colluders None must be a whole number"),
        ({"indivisible": "yes"}, "indivisible 'yes' must be True or False"),
    ],
)
def test_policy_checks_its_fields_when_it_is_made(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.ConfigError, match=text):
        Policy(**fields)


def test_policy_takes_whole_numbers_of_numpy() -> None:
    assert Policy(minimum_cohort=np.int64(7)) == Policy(minimum_cohort=7)


@pytest.mark.parametrize("name", ["model_hash", "context"])
def test_configuration_takes_and_copies_bytes_only(name: str) -> None:
    with pytest.raises(errors.ConfigError, match=f"{name} is of type str, needs bytes"):
        changed(**{name: "x" * 32})
    given = bytearray(32)
    config = changed(**{name: given})
    before = config.hash
    given[0] = 1
    assert getattr(config, name) == bytes(32)
    assert Config.from_bytes(config.to_bytes()).hash == before


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"neighbors": None, "threshold": 7}, "has an effect only on a k-regular graph against a malicious server"),
        ({"adversary": "semi_honest"}, "has an effect only on a k-regular graph against a malicious server"),
        ({"session_colluders": 0}, r"session_colluders 0 must be from 1 \(colluders\) to 9 \(clients - 2\)"),
        ({"session_colluders": 10}, r"session_colluders 10 must be from 1 \(colluders\) to 9 \(clients - 2\)"),
        ({"session_colluders": 1.5}, "session_colluders 1.5 must be a whole number"),
        ({"neighbors": 6, "threshold": 5, "colluders": 2}, "threshold 5 must be at least 6 with session_colluders"),
    ],
)
def test_session_colluders_that_cannot_work_are_refused(fields: dict[str, Any], text: str) -> None:
    good: dict[str, Any] = {
        "threshold": 4,
        "length": 5,
        "neighbors": 4,
        "colluders": 1,
        "session_colluders": 2,
        "adversary": "malicious_server",
    }
    with pytest.raises(errors.ConfigError, match=text):
        Config(RING, **good | fields)


def test_a_client_sends_what_packing_says() -> None:
    rng = random.Random(1)
    for _ in range(5):
        config = Config([1, 2], 2, rng.randrange(1, 50), rng.randrange(1, 65))
        client = Client(config, 1, np.zeros(config.length, config.dtype))
        assert client.client_id == 1
        assert packing.packed_bytes(config.length, config.modulus_bits) == -(-config.length * config.modulus_bits // 8)


def test_identity_keys_of_other_types_are_refused_by_name() -> None:
    keys = {i: SigningKey.generate() for i in (1, 2, 3)}
    directory = {i: key.public_bytes for i, key in keys.items()}
    config = Config([1, 2, 3], 2, 4, adversary="malicious_server")
    with pytest.raises(errors.ConfigError, match="the directory has a SigningKey for client 1"):
        Server(config, directory=keys)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="signing_key is of type bytes"):
        Client(config, 1, np.zeros(4, int), signing_key=keys[1].private_bytes(), directory=directory)  # type: ignore[arg-type]
