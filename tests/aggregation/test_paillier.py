"""The mean under Paillier encryption: that of secure aggregation, bit for bit, and what the server sees of it."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secfed
from secfed import paillier
from secfed.errors import ConfigError, EncodingError, TooFewSurvivorsError
from secfed.secagg import Stage
from tests.examples import examples
from tests.paillier.keys import keypair


def aggregator(**parameters: Any) -> secfed.Paillier:
    return secfed.Paillier(private_key=keypair()[1], **{"noise": "short", "rounding_seed": 3, **parameters})


@examples(3, 25)
@given(st.integers(2, 5), st.integers(1, 400), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_mean_is_that_of_secure_aggregation(clients: int, largest_weight: int, degree: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    updates = [
        {"w": generator.uniform(-4, 4, (3, 4)).astype("f4"), "b": generator.uniform(-4, 4, 5)} for _ in range(clients)
    ]
    weights = generator.integers(1, largest_weight, clients, endpoint=True).tolist()
    encrypted = aggregator(degree=degree).aggregate(updates, weights, round=7)
    masked = secfed.SecAgg(threshold=1.0, rounding_seed=3).aggregate(updates, weights, round=7)
    assert encrypted.weight == masked.weight == sum(weights)
    assert encrypted.survivors == masked.survivors
    for name in ("w", "b"):
        assert encrypted.mean[name].dtype == updates[0][name].dtype
        assert np.array_equal(encrypted.mean[name], masked.mean[name])


@pytest.mark.parametrize("stage", [Stage.ADVERTISE_KEYS, Stage.MASKED_INPUT_COLLECTION])
def test_clients_that_send_nothing_are_dropouts(stage: Stage) -> None:
    updates = {client_id: np.full(3, float(client_id % 5)) for client_id in (4, 9, 1 << 63)}
    result = aggregator().aggregate(updates, dropouts={9: stage})
    assert result.survivors == (4, 1 << 63) and result.dropouts == (9,)
    assert result.bytes_up[9] == 0 < result.bytes_up[4]
    assert np.allclose(result.mean, (4 + (1 << 63) % 5) / 2, atol=1e-3)
    assert list(result.seconds) == [paillier.Stage.ENCRYPTED_INPUT_COLLECTION, paillier.Stage.DECRYPTION]


def test_too_few_survivors_give_no_mean() -> None:
    updates = [np.zeros(2)] * 4
    strict = aggregator(minimum_cohort=3)
    with pytest.raises(TooFewSurvivorsError, match="2 clients sent their input, needed 3"):
        strict.aggregate(updates, dropouts=dict.fromkeys((1, 2), Stage.ADVERTISE_KEYS))
    with pytest.raises(TooFewSurvivorsError, match="the cohort has 2 clients, needed 3"):
        strict.aggregate(updates[:2])


def test_update_that_does_not_fit_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(EncodingError, match=r"client 2: .*not finite"):
        aggregator().aggregate([np.zeros(2), np.array([0.0, math.nan])])
    with pytest.raises(EncodingError, match="client 2"):
        aggregator(max_weight=10).aggregate([np.zeros(2)] * 2, [1, 11])


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"clip": 0.0}, "clip 0.0"),
        ({"max_weight": 0}, "max_weight 0"),
        ({"minimum_cohort": 1}, "minimum_cohort 1"),
        ({"key_bits": 3072}, "needed at most one"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        aggregator(**parameters)


def test_aggregator_with_the_public_key_alone_configures_and_cannot_decrypt() -> None:
    public_key, private_key = keypair()
    prepared = secfed.Paillier(public_key=public_key, max_weight=1).prepare(np.zeros(3), [1, 2])
    assert (
        prepared.channel.config
        == secfed.Paillier(private_key=private_key, max_weight=1).prepare(np.zeros(3), [1, 2]).channel.config
    )
    with pytest.raises(ConfigError, match="public key only"):
        prepared.run([np.zeros(3)] * 2)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [({"key_bits": 1024}, "key_bits 1024"), ({"noise": "none"}, "found noise 'none'"), ({"degree": 9}, "degree 9")],
)
def test_parameters_of_the_session_are_refused_when_it_runs(parameters: dict[str, Any], text: str) -> None:
    key = {} if "key_bits" in parameters else {"private_key": keypair()[1]}
    with pytest.raises(ConfigError, match=text):
        secfed.Paillier(**key, **parameters).aggregate([np.zeros(2)] * 2)


@pytest.mark.parametrize("privacy", [secfed.CentralGaussian(1.0, 1.0), secfed.DistributedGaussian(1.0, 1.0, layers=3)])
def test_private_mean_tells_what_it_spent(privacy: Any) -> None:
    generator = np.random.default_rng(1)
    updates = [generator.normal(size=40) for _ in range(5)]
    mean_noise = []
    for _ in range(3):
        result = aggregator(minimum_cohort=3).aggregate(updates, privacy=privacy)
        clipped = sum(update / max(1.0, np.linalg.norm(update)) for update in updates) / 5
        mean_noise.append(result.mean - clipped)
        assert result.event is not None
        assert secfed.dp.Accountant().compose(result.event).epsilon(delta=1e-5) < 6
    spread = np.std(mean_noise)
    assert 0.1 < spread < 0.4  # noise of standard deviation 1 on the sum of five


def test_transcript_shows_ciphertexts_and_the_sum() -> None:
    updates = [np.linspace(-1, 1, 300) for _ in range(3)]
    transcript = aggregator().aggregate(updates, record=True).transcript
    assert transcript is not None
    assert transcript.protection == "paillier"
    seen = [(entry.stage.name, entry.direction, entry.client_id) for entry in transcript.entries]
    assert seen == [
        *[
            ("ENCRYPTED_INPUT_COLLECTION", direction, client_id)
            for client_id in (1, 2, 3)
            for direction in ("to_client", "to_server")
        ],
        ("DECRYPTION", "to_key_holder", 1),
        ("DECRYPTION", "to_server", 1),
    ]
    assert transcript.resemblance(2, updates[1]).hidden
    assert len({entry.data for entry in transcript.entries if entry.direction == "to_server"}) == 4


def test_holders_of_shares_decrypt_the_mean() -> None:
    key = paillier.deal_insecure(512, holders=3, threshold=2)
    updates = [np.full(5, 1.0), np.full(5, 3.0)]
    assert np.allclose(secfed.Paillier(private_key=key, noise="short").aggregate(updates).mean, 2, atol=1e-3)
    with pytest.raises(ConfigError, match="the threshold key has degree 1, the configuration 2"):
        secfed.Paillier(private_key=key, degree=2, noise="short").aggregate(updates)


def test_training_under_paillier_is_training_under_secure_aggregation() -> None:
    def local_update(model: Any, data: np.ndarray) -> tuple[Any, int]:
        return 0.5 * (data.mean(axis=0) - model), len(data)

    clients = {i: np.random.default_rng(i).normal(i, 0.1, size=(10 + i, 4)) for i in range(1, 5)}
    models = []
    for chosen in (aggregator(max_weight=16), secfed.SecAgg(threshold=1.0, max_weight=16, rounding_seed=3)):
        training = secfed.FedAvg(local_update, aggregator=chosen)
        models.append([report.model for report in training.rounds(np.zeros(4), clients, count=3)])
    assert np.array_equal(models[0], models[1])
