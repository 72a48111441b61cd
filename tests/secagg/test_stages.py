"""The refusal matrix: for every role, stage and kind of message, what the table does not list is refused."""

from functools import cache
from typing import Any, get_args, get_type_hints

import pytest

from secfed import errors
from secfed.secagg import Client, Server, Stage, client_stages, messages, server_stages
from secfed.secagg.stages import EXCHANGES, KINDS, following
from secfed.secagg.states import SEEN, Released, held_in
from tests.secagg.forge import (
    MESSAGES,
    Session,
    any_message,
    assert_refuses,
    assert_server_refuses,
    complete,
    edit,
    opened,
    ring,
    state,
)

# Written out again, by number, so that a change of the library's table is noticed: stage, request, response.
TABLE = {
    Stage.ADVERTISE_KEYS: (1, 2),
    Stage.SHARE_KEYS: (3, 4),
    Stage.MASKED_INPUT_COLLECTION: (5, 6),
    Stage.CONSISTENCY_CHECK: (7, 8),
    Stage.UNMASKING: (9, 10),
}
ABORT = 255
ALL_KINDS = [*range(1, 11), ABORT]
ME = 5
SESSIONS = {
    "complete": complete(),
    "complete_semi_honest": complete(adversary="semi_honest"),
    "ring": ring(),
    "ring_semi_honest": ring(adversary="semi_honest"),
}


def stages(name: str) -> list[Stage]:
    return [stage for stage in TABLE if stage is not Stage.CONSISTENCY_CHECK or SESSIONS[name].malicious_server]


ROWS = [(name, stage) for name in SESSIONS for stage in [*stages(name), Stage.DONE, Stage.ABORTED]]


@cache
def other(name: str) -> Session:
    """Another session of the same configuration, run to its end."""
    return Session(SESSIONS[name]).finish()


def genuine(name: str, kind: int) -> list[bytes]:
    """Messages of a kind: one that says nothing, and those of another session to or from the same client."""
    cls = next(cls for cls in MESSAGES if cls.kind == kind)
    found = [sent[ME] for sent in (*other(name).requests.values(), *other(name).responses.values()) if ME in sent]
    return [any_message(cls), *(data for data in found if data[1] == kind)]


def client_at(name: str, stage: Stage) -> tuple[Session, Client]:
    session = Session(SESSIONS[name])
    if stage is Stage.ABORTED:
        session.clients[ME].abort()
    else:
        session.to(stage)
    return session, session.clients[ME]


def server_at(name: str, stage: Stage) -> tuple[Session, Server]:
    session = Session(SESSIONS[name])
    if stage is Stage.ABORTED:
        session.server.abort()
    else:
        session.to(stage)
    return session, session.server


def test_table_is_the_librarys() -> None:
    found = {stage: (exchange.request.kind, exchange.response.kind) for stage, exchange in EXCHANGES.items()}
    assert found == TABLE
    for steps in (client_stages.STEPS, server_stages.STEPS):
        assert {stage: step.exchange for stage, step in steps.items()} == EXCHANGES
    assert sorted(KINDS) == ALL_KINDS
    assert [stage.name for stage in sorted(Stage)] == [
        "ADVERTISE_KEYS",
        "SHARE_KEYS",
        "MASKED_INPUT_COLLECTION",
        "CONSISTENCY_CHECK",
        "UNMASKING",
        "DONE",
        "ABORTED",
    ]


@pytest.mark.parametrize("name", SESSIONS)
def test_stages_follow_each_other_as_the_table_says(name: str) -> None:
    found = [Stage.ADVERTISE_KEYS]
    while found[-1] in EXCHANGES:
        found.append(following(found[-1], SESSIONS[name]))
    assert found == [*stages(name), Stage.DONE]


@pytest.mark.parametrize("name", SESSIONS)
def test_each_stage_of_a_client_leaves_what_the_next_one_takes(name: str) -> None:
    config = SESSIONS[name]
    for stage in stages(name):
        types = get_type_hints(client_stages.STEPS[stage].answer)
        response, after = get_args(types["return"])
        assert (types["request"], response) == (EXCHANGES[stage].request, EXCHANGES[stage].response)
        assert issubclass(held_in(stage, config), types["state"])
        assert after is (Released if stage is Stage.UNMASKING else held_in(following(stage, config), config))


@pytest.mark.parametrize("name", SESSIONS)
def test_each_stage_of_a_server_leaves_what_the_next_one_takes(name: str) -> None:
    for stage in stages(name):
        step = server_stages.STEPS[stage]
        collecting, closing = get_type_hints(step.collect), get_type_hints(step.close)
        assert collecting["response"] is EXCHANGES[stage].response
        assert collecting["state"] is closing["state"] is SEEN[stage]
        after = get_args(closing["return"])[1]
        assert SEEN[following(stage, SESSIONS[name])] in (get_args(after) or [after])


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("name", "stage"), ROWS)
def test_client_takes_only_what_its_stage_accepts(name: str, stage: Stage) -> None:
    _, client = client_at(name, stage)
    accepted = {TABLE[stage][0], ABORT} if stage in TABLE else set()
    for kind in set(ALL_KINDS) - accepted:
        for data in genuine(name, kind):
            assert_refuses(client, data, "C2")


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("name", "stage"), ROWS)
def test_server_takes_only_what_its_stage_accepts(name: str, stage: Stage) -> None:
    _, server = server_at(name, stage)
    accepted = {TABLE[stage][1], ABORT} if stage in TABLE else set()
    late = set(ALL_KINDS) if not accepted else {response for earlier, (_, response) in TABLE.items() if earlier < stage}
    for kind in set(ALL_KINDS) - accepted:
        for data in genuine(name, kind):
            if kind in late:
                before, saved = state(server), server.to_bytes()
                assert server.receive(ME, data) is False
                assert state(server) == before
                assert server.to_bytes() == saved
            else:
                assert_server_refuses(server, ME, data, "S2" if len(data) > server.message_bytes else "S3")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", SESSIONS)
def test_every_unknown_kind_is_refused_in_every_stage(name: str) -> None:
    session = Session(SESSIONS[name])
    for stage in stages(name):
        session.to(stage)
        # Which kinds are known is the same for all sessions: the first tries all the others, the rest every eighth.
        for kind in sorted(set(range(256)) - set(ALL_KINDS))[:: 1 if name == next(iter(SESSIONS)) else 8]:
            data = bytes((1, kind)) + bytes(32)
            assert_refuses(session.clients[ME], data, "C1")
            assert_server_refuses(session.server, ME, data, "S3")
    session.finish().assert_sum()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", SESSIONS)
def test_abort_is_taken_in_every_stage_and_only_once(name: str) -> None:
    for stage in stages(name):
        session = Session(SESSIONS[name]).to(stage)
        assert session.server.receive(ME, session.clients[ME].abort("enough"))
        assert session.server.aborts == {ME: "enough"}
        assert ME not in session.server.awaited
        assert_server_refuses(session.server, ME, messages.Abort(b"again").to_bytes(), "S1")
        session.answer(silent=[ME])
        session.close()
        session.finish().assert_sum()
        assert (ME in session.server.survivors) is (stage > Stage.MASKED_INPUT_COLLECTION)


def test_nothing_is_taken_before_the_server_opens() -> None:
    server = Server(complete(adversary="semi_honest"))
    for data in map(any_message, MESSAGES):
        with pytest.raises(errors.StageError):
            server.receive(ME, data)
    with pytest.raises(errors.StageError):
        server.close_stage()
    with pytest.raises(errors.StageError):
        server.to_bytes()
    assert server.stage is None
    assert server.faults == []


def test_server_opens_once_and_closes_nothing_after_the_end() -> None:
    session = Session(complete())
    with pytest.raises(errors.StageError):
        session.server.open()
    session.finish()
    for ended in (session.server, server_at("complete", Stage.ABORTED)[1]):
        with pytest.raises(errors.StageError):
            ended.close_stage()
        with pytest.raises(errors.StageError):
            ended.open()


def test_there_is_no_sum_before_the_end() -> None:
    session = Session(complete())
    for stage in TABLE:
        session.to(stage)
        assert not session.server.done
        with pytest.raises(errors.StageError):
            _ = session.server.sum
    session.finish().assert_sum()


@pytest.mark.parametrize("changes", [{"masked": bytes(11)}, {"masked": b""}])
def test_a_refused_message_leaves_room_for_the_right_one(changes: dict[str, Any]) -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    good = session.reply(ME)
    for _ in range(3):
        assert_server_refuses(session.server, ME, edit(good, **changes), "S9")
    session.answer(silent=[ME])
    session.server.receive(ME, good)
    session.close()
    session.finish().assert_sum()
    assert opened(good).masked
    assert [fault.check for fault in session.server.faults] == ["S9"] * 3
