"""A server is given parts that cannot work, and says so before a client has sent anything."""

from typing import Any

import numpy as np
import pytest

from secfed import paillier
from secfed.errors import ConfigError
from secfed.paillier.opening import OneKeyHolder
from tests.paillier.forge import LENGTH, answer, config, vector_of
from tests.paillier.keys import keypair
from tests.paillier.threshold_keys import dealt

WEIGHTS = {1: 3, 2: 5}


def without_h() -> tuple[paillier.PublicKey, paillier.PrivateKey]:
    private_key = keypair()[1]
    public_key = paillier.PublicKey(private_key.public_key.n, insecure_size=True)
    return public_key, paillier.PrivateKey(public_key, private_key.p, private_key.q)


def test_answers_of_one_session_are_no_sum_of_another() -> None:
    key, _ = dealt(2, 3)
    cohort = paillier.Config(key.public_key, [1, 2, 3], LENGTH, 16)
    for opening in (OneKeyHolder(), paillier.PartialDecryptions(key)):
        paillier.Server(cohort, opening=opening)
        with pytest.raises(ConfigError, match="an opening serves only one session"):
            paillier.Server(cohort, opening=opening)


def test_weighted_sum_under_a_key_without_h_takes_full_noise() -> None:
    public_key, private_key = without_h()
    weighted = paillier.Config(public_key, [1, 2], LENGTH, 16, weights=WEIGHTS)
    vectors = {client_id: vector_of(client_id) for client_id in (1, 2)}
    result = paillier.run_session(weighted, vectors, private_key, noise="full")
    assert np.array_equal(result.sum, (3 * vectors[1] + 5 * vectors[2]) % (1 << 16))


def test_noise_that_the_key_cannot_have_is_refused_at_once() -> None:
    weighted = paillier.Config(without_h()[0], [1, 2], LENGTH, 16, weights=WEIGHTS)
    with pytest.raises(ConfigError, match="this key has no h"):
        paillier.Server(weighted, noise="short")


@pytest.mark.parametrize("data", [memoryview(b"abcd")[::2], memoryview(np.zeros((0, 3), np.uint8))])
def test_bytes_with_gaps_are_refused_as_the_callers_fault(data: Any) -> None:
    cohort = config()
    server = paillier.Server(cohort)
    request = server.open()[1]
    client = paillier.Client(cohort, 1, vector_of(1))
    for receive in (client.receive, paillier.KeyHolder(cohort, keypair()[1]).receive):
        with pytest.raises(ConfigError, match="bytes without a gap"):
            receive(data)
    with pytest.raises(ConfigError, match="bytes without a gap"):
        server.receive(1, data)
    assert server.receive(1, answer(cohort, 1, request))
