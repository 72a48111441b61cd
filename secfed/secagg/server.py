"""The server's half of a session: it sees keys, sealed shares and masked vectors, and ends with their sum; no socket,
no clock.

The numbers S1 to S13 are those of `protocols/secagg/README.md`. Inputs are added as they arrive: memory does not grow
with clients times length.
"""

import threading
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from secfed.crypto import shamir, signing
from secfed.crypto.agreement import is_sound
from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.errors import FaultyClientError, MalformedMessageError, StageError, TooFewSurvivorsError
from secfed.secagg import binding, masking, messages, opening, requests, snapshot
from secfed.secagg.concurrency import one_at_a_time
from secfed.secagg.config import Config
from secfed.secagg.graph import Graph, Set
from secfed.secagg.stages import EXCHANGES, Stage, following, longest_response
from secfed.wire import kind_of, view

Outbox = dict[int, bytes]
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
        self._nonce = self._session_id = b""
        self._graph: Graph | None = None
        self._answered: Set = np.zeros(clients, np.bool_)  # in this stage
        self._awaited: Set = np.ones(clients, np.bool_)  # those asked in this stage
        self._advertised, self._shared, self._survivors = np.zeros((3, clients), np.bool_)
        self._keys: dict[int, tuple[bytes, bytes, bytes]] = {}  # by number: channel key, mask key, signature
        self._known_keys: set[bytes] = set()
        self._commitments: dict[int, bytes] = {}
        self._sealed: dict[int, bytes] = {}
        self._unopened: dict[int, bytes] = {}  # by number of the holder: whose shares it could not open
        self._signatures: dict[int, bytes] = {}
        self._shares: dict[int, bytes] = {}
        self._accumulator: masking.Accumulator | None = None
        self._sum: npt.NDArray[np.unsignedinteger[Any]] | None = None

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
        if self._sum is None:
            raise StageError(
                f"there is no sum yet: the session is in stage {self.stage.name if self.stage else 'none'}"
            )
        return self._sum

    @property
    def survivors(self) -> tuple[int, ...]:
        """Ids of the clients in the sum; none before the end of MaskedInputCollection."""
        return self._ids(self._survivors)

    @property
    def dropouts(self) -> tuple[int, ...]:
        """Ids of the clients that are not in the sum; none before the end of MaskedInputCollection."""
        return self._ids(~self._survivors) if self._survivors.any() else ()

    @property
    @one_at_a_time
    def awaited(self) -> tuple[int, ...]:
        """Ids of the clients whose response this stage still awaits."""
        return self._ids(self._awaited & ~self._answered)

    @property
    def message_bytes(self) -> int:
        """The longest message that this stage accepts: what a transport should allow."""
        stage = self.stage
        if stage not in EXCHANGES:
            return 0
        payload = self._masking().payload_bytes if stage is Stage.MASKED_INPUT_COLLECTION else 0
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
        self._nonce = self._entropy.draw("nonce", 32)
        self.stage = Stage.ADVERTISE_KEYS
        request = messages.AdvertiseKeysRequest(self._nonce, self._config.hash).to_bytes()
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
            return self._receive(client_id, view(data))
        except MalformedMessageError as error:  # S2
            text, check = f"client {client_id}: {error.args[0]}", "S2"
        except FaultyClientError as error:
            text, check = error.args[0], error.check
        # What is kept is not what is raised: that has a traceback, whose frames hold the refused message.
        if len(self.faults) < MAXIMUM_FAULTS:
            self.faults.append(FaultyClientError(text, client_id, check))
        raise FaultyClientError(text, client_id, check)

    def _receive(self, client_id: int, data: memoryview) -> bool:
        assert self.stage is not None
        try:
            number = self._config.number(client_id)
        except KeyError:  # S1
            raise FaultyClientError(f"client {client_id} is not in the cohort", client_id, "S1") from None
        kind = kind_of(data)
        if any(earlier < self.stage and each.response.kind == kind for earlier, each in EXCHANGES.items()):  # S3
            return False
        if len(data) > self.message_bytes:  # S2
            found = f"{len(data)} bytes from client {client_id}"
            raise FaultyClientError(f"{found}, at most {self.message_bytes} are allowed", client_id, "S2")
        if not self._awaited[number]:  # S1
            raise FaultyClientError(f"client {client_id} has dropped out and is not awaited", client_id, "S1")
        if kind == messages.Abort.kind:
            self.aborts[client_id] = messages.Abort.from_bytes(bytes(data)).text()
            self._awaited[number] = False
            return True
        expected = EXCHANGES[self.stage].response
        if kind != expected.kind:  # S3
            found = f"message of kind {kind} from client {client_id}"
            raise FaultyClientError(f"{found} in stage {self.stage.name}, needed {expected.__name__}", client_id, "S3")
        if self._answered[number]:  # S4
            raise FaultyClientError(f"client {client_id} answered twice in stage {self.stage.name}", client_id, "S4")
        response = expected.from_bytes(bytes(data))
        if getattr(response, "session_id", self._session_id) != self._session_id:  # S14
            raise FaultyClientError(f"client {client_id} answers another session", client_id, "S14")
        getattr(self, f"_{self.stage.name.lower()}")(client_id, number, response)
        self._answered[number] = True
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
            outbox: Outbox = getattr(self, f"_close_{self.stage.name.lower()}")(self._answered)
        except BaseException as error:  # whatever it is, half of a stage may be done: there is no second try
            self.stage = Stage.ABORTED
            if isinstance(error, FaultyClientError):
                self.faults.append(FaultyClientError(error.args[0], error.client_id, error.check))
            raise
        self._awaited = np.isin(self._config.ids, list(outbox))
        self._answered = np.zeros_like(self._awaited)
        self.stage = following(self.stage, self._config)
        return outbox

    @one_at_a_time
    def abort(self, reason: str = "ended") -> Outbox:
        """End the session without a sum.

        Returns:
            The Abort message for every client that is still in.
        """
        self.stage = Stage.ABORTED
        return dict.fromkeys(self._ids(self._awaited), messages.Abort.because(reason).to_bytes())

    @one_at_a_time
    def to_bytes(self) -> bytes:
        """Save the session; what is saved holds no client's secrets, but what the server has seen.

        Raises:
            StageError: It is not open yet.
        """
        if self.stage is None:
            raise StageError("the session is not open: there is nothing to save")
        return snapshot.save_server(self._config, vars(self))

    @classmethod
    def from_bytes(
        cls, data: bytes, *, directory: Mapping[int, bytes] | None = None, threads: int | None = None
    ) -> Self:
        """Resume a saved session with the same result; messages accepted before it was saved are not needed again.

        Raises:
            MalformedMessageError: These bytes are no saved server.
        """
        config, state, total = snapshot.resume_server(data)
        server = cls(config, directory=directory, threads=threads)
        vars(server).update(state)
        if total:
            server._accumulator = server._masking().accumulator(total)
        return server

    # Two methods for each stage: one takes a response, one closes.

    def _advertise_keys(self, client_id: int, number: int, response: messages.AdvertiseKeysResponse) -> None:
        keys = (response.channel_key, response.mask_key)
        needed = signing.SIGNATURE_BYTES if self._config.malicious_server else 0
        if len(response.signature) != needed:
            raise MalformedMessageError(
                f"the signature has {len(response.signature)} bytes, needs {needed}", len(response.signature)
            )
        if not all(map(is_sound, keys)):  # S5
            raise FaultyClientError(
                f"a public key of client {client_id} is not canonical or of low order", client_id, "S5"
            )
        if keys[0] == keys[1] or not self._known_keys.isdisjoint(keys):  # S6
            # Keys come without a proof of possession: either of the two may have copied them.
            text = f"a public key of client {client_id} occurs twice, in its message or in one that came earlier"
            raise FaultyClientError(text, client_id, "S6")
        if needed:
            signed = binding.advertisement(self._config, self._nonce, client_id, *keys)
            if not signing.verify(self._directory[client_id], response.signature, signed):  # S7
                raise FaultyClientError(
                    f"the keys of client {client_id} are not signed by its identity key", client_id, "S7"
                )
        self._known_keys.update(keys)
        self._keys[number] = (*keys, response.signature)

    def _close_advertise_keys(self, answered: Set) -> Outbox:
        config = self._config
        members = np.flatnonzero(answered)
        count = len(members)
        self._check_enough(count)
        if not config.complete and count - 1 < config.threshold:
            raise TooFewSurvivorsError(
                f"{count} clients advertised keys, each needs {config.threshold} neighbors", count, config.threshold + 1
            )
        self._advertised = answered
        entries = [self._keys[number] for number in members.tolist()]
        columns = [b"".join(entry[i] for entry in entries) for i in range(3)]
        request = messages.ShareKeysRequest(messages.set_to_bytes(answered), *columns)
        self._session_id = binding.session_id(
            config, self._nonce, request.advertised, request.channel_keys, request.mask_keys
        )
        self._graph = Graph(config, answered, self._session_id)
        return dict.fromkeys(self._ids(answered), request.to_bytes())

    def _others(self, number: int) -> npt.NDArray[np.intp]:
        """Return the holders of a client other than itself, ascending."""
        assert self._graph is not None
        return self._graph.neighbors(number)

    def _share_keys(self, client_id: int, number: int, response: messages.ShareKeysResponse) -> None:
        needed = len(self._others(number))
        found = messages.whole_parts(response.sealed, messages.SEALED_BYTES, "sealed shares")
        if found != needed:  # S8
            raise FaultyClientError(f"{found} sealed shares from client {client_id}, needed {needed}", client_id, "S8")
        self._commitments[number] = response.commitment
        self._sealed[number] = response.sealed

    def _close_share_keys(self, answered: Set) -> Outbox:
        self._check_enough(int(answered.sum()))
        shared = answered.copy()
        # A client whose holders are gone could never be opened: it counts as a dropout of this stage, which may leave
        # others short.
        assert self._graph is not None
        while short := self._graph.short(shared, shared, self._config.threshold):
            shared[short] = False
        self._check_enough(int(shared.sum()))
        self._shared = shared
        self._accumulator = self._masking().accumulator()
        sealed, self._sealed = self._sealed, {}
        return dict(requests.masked_input_collection(self._config, self._graph, shared, sealed))

    def _masked_input_collection(
        self, client_id: int, number: int, response: messages.MaskedInputCollectionResponse
    ) -> None:
        assert self._accumulator is not None
        unopened = messages.set_from_bytes(response.unopened, len(self._shared))
        others = np.zeros_like(unopened)
        others[self._others(number)] = True
        if (unopened & ~(others & self._shared)).any():  # S15
            text = f"client {client_id} says that it cannot open shares that it was not sent"
            raise FaultyClientError(text, client_id, "S15")
        try:
            self._accumulator.add(response.masked)
        except MalformedMessageError as error:  # S9
            raise FaultyClientError(f"client {client_id}: {error.args[0]}", client_id, "S9") from None
        if unopened.any():
            self._unopened[number] = response.unopened

    def _close_masked_input_collection(self, answered: Set) -> Outbox:
        self._check_openable(answered)
        self._survivors = answered
        if not self._config.malicious_server:
            return self._unmasking_requests(answered)
        request = messages.ConsistencyCheckRequest(messages.set_to_bytes(answered)).to_bytes()
        return dict.fromkeys(self._ids(answered), request)

    def _consistency_check(self, client_id: int, number: int, response: messages.ConsistencyCheckResponse) -> None:
        signed = binding.survivors(self._session_id, messages.set_to_bytes(self._survivors))
        if not signing.verify(self._directory[client_id], response.signature, signed):  # S10
            raise FaultyClientError(f"client {client_id} did not sign the survivors", client_id, "S10")
        self._signatures[number] = response.signature

    def _close_consistency_check(self, answered: Set) -> Outbox:
        self._check_openable(answered)
        return self._unmasking_requests(answered)

    def _unmasking_requests(self, receivers: Set) -> Outbox:
        assert self._graph is not None
        needed = self._config.signers_needed(int(self._advertised.sum()))
        return requests.unmasking(
            self._config, self._graph, receivers, self._shared, self._survivors, self._signatures, needed
        )

    def _unmasking(self, client_id: int, number: int, response: messages.UnmaskingResponse) -> None:
        assert self._graph is not None
        unopened = self._unopened.get(number)
        members = None if unopened is None else messages.set_from_bytes(unopened, len(self._shared))
        needed = len(opening.owners_held(self._graph, self._shared, number, members))
        found = messages.whole_parts(response.shares, shamir.SHARE_BYTES, "shares")
        if found != needed or shamir.shares_from_bytes(response.shares) is None:  # S11
            text = f"{found} shares from client {client_id}, needed {needed} of field elements"
            raise FaultyClientError(text, client_id, "S11")
        self._shares[number] = response.shares

    def _close_unmasking(self, answered: Set) -> Outbox:
        self._check_openable(answered)
        assert self._graph is not None and self._accumulator is not None
        keys = {number: entry[1] for number, entry in self._keys.items()}
        opener = opening.Opener(
            self._config, self._graph, self._shared, answered, self._shares, self._unopened_sets(), self.faults
        )
        for added, subtracted in opener.masks(self._survivors, keys, self._commitments, self._session_id):
            self._accumulator.remove(added, subtracted)
        self._sum = self._accumulator.sum()
        self._shares = {}
        return {}

    def _masking(self) -> masking.Masking:
        return masking.create(self._config, self._session_id, self._threads)

    def _check_enough(self, found: int) -> None:
        threshold = self._config.threshold
        # Unmasking is answered by fewer: the signatures are there by then.
        if self._config.session_colluders is not None and self.stage is not Stage.UNMASKING:
            advertised = int(self._advertised.sum()) or found
            threshold = max(threshold, self._config.signers_needed(advertised))
        if found < threshold:
            assert self.stage is not None
            raise TooFewSurvivorsError(
                f"{found} clients are left after {self.stage.name}, {threshold} are needed", found, threshold
            )

    def _check_openable(self, remaining: Set) -> None:
        """Every client that shared must keep as many holders as the threshold, or its masks stay in the sum."""
        self._check_enough(int(remaining.sum()))
        assert self._graph is not None
        opening.check_openable(self._config, self._graph, self._shared, remaining, self._unopened_sets())

    def _unopened_sets(self) -> dict[int, Set]:
        return {i: messages.set_from_bytes(data, len(self._shared)) for i, data in self._unopened.items()}

    def _ids(self, members: Set) -> tuple[int, ...]:
        return tuple(self._config.ids[members].tolist())
