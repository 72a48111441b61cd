"""Sessions of secure aggregation with one part of the masks weakened, and what the server computes from their messages.

The library has no switch that weakens it, and this module does not patch its code: that would weaken other sessions of
the same process. `_Weakened` is a client that lets the real client answer. Then it swaps masks in its own masked
vector: it removes one, and adds the mask of a weak seed, or none. For reused masks all parties draw the same secrets
twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.crypto import prg, shamir
from secfed.crypto.agreement import KEY_BYTES, KeyPair
from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.crypto.packing import pack, unpack
from secfed.errors import ConfigError
from secfed.secagg import Client, Config, Server, Stage, binding, messages
from secfed.secagg.states import Shared

Vector = npt.NDArray[np.unsignedinteger[Any]]
Signed = npt.NDArray[np.int64]
# Seeds of the masks that a client adds to its masked vector, and of those that it removes.
Swap = Callable[[Client, Shared], tuple[list[bytes], list[bytes]]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What passed through the server in one session.

    Attributes:
        config: The session's public parameters.
        received: Stage, client id and bytes of each message that clients sent, in order, late ones included.
        sent: The last message of each type that the server sent.
    """

    config: Config
    received: tuple[tuple[Stage, int, bytes], ...] = field(repr=False)
    sent: Mapping[int, bytes] = field(repr=False)

    def masked(self, client_id: int) -> Vector:
        """Return a client's masked vector, even if it came late."""
        (data,) = self._answers(Stage.MASKED_INPUT_COLLECTION, client_id)
        payload = messages.MaskedInputCollectionResponse.from_bytes(data).masked
        return unpack(payload, self.config.length, self.config.modulus_bits, self.config.dtype)

    def all_masked(self) -> Vector:
        """Return the masked vectors of all clients, shape `(clients, length)`."""
        return np.stack([self.masked(client_id) for client_id in self.config.client_ids])

    def opened(self) -> tuple[bytes, dict[int, bytes], dict[int, bytes]]:
        """Compute what an honest server computes, if the graph is complete and all clients dealt shares.

        Returns:
            The session's id; by client id the secret that the holders opened, which is a survivor's self seed or a
            dropout's mask key; and by client id the public mask keys.
        """
        config = self.config
        nonce = messages.AdvertiseKeysRequest.from_bytes(self.sent[messages.AdvertiseKeysRequest.kind]).nonce
        keys = messages.ShareKeysRequest.from_bytes(self.sent[messages.ShareKeysRequest.kind])
        session_id = binding.session_id(config, nonce, keys.advertised, keys.channel_keys, keys.mask_keys)
        answers = [(holder, data) for stage, holder, data in self.received if stage is Stage.UNMASKING]
        holders = np.array([holder for holder, _ in answers[: config.threshold]], np.uint64)
        # A holder sends one share for each client, by ascending id.
        shares = [np.frombuffer(messages.UnmaskingResponse.from_bytes(data).shares, "<u4") for _, data in answers]
        table = np.stack(shares[: config.threshold]).astype(np.uint64).reshape(config.threshold, -1, shamir.LIMBS)
        weights = shamir.lagrange_weights(holders)
        secrets = {
            client_id: shamir.from_limbs(shamir.combine(weights, table[:, place])) or b""
            for place, client_id in enumerate(config.client_ids)
        }
        columns = messages.column(keys.mask_keys, KEY_BYTES, len(config.client_ids), "mask keys")
        return session_id, secrets, dict(zip(config.client_ids, columns, strict=True))

    def self_mask(self, survivor: int) -> Vector:
        """Return the self mask of a survivor, from the self seed that the holders opened."""
        session_id, secrets, _ = self.opened()
        return self._mask(binding.self_mask_seed(session_id, survivor, secrets[survivor]))

    def pair_masks(self, dropout: int) -> tuple[list[Vector], list[Vector]]:
        """Return the masks that a dropout had added and subtracted, from the mask key that the holders opened."""
        session_id, secrets, keys = self.opened()
        pair = KeyPair(secrets[dropout])
        added: list[Vector] = []
        subtracted: list[Vector] = []
        for other in self.config.client_ids:
            if other != dropout:
                mask = self._mask(binding.pair_seed(pair, keys[other], session_id, dropout, other))
                (added if dropout < other else subtracted).append(mask)
        return added, subtracted

    def _answers(self, stage: Stage, client_id: int) -> list[bytes]:
        return [data for when, sender, data in self.received if when is stage and sender == client_id]

    def _mask(self, seed: bytes) -> Vector:
        return prg.expand(seed, self.config.length, self.config.dtype)


class Repeating:
    """A source of secrets that repeats itself, like a machine that is started twice from one image."""

    def __init__(self) -> None:
        self._drawn: dict[str, bytes] = {}

    def draw(self, label: str, size: int) -> bytes:
        """Return `size` bytes, the same ones each time for this label."""
        if label not in self._drawn:
            self._drawn[label] = SystemEntropy().draw(label, size)
        return self._drawn[label]


def no_swap(client: Client, state: Shared) -> tuple[list[bytes], list[bytes]]:
    """Leave the masks as they are: the real protocol."""
    return [], []


def self_mask_seed(client: Client, state: Shared) -> bytes:
    """Return the seed of a client's real self mask."""
    return binding.self_mask_seed(state.session_id, client.client_id, state.self_seed)


def session(
    config: Config,
    updates: Mapping[int, Signed],
    *,
    swap: Swap = no_swap,
    late: int | None = None,
    entropies: Mapping[int, Entropy] | None = None,
) -> Seen:
    """Run a session.

    Args:
        config: Its parameters.
        updates: Each client's values by id, shape `(length,)`.
        swap: Which masks a client swaps.
        late: The client whose masked vector comes after the server has closed the stage and counted it as a dropout.
        entropies: Sources of secrets by client id, 0 for the server; by default the operating system's.

    Raises:
        ConfigError: The sum is not that of its clients, so more than the secrecy of a mask is broken.
    """
    sources = entropies or {}
    server = Server(config, entropy=sources.get(0), threads=1)
    clients = {
        client_id: _Weakened(config, client_id, _in_ring(update, config), swap, sources.get(client_id))
        for client_id, update in updates.items()
    }
    received: list[tuple[Stage, int, bytes]] = []
    sent: dict[int, bytes] = {}
    outbox = server.open()
    while (stage := server.stage) is not None and stage is not Stage.DONE:
        answers = {client_id: clients[client_id].receive(request) for client_id, request in outbox.items()}
        sent |= {data[1]: data for data in outbox.values()}
        delayed = late if stage is Stage.MASKED_INPUT_COLLECTION else None
        for client_id in sorted(answers, key=lambda each: each == delayed):
            if client_id == delayed:
                outbox = server.close_stage()
            received.append((stage, client_id, answers[client_id]))
            server.receive(client_id, answers[client_id])
        if delayed is None:
            outbox = server.close_stage()
    wanted = np.sum([updates[client_id] for client_id in server.survivors], axis=0)
    if (server.sum != _in_ring(wanted, config)).any():
        raise ConfigError("the session ended with a wrong sum, needed that of its clients")
    return Seen(config, tuple(received), sent)


class _Weakened(Client):
    """A client that swaps masks in its masked vector; the real client does everything else."""

    def __init__(self, config: Config, client_id: int, vector: Vector, swap: Swap, entropy: Entropy | None) -> None:
        super().__init__(config, client_id, vector, entropy=entropy, threads=1)
        self._swap = swap

    def receive(self, data: bytes) -> bytes:
        """Take one message and answer it; see `Client`."""
        # Read this before the real client answers: answering erases what it held.
        swapped = self._swap(self, self._state) if isinstance(self._state, Shared) else ([], [])
        answer = super().receive(data)
        if not any(swapped):
            return answer
        response, config = messages.MaskedInputCollectionResponse.from_bytes(answer), self._setup.config
        vector = unpack(response.masked, config.length, config.modulus_bits, config.dtype).copy()
        prg.accumulate(vector, *swapped, threads=1)
        return replace(response, masked=pack(vector, config.modulus_bits)).to_bytes()


def _in_ring(values: Signed, config: Config) -> Vector:
    ring: Vector = (values & ((1 << config.modulus_bits) - 1)).astype(config.dtype)
    return ring
