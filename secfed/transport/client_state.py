"""What a client keeps in files: its part of a session, to continue after a kill, and which session got which update.

A client that answered one request with two different messages could reveal its update. So each answer, with the state
after it, is on disk before it leaves, and a client that continues sends the same bytes again. Nothing leaves before it
is on disk.
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

_BLOCK: Final = 1 << 18  # values hashed at a time
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
    """Return a SHA-256 of an update's names, shapes and values, independent of their float dtypes."""
    found = structure(update)
    values = found.values(update)
    digest = hashlib.sha256(repr((found.paths, [tuple(map(int, shape)) for shape in found.shapes])).encode())
    for start in range(0, len(values), _BLOCK):
        digest.update(values[start : start + _BLOCK].astype("<f8").tobytes())
    return digest.digest()


class SavedAnswer:
    """A long answer, read from the file of a `ClientState`.

    Attributes:
        size: Bytes of the whole answer.
    """

    def __init__(self, database: sqlite3.Connection, size: int) -> None:
        self._database, self.size = database, size

    def read(self, start: int) -> bytes:
        """Return some bytes, at least one, from a position on.

        Args:
            start: The position, below `size`.
        """
        number, skipped = divmod(start, PART_BYTES)
        query = "SELECT body FROM parts WHERE owner = ? AND number = ?"
        [body] = self._database.execute(query, (_MESSAGE, number)).fetchone()
        return bytes(body[skipped:])

    def __iter__(self) -> Iterator[bytes]:
        return read_parts(self._database, _MESSAGE)


@dataclass(frozen=True, slots=True)
class Answered:
    """A client's state once it has an answer.

    Attributes:
        stage: The stage that it answers.
        message: The answer: its bytes, or for a long one an object that makes it or reads it from disk.
        snapshot: Result of `secagg.Client.to_bytes` after it; empty after the last answer.
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

    The file holds secrets, and the client's vector until its answer to MASKED_INPUT_COLLECTION. They are overwritten
    when the session ends. A note that the session took place remains, so the file cannot serve a second one.

    Args:
        path: The file. It is made if it does not exist.

    Raises:
        ConfigError: The file cannot be created or read, is not the state of a client, is readable by others, or is in
            use by another process.

    Security:
        Never restore an older copy of the file: the client would answer a request a second time.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = str(path)
        self._database = open_private(Path(path), _STATE_TABLES, _STATE_LAYOUT)
        self._database.execute("PRAGMA secure_delete = ON")

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def refuse_if_over(self) -> None:
        """Refuse the file of a session that is over, before the server is asked.

        Raises:
            ConfigError: The session is over for this client.
        """
        if found := self._database.execute("SELECT value FROM facts WHERE name = 'end'").fetchone():
            raise ConfigError(f"the session of the state {self._name} is over: {found[0].decode()}")

    def begin(self, purpose: bytes) -> Answered | None:
        """Start, or load the client's state.

        Args:
            purpose: A digest of the session, the client, its update and its weight.

        Returns:
            The last answer, which may or may not have reached the server; None if there is no answer yet.

        Raises:
            ConfigError: The file belongs to another purpose, or the session is over for this client.
        """
        facts = dict(self._database.execute("SELECT name, value FROM facts"))
        if (found := facts.get("purpose")) is None:
            self._write({"purpose": purpose}, {})
        elif found != purpose:
            raise ConfigError(
                f"the state {self._name} is for another session, client, update or weight: needed the same command "
                "that began it, or a new state file"
            )
        self.refuse_if_over()
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
        """Write an answer and the state after it; when this returns, they are on disk and the answer may be sent.

        Args:
            found: The answer, and the client's state after it.

        Returns:
            The message; a long one is read from disk until another answer is saved.

        Raises:
            SecFedError: It could not be written and must not be sent.
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
        """Erase everything except the purpose, and store how the session ended.

        Args:
            how: How it ended.
        """
        with Transaction(self._database):
            self._database.execute("DELETE FROM facts WHERE name NOT IN ('layout', 'purpose')")
            self._database.execute("DELETE FROM parts")
            self._write_facts(end=how.encode())
        # The journal holds the erased data until its pages move to the file and it is emptied.
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
    """Which update went to which session, as digests, in a file that only its owner may read.

    An update goes to only one session: two sums with the same update and different survivors reveal their difference.

    Args:
        path: The file. It is made if it does not exist.

    Raises:
        ConfigError: The file cannot be created or read, is not a record, is readable by others, or is in use by another
            process.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = str(path)
        self._database = open_private(Path(path), _RECORD_TABLES, _RECORD_LAYOUT)

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def check(self, digest: bytes, session: bytes) -> None:
        """Check, before a session, that an update was not given to another one.

        Args:
            digest: Hash of the update.
            session: Id of the session.

        Raises:
            ConfigError: It was given to another session.
        """
        found = self._database.execute("SELECT session, round FROM given WHERE digest = ?", (digest,)).fetchone()
        if found and found[0] != session:
            raise ConfigError(
                f"the record {self._name} has this update in another session, of round {found[1]}: needed an "
                "update that no session was given"
            )

    def add(self, digest: bytes, session: bytes, round_: int) -> None:
        """Write that an update goes to a session, before it leaves; when this returns, it is on disk.

        Args:
            digest: Hash of the update.
            session: Id of the session.
            round_: The training round.

        Raises:
            ConfigError: It was given to another session.
            SecFedError: It could not be written, and the update must not be sent.
        """
        self.check(digest, session)
        try:
            self._database.execute("INSERT OR IGNORE INTO given VALUES (?, ?, ?)", (digest, session, round_))
        except sqlite3.Error as error:
            raise SecFedError(f"the record {self._name} cannot be written: {error}; the update was not sent") from None
