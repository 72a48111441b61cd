"""What a client checks about the survivors before it helps to unmask their sum: C15 to C17 and C20 to C22."""

from collections.abc import Mapping, Sequence

import numpy as np

from secfed.crypto import signing
from secfed.errors import FaultyServerError
from secfed.secagg import binding
from secfed.secagg.config import Config, Policy
from secfed.secagg.states import Masked, Signed
from secfed.wire import Set


def check_survivors(config: Config, policy: Policy, me: int, state: Masked, survivors: Set) -> None:
    """Check the survivors when they are first announced.

    Args:
        config: The session's parameters.
        policy: What the client requires.
        me: The client's position.
        state: What it holds.
        survivors: The clients that the server says are in the sum, shape `(clients,)`.

    Raises:
        FaultyServerError: C15 to C17.
    """
    if (survivors & ~state.shared).any():  # C15
        raise FaultyServerError("a survivor had not shared its keys", "C15")
    if not survivors[me]:  # C16
        raise FaultyServerError("this client is not among the survivors", "C16")
    alive = int(survivors[state.graph.holders(me)].sum())
    if alive < config.threshold or int(survivors.sum()) < policy.minimum_cohort:  # C17
        found = f"{int(survivors.sum())} survivors, {alive} of them hold this client's shares"
        raise FaultyServerError(f"{found}: needed {policy.minimum_cohort} and {config.threshold}", "C17")


def check_signatures(
    config: Config,
    directory: Mapping[int, bytes],
    me: int,
    state: Masked,
    survivors: Set,
    signers: list[int],
    signatures: Sequence[bytes],
    survivors_bytes: bytes,
) -> None:
    """Check that enough clients have signed the same survivors as this client.

    Args:
        config: The session's parameters.
        directory: The identity keys of the cohort.
        me: The client's position.
        state: What it holds.
        survivors: The clients that the server says are in the sum, shape `(clients,)`.
        signers: Positions of those that signed.
        signatures: Theirs, in the same order.
        survivors_bytes: The encoded set that they signed.

    Raises:
        FaultyServerError: C20 to C22.
    """
    if not isinstance(state, Signed) or (survivors != state.survivors).any():  # C20
        raise FaultyServerError("these are not the survivors that this client signed", "C20")
    whole_session = config.session_colluders is not None
    counts = survivors if whole_session else np.isin(np.arange(len(survivors)), state.graph.holders(me))
    signed = binding.survivors(state.session_id, survivors_bytes)
    for position, signature in zip(signers, signatures, strict=True):
        peer = config.client_ids[position]
        if not (counts[position] and survivors[position]) or not signing.verify(
            directory[peer], signature, signed
        ):  # C21
            raise FaultyServerError(f"no valid signature of client {peer} on the survivors", "C21")
    own = (config.complete or whole_session) and me not in signers
    needed = config.signers_needed(int(state.advertised.sum()))
    if len(signers) + own < needed:  # C22
        raise FaultyServerError(f"{len(signers) + own} signatures on the survivors, needed {needed}", "C22")
