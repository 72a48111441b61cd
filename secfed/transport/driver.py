"""Runs a `secagg.Server` through its stages: deadlines, repeated messages, and a state that survives a kill.

There is no HTTP here and no background task: the owner of the driver delivers messages with `accept`, sends out what
`request` returns, and calls `close_stage` when `due` is true. Several threads may call any method; one runs at a time.
"""

import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.crypto.entropy import SystemEntropy
from secfed.errors import ConfigError, FaultyClientError, SecFedError
from secfed.secagg import Server, Stage
from secfed.staging import Whole
from secfed.transport.parameters import SessionParameters
from secfed.transport.store import Saved, Store, digest
from secfed.wire import HASH_BYTES

Timeouts = float | Mapping[Stage, float]
DEFAULT_SECONDS = 60.0
_OVER = (Stage.DONE, Stage.ABORTED)

_log = logging.getLogger("secfed.transport")


class Answer(Enum):
    """The outcome of a message."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # not a valid message: the client may send another one
    CONFLICT = "conflict"  # the client has answered this stage with other bytes
    LATE = "late"
    EARLY = "early"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a message, and why; the reason names ids, sizes and checks, never contents.

    Args:
        answer: The outcome.
        reason: Why.
    """

    answer: Answer
    reason: str = ""


class Driver:
    """One session of a `secagg.Server`, new or resumed.

    Args:
        parameters: What to announce; its `session` is replaced by a fresh one, or by that of the store.
        store: Where the session is kept. If it already holds a session, that one is resumed.
        directory: The public identity keys of the cohort, 32 bytes by client id (adversary `"malicious_server"` only).
        timeouts: Seconds that each stage waits for answers, for all stages or by stage (60 for missing stages). They
            start again after a restart.
        clock: A monotonic clock, in seconds.
        threads: Threads that expand masks, by default one for each usable core.

    Raises:
        ConfigError: A timeout is not positive, the directory does not match, or the store holds another session.
        MalformedMessageError: The store's snapshot is damaged.

    Attributes:
        parameters: What clients are told.
        directory: The identity keys that clients prove to have; None if clients have none.
        failure: Why the session ended without a sum; empty if it did not.
    """

    def __init__(
        self,
        parameters: SessionParameters,
        store: Store,
        *,
        directory: Mapping[int, bytes] | None = None,
        timeouts: Timeouts = DEFAULT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        threads: int | None = None,
    ) -> None:
        self._timeouts = _by_stage(timeouts)
        self._clock = clock
        self._store = store
        self._lock = threading.RLock()
        self.directory = None if directory is None else dict(directory)
        self._owed: set[int] = set()  # clients that have not yet been told how the session ended
        self.failure = ""
        identities = hashlib.sha256(repr(sorted((directory or {}).items())).encode()).digest()
        saved = store.load()
        resumed = saved is not None
        if saved is None:
            self._server = Server(parameters.config, directory=directory, threads=threads)
            outbox = self._server.open()
            self.parameters = replace(parameters, session=SystemEntropy().draw("transport_session", HASH_BYTES))
            store.begin(Saved(self.parameters.to_bytes(), identities, self._server.to_bytes(), ""), outbox)
        else:
            self.parameters = SessionParameters.from_bytes(saved.parameters)
            if saved.identities != identities or self.parameters != replace(
                parameters, session=self.parameters.session
            ):
                raise ConfigError(
                    "the state is that of a session with other parameters or another roster: needed the same command "
                    "that began it, or a new state file"
                )
            self.failure = saved.failure
            self._server = Server.from_bytes(saved.snapshot, directory=directory, threads=threads)
            saved = None  # the server has a copy; free the memory for messages
            self._replay()
            self._owed = self._still_there()
        self._set_deadline()
        _event("resume" if resumed else "session", stage=self.stage.name, clients=len(parameters.config.ids))

    def _replay(self) -> None:
        """Replay every message accepted since the snapshot."""
        for client_id, chunks in self._store.messages(self.stage):
            self._server.receive_chunks(client_id, chunks)

    def _still_there(self) -> set[int]:
        """Return the clients that answered the last stage: at the end the server does not wait for earlier dropouts."""
        return self._store.last_answered() - set(self._server.aborts) if self.over else set()

    def _set_deadline(self) -> None:
        self._deadline = self._clock() + self._timeouts.get(self.stage, float("inf"))

    @property
    def stage(self) -> Stage:
        """The stage whose answers are collected."""
        stage = self._server.stage
        return Stage.ABORTED if stage is None else stage  # never None: the constructor opens the server

    @property
    def over(self) -> bool:
        """Whether the session is done or aborted."""
        return self.stage in _OVER

    @property
    def sum(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The survivors' sum, shape `(length,)`; see `secagg.Server.sum`.

        Raises:
            StageError: The session is not done.
        """
        return self._server.sum

    @property
    def survivors(self) -> tuple[int, ...]:
        """Ids of the clients in the sum."""
        return self._server.survivors

    @property
    def dropouts(self) -> tuple[int, ...]:
        """Ids of the clients that are not in the sum."""
        return self._server.dropouts

    @property
    def faults(self) -> tuple[FaultyClientError, ...]:
        """Each refused message and wrong share, since the session began or its last saved stage."""
        return tuple(self._server.faults)

    @property
    def released(self) -> bytes | None:
        """The note passed to `release`, even before a restart; None if there is none."""
        with self._lock:
            return self._store.released

    def release(self, note: bytes) -> None:
        """Note in the store that the result was released, so that a restarted server adds no other noise to the sum.

        Args:
            note: What `released` returns from then on.
        """
        with self._lock:
            self._store.release(note)

    @property
    def seconds_left(self) -> float:
        """Seconds until the stage's deadline; infinite when the session is over."""
        return self._deadline - self._clock()

    @property
    def due(self) -> bool:
        """Whether the stage should close: no client is awaited, or the time is up."""
        with self._lock:
            return not self.over and (not self._server.awaited or self.seconds_left <= 0)

    @property
    def uncollected(self) -> tuple[int, ...]:
        """Ids of the clients that should learn how the session ended and have not asked yet."""
        with self._lock:
            return tuple(sorted(self._owed)) if self.over else ()

    def limit(self, client_id: int, stage: Stage) -> int:
        """Return the most bytes that a client may send for a stage; 0 if it accepts nothing now.

        Args:
            client_id: The client.
            stage: The stage.
        """
        with self._lock:
            if found := self._store.accepted(stage, client_id):
                return found[1]
            return self._server.message_bytes if stage is self.stage else 0

    def accept(self, client_id: int, stage: Stage, message: Whole) -> Verdict:
        """Take one message; when this returns ACCEPTED, the message survives a kill of this process.

        The same bytes are accepted any number of times, even after the stage has closed.

        Args:
            client_id: The sender, authenticated by the transport.
            stage: The stage that it answers.
            message: The whole message.

        Raises:
            SecFedError: The message cannot be written: restart the process from its state.
        """
        return self.accept_all([(client_id, stage, message)])[0]

    def accept_all(self, messages: Sequence[tuple[int, Stage, Whole]]) -> list[Verdict]:
        """Take many messages and write them to disk together, which takes hardly longer than writing one.

        Args:
            messages: Sender, stage and bytes of each, as for `accept`.

        Returns:
            The outcome of each, in order. Those ACCEPTED survive a kill of this process.

        Raises:
            SecFedError: They cannot be written: restart the process from its state.
        """
        try:
            with self._lock, self._store.together():
                verdicts = [self._accept(*message) for message in messages]
        except (sqlite3.Error, OSError) as error:
            # The server in memory has messages that are not on disk; only a restart makes the two agree again.
            raise SecFedError(f"the state cannot be written: {error}; start the server again") from None
        for (client_id, stage, message), verdict in zip(messages, verdicts, strict=True):
            size, reason = len(message), verdict.reason
            _event(verdict.answer.value, stage=stage.name, client_id=client_id, bytes=size, reason=reason)
        return verdicts

    def _accept(self, client_id: int, stage: Stage, message: Whole) -> Verdict:
        if found := self._store.accepted(stage, client_id):
            if found[0] == digest(message):
                return Verdict(Answer.ACCEPTED, "again")
            return Verdict(Answer.CONFLICT, f"client {client_id} has answered {stage.name} with other bytes")
        if stage is not self.stage:
            answer = Answer.LATE if stage < self.stage else Answer.EARLY
            return Verdict(answer, f"the session is in stage {self.stage.name}")
        try:
            if not self._server.receive(client_id, message):
                return Verdict(Answer.LATE, f"a message of a stage before {self.stage.name}")
        except FaultyClientError as error:
            return Verdict(Answer.REFUSED, str(error))
        self._store.log(stage, client_id, message)
        return Verdict(Answer.ACCEPTED)

    def request(self, client_id: int, stage: Stage) -> bytes | None:
        """Return the message to a client for a stage.

        Args:
            client_id: The client.
            stage: The stage that it awaits; DONE for the end of the session.

        Returns:
            The request, or the server's Abort if the session ended without a sum; `b""` for a client in the sum when
            the session is done. None if the stage has not started.

        Raises:
            SecFedError: The session continued without this client.
        """
        with self._lock:
            if self.stage is Stage.ABORTED:
                self._owed.discard(client_id)
                if (abort := self._store.request(client_id)) is not None:
                    return abort
            elif stage is self.stage is Stage.DONE and client_id in self.survivors:
                self._owed.discard(client_id)
                return b""
            elif stage > self.stage:
                return None
            elif stage is self.stage and (found := self._store.request(client_id)) is not None:
                return found
            raise SecFedError(f"the session went on without client {client_id}: it is in stage {self.stage.name}")

    def close_stage(self, stage: Stage) -> None:
        """Close a stage and save the next one before anything of it is sent.

        If the session cannot continue, it ends: `failure` has the reason, and clients are sent an Abort.

        Args:
            stage: The stage to close.

        Raises:
            StageError: The session is not in that stage.
            SecFedError: The state cannot be written.
        """
        with self._lock:
            missing = self._server.awaited
            for client_id in missing:
                _event("dropped out", stage=stage.name, client_id=client_id, reason="silent at the deadline")
            try:
                outbox = self._server.close_stage(stage)
            except SecFedError as error:
                if self.stage is not Stage.ABORTED:
                    raise
                self.failure = str(error)
                outbox = self._server.abort(type(error).__name__)
            self._owed = self._still_there()
            try:
                snapshot = self._server.to_bytes() if self._store.durable else b""
                self._store.close_stage(snapshot, outbox, self.failure)
            except sqlite3.Error as error:
                raise SecFedError(f"the state cannot be written: {error}; start the server again") from None
            self._set_deadline()
            _event("closed", stage=stage.name, asked=len(outbox), dropped=len(missing), reason=self.failure)


def _by_stage(timeouts: Timeouts) -> dict[Stage, float]:
    stages = [stage for stage in Stage if stage not in _OVER]
    given = timeouts if isinstance(timeouts, Mapping) else dict.fromkeys(stages, timeouts)
    found = {stage: float(given.get(stage, DEFAULT_SECONDS)) for stage in stages}
    for stage, seconds in found.items():
        if not 0 < seconds < float("inf"):
            raise ConfigError(f"the timeout of {stage.name} is {seconds} seconds, needed a positive finite number")
    if odd := set(given) - set(stages):
        raise ConfigError(f"timeouts for {sorted(map(str, odd))}: needed stages in which clients answer")
    return found


def _event(event: str, **fields: Any) -> None:
    """Log one line; its fields are also attributes of the record."""
    text = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
    _log.info("%s %s", event, text, extra={"event": event, **fields})
