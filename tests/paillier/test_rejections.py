"""Who sends garbage is named, and the round goes on without it."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from secfed import errors, paillier
from secfed.paillier import server as server_module
from secfed.paillier.messages import DecryptionResponse, EncryptedInputResponse
from tests.paillier.forge import LENGTH, answer, collected, config, total, vector_of, with_first, with_plaintext
from tests.paillier.keys import keypair, other_keypair

IDS = tuple(range(1, 12))


def test_session_names_who_sends_garbage_and_goes_on_without_them() -> None:
    cohort, n = config(IDS), keypair()[0].n
    server, elsewhere = paillier.Server(cohort), paillier.Server(cohort)
    requests, others = server.open(), elsewhere.open()
    honest = {client_id: answer(cohort, client_id, request) for client_id, request in requests.items()}
    ciphertexts = EncryptedInputResponse.from_bytes(honest[8]).ciphertexts
    sent = [
        (1, with_first(cohort, honest[1], 0), "S7"),
        (2, with_first(cohort, honest[2], n), "S8"),
        (3, with_first(cohort, honest[3], keypair()[1].p), "S8"),
        (4, with_first(cohort, honest[4], n**2 + 5), "S7"),
        (5, honest[5][:-1], "S2"),
        (6, answer(cohort, 6, others[6]), "S5"),
        (7, honest[7], ""),
        (7, honest[7], "S4"),
        (8, replace(EncryptedInputResponse.from_bytes(honest[8]), ciphertexts=ciphertexts[:-1]).to_bytes(), "S6"),
        (9, requests[9], "S3"),
        (10, honest[10], ""),
        (11, honest[11], ""),
        (12, honest[1], "S1"),
    ]
    for client_id, data, check in sent:
        if not check:
            assert server.receive(client_id, data)
            continue
        with pytest.raises(errors.FaultyClientError) as caught:
            server.receive(client_id, data)
        assert (caught.value.client_id, caught.value.check) == (client_id, check)
        assert f"client {client_id}: " in str(caught.value)
    [request] = server.close_stage().values()
    server.receive(1, paillier.KeyHolder(cohort, keypair()[1]).receive(request))
    server.close_stage()
    assert server.survivors == (7, 10, 11)
    assert server.dropouts == (1, 2, 3, 4, 5, 6, 8, 9)
    assert server.sum.tolist() == total(cohort, [7, 10, 11])
    assert [(fault.client_id, fault.check) for fault in server.faults] == [  # type: ignore[union-attr]
        (client_id, check) for client_id, _, check in sent if check
    ]


def test_client_that_was_refused_may_still_send_a_proper_response() -> None:
    cohort = config()
    server = paillier.Server(cohort)
    response = answer(cohort, 2, server.open()[2])
    with pytest.raises(errors.FaultyClientError, match="S7"):
        server.receive(2, with_first(cohort, response, 0))
    assert server.receive(2, response)


def test_key_holder_that_was_refused_may_still_send_a_proper_response() -> None:
    cohort = config()
    server, request = collected(cohort, [1, 2, 3])
    response = DecryptionResponse.from_bytes(paillier.KeyHolder(cohort, keypair()[1]).receive(request))
    beyond = replace(response, plaintexts=b"\xff" * len(response.plaintexts))
    with pytest.raises(errors.FaultyKeyHolderError, match="S9: key holder 1"):
        server.receive(1, beyond.to_bytes())
    assert server.receive(1, response.to_bytes())
    server.close_stage()
    assert server.sum.tolist() == total(cohort, [1, 2, 3])


def test_message_after_the_session_is_late_and_no_fault() -> None:
    cohort = config()
    server, request = collected(cohort, [1, 2])
    server.receive(1, paillier.KeyHolder(cohort, keypair()[1]).receive(request))
    server.close_stage()
    assert server.receive(77, b"garbage") is False
    assert server.faults == []


def test_server_remembers_only_so_many_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MOST_FAULTS", 2)
    server = paillier.Server(config())
    server.open()
    for _ in range(4):
        with pytest.raises(errors.FaultyClientError):
            server.receive(1, b"")
    assert len(server.faults) == 2


def test_server_refuses_calls_out_of_turn() -> None:
    cohort = config()
    server = paillier.Server(cohort)
    with pytest.raises(errors.StageError, match="not open"):
        server.receive(1, b"")
    with pytest.raises(errors.StageError, match="not open"):
        server.close_stage()
    server.open()
    with pytest.raises(errors.StageError, match="open already"):
        server.open()
    with pytest.raises(errors.StageError, match="asked to close DECRYPTION"):
        server.close_stage(paillier.Stage.DECRYPTION)
    with pytest.raises(errors.StageError, match="no sum yet"):
        _ = server.sum
    with pytest.raises(errors.TooFewSurvivorsError):
        server.close_stage()
    with pytest.raises(errors.StageError, match="ABORTED"):
        server.close_stage()
    with pytest.raises(errors.ConfigError, match="only with public weights"):
        paillier.Server(cohort, noise="full")


def test_client_leaves_a_session_with_another_configuration() -> None:
    cohort = config()
    client = paillier.Client(cohort, 1, vector_of(1))
    with pytest.raises(errors.FaultyServerError, match="C3"):
        client.receive(paillier.Server(config(round=1)).open()[1])
    assert client.stage is paillier.Stage.ABORTED
    with pytest.raises(errors.StageError) as caught:
        client.receive(paillier.Server(cohort).open()[1])
    assert caught.value.check == "C2"


def test_client_whose_vector_cannot_be_made_leaves_the_session() -> None:
    cohort = config()

    def vector() -> np.ndarray:
        raise RuntimeError("no data")

    client, request = paillier.Client(cohort, 1, vector), paillier.Server(cohort).open()[1]
    with pytest.raises(RuntimeError, match="no data"):
        client.receive(request)
    with pytest.raises(errors.StageError, match="ABORTED"):
        client.receive(request)
    with pytest.raises(errors.EncodingError):
        paillier.Client(cohort, 1, lambda: np.full(LENGTH, -1)).receive(request)


def test_request_that_is_too_long_is_refused_for_its_length() -> None:
    cohort = config()
    client, request = paillier.Client(cohort, 1, vector_of(1)), paillier.Server(cohort).open()[1]
    with pytest.raises(errors.MalformedMessageError, match="67 bytes, at most 66 are allowed") as caught:
        client.receive(request + b"\0")
    assert caught.value.check == "C1"
    assert client.receive(request)


@pytest.mark.parametrize("position", [0, 63, 64, 129])
def test_ciphertext_is_checked_wherever_it_stands(position: int) -> None:
    key, p = keypair()[0], keypair()[1].p
    for bad, found in ((p, "common factor"), (0, "is not from 1"), (key.n**2, "is not from 1")):
        ciphertexts = [2] * 130
        assert key.find_unsound(ciphertexts) == ""
        ciphertexts[position] = bad
        assert found in key.find_unsound(ciphertexts)
        with pytest.raises(errors.DecryptionError):
            keypair()[1].decrypt(ciphertexts)


def test_integer_that_only_reduces_to_a_ciphertext_is_refused() -> None:
    key, private_key = keypair()
    [ciphertext] = key.encrypt([5])
    for beyond in (ciphertext + key.n**2, ciphertext - key.n**2):
        with pytest.raises(errors.DecryptionError):
            private_key.decrypt([beyond])


def test_client_outside_the_cohort_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="client 4 is not among"):
        paillier.Client(config(), 4, vector_of(4))


@pytest.mark.parametrize("data", ["text", None, 5])
def test_message_that_is_no_bytes_is_refused_as_the_callers_fault(data: object) -> None:
    cohort = config()
    server = paillier.Server(cohort)
    server.open()
    holder = paillier.KeyHolder(cohort, keypair()[1])
    for receive in (paillier.Client(cohort, 1, vector_of(1)).receive, holder.receive):
        with pytest.raises(errors.ConfigError, match="a message is bytes"):
            receive(data)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="a message is bytes"):
        server.receive(1, data)  # type: ignore[arg-type]


def test_objects_with_secrets_cannot_be_pickled() -> None:
    cohort = config()
    for secret in (paillier.Client(cohort, 1, vector_of(1)), paillier.KeyHolder(cohort, keypair()[1])):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(secret)


def test_repr_shows_no_secret() -> None:
    cohort, private_key = config(), keypair()[1]
    texts = [
        repr(private_key),
        repr(paillier.KeyHolder(cohort, private_key)),
        repr(paillier.Client(cohort, 1, [1] * 40)),
    ]
    assert not any(str(secret) in text for secret in (private_key.p, private_key.q, [1, 1]) for text in texts)


def test_sum_beyond_what_clients_can_have_is_refused_with_one_text() -> None:
    cohort = config()
    packing, holder = cohort.packing, paillier.KeyHolder(cohort, keypair()[1])
    _, request = collected(cohort, [1, 2])
    slots, bits = packing.slots, packing.slot_bits
    wrong = [1 << slots * bits, 2 * packing.entry_max + 1, keypair()[0].n - 1]
    texts = set()
    for plaintext in wrong:
        with pytest.raises(errors.DecryptionError) as caught:
            holder.receive(with_plaintext(cohort, request, plaintext))
        texts.add(str(caught.value))
    assert len(texts) == 1
    assert holder.receive(with_plaintext(cohort, request, 2 * packing.entry_max))


def test_key_whose_prime_is_none_does_not_decrypt() -> None:
    public_key, private_key = keypair()
    q = private_key.q
    p = private_key.p
    while True:
        p += 4
        try:
            fake_public = paillier.PublicKey(p * q, public_key.h, insecure_size=True)
            fake = paillier.PrivateKey(fake_public, p, q)
        except errors.ConfigError:
            continue
        if pow(2, p - 1, p) != 1:
            break
    with pytest.raises(errors.DecryptionError):
        fake.decrypt(fake_public.encrypt([5]))


@pytest.mark.parametrize("bits", [(250, 262), (256, 256)])
def test_primes_of_unequal_length_or_equal_value_are_refused(bits: tuple[int, int]) -> None:
    small = range(3, 1000, 2)
    p, q = (
        next(
            x
            for x in range(2**size - 1, 0, -4)
            if all(x % d for d in small) and not any((x - 1) % d == 0 for d in small)
        )
        for size in bits
    )
    assert (p * q).bit_length() == 512
    with pytest.raises(errors.ConfigError, match="needed two different primes of 256 bits"):
        paillier.PrivateKey(paillier.PublicKey(p * q, 4, insecure_size=True), p, q)


def test_private_key_of_another_modulus_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="p q is not n"):
        paillier.PrivateKey(other_keypair()[0], keypair()[1].p, keypair()[1].q)
