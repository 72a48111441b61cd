"""What a client does in each stage: it checks the request, then returns its response and what it holds next.

`STEPS` lists one function for each stage. Each checks everything before it uses anything. The numbers C3 to C22 are
those of `protocols/secagg/README.md`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from secfed.crypto import aead, shamir, signing
from secfed.crypto.agreement import KEY_BYTES, KeyPair, are_distinct, are_sound
from secfed.crypto.entropy import DerivedEntropy, Entropy
from secfed.errors import FaultyServerError, MalformedMessageError
from secfed.secagg import binding, masking, messages, stages
from secfed.secagg.config import Config, Policy
from secfed.secagg.graph import graph_of
from secfed.secagg.shares import open_pairs, split
from secfed.secagg.stages import Exchange, Request, Response, Stage
from secfed.secagg.states import Held, Joined, Keys, Masked, Released, Shared, Signed
from secfed.secagg.survivors import check_signatures, check_survivors
from secfed.wire import Message, Pieces, set_from_bytes, set_to_bytes, shared_set

Before = TypeVar("Before", bound=Held)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ClientSetup:
    """What a client has from its application for the whole session; `Client` says what each is."""

    config: Config
    client_id: int
    position: int  # of its id in the configuration
    policy: Policy
    signing_key: signing.SigningKey | None
    directory: Mapping[int, bytes]
    entropy: Entropy
    threads: int | None
    copy: bool

    def sign(self, data: bytes) -> bytes:
        """Sign with the identity key. With a semi-honest server, no client has one or is asked for a signature."""
        return self.signing_key.sign(data) if self.signing_key else b""


def advertise_keys(
    setup: ClientSetup, state: Joined, request: messages.AdvertiseKeysRequest
) -> tuple[messages.AdvertiseKeysResponse, Keys]:
    """Make this session's key pairs, and sign the public keys.

    Raises:
        FaultyServerError: C3 or C4.
    """
    config = setup.config
    if request.config_hash != config.hash:  # C3
        raise FaultyServerError("the server runs another configuration than this client", "C3")
    if objection := setup.policy.objection(config):  # C4
        raise FaultyServerError(objection, "C4")
    channel = KeyPair(setup.entropy.draw("channel_key", KEY_BYTES))
    mask = KeyPair(setup.entropy.draw("mask_key", KEY_BYTES))
    share_seed = setup.entropy.draw("share_seed", 32)
    keys = channel.public_bytes, mask.public_bytes
    signature = setup.sign(binding.advertisement(config, request.nonce, setup.client_id, *keys))
    after = Keys(request.nonce, channel, mask, signature, share_seed, state.vector)
    return messages.AdvertiseKeysResponse(*keys, signature), after


def share_keys(
    setup: ClientSetup, state: Keys, request: messages.ShareKeysRequest
) -> tuple[messages.ShareKeysResponse, Shared]:
    """Check all keys, and seal shares of its secrets for its holders.

    Raises:
        MalformedMessageError: C1, a column does not fit the set of clients.
        FaultyServerError: C5 to C9.
    """
    config, me = setup.config, setup.position
    advertised = shared_set(request.advertised, len(config.client_ids))
    members = np.flatnonzero(advertised)
    channel_keys, mask_keys = _checked_keys(setup, state, request, members)
    session_id = binding.session_id(config, state.nonce, request.advertised, request.channel_keys, request.mask_keys)
    graph = graph_of(config, advertised, session_id)
    holders = graph.holders(me)
    if len(holders) < config.threshold or len(members) < setup.policy.minimum_cohort:  # C9
        found = f"{len(members)} clients advertised keys, {len(holders)} hold this one's shares"
        raise FaultyServerError(f"{found}: needed {setup.policy.minimum_cohort} and {config.threshold}", "C9")
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
        peer = config.client_ids[position]
        sealing_key, opening_keys[position] = binding.channel_keys(
            state.channel, channel_keys[places[position]], session_id, setup.client_id, peer
        )
        sealed.append(aead.seal(sealing_key, share, binding.sealing_data(session_id, setup.client_id, peer)))
    commitment = binding.commitment(session_id, setup.client_id, self_seed)
    peers = {position: mask_keys[place] for position, place in places.items()}
    after = Shared(session_id, advertised, graph, state.mask, self_seed, peers, opening_keys, kept, state.vector)
    return messages.ShareKeysResponse(session_id, commitment, b"".join(sealed)), after


def _checked_keys(
    setup: ClientSetup, state: Keys, request: messages.ShareKeysRequest, members: npt.NDArray[np.intp]
) -> tuple[messages.Column, messages.Column]:
    """Return the channel keys and the mask keys of the clients at the positions `members`.

    Raises:
        MalformedMessageError: C1, a column has another length.
        FaultyServerError: C5 to C8.
    """
    config, me = setup.config, setup.position
    channel_keys = messages.column(request.channel_keys, KEY_BYTES, len(members), "channel keys")
    mask_keys = messages.column(request.mask_keys, KEY_BYTES, len(members), "mask keys")
    signed = signing.SIGNATURE_BYTES if config.malicious_server else 0
    signatures = messages.column(request.signatures, signed, len(members), "signatures") if signed else []
    if not signed and request.signatures:
        raise MalformedMessageError(f"{len(request.signatures)} bytes of signatures that were not asked for", 0)
    own = (state.channel.public_bytes, state.mask.public_bytes, state.signature)
    place = int(np.searchsorted(members, me))
    listed = (channel_keys[place], mask_keys[place], signatures[place] if signed else b"") if me in members else ()
    if listed != own:  # C5
        raise FaultyServerError("this client's own keys are missing or altered", "C5")
    all_keys = request.channel_keys + request.mask_keys
    if not are_distinct(all_keys):  # C6
        raise FaultyServerError("two clients have the same public key", "C6")
    if not are_sound(all_keys):  # C7
        raise FaultyServerError("a public key is not canonical or of low order", "C7")
    for i, signature in enumerate(signatures):  # C8
        peer = config.client_ids[members[i]]
        signed_keys = binding.advertisement(config, state.nonce, peer, channel_keys[i], mask_keys[i])
        if not signing.verify(setup.directory[peer], signature, signed_keys):
            raise FaultyServerError(f"the keys of client {peer} are not signed by its identity key", "C8")
    return channel_keys, mask_keys


def masked_input_collection(
    setup: ClientSetup, state: Shared, request: messages.MaskedInputCollectionRequest
) -> tuple[messages.MaskedInputCollectionResponse, Masked]:
    """Open the shares of others, and mask the vector.

    Raises:
        MalformedMessageError: C1, a column does not fit the set of clients.
        FaultyServerError: C10 to C14.
        EncodingError: A function made a vector of the wrong shape, type or range.
    """
    config, me, ids = setup.config, setup.position, setup.config.client_ids
    shared = shared_set(request.shared, len(ids))
    pairs = messages.whole_parts(request.sealed, messages.SEALED_BYTES, "sealed shares")
    if not shared[me] or (shared & ~state.advertised).any():  # C10
        raise FaultyServerError(
            "the clients that shared lack this client, or include one that advertised no keys", "C10"
        )
    holders = state.graph.holders(me)
    holders = holders[shared[holders]]
    if len(holders) < config.threshold or int(shared.sum()) < setup.policy.minimum_cohort:  # C11
        found = f"{int(shared.sum())} clients shared, {len(holders)} of them hold this one's shares"
        raise FaultyServerError(f"{found}: needed {setup.policy.minimum_cohort} and {config.threshold}", "C11")
    senders = holders[holders != me].tolist()
    if pairs != len(senders):  # C12
        raise FaultyServerError(f"{pairs} sealed shares, needed {len(senders)}", "C12")
    opened = open_pairs(config, me, state, senders, request.sealed)
    unopened = np.zeros(len(ids), np.bool_)
    unopened[[sender for sender in senders if sender not in opened]] = True
    vector = masking.made(state.vector, config, copy=setup.copy) if callable(state.vector) else state.vector
    added = [binding.self_mask_seed(state.session_id, setup.client_id, state.self_seed)]
    subtracted: list[bytes] = []
    for position, public_key in state.mask_keys.items():
        if shared[position]:
            seed = binding.pair_seed(state.mask, public_key, state.session_id, setup.client_id, ids[position])
            (added if me < position else subtracted).append(seed)
    kind = masking.create(config, state.session_id, setup.threads)
    payload: Any = Pieces(kind.payload_bytes, kind.mask(vector, added, subtracted, setup.entropy))
    after = Masked(state.session_id, state.advertised, state.graph, shared, state.shares | opened)
    unopened_bytes = set_to_bytes(unopened)
    return messages.MaskedInputCollectionResponse(state.session_id, unopened_bytes, payload), after


def consistency_check(
    setup: ClientSetup, state: Masked, request: messages.ConsistencyCheckRequest
) -> tuple[messages.ConsistencyCheckResponse, Signed]:
    """Sign the survivors that the server names.

    Raises:
        MalformedMessageError: C1, the set is not one of this cohort.
        FaultyServerError: C15 to C17.
    """
    survivors = shared_set(request.survivors, len(setup.config.client_ids))
    check_survivors(setup.config, setup.policy, setup.position, state, survivors)
    signature = setup.sign(binding.survivors(state.session_id, request.survivors))
    after = Signed(state.session_id, state.advertised, state.graph, state.shared, state.shares, survivors)
    return messages.ConsistencyCheckResponse(signature), after


def unmasking(
    setup: ClientSetup, state: Masked, request: messages.UnmaskingRequest
) -> tuple[messages.UnmaskingResponse, Released]:
    """Release one share for each client that shared: of the self seed for survivors, of the mask key for dropouts.

    Raises:
        MalformedMessageError: C1, a set or column does not fit.
        FaultyServerError: C15 to C22.
    """
    clients = len(setup.config.client_ids)
    survivors = shared_set(request.survivors, clients)
    dropouts = set_from_bytes(request.dropouts, clients)
    signers = np.flatnonzero(set_from_bytes(request.signers, clients))
    signatures = messages.column(request.signatures, signing.SIGNATURE_BYTES, len(signers), "signatures")
    if len(signers) and not setup.config.malicious_server:
        raise MalformedMessageError(f"{len(signers)} signers in a session without signatures", len(signers))
    check_survivors(setup.config, setup.policy, setup.position, state, survivors)
    if (survivors & dropouts).any():  # C18
        raise FaultyServerError("the server asks for both shares of one client", "C18")
    if ((survivors | dropouts) != state.shared).any():  # C19
        raise FaultyServerError("survivors and dropouts together are not those that shared", "C19")
    if setup.config.malicious_server:
        check_signatures(
            setup.config,
            setup.directory,
            setup.position,
            state,
            survivors,
            signers.tolist(),
            signatures,
            request.survivors,
        )
    size = shamir.SHARE_BYTES
    shares = [pair[size:] if survivors[position] else pair[:size] for position, pair in sorted(state.shares.items())]
    return messages.UnmaskingResponse(state.session_id, b"".join(shares)), Released(survivors)


@dataclass(frozen=True, slots=True)
class Step:
    """What a client does in a stage."""

    exchange: Exchange[Any, Any]
    answer: Callable[[ClientSetup, Any, Any], tuple[Message, Held]]


def _step(
    exchange: Exchange[Request, Response],
    answer: Callable[[ClientSetup, Before, Request], tuple[Response, Held]],
) -> Step:
    """Let the type checker see that a function takes and returns the types of the exchange."""
    return Step(exchange, answer)


STEPS: dict[Stage, Step] = {
    Stage.ADVERTISE_KEYS: _step(stages.ADVERTISE_KEYS, advertise_keys),
    Stage.SHARE_KEYS: _step(stages.SHARE_KEYS, share_keys),
    Stage.MASKED_INPUT_COLLECTION: _step(stages.MASKED_INPUT_COLLECTION, masked_input_collection),
    Stage.CONSISTENCY_CHECK: _step(stages.CONSISTENCY_CHECK, consistency_check),
    Stage.UNMASKING: _step(stages.UNMASKING, unmasking),
}
