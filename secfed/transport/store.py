"""One session in an SQLite file: what a server needs to continue after a kill at any moment.

A message is written before it is acknowledged. The end of a stage is one transaction: the snapshot of the server, the
requests of the next stage and the end of the log. So a crash always leaves a snapshot and the messages accepted since.
Snapshots and messages are written and read in parts: a masked vector is not copied as a whole.
"""

import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from secfed.errors import ConfigError
from secfed.secagg import Stage
from secfed.staging import Whole, parts

_LAYOUT = b"secfed transport state 2"
_MAGIC = b"SQLite format 3\0"
_SNAPSHOT: Final = 0  # owner of its parts; the other owners are client ids, which begin at 1
PART_BYTES: Final = 1 << 20
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE messages (stage INTEGER, client_id INTEGER, digest BLOB NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (stage, client_id));
CREATE TABLE parts (owner INTEGER, number INTEGER, body BLOB NOT NULL, PRIMARY KEY (owner, number));
CREATE TABLE bodies (digest BLOB PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE requests (client_id INTEGER PRIMARY KEY, digest BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a store holds of a session.

    Attributes:
        parameters: `SessionParameters` as bytes.
        identities: A digest of the roster with which the session began.
        snapshot: Result of `secagg.Server.to_bytes` at the start of the stage.
        failure: Why the session ended without a sum; empty if it did not.
    """

    parameters: bytes
    identities: bytes
    snapshot: bytes | bytearray
    failure: str


class Store:
    """The state of one session, in a file that only its owner may read, or in memory.

    Only one thread may use it at a time; the `Driver` ensures that.

    Args:
        path: The file. It is created if it does not exist. None keeps the session in memory, and it ends with the
            process.

    Raises:
        ConfigError: The file cannot be created or read, is not the state of a session, is readable by others, or is in
            use by another process.

    Attributes:
        durable: Whether there is a file; without one neither messages nor snapshots are kept.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.durable = path is not None
        self._handed_out = (b"", b"")  # the last request's digest and bytes
        self._database = open_private(None if path is None else Path(path), _TABLES, _LAYOUT)

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def load(self) -> Saved | None:
        """Return the session that was begun in this store, or None."""
        parameters = self._fact("parameters")
        if parameters is None:
            return None
        identities, failure = (self._fact(name) or b"" for name in ("identities", "failure"))
        snapshot = bytearray()
        for part in read_parts(self._database, _SNAPSHOT):
            snapshot += part
        return Saved(parameters, identities, snapshot, failure.decode())

    def begin(self, saved: Saved, outbox: Mapping[int, bytes]) -> None:
        """Write a new session and the requests of its first stage."""
        with self._transaction():
            self._set(parameters=saved.parameters, identities=saved.identities)
            self._replace_snapshot(saved.snapshot)
            self._replace_requests(outbox)

    def log(self, stage: Stage, client_id: int, message: Whole) -> None:
        """Write an accepted message; it is on disk when this returns or the transaction around it ends."""
        row = (int(stage), client_id, digest(message), len(message))
        self._database.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", row)
        if self.durable:  # without a file, no restart can read it
            write_parts(self._database, client_id, parts(message))

    def together(self) -> "Transaction":
        """Return a context whose writes reach the disk at its end, all of them or none."""
        return self._transaction()

    def accepted(self, stage: Stage, client_id: int) -> tuple[bytes, int] | None:
        """Return the SHA-256 and the size in bytes of the message accepted from a client in a stage, or None."""
        query = "SELECT digest, size FROM messages WHERE stage = ? AND client_id = ?"
        found = self._database.execute(query, (int(stage), client_id)).fetchone()
        return (bytes(found[0]), int(found[1])) if found else None

    def last_answered(self) -> set[int]:
        """Return the ids of the clients whose message was accepted in the last stage that has any."""
        query = "SELECT client_id FROM messages WHERE stage = (SELECT max(stage) FROM messages)"
        return {int(client_id) for (client_id,) in self._database.execute(query)}

    def messages(self, stage: Stage) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield the accepted messages of the current stage: client id and chunks, in order of arrival."""
        query = "SELECT client_id FROM messages WHERE stage = ? ORDER BY rowid"
        for (client_id,) in self._database.execute(query, (int(stage),)).fetchall():
            yield client_id, read_parts(self._database, client_id)

    def close_stage(self, snapshot: bytes, outbox: Mapping[int, bytes], failure: str = "") -> None:
        """Write the end of a stage in one transaction.

        Args:
            snapshot: The server after it.
            outbox: The next stage's requests, or the Aborts, by client id.
            failure: Why the session ended without a sum.
        """
        with self._transaction():
            self._set(failure=failure.encode())
            self._database.execute("DELETE FROM parts")  # the snapshot has what was in the messages; digests are kept
            self._replace_snapshot(snapshot)
            self._replace_requests(outbox)

    def request(self, client_id: int) -> bytes | None:
        """Return the current stage's request for a client, or None if it is not asked.

        Clients that are sent the same bytes share one object, so a thousand downloads need them only once.
        """
        query = "SELECT digest FROM requests WHERE client_id = ?"
        if not (found := self._database.execute(query, (client_id,)).fetchone()):
            return None
        if found[0] != self._handed_out[0]:
            [body] = self._database.execute("SELECT body FROM bodies WHERE digest = ?", found).fetchone()
            self._handed_out = (bytes(found[0]), bytes(body))
        return self._handed_out[1]

    @property
    def parameters(self) -> bytes | None:
        """`SessionParameters` as bytes of the session that was begun in this store; None before that."""
        return self._fact("parameters")

    @property
    def released(self) -> bytes | None:
        """The note passed to `release`; None before."""
        return self._fact("released")

    def release(self, note: bytes) -> None:
        """Write that the result of the session was released, so that no other noise is ever added to its sum."""
        self._set(released=note)

    def _replace_snapshot(self, snapshot: bytes | bytearray) -> None:
        if self.durable:
            write_parts(self._database, _SNAPSHOT, [snapshot])

    def _replace_requests(self, outbox: Mapping[int, bytes]) -> None:
        self._database.execute("DELETE FROM requests")
        self._database.execute("DELETE FROM bodies")
        digests: dict[int, bytes] = {}  # by object: most stages send one object to all clients
        for client_id, body in outbox.items():
            if id(body) not in digests:
                digests[id(body)] = hashlib.sha256(body).digest()
                self._database.execute("INSERT OR IGNORE INTO bodies VALUES (?, ?)", (digests[id(body)], body))
            self._database.execute("INSERT INTO requests VALUES (?, ?)", (client_id, digests[id(body)]))

    def _set(self, **facts: bytes) -> None:
        self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    def _fact(self, name: str) -> bytes | None:
        found = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return bytes(found[0]) if found else None

    def _transaction(self) -> "Transaction":
        return Transaction(self._database)


class Transaction:
    """Runs all of the statements inside, or none."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._database.execute("COMMIT" if kind is None else "ROLLBACK")


def digest(message: Whole) -> bytes:
    """Return a message's SHA-256."""
    found = hashlib.sha256()
    for part in parts(message):
        found.update(part)
    return found.digest()


def write_parts(database: sqlite3.Connection, owner: int, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
    """Replace an owner's bytes, in parts of the same size; only the last may be shorter.

    Args:
        database: One with a table `parts` (owner, number, body), within a transaction.
        owner: Whose bytes they are.
        chunks: The bytes in order, in chunks of any size.
    """
    database.execute("DELETE FROM parts WHERE owner = ?", (owner,))
    number, left = 0, b""

    def write(part: bytes | memoryview) -> None:
        nonlocal number
        database.execute("INSERT INTO parts VALUES (?, ?, ?)", (owner, number, part))
        number += 1

    for chunk in chunks:
        whole = memoryview(left + bytes(chunk) if left else chunk)
        end = len(whole) - len(whole) % PART_BYTES
        for start in range(0, end, PART_BYTES):
            write(whole[start : start + PART_BYTES])
        left = bytes(whole[end:])
    if left:
        write(left)


def read_parts(database: sqlite3.Connection, owner: int) -> Iterator[bytes]:
    """Yield what `write_parts` wrote for an owner, part by part."""
    query, number = "SELECT body FROM parts WHERE owner = ? AND number = ?", 0
    while found := database.execute(query, (owner, number)).fetchone():
        yield found[0]
        number += 1


def open_private(path: Path | None, tables: str, layout: bytes) -> sqlite3.Connection:
    """Open a database that only its owner may read and only this process may use; None means in memory.

    Data are on disk when their transaction ends.

    Args:
        path: The file. It is created if it does not exist.
        tables: Statements that make the tables of a new file, a table `facts` (name, value) among them.
        layout: The file's layout, as stored in `facts`.

    Raises:
        ConfigError: The file cannot be created or read, has another layout, is readable by others, or is in use by
            another process.
    """
    name = ":memory:" if path is None else str(path)
    try:
        if path is not None:
            _make_private(path)
        database = sqlite3.connect(name, isolation_level=None, check_same_thread=False, timeout=1.0)
        # One process only: two servers of one session could announce two sets of survivors, and two clients could
        # answer one request twice.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        with Transaction(database):
            if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in tables.split(";"):
                    database.execute(statement)
                database.execute("INSERT INTO facts VALUES ('layout', ?)", (layout,))
            elif database.execute("SELECT value FROM facts WHERE name = 'layout'").fetchone() != (layout,):
                raise sqlite3.DatabaseError("it is not the state of a session, or is one of another version")
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"the state {name} cannot be used: {error}") from None
    return database


def _make_private(path: Path) -> None:
    """Make the file with mode 600 if it does not exist; SQLite gives its journal the same mode."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or (os.name == "posix" and found.st_mode & 0o077):
            mode = f"{stat.S_IMODE(found.st_mode):o}"
            raise ConfigError(f"the state {path} has mode {mode}: needed a file of mode 600") from None
        with path.open("rb") as file:  # SQLite would accept a very short file as a database; an empty one is new
            if file.read(len(_MAGIC)) not in (b"", _MAGIC):
                raise OSError("it is not an SQLite database") from None
