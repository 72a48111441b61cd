"""What the server, a log, an error and a pickle get to see of a client's secrets: nothing."""

import copy
import dataclasses
import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from scipy import stats

from secfed import errors
from secfed.crypto import packing, prg
from secfed.crypto.agreement import KeyPair
from secfed.crypto.entropy import SeededEntropy, predictable_secrets
from secfed.crypto.signing import SigningKey
from secfed.secagg import Client, Config, Server, Stage, binding
from tests.secagg.forge import (
    SHARE,
    Session,
    any_message,
    assert_aborts,
    assert_forgot,
    channel,
    complete,
    edit,
    held,
    holders,
    opened,
    others,
    ring,
    seal,
    secrets_of,
    session_id,
    state,
    strings,
    with_part,
)

VICTIM, PEER = 5, 8
# Each uniformity test fails on uniform data with this probability; seeds are fixed, so it fails always or never.
FAILURE = 1e-6


def assert_uniform(values: np.ndarray, kinds: int) -> None:
    """Chi-square against the uniform distribution on `kinds` values, both tails."""
    counts = np.bincount(values, minlength=kinds)
    assert len(counts) == kinds
    tail = stats.chisquare(counts).pvalue
    assert FAILURE / 2 < tail < 1 - FAILURE / 2


def masked_session(config: Config, fill: int, seed: int = 3) -> Session:
    """A session in which every entry of every vector is the same, run to the consistency check or unmasking."""
    vectors = {i: np.full(config.length, fill, np.uint64) for i in config.client_ids}
    with predictable_secrets():
        session = Session(config, vectors, seed=seed).to(Stage.MASKED_INPUT_COLLECTION)
        session.answer()
    return session


def payloads(session: Session) -> dict[int, bytes]:
    return {i: opened(data).masked for i, data in session.responses[Stage.MASKED_INPUT_COLLECTION].items()}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("config", [complete(length=200_000), ring(length=40_000)], ids=["complete", "ring"])
@pytest.mark.parametrize("fill", [0, 1, 2**16 - 1])
def test_masked_vectors_look_uniform(config: Config, fill: int) -> None:
    for payload in payloads(masked_session(config, fill)).values():
        data = np.frombuffer(payload, np.uint8)
        assert_uniform(data, 256)
        assert_uniform(data[:-1] ^ data[1:], 256)  # neither does one entry depend on the one before


@pytest.mark.parametrize("bits", [1, 5, 11, 13])
def test_entries_of_every_width_look_uniform(bits: int) -> None:
    config = complete(length=100_000, modulus_bits=bits)
    for payload in payloads(masked_session(config, 0)).values():
        assert_uniform(packing.unpack(payload, config.length, bits, config.dtype).astype(np.int64), 1 << bits)


def test_masks_of_two_clients_are_independent() -> None:
    masked = payloads(masked_session(complete(length=100_000), 0))
    for one, other in itertools.combinations(masked.values(), 2):
        assert_uniform(np.frombuffer(one, np.uint8) ^ np.frombuffer(other, np.uint8), 256)


@pytest.mark.parametrize("fill", [0, 2**16 - 1])
def test_one_unknown_pair_mask_hides_the_vector_from_all_others_together(fill: int) -> None:
    # The server opens the victim's self mask, all but one client collude: what is left is the vector under one mask.
    config = complete(length=100_000)
    vectors = {i: np.full(config.length, fill, np.uint64) for i in config.client_ids}
    with predictable_secrets():
        session = Session(config, vectors, seed=9).to(Stage.MASKED_INPUT_COLLECTION)
    remembered = held(session.clients[VICTIM])
    name = session_id(session)
    mask_keys = {i: opened(session.responses[Stage.ADVERTISE_KEYS][i]).mask_key for i in config.client_ids}
    seeds = {
        i: binding.pair_seed(remembered.mask, mask_keys[i], name, VICTIM, i) for i in config.client_ids if i != VICTIM
    }
    known = [binding.self_mask_seed(name, VICTIM, remembered.self_seed)]
    left = np.frombuffer(opened(session.reply(VICTIM)).masked, "<u2").copy()
    prg.accumulate(left, [], known)
    for i in set(seeds) - {PEER}:
        prg.accumulate(left, *(([], [seeds[i]]) if i > VICTIM else ([seeds[i]], [])))
    assert_uniform(left.view(np.uint8), 256)
    prg.accumulate(left, [], [seeds[PEER]])  # the control: with the last mask off it is the vector
    assert set(left.tolist()) == {fill}


def test_the_mask_does_not_depend_on_the_vector() -> None:
    # Same secrets, two inputs: the payloads differ by exactly the inputs' difference.
    config = complete(length=500)
    zero, other = (payloads(masked_session(config, fill)) for fill in (0, 12345))
    for i in config.client_ids:
        difference = np.frombuffer(other[i], "<u2") - np.frombuffer(zero[i], "<u2")
        assert set(difference.tolist()) == {12345}


@pytest.mark.parametrize("config", [complete(), complete(adversary="semi_honest"), ring()])
def test_nothing_secret_repeats_when_a_session_is_repeated(config: Config) -> None:
    first, second = Session(config).finish(), Session(config).finish()
    assert first.server.sum.tolist() == second.server.sum.tolist()

    def pieces(session: Session) -> set[bytes]:
        whole = b"".join(data for sent in session.responses.values() for data in sent.values())
        # Ten bytes of framing in a row are the same each time: with 16, six others would have to be so by chance.
        return {whole[i : i + 16] for i in range(len(whole) - 16)}

    assert not pieces(first) & pieces(second)
    assert session_id(first) != session_id(second)


@pytest.mark.parametrize("config", [complete(length=40), complete(length=40, adversary="semi_honest"), ring(length=40)])
def test_nothing_that_the_server_sees_is_a_secret(config: Config) -> None:
    session = Session(config)
    secrets: set[bytes] = {vector.astype(config.dtype).tobytes() for vector in session.vectors.values()}
    while session.stage < Stage.UNMASKING:
        session.answer([11] if session.stage is Stage.MASKED_INPUT_COLLECTION else ())
        secrets |= set().union(*map(secrets_of, session.clients.values()))
        session.close()
    seen = b"|".join(strings([session.requests, session.responses, state(session.server)]))
    assert len(secrets) > 20
    assert not [secret for secret in secrets if secret in seen]
    # In the end it gets self seeds' shares of survivors; of their other secrets still nothing.
    masks = {
        pair[:SHARE]
        for client in session.clients.values()
        for owner, pair in held(client).shares.items()
        if config.client_ids[owner] in session.server.survivors
    }
    private = {secret for secret in secrets if len(secret) in (16, 32)}
    session.finish()
    seen = b"|".join(strings([session.requests, session.responses, state(session.server)]))
    assert not [secret for secret in masks | private if secret in seen]


def test_secrets_go_as_soon_as_they_are_not_needed() -> None:
    session = Session(complete())
    client = session.clients[VICTIM]
    session.to(Stage.SHARE_KEYS)
    channel_key, mask_key = channel(session, VICTIM).private_bytes(), held(client).mask.private_bytes()
    session.to(Stage.MASKED_INPUT_COLLECTION)
    assert channel_key not in secrets_of(client)
    seed = held(client).self_seed
    assert {mask_key, seed} <= secrets_of(client)
    session.to(Stage.CONSISTENCY_CHECK)
    left = secrets_of(client)
    assert not {mask_key, seed, session.vectors[VICTIM].astype("u2").tobytes()} & left
    assert {len(secret) for secret in left} == {SHARE}
    session.finish()
    assert secrets_of(client) == set()


def secret_texts(secret: bytes) -> list[str]:
    return [secret.hex(), repr(secret), str(list(secret)), str(int.from_bytes(secret, "little"))]


def test_no_representation_shows_a_secret() -> None:
    config = complete()
    session = Session(config).to(Stage.MASKED_INPUT_COLLECTION)
    client, pair, key = session.clients[VICTIM], KeyPair(b"\x21" * 32), SigningKey(b"\x22" * 32)
    secrets = [*secrets_of(client), b"\x21" * 32, b"\x22" * 32]
    vector = str(session.vectors[VICTIM].tolist())
    for thing in (client, session.server, pair, key, config, held(client), held(client).graph, vars(client)["_setup"]):
        for text in (repr(thing), str(thing), f"{thing}"):
            assert not [secret for secret in secrets for form in secret_texts(secret) if form in text]
            assert vector[1:-1] not in text
            assert len(text) < 500


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
def test_holders_of_secrets_are_not_copied_or_pickled(make: Any) -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    client = session.clients[VICTIM]
    for thing in (client, held(client), KeyPair(b"\x21" * 32), SigningKey(b"\x22" * 32)):
        with pytest.raises(TypeError) as caught:
            make(thing)
        assert "21212121" not in str(caught.value)


def test_a_pickled_server_holds_nothing_that_it_has_not_seen() -> None:
    session = Session(complete(length=40)).to(Stage.UNMASKING)
    data = pickle.dumps(state(session.server)) + session.server.to_bytes()
    for client in session.clients.values():
        assert not [secret for secret in secrets_of(client) if secret in data]


def test_errors_of_a_client_show_nothing_of_its_secrets() -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    for stage in (Stage.MASKED_INPUT_COLLECTION, Stage.CONSISTENCY_CHECK, Stage.UNMASKING):
        session.to(stage)
        client, request = session.clients[VICTIM], session.outbox[VICTIM]
        secrets = secrets_of(client)
        for bad in (request[:-1], request + b"\0", any_message(type(opened(request))), b"", b"\1\1" + request[2:]):
            with pytest.raises(errors.SecFedError) as caught:
                client.receive(bad)
            text = f"{caught.value!r} {caught.value}"
            assert not [secret for secret in secrets for form in secret_texts(secret) if form in text]
            if client.stage is Stage.ABORTED:
                break
        if client.stage is Stage.ABORTED:
            session = Session(complete())


def test_errors_about_a_vector_hold_none_of_its_entries() -> None:
    with pytest.raises(errors.EncodingError) as caught:
        Client(complete(adversary="semi_honest"), VICTIM, [31337, 271828, 40000, 40001, 40002, 40003])
    assert "31337" not in str(caught.value)
    assert "271828" not in str(caught.value)


def test_the_traceback_of_an_abort_holds_no_share() -> None:
    # Error reporters send the local variables of every frame.
    session = Session(complete(threshold=5)).to(Stage.SHARE_KEYS)
    insider = channel(session, PEER)
    session.to(Stage.MASKED_INPUT_COLLECTION)
    first = session.clients[VICTIM].to_bytes()
    sealed = seal(session, insider, PEER, VICTIM, b"\xff" * 2 * SHARE)
    bad = edit(session.outbox[VICTIM], sealed=with_part(sealed, others(session, VICTIM).index(PEER), 88))
    twin = Client.from_bytes(first, directory=session.directory, signing_key=session.identities[VICTIM])
    twin.receive(session.outbox[VICTIM])
    shares = {pair for owner, pair in held(twin).shares.items() if owner != session.config.position(PEER)}
    error = assert_aborts(session.clients[VICTIM], bad, "C14")
    seen, frame = [], error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename.endswith("client.py") and "secfed" in frame.tb_frame.f_code.co_filename:
            seen += strings(
                [value for value in frame.tb_frame.f_locals.values() if isinstance(value, dict | list | bytes)]
            )
        frame = frame.tb_next
    assert not shares & set(seen)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_traceback_of_a_stage_that_breaks_off_holds_no_secret(error: type[BaseException]) -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    client = session.clients[VICTIM]
    secrets = secrets_of(client)
    before = held(client)

    def vector() -> Any:
        raise error

    object.__setattr__(before, "vector", vector)
    with pytest.raises(error):
        client.receive(session.outbox[VICTIM])
    assert not [field.name for field in dataclasses.fields(before) if hasattr(before, field.name)]
    assert_forgot(client, secrets)


@pytest.mark.parametrize(
    "error",
    [
        errors.MalformedMessageError("text", 3),
        errors.FaultyClientError("text", 3, "S4"),
        errors.FaultyServerError("text", "C7"),
        errors.TooFewSurvivorsError("text", 1, 2),
        errors.MissingExtraError("cli", "rich"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_a_process_boundary(error: Exception) -> None:
    # concurrent.futures pickles them: an error that cannot be unpickled breaks the whole pool.
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))


# Entropy that can be predicted.


def test_seeded_entropy_is_refused_where_secrets_are_real() -> None:
    with pytest.raises(errors.ConfigError):
        SeededEntropy(bytes(32))
    with predictable_secrets():
        assert SeededEntropy(bytes(32)).draw("x", 5) == SeededEntropy(bytes(32)).draw("x", 5)
        with pytest.raises(errors.ConfigError):
            SeededEntropy(bytes(31))
    with pytest.raises(errors.ConfigError):
        SeededEntropy(bytes(32))


def test_seeded_entropy_is_refused_after_a_block_that_failed() -> None:
    with pytest.raises(ZeroDivisionError), predictable_secrets():
        _ = 1 // 0
    with pytest.raises(errors.ConfigError):
        SeededEntropy(bytes(32))


def test_seeded_entropy_does_not_outlive_its_block() -> None:
    with predictable_secrets():
        entropy = SeededEntropy(bytes(32))
    with pytest.raises(errors.ConfigError):
        entropy.draw("mask_key", 32)


def test_seeded_entropy_does_not_come_out_of_a_pickle() -> None:
    with predictable_secrets():
        data = pickle.dumps(SeededEntropy(bytes(32)))
    with pytest.raises((errors.ConfigError, TypeError)):
        pickle.loads(data).draw("mask_key", 32)


def test_parties_draw_from_the_operating_system_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    config = complete(adversary="semi_honest")
    clients = [Client(config, VICTIM, [0] * 6) for _ in range(2)]
    nonces = {next(iter(Server(config).open().values())) for _ in range(2)}
    assert len(nonces) == 2
    request = nonces.pop()
    assert clients[0].receive(request) != clients[1].receive(request)


def test_every_secret_of_a_client_is_drawn_under_its_own_label() -> None:
    drawn: list[tuple[str, int]] = []

    class Recorder:
        def draw(self, label: str, size: int) -> bytes:
            drawn.append((label, size))
            return np.random.default_rng(len(drawn)).bytes(size)

    session = Session(complete(adversary="semi_honest"))
    session.clients[VICTIM] = Client(session.config, VICTIM, session.vectors[VICTIM], entropy=Recorder())
    session.finish().assert_sum()
    assert drawn == [("channel_key", 32), ("mask_key", 32), ("share_seed", 32)]


def test_no_two_holders_have_the_same_share() -> None:
    session = Session(complete()).to(Stage.CONSISTENCY_CHECK)
    number = session.config.position(VICTIM)
    shares = [held(session.clients[i]).shares[number] for i in holders(session, VICTIM)]
    words = np.frombuffer(b"".join(shares), "<u4")
    assert len(words) == 5 * 18
    assert len(set(words.tolist())) > 0.95 * len(words)
