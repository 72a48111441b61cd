"""The client's half of a session: bytes in, bytes out; no socket, no clock.

The client recomputes what it can (session id, graph, its holders) and checks the rest; the numbers C1 to C22 are those
of `protocols/secagg/README.md`.
"""

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from secfed.concurrency import refused_while_busy
from secfed.crypto import aead, shamir, signing
from secfed.crypto.agreement import KEY_BYTES, KeyPair, are_distinct, are_sound
from secfed.crypto.entropy import DerivedEntropy, Entropy, SystemEntropy
from secfed.errors import ConfigError, FaultyServerError, MalformedMessageError, StageError
from secfed.secagg import binding, masking, messages, snapshot, stages
from secfed.secagg.answer import Answer
from secfed.secagg.config import Config, Policy
from secfed.secagg.graph import graph_of
from secfed.secagg.shares import open_pairs, split
from secfed.secagg.stages import KINDS, Exchange, Request, Response, Stage, following, longest_request
from secfed.secagg.states import Held, Joined, Keys, Masked, Shared, Signed
from secfed.secagg.survivors import check_signatures, check_survivors
from secfed.wire import Message, Pieces, Set, kind_of, set_from_bytes, set_to_bytes, shared_set, view

Before = TypeVar("Before", bound=Held)


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
            self._position = config.position(client_id)
        except KeyError:
            count = len(config.client_ids)
            raise ConfigError(f"client {client_id} is not among the {count} clients of the configuration") from None
        self._config = config
        self._policy = policy or Policy()
        self._directory = binding.check_directory(config, directory)
        self._signing_key = binding.check_signing_key(config, client_id, signing_key, self._directory)
        self._entropy: Entropy = entropy or SystemEntropy()
        self._threads, self._copy = threads, copy
        self._reading: weakref.ref[Answer] | None = None  # what is being read; only it holds the vector
        self._busy = threading.Lock()
        self.client_id = client_id
        self.stage = Stage.ADVERTISE_KEYS
        self._survivors: Set | None = None
        self._state: Held | None = Joined(vector if callable(vector) else masking.checked(vector, config, copy=copy))

    def __repr__(self) -> str:
        return f"Client(client_id={self.client_id}, stage={self.stage.name})"

    @property
    def survivors(self) -> tuple[int, ...]:
        """Ids of the clients in the sum; empty until this client has helped to unmask it."""
        return () if self._survivors is None else tuple(self._config.ids[self._survivors].tolist())

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
        if len(whole) > (longest := longest_request(stage, self._config)):  # before anything is copied
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

    def _respond(self, step: "Step", request: Message) -> Answer | FaultyServerError:
        """Do what a stage asks for, or return why the server is at fault."""
        # ABORTED until the answer exists: whatever interrupts this call, the stage is not answered a second time.
        self.stage, self._state, state = Stage.ABORTED, None, self._state
        try:
            response, state_after = step.answer(self, state, request)
        except MalformedMessageError:  # raised before the stage changes anything
            self._state, self.stage = state, step.exchange.stage
            raise
        except BaseException as error:  # the stage was interrupted: the client cannot continue
            if state:
                state.erase()
            if isinstance(error, FaultyServerError):
                return FaultyServerError(error.args[0], error.check)
            raise
        after = following(step.exchange.stage, self._config), state_after

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
        return snapshot.save_client(self._config, self.client_id, self._policy, stage, state)

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

    # One method for each stage: it takes the state and the request, and returns the response and the next state.
    # `STEPS` lists them. Each checks everything before it uses anything.

    def _advertise_keys(
        self, state: Joined, request: messages.AdvertiseKeysRequest
    ) -> tuple[messages.AdvertiseKeysResponse, Keys]:
        config = self._config
        if request.config_hash != config.hash:  # C3
            raise FaultyServerError("the server runs another configuration than this client", "C3")
        if objection := self._policy.objection(config):  # C4
            raise FaultyServerError(objection, "C4")
        channel = KeyPair(self._entropy.draw("channel_key", KEY_BYTES))
        mask = KeyPair(self._entropy.draw("mask_key", KEY_BYTES))
        share_seed = self._entropy.draw("share_seed", 32)
        keys = channel.public_bytes, mask.public_bytes
        signature = self._sign(binding.advertisement(config, request.nonce, self.client_id, *keys))
        after = Keys(request.nonce, channel, mask, signature, share_seed, state.vector)
        return messages.AdvertiseKeysResponse(*keys, signature), after

    def _share_keys(self, state: Keys, request: messages.ShareKeysRequest) -> tuple[messages.ShareKeysResponse, Shared]:
        config, me = self._config, self._position
        advertised = shared_set(request.advertised, len(config.client_ids))
        members = np.flatnonzero(advertised)
        channel_keys = messages.column(request.channel_keys, KEY_BYTES, len(members), "channel keys")
        mask_keys = messages.column(request.mask_keys, KEY_BYTES, len(members), "mask keys")
        signed = signing.SIGNATURE_BYTES if config.malicious_server else 0
        signatures = messages.column(request.signatures, signed, len(members), "signatures") if signed else []
        if not signed and request.signatures:
            raise MalformedMessageError(f"{len(request.signatures)} bytes of signatures that were not asked for", 0)
        place = int(np.searchsorted(members, me))
        own = (state.channel.public_bytes, state.mask.public_bytes, state.signature)
        listed = (channel_keys[place], mask_keys[place], signatures[place] if signed else b"") if advertised[me] else ()
        if listed != own:  # C5
            raise FaultyServerError("this client's own keys are missing or altered", "C5")
        if not are_distinct(all_keys := request.channel_keys + request.mask_keys):  # C6
            raise FaultyServerError("two clients have the same public key", "C6")
        if not are_sound(all_keys):  # C7
            raise FaultyServerError("a public key is not canonical or of low order", "C7")
        for i, signature in enumerate(signatures):  # C8
            peer = config.client_ids[members[i]]
            signed_keys = binding.advertisement(config, state.nonce, peer, channel_keys[i], mask_keys[i])
            if not signing.verify(self._directory[peer], signature, signed_keys):
                raise FaultyServerError(f"the keys of client {peer} are not signed by its identity key", "C8")
        session_id = binding.session_id(
            config, state.nonce, request.advertised, request.channel_keys, request.mask_keys
        )
        graph = graph_of(config, advertised, session_id)
        holders = graph.holders(me)
        if len(holders) < config.threshold or len(members) < self._policy.minimum_cohort:  # C9
            found = f"{len(members)} clients advertised keys, {len(holders)} hold this one's shares"
            raise FaultyServerError(f"{found}: needed {self._policy.minimum_cohort} and {config.threshold}", "C9")
        # Derived, not drawn: a client that was restored from a snapshot seals the same bytes again. Other bytes under
        # the same key and nonce would break AES-GCM.
        entropy = DerivedEntropy(binding.share_keys_secret(session_id, state.share_seed))
        self_seed = entropy.draw("self_seed", shamir.SECRET_BYTES)
        others = graph.neighbors(me)
        places = dict(zip(others.tolist(), np.searchsorted(members, others).tolist(), strict=True))
        shares = split(config, state.mask.private_bytes() + self_seed, holders, entropy)
        sealed, opening_keys, kept = [], {}, {}
        for position, share in zip(holders.tolist(), shares, strict=True):
            if position == me:  # its own shares it keeps
                kept[me] = share
                continue
            sealing_key, opening_keys[position] = binding.channel_keys(
                state.channel, channel_keys[places[position]], session_id, self.client_id, config.client_ids[position]
            )
            data = binding.sealing_data(session_id, self.client_id, config.client_ids[position])
            sealed.append(aead.seal(sealing_key, share, data))
        commitment = binding.commitment(session_id, self.client_id, self_seed)
        peers = {position: mask_keys[place] for position, place in places.items()}
        after = Shared(session_id, advertised, graph, state.mask, self_seed, peers, opening_keys, kept, state.vector)
        return messages.ShareKeysResponse(session_id, commitment, b"".join(sealed)), after

    def _masked_input_collection(
        self, state: Shared, request: messages.MaskedInputCollectionRequest
    ) -> tuple[messages.MaskedInputCollectionResponse, Masked]:
        config, me, ids = self._config, self._position, self._config.client_ids
        shared = shared_set(request.shared, len(ids))
        pairs = messages.whole_parts(request.sealed, messages.SEALED_BYTES, "sealed shares")
        if not shared[me] or (shared & ~state.advertised).any():  # C10
            raise FaultyServerError(
                "the clients that shared lack this client, or include one that advertised no keys", "C10"
            )
        holders = state.graph.holders(me)
        holders = holders[shared[holders]]
        if len(holders) < config.threshold or int(shared.sum()) < self._policy.minimum_cohort:  # C11
            found = f"{int(shared.sum())} clients shared, {len(holders)} of them hold this one's shares"
            raise FaultyServerError(f"{found}: needed {self._policy.minimum_cohort} and {config.threshold}", "C11")
        senders = holders[holders != me].tolist()
        if pairs != len(senders):  # C12
            raise FaultyServerError(f"{pairs} sealed shares, needed {len(senders)}", "C12")
        opened = open_pairs(config, me, state, senders, request.sealed)
        unopened = np.zeros(len(ids), np.bool_)
        unopened[[sender for sender in senders if sender not in opened]] = True
        vector = masking.made(state.vector, config, copy=self._copy) if callable(state.vector) else state.vector
        added = [binding.self_mask_seed(state.session_id, self.client_id, state.self_seed)]
        subtracted: list[bytes] = []
        for position, public_key in state.mask_keys.items():
            if shared[position]:
                seed = binding.pair_seed(state.mask, public_key, state.session_id, self.client_id, ids[position])
                (added if me < position else subtracted).append(seed)
        kind = masking.create(config, state.session_id, self._threads)
        payload: Any = Pieces(kind.payload_bytes, kind.mask(vector, added, subtracted, self._entropy))
        after = Masked(state.session_id, state.advertised, state.graph, shared, state.shares | opened)
        unopened_bytes = set_to_bytes(unopened)
        return messages.MaskedInputCollectionResponse(state.session_id, unopened_bytes, payload), after

    def _consistency_check(
        self, state: Masked, request: messages.ConsistencyCheckRequest
    ) -> tuple[messages.ConsistencyCheckResponse, Signed]:
        survivors = shared_set(request.survivors, len(self._config.client_ids))
        check_survivors(self._config, self._policy, self._position, state, survivors)
        signature = self._sign(binding.survivors(state.session_id, request.survivors))
        after = Signed(state.session_id, state.advertised, state.graph, state.shared, state.shares, survivors)
        return messages.ConsistencyCheckResponse(signature), after

    def _unmasking(self, state: Masked, request: messages.UnmaskingRequest) -> tuple[messages.UnmaskingResponse, None]:
        clients = len(self._config.client_ids)
        survivors = shared_set(request.survivors, clients)
        dropouts = set_from_bytes(request.dropouts, clients)
        signers = np.flatnonzero(set_from_bytes(request.signers, clients))
        signatures = messages.column(request.signatures, signing.SIGNATURE_BYTES, len(signers), "signatures")
        if len(signers) and not self._config.malicious_server:
            raise MalformedMessageError(f"{len(signers)} signers in a session without signatures", len(signers))
        check_survivors(self._config, self._policy, self._position, state, survivors)
        if (survivors & dropouts).any():  # C18
            raise FaultyServerError("the server asks for both shares of one client", "C18")
        if ((survivors | dropouts) != state.shared).any():  # C19
            raise FaultyServerError("survivors and dropouts together are not those that shared", "C19")
        if self._config.malicious_server:
            check_signatures(
                self._config,
                self._directory,
                self._position,
                state,
                survivors,
                signers.tolist(),
                signatures,
                request.survivors,
            )
        size = shamir.SHARE_BYTES
        shares = [
            pair[size:] if survivors[position] else pair[:size] for position, pair in sorted(state.shares.items())
        ]
        self._survivors = survivors
        return messages.UnmaskingResponse(state.session_id, b"".join(shares)), None

    def _sign(self, data: bytes) -> bytes:
        """Sign with the identity key. With a semi-honest server, no client has one or is asked for a signature."""
        return self._signing_key.sign(data) if self._signing_key else b""

    def _erase(self, stage: Stage) -> None:
        """Drop every secret; Python may keep copies of bytes until it reuses the memory."""
        self.stage, self._state = stage, None
        if answer := self._reading and self._reading():
            answer._drop()
        self._reading = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a client does in a stage."""

    exchange: Exchange[Any, Any]
    answer: Callable[[Client, Any, Any], tuple[Message, Held | None]]


def _step(
    exchange: Exchange[Request, Response],
    answer: Callable[[Client, Before, Request], tuple[Response, Held | None]],
) -> Step:
    """Let the type checker see that a method takes and returns the types of the exchange."""
    return Step(exchange, answer)


STEPS: dict[Stage, Step] = {
    Stage.ADVERTISE_KEYS: _step(stages.ADVERTISE_KEYS, Client._advertise_keys),
    Stage.SHARE_KEYS: _step(stages.SHARE_KEYS, Client._share_keys),
    Stage.MASKED_INPUT_COLLECTION: _step(stages.MASKED_INPUT_COLLECTION, Client._masked_input_collection),
    Stage.CONSISTENCY_CHECK: _step(stages.CONSISTENCY_CHECK, Client._consistency_check),
    Stage.UNMASKING: _step(stages.UNMASKING, Client._unmasking),
}
