"""What long vectors cost in memory beside themselves, counted allocation by allocation."""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from secfed.secagg import Client, Config, Server, Stage

LENGTH = 3_000_000
MIB = 1 << 20
CONFIG = Config([1, 2], 2, length=LENGTH, modulus_bits=31)
VECTOR = LENGTH * CONFIG.dtype.itemsize


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """Give a function that returns the most bytes held at once since the start, less those held then."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield lambda: tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture
def asked() -> tuple[Server, dict[int, Client], dict[int, bytes]]:
    """A server, its clients, and the requests for their masked vectors."""
    vector = np.arange(LENGTH, dtype=CONFIG.dtype)
    server = Server(CONFIG, threads=1)
    clients = {i: Client(CONFIG, i, vector, threads=1, copy=False) for i in CONFIG.client_ids}
    outbox = server.open()
    while server.stage is not Stage.MASKED_INPUT_COLLECTION:
        for i, request in outbox.items():
            server.receive(i, clients[i].receive(request))
        outbox = server.close_stage()
    return server, clients, outbox


Asked = tuple[Server, dict[int, Client], dict[int, bytes]]


def test_client_needs_a_few_blocks_beside_its_vector(asked: Asked) -> None:
    _, clients, outbox = asked
    with peak() as found:
        size = sum(len(chunk) for chunk in clients[1].receive_chunks(outbox[1]))
        assert size > 31 * LENGTH // 8
        assert found() < 9 * MIB < VECTOR


def test_server_needs_the_sum_and_one_upload(asked: Asked) -> None:
    server, clients, outbox = asked
    answers = {i: list(clients[i].receive_chunks(request)) for i, request in outbox.items()}
    with peak() as found:  # the sum was there before
        assert all(server.receive_chunks(i, chunks) for i, chunks in answers.items())
        assert found() < VECTOR + 4 * MIB
    outbox = server.close_stage()
    for i, request in outbox.items():
        server.receive(i, clients[i].receive(request))
    with peak() as found:
        server.close_stage()
        assert found() < 4 * MIB
    assert server.sum[:3].tolist() == [0, 2, 4]


@pytest.mark.parametrize("party", ["server", "client"])
def test_saving_and_resuming_need_one_vector_each(party: str, asked: Asked) -> None:
    server, clients, _ = asked
    with peak() as found:
        saved = (server if party == "server" else clients[1]).to_bytes()
        assert VECTOR < found() < VECTOR + 4 * MIB
    with peak() as found:
        again = (Server if party == "server" else Client).from_bytes(saved)
        assert VECTOR < found() < VECTOR + 4 * MIB
    assert again.to_bytes() == saved
