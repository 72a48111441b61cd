"""The file of a session: private, for one process, and known again."""

import sqlite3
from pathlib import Path

import pytest

from secfed.errors import ConfigError
from secfed.secagg import Stage
from secfed.transport import Store
from secfed.transport.store import Saved


def test_file_and_journal_are_for_their_owner_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.begin(Saved(b"parameters", b"identities", b"snapshot", ""), {1: b"request", 2: b"request"})
    store.log(Stage.ADVERTISE_KEYS, 1, b"message")
    files = list(tmp_path.iterdir())
    assert len(files) > 1, "the journal is a file of its own"
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    store.close()


def test_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store(path).close()
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="has mode 644: needed a file of mode 600"):
        Store(path)


def test_second_process_on_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *names, **options: connect(*names, **{**options, "timeout": 0.01}))
    with pytest.raises(ConfigError, match="locked"):
        Store(path)
    store.close()
    Store(path).close()


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be looked at" * 20, b"x"])
def test_file_that_is_no_state_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="cannot be used"):
        Store(path)
    assert path.read_bytes() == content


def test_end_of_a_stage_drops_its_messages_and_keeps_their_digests(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.begin(Saved(b"parameters", b"identities", b"snapshot", ""), {1: b"request"})
    store.log(Stage.ADVERTISE_KEYS, 1, b"message")
    before = store.accepted(Stage.ADVERTISE_KEYS, 1)
    found = [(client_id, b"".join(chunks)) for client_id, chunks in store.messages(Stage.ADVERTISE_KEYS)]
    assert found == [(1, b"message")]
    store.close_stage(b"later", {2: b"next"}, "why")
    assert [b"".join(chunks) for _, chunks in store.messages(Stage.ADVERTISE_KEYS)] == [b""]
    assert store.accepted(Stage.ADVERTISE_KEYS, 1) == before and before is not None and before[1] == 7
    assert (store.request(1), store.request(2)) == (None, b"next")
    assert store.load() == Saved(b"parameters", b"identities", b"later", "why")
    store.close()
