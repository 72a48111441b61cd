"""A client that was killed goes on with the same bytes, and an update goes to one session only."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secfed.errors import ConfigError, SecFedError
from secfed.secagg import Stage
from secfed.transport import ClientState, Record
from secfed.transport.client import _Link
from secfed.transport.client_state import Answered, update_digest
from tests.transport.sessions import IDS, STAGES, assert_mean, driver_of, joining, serving, update_of


class KilledError(Exception):
    """The client's process is gone."""


def killed_at(monkeypatch: pytest.MonkeyPatch, stage: Stage, sent: bool) -> list[bytes]:
    """Let client 5 end once, before or after its answer to a stage has left; return what it means to send there."""
    properly, messages = _Link.answer, []

    async def answer(link: Any, now: Stage, message: bytes) -> None:
        mine = link.base.endswith("/5") and now is stage
        if mine:
            messages.append(message)
            if len(messages) == 1 and not sent:
                raise KilledError
        await properly(link, now, message)
        if mine and len(messages) == 1:
            raise KilledError

    monkeypatch.setattr(_Link, "answer", answer)
    return messages


@pytest.mark.parametrize(
    ("stage", "sent"), [*((stage, False) for stage in STAGES), (Stage.MASKED_INPUT_COLLECTION, True)]
)
def test_client_that_is_killed_in_a_stage_goes_on_with_the_same_bytes(
    stage: Stage, sent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, path, driver = killed_at(monkeypatch, stage, sent), tmp_path / "client.db", driver_of()

    async def twice(url: str) -> Any:
        with closing(ClientState(path)) as state, pytest.raises(KilledError):
            await joining(url, 5, state=state)
        with closing(ClientState(path)) as state:
            return await joining(url, 5, state=state)

    async def session() -> list[Any]:
        async with serving(driver) as url:
            return await asyncio.gather(twice(url), *(joining(url, each) for each in IDS if each != 5))

    first, *others = asyncio.run(session())
    assert len(messages) == 2 and messages[0] == messages[1]
    assert_mean(driver, IDS)
    assert (first.survivors, first.bytes_up, first.bytes_down) == (
        IDS,
        others[0].bytes_up,
        others[0].bytes_down,
    )
    with (
        closing(ClientState(path)) as state,
        pytest.raises(ConfigError, match="is for another session, client, update or weight"),
    ):
        state.begin(b"other")


def test_secrets_of_a_session_that_is_over_are_in_no_file(tmp_path: Path) -> None:
    path, secret = tmp_path / "client.db", bytes(range(256)) * 40
    with closing(ClientState(path)) as state:
        assert state.begin(b"purpose") is None
        found = Answered(Stage.SHARE_KEYS, b"message", secret, (), 7, 70)
        state.save(found)
        assert state.begin(b"purpose") == found
        assert any(secret[:256] in each.read_bytes() for each in tmp_path.iterdir())
        state.end("done")
        assert not any(secret[:256] in each.read_bytes() for each in tmp_path.iterdir())
        assert all(each.stat().st_mode & 0o077 == 0 for each in tmp_path.iterdir())
    with closing(ClientState(path)) as state, pytest.raises(ConfigError, match="is over: done"):
        state.begin(b"purpose")


def test_the_state_of_a_session_that_is_over_is_refused_before_the_server_is_asked(tmp_path: Path) -> None:
    with closing(ClientState(tmp_path / "client.db")) as state:
        state.begin(b"purpose")
        state.end("done")
        with pytest.raises(ConfigError, match="is over: done"):
            asyncio.run(joining("http://127.0.0.1:9", 5, state=state))  # nobody listens there


def test_two_processes_cannot_use_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *names, **options: connect(*names, **{**options, "timeout": 0.01}))
    with closing(ClientState(tmp_path / "client.db")), pytest.raises(ConfigError, match="locked"):
        ClientState(tmp_path / "client.db")


def test_files_of_clients_servers_and_records_are_not_taken_for_each_other(tmp_path: Path) -> None:
    ClientState(tmp_path / "client.db").close()
    with pytest.raises(ConfigError, match="not the state of a session, or is one of another version"):
        Record(tmp_path / "client.db")


def test_update_that_went_to_one_session_is_refused_by_another(tmp_path: Path) -> None:
    async def session(update_goes: bool) -> None:
        driver = driver_of()
        with closing(Record(tmp_path / "record.db")) as record:
            async with serving(driver) as url:
                if not update_goes:
                    with pytest.raises(ConfigError, match="in another session, of round 0"):
                        await joining(url, 2, record=record)
                await asyncio.gather(
                    joining(url, 2, record=record if update_goes else None), *map(others(url), IDS[1:])
                )

    def others(url: str) -> Any:
        return lambda each: joining(url, each)

    asyncio.run(session(True))
    asyncio.run(session(False))


def test_update_is_in_the_record_before_it_leaves_and_not_if_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    async def session(stage: Stage) -> None:
        driver = driver_of(timeouts=0.5)
        killed_at(monkeypatch, stage, sent=False)
        with closing(Record(tmp_path / f"{stage}.db")) as record:
            async with serving(driver) as url:
                with pytest.raises(KilledError):
                    await asyncio.gather(*(joining(url, each, record=record if each == 5 else None) for each in IDS))
                found.append(record._database.execute("SELECT count(*) FROM given").fetchone()[0])
                raise KilledError

    for stage in (Stage.SHARE_KEYS, Stage.MASKED_INPUT_COLLECTION):
        with pytest.raises(KilledError):
            asyncio.run(session(stage))
    assert found == [0, 1]


def test_digest_of_an_update_depends_on_its_values_names_and_shapes_only() -> None:
    update = update_of(2)
    wide = {name: array.astype(np.float64) for name, array in update.items()}
    assert update_digest(update) == update_digest(wide)
    renamed = {"v": update["w"], "b": update["b"]}
    turned = {**update, "w": update["w"].T}
    changed = {**update, "b": np.nextafter(update["b"], 9)}
    assert len({update_digest(each) for each in (update, renamed, turned, changed)}) == 4


def test_answer_that_the_disk_does_not_take_is_not_sent(tmp_path: Path) -> None:
    state = ClientState(tmp_path / "client.db")
    state.begin(b"purpose")
    state._database.execute("PRAGMA query_only = ON")
    with pytest.raises(SecFedError, match="nothing was sent"):
        state.save(Answered(Stage.SHARE_KEYS, b"message", b"snapshot", (), 7, 70))
    state.close()
