"""The order of a session: which message each stage accepts. Nothing else in the package knows it."""

from enum import IntEnum

from secfed.crypto.agreement import KEY_BYTES
from secfed.crypto.shamir import SHARE_BYTES
from secfed.crypto.signing import SIGNATURE_BYTES
from secfed.secagg import messages
from secfed.secagg.config import Config
from secfed.wire import Message


class Stage(IntEnum):
    """Where a party stands; a client's stage is the one whose request it awaits, the server's the one whose responses
    it collects.
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


REQUEST: dict[Stage, type[Message]] = {
    Stage.ADVERTISE_KEYS: messages.AdvertiseKeysRequest,
    Stage.SHARE_KEYS: messages.ShareKeysRequest,
    Stage.MASKED_INPUT_COLLECTION: messages.MaskedInputCollectionRequest,
    Stage.CONSISTENCY_CHECK: messages.ConsistencyCheckRequest,
    Stage.UNMASKING: messages.UnmaskingRequest,
}

RESPONSE: dict[Stage, type[Message]] = {
    Stage.ADVERTISE_KEYS: messages.AdvertiseKeysResponse,
    Stage.SHARE_KEYS: messages.ShareKeysResponse,
    Stage.MASKED_INPUT_COLLECTION: messages.MaskedInputCollectionResponse,
    Stage.CONSISTENCY_CHECK: messages.ConsistencyCheckResponse,
    Stage.UNMASKING: messages.UnmaskingResponse,
}

KINDS = {message.kind for table in (REQUEST, RESPONSE) for message in table.values()} | {messages.Abort.kind}


def following(stage: Stage, config: Config) -> Stage:
    """Return the stage after this one; without a malicious server in mind there is no consistency check."""
    if stage is Stage.MASKED_INPUT_COLLECTION and not config.malicious_server:
        return Stage.UNMASKING
    return Stage(stage + 1)


def longest_request(stage: Stage, config: Config) -> int:
    """Return the bytes of the longest message that a client looks at in a stage: with an entry for every client."""
    n = len(config.client_ids)
    members, signed = -(-n // 8), SIGNATURE_BYTES if config.malicious_server else 0
    variable = {
        Stage.ADVERTISE_KEYS: [],
        Stage.SHARE_KEYS: [members, KEY_BYTES * n, KEY_BYTES * n, signed * n],
        Stage.MASKED_INPUT_COLLECTION: [members, messages.SEALED_BYTES * n],
        Stage.CONSISTENCY_CHECK: [members],
        Stage.UNMASKING: [members, members, members, signed * n],
    }
    return max(messages.Abort.size(messages.MAXIMUM_REASON), REQUEST[stage].size(*variable[stage]))


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
    return max(messages.Abort.size(messages.MAXIMUM_REASON), RESPONSE[stage].size(*variable[stage]))
