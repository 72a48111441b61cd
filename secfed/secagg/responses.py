"""What the server does with a client's response in each stage: it checks it, then keeps it in its state.

Each function takes the server's setup, its state, the client and its response. It raises
FaultyClientError with the number of the check, or MalformedMessageError (S2), before anything has changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from secfed.crypto import shamir, signing
from secfed.crypto.agreement import is_sound
from secfed.errors import FaultyClientError, MalformedMessageError
from secfed.secagg import binding, messages, opening
from secfed.secagg.config import Config
from secfed.secagg.states import Advertised, Advertising, Collecting, Opening, Sharing, Signing
from secfed.wire import set_from_bytes, set_to_bytes


@dataclass(frozen=True, slots=True, eq=False)
class ServerSetup:
    """What the server has for the whole session; `Server` says what each is."""

    config: Config
    directory: Mapping[int, bytes]
    threads: int | None
    faults: list[FaultyClientError]


def advertise_keys(
    setup: ServerSetup,
    state: Advertising,
    client_id: int,
    position: int,
    response: messages.AdvertiseKeysResponse,
) -> None:
    """Take a client's keys.

    Raises:
        MalformedMessageError: S2, the signature has another length.
        FaultyClientError: S5 to S7.
    """
    keys = (response.channel_key, response.mask_key)
    needed = signing.SIGNATURE_BYTES if setup.config.malicious_server else 0
    if len(response.signature) != needed:
        found = len(response.signature)
        raise MalformedMessageError(f"the signature has {found} bytes, needs {needed}", found)
    if not all(map(is_sound, keys)):  # S5
        text = f"a public key of client {client_id} is not canonical or of low order"
        raise FaultyClientError(text, client_id, "S5")
    if keys[0] == keys[1] or not state.known_keys.isdisjoint(keys):  # S6
        # Keys come without a proof of possession: either client may have copied the other's.
        text = f"a public key of client {client_id} occurs twice, in its message or in one that came earlier"
        raise FaultyClientError(text, client_id, "S6")
    if needed:
        signed = binding.advertisement(setup.config, state.nonce, client_id, *keys)
        if not signing.verify(setup.directory[client_id], response.signature, signed):  # S7
            text = f"the keys of client {client_id} are not signed by its identity key"
            raise FaultyClientError(text, client_id, "S7")
    state.known_keys.update(keys)
    state.channel_keys[position], state.mask_keys[position] = keys
    state.signatures[position] = response.signature


def share_keys(
    setup: ServerSetup,
    state: Sharing,
    client_id: int,
    position: int,
    response: messages.ShareKeysResponse,
) -> None:
    """Take what a client sealed for its holders.

    Raises:
        FaultyClientError: S14 or S8.
    """
    _check_session(state, client_id, response.session_id)
    needed = len(state.graph.neighbors(position))
    found = messages.whole_parts(response.sealed, messages.SEALED_BYTES, "sealed shares")
    if found != needed:  # S8
        raise FaultyClientError(f"{found} sealed shares from client {client_id}, needed {needed}", client_id, "S8")
    state.commitments[position] = response.commitment
    state.sealed[position] = response.sealed


def masked_input_collection(
    setup: ServerSetup,
    state: Collecting,
    client_id: int,
    position: int,
    response: messages.MaskedInputCollectionResponse,
) -> None:
    """Add a masked vector.

    Raises:
        FaultyClientError: S14, S15 or S9.
    """
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


def consistency_check(
    setup: ServerSetup,
    state: Signing,
    client_id: int,
    position: int,
    response: messages.ConsistencyCheckResponse,
) -> None:
    """Take a signature on the survivors.

    Raises:
        FaultyClientError: S10.
    """
    signed = binding.survivors(state.collected.session_id, set_to_bytes(state.survivors))
    if not signing.verify(setup.directory[client_id], response.signature, signed):  # S10
        raise FaultyClientError(f"client {client_id} did not sign the survivors", client_id, "S10")
    state.signatures[position] = response.signature


def unmasking(
    setup: ServerSetup,
    state: Opening,
    client_id: int,
    position: int,
    response: messages.UnmaskingResponse,
) -> None:
    """Take a client's shares.

    Raises:
        FaultyClientError: S14 or S11.
    """
    collected, unopened = state.collected, state.collected.unopened.get(position)
    _check_session(collected, client_id, response.session_id)
    members = None if unopened is None else set_from_bytes(unopened, len(collected.shared))
    needed = len(opening.owners_held(collected, position, members))
    found = messages.whole_parts(response.shares, shamir.SHARE_BYTES, "shares")
    if found != needed or shamir.shares_from_bytes(response.shares) is None:  # S11
        text = f"{found} shares from client {client_id}, needed {needed} of field elements"
        raise FaultyClientError(text, client_id, "S11")
    state.shares[position] = response.shares


def _check_session(state: Advertised, client_id: int, session_id: bytes) -> None:
    if session_id != state.session_id:  # S14
        raise FaultyClientError(f"client {client_id} answers another session", client_id, "S14")
