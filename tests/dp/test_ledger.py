"""The ledger: it never overspends, never forgets, and is never written over."""

import json
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from secfed.dp import Gaussian, NonPrivate, PoissonSampled, events
from secfed.dp.accountant import Accountant
from secfed.dp.ledger import Ledger
from secfed.errors import BudgetExceededError, ConfigError, SecFedError, StageError, UnsupportedEventError

SOURCE = Path(__file__).parents[2]
# In memory where the system has such a folder: each record of a ledger waits for the disk several times.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
DELTA = 1e-5
ROUND = Gaussian(noise_multiplier=4.0)
SAMPLED = PoissonSampled(0.1, Gaussian(noise_multiplier=1.0))


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "budget.sqlite"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return Ledger.create(path, epsilon=3.0, delta=DELTA)


def write(path: Path, *statements: str) -> None:
    """What somebody does who does not ask the ledger."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def spent_after(count: int, event: events.Event = ROUND) -> float:
    return Accountant().compose(event, count).epsilon(DELTA) if count else 0.0


def state_of(ledger: Ledger) -> list[tuple[str, str, int]]:
    return [(entry.label, entry.state, entry.count) for entry in ledger.entries()]


# What a release spends


def test_an_empty_ledger_has_spent_nothing(ledger: Ledger) -> None:
    assert ledger.spent() == 0
    assert ledger.entries() == ()
    assert ledger.remaining_rounds(ROUND) == Accountant().remaining_rounds(ROUND, epsilon=3.0, delta=DELTA) > 2


def test_a_release_that_fits_is_recorded_and_one_that_does_not_is_refused_and_leaves_no_trace(ledger: Ledger) -> None:
    rounds = ledger.remaining_rounds(ROUND)
    for number in range(rounds):
        assert ledger.remaining_rounds(ROUND) == rounds - number
        with ledger.spending(ROUND, label=f"round {number + 1}") as entry:
            assert entry.state == "reserved"
    before = ledger.to_json()
    with pytest.raises(BudgetExceededError, match="the budget is 3: nothing was recorded") as refused:
        ledger.reserve(ROUND)
    assert refused.value.budget == 3.0
    assert refused.value.epsilon == pytest.approx(spent_after(rounds + 1), rel=1e-9)
    assert ledger.to_json() == before
    assert ledger.spent() == pytest.approx(spent_after(rounds), rel=1e-9)
    assert ledger.spent() <= 3.0 and ledger.remaining_rounds(ROUND) == 0


def test_a_reservation_counts_as_spent(ledger: Ledger) -> None:
    rounds = ledger.remaining_rounds(ROUND)
    ledger.reserve(ROUND, count=rounds)
    assert ledger.spent() == pytest.approx(spent_after(rounds), rel=1e-9)
    with pytest.raises(BudgetExceededError):
        ledger.reserve(ROUND)


def test_committing_spends_nothing_more(ledger: Ledger) -> None:
    entry = ledger.reserve(ROUND, label="round 1")
    spent = ledger.spent()
    committed = ledger.commit(entry)
    assert committed.state == "committed" and committed.receipt == entry.receipt
    assert ledger.spent() == pytest.approx(spent, rel=1e-9)


def test_cancelling_gives_back(ledger: Ledger) -> None:
    ledger.commit(ledger.reserve(ROUND))
    ledger.cancel(ledger.reserve(ROUND, label="nobody came"))
    assert ledger.spent() == pytest.approx(spent_after(1), rel=1e-9)
    assert state_of(ledger) == [("", "committed", 1), ("nobody came", "cancelled", 1)]


def test_a_reservation_is_amended_to_what_is_really_released(ledger: Ledger) -> None:
    entry = ledger.reserve(Gaussian(2.0))
    entry = ledger.amend(entry, Gaussian(4.0))
    assert (entry.event, entry.state) == (Gaussian(4.0), "reserved")
    assert ledger.spent() == pytest.approx(spent_after(1, Gaussian(4.0)), rel=1e-9)
    entry = ledger.amend(entry, Gaussian(5.0), count=2)
    assert ledger.commit(entry).count == 2
    assert ledger.spent() == pytest.approx(spent_after(2, Gaussian(5.0)), rel=1e-9)


def test_an_amendment_that_would_overspend_is_refused_and_the_reservation_stays(ledger: Ledger) -> None:
    entry = ledger.reserve(ROUND)
    with pytest.raises(BudgetExceededError):
        ledger.amend(entry, Gaussian(0.1))
    assert ledger.entries() == (entry,)
    assert ledger.commit(entry).event == ROUND


def test_a_stale_handle_commits_what_stands_in_the_ledger(ledger: Ledger) -> None:
    entry = ledger.reserve(Gaussian(2.0))
    ledger.amend(entry, Gaussian(4.0))
    assert ledger.commit(entry).event == Gaussian(4.0)


def test_what_was_released_without_asking_is_recorded_beyond_the_budget_and_stops_everything_after(
    ledger: Ledger,
) -> None:
    ledger.record(Gaussian(0.1), label="found in the audit")
    assert ledger.spent() > 3.0
    assert ledger.remaining_rounds(Gaussian(1000.0)) == 0
    with pytest.raises(BudgetExceededError):
        ledger.reserve(Gaussian(1000.0))
    assert Ledger.open(ledger.path).spent() == ledger.spent()


def test_a_release_without_noise_is_refused_and_if_recorded_spends_everything(ledger: Ledger) -> None:
    with pytest.raises(BudgetExceededError):
        ledger.reserve(NonPrivate())
    ledger.record(NonPrivate())
    assert ledger.spent() == float("inf")
    assert json.loads(json.dumps(ledger.to_json(), allow_nan=False))["spent"] is None


def test_the_adjacency_is_the_ledgers(path: Path) -> None:
    Ledger.create(path, epsilon=3.0, delta=DELTA, adjacency="replace")
    ledger = Ledger.open(path)
    ledger.reserve(ROUND)
    assert ledger.adjacency == ledger.accountant().adjacency == "replace"
    assert ledger.spent() == Accountant(adjacency="replace").compose(ROUND).epsilon(DELTA) > spent_after(1)


def test_an_event_without_a_proved_bound_is_refused_and_leaves_no_trace(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ledger.reserve(ROUND)
    real = Accountant.epsilon

    def picky(self: Accountant, *arguments: Any, **options: Any) -> Any:
        if any(event == SAMPLED for event, _ in self.events):
            raise UnsupportedEventError("no bound is proved")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Accountant, "epsilon", picky)
    for use in (ledger.reserve, ledger.record, lambda event: ledger.amend(entry, event)):
        with pytest.raises(UnsupportedEventError):
            use(SAMPLED)
    assert ledger.entries() == (entry,)


def test_changing_the_accountant_changes_no_ledger(ledger: Ledger) -> None:
    ledger.commit(ledger.reserve(ROUND))
    ledger.accountant().compose(ROUND, 1000)
    assert ledger.spent() == pytest.approx(spent_after(1), rel=1e-9)


# The block


def test_the_block_commits_at_its_end(ledger: Ledger) -> None:
    with ledger.spending(ROUND, label="round 1"):
        assert state_of(ledger) == [("round 1", "reserved", 1)]
    assert state_of(ledger) == [("round 1", "committed", 1)]


def test_a_block_that_fails_leaves_its_spend(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.spending(ROUND, count=2):
        raise KeyError
    assert state_of(ledger) == [("", "reserved", 2)]
    assert ledger.spent() > 0


def test_a_block_may_amend_or_cancel_its_reservation(ledger: Ledger) -> None:
    with ledger.spending(Gaussian(2.0)) as entry:
        ledger.amend(entry, Gaussian(4.0))
    with ledger.spending(Gaussian(4.0)) as entry:
        ledger.cancel(entry)
    assert [(entry.event, entry.state) for entry in ledger.entries()] == [
        (Gaussian(4.0), "committed"),
        (Gaussian(4.0), "cancelled"),
    ]


def test_a_block_that_would_overspend_does_not_run(ledger: Ledger) -> None:
    with pytest.raises(BudgetExceededError), ledger.spending(Gaussian(0.1)):
        pytest.fail("noise was drawn")


# Order


@pytest.mark.parametrize("first", ["commit", "cancel"])
@pytest.mark.parametrize("second", ["commit", "cancel", "amend"])
def test_what_is_committed_or_cancelled_stays_so(ledger: Ledger, first: str, second: str) -> None:
    entry = ledger.reserve(ROUND)
    settled = getattr(ledger, first)(entry)
    for handle in (entry, settled):
        with pytest.raises(StageError, match=f"is already {settled.state}"):
            getattr(ledger, second)(handle, *([ROUND] if second == "amend" else []))
    assert ledger.entries() == (settled,)


def test_an_entry_of_another_ledger_is_refused(ledger: Ledger, path: Path) -> None:
    other = Ledger.create(path.with_name("other.sqlite"), epsilon=2.0, delta=DELTA)
    ledger.reserve(ROUND)
    with pytest.raises(ConfigError, match="is not in this ledger"):
        ledger.commit(other.reserve(ROUND))


# Resuming


def test_a_ledger_is_resumed_by_opening_it(ledger: Ledger) -> None:
    ledger.commit(ledger.reserve(SAMPLED, count=5, label="rounds 1-5"))
    left = ledger.reserve(ROUND, label="round 6")
    resumed = Ledger.open(ledger.path)
    assert (resumed.epsilon, resumed.delta, resumed.adjacency) == (3.0, DELTA, "add_remove")
    assert resumed.entries() == ledger.entries()
    assert resumed.spent() == ledger.spent()
    resumed.commit(left)
    assert [entry.state for entry in ledger.entries()] == ["committed", "committed"]


def test_two_objects_of_one_file_see_each_others_spends(ledger: Ledger) -> None:
    twin = Ledger.open(ledger.path)
    rounds = ledger.remaining_rounds(ROUND)
    for number in range(rounds):
        (ledger, twin)[number % 2].reserve(ROUND)
    for one in (ledger, twin):
        with pytest.raises(BudgetExceededError):
            one.reserve(ROUND)
    assert ledger.entries() == twin.entries()


def run_python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_process_killed_between_reserve_and_commit_has_spent(ledger: Ledger) -> None:
    code = """
import sys, time
from secfed.dp import Gaussian
from secfed.dp.ledger import Ledger
with Ledger.open(sys.argv[1]).spending(Gaussian(4.0), label="round 1"):
    print("drawing", flush=True)
    time.sleep(60)
"""
    with run_python(code, ledger.path) as process:
        assert process.stdout is not None and process.stdout.readline() == "drawing\n"
        process.send_signal(signal.SIGKILL)
    assert state_of(ledger) == [("round 1", "reserved", 1)]
    assert ledger.spent() == pytest.approx(spent_after(1), rel=1e-9)


def test_a_process_killed_within_a_transaction_has_changed_nothing(ledger: Ledger) -> None:
    ledger.reserve(ROUND)
    before = ledger.to_json()
    # A page cache of one page: the change is half in the file, the rest in the journal that the process leaves.
    code = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("PRAGMA cache_spill = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE filler (x)")
for i in range(200):
    connection.execute("INSERT INTO log (event) VALUES (?)", ("x" * 5000,))
os.kill(os.getpid(), signal.SIGKILL)
"""
    with run_python(code, ledger.path) as process:
        pass
    assert process.returncode == -signal.SIGKILL
    assert Path(f"{ledger.path}-journal").exists()
    assert Ledger.open(ledger.path).to_json() == before
    ledger.reserve(ROUND)


@pytest.mark.slow
def test_whatever_a_process_was_told_is_reserved_outlives_its_death_at_any_moment(path: Path) -> None:
    ledger = Ledger.create(path, epsilon=1000.0, delta=DELTA)
    code = """
import sys
from secfed.dp import Gaussian
from secfed.dp.ledger import Ledger
ledger = Ledger.open(sys.argv[1])
while True:
    entry = ledger.reserve(Gaussian(50.0))
    print(entry.receipt, flush=True)
    if entry.number % 3:
        ledger.commit(entry)
"""
    told: set[str] = set()
    for lines in (1, 2, 3, 5, 8, 13, 21, 34):
        with run_python(code, path) as process:
            assert process.stdout is not None
            told.update(process.stdout.readline().strip() for _ in range(lines))
            process.send_signal(signal.SIGKILL)
            told.update(line.strip() for line in process.stdout if line.endswith("\n"))
        found = {entry.receipt for entry in ledger.entries()}
        assert told <= found
        told = found  # a record may be written and nobody told of it


# Many at once


def hammer(path: Path, name: str, start: "multiprocessing.synchronize.Barrier") -> None:
    ledger = Ledger.open(path)
    start.wait()
    for number in range(1000):
        if number == 1:
            start.wait()  # SQLite's locks are not fair: each process gets a turn before one may take it all
        time.sleep(0.003)
        try:
            entry = ledger.reserve(ROUND, label=f"{name} {number}")
        except BudgetExceededError:
            return
        if number % 3 == 1:
            ledger.cancel(entry)
        elif number % 3 == 2:
            ledger.commit(ledger.amend(entry, Gaussian(4.5)))
    raise AssertionError("the budget never ended")


def assert_within_budget(ledger: Ledger) -> None:
    """The budget holds after each record, and each entry has passed through states that it may have."""
    standing: dict[int, tuple[events.Event, int]] = {}
    highest = 0.0
    for record in ledger.to_json()["log"]:
        if record["action"] == "cancel":
            del standing[record["entry"]]
        else:
            standing[record["entry"]] = (events.from_json(record["event"]), record["count"])
        accountant = Accountant()
        for event, count in standing.values():
            accountant.compose(event, count)
        highest = max(highest, accountant.epsilon(DELTA) if standing else 0.0)
    assert highest <= ledger.epsilon * (1 + 1e-12)


@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")  # the children run none of the threads
# Two new Pythons load everything first, which takes most of the time.
@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_two_processes_on_one_file_never_exceed_the_budget(path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("no such way to start a process here")
    context = multiprocessing.get_context(method)
    ledger = Ledger.create(path, epsilon=3.0, delta=DELTA)
    start = context.Barrier(2)
    processes = [context.Process(target=hammer, args=(path, name, start)) for name in ("a", "b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert_within_budget(ledger)
    names = {entry.label.split()[0] for entry in ledger.entries()}
    assert names == {"a", "b"}
    assert ledger.remaining_rounds(ROUND) <= 1  # one process may have seen a reservation that the other cancelled


def test_threads_may_share_a_ledger(path: Path) -> None:
    ledger = Ledger.create(path, epsilon=3.0, delta=DELTA)
    failures = []

    def spend(name: str) -> None:
        try:
            while True:
                ledger.commit(ledger.reserve(ROUND, label=name))
        except BudgetExceededError:
            pass
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=spend, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ledger.entries() == Ledger.open(path).entries()
    assert_within_budget(ledger)
    assert ledger.remaining_rounds(ROUND) == 0


def test_a_ledger_that_is_not_locked_needs_no_time_to_wait(ledger: Ledger) -> None:
    impatient = Ledger.open(ledger.path, timeout_seconds=0.0)
    impatient.reserve(ROUND)
    assert len(ledger.entries()) == 1


def test_a_ledger_that_is_locked_for_too_long_says_so_and_records_nothing(ledger: Ledger) -> None:
    patient = Ledger.open(ledger.path, timeout_seconds=0.05)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SecFedError, match=r"another process has held the ledger .* for 0.05 s"):
            patient.reserve(ROUND)
        assert patient.spent() == 0  # reading goes on
        other.execute("ROLLBACK")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SecFedError, match="try again"):
            patient.spent()
        with pytest.raises(SecFedError, match="try again"):
            Ledger.open(ledger.path, timeout_seconds=0.05)
    assert patient.entries() == ()
    patient.reserve(ROUND)


# Files


def test_an_existing_file_is_never_overwritten(ledger: Ledger, path: Path) -> None:
    ledger.reserve(ROUND)
    text = path.with_name("text")
    text.write_text("precious")
    for taken in (path, text, path.parent):
        before = taken.read_bytes() if taken.is_file() else None
        with pytest.raises(ConfigError, match="already exists"):
            Ledger.create(taken, epsilon=1.0, delta=DELTA)
        assert (taken.read_bytes() if taken.is_file() else None) == before


def test_an_empty_file_may_become_a_ledger(path: Path) -> None:
    path.touch()
    with pytest.raises(ConfigError, match="is not a ledger"):
        Ledger.open(path)
    assert Ledger.create(path, epsilon=1.0, delta=DELTA).entries() == ()


def test_of_two_that_create_a_ledger_at_once_one_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger.create(path, epsilon=1.0, delta=DELTA)
    monkeypatch.setattr(Path, "exists", lambda self: False)  # both looked before either wrote
    with pytest.raises(ConfigError, match="already exists"):
        Ledger.create(path, epsilon=100.0, delta=DELTA)
    assert Ledger.open(path).epsilon == 1.0


def test_a_missing_ledger_is_not_created_by_opening(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no ledger .*: Ledger.create or"):
        Ledger.open(path)
    assert not path.exists()


def test_a_ledger_in_a_folder_that_does_not_exist_is_refused(path: Path) -> None:
    with pytest.raises(SecFedError, match="cannot be read or written"):
        Ledger.create(path.parent / "nowhere" / "budget.sqlite", epsilon=1.0, delta=DELTA)


@pytest.mark.parametrize("name", ["a b.sqlite", "a?mode=memory", "a#b", "a%20b", "ü.db"])
def test_any_file_name_will_do(path: Path, name: str) -> None:
    ledger = Ledger.create(path.with_name(name), epsilon=1.0, delta=DELTA)
    ledger.reserve(ROUND)
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_a_relative_path_outlives_a_change_of_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    ledger = Ledger.create("budget.sqlite", epsilon=1.0, delta=DELTA)
    monkeypatch.chdir(SOURCE)
    ledger.reserve(ROUND)
    assert len(Ledger.open(path).entries()) == 1


@pytest.mark.parametrize(
    "content", [b"not a database, and longer than the hundred bytes of a header " * 9, b"\0" * 8192]
)
def test_a_foreign_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a ledger"):
        Ledger.open(path)
    assert path.read_bytes() == content


def test_a_foreign_database_is_refused_and_left_alone(path: Path) -> None:
    write(path, "CREATE TABLE budget (epsilon)", "INSERT INTO budget VALUES (1000)")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="is not a ledger"):
        Ledger.open(path)
    assert path.read_bytes() == before


def test_a_ledger_of_another_version_is_refused(ledger: Ledger) -> None:
    write(ledger.path, "PRAGMA user_version = 2")
    for use in (lambda: Ledger.open(ledger.path), lambda: ledger.reserve(ROUND)):
        with pytest.raises(ConfigError, match="is a ledger of version 2, this secfed reads 1"):
            use()


def test_damage_anywhere_in_the_file_is_noticed_or_harmless(ledger: Ledger, path: Path) -> None:
    for number in range(60):
        ledger.record(Gaussian(100.0 + number), label="x" * 80)
    whole, expected = path.read_bytes(), ledger.entries()
    damaged = path.with_name("damaged.sqlite")
    noticed = 0
    places = np.random.default_rng(1).integers(len(whole), size=40)
    for place in [0, 20, 68, *places.tolist()]:
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert Ledger.open(damaged).entries() == expected
        except ConfigError:
            noticed += 1
    assert noticed > 16  # the others hit free space
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError):
        Ledger.open(damaged)


UNLOCKED = ("DROP TRIGGER log_update", "DROP TRIGGER log_delete", "DROP TRIGGER budget_update")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log SET count = 1 WHERE number = 1",
        "UPDATE log SET event = replace(event, '4.0', '40.0') WHERE number = 3",
        "UPDATE log SET label = 'other' WHERE number = 2",
        "UPDATE log SET recorded_at = '2000-01-01T00:00:00Z' WHERE number = 2",
        "UPDATE log SET action = 'cancel' WHERE number = 2",
        "UPDATE log SET count = x'00' WHERE number = 2",
        "UPDATE log SET label = NULL WHERE number = 2",
        "DELETE FROM log WHERE number = 1",
        "DELETE FROM log WHERE number = 2",
        "INSERT INTO log SELECT 5, action, 5, event, count, label, recorded_at, hash FROM log WHERE number = 1",
        "UPDATE budget SET epsilon = 1000",
        "UPDATE budget SET adjacency = 'replace'",
        "INSERT INTO budget SELECT * FROM budget",
    ],
)
def test_a_change_from_outside_is_noticed(ledger: Ledger, statement: str) -> None:
    ledger.commit(ledger.reserve(ROUND, count=3))  # records 1 and 2
    ledger.reserve(ROUND)
    ledger.reserve(ROUND)
    write(ledger.path, *UNLOCKED, statement)
    with pytest.raises(ConfigError, match="the ledger was changed from outside"):
        Ledger.open(ledger.path)


@pytest.mark.parametrize("statement", ["UPDATE log SET count = 1", "DELETE FROM log", "DELETE FROM budget"])
def test_the_file_itself_refuses_changes(ledger: Ledger, statement: str) -> None:
    ledger.reserve(ROUND, count=2)
    with pytest.raises(sqlite3.IntegrityError, match="the ledger only grows"):
        write(ledger.path, statement)


def test_a_file_rolled_back_while_in_use_is_noticed(ledger: Ledger) -> None:
    ledger.reserve(ROUND)
    backup = ledger.path.read_bytes()
    ledger.reserve(ROUND)
    ledger.path.write_bytes(backup)
    with pytest.raises(ConfigError, match="no longer holds record 2, which was read before"):
        ledger.reserve(ROUND)


def test_a_file_replaced_or_removed_while_in_use_is_noticed(ledger: Ledger) -> None:
    ledger.reserve(ROUND)
    ledger.path.unlink()
    with pytest.raises(ConfigError, match="there is no ledger"):
        ledger.reserve(ROUND)
    Ledger.create(ledger.path, epsilon=100.0, delta=DELTA)
    with pytest.raises(ConfigError, match="is not the ledger that was opened"):
        ledger.spent()


def test_a_ledger_that_may_only_be_read_can_be_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.reserve(ROUND)
    real = sqlite3.connect

    def read_only(name: str, *arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(name.replace("mode=rw", "mode=ro"), *arguments, **options)  # type: ignore[call-overload]
        return connection

    monkeypatch.setattr(sqlite3, "connect", read_only)  # taking the right away from the file would not stop root
    assert len(ledger.entries()) == 1
    with pytest.raises(SecFedError, match=r"cannot be read or written: .*readonly"):
        ledger.reserve(ROUND)
    assert len(ledger.entries()) == 1


def test_a_full_disk_is_an_error_and_nothing_is_recorded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sqlite3.connect

    def small(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*arguments, **options)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 1")  # the size that it has
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    recorded = []

    def fill() -> None:
        for _ in range(200):
            recorded.append(ledger.record(Gaussian(1000.0), label="x" * 100))

    with pytest.raises(SecFedError, match=r"cannot be read or written: .*full"):
        fill()
    assert ledger.entries() == tuple(recorded) != ()


# Parameters


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epsilon": 0.0}, "epsilon 0.0 must be positive"),
        ({"epsilon": -1.0}, "epsilon -1.0 must be positive"),
        ({"epsilon": float("nan")}, "epsilon nan must be positive"),
        ({"epsilon": float("inf")}, "epsilon inf must be positive and finite"),
        ({"delta": 0.0}, "delta 0.0 must be above 0 and below 1"),
        ({"delta": 1.0}, "delta 1.0 must be above 0 and below 1"),
        ({"delta": float("nan")}, "delta nan must be"),
        ({"adjacency": "nearby"}, "adjacency 'nearby' must be one of add_remove, replace"),
        ({"timeout_seconds": -1.0}, "timeout_seconds -1.0 must be"),
        ({"timeout_seconds": 1e6}, "timeout_seconds 1000000.0 must be"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds nan must be"),
    ],
)
def test_bad_parameters_make_no_file(path: Path, options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Ledger.create(path, **{"epsilon": 3.0, "delta": DELTA, **options})  # type: ignore[arg-type]
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("noise",), "needed an event"),
        ((ROUND, 0), "count 0 must be a whole number"),
        ((ROUND, -1), "count -1"),
        ((ROUND, True), "count True"),
        ((ROUND, 1.5), "count 1.5"),
        ((ROUND, 2**63), "must be at most"),
        ((ROUND, 1, "two\nlines"), "must be printable text"),
        ((ROUND, 1, 5), "must be printable text"),
        ((ROUND, 1, "\ud800"), "must be printable text"),
    ],
)
def test_bad_releases_are_refused(ledger: Ledger, arguments: tuple[object, ...], text: str) -> None:
    for use in (ledger.reserve, ledger.record):
        with pytest.raises(ConfigError, match=text):
            use(*arguments)  # type: ignore[arg-type]
    assert ledger.entries() == ()


def test_numbers_of_numpy_are_numbers(ledger: Ledger) -> None:
    ledger.reserve(Gaussian(np.float64(40.0)), count=np.int64(2))
    ledger.record(PoissonSampled(np.float64(0.5), Gaussian(8.0)))
    assert Ledger.open(ledger.path).entries() == ledger.entries()


@pytest.mark.parametrize("limit", [1.2345678, 2 / 3, 0.7])
def test_refusal_rounds_epsilon_up_and_leaves_the_budget_as_it_is(path: Path, limit: float) -> None:
    ledger = Ledger.create(path, epsilon=limit, delta=1 / 3e5)
    for noise in (0.7, 0.9, 1.1, 2.3):
        with pytest.raises(BudgetExceededError) as caught:
            ledger.reserve(Gaussian(noise))
        found = re.search(r"epsilon (\S+) at delta (\S+) would be spent, the budget is (\S+):", str(caught.value))
        assert found is not None
        shown, delta, budget = map(float, found.groups())
        assert caught.value.epsilon <= shown <= caught.value.epsilon * (1 + 1e-5)
        assert (delta, budget) == (1 / 3e5, limit)


# Heads that were kept


def cut(path: Path, records: int) -> None:
    """Delete the last records, as whoever may write to the file can do."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER log_delete")
        connection.execute(
            "DELETE FROM log WHERE number > (SELECT max(number) FROM log) - ?",
            (records,),
        )
        connection.execute(
            "CREATE TRIGGER log_delete BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END"
        )
        connection.commit()


@pytest.mark.parametrize("deleted", [1, 2, 4])
def test_deletion_of_the_last_records_is_found_with_the_head_that_was_kept(ledger: Ledger, deleted: int) -> None:
    for _ in range(2):
        ledger.commit(ledger.reserve(ROUND))
    head = ledger.head()
    assert Ledger.open(ledger.path, expected_head=head).head() == head
    cut(ledger.path, deleted)
    assert len(Ledger.open(ledger.path).to_json()["log"]) == 4 - deleted  # nothing is noticed without the head
    with pytest.raises(ConfigError, match=f"holds {4 - deleted} records, none with the expected head {head}"):
        Ledger(ledger.path, expected_head=head)


def test_older_copy_is_found_with_the_head_that_was_kept(ledger: Ledger) -> None:
    ledger.record(ROUND)
    older = ledger.path.read_bytes()
    ledger.record(ROUND)
    head = ledger.head()
    ledger.path.write_bytes(older)
    with pytest.raises(ConfigError, match="were deleted, or it is an older copy"):
        Ledger.open(ledger.path, expected_head=head)


def test_records_after_the_head_that_was_kept_are_no_fault(ledger: Ledger) -> None:
    heads = [ledger.head()]
    for _ in range(3):
        ledger.record(Gaussian(40.0))
        heads.append(ledger.head())
    assert len(set(heads)) == 4 and heads[-1] == ledger.to_json()["head"]
    for head in heads:
        assert Ledger.open(ledger.path, expected_head=head).head() == heads[-1]


def test_record_added_after_a_cut_does_not_hide_it(ledger: Ledger) -> None:
    ledger.record(ROUND, label="first")
    head = ledger.head()
    cut(ledger.path, 1)
    Ledger.open(ledger.path).record(ROUND, label="other")
    with pytest.raises(ConfigError, match="none with the expected head"):
        Ledger.open(ledger.path, expected_head=head)


@pytest.mark.parametrize("head", ["", "ab", "0" * 63, "G" * 64, 5, b"0" * 64])
def test_expected_head_that_is_no_hash_is_refused(ledger: Ledger, head: Any) -> None:
    with pytest.raises(ConfigError, match="must be 64 hexadecimal digits"):
        Ledger.open(ledger.path, expected_head=head)


# Listings


def test_the_export_holds_everything_and_its_hashes_can_be_checked_without_secfed(ledger: Ledger) -> None:
    import hashlib

    first = ledger.reserve(SAMPLED, count=2, label="round 1")
    ledger.commit(ledger.amend(first, PoissonSampled(0.1, Gaussian(2.0))))
    ledger.reserve(ROUND, label="round 2")
    found = json.loads(json.dumps(ledger.to_json(), allow_nan=False))
    assert found["spent"] == ledger.spent()
    assert {key: found[key] for key in ("format", "epsilon", "delta", "adjacency")} == {
        "format": "secfed/dp/ledger/v1",
        "epsilon": 3.0,
        "delta": DELTA,
        "adjacency": "add_remove",
    }
    assert [(entry["label"], entry["state"], entry["count"]) for entry in found["entries"]] == [
        ("round 1", "committed", 2),
        ("round 2", "reserved", 1),
    ]
    assert [record["action"] for record in found["log"]] == ["reserve", "amend", "commit", "reserve"]
    assert events.from_json(found["log"][1]["event"]) == PoissonSampled(0.1, Gaussian(2.0))

    def link(before: str, fields: list[object]) -> str:
        return hashlib.sha256(f"{before}\n{json.dumps(fields)}".encode()).hexdigest()

    head = link(found["format"], [found[key] for key in ("epsilon", "delta", "adjacency", "created_at")])
    for record in found["log"]:
        head = link(head, [*list(record.values())[:3], json.dumps(record["event"]), *list(record.values())[4:7]])
        assert record["hash"] == head
    assert found["head"] == head
    assert found["entries"][0]["receipt"] == found["log"][0]["hash"]


def test_times_are_of_this_day_in_utc(ledger: Ledger) -> None:
    from datetime import UTC, datetime, timedelta

    before = datetime.now(UTC) - timedelta(seconds=1)
    recorded_at = datetime.fromisoformat(ledger.reserve(ROUND).recorded_at)
    assert before <= recorded_at <= datetime.now(UTC)


def test_its_repr_says_the_budget(ledger: Ledger) -> None:
    assert repr(ledger) == f"Ledger({str(ledger.path)!r}, epsilon=3.0, delta=1e-05, adjacency='add_remove')"


def test_the_order_of_releases_does_not_matter(path: Path) -> None:
    first = Ledger.create(path, epsilon=50.0, delta=DELTA)
    second = Ledger.create(path.with_name("other.sqlite"), epsilon=50.0, delta=DELTA)
    parts: list[tuple[events.Event, int]] = [(ROUND, 2), (SAMPLED, 5), (Gaussian(9.0), 1)]
    for event, count in parts:
        first.commit(first.reserve(event, count))
    for event, count in reversed(parts):
        for _ in range(count):
            second.commit(second.reserve(event))
    assert first.spent() == pytest.approx(second.spent(), rel=1e-8)


# Anything, in any order


class Spending(RuleBasedStateMachine):
    """Two objects of one file against a list of what should be in it."""

    open_entries = Bundle("open_entries")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        path = Path(self.folder.name) / "budget.sqlite"
        self.ledgers = [Ledger.create(path, epsilon=2.0, delta=DELTA), Ledger.open(path)]
        self.expected: dict[int, tuple[float, str]] = {}
        self.recorded = False

    def teardown(self) -> None:
        self.folder.cleanup()

    def fits(self, *, without: int = 0, sigma: float) -> bool:
        accountant = Accountant().compose(Gaussian(sigma))
        for number, (other, state) in self.expected.items():
            if number != without and state != "cancelled":
                accountant.compose(Gaussian(other))
        return bool(accountant.epsilon(DELTA) <= 2.0)

    @rule(target=open_entries, who=st.integers(0, 1), sigma=st.sampled_from([3.0, 8.0, 20.0]))
    def reserve(self, who: int, sigma: float) -> object:
        fits = self.fits(sigma=sigma)
        try:
            entry = self.ledgers[who].reserve(Gaussian(sigma))
        except BudgetExceededError:
            assert not fits
            return None
        assert fits
        self.expected[entry.number] = (sigma, "reserved")
        return entry

    @rule(who=st.integers(0, 1), entry=open_entries, action=st.sampled_from(["commit", "cancel"]))
    def settle(self, who: int, entry: object, action: str) -> None:
        if entry is None:
            return
        sigma, state = self.expected[entry.number]  # type: ignore[attr-defined]
        try:
            after = getattr(self.ledgers[who], action)(entry)
        except StageError:
            assert state != "reserved"
            return
        assert state == "reserved"
        self.expected[after.number] = (sigma, after.state)

    @rule(who=st.integers(0, 1), entry=open_entries, sigma=st.sampled_from([2.0, 8.0, 50.0]))
    def amend(self, who: int, entry: object, sigma: float) -> None:
        if entry is None:
            return
        number = entry.number  # type: ignore[attr-defined]
        state, fits = self.expected[number][1], self.fits(without=number, sigma=sigma)
        try:
            self.ledgers[who].amend(entry, Gaussian(sigma))  # type: ignore[arg-type]
        except StageError:
            assert state != "reserved"
        except BudgetExceededError:
            assert state == "reserved" and not fits
        else:
            assert state == "reserved" and fits
            self.expected[number] = (sigma, "reserved")

    @rule(who=st.integers(0, 1))
    def record(self, who: int) -> None:
        self.recorded = True
        entry = self.ledgers[who].record(Gaussian(6.0))
        self.expected[entry.number] = (6.0, "committed")

    @rule(who=st.integers(0, 1))
    def reopen(self, who: int) -> None:
        self.ledgers[who] = Ledger.open(self.ledgers[who].path)

    @invariant()
    def both_say_what_is_expected(self) -> None:
        wanted = [(number, Gaussian(sigma), state) for number, (sigma, state) in self.expected.items()]
        for ledger in self.ledgers:
            assert [(entry.number, entry.event, entry.state) for entry in ledger.entries()] == wanted

    @invariant()
    def the_budget_holds(self) -> None:
        assert self.recorded or self.ledgers[0].spent() <= 2.0


@pytest.mark.parametrize("sequences", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_any_sequence_of_operations_keeps_the_budget(sequences: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Spending,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
