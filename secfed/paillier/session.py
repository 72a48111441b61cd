"""The whole protocol in one process: a server, all clients and the key holder, with dropouts."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
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
from secfed.paillier.server import Fault, Server
from secfed.paillier.stages import Stage

Direction = Literal["to_client", "to_server", "to_key_holder"]
Observer = Callable[[Stage, Direction, int, bytes], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What a session gave.

    Attributes:
        sum: The survivors' weighted sum modulo `2**modulus_bits`, shape `(length,)`.
        survivors: Ids of the clients in the sum.
        dropouts: Ids of the others.
        faults: Every message refused.
        bytes_up: What each client sent, by id.
        bytes_down: What each client was sent, by id.
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
    private_key: PrivateKey,
    *,
    dropouts: Collection[int] = (),
    noise: Noise = "half",
    pool: NoisePool | None = None,
    opened: OpenedSums | None = None,
    observer: Observer | None = None,
    entropies: Callable[[int], Entropy | None] = lambda party: None,
    threads: int | None = None,
) -> Result:
    """Run one session in memory.

    Args:
        config: The session's parameters.
        vectors: Each client's vector by id; see `Client`. Or a function of the id, called once for each client that
            answers, by ascending id, so that one vector is held at a time; a client for which it returns None drops
            out.
        private_key: The key holder's.
        dropouts: Ids of the clients that do not answer.
        noise: The kind of noise of every client.
        pool: Noise drawn ahead of time, for all clients.
        opened: The key holder's memory of opened sums.
        observer: Called with every message: stage, direction, id of the client or number of the key holder, bytes.
        entropies: Source of secrets of each party by id, 0 for the server; None is the operating system's.
        threads: Threads that compute, by default one for each usable core.

    Returns:
        The sum and what it cost.

    Raises:
        ConfigError: A vector is missing, or a dropout is no client.
        EncodingError: A vector does not fit.
        TooFewSurvivorsError: Too many dropouts.

    Security:
        All parties are in one process: this protects nothing, it shows and tests what a deployment of `Client`,
        `Server` and `KeyHolder` does.
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
    server = Server(config, entropy=entropies(0), threads=threads)
    key_holder = KeyHolder(config, private_key, opened=opened, threads=threads)
    bytes_up, bytes_down = dict.fromkeys(config.client_ids, 0), dict.fromkeys(config.client_ids, 0)
    started = time.perf_counter()
    for client_id, request in server.open().items():
        bytes_down[client_id] = len(request)
        watch(Stage.ENCRYPTED_INPUT_COLLECTION, "to_client", client_id, request)
        vector = None if client_id in dropouts else vector_of(client_id)
        if vector is None:
            continue
        client = Client(
            config, client_id, vector, noise=noise, pool=pool, entropy=entropies(client_id), threads=threads
        )
        response = client.receive(request)
        bytes_up[client_id] = len(response)
        watch(Stage.ENCRYPTED_INPUT_COLLECTION, "to_server", client_id, response)
        server.receive(client_id, response)
    outbox = server.close_stage()
    collected = time.perf_counter()
    for holder_id, request in outbox.items():
        watch(Stage.DECRYPTION, "to_key_holder", holder_id, request)
        response = key_holder.receive(request)
        watch(Stage.DECRYPTION, "to_server", holder_id, response)
        server.receive(holder_id, response)
    server.close_stage()
    seconds = {
        Stage.ENCRYPTED_INPUT_COLLECTION: collected - started,
        Stage.DECRYPTION: time.perf_counter() - collected,
    }
    return Result(server.sum, server.survivors, server.dropouts, tuple(server.faults), bytes_up, bytes_down, seconds)
