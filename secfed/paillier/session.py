"""The whole protocol in one process: a server, all clients and the key holders, with dropouts."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secfed.crypto.entropy import Entropy
from secfed.errors import ConfigError
from secfed.paillier.client import Client
from secfed.paillier.config import Config
from secfed.paillier.key_holder import KeyHolder, OpenedSums
from secfed.paillier.keys import PrivateKey
from secfed.paillier.noise import Noise, NoisePool
from secfed.paillier.opening import OneKeyHolder, Opening
from secfed.paillier.partial_decryption import PartialDecryptions
from secfed.paillier.server import Fault, Server
from secfed.paillier.share_holder import ShareHolder
from secfed.paillier.stages import Stage
from secfed.paillier.threshold import KeyShare, ThresholdKey

Direction = Literal["to_client", "to_server", "to_key_holder"]
# A threshold key, and one share for each of its holders.
Shared = tuple[ThresholdKey, Sequence[KeyShare]]
Observer = Callable[[Stage, Direction, int, bytes], None]
Progress = Callable[[Stage, int, int, int], None]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a session.

    Attributes:
        sum: The survivors' weighted sum modulo `2**modulus_bits`, shape `(length,)`.
        survivors: Ids of the clients in the sum.
        dropouts: Ids of the others.
        faults: Every message refused.
        bytes_up: Bytes that each client sent, by id.
        bytes_down: Bytes sent to each client, by id.
        seconds: Wall time of each stage, all parties together.
    """

    sum: npt.NDArray[np.unsignedinteger[Any]]
    survivors: tuple[int, ...]
    dropouts: tuple[int, ...]
    faults: tuple[Fault, ...]
    bytes_up: dict[int, int]
    bytes_down: dict[int, int]
    seconds: dict[Stage, float]


def run_session(
    config: Config,
    vectors: Mapping[int, npt.ArrayLike] | Callable[[int], npt.ArrayLike | None],
    private_key: PrivateKey | Shared,
    *,
    dropouts: Collection[int] = (),
    absent: Collection[int] = (),
    noise: Noise = "half",
    pool: NoisePool | None = None,
    opened: OpenedSums | None = None,
    observer: Observer | None = None,
    entropies: Callable[[int], Entropy | None] = lambda party: None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run one session in memory.

    Args:
        config: The session's parameters.
        vectors: Each client's vector by id; see `Client`. Or a function of the id, called once for each client that
            answers, by ascending id, so that only one vector is held at a time; a client for which it returns None
            drops out.
        private_key: The key holder's key, or a threshold key and the shares of all its holders.
        dropouts: Ids of the clients that do not answer.
        absent: Numbers of the key holders that do not answer.
        noise: The kind of noise of every client.
        pool: Noise drawn ahead of time, for all clients.
        opened: The memory of opened sums; all key holders share it.
        observer: Called with every message: stage, direction, id of the client or number of the key holder, bytes.
        entropies: Source of secrets of each party by id: 0 for the server, -1, -2, ... for the holders of shares 1, 2,
            ...; None is the operating system's.
        threads: Threads that compute, by default one for each usable core.
        progress: Called from time to time with the stage, the id of the client or number of the key holder at work, the
            number of plaintexts encrypted or decrypted so far, and the total.

    Returns:
        The sum and what it cost.

    Raises:
        ConfigError: A vector or a share is missing, a dropout is not a client, an absent holder is not a holder, or a
            key does not match.
        EncodingError: A vector has the wrong shape, type or range.
        TooFewSurvivorsError: Too many dropouts, or too many absent holders.
        DecryptionError: The holders' answers do not combine to a sum.

    Security:
        All parties are in one process, so nothing is protected. Use this to test what a deployment of `Client`,
        `Server`, and `KeyHolder` or `ShareHolder` does.
    """
    known = set(config.client_ids)
    if isinstance(vectors, Mapping) and (odd := known ^ set(vectors)):
        raise ConfigError(
            f"needed one vector for each of {len(known)} clients, found one missing or too many for {sorted(odd)[:5]}"
        )
    if unknown := set(dropouts) - known:
        raise ConfigError(f"dropouts {sorted(unknown)[:5]} are not among the {len(known)} clients")
    vector_of = vectors.__getitem__ if isinstance(vectors, Mapping) else vectors
    watch: Observer = observer or (lambda stage, direction, party, data: None)
    opening, key_holders = _who_decrypts(config, private_key, opened, entropies, threads, progress)
    if unknown := set(absent) - set(key_holders):
        raise ConfigError(f"absent holders {sorted(unknown)[:5]} are not among the {len(key_holders)} key holders")
    server = Server(config, opening=opening, entropy=entropies(0), threads=threads)
    bytes_up, bytes_down = dict.fromkeys(config.client_ids, 0), dict.fromkeys(config.client_ids, 0)
    started = time.perf_counter()
    for client_id, request in server.open().items():
        bytes_down[client_id] = len(request)
        watch(Stage.ENCRYPTED_INPUT_COLLECTION, "to_client", client_id, request)
        vector = None if client_id in dropouts else vector_of(client_id)
        if vector is None:
            continue
        client = Client(
            config,
            client_id,
            vector,
            noise=noise,
            pool=pool,
            entropy=entropies(client_id),
            threads=threads,
            progress=progress and partial(progress, Stage.ENCRYPTED_INPUT_COLLECTION, client_id),
        )
        response = client.receive(request)
        bytes_up[client_id] = len(response)
        watch(Stage.ENCRYPTED_INPUT_COLLECTION, "to_server", client_id, response)
        server.receive(client_id, response)
    outbox = server.close_stage()
    collected = time.perf_counter()
    for holder_id, request in outbox.items():
        watch(Stage.DECRYPTION, "to_key_holder", holder_id, request)
        if holder_id in absent:
            continue
        response = key_holders[holder_id].receive(request)
        watch(Stage.DECRYPTION, "to_server", holder_id, response)
        server.receive(holder_id, response)
    server.close_stage()
    seconds = {
        Stage.ENCRYPTED_INPUT_COLLECTION: collected - started,
        Stage.DECRYPTION: time.perf_counter() - collected,
    }
    return Result(server.sum, server.survivors, server.dropouts, tuple(server.faults), bytes_up, bytes_down, seconds)


def _who_decrypts(
    config: Config,
    key: PrivateKey | Shared,
    opened: OpenedSums | None,
    entropies: Callable[[int], Entropy | None],
    threads: int | None,
    progress: Progress | None,
) -> tuple[Opening, Mapping[int, KeyHolder | ShareHolder]]:
    """Return the key holders by their numbers, and the object that handles their answers."""

    def watch(number: int) -> Callable[[int, int], None] | None:
        return progress and partial(progress, Stage.DECRYPTION, number)

    if isinstance(key, PrivateKey):
        return OneKeyHolder(), {1: KeyHolder(config, key, opened=opened, threads=threads, progress=watch(1))}
    threshold_key, shares = key
    numbers = sorted(share.number for share in shares)
    if numbers != list(range(1, threshold_key.holders + 1)):
        raise ConfigError(f"needed one share for each of {threshold_key.holders} holders, found those of {numbers}")
    memory = opened if opened is not None else OpenedSums()
    return PartialDecryptions(threshold_key, threads), {
        share.number: ShareHolder(
            config,
            threshold_key,
            share,
            opened=memory,
            entropy=entropies(-share.number),
            threads=threads,
            progress=watch(share.number),
        )
        for share in shares
    }
