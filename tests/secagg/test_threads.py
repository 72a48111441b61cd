"""Several threads on one party: a client answers a stage once, a server counts an answer once."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from secfed import errors
from secfed.secagg import Client, Config, Stage, client_stages, masking, server_stages
from secfed.secagg.client_stages import ClientSetup
from tests.secagg.forge import Session, assert_forgot, complete, held, ring, secrets_of, seen

ME = 5
STAGES = [stage for stage in Stage if stage < Stage.DONE]
CONFIGS = {"complete": complete(), "ring": ring()}


def in_thread(function: Callable[[], Any]) -> Any:
    """Call a function in another thread and return its result or its exception."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    assert found, "the other thread hangs"
    return found[0]


def both_at_once(function: Callable[[], Any]) -> list[Any]:
    """Call a function in two threads at the same time and return both results or StageErrors."""
    ready, results = threading.Barrier(2), []

    def call() -> None:
        ready.wait()
        try:
            results.append(function())
        except errors.StageError as error:
            results.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return results


def interrupt(client: Client, stage: Stage, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> list[Any]:
    """Let another thread make a call while this client works on a stage; returns where its result will be."""
    results: list[Any] = []
    step, started = client_stages.STEPS[stage], threading.Event()

    def interrupted(setup: ClientSetup, *arguments: Any) -> Any:
        if setup.client_id != client.client_id or started.is_set():  # the second delivery got here: no third one
            return step.answer(setup, *arguments)
        started.set()
        results.append(in_thread(call))
        found = step.answer(setup, *arguments)
        results.append(in_thread(call))
        return found

    monkeypatch.setitem(client_stages.STEPS, stage, replace(step, answer=interrupted))
    return results


@pytest.mark.sampled(3)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", CONFIGS)
def test_second_delivery_during_the_first_is_refused(name: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(CONFIGS[name]).to(stage)
    client, request = session.clients[ME], session.outbox[ME]
    results = interrupt(client, stage, monkeypatch, lambda: client.receive(request))
    session.server.receive(ME, client.receive(request))
    assert [type(result) for result in results] == [errors.StageError] * 2
    assert all(result.check == "C2" for result in results)
    session.outbox = {client_id: data for client_id, data in session.outbox.items() if client_id != ME}
    session.finish().assert_sum()


@pytest.mark.parametrize("stage", STAGES)
def test_second_delivery_is_refused_by_the_stage_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(complete()).to(stage)
    client, request = session.clients[ME], session.outbox[ME]
    monkeypatch.setattr(client, "_busy", Mock())  # a lock that lets everybody in
    results = interrupt(client, stage, monkeypatch, lambda: client.receive(request))
    client.receive(request)
    assert [type(result) for result in results] == [errors.StageError] * 2


def test_vector_and_seeds_are_gone_before_masking_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    client, kept = session.clients[ME], []
    mask = masking.AesCtr.mask

    def watched(*arguments: Any) -> bytes:
        kept.append((client.stage, held(client)))
        return mask(*arguments)

    monkeypatch.setattr(masking.AesCtr, "mask", watched)
    client.receive(session.outbox[ME])
    assert kept == [(Stage.ABORTED, None)]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("method", ["abort", "to_bytes"])
def test_client_at_work_is_neither_saved_nor_aborted(
    method: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(complete()).to(stage)
    client = session.clients[ME]
    results = interrupt(client, stage, monkeypatch, getattr(client, method))
    client.receive(session.outbox[ME])
    assert [type(result) for result in results] == [errors.StageError] * 2


@pytest.mark.parametrize("stage", STAGES)
def test_abort_erases_every_secret_in_every_stage(stage: Stage) -> None:
    session = Session(complete()).to(stage)
    client = session.clients[ME]
    secrets = secrets_of(client)
    client.abort()
    assert_forgot(client, secrets)


def test_refused_message_leaves_the_stage_open() -> None:
    session = Session(complete()).to(Stage.SHARE_KEYS)
    client = session.clients[ME]
    with pytest.raises(errors.MalformedMessageError):
        client.receive(session.outbox[ME] + b"x")
    assert client.stage is Stage.SHARE_KEYS
    assert client.receive(session.outbox[ME])


def test_a_request_delivered_twice_at_once_has_one_answer() -> None:
    config = Config(range(1, 4), 2, 200_000, 32)
    for _ in range(5):
        session = Session(config).to(Stage.MASKED_INPUT_COLLECTION)
        for client_id, request in session.outbox.items():
            answers = both_at_once(partial(session.clients[client_id].receive, request))
            assert sorted(type(answer).__name__ for answer in answers) == ["StageError", "bytes"]


class SlowSum(np.ndarray):
    """A total that other threads can read between the reading and the writing of an addition."""

    def __iadd__(self, other: Any) -> "SlowSum":
        total = np.add(self, other)
        threading.Event().wait(0.01)
        self[...] = total
        return self


def test_server_gives_the_right_sum_to_answers_from_two_threads() -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    answers = {client_id: session.reply(client_id) for client_id in session.outbox}
    accumulator: Any = seen(session.server).accumulator
    accumulator._total = accumulator._total.view(SlowSum)
    counted: list[bool] = []

    def deliver(client_ids: list[int]) -> None:
        for client_id in client_ids:
            counted.append(session.server.receive(client_id, answers[client_id]))

    halves = list(answers)[::2], list(answers)[1::2]
    threads = [threading.Thread(target=deliver, args=(half,)) for half in halves]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert counted == [True] * len(answers)
    session.close()
    session.finish().assert_sum()


def test_server_counts_an_answer_delivered_twice_at_once_once(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    server, answer, results = session.server, session.reply(ME), []
    step = server_stages.STEPS[Stage.MASKED_INPUT_COLLECTION]

    def interrupted(*arguments: Any) -> None:
        second = threading.Thread(target=lambda: results.append(in_thread(lambda: server.receive(ME, answer))))
        second.start()
        second.join(0.1)  # it waits for the lock; without one it would be done by now
        step.collect(*arguments)
        pending.append(second)

    pending: list[threading.Thread] = []
    monkeypatch.setitem(server_stages.STEPS, Stage.MASKED_INPUT_COLLECTION, replace(step, collect=interrupted))
    assert server.receive(ME, answer)
    pending[0].join(10)
    assert isinstance(results[0], errors.FaultyClientError) and results[0].check == "S4"


def test_a_stage_that_is_named_is_closed_once() -> None:
    session = Session(complete()).to(Stage.SHARE_KEYS)
    session.answer()
    outbox = session.server.close_stage(Stage.SHARE_KEYS)
    with pytest.raises(errors.StageError, match="MASKED_INPUT_COLLECTION, asked to close SHARE_KEYS"):
        session.server.close_stage(Stage.SHARE_KEYS)
    session.outbox = outbox
    session.finish().assert_sum()


def test_two_threads_close_a_named_stage_once() -> None:
    session = Session(complete()).to(Stage.MASKED_INPUT_COLLECTION)
    session.answer()
    outcomes = both_at_once(partial(session.server.close_stage, Stage.MASKED_INPUT_COLLECTION))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["StageError", "dict"]
    session.outbox = next(outcome for outcome in outcomes if isinstance(outcome, dict))
    session.finish().assert_sum()
