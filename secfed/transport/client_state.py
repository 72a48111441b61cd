"""What a client keeps in files: its part of a session, to go on after it was killed, and what it has given away.

A client that answered one request with two different messages could give its update away. So each answer is on the disk
before it leaves, with all that follows from it; a client that goes on sends the same bytes again. What is not on the
disk has never left.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from secfed.encoding.flatten import Update, structure
from secfed.errors import ConfigError, SecFedError
from secfed.secagg import Answer, Stage
from secfed.transport.spool import LONG
from secfed.transport.store import PART_BYTES, Transaction, open_private, read_parts, write_parts

_BLOCK: Final = 1 << 18  # values whose digest is taken at a time
_STATE_LAYOUT: Final = b"secfed transport client 2"
_STATE_TABLES: Final = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE parts (owner INTEGER, number INTEGER, body BLOB NOT NULL, PRIMARY KEY (owner, number))
"""
_SNAPSHOT, _MESSAGE = 0, 1  # owners of parts
_RECORD_LAYOUT: Final = b"secfed transport record 1"
_RECORD_TABLES: Final = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE given (digest BLOB PRIMARY KEY, session BLOB NOT NULL, round INTEGER NOT NULL)
"""


def update_digest(update: Update) -> bytes:
    """Return a SHA-256 of an update: of its names, shapes and values, whatever their float dtypes."""
    found = structure(update)
    values = found.values(update)
    digest = hashlib.sha256(repr((found.paths, [tuple(map(int, shape)) for shape in found.shapes])).encode())
    for start in range(0, len(values), _BLOCK):
        digest.update(values[start : start + _BLOCK].astype("<f8").tobytes())
    return digest.digest()


class SavedAnswer:
    """A long answer that is read from the file of a `ClientState`.

    Attributes:
        size: Bytes of the whole answer.
    """

    def __init__(self, database: sqlite3.Connection, size: int) -> None:
        self._database, self.size = database, size

    def read(self, start: int) -> bytes:
        """Return some bytes from a place on, at least one.

        Args:
            start: The place, below `size`.
        """
        number, skipped = divmod(start, PART_BYTES)
        query = "SELECT body FROM parts WHERE owner = ? AND number = ?"
        [body] = self._database.execute(query, (_MESSAGE, number)).fetchone()
        return bytes(body[skipped:])

    def __iter__(self) -> Iterator[bytes]:
        return read_parts(self._database, _MESSAGE)


@dataclass(frozen=True, slots=True)
class Answered:
    """Where a client stands once it has an answer.

    Attributes:
        stage: The stage that it answers.
        message: The answer: its bytes; a long one as what makes it, or what reads it from the disk.
        snapshot: What `secagg.Client.to_bytes` gave after it; empty after the last answer.
        survivors: Ids of the clients in the sum, after the last answer.
        bytes_up: Bytes of all answers so far, this one included.
        bytes_down: Bytes of all requests so far.
    """

    stage: Stage
    message: bytes | Answer | SavedAnswer
    snapshot: bytes | bytearray
    survivors: tuple[int, ...]
    bytes_up: int
    bytes_down: int


class ClientState:
    """One client's part of one session, in a file that only its owner may read.

    The file holds secrets, and the client's vector until its answer to MASKED_INPUT_COLLECTION. When the session ends
    they are overwritten; that it took place is kept, so that the file serves no second session.

    Args:
        path: The file. It is made if it does not exist.

    Raises:
        ConfigError: The file cannot be made or read, is not the state of a client, is readable for others, or is in use
            by another process.

    Security:
        Never bring an older copy of the file back: the client would answer again what it has answered.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = str(path)
        self._database = open_private(Path(path), _STATE_TABLES, _STATE_LAYOUT)
        self._database.execute("PRAGMA secure_delete = ON")

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def begin(self, purpose: bytes) -> Answered | None:
        """Start, or find where the client stands.

        Args:
            purpose: A digest of the session, the client, its update and its weight.

        Returns:
            The last answer, which may or may not have reached the server; None if there is no answer yet.

        Raises:
            ConfigError: The file is for another purpose, or the session is over for this client.
        """
        facts = dict(self._database.execute("SELECT name, value FROM facts"))
        if (found := facts.get("purpose")) is None:
            self._write({"purpose": purpose}, {})
        elif found != purpose:
            raise ConfigError(
                f"the state {self._name} is for another session, client, update or weight: needed the same command "
                "that began it, or a new state file"
            )
        elif "end" in facts:
            raise ConfigError(f"the session of the state {self._name} is over: {facts['end'].decode()}")
        if "stage" not in facts:
            return None
        numbers = [int.from_bytes(facts["numbers"][i : i + 8], "little") for i in range(0, len(facts["numbers"]), 8)]
        stage = Stage(facts["stage"][0])
        snapshot = bytearray()
        for part in read_parts(self._database, _SNAPSHOT):
            snapshot += part
        message = self._message(int.from_bytes(facts["size"], "little"))
        return Answered(stage, message, snapshot, tuple(numbers[2:]), numbers[0], numbers[1])

    def _message(self, size: int) -> bytes | SavedAnswer:
        return SavedAnswer(self._database, size) if size > LONG else b"".join(read_parts(self._database, _MESSAGE))

    def save(self, found: Answered) -> bytes | SavedAnswer:
        """Write an answer and all that follows from it; when this returns, it is on the disk and may be sent.

        Args:
            found: The answer, and the client as it is after it.

        Returns:
            The message; a long one is read from the disk, until another answer is saved.

        Raises:
            SecFedError: It cannot be written, and must not be sent.
        """
        numbers = (found.bytes_up, found.bytes_down, *found.survivors)
        message = found.message
        size = len(message) if isinstance(message, bytes) else message.size
        facts = {
            "stage": bytes([found.stage]),
            "size": size.to_bytes(8, "little"),
            "numbers": b"".join(number.to_bytes(8, "little") for number in numbers),
        }
        parts = {_SNAPSHOT: [found.snapshot], _MESSAGE: [message] if isinstance(message, bytes) else message}
        self._write(facts, parts)
        return message if isinstance(message, bytes) else self._message(size)

    def end(self, how: str) -> None:
        """Erase all but the purpose, and keep how the session ended.

        Args:
            how: How it ended.
        """
        with Transaction(self._database):
            self._database.execute("DELETE FROM facts WHERE name NOT IN ('layout', 'purpose')")
            self._database.execute("DELETE FROM parts")
            self._write_facts(end=how.encode())
        # The journal still has what was erased, until its pages move to the file and it is emptied.
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _write(self, facts: dict[str, bytes], parts: Mapping[int, Iterable[bytes | bytearray]]) -> None:
        try:
            with Transaction(self._database):
                self._write_facts(**facts)
                for owner, chunks in parts.items():
                    write_parts(self._database, owner, chunks)
        except sqlite3.Error as error:
            raise SecFedError(f"the state {self._name} cannot be written: {error}; nothing was sent") from None

    def _write_facts(self, **facts: bytes) -> None:
        self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())


class Record:
    """Which update went to which session, in a file that only its owner may read; no update is in it, only digests.

    Two sums with the same update and different survivors give their difference away: an update goes to one session.

    Args:
        path: The file. It is made if it does not exist.

    Raises:
        ConfigError: The file cannot be made or read, is not a record, is readable for others, or is in use by another
            process.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = str(path)
        self._database = open_private(Path(path), _RECORD_TABLES, _RECORD_LAYOUT)

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def check(self, digest: bytes, session: bytes) -> None:
        """Compare an update, before the session, with what was given.

        Args:
            digest: Hash of the update.
            session: Id of the session.

        Raises:
            ConfigError: It was given to another session.
        """
        found = self._database.execute("SELECT session, round FROM given WHERE digest = ?", (digest,)).fetchone()
        if found and found[0] != session:
            raise ConfigError(
                f"this update went to another session, of round {found[1]}, says the record {self._name}: needed an "
                "update that no session was given"
            )

    def add(self, digest: bytes, session: bytes, round_: int) -> None:
        """Write, before it leaves, that an update goes to a session; when this returns, it is on the disk.

        Args:
            digest: Hash of the update.
            session: Id of the session.
            round_: The training round.

        Raises:
            ConfigError: It was given to another session.
            SecFedError: It cannot be written, and the update must not be sent.
        """
        self.check(digest, session)
        try:
            self._database.execute("INSERT OR IGNORE INTO given VALUES (?, ?, ?)", (digest, session, round_))
        except sqlite3.Error as error:
            raise SecFedError(f"the record {self._name} cannot be written: {error}; the update was not sent") from None
