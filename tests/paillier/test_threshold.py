"""Threshold keys: enough holders decrypt, fewer do not, and the server names a holder that cheats."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed import errors, paillier
from secfed.crypto.entropy import SeededEntropy, SystemEntropy, predictable_secrets
from secfed.errors import ConfigError, DecryptionError, MissingExtraError, TooFewSurvivorsError
from secfed.paillier import integers
from secfed.paillier.integers import product_of_powers
from secfed.paillier.messages import EncryptedInputResponse
from tests import vectors
from tests.examples import examples
from tests.paillier.keys import keypair
from tests.paillier.threshold_keys import dealt

# threshold, holders, degree
SIZES = [(2, 2, 1), (2, 3, 1), (3, 4, 2), (3, 5, 1), (4, 5, 2)]
SESSION = bytes(32)


def config_of(key: paillier.ThresholdKey, **fields: Any) -> paillier.Config:
    return paillier.Config(key.public_key, [1, 2, 3], **{"length": 40, "degree": key.degree, **fields})


def partials_of(
    key: paillier.ThresholdKey, shares: tuple[paillier.KeyShare, ...], ciphertexts: list[Any]
) -> dict[int, list[Any]]:
    size = key.number_bytes
    columns = {}
    for share in shares:
        data = key.decrypt_partially(share, SESSION, ciphertexts, SystemEntropy()).partials
        columns[share.number] = [
            int.from_bytes(data[start : start + size], "little") for start in range(0, len(data), size)
        ]
    return columns


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("threshold", "holders", "degree"), SIZES)
def test_every_group_of_enough_holders_decrypts(threshold: int, holders: int, degree: int) -> None:
    key, shares = dealt(threshold, holders, degree)
    largest = key.public_key.n**degree - 1
    plaintexts = [0, 1, largest // 3, largest]
    columns = partials_of(key, shares, key.public_key.encrypt(plaintexts, degree=degree))
    for group in itertools.combinations(columns, threshold):
        assert key.combine({number: columns[number] for number in group}) == plaintexts
    assert key.combine(columns) == plaintexts


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("threshold", "holders", "degree"), [size for size in SIZES if size[0] > 2])
def test_no_group_of_fewer_holders_decrypts(threshold: int, holders: int, degree: int) -> None:
    key, shares = dealt(threshold, holders, degree)
    columns = partials_of(key, shares, key.public_key.encrypt([7], degree=degree))
    object.__setattr__(lenient := replace(key), "commitments", key.commitments[:-1])  # combines whatever it gets
    for group in itertools.combinations(columns, threshold - 1):
        few = {number: columns[number] for number in group}
        with pytest.raises(TooFewSurvivorsError, match=f"{threshold - 1} holders of a share answered"):
            key.combine(few)
        with pytest.raises(DecryptionError):
            lenient.combine(few)


def test_plain_integers_and_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    key, shares = dealt(2, 3)
    plaintexts = list(range(16))
    ciphertexts = key.public_key.encrypt(plaintexts)
    seed = bytes(32)
    with predictable_secrets():
        one, two = (
            key.decrypt_partially(shares[0], SESSION, ciphertexts, SeededEntropy(seed), threads) for threads in (1, 2)
        )
        monkeypatch.setattr(integers, "gmpy2", None)
        key = paillier.ThresholdKey.from_bytes(key.to_bytes(), insecure_size=True)
        plain = key.decrypt_partially(shares[0], SESSION, [int(c) for c in ciphertexts], SeededEntropy(seed))
    assert one == two == plain
    assert key.combine(partials_of(key, shares[1:], [int(c) for c in ciphertexts[:4]])) == plaintexts[:4]


def test_dealer_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "gmpy2", None)
    with pytest.raises(MissingExtraError, match="gmpy2"):
        paillier.deal(holders=3, threshold=2)


@st.composite
def sessions(draw: Any) -> tuple[Any, paillier.Config, dict[int, np.ndarray], set[int], set[int]]:
    threshold, holders, degree = draw(st.sampled_from(SIZES))
    shared = dealt(threshold, holders, degree)
    ids = draw(st.lists(st.integers(1, 1 << 63), min_size=2, max_size=4, unique=True))
    modulus_bits = draw(st.integers(1, 40))
    bound = draw(st.integers(0, (1 << (modulus_bits - 1)) - 1))
    weights = {client_id: draw(st.integers(1, 70_000)) for client_id in ids} if draw(st.booleans()) else None
    length = draw(st.integers(1, 40))
    config = paillier.Config(
        shared[0].public_key, ids, length, modulus_bits, bound=bound, weights=weights, degree=degree
    )
    entries = st.integers(-bound, bound) if bound else st.integers(0, (1 << modulus_bits) - 1)
    lists = st.lists(entries, min_size=length, max_size=length)
    inputs = {client_id: np.array(draw(lists), np.int64) % (1 << modulus_bits) for client_id in ids}
    dropouts = set(draw(st.lists(st.sampled_from(ids), max_size=len(ids) - 2, unique=True)))
    numbers = st.lists(st.integers(1, holders), max_size=holders - threshold, unique=True)
    return shared, config, inputs, dropouts, set(draw(numbers))


@examples(3, 50)
@given(sessions())
def test_sum_is_that_of_integers(session: Any) -> None:
    shared, config, inputs, dropouts, absent = session
    result = paillier.run_session(config, inputs, shared, dropouts=dropouts, absent=absent, noise="short")
    weight_of = dict(zip(config.client_ids, config.weights or [1] * len(config.client_ids), strict=True))
    exact = sum(inputs[i].astype(object) * weight_of[i] for i in result.survivors) % (1 << config.modulus_bits)
    assert result.survivors == tuple(sorted(set(config.client_ids) - dropouts))
    assert result.sum.tolist() == exact.tolist()
    assert result.faults == ()


def test_session_with_too_few_holders_ends_without_a_sum() -> None:
    key, shares = dealt(3, 5)
    zeros = {client_id: np.zeros(4, int) for client_id in (1, 2, 3)}
    with pytest.raises(TooFewSurvivorsError, match="2 holders of a share answered, needed 3") as caught:
        paillier.run_session(config_of(key, length=4), zeros, (key, shares), absent=[1, 3, 4])
    assert (caught.value.survivors, caught.value.threshold) == (2, 3)


def test_session_needs_a_share_for_each_holder_and_knows_who_is_absent() -> None:
    key, shares = dealt(2, 3)
    zeros = {client_id: np.zeros(4, int) for client_id in (1, 2, 3)}
    config = config_of(key, length=4)
    for odd in (shares[:2], (*shares, shares[0]), (shares[0], *shares[:2])):
        with pytest.raises(ConfigError, match="needed one share for each of 3 holders"):
            paillier.run_session(config, zeros, (key, odd))
    with pytest.raises(ConfigError, match="absent holders"):
        paillier.run_session(config, zeros, (key, shares), absent=[4])


def test_key_holder_of_a_whole_key_may_be_absent_too() -> None:
    public_key, private_key = keypair()
    config = paillier.Config(public_key, [1, 2], 4)
    with pytest.raises(TooFewSurvivorsError, match="the key holder has not answered"):
        paillier.run_session(config, {1: np.zeros(4, int), 2: np.zeros(4, int)}, private_key, absent=[1])


def test_sign_that_a_holder_changes_before_it_proves_changes_no_sum() -> None:
    """The proof allows it, for all bases are squares; the combination squares too."""
    key, shares = dealt(2, 3)
    plaintexts = [5, 6]
    columns = partials_of(key, shares, key.public_key.encrypt(plaintexts))
    columns[1] = [key.modulus - columns[1][0], columns[1][1]]
    assert key.combine(columns) == plaintexts


def test_share_of_another_key_is_refused() -> None:
    key, shares = dealt(2, 3)
    other_key, other_shares = paillier.deal_insecure(512, holders=3, threshold=2)
    for share in (other_shares[0], replace(shares[0], number=2), replace(shares[0], number=4)):
        with pytest.raises(ConfigError) as caught:
            paillier.ShareHolder(config_of(key), key, share)
        assert caught.value.check == "H1"
    with pytest.raises(ConfigError, match="does not belong"):
        paillier.ShareHolder(config_of(key), other_key, other_shares[0])


@pytest.mark.parametrize("change", [lambda value: value + 1, lambda value: -value, lambda value: 0])
def test_share_that_does_not_fit_the_key_is_refused(change: Callable[[int], int]) -> None:
    key, shares = dealt(2, 3)
    with pytest.raises(ConfigError, match="does not fit the threshold key"):
        paillier.ShareHolder(config_of(key), key, replace(shares[0], value=change(shares[0].value)))


def test_key_of_another_degree_is_refused_by_server_and_holder() -> None:
    key, shares = dealt(2, 3)
    config = config_of(key, degree=2)
    with pytest.raises(ConfigError, match="has degree 1, the configuration 2"):
        paillier.Server(config, opening=paillier.PartialDecryptions(key))
    with pytest.raises(ConfigError, match="has degree 1, the configuration 2"):
        paillier.ShareHolder(config, key, shares[0])
    with pytest.raises(ConfigError, match="does not belong"):
        paillier.Server(paillier.Config(keypair()[0], [1, 2], 4), opening=paillier.PartialDecryptions(key))


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"holders": 4, "threshold": 2}, "not more than half"),
        ({"holders": 3, "threshold": 4}, "threshold <= holders"),
        ({"holders": 1, "threshold": 1}, "threshold <= holders"),
        ({"holders": 65, "threshold": 60}, "threshold <= holders"),
        ({"holders": 3, "threshold": 2, "degree": 0}, "degree 0"),
        ({"holders": 3, "threshold": 2, "degree": 8}, "degree 8"),
        ({"holders": 3, "threshold": 2, "key_bits": 1000}, "key_bits 1000"),
    ],
)
def test_dealer_refuses_numbers_that_do_not_fit(numbers: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        paillier.deal_insecure(**numbers)
    with pytest.raises(ConfigError):
        paillier.deal(**numbers)


def test_dealer_of_real_keys_refuses_a_small_one() -> None:
    with pytest.raises(ConfigError, match="from 2048"):
        paillier.deal(1024, holders=3, threshold=2)


def test_primes_of_a_dealt_key_are_safe() -> None:
    gmpy2 = pytest.importorskip("gmpy2")
    from secfed.paillier.generation import safe_primes

    p, q = safe_primes(640)
    for prime in (p, q):
        assert prime.bit_length() == 320 and gmpy2.is_prime(prime) and gmpy2.is_prime(prime // 2)
    assert (p * q).bit_length() == 640 and math.gcd(p - 1, q - 1) == 2


@pytest.mark.slow
def test_key_of_full_size_decrypts() -> None:
    key, shares = paillier.deal(2048, holders=3, threshold=2)
    inputs = {client_id: np.full(40, client_id) for client_id in (1, 2, 3)}
    result = paillier.run_session(config_of(key), inputs, (key, shares), absent=[2])
    assert result.sum.tolist() == [6] * 40


@pytest.mark.parametrize(("threshold", "holders", "degree"), SIZES)
def test_key_and_shares_come_back_from_their_bytes(threshold: int, holders: int, degree: int) -> None:
    key, shares = dealt(threshold, holders, degree)
    again = paillier.ThresholdKey.from_bytes(key.to_bytes(), insecure_size=True)
    assert again == key
    assert (again.threshold, again.holders, again.degree) == (threshold, holders, degree)
    for share in shares:
        assert paillier.KeyShare.from_bytes(share.to_bytes(key), again) == share


def test_key_is_refused_without_leave_for_its_size() -> None:
    with pytest.raises(ConfigError, match="512 bits"):
        paillier.ThresholdKey.from_bytes(dealt(2, 3)[0].to_bytes())


@given(st.data())
def test_bytes_of_a_key_are_refused_or_are_those_of_a_key(data: Any) -> None:
    whole = bytearray(dealt(2, 3)[0].to_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(whole[: data.draw(st.sampled_from([len(whole), data.draw(st.integers(0, len(whole)))]))])
    try:
        found = paillier.ThresholdKey.from_bytes(cut, insecure_size=True).to_bytes()
    except ConfigError as error:
        found = error.check.encode()
    assert found in (b"P1", cut)


@given(st.data())
def test_changed_bytes_of_a_share_are_refused(data: Any) -> None:
    key, shares = dealt(2, 3)
    whole = bytearray(shares[1].to_bytes(key))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ConfigError) as caught:
        paillier.KeyShare.from_bytes(bytes(whole), key)
    assert caught.value.check == "H1"


@given(st.data())
def test_product_of_powers_is_the_plain_product(data: Any) -> None:
    modulus = data.draw(st.integers(2, 1 << 200))
    exponents = data.draw(st.lists(st.integers(0, (1 << data.draw(st.sampled_from([1, 7, 128]))) - 1), max_size=60))
    bases = [pow(3, 7 + 5 * place, modulus) for place in range(len(exponents))]
    plain = math.prod(pow(base, exponent, modulus) for base, exponent in zip(bases, exponents, strict=True)) % modulus
    assert product_of_powers(bases, exponents, modulus) % modulus == plain


# ---------------------------------------------------------------- the published vectors

FILES = [path for path in vectors.files("paillier") if "threshold_key" in vectors.load(path).get("inputs", {})]
ANSWERS = [path for path in FILES if path.name.startswith("threshold_")]
KEYS = [path for path in FILES if path.name.startswith(("reject_P1_", "reject_H1_"))]
STEPS = [path for path in FILES if "steps" in vectors.load(path)]


def key_in(vector: dict[str, Any]) -> paillier.ThresholdKey:
    return paillier.ThresholdKey.from_bytes(bytes.fromhex(vector["inputs"]["threshold_key"]), insecure_size=True)


def shares_in(vector: dict[str, Any], key: paillier.ThresholdKey) -> dict[int, paillier.KeyShare]:
    shares = vector["inputs"]["shares"].items()
    return {int(number): paillier.KeyShare.from_bytes(bytes.fromhex(data), key) for number, data in shares}


def test_every_vector_with_a_threshold_key_is_replayed_here() -> None:
    assert sorted(ANSWERS + KEYS + STEPS) == FILES
    assert len(ANSWERS) >= 2 and len(KEYS) >= 15 and len(STEPS) >= 20


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_holders_answer_and_combine_as_published(path: Path) -> None:
    vector = vectors.load(path)
    key, result = key_in(vector), vector["result"]
    assert key.to_bytes().hex() == vector["inputs"]["threshold_key"]
    session_id, size = bytes.fromhex(vector["inputs"]["session_id"]), key.number_bytes
    data = bytes.fromhex(vector["inputs"]["ciphertexts"])
    ciphertexts = [int.from_bytes(data[start : start + size], "little") for start in range(0, len(data), size)]
    columns = {}
    for number, share in shares_in(vector, key).items():
        assert share.to_bytes(key).hex() == vector["inputs"]["shares"][str(number)]
        with predictable_secrets():
            entropy = SeededEntropy(bytes.fromhex(vector["seeds"][f"key holder {number}"]))
            answer = key.decrypt_partially(share, session_id, ciphertexts, entropy)
        names = ("partials", "challenge", "response")
        assert {name: getattr(answer, name).hex() for name in names} == result["answers"][str(number)]
        columns[number] = [
            int.from_bytes(answer.partials[start : start + size], "little") for start in range(0, len(data), size)
        ]
        proof = (answer.challenge, answer.response)
        assert key.is_proved(number, session_id, ciphertexts, columns[number], *proof)
    for group in result["combined"]:
        found = key.combine({number: columns[number] for number in group["holders"]})
        assert [str(plaintext) for plaintext in found] == group["plaintexts"]


def read_inputs(vector: dict[str, Any]) -> None:
    key = key_in(vector)
    paillier.KeyShare.from_bytes(bytes.fromhex(vector["inputs"]["share"]), key)


@pytest.mark.parametrize("path", KEYS, ids=lambda path: path.stem)
def test_key_or_share_is_refused_as_published(path: Path) -> None:
    vector = vectors.load(path)
    assert vector["error"]["type"] == "ConfigError"
    with pytest.raises(ConfigError) as caught:
        read_inputs(vector)
    assert caught.value.check == vector["error"]["check"]


def config_in(vector: dict[str, Any], key: paillier.ThresholdKey) -> paillier.Config:
    fields = dict(vector["config"])
    assert key.public_key.id.hex() == fields.pop("key_id")
    for name in ("model_hash", "context"):
        fields[name] = bytes.fromhex(fields[name])
    fields["weights"] = dict(zip(fields["client_ids"], fields["weights"], strict=False)) or None
    return paillier.Config(key.public_key, **fields)


def parties(vector: dict[str, Any]) -> tuple[paillier.Server, dict[str, Any]]:
    """Build the server and, by the names that steps have, the clients and holders."""
    key, inputs = key_in(vector), vector["inputs"]
    assert key.public_key.to_bytes().hex() == inputs["public_key"]
    config = config_in(vector, key)
    entropy = {name: SeededEntropy(bytes.fromhex(seed)) for name, seed in vector.get("seeds", {}).items()}
    server = paillier.Server(config, opening=paillier.PartialDecryptions(key), entropy=entropy.get("server"))
    named: dict[str, Any] = {}
    for name, values in inputs["vectors"].items():
        named[f"client {name}"] = paillier.Client(
            config, int(name), np.array(values, np.uint64), noise=inputs["noise"]["clients"], entropy=entropy[name]
        )
    for number, share in shares_in(vector, key).items():
        name = f"key holder {number}"
        named[name] = paillier.ShareHolder(config, key, share, entropy=entropy.get(name))
    return server, named


def replay(server: paillier.Server, named: dict[str, Any], step: dict[str, Any]) -> None:
    """Feed one step to its party and compare what comes back."""
    if step["to"] != "server":
        assert named[step["to"]].receive(bytes.fromhex(step["receives"])).hex() == step["replies"]
    elif "from" in step:
        data = bytes.fromhex(step["receives"])
        late = server.stage is paillier.Stage.DECRYPTION and data[1] == EncryptedInputResponse.kind
        assert server.receive(step["from"], data) is not late
    else:
        outbox = server.open() if "opens" in step else server.close_stage()
        assert {str(party): data.hex() for party, data in outbox.items()} == step["sends"]


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_session_replays_byte_for_byte(path: Path) -> None:
    vector = vectors.load(path)
    *steps, last = vector["steps"]
    with predictable_secrets():
        server, named = parties(vector)
        for step in steps:
            replay(server, named, step)
        if expected := vector.get("error"):
            with pytest.raises(getattr(errors, expected["type"])) as caught:
                replay(server, named, {"replies": "", "sends": {}, **last})
            assert caught.value.check == expected.get("check", "")
            assert getattr(caught.value, "holder_id", None) == expected.get("holder_id")
            return
        replay(server, named, last)
    assert server.sum.tolist() == vector["result"]["sum"]
    assert list(server.survivors) == vector["result"]["survivors"]
    assert [fault.check for fault in server.faults] == [fault["check"] for fault in vector.get("faults", [])]


@pytest.mark.parametrize("name", ["2_of_3", "3_of_4_degree_2", "all_answer"])
def test_session_in_memory_sends_what_is_published(name: str) -> None:
    vector = vectors.load(vectors.PROTOCOLS / "paillier" / "vectors" / f"session_threshold_{name}.json")
    key, shares = key_in(vector), shares_in(vector, key_in(vector))
    steps = [step for step in vector["steps"] if step["to"] != "server"]
    answered = {step["to"] for step in steps}
    names = {0: "server", **{-number: f"key holder {number}" for number in shares}}
    found = []

    def watch(stage: paillier.Stage, direction: str, party: int, data: bytes) -> None:
        if direction == "to_server":
            found.append(data.hex())

    with predictable_secrets():
        seeds = {name: SeededEntropy(bytes.fromhex(seed)) for name, seed in vector["seeds"].items()}
        result = paillier.run_session(
            config_in(vector, key),
            {int(name): np.array(values, np.uint64) for name, values in vector["inputs"]["vectors"].items()},
            (key, list(shares.values())),
            dropouts=[i for i in vector["config"]["client_ids"] if f"client {i}" not in answered],
            absent=[number for number in shares if f"key holder {number}" not in answered],
            noise=vector["inputs"]["noise"]["clients"],
            observer=watch,
            entropies=lambda party: seeds[names.get(party, str(party))],
        )
    assert sorted(found) == sorted(step["replies"] for step in steps)
    assert result.sum.tolist() == vector["result"]["sum"]
