"""The client's half of a session: bytes in, bytes out; no socket, no clock.

The client recomputes what it can (session id, graph, its holders) and checks the rest; the numbers C1 to C22 are those
of `protocols/secagg/README.md`. `client_stages.py` says what it does in each stage.
"""

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Self

import numpy.typing as npt

from secfed.concurrency import refused_while_busy
from secfed.crypto import signing
from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.errors import ConfigError, FaultyServerError, MalformedMessageError, StageError
from secfed.secagg import binding, masking, messages, snapshot
from secfed.secagg.answer import Answer
from secfed.secagg.client_stages import STEPS, ClientSetup, Step
from secfed.secagg.config import Config, Policy
from secfed.secagg.stages import KINDS, Stage, following, longest_request
from secfed.secagg.states import Held, Joined, Keys, Released, Shared
from secfed.wire import Message, kind_of, view


class Client:
    """One client in one session.

    Args:
        config: The session's parameters, from the application.
        client_id: This client's id in `config.client_ids`.
        vector: Its contribution: unsigned integers below `2**modulus_bits`, shape `(length,)`. Or a function that
            returns it, called when the client masks its input, so a device can train until then.
        policy: What this client requires, whatever the configuration says.
        signing_key: Its identity key (adversary `"malicious_server"` only).
        directory: The pinned identity keys of all clients, 32 bytes by client id (adversary `"malicious_server"` only).
        entropy: Source of secrets; by default the operating system's.
        threads: Threads that expand masks, by default one for each usable core.
        copy: Whether the vector is copied, so that the caller may change its array. With False, an array (also a
            memory-mapped one) of the dtype `config.dtype` is read in place, once, when the client masks its input, and
            is never written to. Do not change it until that answer has been made: the sum would mix old and new values
            (they would still be secret).

    Raises:
        ConfigError: No such client, or identity keys missing or unexpected.
        EncodingError: The vector has the wrong shape, type or range. If a function makes it, `receive` raises this, or
            what the function raised, and the client has left the session.

    Attributes:
        stage: The stage whose request it awaits.

    Security:
        The server, together with at most `config.colluders` of this client's holders, learns the sum of the survivors'
        vectors and nothing else about this one's. Against a server that breaks the protocol this needs the adversary
        `"malicious_server"`. Use one object for one session: it cannot go back or be used again.
        Each stage is answered at most once, also when several threads use the object: while one call runs, every other
        one raises `StageError` (C2). Two answers to one request could differ by one copy of the masks, which would
        reveal the vector.

    Source:
        Bonawitz et al. 2017, Figure 4; Bell et al. 2020, Figure 2.
    """

    def __init__(
        self,
        config: Config,
        client_id: int,
        vector: npt.ArrayLike | Callable[[], npt.ArrayLike],
        *,
        policy: Policy | None = None,
        signing_key: signing.SigningKey | None = None,
        directory: Mapping[int, bytes] | None = None,
        entropy: Entropy | None = None,
        threads: int | None = None,
        copy: bool = True,
    ) -> None:
        try:
            position = config.position(client_id)
        except KeyError:
            count = len(config.client_ids)
            raise ConfigError(f"client {client_id} is not among the {count} clients of the configuration") from None
        identities = binding.check_directory(config, directory)
        self._setup = ClientSetup(
            config,
            client_id,
            position,
            policy or Policy(),
            binding.check_signing_key(config, client_id, signing_key, identities),
            identities,
            entropy or SystemEntropy(),
            threads,
            copy,
        )
        self._reading: weakref.ref[Answer] | None = None  # what is being read; only it holds the vector
        self._busy = threading.Lock()
        self.client_id = client_id
        self.stage = Stage.ADVERTISE_KEYS
        self._state: Held | None = Joined(vector if callable(vector) else masking.checked(vector, config, copy=copy))

    def __repr__(self) -> str:
        return f"Client(client_id={self.client_id}, stage={self.stage.name})"

    @property
    def survivors(self) -> tuple[int, ...]:
        """Ids of the clients in the sum; empty until this client has helped to unmask it."""
        state = self._state
        return tuple(self._setup.config.ids[state.survivors].tolist()) if isinstance(state, Released) else ()

    def __reduce__(self) -> str:
        raise TypeError("a Client holds secrets and cannot be pickled; see to_bytes")

    @refused_while_busy
    def receive(self, data: bytes) -> bytes:
        """Take one message from the server and answer it.

        Args:
            data: A whole message.

        Returns:
            The response; empty if the message was the server's Abort.

        Raises:
            ConfigError: `data` is not bytes.
            MalformedMessageError: C1; nothing has changed.
            StageError: C2, a message out of turn or a second time; nothing has changed.
            FaultyServerError: C3 to C22; the client has erased its secrets and will not answer again.
        """
        return self._take(data)._whole()

    @refused_while_busy
    def receive_chunks(self, data: bytes) -> Answer:
        """Take one message from the server and answer it in chunks, for vectors too long to hold twice.

        Everything is checked before this returns. The chunks, of about 2 MiB at most, are made while they are read.
        Together they are the bytes that `receive` would return.

        Until the last chunk has been made, the client's stage is ABORTED and it answers nothing. `to_bytes` saves what
        it will be after the answer, so save it before you send the first chunk. `abort` ends the answer. If the answer
        is given up (`Answer.close`, an error, or garbage collection), the session is over for this client.

        Args:
            data: A whole message.

        Returns:
            The chunks, with their total `size`; none if the message was the server's Abort.

        Raises:
            ConfigError: `data` is not bytes.
            MalformedMessageError: C1; nothing has changed.
            StageError: C2, a message out of turn or a second time; nothing has changed.
            FaultyServerError: C3 to C22; the client has erased its secrets and will not answer again.
        """
        return self._take(data)

    def _take(self, data: bytes) -> Answer:
        """Check a message, do what it asks for, and return the answer, not yet read."""
        whole = view(data)
        kind = kind_of(whole)
        if kind not in KINDS:
            raise MalformedMessageError(f"unknown kind of message {kind}", 1)
        if self.stage in (Stage.DONE, Stage.ABORTED):  # C2
            raise StageError(f"message of kind {kind} after the end of the session ({self.stage.name})", "C2")
        stage, step = self.stage, STEPS[self.stage]
        expected = step.exchange.request
        if kind not in (expected.kind, messages.Abort.kind):  # C2
            raise StageError(f"message of kind {kind} in stage {stage.name}, needed {expected.__name__}", "C2")
        longest = longest_request(stage, self._setup.config)
        if len(whole) > longest:  # before anything is copied
            raise MalformedMessageError(f"{len(whole)} bytes, at most {longest} are allowed", longest)
        if kind == messages.Abort.kind:
            messages.Abort.from_bytes(whole).text()
            self._erase(Stage.ABORTED)
            return Answer(0, iter(()), self._busy, (Stage.ABORTED, None), lambda: None)
        answer = self._respond(step, expected.from_bytes(whole))
        if isinstance(answer, FaultyServerError):  # raised again: the frames of the first traceback hold shares
            raise answer
        self._reading = weakref.ref(answer)
        return answer

    def _respond(self, step: Step, request: Message) -> Answer | FaultyServerError:
        """Do what a stage asks for, or return why the server is at fault."""
        # ABORTED until the answer exists: whatever interrupts this call, the stage is not answered a second time.
        self.stage, self._state, state = Stage.ABORTED, None, self._state
        try:
            response, state_after = step.answer(self._setup, state, request)
        except MalformedMessageError:  # raised before the stage changes anything
            self._state, self.stage = state, step.exchange.stage
            raise
        except BaseException as error:  # the stage was interrupted: the client cannot continue
            if state:
                state.erase()
            if isinstance(error, FaultyServerError):
                return FaultyServerError(error.args[0], error.check)
            raise
        after = following(step.exchange.stage, self._setup.config), state_after

        def finish() -> None:
            (self.stage, self._state), self._reading = after, None

        return Answer(response.encoded_bytes, response.to_chunks(), self._busy, after, finish)

    @refused_while_busy
    def abort(self, reason: str = "left") -> bytes:
        """Leave the session and erase its secrets.

        Args:
            reason: ASCII, at most 64 characters, read by the server: a check's number, a word.

        Returns:
            The Abort message for the server.

        Raises:
            StageError: C2, another thread is using this object; nothing has changed.
        """
        self._erase(Stage.ABORTED)
        return messages.Abort.because(reason).to_bytes()

    @refused_while_busy
    def to_bytes(self) -> bytes:
        """Save this client between two stages, secrets included: anyone who reads these bytes can read the vector.

        Save **before** sending a response, so that a restarted client cannot answer the same request twice with
        something else. After the last response nothing can be resumed.

        Raises:
            StageError: C2, another thread is using this object, or a function has yet to make its vector.
        """
        answer = self._reading and self._reading()
        # While an answer is being read, save the state after it: a resumed client must not answer the request again.
        stage, state = answer._after if answer and answer._unfinished else (self.stage, self._state)
        if isinstance(state, Joined | Keys | Shared) and callable(state.vector):
            raise StageError("a function has yet to make this client's vector, and a function cannot be saved")
        return snapshot.save_client(self._setup.config, self.client_id, self._setup.policy, stage, state)

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray,
        *,
        signing_key: signing.SigningKey | None = None,
        directory: Mapping[int, bytes] | None = None,
        policy: Policy | None = None,
        threads: int | None = None,
    ) -> Self:
        """Resume a saved client. Pass the identity keys again, and the policy if it has changed.

        Args:
            data: What `to_bytes` returned.
            signing_key: The client's identity key.
            directory: The identity keys of the other clients.
            policy: What the client requires; None takes the one that was saved.
            threads: Threads that expand masks.

        Raises:
            StageError: It had released its shares or aborted: a second answer could reveal someone's vector.
            MalformedMessageError: These bytes are not a saved client.
        """
        config, client_id, saved_policy, stage, state = snapshot.resume_client(data)
        if state is None:
            raise StageError("this client has released its shares or left: resuming it could reveal someone's vector")
        chosen = policy or saved_policy  # its vector, if it still has one, is in its state
        client = cls(
            config, client_id, tuple, policy=chosen, signing_key=signing_key, directory=directory, threads=threads
        )
        client.stage, client._state = stage, state
        return client

    def _erase(self, stage: Stage) -> None:
        """Drop every secret; Python may keep copies of bytes until it reuses the memory."""
        self.stage = stage
        if not isinstance(self._state, Released):  # who was in the sum may still be read
            self._state = None
        if answer := self._reading and self._reading():
            answer._drop()
        self._reading = None
