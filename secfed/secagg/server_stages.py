"""What the server does in each stage: how it closes it, and with what requests the next one begins.

`STEPS` lists one function for each stage; `responses.py` has those that take the responses. The numbers S12 and S13 are
those of `protocols/secagg/README.md`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from secfed.errors import TooFewSurvivorsError
from secfed.secagg import binding, masking, messages, opening, requests, responses, stages
from secfed.secagg.graph import graph_of
from secfed.secagg.responses import ServerSetup
from secfed.secagg.stages import Exchange, Request, Response, Stage
from secfed.secagg.states import Advertising, Collecting, Done, Opening, Seen, Sharing, Signing
from secfed.wire import Set, set_to_bytes

Outbox = dict[int, bytes]
During = TypeVar("During", bound=Seen)


def advertise_keys(setup: ServerSetup, state: Advertising, answered: Set) -> tuple[Outbox, Sharing]:
    """Send everybody's keys to everybody.

    Raises:
        TooFewSurvivorsError: Too few clients advertised keys.
    """
    config = setup.config
    members = np.flatnonzero(answered).tolist()
    count = len(members)
    opening.check_enough(config, Stage.ADVERTISE_KEYS, count, count)
    if not config.complete and count - 1 < config.threshold:
        raise TooFewSurvivorsError(
            f"{count} clients advertised keys, each needs {config.threshold} neighbors", count, config.threshold + 1
        )
    columns = [
        b"".join(column[position] for position in members)
        for column in (state.channel_keys, state.mask_keys, state.signatures)
    ]
    request = messages.ShareKeysRequest(set_to_bytes(answered), *columns)
    session_id = binding.session_id(config, state.nonce, request.advertised, request.channel_keys, request.mask_keys)
    after = Sharing(session_id, answered, graph_of(config, answered, session_id), state.mask_keys, {}, {})
    return dict.fromkeys(config.ids[answered].tolist(), request.to_bytes()), after


def share_keys(setup: ServerSetup, state: Sharing, answered: Set) -> tuple[Outbox, Collecting]:
    """Pass the sealed shares on to their holders.

    Raises:
        TooFewSurvivorsError: Too few clients shared their keys, or too few of those have enough holders.
    """
    config, graph, advertised = setup.config, state.graph, int(state.advertised.sum())
    opening.check_enough(config, Stage.SHARE_KEYS, int(answered.sum()), advertised)
    shared = answered.copy()
    # A client whose holders are gone could never be opened: it counts as a dropout of this stage, which may leave
    # others short.
    while short := graph.short(shared, shared, config.threshold):
        shared[short] = False
    opening.check_enough(config, Stage.SHARE_KEYS, int(shared.sum()), advertised)
    accumulator = masking.create(config, state.session_id, setup.threads).accumulator()
    after = Collecting(
        state.session_id, state.advertised, graph, state.mask_keys, state.commitments, shared, {}, accumulator
    )
    return dict(requests.masked_input_collection(config, graph, shared, state.sealed)), after


def masked_input_collection(setup: ServerSetup, state: Collecting, answered: Set) -> tuple[Outbox, Signing | Opening]:
    """Name the survivors: for their signatures against a malicious server, else for their shares.

    Raises:
        TooFewSurvivorsError: Too few clients answered, or a client's masks could not be removed.
    """
    config = setup.config
    opening.check_openable(config, Stage.MASKED_INPUT_COLLECTION, state, answered)
    if not config.malicious_server:
        return requests.unmasking(config, state, answered, answered, {}), Opening(state, answered, {})
    request = messages.ConsistencyCheckRequest(set_to_bytes(answered)).to_bytes()
    return dict.fromkeys(config.ids[answered].tolist(), request), Signing(state, answered, {})


def consistency_check(setup: ServerSetup, state: Signing, answered: Set) -> tuple[Outbox, Opening]:
    """Pass the signatures on and ask for shares.

    Raises:
        TooFewSurvivorsError: Too few clients signed.
    """
    opening.check_openable(setup.config, Stage.CONSISTENCY_CHECK, state.collected, answered)
    outbox = requests.unmasking(setup.config, state.collected, answered, state.survivors, state.signatures)
    return outbox, Opening(state.collected, state.survivors, {})


def unmasking(setup: ServerSetup, state: Opening, answered: Set) -> tuple[Outbox, Done]:
    """Combine the shares and remove the masks from the sum.

    Raises:
        TooFewSurvivorsError: Too few clients released their shares.
        FaultyClientError: S12 or S13, a client dealt shares that cannot be combined.
    """
    collected = state.collected
    opening.check_openable(setup.config, Stage.UNMASKING, collected, answered)
    for added, subtracted in opening.Opener(setup.config, state, answered, setup.faults).masks():
        collected.accumulator.remove(added, subtracted)
    return {}, Done(state.survivors, collected.accumulator.sum())


@dataclass(frozen=True, slots=True)
class Step:
    """What the server does in a stage: with each response, and when the stage closes."""

    exchange: Exchange[Any, Any]
    collect: Callable[[ServerSetup, Any, int, int, Any], None]
    close: Callable[[ServerSetup, Any, Set], tuple[Outbox, Seen]]


def _step(
    exchange: Exchange[Request, Response],
    collect: Callable[[ServerSetup, During, int, int, Response], None],
    close: Callable[[ServerSetup, During, Set], tuple[Outbox, Seen]],
) -> Step:
    """Let the type checker see that functions take the types of the exchange, and the same state."""
    return Step(exchange, collect, close)


STEPS: dict[Stage, Step] = {
    Stage.ADVERTISE_KEYS: _step(stages.ADVERTISE_KEYS, responses.advertise_keys, advertise_keys),
    Stage.SHARE_KEYS: _step(stages.SHARE_KEYS, responses.share_keys, share_keys),
    Stage.MASKED_INPUT_COLLECTION: _step(
        stages.MASKED_INPUT_COLLECTION, responses.masked_input_collection, masked_input_collection
    ),
    Stage.CONSISTENCY_CHECK: _step(stages.CONSISTENCY_CHECK, responses.consistency_check, consistency_check),
    Stage.UNMASKING: _step(stages.UNMASKING, responses.unmasking, unmasking),
}
