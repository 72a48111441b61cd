"""A session whose parties are timed apart: what each stage costs the server and a client."""

import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secfed import secagg
from secfed.secagg import Stage


@dataclass
class Costs:
    """CPU seconds and bytes of one session."""

    server: float = 0.0
    server_memory: int = 0  # peak bytes that the server held, beyond the messages handed to it
    client: dict[int, float] = field(default_factory=dict)
    up: dict[int, int] = field(default_factory=dict)
    sum: npt.NDArray[np.unsignedinteger] | None = None
    survivors: tuple[int, ...] = ()


def run(
    config: secagg.Config,
    vector_of: Callable[[int], npt.NDArray[np.unsignedinteger]],
    dropouts: Mapping[int, Stage],
    *,
    threads: int = 1,
    memory: bool = False,
) -> Costs:
    """Run a session; `vector_of(client_id)` is called (and timed) when a client is built, as the start of its work."""
    costs = Costs(client=dict.fromkeys(config.client_ids, 0.0), up=dict.fromkeys(config.client_ids, 0))
    held = 0

    def of_server(call: Callable[[], object]) -> object:
        nonlocal held
        before = 0
        if memory:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
        start = time.process_time()
        result = call()
        costs.server += time.process_time() - start
        if memory:
            after, peak = tracemalloc.get_traced_memory()
            costs.server_memory = max(costs.server_memory, held + peak - before)
            held += after - before
        return result

    if memory:
        tracemalloc.start()
    server = secagg.Server(config, threads=threads)
    outbox = of_server(server.open)
    clients: dict[int, secagg.Client] = {}
    while not server.done:
        stage = server.stage
        for client_id in list(outbox):
            request = outbox.pop(client_id)
            held -= (
                len(request) if memory and stage is Stage.MASKED_INPUT_COLLECTION else 0
            )  # delivered: no longer the server's
            if dropouts.get(client_id, Stage.DONE) <= stage:
                clients.pop(client_id, None)
                continue
            start = time.process_time()
            if stage is Stage.ADVERTISE_KEYS:
                clients[client_id] = secagg.Client(config, client_id, vector_of(client_id), threads=threads)
            response = clients[client_id].receive(request)
            costs.client[client_id] += time.process_time() - start
            costs.up[client_id] += len(response)
            of_server(lambda client_id=client_id, response=response: server.receive(client_id, response))
        outbox = of_server(server.close_stage)
    if memory:
        tracemalloc.stop()
    costs.sum, costs.survivors = server.sum, server.survivors
    return costs
