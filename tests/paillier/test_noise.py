"""Noise: never twice the same, never missing, whatever the kind; and the pool that holds it."""

import copy
import os
import pickle

import pytest

from secfed import errors, paillier
from secfed.crypto.entropy import DerivedEntropy
from secfed.paillier import integers
from secfed.paillier.messages import DecryptionRequest, EncryptedInputResponse
from secfed.paillier.noise import NOISES
from tests.paillier.forge import answer, config, total, vector_of
from tests.paillier.keys import keypair, other_keypair

KINDS = pytest.mark.parametrize("noise", NOISES)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("noise", "degree"), [("half", 1), ("short", 1), ("full", 1), ("half", 2), ("full", 2)])
def test_ciphertexts_of_one_plaintext_differ_and_hide_it(noise: paillier.Noise, degree: int) -> None:
    key, private_key = keypair()
    found = key.encrypt([7] * 8, noise=noise, degree=degree) + key.encrypt([7] * 8, noise=noise, degree=degree)
    assert len(set(found)) == 16
    for ciphertext in found:
        assert (ciphertext - 1) % key.n != 0
        assert ciphertext != 1 + 7 * key.n
        assert 0 < ciphertext < key.n ** (degree + 1)
    assert private_key.decrypt(found, degree=degree) == [7] * 16


def test_plaintext_out_of_range_is_refused() -> None:
    key = keypair()[0]
    for plaintext in (-1, key.n):
        with pytest.raises(errors.EncodingError, match="out of range"):
            key.encrypt([plaintext])
    with pytest.raises(errors.ConfigError, match="degree 8"):
        key.encrypt([1], degree=8)
    with pytest.raises(errors.ConfigError, match="found noise 'none'"):
        key.encrypt([1], noise="none")  # type: ignore[arg-type]


@KINDS
def test_noise_of_a_pool_is_used_once(noise: paillier.Noise) -> None:
    key, private_key = keypair()
    pool = key.noise_pool(noise=noise)
    pool.fill(3)
    pool.fill(3)
    found = [key.encrypt([7] * 2, noise=noise, pool=pool) for _ in range(3)]
    assert len({ciphertext for pair in found for ciphertext in pair}) == 6
    assert private_key.decrypt([ciphertext for pair in found for ciphertext in pair]) == [7] * 6
    assert len(pool) == 0
    with pytest.raises(errors.StageError, match="noise for 0 ciphertexts, needed 1"):
        key.encrypt([7], noise=noise, pool=pool)


def test_pool_that_has_too_little_gives_nothing() -> None:
    pool = keypair()[0].noise_pool()
    pool.fill(2)
    with pytest.raises(errors.StageError, match="noise for 2 ciphertexts, needed 3"):
        keypair()[0].encrypt([1, 2, 3], pool=pool)
    assert len(pool) == 2


def test_pool_of_another_key_noise_or_degree_is_refused() -> None:
    key, cohort = keypair()[0], config()
    for pool in (other_keypair()[0].noise_pool(), key.noise_pool(noise="full"), key.noise_pool(degree=2)):
        with pytest.raises(errors.ConfigError, match="needed half noise at degree 1"):
            key.encrypt([7], pool=pool)
        with pytest.raises(errors.ConfigError, match="needed half noise at degree 1"):
            paillier.Client(cohort, 1, vector_of(1), pool=pool)
    pool = key.noise_pool()
    pool.fill(1)
    with pytest.raises(errors.ConfigError, match="needed one of them"):
        key.encrypt([7], pool=pool, seed=bytes(32))


def test_pool_cannot_be_copied_or_stored() -> None:
    pool = keypair()[0].noise_pool()
    for store in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(errors.ConfigError, match="must not be copied or stored"):
            store(pool)


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")  # the child runs none of the threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_pool_is_refused_after_a_fork() -> None:
    pool = keypair()[0].noise_pool()
    pool.fill(2)
    child = os.fork()
    if not child:
        refused = 0
        for use in (pool.take, pool.fill):
            try:
                use(1)
            except errors.StageError as error:
                refused += "another process" in str(error)
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert len(pool.take(2)) == 2


@pytest.mark.parametrize("ready", [0, 1])
def test_empty_pool_does_no_harm_to_the_client(ready: int) -> None:
    cohort, pool = config(), keypair()[0].noise_pool()
    assert cohort.packing.plaintexts == 2
    pool.fill(ready)
    server = paillier.Server(cohort)
    requests = server.open()
    client = paillier.Client(cohort, 1, vector_of(1), pool=pool)
    with pytest.raises(errors.StageError, match="needed 2") as caught:
        client.receive(requests[1])
    assert caught.value.check == ""
    assert client.stage is paillier.Stage.ENCRYPTED_INPUT_COLLECTION
    pool.fill(2)
    server.receive(1, client.receive(requests[1]))
    assert len(pool) == ready
    server.receive(2, answer(cohort, 2, requests[2]))
    [request] = server.close_stage().values()
    server.receive(1, paillier.KeyHolder(cohort, keypair()[1]).receive(request))
    server.close_stage()
    assert server.sum.tolist() == total(cohort, [1, 2])


def test_pool_of_another_process_does_no_harm_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, pool = config(), keypair()[0].noise_pool()
    pool.fill(2)
    client, request = paillier.Client(cohort, 1, vector_of(1), pool=pool), paillier.Server(cohort).open()[1]
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(errors.StageError, match="another process"):
            client.receive(request)
    assert client.receive(request)


@KINDS
def test_weighted_sum_gets_noise_of_its_own(noise: paillier.Noise) -> None:
    cohort, key = config(weights={1: 3, 2: 1, 3: 500}), keypair()[0]
    server = paillier.Server(cohort, noise=noise)
    size, columns = key.ciphertext_bytes(), []
    for client_id, request in server.open().items():
        response = answer(cohort, client_id, request)
        server.receive(client_id, response)
        columns.append(integers.read_column(EncryptedInputResponse.from_bytes(response).ciphertexts, size))
    [request] = server.close_stage().values()
    sent = integers.read_column(DecryptionRequest.from_bytes(request).ciphertexts, size)
    quotients = []
    for row, ciphertext in zip(zip(*columns, strict=True), sent, strict=True):
        bare = 1
        for weight, factor in zip(cohort.weights, row, strict=True):
            bare = bare * pow(int(factor), weight, key.n**2) % key.n**2
        quotients.append(int(ciphertext) * pow(bare, -1, key.n**2) % key.n**2)
    assert all((quotient - 1) % key.n for quotient in quotients)
    assert len(set(quotients)) == len(quotients)
    assert keypair()[1].decrypt(quotients) == [0] * len(quotients)


def test_pool_refuses_a_seed_that_it_has_drawn_from() -> None:
    pool = keypair()[0].noise_pool(noise="short", entropy=DerivedEntropy(bytes(32)))
    pool.fill(2)
    with pytest.raises(errors.ConfigError, match="the entropy repeated a seed"):
        pool.fill(2)
    assert len(pool) == 2
