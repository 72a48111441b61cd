"""What a party accepts at most, and what it does with what is no message at all."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from secfed import errors
from secfed.secagg import Config, Stage, opening, server
from secfed.secagg.stages import longest_request
from tests.secagg.forge import SHARE, Session, complete, edit, holders, ring, with_part

ME = 5
WHOLE_SESSION = ring(threshold=4, colluders=1, session_colluders=1)
CONFIGS = [complete(), complete(adversary="semi_honest"), ring(), WHOLE_SESSION]
HUGE = 20_000_000


def huge(honest: bytes) -> bytearray:
    """A message with the right first bytes that is far too long."""
    data = bytearray(HUGE)
    data[: len(honest)] = honest
    return data


def peak(function: Any) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("config", CONFIGS)
def test_client_looks_at_the_length_of_a_request_before_it_copies_it(config: Config) -> None:
    session = Session(config)
    while session.stage < Stage.DONE:
        client, honest = session.clients[ME], session.outbox[ME]
        assert len(honest) <= longest_request(session.stage, config)
        data = huge(honest)

        def refused(client: Any = client, data: Any = data) -> None:
            with pytest.raises(errors.MalformedMessageError, match=f"{HUGE} bytes, at most"):
                client.receive(data)

        assert peak(refused) < 1_000_000
        session.answer()
        session.close()
    session.assert_sum()


def test_longest_request_is_what_an_honest_server_needs_where_all_take_part() -> None:
    for config in (complete(), ring(), WHOLE_SESSION):
        session = Session(config)
        while session.stage < Stage.DONE:
            longest = max(map(len, session.outbox.values()))
            limit = longest_request(session.stage, config)
            if session.stage in (Stage.SHARE_KEYS, Stage.CONSISTENCY_CHECK, Stage.ADVERTISE_KEYS):
                assert limit == max(longest, 70)
            else:
                assert longest <= limit < longest + 88 * len(config.client_ids) + 100
            session.answer()
            session.close()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("config", CONFIGS)
def test_server_looks_at_the_length_of_a_response_before_it_copies_it(config: Config) -> None:
    session = Session(config)
    while session.stage < Stage.DONE:
        honest = {client_id: session.reply(client_id) for client_id in session.outbox}
        data = huge(honest[ME])

        def refused(data: Any = data) -> None:
            with pytest.raises(errors.FaultyClientError, match="S2"):
                session.server.receive(ME, data)

        assert peak(refused) < 1_000_000
        for client_id, response in honest.items():
            session.server.receive(client_id, response)
        session.close()
    session.assert_sum()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("data", [10**9, "text", None, [1, 2], 1.5, np.zeros(4, np.uint8)])
def test_what_is_no_bytes_is_the_callers_mistake(data: Any) -> None:
    session = Session(complete())
    with pytest.raises(errors.ConfigError, match="a message is bytes, found"):
        session.server.receive(ME, data)
    with pytest.raises(errors.ConfigError, match="a message is bytes, found"):
        session.clients[ME].receive(data)
    assert session.server.faults == []
    session.finish().assert_sum()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_parties_take_any_bytes(kind: Any) -> None:
    session = Session(complete())
    while session.stage < Stage.DONE:
        for client_id, request in session.outbox.items():
            session.server.receive(client_id, kind(session.clients[client_id].receive(kind(request))))
        session.close()
    session.assert_sum()


def test_the_list_of_faults_ends_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAXIMUM_FAULTS", 10)
    session = Session(complete())
    for _ in range(12):
        with pytest.raises(errors.FaultyClientError):
            session.server.receive(ME, b"x")
    assert len(session.server.faults) == 10
    session.finish().assert_sum()


def test_half_of_the_clients_is_no_threshold_of_a_complete_graph() -> None:
    for adversary in ("semi_honest", "malicious_server"):
        with pytest.raises(errors.ConfigError, match="threshold 2 must be"):
            Config(range(1, 5), 2, 1, adversary=adversary)
    assert Config(range(1, 5), 3, 1).threshold == 3


def test_holders_of_wrong_shares_are_combined_last(monkeypatch: pytest.MonkeyPatch) -> None:
    config = complete(range(1, 10), 5)
    session = Session(config).to(Stage.UNMASKING)
    repaired: list[int] = []
    repair = opening.Opener._repair

    def counted(self: Any, owner: int, *arguments: Any) -> bytes:
        repaired.append(owner)
        return repair(self, owner, *arguments)

    monkeypatch.setattr(opening.Opener, "_repair", counted)
    for client_id in session.outbox:
        data = session.reply(client_id)
        for owner in (1, 2, 7) if client_id == 1 else ():
            data = edit(data, shares=with_part(bytes(SHARE), holders(session, 1).index(owner), SHARE))
        session.server.receive(client_id, data)
    session.close()
    session.assert_sum()
    assert repaired == [0]  # client 1 was found wrong there, and nothing of its was used again
