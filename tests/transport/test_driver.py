"""A session that is driven without sockets: deadlines, repeated messages, and a state that outlives its process."""

import hashlib
import sqlite3
from pathlib import Path

import pytest

from secfed.errors import ConfigError, SecFedError
from secfed.secagg import Abort, Stage
from secfed.transport import Answer, Driver, Store
from secfed.wire import kind_of
from tests.transport.sessions import (
    IDS,
    ROSTER,
    STAGES,
    announced,
    answer,
    assert_mean,
    client_of,
    driver_of,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_client_that_is_silent_at_the_deadline_has_dropped_out() -> None:
    clock = Clock()
    driver = driver_of(clock=clock, timeouts={Stage.MASKED_INPUT_COLLECTION: 7.0})
    clients = {client_id: client_of(driver, client_id) for client_id in IDS}
    for stage in STAGES:
        assert driver.stage is stage
        if stage is Stage.MASKED_INPUT_COLLECTION:
            del clients[5]
        for client in clients.values():
            answer(driver, client)
        if stage is Stage.MASKED_INPUT_COLLECTION:
            clock.now += 6.9
            assert not driver.due
            clock.now += 0.1
        assert driver.due
        driver.close_stage(stage)
    assert_mean(driver, (2, 3, 7))
    assert driver.dropouts == (5,)
    assert driver.over and not driver.due and driver.seconds_left == float("inf")
    assert driver.uncollected == (2, 3, 7)
    assert [driver.request(client_id, Stage.DONE) for client_id in (2, 3, 7)] == [b""] * 3
    assert driver.uncollected == ()
    with pytest.raises(SecFedError, match="went on without client 5"):
        driver.request(5, Stage.MASKED_INPUT_COLLECTION)


def test_the_same_bytes_are_accepted_again_and_other_bytes_never() -> None:
    driver = driver_of()
    first, second = client_of(driver, 2), client_of(driver, 2)
    message = answer(driver, first)
    other = second.receive(driver.request(2, Stage.ADVERTISE_KEYS) or b"")
    assert driver.accept(2, Stage.ADVERTISE_KEYS, message).answer is Answer.ACCEPTED
    assert driver.accept(2, Stage.ADVERTISE_KEYS, other).answer is Answer.CONFLICT
    for client_id in (3, 5, 7):
        answer(driver, client_of(driver, client_id))
    driver.close_stage(Stage.ADVERTISE_KEYS)
    assert driver.accept(2, Stage.ADVERTISE_KEYS, message).answer is Answer.ACCEPTED
    assert driver.accept(2, Stage.ADVERTISE_KEYS, other).answer is Answer.CONFLICT
    assert driver.accept(2, Stage.UNMASKING, message).answer is Answer.EARLY
    answer(driver, first)


def test_what_is_refused_may_be_sent_properly_afterwards() -> None:
    driver = driver_of()
    client = client_of(driver, 2)
    assert driver.accept(2, Stage.ADVERTISE_KEYS, b"\x01\x02rubbish").answer is Answer.REFUSED
    assert len(driver.faults) == 1
    answer(driver, client)


def test_a_message_of_a_client_that_left_counts_once_and_its_stage_goes_on() -> None:
    driver = driver_of()
    clients = {client_id: client_of(driver, client_id) for client_id in IDS}
    abort = clients.pop(3).abort()
    assert driver.accept(3, Stage.ADVERTISE_KEYS, abort).answer is Answer.ACCEPTED
    for client in clients.values():
        answer(driver, client)
    assert driver.due


def test_session_resumed_between_any_two_messages_gives_the_same_sum(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    driver = driver_of(store)
    session, clients = driver.parameters.session, {client_id: client_of(driver, client_id) for client_id in IDS}

    def restart() -> None:
        nonlocal store, driver
        store.close()
        store = Store(path)
        driver = driver_of(store)
        assert driver.parameters.session == session

    sent = {}
    for stage in STAGES:
        for client in clients.values():
            sent[client.client_id, stage] = answer(driver, client)
            restart()
        assert driver.due
        driver.close_stage(stage)
        restart()
    assert_mean(driver, IDS)
    assert all(driver.accept(*key, message).answer is Answer.ACCEPTED for key, message in sent.items())
    store.close()


def test_crash_before_a_closed_stage_is_saved_leaves_that_stage_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "state.db")
    driver = driver_of(store)
    clients = {client_id: client_of(driver, client_id) for client_id in IDS}
    for client in clients.values():
        answer(driver, client)
    replace_requests = Store._replace_requests

    def break_off(store: Store, outbox: dict[int, bytes]) -> None:
        replace_requests(store, outbox)
        raise sqlite3.OperationalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_replace_requests", break_off)
        with pytest.raises(SecFedError, match="disk full"):
            driver.close_stage(Stage.ADVERTISE_KEYS)
    store.close()
    driver = driver_of(Store(tmp_path / "state.db"))
    assert driver.stage is Stage.ADVERTISE_KEYS and driver.due
    driver.close_stage(Stage.ADVERTISE_KEYS)
    for client in clients.values():
        answer(driver, client)


def test_message_that_the_disk_does_not_take_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "state.db")
    driver = driver_of(store)
    client = client_of(driver, 2)
    message = client.receive(driver.request(2, Stage.ADVERTISE_KEYS) or b"")

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "log", refuse)
        with pytest.raises(SecFedError, match="start the server again"):
            driver.accept(2, Stage.ADVERTISE_KEYS, message)
    store.close()
    driver = driver_of(Store(tmp_path / "state.db"))
    assert driver.accept(2, Stage.ADVERTISE_KEYS, message).answer is Answer.ACCEPTED


def test_session_without_enough_clients_ends_with_aborts_also_after_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "state.db", Clock()
    store = Store(path)
    driver = driver_of(store, clock=clock)
    clients = [client_of(driver, client_id) for client_id in (2, 3)]
    for client in clients:
        answer(driver, client)
    clock.now += 60
    driver.close_stage(Stage.ADVERTISE_KEYS)
    for _ in range(2):
        assert driver.stage is Stage.ABORTED and driver.over and "2" in driver.failure
        store.close()
        store = Store(path)
        driver = driver_of(store)
    request = driver.request(2, Stage.SHARE_KEYS)
    assert request and kind_of(request) == Abort.kind
    assert clients[0].receive(request) == b"" and clients[0].stage is Stage.ABORTED
    store.close()


def test_state_of_another_session_or_roster_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    driver_of(store)
    with pytest.raises(ConfigError, match="other parameters or another roster"):
        Driver(announced(round=1), store, directory=ROSTER)
    swapped = {**ROSTER, 2: ROSTER[3], 3: ROSTER[2]}
    with pytest.raises(ConfigError, match="other parameters or another roster"):
        Driver(announced(), store, directory=swapped)
    store.close()


@pytest.mark.parametrize("timeouts", [0.0, float("nan"), float("inf"), {Stage.UNMASKING: -1.0}, {Stage.DONE: 1.0}])
def test_timeouts_that_make_no_sense_are_refused(timeouts: object) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        driver_of(timeouts=timeouts)


def test_no_message_or_key_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger="secfed.transport"):
        driver = driver_of()
        message = answer(driver, client_of(driver, 2))
    [record] = [record for record in caplog.records if getattr(record, "client_id", None) == 2]
    assert (record.event, record.stage, record.bytes) == ("accepted", "ADVERTISE_KEYS", len(message))  # type: ignore[attr-defined]
    for part in (message, driver.parameters.session, hashlib.sha256(message).digest()):
        assert part.hex() not in caplog.text and str(part) not in caplog.text
