"""The contract: vectors of integers in, their weighted sum out, with the survivors; exact, always."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secfed
from secfed import paillier
from secfed.crypto.entropy import SeededEntropy, predictable_secrets
from secfed.errors import ConfigError, EncodingError, TooFewSurvivorsError
from secfed.paillier import integers
from tests.examples import examples
from tests.paillier.keys import keypair, other_keypair


@st.composite
def sessions(draw: Any) -> tuple[paillier.Config, dict[int, np.ndarray], set[int]]:
    ids = draw(st.lists(st.integers(1, 1 << 63), min_size=2, max_size=5, unique=True))
    modulus_bits = draw(st.integers(1, 40))
    bound = draw(st.integers(0, (1 << (modulus_bits - 1)) - 1))
    weighted = draw(st.booleans())
    weights = {client_id: draw(st.integers(1, 70_000)) for client_id in ids} if weighted else None
    length = draw(st.integers(1, 60))
    config = paillier.Config(
        keypair()[0], ids, length, modulus_bits, bound=bound, weights=weights, degree=draw(st.integers(1, 3))
    )
    edges = st.sampled_from([-bound, bound, 0]) if bound else st.sampled_from([0, (1 << modulus_bits) - 1])
    inner = st.integers(-bound, bound) if bound else st.integers(0, (1 << modulus_bits) - 1)
    entries = st.lists(st.one_of(edges, inner), min_size=length, max_size=length)
    vectors = {client_id: np.array(draw(entries), np.int64) % (1 << modulus_bits) for client_id in ids}
    return config, vectors, set(draw(st.lists(st.sampled_from(ids), max_size=len(ids) - 2, unique=True)))


@examples(4, 40)
@given(sessions())
def test_sum_is_that_of_integers(session: tuple[paillier.Config, dict[int, np.ndarray], set[int]]) -> None:
    config, vectors, dropouts = session
    result = paillier.run_session(config, vectors, keypair()[1], dropouts=dropouts, noise="full")
    assert result.survivors == tuple(sorted(set(config.client_ids) - dropouts))
    assert result.dropouts == tuple(sorted(dropouts))
    weight_of = dict(zip(config.client_ids, config.weights or [1] * len(config.client_ids), strict=True))
    exact = sum(vectors[i].astype(object) * weight_of[i] for i in result.survivors) % (1 << config.modulus_bits)
    assert result.sum.tolist() == exact.tolist()
    assert result.faults == ()


def test_session_below_the_minimum_cohort_ends_without_a_sum() -> None:
    config = paillier.Config(keypair()[0], [1, 2, 3], 4, minimum_cohort=3)
    with pytest.raises(TooFewSurvivorsError, match="2 clients sent their input, needed 3"):
        paillier.run_session(config, lambda client_id: np.zeros(4, int), keypair()[1], dropouts=[2])


def test_key_of_another_is_refused_before_anything_is_decrypted() -> None:
    config = paillier.Config(keypair()[0], [1, 2], 4)
    with pytest.raises(ConfigError, match="does not belong"):
        paillier.KeyHolder(config, other_keypair()[1])


@pytest.mark.parametrize(
    ("vector", "text"),
    [
        (np.zeros(3, int), "needed integers of shape"),
        (np.zeros(4), "dtype float64"),
        (np.full(4, np.nan), "dtype float64"),
        (np.array([0, 0, 0, -1]), "not from 0 to"),
        (np.array([0, 0, 0, 1 << 16]), "not from 0 to"),
        (np.array([0, 0, 0, 1001]), "beyond the bound 1000"),
        (np.array([0, 0, 0, (1 << 16) - 1001]), "beyond the bound 1000"),
    ],
)
def test_vector_that_does_not_fit_is_refused(vector: np.ndarray, text: str) -> None:
    config = paillier.Config(keypair()[0], [1, 2], 4, 16, bound=1000)
    with pytest.raises(EncodingError, match=text):
        paillier.Client(config, 1, vector)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"client_ids": [1]}, "the sum of one client would reveal its vector"),
        ({"client_ids": [1, 1]}, "occur twice"),
        ({"client_ids": [0, 1]}, "client id 0"),
        ({"length": 0}, "length 0"),
        ({"modulus_bits": 65}, "modulus_bits 65"),
        ({"bound": 1 << 31}, "bound"),
        ({"weights": {1: 1}}, "but not both"),
        ({"weights": {1: 1, 2: 0}}, "weight of client 2"),
        ({"weights": {1: 1, 2: 1 << 33}}, "weight of client 2"),
        ({"minimum_cohort": 1}, "minimum_cohort 1"),
        ({"minimum_cohort": 3}, "minimum_cohort 3"),
        ({"degree": 8}, "degree 8"),
        ({"modulus_bits": 64}, "needs 65 bits, 64 are the most"),
        ({"model_hash": b"short"}, "model_hash"),
        ({"context": bytes(1025)}, "context"),
        ({"public_key": 15}, "public_key is of type int"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(fields: dict[str, Any], text: str) -> None:
    good: dict[str, Any] = {"public_key": keypair()[0], "client_ids": [1, 2], "length": 4}
    with pytest.raises(ConfigError, match=text):
        paillier.Config(**good | fields)


@pytest.mark.parametrize("noise", ["half", "short"])
def test_a_vector_encrypted_in_slices_is_that_encrypted_at_once(noise: paillier.Noise) -> None:
    public_key, private_key = keypair()
    config = paillier.Config(public_key, [1, 2], 64, 64 - 1)
    length = config.packing.slots * 1030  # two whole slices and a part
    config = paillier.Config(public_key, [1, 2], length, 63)
    entries = np.random.default_rng(0).integers(0, 1 << 62, length, np.uint64)
    with predictable_secrets():
        seed = SeededEntropy(bytes(32)).draw("noise seed", 32)
        request = next(iter(paillier.Server(config).open().values()))
        response = paillier.Client(config, 1, entries, noise=noise, entropy=SeededEntropy(bytes(32))).receive(request)
    whole = public_key.encrypt(config.packing.pack(entries), noise=noise, seed=seed)
    assert response.endswith(integers.column(whole, public_key.ciphertext_bytes()))
    assert private_key.decrypt(whole[-3:]) == config.packing.pack(entries)[-3:]


def test_progress_is_told_for_every_party_and_ends_with_all() -> None:
    told: dict[tuple[paillier.Stage, int], list[tuple[int, int]]] = {}

    def progress(stage: paillier.Stage, party: int, done: int, count: int) -> None:
        told.setdefault((stage, party), []).append((done, count))

    public_key, private_key = keypair()
    config = paillier.Config(public_key, [4, 9], 3000)
    vectors = dict.fromkeys((4, 9), np.arange(3000))
    paillier.run_session(config, vectors, private_key, noise="short", progress=progress)
    asked, opened = paillier.Stage.ENCRYPTED_INPUT_COLLECTION, paillier.Stage.DECRYPTION
    assert list(told) == [(asked, 4), (asked, 9), (opened, 1)]
    for steps in told.values():
        assert steps == sorted(steps) and steps[-1] == (config.packing.plaintexts, config.packing.plaintexts)


def test_weights_come_by_client_or_in_order_and_a_configuration_can_be_replaced() -> None:
    public_key = keypair()[0]
    by_client = paillier.Config(public_key, [5, 2], 4, weights={5: 30, 2: 7})
    assert by_client.weights == (7, 30)
    assert paillier.Config(public_key, [5, 2], 4, weights=[7, 30]) == by_client
    again = dataclasses.replace(by_client, round=3)
    assert (again.round, again.weights) == (3, (7, 30)) and again.hash != by_client.hash
    for weights, text in (([7], "needed one for each of 2"), (7, "found weights 7"), ({"a": 1}, "but not both")):
        with pytest.raises(ConfigError, match=text):
            paillier.Config(public_key, [5, 2], 4, weights=weights)  # type: ignore[arg-type]


def test_no_threads_at_all_are_refused_before_anything_is_done() -> None:
    public_key, private_key = keypair()
    config = paillier.Config(public_key, [1, 2], 4)
    for party in (
        lambda: paillier.Client(config, 1, np.zeros(4, int), threads=0),
        lambda: paillier.Server(config, threads=-1),
        lambda: paillier.KeyHolder(config, private_key, threads=0),
        lambda: private_key.decrypt(public_key.encrypt([1]), threads=0),
    ):
        with pytest.raises(ConfigError, match=r"threads -?\d must be at least 1"):
            party()


def test_secret_keys_are_not_pickled_in_passing() -> None:
    _, [share, *_] = paillier.deal_insecure(512, holders=3, threshold=2)
    for secret in (keypair()[1], share, secfed.Paillier(private_key=keypair()[1])):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(secret)
