"""A ledger's records in memory: the current entries, and what they spend."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from secfed.dp import events
from secfed.dp.accountant import Accountant
from secfed.dp.checks import check_count
from secfed.dp.events import Event
from secfed.errors import ConfigError, StageError

State = Literal["reserved", "committed", "cancelled"]

_MOST_COUNT = 1 << 62
# The state before and after each action.
ACTIONS: dict[str, tuple[str | None, State]] = {
    "reserve": (None, "reserved"),
    "record": (None, "committed"),
    "amend": ("reserved", "reserved"),
    "commit": ("reserved", "committed"),
    "cancel": ("reserved", "cancelled"),
}
SPENDING = ("reserve", "record", "amend")
CHANGED = "the ledger was changed from outside"


@dataclass(frozen=True, slots=True)
class Entry:
    """One release in a ledger.

    Attributes:
        number: Number of the record that began it, from 1.
        event: What is released.
        count: How often.
        label: The caller's words, such as a round or a session.
        state: `"reserved"` (spent, perhaps not yet released), `"committed"` (released) or `"cancelled"` (never was).
        recorded_at: Time of the last change, UTC, in ISO 8601, by the clock of the machine that wrote it.
        receipt: Hash of the record that began it, 64 hexadecimal digits; it covers all records before.
    """

    number: int
    event: Event
    count: int
    label: str
    state: State
    recorded_at: str
    receipt: str

    def to_json(self) -> dict[str, Any]:
        """Return the entry as a JSON object."""
        return {
            "number": self.number,
            "label": self.label,
            "state": self.state,
            "count": self.count,
            "event": events.to_json(self.event),
            "recorded_at": self.recorded_at,
            "receipt": self.receipt,
        }


@dataclass(frozen=True, slots=True)
class History:
    """The contents of a ledger's file up to a record. It never changes, so threads may share it.

    Attributes:
        head: Hash of the last record, or of the budget if there is no record.
        length: Number of records.
        entries: The releases by number, in the order in which they began.
        settled: An accountant of the committed ones.
    """

    head: str
    length: int
    entries: dict[int, Entry]
    settled: Accountant

    def total(self, without: Entry | None = None) -> Accountant:
        """Return an accountant of everything that counts as spent, optionally without one entry."""
        total = self.settled.copy()
        for entry in self.entries.values():
            if entry.state == "reserved" and (without is None or entry.number != without.number):
                total.compose(entry.event, entry.count)
        return total

    def with_records(self, records: Iterable[tuple[Any, ...]]) -> "History":
        """Return the history with further records, each checked.

        Args:
            records: Rows of the log: number, action, entry, event, count, label, time, hash.

        Raises:
            ConfigError: A record does not follow from those before it.
        """
        head, length, entries, settled = self.head, self.length, self.entries.copy(), self.settled.copy()
        for *fields, found in records:
            number, action, begun, event_text, count, label, recorded_at = fields
            head, length = chained(head, fields), length + 1
            if head != found or number != length:
                raise ConfigError(f"{CHANGED}: record {length} does not match its hash")
            old = entries.get(begun)
            needed, state = ACTIONS.get(action, ("", "reserved"))
            if (old.state if old else None) != needed or (old is None and begun != number):
                raise ConfigError(f"{CHANGED}: record {length} has the action {action}, which is not allowed there")
            event = events.from_json(json.loads(event_text))
            receipt = old.receipt if old else head
            entries[begun] = Entry(begun, event, count, label, state, recorded_at, receipt)
            if state == "committed":
                settled.compose(event, count)
        return History(head, length, entries, settled)

    def reserved(self, entry: Entry) -> Entry:
        """Return a reservation in its current state.

        Raises:
            ConfigError: The entry is not of this ledger.
            StageError: It is no longer reserved.
        """
        found = self.entries.get(entry.number)
        if found is None or found.receipt != entry.receipt:
            raise ConfigError(f"entry {entry.number} ({entry.label!r}) is not in this ledger")
        if found.state != "reserved":
            raise StageError(f"entry {entry.number} ({entry.label!r}) is already {found.state}")
        return found


def draft(event: Event, count: int, label: str) -> Entry:
    """Return an entry that is not yet in a ledger.

    Raises:
        ConfigError: A parameter is wrong.
    """
    events.check_event(event)
    count = check_count("count", count)
    if count > _MOST_COUNT:
        raise ConfigError(f"count {count} must be at most {_MOST_COUNT}")
    if not isinstance(label, str) or not label.isprintable():
        raise ConfigError(f"label {label!r:.100} must be printable text")
    return Entry(0, event, count, label, "reserved", "", "")


def chained(before: str, fields: Iterable[Any]) -> str:
    """Return the hash of a record and of all before it: SHA-256, in hexadecimal digits."""
    # SQLite keeps bytes in any column; a ledger writes none, so their repr need only differ from what it wrote.
    return hashlib.sha256(f"{before}\n{json.dumps(list(fields), default=repr)}".encode()).hexdigest()
