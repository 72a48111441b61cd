"""Bounds of a server: connections, memory of uploads, slowness, requests without a token; and how clients bear them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from secfed.errors import ConfigError
from secfed.secagg import Stage
from secfed.transport import Answer, Limits, SessionParameters, Store
from secfed.transport.driver import Verdict
from secfed.transport.inbox import Inbox
from secfed.transport.limits import FullError, Rate, Uploads
from secfed.transport.parameters import bearer
from tests.transport.sessions import IDS, KEYS, assert_mean, client_of, driver_of, joining, serving


@pytest.mark.parametrize("name", ["connections", "upload_bytes", "idle_seconds", "silent_seconds", "bytes_per_second"])
def test_bounds_are_positive(name: str) -> None:
    for bound in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match=f"the limit {name} is {bound}"):
            Limits(**{name: bound})


def test_memory_is_promised_to_uploads_that_fit_and_always_to_one() -> None:
    uploads = Uploads(10)
    with uploads.room(1000), pytest.raises(FullError), uploads.room(1):
        raise AssertionError
    with uploads.room(6), uploads.room(4), pytest.raises(FullError), uploads.room(1):
        raise AssertionError
    with uploads.room(10):
        pass


def test_rate_counts_each_address_alone_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("secfed.transport.limits.time.monotonic", lambda: now)
    rate = Rate(3, 1.0)
    assert [rate.allows("a") for _ in range(4)] == [True, True, True, False]
    assert rate.allows("b")
    now = 2.0
    assert [rate.allows("a") for _ in range(3)] == [True, True, False]
    monkeypatch.setattr("secfed.transport.limits._MOST_ADDRESSES", 5)
    for i in range(20):
        rate.allows(str(i))
    assert len(rate._left) <= 5


def test_messages_that_come_during_a_write_are_written_together() -> None:
    batches: list[int] = []

    async def accept(messages: Any) -> list[Verdict]:
        batches.append(len(messages))
        await asyncio.sleep(0.01)
        if any(stage is Stage.DONE for _, stage, _ in messages):
            raise OSError("disk full")
        return [Verdict(Answer.ACCEPTED, str(client_id)) for client_id, _, _ in messages]

    async def deliver() -> None:
        inbox = Inbox(accept)
        verdicts = await asyncio.gather(*(inbox.put(each, Stage.SHARE_KEYS, b"") for each in range(100)))
        assert [verdict.reason for verdict in verdicts] == [str(each) for each in range(100)]
        gone = asyncio.create_task(inbox.put(1, Stage.SHARE_KEYS, b""))
        await asyncio.sleep(0)
        gone.cancel()
        found = await asyncio.gather(*(inbox.put(each, Stage.DONE, b"") for each in (1, 2)), return_exceptions=True)
        assert [type(error) for error in found] == [OSError] * 2
        assert (await inbox.put(3, Stage.SHARE_KEYS, b"")).reason == "3"

    asyncio.run(deliver())
    assert batches[:2] == [64, 36]


def test_many_messages_need_one_write_and_get_a_verdict_each(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    driver = driver_of(store)
    clients = [client_of(driver, each) for each in IDS]
    messages = [client.receive(driver.request(client.client_id, client.stage) or b"") for client in clients]
    stage = Stage.ADVERTISE_KEYS
    given = [(each, stage, message) for each, message in zip(IDS, messages, strict=True)]
    commits: list[str] = []
    store._database.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    verdicts = driver.accept_all([*given, given[0], (2, stage, messages[1]), (3, Stage.UNMASKING, b"")])
    assert len(commits) == 1
    accepted = [Answer.ACCEPTED] * 5
    assert [verdict.answer for verdict in verdicts] == [*accepted, Answer.CONFLICT, Answer.EARLY]
    store.close()
    store = Store(tmp_path / "state.db")
    resumed = driver_of(store)
    assert resumed.due and resumed.stage is stage
    store.close()


def test_session_ends_well_although_only_one_message_fits_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secfed.transport.http_server.RETRY_SECONDS", 0)
    driver = driver_of()

    async def session() -> None:
        async with serving(driver, limits=Limits(upload_bytes=1)) as url:
            await asyncio.gather(*(joining(url, each) for each in IDS))

    asyncio.run(session())
    assert_mean(driver, IDS)


class OverError(Exception):
    """The test has seen enough of the server."""


def against(limits: Limits, look: Any) -> None:
    async def session() -> None:
        async with serving(driver_of(), limits=limits) as url:
            await look(url)
            raise OverError

    with pytest.raises(OverError):
        asyncio.run(session())


@asynccontextmanager
async def connected(url: str, data: bytes = b"") -> AsyncIterator[asyncio.StreamReader]:
    """Open a connection, send these bytes and leave it open while the body runs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        writer.write(data)
        yield reader
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("data", [b"", b"GET /v1/session HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_connection_without_a_whole_header_is_closed(data: bytes) -> None:
    async def look(url: str) -> None:
        async with connected(url, data) as reader, asyncio.timeout(2):
            await reader.read()

    against(Limits(idle_seconds=0.2), look)


def test_connection_on_which_a_client_awaits_its_request_is_not_idle() -> None:
    async def look(url: str) -> None:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/v1/session") as response:
                found = SessionParameters.from_bytes(await response.read())
            token = {"Authorization": f"Bearer {bearer(KEYS[2], found, 2)}"}
            path = f"{url}/v1/sessions/{found.session.hex()}/clients/2/SHARE_KEYS"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.8), http.get(path, headers=token):
                    raise AssertionError

    against(Limits(idle_seconds=0.2), look)


def test_connections_beyond_the_limit_are_closed_and_others_served() -> None:
    ask = b"GET /v1/session HTTP/1.1\r\nHost: x\r\n\r\n"

    async def look(url: str) -> None:
        async with connected(url), connected(url):
            async with connected(url), connected(url, ask) as beyond, asyncio.timeout(2):
                with suppress(ConnectionResetError):
                    assert await beyond.read() == b""
            await asyncio.sleep(0.1)
            async with connected(url, ask) as third, asyncio.timeout(2):
                assert b" 200 " in await third.readline()

    against(Limits(connections=3), look)


def test_address_that_asks_too_often_is_told_when_to_come_back() -> None:
    async def look(url: str) -> None:
        async with aiohttp.ClientSession() as http:
            found = []
            for _ in range(130):
                async with http.get(url + "/v1/session") as response:
                    found.append((response.status, response.headers.get("Retry-After")))
            assert found[:100] == [(200, None)] * 100 and found[-1] == (503, "1")

    against(Limits(), look)
