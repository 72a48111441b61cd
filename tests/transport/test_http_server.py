"""A session behind HTTP: who is let in, what is refused unread, and a session to its end."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from secfed.errors import ConfigError, SecFedError
from secfed.secagg import Stage
from secfed.transport import Driver, HttpServer, Limits, Store
from secfed.transport.parameters import bearer
from tests.transport.sessions import (
    IDS,
    KEYS,
    SEMI_HONEST,
    announced,
    assert_mean,
    client_of,
    driver_of,
    joining,
    serving,
)


class VanishedError(Exception):
    """A client is gone."""


def test_session_over_loopback_in_which_one_client_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    from secfed.transport import client as module

    class Vanishing(module.Client):
        def receive_chunks(self, data: bytes) -> Any:
            if (self.client_id, self.stage) == (5, Stage.MASKED_INPUT_COLLECTION):
                raise VanishedError
            return super().receive_chunks(data)

    monkeypatch.setattr(module, "Client", Vanishing)
    driver = driver_of(timeouts={Stage.MASKED_INPUT_COLLECTION: 1.0})

    async def session() -> list[Any]:
        async with serving(driver) as url:
            return await asyncio.gather(*(joining(url, client_id) for client_id in IDS), return_exceptions=True)

    found = dict(zip(IDS, asyncio.run(session()), strict=True))
    assert isinstance(found.pop(5), VanishedError)
    assert [joined.survivors for joined in found.values()] == [(2, 3, 7)] * 3
    assert_mean(driver, (2, 3, 7))
    assert driver.dropouts == (5,)


def test_session_without_roster_takes_clients_at_their_word() -> None:
    driver = Driver(announced(SEMI_HONEST), Store())

    async def session() -> None:
        async with serving(driver) as url:
            await asyncio.gather(*(joining(url, client_id, terms=None, signing_key=None) for client_id in IDS))

    asyncio.run(session())
    assert_mean(driver, IDS)


def statuses(driver: Driver, requests: Any) -> list[int]:
    """Return the statuses of requests: method, path, token's header or None, body."""

    async def ask() -> list[int]:
        found = []
        try:
            async with serving(driver) as url, aiohttp.ClientSession() as http:
                for method, path, authorization, body in requests:
                    headers = {} if authorization is None else {"Authorization": authorization}
                    where = url + f"/v1/sessions/{driver.parameters.session.hex()}/clients/" + path
                    async with http.request(method, where, headers=headers, data=body) as response:
                        found.append(response.status)
                raise VanishedError
        except VanishedError:
            return found

    return asyncio.run(ask())


def test_strangers_and_tokens_of_others_and_of_other_sessions_get_401() -> None:
    driver, other = driver_of(), driver_of()
    assert driver.parameters.session != other.parameters.session
    path = "2/ADVERTISE_KEYS"
    own = bearer(KEYS[2], driver.parameters, 2)
    bad = [
        None,
        "",
        "Bearer ",
        "Bearer zz",
        "Bearer " + "00" * 64,
        "Basic " + own,
        "Bearer " + f"{int(own[:2], 16) ^ 1:02x}" + own[2:],
        "Bearer " + bearer(KEYS[3], driver.parameters, 3),
        "Bearer " + bearer(KEYS[2], driver.parameters, 3),
        "Bearer " + bearer(KEYS[2], other.parameters, 2),
    ]
    message = client_of(driver, 2).receive(driver.request(2, Stage.ADVERTISE_KEYS) or b"")
    tries = [("POST", path, token, message) for token in bad] + [("GET", path, token, None) for token in bad]
    strangers = [("GET", f"{who}/ADVERTISE_KEYS", f"Bearer {own}", None) for who in (1, 4, -2, "x", 1 << 70)]
    assert statuses(driver, tries + strangers) == [401] * (len(tries) + len(strangers))
    assert not driver.faults and driver.request(2, Stage.ADVERTISE_KEYS)
    good = [
        ("POST", path, f"Bearer {own}", message),
        ("POST", path, bad[-1], message),
        ("GET", path, f"Bearer {own}", None),
    ]
    assert statuses(driver, good) == [204, 401, 200]


def test_client_of_a_session_that_is_gone_is_told() -> None:
    """As after a restart of a server without a state: the client would wait in vain for its stage."""
    driver = Driver(announced(SEMI_HONEST), Store())

    async def session() -> list[int]:
        found = []
        try:
            async with serving(driver) as url, aiohttp.ClientSession() as http:
                for name in (bytes(32).hex(), driver.parameters.session.hex()):
                    async with http.get(f"{url}/v1/sessions/{name}/clients/2/ADVERTISE_KEYS") as response:
                        found.append(response.status)
                raise VanishedError
        except VanishedError:
            return found

    assert asyncio.run(session()) == [404, 200]


def test_bodies_that_are_too_long_or_out_of_turn_change_nothing() -> None:
    driver = driver_of()
    token = f"Bearer {bearer(KEYS[2], driver.parameters, 2)}"
    path = "2/"
    limit = driver.limit(2, Stage.ADVERTISE_KEYS)
    message = client_of(driver, 2).receive(driver.request(2, Stage.ADVERTISE_KEYS) or b"")

    async def in_chunks() -> Any:
        for _ in range(limit // 10 + 1):
            yield bytes(10)

    found = statuses(
        driver,
        [
            ("POST", path + "ADVERTISE_KEYS", token, bytes(limit + 1)),
            ("POST", path + "ADVERTISE_KEYS", token, in_chunks()),
            ("POST", path + "ADVERTISE_KEYS", token, bytes(limit)),
            ("POST", path + "UNMASKING", token, message),
            ("POST", path + "DONE", token, b""),
            ("POST", path + "NOTHING", token, message),
            ("POST", path + "ADVERTISE_KEYS", token, message),
            ("POST", path + "ADVERTISE_KEYS", token, bytes(len(message))),
            ("POST", path + "ADVERTISE_KEYS", token, message),
        ],
    )
    assert found == [413, 413, 422, 425, 425, 404, 204, 409, 204]


def half_sent(
    driver: Driver, afterwards: Callable[[str, dict[str, str], bytes, Any, Any], Awaitable[None]], **options: Any
) -> None:
    """Send all but the last byte of client 2's first message, and call a function with what is left to do.

    Its arguments are the URL, the headers and the message to send in whole, then the reader and the writer of the
    broken upload.
    """
    headers = {"Authorization": f"Bearer {bearer(KEYS[2], driver.parameters, 2)}"}
    message = client_of(driver, 2).receive(driver.request(2, Stage.ADVERTISE_KEYS) or b"")
    path = f"/v1/sessions/{driver.parameters.session.hex()}/clients/2/ADVERTISE_KEYS"

    async def session() -> None:
        async with serving(driver, **options) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n"
            writer.write(f"{head}Content-Length: {len(message)}\r\n\r\n".encode() + message[:-1])
            await writer.drain()
            await asyncio.sleep(0.1)
            await afterwards(url + path, headers, message, reader, writer)
            writer.close()
            raise VanishedError

    with pytest.raises(VanishedError):
        asyncio.run(session())


async def status_of_post(url: str, headers: dict[str, str], message: bytes) -> int:
    async with aiohttp.ClientSession() as http, http.post(url, headers=headers, data=message) as response:
        return response.status


def test_body_that_breaks_off_changes_nothing() -> None:
    driver = driver_of()

    async def hang_up(url: str, headers: dict[str, str], message: bytes, _: Any, writer: Any) -> None:
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.1)
        assert driver._store.accepted(Stage.ADVERTISE_KEYS, 2) is None and not driver.faults
        assert await status_of_post(url, headers, message) == 204

    half_sent(driver, hang_up)
    assert driver._store.accepted(Stage.ADVERTISE_KEYS, 2) is not None


def test_one_message_of_a_client_is_read_at_a_time() -> None:
    driver = driver_of()

    async def send_another(url: str, headers: dict[str, str], message: bytes, reader: Any, writer: Any) -> None:
        assert await status_of_post(url, headers, message) == 429
        writer.write(message[-1:])
        assert b" 204 " in await reader.readline()
        assert await status_of_post(url, headers, message) == 204

    half_sent(driver, send_another)


def test_body_that_comes_too_slowly_is_given_up() -> None:
    driver = driver_of()

    async def wait(url: str, headers: dict[str, str], message: bytes, reader: Any, _: Any) -> None:
        assert b" 408 " in await reader.readline()
        assert await status_of_post(url, headers, message) == 204

    half_sent(driver, wait, limits=Limits(silent_seconds=0.2))


def test_server_that_cannot_write_its_state_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(Store, "log", refuse)

    async def session() -> None:
        async with serving(driver_of()) as url:
            with pytest.raises(SecFedError, match=r"within 0\.5 seconds"):
                await joining(url, 2, timeout=0.5)

    with pytest.raises(SecFedError, match="disk full; start the server again"):
        asyncio.run(session())


def test_too_few_clients_are_told_that_the_session_is_over() -> None:
    driver = driver_of(timeouts=0.5)

    async def session() -> list[Any]:
        async with serving(driver) as url:
            return await asyncio.gather(joining(url, 2), joining(url, 3), return_exceptions=True)

    found = asyncio.run(session())
    assert all(isinstance(error, SecFedError) and "TooFewSurvivorsError" in str(error) for error in found)
    assert driver.failure


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "plain HTTP on 0.0.0.0"),
        ({"host": "192.0.2.1"}, "plain HTTP"),
        ({"host": "0.0.0.0", "tls": object()}, "anyone who reaches 0.0.0.0"),
    ],
)
def test_address_that_others_reach_needs_tls_and_a_roster(options: dict[str, Any], message: str) -> None:
    driver = Driver(announced(SEMI_HONEST), Store())
    with pytest.raises(ConfigError, match=message):
        HttpServer(driver, **options)
    HttpServer(driver, **options, insecure=True)


def test_address_that_is_taken_is_named() -> None:
    async def twice() -> None:
        async with serving(driver_of()) as url, serving(driver_of(), port=int(url.rpartition(":")[2])):
            raise AssertionError("the port is taken")

    with pytest.raises(ConfigError, match="cannot be opened"):
        asyncio.run(twice())
