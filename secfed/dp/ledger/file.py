"""A ledger: an SQLite file that records every release and refuses one that would overspend, before noise is drawn.

A release is first *reserved*, and from then on counts as spent. Then noise is drawn and the release is sent. Then it is
*committed*. If a process crashes in between, its reservation remains and still counts as spent.

The file holds a budget and a log that only grows; each record's hash covers all records before it. Every operation is
one transaction over its own connection, so several processes and threads may use a ledger, also across a fork. If the
file is moved, replaced or rolled back while in use, the ledger notices and does not write to it.
"""

import json
import math
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from secfed.dp import events
from secfed.dp.accountant import Accountant
from secfed.dp.checks import check_budget
from secfed.dp.events import Adjacency, Event
from secfed.dp.ledger.records import ACTIONS, CHANGED, SPENDING, Entry, History, chained, draft
from secfed.dp.rounding import exact, up
from secfed.errors import BudgetExceededError, ConfigError, SecFedError

_FORMAT = "secfed/dp/ledger/v1"
_VERSION = 1
_APPLICATION_ID = int.from_bytes(b"sfed", "big")
_SCHEMA = (
    "CREATE TABLE budget (epsilon REAL, delta REAL, adjacency TEXT, created_at TEXT, hash TEXT)",
    "CREATE TABLE log (number INTEGER PRIMARY KEY, action TEXT, entry INTEGER, event TEXT, count INTEGER, label TEXT, "
    "recorded_at TEXT, hash TEXT)",
    *(
        f"CREATE TRIGGER {table}_{change.lower()} BEFORE {change} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END"
        for table in ("budget", "log")
        for change in ("UPDATE", "DELETE")
    ),
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)
_COLUMNS = ("number", "action", "entry", "event", "count", "label", "recorded_at", "hash")
_HASH = re.compile("[0-9a-f]{64}")
_NOW = "SELECT strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"
# SQLite's codes for failures of the machine; every other code means that the file is at fault.
_OUTSIDE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


class Ledger:
    """A privacy budget in a file; made by `Ledger.create` or `Ledger.open`.

    Args:
        path: The file.
        timeout_seconds: How long to wait for another process that holds the file.
        expected_head: What `head()` returned earlier: a file that no longer holds that record is refused. None: no
            check.

    Attributes:
        path: The file.
        epsilon: The budget.
        delta: The delta at which epsilon is computed.
        adjacency: Which data sets epsilon compares, for every release.

    Security:
        A ledger guards against mistakes, crashes and races, not against anyone who can write to its file: the hashes
        have no key. Without `expected_head`, an older copy of the file, or a file whose last records were deleted,
        opens without an error. To notice both, keep `head()` elsewhere after each release and open the file with it. A
        copy of the file is a second budget: never spend from two. The file system must support locks: use a local one,
        not a network share.

        The total is a guarantee only if no round's release (its noise, its sampling, whether it takes place) was chosen
        by looking at what earlier rounds released. The caller must ensure this.

    A round is refused before its noise is drawn, and remembered if the process dies:

    >>> import tempfile
    >>> from secfed import dp
    >>> folder = tempfile.TemporaryDirectory()
    >>> ledger = dp.Ledger.create(folder.name + "/budget.sqlite", epsilon=3.0, delta=1e-5)
    >>> release = dp.PoissonSampled(0.01, dp.Gaussian(noise_multiplier=1.1))
    >>> with ledger.spending(release, label="round 1"):
    ...     pass  # draw noise, send the sum
    >>> [(entry.label, entry.state) for entry in dp.Ledger.open(ledger.path).entries()]
    [('round 1', 'committed')]
    >>> folder.cleanup()
    """

    path: Path
    epsilon: float
    delta: float
    adjacency: Adjacency

    def __init__(
        self, path: str | PathLike[str], *, timeout_seconds: float = 30.0, expected_head: str | None = None
    ) -> None:
        """Open a ledger, as `Ledger.open` does."""
        if expected_head is not None and not (isinstance(expected_head, str) and _HASH.fullmatch(expected_head)):
            raise ConfigError(
                f"expected_head {expected_head!r:.100} must be 64 hexadecimal digits, as from Ledger.head"
            )
        self.path = Path(path).absolute()
        self._timeout_seconds = timeout_seconds
        with self._transaction() as connection:
            rows = connection.execute("SELECT epsilon, delta, adjacency, created_at, hash FROM budget").fetchall()
            if len(rows) != 1 or chained(_FORMAT, rows[0][:4]) != rows[0][4]:
                raise ConfigError(f"{CHANGED}: the budget does not match its hash")
            self.epsilon, self.delta, self.adjacency, self._created_at, self._root = rows[0]
            self._history = History(self._root, 0, {}, Accountant(adjacency=self.adjacency))
            self._history = self._read(connection)
            if (
                expected_head not in (None, self._root)
                and not connection.execute("SELECT count(*) FROM log WHERE hash = ?", (expected_head,)).fetchone()[0]
            ):
                raise ConfigError(
                    f"{self.path} holds {self._history.length} records, none with the expected head {expected_head}: "
                    "its last records were deleted, or it is an older copy or another ledger"
                )

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        *,
        epsilon: float,
        delta: float,
        adjacency: Adjacency = "add_remove",
        timeout_seconds: float = 30.0,
    ) -> "Ledger":
        """Create a ledger in a new file.

        Args:
            path: The file; it must not exist, or be empty.
            epsilon: The budget: the most that all releases together may spend; positive.
            delta: The delta at which epsilon is computed; between 0 and 1.
            adjacency: `"add_remove"` or `"replace"`.
            timeout_seconds: How long to wait for another process that holds the file.

        Raises:
            ConfigError: A parameter is out of range, or there is such a file: nothing is ever overwritten.
            SecFedError: The file cannot be written, or another process holds it.
        """
        epsilon, delta = check_budget(epsilon, delta)
        events.check_adjacency(adjacency)
        path = Path(path).absolute()
        taken = f"{path} already exists and is never overwritten"
        if path.exists() and not (path.is_file() and path.stat().st_size == 0):
            raise ConfigError(taken)
        with _connection(path, timeout_seconds, "rwc") as connection:
            connection.execute("BEGIN IMMEDIATE")
            # Another process may have created the file since the check above.
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise ConfigError(taken)
            for statement in _SCHEMA:
                connection.execute(statement)
            budget = (epsilon, delta, adjacency, connection.execute(_NOW).fetchone()[0])
            connection.execute("INSERT INTO budget VALUES (?, ?, ?, ?, ?)", (*budget, chained(_FORMAT, budget)))
            connection.execute("COMMIT")
        return cls(path, timeout_seconds=timeout_seconds)

    @classmethod
    def open(
        cls, path: str | PathLike[str], *, timeout_seconds: float = 30.0, expected_head: str | None = None
    ) -> "Ledger":
        """Open a ledger and check all of it. Reservations of a crashed process still count as spent.

        Args:
            path: The file, made by `create`.
            timeout_seconds: How long to wait for another process that holds the file.
            expected_head: A head that was kept elsewhere, as from `head`: the file must hold that record, and may hold
                later ones.

        Raises:
            ConfigError: There is no such file, it is not a ledger, of another version, or has been changed; or it lacks
                the record of the expected head, because it was cut or is an older copy.
            SecFedError: The file cannot be read, or another process holds it.
        """
        return cls(path, timeout_seconds=timeout_seconds, expected_head=expected_head)

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r}, epsilon={self.epsilon}, delta={self.delta}, adjacency={self.adjacency!r})"

    def reserve(self, event: Event, count: int = 1, label: str = "") -> Entry:
        """Reserve what a release will spend. Call this before noise is drawn.

        Args:
            event: What will be released, at its worst: of a sum of noise shares, with the fewest survivors allowed.
            count: How often.
            label: Words for the listing.

        Returns:
            The entry, for `amend`, `commit` or `cancel`.

        Raises:
            BudgetExceededError: The certified upper epsilon of all entries and this one would exceed the budget;
                nothing is recorded.
            UnsupportedEventError: No bound is proved for this event under the ledger's adjacency.
            ConfigError: A parameter is wrong, or the file has been changed or replaced.
            SecFedError: The file cannot be written, or another process held it for too long; do not release.
        """
        return self._append("reserve", draft(event, count, label))

    def amend(self, entry: Entry, event: Event, count: int | None = None) -> Entry:
        """Correct a reservation when the release is known more precisely but has not happened yet.

        So a round reserves for its threshold, and once the survivors are known, and before they unmask the sum, amends
        to the noise that is really in it. If that is refused the sum must not be released.

        Args:
            entry: The reservation.
            event: What will be released.
            count: How often; as reserved unless told.

        Raises:
            BudgetExceededError: It would exceed the budget; the reservation stays as it was.
            ConfigError: A parameter is wrong, or the entry is not of this ledger.
            StageError: The entry is no longer reserved.
            SecFedError: The file cannot be written, or another process held it for too long.
        """
        better = draft(event, entry.count if count is None else count, entry.label)
        return self._append("amend", replace(entry, event=better.event, count=better.count))

    def commit(self, entry: Entry) -> Entry:
        """Record that a reservation has been released; what it spends does not change.

        Args:
            entry: The reservation.

        Raises:
            ConfigError: The entry is not of this ledger.
            StageError: The entry is no longer reserved.
            SecFedError: The file cannot be written, or another process held it for too long.
        """
        return self._append("commit", entry)

    def cancel(self, entry: Entry) -> Entry:
        """Cancel a reservation, because nothing of it was released: it no longer counts as spent.

        Only the caller knows that. If anything that depends on the clients' data has left (a sum, a model, the score
        of a model, the cause of a failure), the entry must be committed instead; when in doubt, leave it reserved.

        Args:
            entry: The reservation.

        Raises:
            ConfigError: The entry is not of this ledger.
            StageError: The entry is no longer reserved.
            SecFedError: The file cannot be written, or another process held it for too long.
        """
        return self._append("cancel", entry)

    def record(self, event: Event, count: int = 1, label: str = "") -> Entry:
        """Record a release that had no reservation. It has already happened, so it cannot be refused.

        It may take the ledger beyond its budget; from then on every reservation is refused.

        Args:
            event: What was released.
            count: How often.
            label: Words for the listing.

        Raises:
            UnsupportedEventError: No bound is proved for this event: record `dp.NonPrivate()` in its place.
            ConfigError: A parameter is wrong, or the file has been changed or replaced.
            SecFedError: The file cannot be written, or another process held it for too long.
        """
        return self._append("record", draft(event, count, label))

    @contextmanager
    def spending(self, event: Event, count: int = 1, label: str = "") -> Iterator[Entry]:
        """Reserve, run the block that draws noise and releases, commit.

        If the block raises, the reservation stays, and stays spent. The block may `amend` or `cancel` it.

        Args:
            event: What the block will release, at its worst.
            count: How often.
            label: Words for the listing.

        Yields:
            The reservation.

        Raises:
            BudgetExceededError: The budget has no room for it; the block does not run.
        """
        entry = self.reserve(event, count, label)
        yield entry
        if self._refreshed().entries[entry.number].state == "reserved":
            self.commit(entry)

    def head(self) -> str:
        """Return the hash of the last record (of the budget, if there is no record): 64 hexadecimal digits.

        It covers all records. Keep it elsewhere, and `expected_head` can check later that the file still has them.
        """
        return self._refreshed().head

    def entries(self) -> tuple[Entry, ...]:
        """Return every release, in the order in which they began."""
        return tuple(self._refreshed().entries.values())

    def accountant(self) -> Accountant:
        """Return a new accountant of everything that counts as spent: committed and reserved."""
        return self._refreshed().total()

    def spent(self) -> float:
        """Return the certified upper epsilon of everything that counts as spent, at the ledger's delta."""
        return float(self.accountant().epsilon(self.delta))

    def remaining_rounds(self, event: Event) -> int:
        """Return how many more releases of an event fit into the budget.

        Args:
            event: What would be released each time.
        """
        return self.accountant().remaining_rounds(event, epsilon=self.epsilon, delta=self.delta)

    def to_json(self) -> dict[str, Any]:
        """Return the whole ledger as a JSON object.

        Returns:
            The budget; `spent` (None where nothing is guaranteed any more); `entries`, each release as it now stands;
            `log`, every record with its hash; `head`, the hash of the last record.
        """
        with self._transaction() as connection:
            history = self._read(connection)
            records = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM log ORDER BY number").fetchall()
        log = [dict(zip(_COLUMNS, record, strict=True)) for record in records]
        spent = float(history.total().epsilon(self.delta))
        return {
            "format": _FORMAT,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "adjacency": self.adjacency,
            "created_at": self._created_at,
            "spent": spent if math.isfinite(spent) else None,
            "entries": [entry.to_json() for entry in history.entries.values()],
            "log": [record | {"event": json.loads(record["event"])} for record in log],
            "head": history.head,
        }

    def _append(self, action: str, entry: Entry) -> Entry:
        """Add a record if the log allows it; the entry says what to spend, or which reservation is meant."""
        with self._transaction("IMMEDIATE") as connection:
            history = self._read(connection)
            if ACTIONS[action][0] is None:
                entry = replace(entry, number=history.length + 1)
            else:
                found = history.reserved(entry)
                entry = replace(found, event=entry.event, count=entry.count) if action == "amend" else found
            if action in SPENDING:
                epsilon = float(history.total(without=entry).compose(entry.event, entry.count).epsilon(self.delta))
                if action != "record" and not epsilon <= self.epsilon:
                    raise self._refusal(epsilon)
            event, now = json.dumps(events.to_json(entry.event)), connection.execute(_NOW).fetchone()[0]
            fields = (history.length + 1, action, entry.number, event, entry.count, entry.label, now)
            record = (*fields, chained(history.head, fields))
            history = history.with_records([record])
            connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)", record)
        self._history = history  # only after the transaction has succeeded
        return history.entries[entry.number]

    def _refusal(self, epsilon: float) -> BudgetExceededError:
        total = f"epsilon {up(epsilon, 6)} at delta {exact(self.delta)}"
        return BudgetExceededError(
            f"with this release {total} would be spent, the budget is {exact(self.epsilon)}: nothing was recorded, "
            "draw no noise and release nothing",
            epsilon,
            self.epsilon,
        )

    def _refreshed(self) -> History:
        with self._transaction() as connection:
            self._history = history = self._read(connection)
        return history

    def _read(self, connection: sqlite3.Connection) -> History:
        """Return the history with the records that others added since; known records are not read again."""
        history = self._history
        if connection.execute("SELECT hash FROM budget").fetchall() != [(self._root,)]:
            raise ConfigError(f"{self.path} is not the ledger that was opened")
        records = connection.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM log WHERE number >= ? ORDER BY number", (history.length,)
        )
        if history.length:
            last = records.fetchone()
            if last is None or last[-1] != history.head:
                raise ConfigError(f"{CHANGED}: it no longer holds record {history.length}, which was read before")
        news = records.fetchall()
        return history.with_records(news) if news else history

    @contextmanager
    def _transaction(self, kind: str = "DEFERRED") -> Iterator[sqlite3.Connection]:
        if not self.path.is_file():
            raise ConfigError(f"there is no ledger {self.path}: Ledger.create or `secfed budget limit` makes one")
        with _connection(self.path, self._timeout_seconds, "rw") as connection:
            connection.execute(f"BEGIN {kind}")
            application, version = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )
            if application != _APPLICATION_ID:
                raise ConfigError(f"{self.path} is not a ledger")
            if version != _VERSION:
                raise ConfigError(f"{self.path} is a ledger of version {version}, this secfed reads {_VERSION}")
            yield connection
            connection.execute("COMMIT")


@contextmanager
def _connection(path: Path, timeout_seconds: float, mode: str) -> Iterator[sqlite3.Connection]:
    """Connect to a file; without a COMMIT nothing is written. SQLite's errors become ours."""
    if not 0 <= timeout_seconds < 1e6:
        raise ConfigError(f"timeout_seconds {timeout_seconds} must be from 0 to a million")
    try:
        uri = f"{path.as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, timeout=timeout_seconds, isolation_level=None, uri=True)) as connection:
            # EXTRA: otherwise a power loss right after a commit could restore the old journal and lose a release.
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("PRAGMA fullfsync = ON")
            yield connection
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise SecFedError(
                f"another process has held the ledger {path} for {timeout_seconds:g} s: nothing was recorded, try again"
            ) from None
        if code in _OUTSIDE:
            raise SecFedError(f"the ledger {path} cannot be read or written: {error}") from None
        raise ConfigError(f"{path} is not a ledger, or damaged: {error}") from None
