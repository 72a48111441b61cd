"""The server's half of a session: it sees keys, sealed shares and masked vectors, and ends with their sum; no socket,
no clock.

The numbers S1 to S13 are those of `protocols/secagg/README.md`. Inputs are added as they arrive: memory does not grow
with clients times length.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from secfed.concurrency import one_at_a_time
from secfed.crypto import shamir, signing
from secfed.crypto.agreement import is_sound
from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.errors import FaultyClientError, MalformedMessageError, StageError, TooFewSurvivorsError
from secfed.secagg import binding, masking, messages, opening, requests, snapshot, stages
from secfed.secagg.config import Config
from secfed.secagg.graph import graph_of
from secfed.secagg.stages import EXCHANGES, Exchange, Request, Response, Stage, following, longest_response
from secfed.secagg.states import Advertised, Advertising, Collecting, Done, Ended, Opening, Seen, Sharing, Signing
from secfed.wire import Set, kind_of, set_from_bytes, set_to_bytes, view

Outbox = dict[int, bytes]
During = TypeVar("During", bound=Seen)
MAXIMUM_FAULTS = 10_000  # listed; more are refused all the same


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
        ConfigError: The directory is missing or superfluous.

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
        self._config = config
        self._directory = binding.check_directory(config, directory)
        self._entropy: Entropy = entropy or SystemEntropy()
        self._threads = threads
        self._lock = threading.RLock()
        self.stage: Stage | None = None
        self.faults: list[FaultyClientError] = []
        self.aborts: dict[int, str] = {}
        clients = len(config.client_ids)
        self._answered: Set = np.zeros(clients, np.bool_)  # in this stage
        self._awaited: Set = np.ones(clients, np.bool_)  # those asked in this stage
        self._state: Seen | None = None  # before `open`

    def __repr__(self) -> str:
        return f"Server(stage={self.stage.name if self.stage else None}, clients={len(self._config.client_ids)})"

    @property
    def config(self) -> Config:
        """The session's parameters."""
        return self._config

    @property
    def done(self) -> bool:
        """Whether the sum is there."""
        return self.stage is Stage.DONE

    @property
    def sum(self) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The survivors' sum modulo `2**modulus_bits`, shape `(length,)`.

        Raises:
            StageError: The session is not done.
        """
        if not isinstance(self._state, Done):
            raise StageError(
                f"there is no sum yet: the session is in stage {self.stage.name if self.stage else 'none'}"
            )
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
            payload = masking.create(self._config, state.session_id, self._threads).payload_bytes
        return longest_response(stage, self._config, payload)

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
        request = messages.AdvertiseKeysRequest(nonce, self._config.hash).to_bytes()
        return dict.fromkeys(self._config.client_ids, request)

    @one_at_a_time
    def receive(self, client_id: int, data: bytes) -> bool:
        """Take one message from a client; the transport vouches for who it is.

        Args:
            client_id: The sender.
            data: A whole message, at most `message_bytes` long.

        Returns:
            True if it counts; False if it came late and was ignored.

        Raises:
            FaultyClientError: S1 to S11: refused and listed in `faults`; nothing has changed, the client may still send
                a proper one.
            ConfigError: `data` is no bytes.
            StageError: The session is not open.
        """
        if self.stage is None:
            raise StageError(f"a message from client {client_id}, but the session is not open")
        if self.stage in (Stage.DONE, Stage.ABORTED):  # S3: whatever it is, it is late
            return False
        try:
            return self._receive(self.stage, client_id, view(data))
        except MalformedMessageError as error:  # S2
            text, check = f"client {client_id}: {error.args[0]}", "S2"
        except FaultyClientError as error:
            text, check = error.args[0], error.check
        # What is kept is not what is raised: that has a traceback, whose frames hold the refused message.
        if len(self.faults) < MAXIMUM_FAULTS:
            self.faults.append(FaultyClientError(text, client_id, check))
        raise FaultyClientError(text, client_id, check)

    def _receive(self, stage: Stage, client_id: int, data: memoryview) -> bool:
        step = STEPS[stage]
        try:
            position = self._config.position(client_id)
        except KeyError:  # S1
            raise FaultyClientError(f"client {client_id} is not in the cohort", client_id, "S1") from None
        kind = kind_of(data)
        if any(earlier < stage and each.response.kind == kind for earlier, each in EXCHANGES.items()):  # S3
            return False
        if len(data) > self.message_bytes:  # S2
            found = f"{len(data)} bytes from client {client_id}"
            raise FaultyClientError(f"{found}, at most {self.message_bytes} are allowed", client_id, "S2")
        if not self._awaited[position]:  # S1
            raise FaultyClientError(f"client {client_id} has dropped out and is not awaited", client_id, "S1")
        if kind == messages.Abort.kind:
            self.aborts[client_id] = messages.Abort.from_bytes(bytes(data)).text()
            self._awaited[position] = False
            return True
        expected = step.exchange.response
        if kind != expected.kind:  # S3
            found = f"message of kind {kind} from client {client_id}"
            raise FaultyClientError(f"{found} in stage {stage.name}, needed {expected.__name__}", client_id, "S3")
        if self._answered[position]:  # S4
            raise FaultyClientError(f"client {client_id} answered twice in stage {stage.name}", client_id, "S4")
        response = expected.from_bytes(bytes(data))
        step.collect(self, self._state, client_id, position, response)
        self._answered[position] = True
        return True

    @one_at_a_time
    def close_stage(self, stage: Stage | None = None) -> Outbox:
        """End the stage: whoever has not answered has dropped out.

        Args:
            stage: The stage that the caller means to close; by default the present one. If the session has gone on
                since, nothing changes and StageError is raised.

        Returns:
            The next stage's request for each client that is still in; empty when the sum is there.

        Raises:
            TooFewSurvivorsError: The threshold cannot be met any more; the session is over.
            FaultyClientError: S12 or S13, a client dealt shares that cannot be combined; the session is over.
            StageError: The session is not open, over, or not in `stage`; nothing has changed.
        """
        if self.stage is None or self.stage in (Stage.DONE, Stage.ABORTED):
            raise StageError(f"no stage to close: the session is {self.stage.name if self.stage else 'not open'}")
        if stage is not None and stage is not self.stage:
            raise StageError(f"the session is in stage {self.stage.name}, asked to close {Stage(stage).name}")
        try:
            outbox, after = STEPS[self.stage].close(self, self._state, self._answered)
        except BaseException as error:  # whatever it is, half of a stage may be done: there is no second try
            self.stage, self._state = Stage.ABORTED, Ended(self._survivors())
            if isinstance(error, FaultyClientError):
                self.faults.append(FaultyClientError(error.args[0], error.client_id, error.check))
            raise
        self._awaited = np.isin(self._config.ids, list(outbox))
        self._answered = np.zeros_like(self._awaited)
        self._state, self.stage = after, following(self.stage, self._config)
        return outbox

    @one_at_a_time
    def abort(self, reason: str = "ended") -> Outbox:
        """End the session without a sum.

        Returns:
            The Abort message for every client that is still in.
        """
        self.stage = Stage.ABORTED
        if not isinstance(self._state, Done):  # a sum that is there may still be read
            self._state = Ended(self._survivors())
        return dict.fromkeys(self._ids(self._awaited), messages.Abort.because(reason).to_bytes())

    @one_at_a_time
    def to_bytes(self) -> bytes:
        """Save the session; what is saved holds no client's secrets, but what the server has seen.

        Raises:
            StageError: It is not open yet.
        """
        if self.stage is None or self._state is None:
            raise StageError("the session is not open: there is nothing to save")
        state = Ended(self._survivors()) if self.stage is Stage.ABORTED else self._state
        return snapshot.save_server(
            self._config, self.stage, state, self._answered, self._awaited, self.faults, self.aborts
        )

    @classmethod
    def from_bytes(
        cls, data: bytes, *, directory: Mapping[int, bytes] | None = None, threads: int | None = None
    ) -> Self:
        """Resume a saved session with the same result; messages accepted before it was saved are not needed again.

        Raises:
            MalformedMessageError: These bytes are no saved server.
        """
        config, stage, state, answered, awaited, faults, aborts = snapshot.resume_server(data, threads)
        server = cls(config, directory=directory, threads=threads)
        server.stage, server._state, server._answered, server._awaited = stage, state, answered, awaited
        server.faults, server.aborts = faults, aborts
        return server

    # Two methods for each stage, listed in `STEPS`: one takes a response, one closes.

    def _advertise_keys(
        self, state: Advertising, client_id: int, position: int, response: messages.AdvertiseKeysResponse
    ) -> None:
        keys = (response.channel_key, response.mask_key)
        needed = signing.SIGNATURE_BYTES if self._config.malicious_server else 0
        if len(response.signature) != needed:
            found = len(response.signature)
            raise MalformedMessageError(f"the signature has {found} bytes, needs {needed}", found)
        if not all(map(is_sound, keys)):  # S5
            text = f"a public key of client {client_id} is not canonical or of low order"
            raise FaultyClientError(text, client_id, "S5")
        if keys[0] == keys[1] or not state.known_keys.isdisjoint(keys):  # S6
            # Keys come without a proof of possession: either of the two may have copied them.
            text = f"a public key of client {client_id} occurs twice, in its message or in one that came earlier"
            raise FaultyClientError(text, client_id, "S6")
        if needed:
            signed = binding.advertisement(self._config, state.nonce, client_id, *keys)
            if not signing.verify(self._directory[client_id], response.signature, signed):  # S7
                text = f"the keys of client {client_id} are not signed by its identity key"
                raise FaultyClientError(text, client_id, "S7")
        state.known_keys.update(keys)
        state.channel_keys[position], state.mask_keys[position] = keys
        state.signatures[position] = response.signature

    def _close_advertise_keys(self, state: Advertising, answered: Set) -> tuple[Outbox, Sharing]:
        config = self._config
        members = np.flatnonzero(answered).tolist()
        count = len(members)
        opening.check_enough(self._config, Stage.ADVERTISE_KEYS, count, count)
        if not config.complete and count - 1 < config.threshold:
            raise TooFewSurvivorsError(
                f"{count} clients advertised keys, each needs {config.threshold} neighbors", count, config.threshold + 1
            )
        columns = [
            b"".join(column[position] for position in members)
            for column in (state.channel_keys, state.mask_keys, state.signatures)
        ]
        request = messages.ShareKeysRequest(set_to_bytes(answered), *columns)
        session_id = binding.session_id(
            config, state.nonce, request.advertised, request.channel_keys, request.mask_keys
        )
        after = Sharing(session_id, answered, graph_of(config, answered, session_id), state.mask_keys, {}, {})
        return dict.fromkeys(self._ids(answered), request.to_bytes()), after

    def _share_keys(self, state: Sharing, client_id: int, position: int, response: messages.ShareKeysResponse) -> None:
        _check_session(state, client_id, response.session_id)
        needed = len(state.graph.neighbors(position))
        found = messages.whole_parts(response.sealed, messages.SEALED_BYTES, "sealed shares")
        if found != needed:  # S8
            raise FaultyClientError(f"{found} sealed shares from client {client_id}, needed {needed}", client_id, "S8")
        state.commitments[position] = response.commitment
        state.sealed[position] = response.sealed

    def _close_share_keys(self, state: Sharing, answered: Set) -> tuple[Outbox, Collecting]:
        config, graph, advertised = self._config, state.graph, int(state.advertised.sum())
        opening.check_enough(self._config, Stage.SHARE_KEYS, int(answered.sum()), advertised)
        shared = answered.copy()
        # A client whose holders are gone could never be opened: it counts as a dropout of this stage, which may leave
        # others short.
        while short := graph.short(shared, shared, config.threshold):
            shared[short] = False
        opening.check_enough(self._config, Stage.SHARE_KEYS, int(shared.sum()), advertised)
        accumulator = masking.create(config, state.session_id, self._threads).accumulator()
        after = Collecting(
            state.session_id, state.advertised, graph, state.mask_keys, state.commitments, shared, {}, accumulator
        )
        return dict(requests.masked_input_collection(config, graph, shared, state.sealed)), after

    def _masked_input_collection(
        self, state: Collecting, client_id: int, position: int, response: messages.MaskedInputCollectionResponse
    ) -> None:
        _check_session(state, client_id, response.session_id)
        unopened = set_from_bytes(response.unopened, len(state.shared))
        others = np.zeros_like(unopened)
        others[state.graph.neighbors(position)] = True
        if (unopened & ~(others & state.shared)).any():  # S15
            text = f"client {client_id} says that it cannot open shares that it was not sent"
            raise FaultyClientError(text, client_id, "S15")
        try:
            state.accumulator.add(response.masked)
        except MalformedMessageError as error:  # S9
            raise FaultyClientError(f"client {client_id}: {error.args[0]}", client_id, "S9") from None
        if unopened.any():
            state.unopened[position] = response.unopened

    def _close_masked_input_collection(self, state: Collecting, answered: Set) -> tuple[Outbox, Signing | Opening]:
        opening.check_openable(self._config, Stage.MASKED_INPUT_COLLECTION, state, answered)
        if not self._config.malicious_server:
            outbox = requests.unmasking(self._config, state, answered, answered, {})
            return outbox, Opening(state, answered, {})
        request = messages.ConsistencyCheckRequest(set_to_bytes(answered)).to_bytes()
        return dict.fromkeys(self._ids(answered), request), Signing(state, answered, {})

    def _consistency_check(
        self, state: Signing, client_id: int, position: int, response: messages.ConsistencyCheckResponse
    ) -> None:
        signed = binding.survivors(state.collected.session_id, set_to_bytes(state.survivors))
        if not signing.verify(self._directory[client_id], response.signature, signed):  # S10
            raise FaultyClientError(f"client {client_id} did not sign the survivors", client_id, "S10")
        state.signatures[position] = response.signature

    def _close_consistency_check(self, state: Signing, answered: Set) -> tuple[Outbox, Opening]:
        opening.check_openable(self._config, Stage.CONSISTENCY_CHECK, state.collected, answered)
        outbox = requests.unmasking(self._config, state.collected, answered, state.survivors, state.signatures)
        return outbox, Opening(state.collected, state.survivors, {})

    def _unmasking(self, state: Opening, client_id: int, position: int, response: messages.UnmaskingResponse) -> None:
        collected, unopened = state.collected, state.collected.unopened.get(position)
        _check_session(collected, client_id, response.session_id)
        members = None if unopened is None else set_from_bytes(unopened, len(collected.shared))
        needed = len(opening.owners_held(collected, position, members))
        found = messages.whole_parts(response.shares, shamir.SHARE_BYTES, "shares")
        if found != needed or shamir.shares_from_bytes(response.shares) is None:  # S11
            text = f"{found} shares from client {client_id}, needed {needed} of field elements"
            raise FaultyClientError(text, client_id, "S11")
        state.shares[position] = response.shares

    def _close_unmasking(self, state: Opening, answered: Set) -> tuple[Outbox, Done]:
        collected = state.collected
        opening.check_openable(self._config, Stage.UNMASKING, collected, answered)
        for added, subtracted in opening.Opener(self._config, state, answered, self.faults).masks():
            collected.accumulator.remove(added, subtracted)
        return {}, Done(state.survivors, collected.accumulator.sum())

    def _ids(self, members: Set) -> tuple[int, ...]:
        return tuple(self._config.ids[members].tolist())


def _check_session(state: Advertised, client_id: int, session_id: bytes) -> None:
    if session_id != state.session_id:  # S14
        raise FaultyClientError(f"client {client_id} answers another session", client_id, "S14")


@dataclass(frozen=True, slots=True)
class Step:
    """What the server does in a stage: with each response, and when the stage closes."""

    exchange: Exchange[Any, Any]
    collect: Callable[[Server, Any, int, int, Any], None]
    close: Callable[[Server, Any, Set], tuple[Outbox, Seen]]


def _step(
    exchange: Exchange[Request, Response],
    collect: Callable[[Server, During, int, int, Response], None],
    close: Callable[[Server, During, Set], tuple[Outbox, Seen]],
) -> Step:
    """Let the type checker see that methods take what the exchange says, and the same state."""
    return Step(exchange, collect, close)


STEPS: dict[Stage, Step] = {
    Stage.ADVERTISE_KEYS: _step(stages.ADVERTISE_KEYS, Server._advertise_keys, Server._close_advertise_keys),
    Stage.SHARE_KEYS: _step(stages.SHARE_KEYS, Server._share_keys, Server._close_share_keys),
    Stage.MASKED_INPUT_COLLECTION: _step(
        stages.MASKED_INPUT_COLLECTION, Server._masked_input_collection, Server._close_masked_input_collection
    ),
    Stage.CONSISTENCY_CHECK: _step(
        stages.CONSISTENCY_CHECK, Server._consistency_check, Server._close_consistency_check
    ),
    Stage.UNMASKING: _step(stages.UNMASKING, Server._unmasking, Server._close_unmasking),
}
