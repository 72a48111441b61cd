"""Holders of shares that cheat, or are asked to: each is named, and the session goes on with the others."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from secfed import paillier
from secfed.crypto.entropy import SystemEntropy
from secfed.errors import ConfigError, DecryptionError, FaultyKeyHolderError, FaultyServerError
from secfed.paillier.messages import DecryptionRequest, EncryptedInputResponse, PartialDecryptionResponse
from secfed.wire import set_to_bytes
from tests.paillier.threshold_keys import dealt


class Asked:
    """A session of a 2-of-3 key in stage DECRYPTION: all clients have answered, no holder has."""

    def __init__(self, seed: int = 0) -> None:
        self.key, self.shares = dealt(2, 3)
        self.config = paillier.Config(self.key.public_key, [1, 2, 3], 40)
        generator = np.random.default_rng(seed)
        inputs = {client_id: generator.integers(0, 1 << 32, 40, np.uint32) for client_id in (1, 2, 3)}
        self.sum = np.add.reduce(list(inputs.values()), dtype=np.uint32)
        self.server = paillier.Server(self.config, opening=paillier.PartialDecryptions(self.key))
        for client_id, request in self.server.open().items():
            self.server.receive(client_id, paillier.Client(self.config, client_id, inputs[client_id]).receive(request))
        self.request = self.server.close_stage()[1]
        self.holders = {
            share.number: paillier.ShareHolder(self.config, self.key, share, opened=paillier.OpenedSums())
            for share in self.shares
        }

    def answer(self, number: int) -> PartialDecryptionResponse:
        return PartialDecryptionResponse.from_bytes(self.holders[number].receive(self.request))

    def changed(self, position: int, change: Callable[[int], int]) -> PartialDecryptionResponse:
        """Holder 1's answer with another value for one ciphertext."""
        answer, size = self.answer(1), self.key.number_bytes
        start = position * size
        value = change(int.from_bytes(answer.partials[start : start + size], "little"))
        column = answer.partials[:start] + int(value).to_bytes(size, "little") + answer.partials[start + size :]
        return replace(answer, partials=column)


def another_session(asked: Asked) -> PartialDecryptionResponse:
    """The proof of another session, about the same ciphertexts."""
    request = replace(DecryptionRequest.from_bytes(asked.request), nonce=bytes(32))
    answer = PartialDecryptionResponse.from_bytes(asked.holders[1].receive(request.to_bytes()))
    return replace(answer, session_id=asked.answer(1).session_id)


def other_share(asked: Asked) -> PartialDecryptionResponse:
    """Partial decryptions with another share, and an honest proof about that."""
    wrong = replace(asked.shares[0], value=asked.shares[0].value + 1)
    request = DecryptionRequest.from_bytes(asked.request)
    size = asked.key.number_bytes
    starts = range(0, len(request.ciphertexts), size)
    ciphertexts = [int.from_bytes(request.ciphertexts[start : start + size], "little") for start in starts]
    return asked.key.decrypt_partially(wrong, asked.config.session_id(request.nonce), ciphertexts, SystemEntropy())


def short_response(asked: Asked) -> PartialDecryptionResponse:
    answer = asked.answer(1)
    return replace(answer, response=answer.response[:-1])


def large_response(asked: Asked) -> PartialDecryptionResponse:
    answer = asked.answer(1)
    return replace(answer, response=b"\xff" * asked.key.response_bytes)


CHEATS: dict[str, tuple[str, Callable[[Asked], PartialDecryptionResponse]]] = {
    "another value": ("S10", lambda asked: asked.changed(0, lambda value: value * 2 % asked.key.modulus)),
    "another value in the last place": (
        "S10",
        lambda asked: asked.changed(asked.config.packing.plaintexts - 1, lambda value: value * 4 % asked.key.modulus),
    ),
    "another sign": ("S10", lambda asked: asked.changed(0, lambda value: asked.key.modulus - value)),
    "zero": ("S7", lambda asked: asked.changed(0, lambda value: 0)),
    "the modulus": ("S7", lambda asked: asked.changed(0, lambda value: asked.key.modulus)),
    "n": ("S8", lambda asked: asked.changed(0, lambda value: asked.key.public_key.n)),
    "another challenge": ("S10", lambda asked: replace(asked.answer(1), challenge=bytes(32))),
    "another response": ("S10", lambda asked: replace(asked.answer(1), response=bytes(asked.key.response_bytes))),
    "a short response": ("S10", short_response),
    "a response of too many bits": ("S10", large_response),
    "the proof of another holder": (
        "S10",
        lambda asked: replace(asked.answer(1), challenge=asked.answer(2).challenge, response=asked.answer(2).response),
    ),
    "all that another holder says": ("S10", lambda asked: asked.answer(2)),
    "the proof of another session": ("S10", another_session),
    "another share": ("S10", other_share),
    "another session": ("S5", lambda asked: replace(asked.answer(1), session_id=bytes(32))),
    "a value less": (
        "S6",
        lambda asked: replace(asked.answer(1), partials=asked.answer(1).partials[: -asked.key.number_bytes]),
    ),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("cheat", CHEATS)
def test_holder_that_cheats_is_named_and_the_others_decrypt(cheat: str) -> None:
    asked = Asked()
    check, make = CHEATS[cheat]
    with pytest.raises(FaultyKeyHolderError) as caught:
        asked.server.receive(1, make(asked).to_bytes())
    assert (caught.value.holder_id, caught.value.check) == (1, check)
    for number in (2, 3):
        asked.server.receive(number, asked.answer(number).to_bytes())
    asked.server.close_stage()
    assert asked.server.sum.tolist() == asked.sum.tolist()
    assert [(fault.check, fault.args[0]) for fault in asked.server.faults] == [(check, caught.value.args[0])]


def test_holder_that_is_named_may_still_send_what_is_right() -> None:
    asked = Asked()
    with pytest.raises(FaultyKeyHolderError):
        asked.server.receive(1, asked.changed(0, lambda value: value + 1).to_bytes())
    for number in (1, 3):
        assert asked.server.receive(number, asked.answer(number).to_bytes())
    asked.server.close_stage()
    assert asked.server.sum.tolist() == asked.sum.tolist()


@pytest.mark.parametrize("number", [0, 4, -1])
def test_holder_that_there_is_not_is_refused(number: int) -> None:
    asked = Asked()
    with pytest.raises(FaultyKeyHolderError, match="S1: "):
        asked.server.receive(number, asked.answer(1).to_bytes())


def test_second_answer_is_refused_and_the_first_one_counts() -> None:
    asked = Asked()
    asked.server.receive(2, asked.answer(2).to_bytes())
    with pytest.raises(FaultyKeyHolderError, match="S4: "):
        asked.server.receive(2, asked.answer(2).to_bytes())
    asked.server.receive(1, asked.answer(1).to_bytes())
    asked.server.close_stage()
    assert asked.server.sum.tolist() == asked.sum.tolist()


def test_answer_of_an_earlier_session_is_refused() -> None:
    earlier, later = Asked(), Asked(1)
    with pytest.raises(FaultyKeyHolderError, match="S5: "):
        later.server.receive(1, earlier.answer(1).to_bytes())


def test_sum_that_the_clients_have_spoiled_ends_the_session() -> None:
    key, shares = dealt(2, 3)
    config = paillier.Config(key.public_key, [1, 2, 3], 40)
    server = paillier.Server(config, opening=paillier.PartialDecryptions(key))
    for client_id, request in server.open().items():
        answer = EncryptedInputResponse.from_bytes(paillier.Client(config, client_id, [0] * 40).receive(request))
        noise = np.random.default_rng(client_id).bytes(len(answer.ciphertexts))
        top = [*range(key.number_bytes - 1, len(noise), key.number_bytes)]
        column = bytes(0 if position in top else byte for position, byte in enumerate(noise))
        server.receive(client_id, replace(answer, ciphertexts=column).to_bytes())
    for number, request in server.close_stage().items():
        server.receive(number, paillier.ShareHolder(config, key, shares[number - 1]).receive(request))
    with pytest.raises(DecryptionError):
        server.close_stage()
    assert server.stage is paillier.Stage.ABORTED


@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_holder_opens_the_sum_of_other_clients_in_the_same_round(number: int) -> None:
    asked = Asked()
    holder = asked.holders[number]
    first = holder.receive(asked.request)
    request = DecryptionRequest.from_bytes(asked.request)
    fewer = replace(request, survivors=set_to_bytes(np.array([True, True, False])))
    with pytest.raises(FaultyServerError, match="K4: "):
        holder.receive(fewer.to_bytes())
    again = PartialDecryptionResponse.from_bytes(holder.receive(asked.request))
    assert again.partials == PartialDecryptionResponse.from_bytes(first).partials
    assert again.challenge != PartialDecryptionResponse.from_bytes(first).challenge


def test_shares_and_holders_do_not_show_their_secret() -> None:
    asked = Asked()
    secret = str(asked.shares[0].value)
    for party in (asked.shares[0], asked.holders[1], paillier.PartialDecryptions(asked.key), asked.server):
        assert secret not in repr(party) and secret not in str(party)
    assert repr(asked.shares[0]) == "KeyShare(number=1)"
    with pytest.raises(ConfigError) as caught:
        asked.key.check_share(replace(asked.shares[0], number=2))
    assert secret not in str(caught.value)


def test_holder_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Asked().holders[1])
