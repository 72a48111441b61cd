"""The whole protocol on one page: a server and all clients in one process, with dropouts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secfed.crypto.entropy import Entropy
from secfed.crypto.signing import SigningKey
from secfed.errors import ConfigError, FaultyClientError
from secfed.secagg.client import Client
from secfed.secagg.config import Config, Policy
from secfed.secagg.server import Server
from secfed.secagg.stages import Stage

Direction = Literal["to_client", "to_server"]
Observer = Callable[[Stage, Direction, int, bytes], None]
Progress = Callable[[Stage, int, int], object]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a session.

    Attributes:
        sum: The survivors' sum modulo `2**modulus_bits`, shape `(length,)`.
        survivors: Ids of the clients in the sum.
        dropouts: Ids of the others.
        faults: Every message refused, every wrong share found.
        bytes_up: Bytes that each client sent, by id.
        bytes_down: Bytes that each client received, by id.
        seconds: Wall time of each stage, all parties together.
    """

    sum: npt.NDArray[np.unsignedinteger[Any]]
    survivors: tuple[int, ...]
    dropouts: tuple[int, ...]
    faults: tuple[FaultyClientError, ...]
    bytes_up: dict[int, int]
    bytes_down: dict[int, int]
    seconds: dict[Stage, float]


def run_session(
    config: Config,
    vectors: Mapping[int, npt.ArrayLike] | Callable[[int], npt.ArrayLike | None],
    *,
    dropouts: Mapping[int, Stage] | None = None,
    policy: Policy | None = None,
    observer: Observer | None = None,
    entropies: Callable[[int], Entropy | None] = lambda party: None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run one session in memory.

    Clients take turns. Between two stages a client holds only its keys and shares, some kilobytes for a few dozen
    neighbors. Its vector, request and answer are freed before the next client's turn, and the client itself after its
    last answer. So memory holds the server, the sum, one masked vector, and those kilobytes for each client
    (`docs/scale.md`).

    Args:
        config: The session's parameters.
        vectors: Each client's vector by id; see `Client`. Or a function of the id, called once, by ascending id, for
            each client that still answers when inputs are collected, so that only one vector is in memory at a time. If
            it returns None, the client drops out.
        dropouts: Clients that drop out, and the first stage that they do not answer.
        policy: The policy of every client.
        observer: Called with every message, as the server sees it: stage, direction, client id, bytes.
        entropies: Source of secrets of each party by id, 0 for the server; None is the operating system's.
        threads: Threads that expand the masks of one party, by default one for each usable core. They do not change
            the result.
        progress: `progress(stage, done, asked)`, called when the server has sent a stage's requests and after each
            client, whether it answers or not: how many of the clients asked the stage is done with.

    Returns:
        The sum and what it cost. With adversary `"malicious_server"` identity keys are made for this session alone.

    Raises:
        ConfigError: A vector is missing, a dropout is not a client, or `progress` is not a function.
        EncodingError: A vector is invalid.
        TooFewSurvivorsError: Too many clients dropped out.

    Security:
        All parties are in one process, so this protects nothing. It shows and tests what a deployment of `Client` and
        `Server` does.
    """
    silent = dict(dropouts or {})
    known = set(config.client_ids)
    if isinstance(vectors, Mapping) and (odd := known ^ set(vectors)):
        raise ConfigError(
            f"needed one vector for each of {len(known)} clients, found one missing or too many for {sorted(odd)[:5]}"
        )
    if unknown := set(silent) - known:
        raise ConfigError(f"dropouts {sorted(unknown)[:5]} are not among the {len(known)} clients")
    if progress is not None and not callable(progress):
        raise ConfigError(f"progress: found {progress!r:.100}, needed a function of stage, done and asked")
    keys: dict[int, SigningKey] = {}
    directory = None
    if config.malicious_server:
        keys = {client_id: SigningKey.generate() for client_id in config.client_ids}
        directory = {client_id: key.public_bytes for client_id, key in keys.items()}
    server = Server(config, directory=directory, entropy=entropies(0), threads=threads)
    collected: dict[int, Any] = {}  # what a client is about to mask
    clients = {
        client_id: Client(
            config,
            client_id,
            vectors[client_id] if isinstance(vectors, Mapping) else partial(collected.pop, client_id),
            policy=policy,
            signing_key=keys.get(client_id),
            directory=directory,
            entropy=entropies(client_id),
            threads=threads,
            copy=False,  # no vector changes while this function runs
        )
        for client_id in config.client_ids
        if silent.get(client_id) is not Stage.ADVERTISE_KEYS
    }
    bytes_up, bytes_down = dict.fromkeys(config.client_ids, 0), dict.fromkeys(config.client_ids, 0)
    seconds: dict[Stage, float] = {}
    outbox = server.open()
    while (stage := server.stage) is not None and stage is not Stage.DONE:
        started, asked = time.perf_counter(), list(outbox)
        for done, client_id in enumerate(asked):
            if progress:
                progress(stage, done, len(asked))
            request = outbox.pop(client_id)
            bytes_down[client_id] += len(request)
            if observer:
                observer(stage, "to_client", client_id, request)
            if silent.get(client_id, Stage.DONE) <= stage:
                clients.pop(client_id, None)
                continue
            if stage is Stage.MASKED_INPUT_COLLECTION and not isinstance(vectors, Mapping):
                collected[client_id] = vectors(client_id)
                if collected[client_id] is None:
                    del clients[client_id], collected[client_id]
                    continue
            response = clients[client_id].receive(request)
            bytes_up[client_id] += len(response)
            if observer:
                observer(stage, "to_server", client_id, response)
            server.receive(client_id, response)
            del request, response  # before the next client makes its vector
            if stage is Stage.UNMASKING:  # that was its last answer
                del clients[client_id]
        if progress:
            progress(stage, len(asked), len(asked))
        outbox = server.close_stage()
        seconds[stage] = time.perf_counter() - started
    return Result(server.sum, server.survivors, server.dropouts, tuple(server.faults), bytes_up, bytes_down, seconds)
