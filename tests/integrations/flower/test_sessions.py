"""What a client holds between two messages: each session is taken once, whoever asks for it at the same time."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from secfed.errors import ConfigError, FaultyServerError
from secfed.integrations.flower.sessions import Sessions

NAME = b"n" * 32


def sessions_in(folder: Path, node: int = 5) -> Sessions:
    return Sessions(Context(7, node, {"state-folder": str(folder)}, RecordDict(), {}))


def test_session_comes_back_as_it_was_once(tmp_path: Path) -> None:
    fields = {"malicious": True, "values": 9, "noise": b"\x01\x02"}
    sessions_in(tmp_path).store(NAME, fields, b"client" * 1000)
    assert sessions_in(tmp_path).take(NAME) == ({**fields, "noise": "0102"}, b"client" * 1000)
    with pytest.raises(FaultyServerError, match="F8"):
        sessions_in(tmp_path).take(NAME)


def test_another_session_or_node_finds_nothing(tmp_path: Path) -> None:
    sessions_in(tmp_path).store(NAME, {})
    for other, name in ((sessions_in(tmp_path), b"m" * 32), (sessions_in(tmp_path, 6), NAME)):
        with pytest.raises(FaultyServerError, match="F8"):
            other.take(name)
    assert sessions_in(tmp_path).take(NAME) == ({}, b"")


def test_new_session_drops_the_one_before(tmp_path: Path) -> None:
    sessions_in(tmp_path).store(NAME, {})
    sessions_in(tmp_path).store(b"m" * 32, {})
    with pytest.raises(FaultyServerError):
        sessions_in(tmp_path).take(NAME)


def attempt(arguments: tuple[str, str, int]) -> Any:
    """Take a session, or claim a round, in a process of its own; return whether it went."""
    what, folder, number = arguments
    try:
        if what == "take":
            return sessions_in(Path(folder)).take(NAME)[1]
        sessions_in(Path(folder)).claim_round(number)
    except FaultyServerError as error:
        return error.check
    return "claimed"


def test_of_many_processes_one_takes_a_session_and_one_claims_a_round(tmp_path: Path) -> None:
    sessions_in(tmp_path).store(NAME, {}, b"client")
    with get_context("spawn").Pool(4) as pool:
        taken = pool.map(attempt, [("take", str(tmp_path), 0)] * 20)
        claimed = pool.map(attempt, [("claim", str(tmp_path), 3)] * 20)
    assert sorted(map(str, taken)) == sorted(["F8"] * 19 + ["b'client'"])
    assert sorted(claimed) == ["F3"] * 19 + ["claimed"]


def test_rounds_only_go_up_whatever_claims_them_at_once(tmp_path: Path) -> None:
    for number in (0, 1, 5):
        sessions_in(tmp_path).claim_round(number)
    for number in (5, 4, 0):
        with pytest.raises(FaultyServerError, match="F3"):
            sessions_in(tmp_path).claim_round(number)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(attempt, [("claim", str(tmp_path), number) for number in [*range(6, 30)] * 4]))
    assert found.count("claimed") >= 1
    with pytest.raises(FaultyServerError, match="F3"):
        sessions_in(tmp_path).claim_round(29)
    sessions_in(tmp_path).claim_round(30)


def test_secrets_of_a_process_that_broke_off_go_with_the_next_message(tmp_path: Path) -> None:
    sessions = sessions_in(tmp_path)
    sessions.store(NAME, {}, b"secret")
    [kept] = tmp_path.rglob("session-*")
    for name in ("part-1", "taken-1"):
        kept.with_name(name).write_bytes(b"secret")
    sessions_in(tmp_path).forget()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_full_disk_leaves_no_secret_and_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = sessions_in(tmp_path)
    sessions.store(NAME, {}, b"first")

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(ConfigError, match="cannot be kept"):
        sessions.store(NAME, {}, b"secret")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_process_that_misses_files_in_a_listing_claims_no_round_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's listing may miss a file that is renamed meanwhile; what claims a round must not rest on it."""
    sessions_in(tmp_path).claim_round(5)
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(()))
    with pytest.raises(FaultyServerError, match="F3"):
        sessions_in(tmp_path).claim_round(5)
    monkeypatch.setattr(Path, "glob", listed)


def test_only_the_owner_reads_the_files(tmp_path: Path) -> None:
    sessions_in(tmp_path).store(NAME, {}, b"secret")
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / f"secfed-{os.getuid()}"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="others may read"):
        sessions_in(tmp_path)
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="mode 700"):
        sessions_in(tmp_path)


@pytest.mark.parametrize("folder", [3, "/proc/no such folder"])
def test_folder_that_cannot_be_made_is_named(folder: Any) -> None:
    with pytest.raises(ConfigError, match=r"needed the path|cannot be made"):
        Sessions(Context(7, 5, {"state-folder": folder}, RecordDict(), {}))
