"""The order of a session: which messages each stage has and which stage follows. Only this module knows it.

The tables `STEPS` of `client.py` and `server.py` have what a party does with the messages.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, TypeVar

from secfed.crypto.agreement import KEY_BYTES
from secfed.crypto.shamir import SHARE_BYTES
from secfed.crypto.signing import SIGNATURE_BYTES
from secfed.secagg import messages
from secfed.secagg.config import Config
from secfed.wire import Message

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class Stage(IntEnum):
    """A party's stage: for a client, the stage whose request it awaits; for the server, the one whose responses it
    collects.
    """

    ADVERTISE_KEYS = 1
    SHARE_KEYS = 2
    MASKED_INPUT_COLLECTION = 3
    CONSISTENCY_CHECK = 4
    UNMASKING = 5
    DONE = 6
    ABORTED = 7

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Request, Response]):
    """What the server asks in a stage, what a client answers, and which stage follows."""

    stage: Stage
    request: type[Request]
    response: type[Response]
    following: Stage


ADVERTISE_KEYS = Exchange(
    Stage.ADVERTISE_KEYS, messages.AdvertiseKeysRequest, messages.AdvertiseKeysResponse, Stage.SHARE_KEYS
)
SHARE_KEYS = Exchange(
    Stage.SHARE_KEYS, messages.ShareKeysRequest, messages.ShareKeysResponse, Stage.MASKED_INPUT_COLLECTION
)
MASKED_INPUT_COLLECTION = Exchange(
    Stage.MASKED_INPUT_COLLECTION,
    messages.MaskedInputCollectionRequest,
    messages.MaskedInputCollectionResponse,
    Stage.CONSISTENCY_CHECK,
)
CONSISTENCY_CHECK = Exchange(  # only with adversary "malicious_server", see `following`
    Stage.CONSISTENCY_CHECK, messages.ConsistencyCheckRequest, messages.ConsistencyCheckResponse, Stage.UNMASKING
)
UNMASKING = Exchange(Stage.UNMASKING, messages.UnmaskingRequest, messages.UnmaskingResponse, Stage.DONE)

EXCHANGES: dict[Stage, Exchange[Any, Any]] = {
    exchange.stage: exchange
    for exchange in (ADVERTISE_KEYS, SHARE_KEYS, MASKED_INPUT_COLLECTION, CONSISTENCY_CHECK, UNMASKING)
}
KINDS = {message.kind for exchange in EXCHANGES.values() for message in (exchange.request, exchange.response)} | {
    messages.Abort.kind
}


def following(stage: Stage, config: Config) -> Stage:
    """Return the stage after this one. Only the adversary `"malicious_server"` has the consistency check."""
    after = EXCHANGES[stage].following
    if after is Stage.CONSISTENCY_CHECK and not config.malicious_server:
        return CONSISTENCY_CHECK.following
    return after


def longest_request(stage: Stage, config: Config) -> int:
    """Return the bytes of the longest message that a client reads in a stage: with an entry for every client."""
    n = len(config.client_ids)
    members, signed = -(-n // 8), SIGNATURE_BYTES if config.malicious_server else 0
    variable = {
        Stage.ADVERTISE_KEYS: [],
        Stage.SHARE_KEYS: [members, KEY_BYTES * n, KEY_BYTES * n, signed * n],
        Stage.MASKED_INPUT_COLLECTION: [members, messages.SEALED_BYTES * n],
        Stage.CONSISTENCY_CHECK: [members],
        Stage.UNMASKING: [members, members, members, signed * n],
    }
    expected: type[Message] = EXCHANGES[stage].request
    return max(messages.Abort.size(messages.MAXIMUM_REASON), expected.size(*variable[stage]))


def longest_response(stage: Stage, config: Config, payload_bytes: int) -> int:
    """Return the bytes of the longest message that a client may send in a stage, an Abort among them.

    Args:
        stage: The stage.
        config: The session's parameters.
        payload_bytes: Length of a masked vector.
    """
    variable = {
        Stage.ADVERTISE_KEYS: [SIGNATURE_BYTES],
        Stage.SHARE_KEYS: [messages.SEALED_BYTES * config.holders],
        Stage.MASKED_INPUT_COLLECTION: [-(-len(config.client_ids) // 8), payload_bytes],
        Stage.CONSISTENCY_CHECK: [],
        Stage.UNMASKING: [SHARE_BYTES * config.holders],
    }
    expected: type[Message] = EXCHANGES[stage].response
    return max(messages.Abort.size(messages.MAXIMUM_REASON), expected.size(*variable[stage]))


def sizes_without_dropouts(stage: Stage, config: Config, payload_bytes: int) -> tuple[int, int]:
    """Return the bytes of one client's request and of its response in a stage, in a session without dropouts.

    They are the same for every client.

    Args:
        stage: The stage.
        config: The session's parameters.
        payload_bytes: Length of a masked vector.
    """
    n, signature = len(config.client_ids), SIGNATURE_BYTES if config.malicious_server else 0
    members, sealed = -(-n // 8), messages.SEALED_BYTES * config.neighbors
    signers = config.signers_needed(n) if config.session_colluders is not None else config.holders
    requests = {
        Stage.ADVERTISE_KEYS: [],
        Stage.SHARE_KEYS: [members, KEY_BYTES * n, KEY_BYTES * n, signature * n],
        Stage.MASKED_INPUT_COLLECTION: [members, sealed],
        Stage.CONSISTENCY_CHECK: [members],
        Stage.UNMASKING: [members, members, members, signature * signers],
    }
    responses = {
        Stage.ADVERTISE_KEYS: [signature],
        Stage.SHARE_KEYS: [sealed],
        Stage.MASKED_INPUT_COLLECTION: [members, payload_bytes],
        Stage.CONSISTENCY_CHECK: [],
        Stage.UNMASKING: [SHARE_BYTES * config.holders],
    }
    exchange = EXCHANGES[stage]
    request, response = exchange.request.size(*requests[stage]), exchange.response.size(*responses[stage])
    return request, response
