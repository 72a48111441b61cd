"""Saved and resumed between any two messages: the same sum, the same bytes, and no second answer."""

import hashlib
import random
import tracemalloc
from contextlib import suppress
from functools import cache

import pytest

from secfed import errors
from secfed.crypto.entropy import predictable_secrets
from secfed.secagg import Client, Config, Policy, Server, Stage, messages
from tests.secagg.forge import (
    IDS,
    Session,
    any_message,
    assert_refuses,
    bitmap,
    complete,
    edit,
    listed,
    opened,
    ring,
    state,
    without_part,
)

CONFIGS = {
    "complete": complete(context=b"names", round=7),
    "complete_semi_honest": complete(adversary="semi_honest", modulus_bits=64),
    "ring": ring(modulus_bits=13),
    "ring_semi_honest": ring(adversary="semi_honest"),
}
ME = 5
BY_CONFIG = pytest.mark.parametrize("name", CONFIGS)


def resumed_server(session: Session, server: Server) -> Server:
    saved = server.to_bytes()
    again = Server.from_bytes(saved, directory=session.directory, threads=1)
    assert again.to_bytes() == saved
    assert (again.stage, again.awaited, again.done, again.aborts) == (
        server.stage,
        server.awaited,
        server.done,
        server.aborts,
    )
    assert again.message_bytes == server.message_bytes
    assert list(map(str, again.faults)) == list(map(str, server.faults))
    return again


def resumed_client(session: Session, client: Client) -> Client:
    saved = client.to_bytes()
    again = Client.from_bytes(
        saved,
        signing_key=session.identities.get(client.client_id),
        directory=session.directory,
        threads=1,
    )
    assert again.to_bytes() == saved
    assert state(again) == state(client)
    return again


@pytest.mark.sampled(2)
@BY_CONFIG
def test_server_saved_and_resumed_around_every_message_gives_the_same_sum(name: str) -> None:
    session = Session(CONFIGS[name])
    while session.stage < Stage.DONE:
        stage = session.stage
        for client_id in list(session.outbox):
            session.server = resumed_server(session, session.server)
            if (stage, client_id) == (Stage.MASKED_INPUT_COLLECTION, 2):
                session.outbox = {i: data for i, data in session.outbox.items() if i != 2}
                continue
            with pytest.raises(errors.FaultyClientError):
                session.server.receive(client_id, b"x")
            session.server.receive(client_id, session.reply(client_id))
        session.server = resumed_server(session, session.server)
        session.close()
    session.server = resumed_server(session, session.server)
    session.assert_sum()
    assert 2 not in session.server.survivors


@pytest.mark.sampled(2)
@BY_CONFIG
def test_resumed_server_makes_the_same_requests(name: str) -> None:
    session = Session(CONFIGS[name])
    while session.stage < Stage.DONE:
        session.answer()
        again = resumed_server(session, session.server)
        session.close()
        assert again.close_stage() == session.outbox
    assert again.sum.tolist() == session.server.sum.tolist() == session.expected_sum()
    assert again.survivors == session.server.survivors


def test_resumed_server_still_refuses_what_it_had_accepted() -> None:
    session = Session(complete(adversary="semi_honest"))
    session.server.receive(ME, response := session.reply(ME))
    again = resumed_server(session, session.server)
    for client_id, check in ((ME, "S4"), (2, "S6")):
        with pytest.raises(errors.FaultyClientError) as caught:
            again.receive(client_id, response)
        assert caught.value.check == check


@pytest.mark.sampled(2)
@BY_CONFIG
def test_server_is_resumed_where_a_client_answered_and_then_left(name: str) -> None:
    session = Session(CONFIGS[name])
    for stage in [stage for stage in Stage if stage < Stage.DONE]:
        session.to(stage)
        if session.stage is stage:
            leaver = list(session.outbox)[-1]
            session.server.receive(leaver, session.reply(leaver))
            session.server.receive(leaver, messages.Abort.because("left").to_bytes())
            resumed_server(session, session.server)
            session = Session(CONFIGS[name])


def test_aborted_server_stays_aborted() -> None:
    session = Session(complete()).to(Stage.UNMASKING)
    session.server.abort()
    again = resumed_server(session, session.server)
    assert again.stage is Stage.ABORTED
    with pytest.raises(errors.StageError):
        again.close_stage()


def test_saved_server_needs_the_directory_again() -> None:
    saved = Session(complete()).to(Stage.UNMASKING).server.to_bytes()
    with pytest.raises(errors.ConfigError):
        Server.from_bytes(saved)


@pytest.mark.sampled(2)
@BY_CONFIG
def test_client_saved_and_resumed_in_every_stage_gives_the_same_sum(name: str) -> None:
    session = Session(CONFIGS[name])
    while session.stage < Stage.DONE:
        for client_id in list(session.outbox):
            session.clients[client_id] = resumed_client(session, session.clients[client_id])
        session.answer(silent=[3] if session.stage is Stage.UNMASKING else [])
        session.close()
    session.assert_sum()


@pytest.mark.sampled(2)
@BY_CONFIG
def test_resumed_client_answers_the_same_bytes_where_nothing_is_drawn(name: str) -> None:
    with predictable_secrets():
        session = Session(CONFIGS[name], seed=3)
        while session.stage < Stage.DONE:
            for client_id, request in session.outbox.items():
                client = session.clients[client_id]
                again = resumed_client(session, client)
                response = session.reply(client_id)
                if session.stage > Stage.ADVERTISE_KEYS:
                    assert again.receive(request) == response
                session.server.receive(client_id, response)
            session.close()
    session.assert_sum()


@BY_CONFIG
def test_client_restored_twice_seals_the_same_shares_without_seeded_entropy(name: str) -> None:
    session = Session(CONFIGS[name]).to(Stage.SHARE_KEYS)
    twin = resumed_client(session, session.clients[ME])
    assert twin.receive(session.outbox[ME]) == session.reply(ME)


@BY_CONFIG
def test_client_restored_twice_seals_under_other_keys_in_another_session(name: str) -> None:
    session = Session(CONFIGS[name]).to(Stage.SHARE_KEYS)
    request = opened(session.outbox[ME])
    members = listed(session.config, request.advertised)
    left_out = next(client_id for client_id in members if client_id != ME)
    fewer = edit(
        session.outbox[ME],
        advertised=bitmap(session.config, [i for i in members if i != left_out]),
        **{
            column: without_part(members.index(left_out), size)
            for column, size in (("channel_keys", 32), ("mask_keys", 32), ("signatures", 64))
            if getattr(request, column)
        },
    )
    twin = resumed_client(session, session.clients[ME])
    one, other = opened(session.reply(ME)), opened(twin.receive(fewer))
    assert one.session_id != other.session_id
    assert one.commitment != other.commitment
    parts = {data[i : i + 88] for data in (one.sealed, other.sealed) for i in range(0, len(data), 88)}
    assert len(parts) == (len(one.sealed) + len(other.sealed)) // 88


@pytest.mark.sampled(2)
@BY_CONFIG
def test_client_that_released_its_shares_is_not_resumed(name: str) -> None:
    session = Session(CONFIGS[name]).finish()
    for client in session.clients.values():
        with pytest.raises(errors.StageError):
            Client.from_bytes(client.to_bytes(), directory=session.directory)


def test_client_that_aborted_is_not_resumed() -> None:
    for stage in [stage for stage in Stage if stage < Stage.DONE]:
        session = Session(complete()).to(stage)
        client = session.clients[ME]
        client.abort()
        with pytest.raises(errors.StageError):
            Client.from_bytes(client.to_bytes(), directory=session.directory, signing_key=session.identities[ME])


def test_saved_client_holds_no_vector_once_it_is_masked() -> None:
    session = Session(complete(length=50, modulus_bits=32)).to(Stage.MASKED_INPUT_COLLECTION)
    vector = session.vectors[ME].astype("<u4").tobytes()
    assert vector in session.clients[ME].to_bytes()
    session.reply(ME)
    assert vector not in session.clients[ME].to_bytes()


def test_saved_client_needs_its_identity_again() -> None:
    session = Session(complete()).to(Stage.UNMASKING)
    saved = session.clients[ME].to_bytes()
    assert session.identities[ME].private_bytes() not in saved
    for missing in ({}, {"directory": session.directory}, {"signing_key": session.identities[ME]}):
        with pytest.raises(errors.ConfigError):
            Client.from_bytes(saved, **missing)
    with pytest.raises(errors.ConfigError):
        Client.from_bytes(saved, directory=session.directory, signing_key=session.identities[2])


def test_resumed_client_keeps_every_refusal() -> None:
    session = Session(complete()).to(Stage.CONSISTENCY_CHECK)
    session.reply(ME)
    again = resumed_client(session, session.clients[ME])
    other = messages.ConsistencyCheckRequest(bitmap(session.config, (2, 3, 5, 8))).to_bytes()
    assert_refuses(again, other, "C2")
    session.answer(silent=[ME])
    session.server.receive(ME, session.responses[Stage.CONSISTENCY_CHECK][ME])
    session.close()
    request = edit(session.outbox[ME], survivors=bitmap(session.config, (2, 3, 5, 8)))
    with pytest.raises(errors.FaultyServerError) as caught:
        again.receive(edit(request, dropouts=bitmap(session.config, (13,))))
    assert caught.value.check == "C20"


def test_resumed_client_does_not_forget_its_policy() -> None:
    session = Session(complete(), policy=Policy(minimum_cohort=5)).to(Stage.SHARE_KEYS)
    again = resumed_client(session, session.clients[ME])
    assert vars(again)["_setup"].policy == Policy(minimum_cohort=5)


def test_resumed_client_keeps_the_policy_that_it_is_given() -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    saved, identity = session.clients[ME].to_bytes(), session.identities[ME]
    policy = Policy(minimum_cohort=6)
    again = Client.from_bytes(saved, directory=session.directory, signing_key=identity, policy=policy)
    with pytest.raises(errors.FaultyServerError) as caught:
        again.receive(session.outbox[ME])
    assert caught.value.check == "C11"


# Broken snapshots.


@cache
def snapshots(name: str) -> tuple[Session, list[tuple[type[Client] | type[Server], bytes]]]:
    """Every kind of snapshot of one session, with a fault and an abort in them."""
    session = Session(CONFIGS[name])
    found: list[tuple[type[Client] | type[Server], bytes]] = []
    while session.stage < Stage.DONE:
        found.append((Client, session.clients[ME].to_bytes()))
        session.answer(silent=[2] if session.stage is Stage.MASKED_INPUT_COLLECTION else [])
        with pytest.raises(errors.FaultyClientError):
            session.server.receive(3, b"")
        if session.stage is Stage.MASKED_INPUT_COLLECTION:
            session.server.receive(2, any_message(messages.Abort))
        found.append((Server, session.server.to_bytes()))
        session.close()
    return session, [*found, (Server, session.server.to_bytes())]


def resume(session: Session, cls: type[Client] | type[Server], data: bytes) -> Client | Server:
    if cls is Server:
        return Server.from_bytes(data, directory=session.directory)
    return Client.from_bytes(data, directory=session.directory, signing_key=session.identities.get(ME))


@pytest.mark.sampled(2)
@BY_CONFIG
def test_every_truncated_or_longer_snapshot_is_malformed(name: str) -> None:
    session, found = snapshots(name)
    rng = random.Random(1)
    for cls, data in found:
        assert resume(session, cls, data).to_bytes() == data
        cuts = {*range(min(len(data), 40)), *(rng.randrange(len(data)) for _ in range(60)), len(data) - 1}
        for broken in [data[:cut] for cut in cuts] + [data + b"\0", data + data]:
            with pytest.raises(errors.MalformedMessageError):
                resume(session, cls, broken)


@BY_CONFIG
def test_one_party_is_not_resumed_as_the_other(name: str) -> None:
    session, found = snapshots(name)
    for cls, data in found:
        with pytest.raises(errors.MalformedMessageError):
            resume(session, Server if cls is Client else Client, data)


@BY_CONFIG
def test_an_altered_snapshot_raises_nothing_but_secfeds_errors(name: str) -> None:
    session, found = snapshots(name)
    rng = random.Random(2)
    escaped: dict[str, int] = {}
    for cls, data in found:
        for _ in range(150):
            broken = bytearray(data)
            for _ in range(rng.choice((1, 1, 4))):
                broken[rng.randrange(len(data))] = rng.randrange(256)
            try:
                resume(session, cls, bytes(broken))
            except errors.SecFedError:
                continue
            except Exception as error:
                escaped[type(error).__name__] = escaped.get(type(error).__name__, 0) + 1
    assert escaped == {}


def redigested(body: bytes) -> bytes:
    """A snapshot whose digest is right, whatever it holds."""
    return body + hashlib.sha256(body).digest()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tries", [15, pytest.param(40, marks=pytest.mark.slow)])
@BY_CONFIG
def test_a_snapshot_with_a_right_digest_and_wrong_contents_raises_named_errors(name: str, tries: int) -> None:
    session, found = snapshots(name)
    rng = random.Random(3)
    escaped: dict[str, int] = {}
    for cls, data in found:
        body = data[:-32]
        for _ in range(tries):
            broken = bytearray(body)
            for _ in range(rng.choice((1, 1, 4))):
                broken[rng.randrange(len(body))] = rng.choice((0, 1, 255, rng.randrange(256)))
            if rng.random() < 0.2:
                del broken[rng.randrange(len(broken)) :]
            try:
                party = resume(session, cls, redigested(bytes(broken)))
                drive(party, session)
            except errors.SecFedError:
                continue
            except Exception as error:
                kind = f"{type(error).__name__} in {cls.__name__}: {error}"
                escaped[kind] = escaped.get(kind, 0) + 1
    assert escaped == {}


def drive(party: Client | Server, session: Session) -> None:
    """Let a resumed party go on with what an honest session had."""
    if isinstance(party, Client):
        for requests in session.requests.values():
            with suppress(errors.SecFedError):
                party.receive(requests.get(ME, b""))
        return
    for _, responses in sorted(session.responses.items()):
        for client_id, response in responses.items():
            with suppress(errors.SecFedError):
                party.receive(client_id, response)
    while not party.done:
        party.close_stage()


@BY_CONFIG
def test_a_snapshot_of_another_layout_is_refused(name: str) -> None:
    session, found = snapshots(name)
    for cls, data in found:
        for layout in (0, 1, data[0] + 1, 255):
            with pytest.raises(errors.MalformedMessageError, match="layout"):
                resume(session, cls, redigested(bytes([layout]) + data[1:-32]))


@BY_CONFIG
def test_what_one_stage_holds_is_not_resumed_in_another(name: str) -> None:
    session, found = snapshots(name)
    for cls, data in found:
        config = session.config.to_bytes()
        # After the layout, version and kind come the configuration behind its length, then for a client id and policy.
        place = 7 + len(config)
        if cls is Client:
            place += 8 + int.from_bytes(data[place + 4 : place + 8], "little")
        stage = Stage(data[place])
        for other in set(Stage) - {stage, Stage.DONE, Stage.ABORTED}:
            body = data[:place] + bytes([other]) + data[place + 1 : -32]
            with pytest.raises(errors.MalformedMessageError):
                resume(session, cls, redigested(body))


def test_a_length_that_was_edited_costs_no_memory() -> None:
    session = Session(complete(adversary="semi_honest")).to(Stage.UNMASKING)
    for cls, data in ((Client, session.clients[ME].to_bytes()), (Server, session.server.to_bytes())):
        config = session.config.to_bytes()
        longer = Config(IDS, 4, 2**32, 6).to_bytes()
        body = data[:-32].replace(config, config[:28] + longer[28:36] + config[36:])
        assert body != data[:-32]
        tracemalloc.start()
        with pytest.raises(errors.SecFedError):
            resume(session, cls, redigested(body))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()
