"""Several threads on one party: a client answers once, a server counts an answer once."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from secfed import errors, paillier
from secfed.crypto.entropy import SystemEntropy
from secfed.paillier import server as server_module
from tests.paillier.forge import answer, config, raised, total, vector_of
from tests.paillier.keys import keypair


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Make calls in one thread each, and return their results or exceptions in the order of the calls."""
    results: list[Any] = [None] * len(calls)

    def work(i: int) -> None:
        results[i] = raised(calls[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return results


def test_second_call_while_a_client_works_is_refused() -> None:
    cohort, found = config(), []
    request = paillier.Server(cohort).open()[1]

    class Interrupted(SystemEntropy):
        def draw(self, label: str, size: int) -> bytes:
            if not found:  # the client has not yet changed
                found.append(None)
                found[0:] = in_threads(lambda: client.receive(request), lambda: client.receive(b""))
            return super().draw(label, size)

    client = paillier.Client(cohort, 1, vector_of(1), entropy=Interrupted())
    assert client.receive(request)
    assert all(isinstance(error, errors.StageError) and error.check == "C2" for error in found)
    assert client.stage is paillier.Stage.DONE


def test_two_threads_get_one_answer_of_a_client() -> None:
    cohort = config()
    client, request = paillier.Client(cohort, 1, vector_of(1)), paillier.Server(cohort).open()[1]
    results = in_threads(*[lambda: client.receive(request)] * 4)
    assert sorted(type(result).__name__ for result in results) == ["StageError"] * 3 + ["bytes"]


@pytest.mark.parametrize("weights", [None, {client_id: client_id for client_id in range(1, 9)}])
def test_server_sums_what_several_threads_bring(weights: dict[int, int] | None) -> None:
    cohort = config(range(1, 9), weights=weights)
    server = paillier.Server(cohort)
    responses = {client_id: answer(cohort, client_id, request) for client_id, request in server.open().items()}
    calls = [lambda item=item: server.receive(*item) for item in responses.items()]
    assert in_threads(*calls) == [True] * 8
    [request] = server.close_stage().values()
    server.receive(1, paillier.KeyHolder(cohort, keypair()[1]).receive(request))
    server.close_stage()
    assert server.sum.tolist() == total(cohort, cohort.client_ids)


def test_response_that_comes_twice_at_once_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = config()
    server = paillier.Server(cohort)
    response = answer(cohort, 2, server.open()[2])
    real, together = server_module.checked_column, threading.Barrier(2)

    def slow(*args: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            together.wait(0.2)  # both get here only if nothing keeps the second one out
        return real(*args)

    monkeypatch.setattr(server_module, "checked_column", slow)
    results = in_threads(*[lambda: server.receive(2, response)] * 2)
    assert sorted(str(result)[:2] for result in results) == ["S4", "Tr"]
