"""Long answers: sent while they are made, sent again from a file, and stored in parts."""

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from secfed.errors import FaultyServerError, SecFedError
from secfed.secagg import Stage
from secfed.staging import Staging
from secfed.transport import ClientState, Driver, HttpServer, Store, store
from secfed.transport.spool import Spool
from tests.transport.sessions import IDS, assert_mean, client_of, driver_of, joining, serving


class Chunks:
    """An answer of three chunks, each of which is made once."""

    size = 9

    def __init__(self) -> None:
        self.made, self.closed = 0, False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.made += 1
        return bytes([self.made]) * 3

    def close(self) -> None:
        self.closed = True


def test_bytes_that_were_made_once_are_read_again_from_any_place() -> None:
    answer: Any = Chunks()
    with closing(Spool(answer)) as spool:
        assert (spool.read(0), answer.made) == (b"\1\1\1", 1)
        assert spool.read(4) == b"\2\2" and spool.read(1) == b"\1\1\2\2\2"
        assert spool.read(6) == b"\3\3\3" and spool.read(0) == b"\1\1\1\2\2\2\3\3\3"
        assert answer.made == 3


def test_answer_that_the_disk_does_not_take_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, place: int) -> None: ...

        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    answer: Any = Chunks()
    with pytest.raises(SecFedError, match=r"No space left on device; set TMPDIR to a folder with room for 9 bytes"):
        Spool(answer).read(0)
    assert answer.closed


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is a long one, in parts of five bytes."""
    for name in ("secfed.transport.spool.LONG", "secfed.transport.client_state.LONG"):
        monkeypatch.setattr(name, 0)
    for name in ("secfed.transport.store.PART_BYTES", "secfed.transport.client_state.PART_BYTES"):
        monkeypatch.setattr(name, 5)
    monkeypatch.setattr("secfed.transport.spool._MOST", 7)


@pytest.mark.parametrize("with_state", [False, True])
def test_upload_that_breaks_off_is_sent_again_with_the_same_bytes(
    with_state: bool, long: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server cuts the first masked vector of each client after some bytes, and forgets them."""
    seen: dict[str, list[bytes]] = {}
    read = HttpServer._read

    async def cut(server: HttpServer, request: web.Request, limit: int, staging: Staging) -> None:
        name = request.match_info["client"]
        if request.match_info["stage"] != "MASKED_INPUT_COLLECTION" or name in seen:
            await read(server, request, limit, staging)
            if request.match_info["stage"] == "MASKED_INPUT_COLLECTION":
                seen[name].append(bytes(staging.message()))
            return
        seen[name] = [await request.content.readexactly(10)]
        assert request.content_length and request.transport
        request.transport.abort()
        raise ConnectionError

    monkeypatch.setattr(HttpServer, "_read", cut)
    driver = driver_of()
    states = [ClientState(tmp_path / f"{each}.db") if with_state else None for each in IDS]

    async def session() -> None:
        async with serving(driver) as url:
            await asyncio.gather(*(joining(url, each, state=state) for each, state in zip(IDS, states, strict=True)))

    asyncio.run(session())
    assert_mean(driver, IDS)
    assert len(seen) == len(IDS)
    for first, *whole in seen.values():
        assert [each[:10] for each in whole] == [first]
    for state in states:
        if state:
            state.close()


def test_client_killed_in_a_long_upload_sends_the_same_bytes(
    long: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests: list[bytes] = []
    read = HttpServer._read

    async def note(server: HttpServer, request: web.Request, limit: int, staging: Staging) -> None:
        await read(server, request, limit, staging)
        if (request.match_info["stage"], request.match_info["client"]) == ("MASKED_INPUT_COLLECTION", "5"):
            digests.append(hashlib.sha256(bytes(staging.message())).digest())
            if len(digests) == 1:
                first.cancel()
                raise web.HTTPServiceUnavailable

    monkeypatch.setattr(HttpServer, "_read", note)
    driver, path = driver_of(), tmp_path / "client.db"

    async def session() -> None:
        nonlocal first
        async with serving(driver) as url:
            others = [asyncio.create_task(joining(url, each)) for each in IDS if each != 5]
            with closing(ClientState(path)) as state:
                first = asyncio.create_task(joining(url, 5, state=state))
                with pytest.raises(asyncio.CancelledError):
                    await first
            with closing(ClientState(path)) as state:
                await joining(url, 5, state=state)
            await asyncio.gather(*others)

    first: asyncio.Task[Any]
    asyncio.run(session())
    assert_mean(driver, IDS)
    assert len(digests) == 2 and digests[0] == digests[1]


@pytest.mark.parametrize("size", [0, 1, 4, 5, 6, 10, 23])
@pytest.mark.parametrize("chunk", [1, 3, 5, 12])
def test_bytes_in_parts_are_the_bytes_that_were_written(
    size: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PART_BYTES", 5)
    data = bytes(range(size))
    database = store.open_private(None, store._TABLES, store._LAYOUT)
    for owner in (1, 2, 1):
        store.write_parts(database, owner, [data[start : start + chunk] for start in range(0, size, chunk)])
    parts = list(store.read_parts(database, 1))
    assert b"".join(parts) == data and all(len(part) == 5 for part in parts[:-1])
    database.close()


def test_masked_vector_is_read_back_in_parts_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server in memory and the one from the disk end with one sum; no part is larger than it should be."""
    monkeypatch.setattr(store, "PART_BYTES", 64)
    path = tmp_path / "state.db"
    kept = Store(path)
    driver = driver_of(kept)
    clients = {each: client_of(driver, each) for each in IDS}
    for stage in (each for each in Stage if each < Stage.DONE):
        for each, client in clients.items():
            request = driver.request(each, stage)
            assert request
            message = np.frombuffer(client.receive(request), np.uint8).data
            assert driver.accept(each, stage, message).answer.value == "accepted"
        kept.close()
        kept = Store(path)
        driver = driver_of(kept)
        assert kept._database.execute("SELECT max(length(body)) FROM parts").fetchone()[0] <= 64
        driver.close_stage(stage)
    assert_mean(driver, IDS)
    kept.close()


def test_client_leaves_a_server_that_accepts_half_an_answer(long: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(link: Any, stage: Stage, message: Any) -> None:
        assert stage is Stage.ADVERTISE_KEYS and message.size > 0  # and nothing is read: nothing was made

    async def session() -> None:
        async with serving(driver_of()) as url:
            await joining(url, 2)

    monkeypatch.setattr("secfed.transport.client._Link.answer", answer)
    with pytest.raises(FaultyServerError, match="accepted the answer to ADVERTISE_KEYS before it was whole"):
        asyncio.run(session())


def test_messages_kept_in_files_make_the_same_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secfed.staging.LONG", 8)
    for kept in (None, Store(tmp_path / "state.db")):
        driver = driver_of(kept)

        async def session(driver: Driver = driver) -> None:
            async with serving(driver) as url:
                await asyncio.gather(*(joining(url, each) for each in IDS))

        asyncio.run(session())
        assert_mean(driver, IDS)


def test_client_whose_message_finds_no_room_on_the_disk_sends_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    write, failures = Staging.write, [OSError(28, "No space left on device")] * 3

    def full(staging: Staging, chunk: bytes) -> None:
        if failures:
            with staging._written():
                raise failures.pop()
        write(staging, chunk)

    monkeypatch.setattr(Staging, "write", full)
    driver = driver_of()

    async def session() -> None:
        async with serving(driver) as url:
            await asyncio.gather(*(joining(url, each) for each in IDS))

    asyncio.run(session())
    assert_mean(driver, IDS)
    assert not failures


def test_message_that_cannot_be_read_back_stops_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the disk is the session without that message: a server that starts again takes it."""
    monkeypatch.setattr("secfed.staging.LONG", 8)
    kept = Store(tmp_path / "state.db")
    driver = driver_of(kept)
    clients = {each: client_of(driver, each) for each in IDS}
    for stage in (Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS):
        for each, client in clients.items():
            driver.accept(each, stage, client.receive(driver.request(each, stage) or b""))
        driver.close_stage(stage)
    stage = Stage.MASKED_INPUT_COLLECTION
    messages = {each: client.receive(driver.request(each, stage) or b"") for each, client in clients.items()}
    driver.accept(2, stage, messages[2])
    staging = Staging()
    staging.write(messages[5])
    whole = staging.message()
    staging._file.truncate(len(whole) - 4)
    with pytest.raises(SecFedError, match="start the server again"):
        driver.accept(5, stage, whole)
    kept.close()
    driver = driver_of(kept := Store(tmp_path / "state.db"))
    for each, message in messages.items():
        assert driver.accept(each, stage, message).answer.value == "accepted"
    driver.close_stage(stage)
    while not driver.over:
        for each, client in clients.items():
            driver.accept(each, driver.stage, client.receive(driver.request(each, driver.stage) or b""))
        driver.close_stage(driver.stage)
    assert_mean(driver, IDS)
    kept.close()
