"""The server's half of a session: it gets keys, sealed shares and masked vectors, and ends with the vectors' sum.

The numbers S1 to S13 are those of `protocols/secagg/README.md`. Inputs are added as they arrive: memory does not grow
with clients times length. `server_stages.py` says what it does in each stage.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt

from secfed.concurrency import one_at_a_time
from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.errors import FaultyClientError, MalformedMessageError, StageError
from secfed.secagg import binding, masking, messages, snapshot
from secfed.secagg.config import Config
from secfed.secagg.responses import ServerSetup
from secfed.secagg.server_stages import STEPS, Outbox
from secfed.secagg.stages import EXCHANGES, Stage, following, longest_response
from secfed.secagg.states import Advertising, Collecting, Done, Ended, Opening, Seen, Signing
from secfed.secagg.upload import Upload
from secfed.staging import FileBytes, Whole
from secfed.wire import Set, kind_of, view

Found = TypeVar("Found")
MAXIMUM_FAULTS = 10_000  # in the list; messages beyond it are refused too


class Server:
    """The server in one session.

    Several threads may use one server: one call runs at a time, the others wait. A thread that closes a stage after a
    timeout should name it, `close_stage(stage)`, so that two such threads do not close two stages.

    Args:
        config: The session's parameters.
        directory: The identity keys of the cohort, 32 bytes by client id (adversary `"malicious_server"` only).
        entropy: Source of the session's nonce; by default the operating system's.
        threads: Threads that expand masks, by default one for each usable core.

    Raises:
        ConfigError: The directory is missing or unexpected.

    Attributes:
        stage: The stage whose responses it collects; None before `open()`.
        faults: A `FaultyClientError` for each message refused and each wrong share found, in order; 10,000 at most.
        aborts: The reason of each client that left, by id.

    Source:
        Bonawitz et al. 2017, Figure 4; Bell et al. 2020, Figure 2.
    """

    def __init__(
        self,
        config: Config,
        *,
        directory: Mapping[int, bytes] | None = None,
        entropy: Entropy | None = None,
        threads: int | None = None,
    ) -> None:
        self.faults: list[FaultyClientError] = []
        self._setup = ServerSetup(config, binding.check_directory(config, directory), threads, self.faults)
        self._entropy: Entropy = entropy or SystemEntropy()
        self._lock = threading.RLock()
        self.stage: Stage | None = None
        self.aborts: dict[int, str] = {}
        clients = len(config.client_ids)
        self._answered: Set = np.zeros(clients, np.bool_)  # in this stage
        self._awaited: Set = np.ones(clients, np.bool_)  # those asked in this stage
        self._state: Seen | None = None  # before `open`

    def __repr__(self) -> str:
        return f"Server(stage={self.stage.name if self.stage else None}, clients={len(self.config.client_ids)})"

    @property
    def config(self) -> Config:
        """The session's parameters."""
        return self._setup.config

    @property
    def done(self) -> bool:
        """Whether the session has its sum."""
        return self.stage is Stage.DONE

    @property
    def sum(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The survivors' sum modulo `2**modulus_bits`, shape `(length,)`.

        Raises:
            StageError: The session is not done.
        """
        if not isinstance(self._state, Done):
            stage = f"in stage {self.stage.name}" if self.stage else "not open"
            raise StageError(f"there is no sum yet: the session is {stage}")
        return self._state.sum

    @property
    def survivors(self) -> tuple[int, ...]:
        """Ids of the clients in the sum; none before the end of MaskedInputCollection."""
        return self._ids(self._survivors())

    @property
    def dropouts(self) -> tuple[int, ...]:
        """Ids of the clients that are not in the sum; none before the end of MaskedInputCollection."""
        survivors = self._survivors()
        return self._ids(~survivors) if survivors.any() else ()

    def _survivors(self) -> Set:
        state = self._state
        return state.survivors if isinstance(state, Signing | Opening | Ended) else np.zeros_like(self._awaited)

    @property
    @one_at_a_time
    def awaited(self) -> tuple[int, ...]:
        """Ids of the clients whose response this stage still awaits."""
        return self._ids(self._awaited & ~self._answered)

    @property
    def message_bytes(self) -> int:
        """The longest message that this stage accepts: what a transport should allow."""
        stage, state, payload = self.stage, self._state, 0
        if stage not in EXCHANGES:
            return 0
        if stage is Stage.MASKED_INPUT_COLLECTION and isinstance(state, Collecting):
            payload = masking.create(self.config, state.session_id, self._setup.threads).payload_bytes
        return longest_response(stage, self.config, payload)

    @one_at_a_time
    def open(self) -> Outbox:
        """Begin the session.

        Returns:
            The AdvertiseKeysRequest for every client.

        Raises:
            StageError: It is open already.
        """
        if self.stage is not None:
            raise StageError("the session is open already; a new session needs a new Server")
        nonce = self._entropy.draw("nonce", 32)
        self._state, self.stage = Advertising(nonce, {}, {}, {}), Stage.ADVERTISE_KEYS
        request = messages.AdvertiseKeysRequest(nonce, self.config.hash).to_bytes()
        return dict.fromkeys(self.config.client_ids, request)

    @one_at_a_time
    def receive(self, client_id: int, data: Whole) -> bool:
        """Take one message from a client, which the transport must have authenticated.

        Args:
            client_id: The sender.
            data: A whole message, at most `message_bytes` long.

        Returns:
            True if it counts; False if it came late and was ignored.

        Raises:
            FaultyClientError: S1 to S11: refused and listed in `faults`; nothing has changed, the client may still send
                a proper one.
            ConfigError: `data` is not bytes.
            StageError: The session is not open.
            OSError: A file that holds the message cannot be read; the session is over.
        """
        whole = data if isinstance(data, FileBytes) else view(data)
        return self._listing(client_id, lambda stage: self._receive(stage, client_id, whole))

    def upload(self, client_id: int) -> Upload:
        """Take one message from a client in chunks, as they arrive.

        Args:
            client_id: The sender.

        Returns:
            What takes the chunks. The message counts when `Upload.finish` is called, and nothing changes before.
            Uploads of several clients may be under way at once.

        Raises:
            StageError: The session is not open.
        """
        if self.stage is None:
            raise StageError(f"a message from client {client_id}, but the session is not open")
        return Upload(client_id, partial(self._room, client_id), partial(self.receive, client_id))

    def receive_chunks(self, client_id: int, chunks: Iterable[bytes]) -> bool:
        """Take one message from a client in chunks.

        While it waits for a chunk, other calls on the server run.

        Args:
            client_id: The sender.
            chunks: The message in order. If reading them fails, nothing has changed.

        Returns:
            True if it counts; False if it came late and was ignored.

        Raises:
            FaultyClientError: As for `receive`; if the first bytes or the length show it, no more chunks are read.
            ConfigError: A chunk is not bytes.
            StageError: The session is not open.
        """
        with closing(self.upload(client_id)) as upload:
            return all(map(upload.write, chunks)) and upload.finish()

    def _listing(self, client_id: int, call: Callable[[Stage], Found]) -> Found | Literal[False]:
        """Check a message in the current stage, unless it is late; list the client's fault."""
        if self.stage is None:
            raise StageError(f"a message from client {client_id}, but the session is not open")
        if self.stage in (Stage.DONE, Stage.ABORTED):  # S3: any message is late now
            return False
        try:
            return call(self.stage)
        except MalformedMessageError as error:  # S2
            text, check = f"client {client_id}: {error.args[0]}", "S2"
        except FaultyClientError as error:
            text, check = error.args[0], error.check
        # The list gets a copy of the error: the raised one has a traceback, whose frames hold the refused message.
        if len(self.faults) < MAXIMUM_FAULTS:
            self.faults.append(FaultyClientError(text, client_id, check))
        raise FaultyClientError(text, client_id, check)

    @one_at_a_time
    def _room(self, client_id: int, start: bytes, size: int) -> int | Literal[False]:
        """Return the most bytes that a message with this start and `size` bytes so far may have; False if it is late.

        Raises:
            FaultyClientError: S1 to S4, the message is refused.
        """

        def look(stage: Stage) -> int | Literal[False]:
            return self._position(stage, client_id, start, size) is not None and self.message_bytes

        return self._listing(client_id, look)

    def _position(self, stage: Stage, client_id: int, start: Whole, size: int) -> int | None:
        """Check everything except a message's contents; return the sender's position, or None if it is late."""
        try:
            position = self.config.position(client_id)
        except KeyError:  # S1
            raise FaultyClientError(f"client {client_id} is not in the cohort", client_id, "S1") from None
        kind = kind_of(start)
        if any(earlier < stage and each.response.kind == kind for earlier, each in EXCHANGES.items()):  # S3
            return None
        if size > self.message_bytes:  # S2
            found = f"{size} bytes from client {client_id}"
            raise FaultyClientError(f"{found}, at most {self.message_bytes} are allowed", client_id, "S2")
        if not self._awaited[position]:  # S1
            raise FaultyClientError(f"client {client_id} has dropped out and is not awaited", client_id, "S1")
        expected = STEPS[stage].exchange.response
        if kind == messages.Abort.kind:
            return position
        if kind != expected.kind:  # S3
            found = f"message of kind {kind} from client {client_id}"
            raise FaultyClientError(f"{found} in stage {stage.name}, needed {expected.__name__}", client_id, "S3")
        if self._answered[position]:  # S4
            raise FaultyClientError(f"client {client_id} answered twice in stage {stage.name}", client_id, "S4")
        return position

    def _receive(self, stage: Stage, client_id: int, data: memoryview | FileBytes) -> bool:
        step, position = STEPS[stage], self._position(stage, client_id, data, len(data))
        if position is None:
            return False
        if kind_of(data) == messages.Abort.kind:
            self.aborts[client_id] = messages.Abort.from_bytes(data).text()
            self._awaited[position] = False
            return True
        response = step.exchange.response.from_bytes(data)
        try:
            step.collect(self._setup, self._state, client_id, position, response)
        except OSError:  # of a file: part of the message may be in the sum
            self.abort("disk")
            raise
        self._answered[position] = True
        return True

    @one_at_a_time
    def close_stage(self, stage: Stage | None = None) -> Outbox:
        """End the stage: clients that have not answered have dropped out.

        Args:
            stage: The stage that the caller means to close; by default the present one. If the session has gone on
                since, nothing changes and StageError is raised.

        Returns:
            The next stage's request for each client that is still in; empty when the sum is there.

        Raises:
            TooFewSurvivorsError: The threshold can no longer be met; the session is over.
            FaultyClientError: S12 or S13, a client dealt shares that cannot be combined; the session is over.
            StageError: The session is not open, over, or not in `stage`; nothing has changed.
        """
        if self.stage is None or self.stage in (Stage.DONE, Stage.ABORTED):
            raise StageError(f"no stage to close: the session is {self.stage.name if self.stage else 'not open'}")
        if stage is not None and stage is not self.stage:
            raise StageError(f"the session is in stage {self.stage.name}, asked to close {Stage(stage).name}")
        try:
            outbox, after = STEPS[self.stage].close(self._setup, self._state, self._answered)
        except BaseException as error:  # of any kind: half of a stage may be done, so there is no second try
            self.stage, self._state = Stage.ABORTED, Ended(self._survivors())
            if isinstance(error, FaultyClientError):
                self.faults.append(FaultyClientError(error.args[0], error.client_id, error.check))
            raise
        self._awaited = np.isin(self.config.ids, list(outbox))
        self._answered = np.zeros_like(self._awaited)
        self._state, self.stage = after, following(self.stage, self.config)
        return outbox

    @one_at_a_time
    def abort(self, reason: str = "ended") -> Outbox:
        """End the session without a sum.

        Args:
            reason: Why; the clients are told.

        Returns:
            The Abort message for every client that is still in.
        """
        self.stage = Stage.ABORTED
        if not isinstance(self._state, Done):  # a finished sum may still be read
            self._state = Ended(self._survivors())
        return dict.fromkeys(self._ids(self._awaited), messages.Abort.because(reason).to_bytes())

    @one_at_a_time
    def to_bytes(self) -> bytes:
        """Save the session: everything that the server has seen, but no client's secrets.

        Raises:
            StageError: It is not open yet.
        """
        if self.stage is None or self._state is None:
            raise StageError("the session is not open: there is nothing to save")
        state = Ended(self._survivors()) if self.stage is Stage.ABORTED else self._state
        return snapshot.save_server(
            self.config, self.stage, state, self._answered, self._awaited, self.faults, self.aborts
        )

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray, *, directory: Mapping[int, bytes] | None = None, threads: int | None = None
    ) -> Self:
        """Resume a saved session with the same result; messages accepted before it was saved are not needed again.

        Args:
            data: What `to_bytes` returned.
            directory: The identity keys of the clients.
            threads: Threads that expand masks.

        Raises:
            MalformedMessageError: These bytes are not a saved server.
        """
        config, stage, state, answered, awaited, faults, aborts = snapshot.resume_server(data, threads)
        server = cls(config, directory=directory, threads=threads)
        server.stage, server._state, server._answered, server._awaited = stage, state, answered, awaited
        server.faults.extend(faults)
        server.aborts.update(aborts)
        return server

    def _ids(self, members: Set) -> tuple[int, ...]:
        return tuple(self.config.ids[members].tolist())
