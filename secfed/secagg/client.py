"""The client's half of a session: bytes in, bytes out; no socket, no clock.

It believes nothing that it can recompute (session id, graph, who its holders are) and checks the rest; the numbers C1
to C22 are those of `protocols/secagg/README.md`.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from secfed.concurrency import refused_while_busy
from secfed.crypto import aead, shamir, signing
from secfed.crypto.agreement import KEY_BYTES, KeyPair, is_sound
from secfed.crypto.entropy import DerivedEntropy, Entropy, SystemEntropy
from secfed.errors import ConfigError, FaultyServerError, MalformedMessageError, StageError
from secfed.secagg import binding, masking, messages, snapshot, stages
from secfed.secagg.config import Config, Policy
from secfed.secagg.graph import graph_of
from secfed.secagg.stages import KINDS, Exchange, Request, Response, Stage, following, longest_request
from secfed.secagg.states import Held, Joined, Keys, Masked, Shared, Signed
from secfed.wire import Message, Set, kind_of, set_from_bytes, set_to_bytes, view

Before = TypeVar("Before", bound=Held)


class Client:
    """One client in one session.

    Args:
        config: The session's parameters, from the application.
        client_id: This client's id in `config.client_ids`.
        vector: What it contributes: unsigned integers below `2**modulus_bits`, shape `(length,)`. It is copied. Or a
            function that returns it, called when the client masks its input: a device may train until then.
        policy: What this client insists on, whatever the configuration says.
        signing_key: Its identity key (adversary `"malicious_server"` only).
        directory: The pinned identity keys of the whole cohort, 32 bytes by client id (adversary `"malicious_server"`
            only).
        entropy: Source of secrets; by default the operating system's.
        threads: Threads that expand masks, by default one for each usable core.

    Raises:
        ConfigError: No such client, or identity keys missing or superfluous.
        EncodingError: The vector has the wrong shape, type or range. If a function makes it, `receive` raises this, or
            what the function raised, and the client has left the session.

    Attributes:
        stage: The stage whose request it awaits.
        survivors: Ids of the clients in the sum, once it has helped to unmask it; before that nobody.

    Security:
        The server, together with at most `config.colluders` of this client's holders, learns the sum of the survivors'
        vectors and nothing else about this one's. Against a server that breaks the protocol this takes the adversary
        `"malicious_server"`. One object is one session: there is no way back and no reuse.
        Each stage is answered at most once, also when several threads use the object: while one call of `receive`,
        `abort` or `to_bytes` runs, every other one raises `StageError` (C2). Two answers to one request could differ by
        one copy of the masks, which would reveal the vector.

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
    ) -> None:
        try:
            self._position = config.position(client_id)
        except KeyError:
            raise ConfigError(
                f"client {client_id} is not among the {len(config.client_ids)} clients of the configuration"
            ) from None
        self._config = config
        self._policy = policy or Policy()
        self._directory = binding.check_directory(config, directory)
        self._signing_key = binding.check_signing_key(config, client_id, signing_key, self._directory)
        self._entropy: Entropy = entropy or SystemEntropy()
        self._threads = threads
        self._busy = threading.Lock()
        self.client_id = client_id
        self.stage = Stage.ADVERTISE_KEYS
        self.survivors: tuple[int, ...] = ()
        self._state: Held | None = Joined(vector if callable(vector) else masking.checked(vector, config))

    def __repr__(self) -> str:
        return f"Client(client_id={self.client_id}, stage={self.stage.name})"

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
            ConfigError: `data` is no bytes.
            MalformedMessageError: C1; nothing has changed.
            StageError: C2, a message out of turn or a second time; nothing has changed.
            FaultyServerError: C3 to C22; the client has erased its secrets and will not answer again.
        """
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
        if len(whole) > (longest := longest_request(stage, self._config)):  # looked at before anything is copied
            raise MalformedMessageError(f"{len(whole)} bytes, at most {longest} are allowed", longest)
        if kind == messages.Abort.kind:
            messages.Abort.from_bytes(bytes(whole)).text()
            self._erase(Stage.ABORTED)
            return b""
        answer = self._answer(step, expected.from_bytes(bytes(whole)))
        if isinstance(answer, FaultyServerError):  # raised anew: the frames of the first traceback hold shares
            raise answer
        return answer

    def _answer(self, step: "Step", request: Message) -> bytes | FaultyServerError:
        """Do what a stage asks for, or return why the server is at fault."""
        # ABORTED until the answer exists: whatever interrupts this call, the stage is not answered a second time.
        self.stage, self._state, state = Stage.ABORTED, None, self._state
        try:
            response, after = step.answer(self, state, request)
            answer = response.to_bytes()
        except MalformedMessageError:  # raised before the stage changes anything
            self._state, self.stage = state, step.exchange.stage
            raise
        except BaseException as error:  # the stage broke off half way: there is no going on
            if state:
                state.erase()
            if isinstance(error, FaultyServerError):
                return FaultyServerError(error.args[0], error.check)
            raise
        self._state, self.stage = after, following(step.exchange.stage, self._config)
        return answer

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
        """Save this client between two stages, secrets included: whoever reads these bytes reads the vector.

        Save **before** sending a response, so that a restarted client cannot answer the same request twice with
        something else. After the last response nothing can be resumed.

        Raises:
            StageError: C2, another thread is using this object, or its vector is still to come from a function.
        """
        if isinstance(self._state, Joined | Keys | Shared) and callable(self._state.vector):
            raise StageError("the vector of this client is still to come from a function, which cannot be saved")
        return snapshot.save_client(self._config, self.client_id, self._policy, self.stage, self._state)

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        signing_key: signing.SigningKey | None = None,
        directory: Mapping[int, bytes] | None = None,
        policy: Policy | None = None,
        threads: int | None = None,
    ) -> Self:
        """Resume a saved client; identity keys come from the caller again, the policy too if it is another one now.

        Raises:
            StageError: It had released its shares or aborted: a second answer could open somebody's vector.
            MalformedMessageError: These bytes are no saved client.
        """
        config, client_id, saved_policy, stage, state = snapshot.resume_client(data)
        if state is None:
            raise StageError("this client has released its shares or left: resuming it could open somebody's vector")
        client = cls(
            config,
            client_id,
            lambda: (),  # its vector, if it still has one, is in its state
            policy=policy or saved_policy,
            signing_key=signing_key,
            directory=directory,
            threads=threads,
        )
        client.stage, client._state = stage, state
        return client

    # One method for each stage, from the state before and the request to the response and the state after; `STEPS` has
    # them all. Each checks everything before it uses anything.

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
        advertised = set_from_bytes(request.advertised, len(config.client_ids))
        members = np.flatnonzero(advertised)
        channel_keys = messages.column(request.channel_keys, KEY_BYTES, len(members), "channel keys")
        mask_keys = messages.column(request.mask_keys, KEY_BYTES, len(members), "mask keys")
        signed = signing.SIGNATURE_BYTES if config.malicious_server else 0
        signatures = messages.column(request.signatures, signed, len(members), "signatures") if signed else []
        if not signed and request.signatures:
            raise MalformedMessageError(f"{len(request.signatures)} bytes of signatures that nobody asked for", 0)
        place = int(np.searchsorted(members, me))
        own = (state.channel.public_bytes, state.mask.public_bytes, state.signature)
        listed = (channel_keys[place], mask_keys[place], signatures[place] if signed else b"") if advertised[me] else ()
        if listed != own:  # C5
            raise FaultyServerError("this client's own keys are missing or altered", "C5")
        if len({*channel_keys, *mask_keys}) < 2 * len(members):  # C6
            raise FaultyServerError("two clients have the same public key", "C6")
        if not all(map(is_sound, channel_keys)) or not all(map(is_sound, mask_keys)):  # C7
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
        shares = self._split(state.mask.private_bytes() + self_seed, holders, entropy)
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

    def _split(self, secrets: bytes, holders: npt.NDArray[np.intp], entropy: Entropy) -> list[bytes]:
        """Split the private mask key and the self seed; one pair of shares for each holder."""
        coefficients = shamir.draw_coefficients(entropy, self._config.threshold, 2)
        shares = shamir.split(secrets, self._config.threshold, self._config.ids[holders], coefficients)
        data = shamir.shares_to_bytes(shares)
        return [data[i : i + 2 * shamir.SHARE_BYTES] for i in range(0, len(data), 2 * shamir.SHARE_BYTES)]

    def _masked_input_collection(
        self, state: Shared, request: messages.MaskedInputCollectionRequest
    ) -> tuple[messages.MaskedInputCollectionResponse, Masked]:
        config, me, ids = self._config, self._position, self._config.client_ids
        shared = set_from_bytes(request.shared, len(ids))
        pairs = messages.whole_parts(request.sealed, messages.SEALED_BYTES, "sealed shares")
        if not shared[me] or (shared & ~state.advertised).any():  # C10
            raise FaultyServerError(
                "this client, or one that advertised no keys, is out of place among those that shared", "C10"
            )
        holders = state.graph.holders(me)
        holders = holders[shared[holders]]
        if len(holders) < config.threshold or int(shared.sum()) < self._policy.minimum_cohort:  # C11
            found = f"{int(shared.sum())} clients shared, {len(holders)} of them hold this one's shares"
            raise FaultyServerError(f"{found}: needed {self._policy.minimum_cohort} and {config.threshold}", "C11")
        senders = holders[holders != me].tolist()
        if pairs != len(senders):  # C12
            raise FaultyServerError(f"{pairs} sealed shares, needed {len(senders)}", "C12")
        opened = self._open_shares(state, senders, request.sealed)
        unopened = np.zeros(len(ids), np.bool_)
        unopened[[sender for sender in senders if sender not in opened]] = True
        vector = masking.made(state.vector, config) if callable(state.vector) else state.vector
        added = [binding.self_mask_seed(state.session_id, self.client_id, state.self_seed)]
        subtracted: list[bytes] = []
        for position, public_key in state.mask_keys.items():
            if shared[position]:
                seed = binding.pair_seed(state.mask, public_key, state.session_id, self.client_id, ids[position])
                (added if me < position else subtracted).append(seed)
        kind = masking.create(config, state.session_id, self._threads)
        payload = kind.mask(vector, added, subtracted, self._entropy)
        after = Masked(state.session_id, state.advertised, state.graph, shared, state.shares | opened)
        unopened_bytes = set_to_bytes(unopened)
        return messages.MaskedInputCollectionResponse(state.session_id, unopened_bytes, payload), after

    def _open_shares(self, state: Shared, senders: list[int], column: bytes) -> dict[int, bytes]:
        """Open the sealed pairs of shares; those of a faulty sender are left out.

        The session goes on without them, so that one client cannot end it. If fewer are left than the threshold, the
        fault is the server's: it shows this client another session than the others.
        """
        size, needed = messages.SEALED_BYTES, self._config.threshold - (self._position in state.shares)
        opened = {}
        for i, sender in enumerate(senders):
            data = binding.sealing_data(state.session_id, self._config.client_ids[sender], self.client_id)
            with suppress(aead.OpenError):
                opened[sender] = aead.open(state.opening_keys[sender], column[i * size : (i + 1) * size], data)
        if len(opened) < needed:  # C13
            raise FaultyServerError(f"{len(opened)} sealed shares of {len(senders)} open, needed {needed}", "C13")
        if shamir.shares_from_bytes(b"".join(opened.values())) is None:
            opened = {sender: pair for sender, pair in opened.items() if shamir.shares_from_bytes(pair) is not None}
        if len(opened) < needed:  # C14
            raise FaultyServerError(f"{len(opened)} shares are elements of the field, needed {needed}", "C14")
        return opened

    def _check_survivors(self, state: Masked, survivors: Set) -> None:
        """C15 to C17, wherever the survivors are first announced."""
        if (survivors & ~state.shared).any():  # C15
            raise FaultyServerError("a survivor had not shared its keys", "C15")
        if not survivors[self._position]:  # C16
            raise FaultyServerError("this client is not among the survivors", "C16")
        alive = int(survivors[state.graph.holders(self._position)].sum())
        if alive < self._config.threshold or int(survivors.sum()) < self._policy.minimum_cohort:  # C17
            found = f"{int(survivors.sum())} survivors, {alive} of them hold this client's shares"
            raise FaultyServerError(
                f"{found}: needed {self._policy.minimum_cohort} and {self._config.threshold}", "C17"
            )

    def _consistency_check(
        self, state: Masked, request: messages.ConsistencyCheckRequest
    ) -> tuple[messages.ConsistencyCheckResponse, Signed]:
        survivors = set_from_bytes(request.survivors, len(self._config.client_ids))
        self._check_survivors(state, survivors)
        signature = self._sign(binding.survivors(state.session_id, request.survivors))
        after = Signed(state.session_id, state.advertised, state.graph, state.shared, state.shares, survivors)
        return messages.ConsistencyCheckResponse(signature), after

    def _unmasking(self, state: Masked, request: messages.UnmaskingRequest) -> tuple[messages.UnmaskingResponse, None]:
        clients = len(self._config.client_ids)
        survivors = set_from_bytes(request.survivors, clients)
        dropouts = set_from_bytes(request.dropouts, clients)
        signers = np.flatnonzero(set_from_bytes(request.signers, clients))
        signatures = messages.column(request.signatures, signing.SIGNATURE_BYTES, len(signers), "signatures")
        if len(signers) and not self._config.malicious_server:
            raise MalformedMessageError(f"{len(signers)} signers in a session without signatures", len(signers))
        self._check_survivors(state, survivors)
        if (survivors & dropouts).any():  # C18
            raise FaultyServerError("the server asks for both shares of one client", "C18")
        if ((survivors | dropouts) != state.shared).any():  # C19
            raise FaultyServerError("survivors and dropouts together are not those that shared", "C19")
        if self._config.malicious_server:
            self._check_signatures(state, survivors, signers.tolist(), signatures, request.survivors)
        size = shamir.SHARE_BYTES
        shares = [
            pair[size:] if survivors[position] else pair[:size] for position, pair in sorted(state.shares.items())
        ]
        self.survivors = tuple(int(self._config.client_ids[position]) for position in np.flatnonzero(survivors))
        return messages.UnmaskingResponse(state.session_id, b"".join(shares)), None

    def _check_signatures(
        self, state: Masked, survivors: Set, signers: list[int], signatures: list[bytes], survivors_bytes: bytes
    ) -> None:
        """C20 to C22: enough clients have signed the same survivors as this client."""
        if not isinstance(state, Signed) or (survivors != state.survivors).any():  # C20
            raise FaultyServerError("these are not the survivors that this client signed", "C20")
        config = self._config
        whole_session = config.session_colluders is not None
        counts = survivors if whole_session else np.isin(np.arange(len(survivors)), state.graph.holders(self._position))
        signed = binding.survivors(state.session_id, survivors_bytes)
        for position, signature in zip(signers, signatures, strict=True):
            peer = config.client_ids[position]
            if not (counts[position] and survivors[position]) or not signing.verify(
                self._directory[peer], signature, signed
            ):  # C21
                raise FaultyServerError(f"no valid signature of client {peer} on the survivors", "C21")
        own = (config.complete or whole_session) and self._position not in signers
        needed = config.signers_needed(int(state.advertised.sum()))
        if len(signers) + own < needed:  # C22
            raise FaultyServerError(f"{len(signers) + own} signatures on the survivors, needed {needed}", "C22")

    def _sign(self, data: bytes) -> bytes:
        """Sign with the identity key; nobody has one, or is asked for a signature, where the server is semi-honest."""
        return self._signing_key.sign(data) if self._signing_key else b""

    def _erase(self, stage: Stage) -> None:
        """Drop every secret; Python may keep copies of bytes until it reuses the memory."""
        self.stage, self._state = stage, None


@dataclass(frozen=True, slots=True)
class Step:
    """What a client does in a stage."""

    exchange: Exchange[Any, Any]
    answer: Callable[[Client, Any, Any], tuple[Message, Held | None]]


def _step(
    exchange: Exchange[Request, Response],
    answer: Callable[[Client, Before, Request], tuple[Response, Held | None]],
) -> Step:
    """Let the type checker see that a method takes and gives what the exchange says."""
    return Step(exchange, answer)


STEPS: dict[Stage, Step] = {
    Stage.ADVERTISE_KEYS: _step(stages.ADVERTISE_KEYS, Client._advertise_keys),
    Stage.SHARE_KEYS: _step(stages.SHARE_KEYS, Client._share_keys),
    Stage.MASKED_INPUT_COLLECTION: _step(stages.MASKED_INPUT_COLLECTION, Client._masked_input_collection),
    Stage.CONSISTENCY_CHECK: _step(stages.CONSISTENCY_CHECK, Client._consistency_check),
    Stage.UNMASKING: _step(stages.UNMASKING, Client._unmasking),
}
