"""The clients of the load test: many of them in one process, some of which vanish, dawdle or send everything twice.

They are real clients (`secfed.transport.join`). What is changed is only how they send their answers, and that the
vector of each is written to a file, so that the test can add them up. `transport_load` starts this module.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from secfed.errors import SecFedError
from secfed.secagg import Client, Policy, SigningKey, Stage
from secfed.transport import Joined, Terms, client
from secfed.transport.client import join

SLOW_BYTES_PER_SECOND = 4


class VanishedError(Exception):
    """A client is gone, as the test wanted it."""


def key_of(client_id: int) -> SigningKey:
    """Return the identity key of a client of the test."""
    return SigningKey(client_id.to_bytes(32, "little"))


def update_of(client_id: int, entries: int) -> dict[str, Any]:
    """Return the update of a client of the test: one array of shape `(entries,)`."""
    return {"w": np.random.default_rng(client_id).uniform(-4, 4, entries).astype(np.float32)}


def vectors_of(folder: Path, plan: dict[str, Any], mode: Any) -> Any:
    """Open the file with a row for the vector of each client, in the order of ids."""
    shape = (plan["clients"], plan["entries"] + 1)
    return np.memmap(folder / "vectors", plan["dtype"], mode, shape=shape)


async def raw(url: str, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send these bytes, which need not be HTTP."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(data)
    await writer.drain()
    return reader, writer


class Crowd:
    """The clients of one process and what became of them."""

    def __init__(self, folder: Path, first: int, last: int) -> None:
        self.plan = json.loads((folder / "plan.json").read_text())
        self.ids = range(first, last + 1)
        self.vectors = vectors_of(folder, self.plan, "r+")
        self.behavior = {int(key): tuple(value) for key, value in self.plan["behavior"].items()}
        self.acknowledged: list[int] = []  # their masked input got a 2xx
        self.survivors: dict[int, list[int]] = {}
        self.failed: dict[int, str] = {}
        self.latencies: list[float] = []
        self.chance = Random(first)

    async def run(self) -> None:
        """Let all of them join, with strangers in between, until the last is done or gone."""
        self._replace_parts()
        strangers = [asyncio.create_task(self._stranger()) for _ in range(self.plan["strangers"])]
        probe = asyncio.create_task(self._probe())
        await asyncio.gather(*map(self._one, self.ids))
        for task in (*strangers, probe):
            task.cancel()
        await asyncio.gather(*strangers, probe, return_exceptions=True)

    def _replace_parts(self) -> None:
        """Put in place of `join`'s parts those that record vectors and send badly."""
        crowd = self

        class Recorded(Client):
            def __init__(self, config: Any, client_id: int, vector: Any, **options: Any) -> None:
                crowd.vectors[config.position(client_id)] = vector
                super().__init__(config, client_id, vector, threads=1, **options)

        class Link(client._Link):
            async def answer(self, stage: Stage, message: bytes) -> None:
                await crowd.send(self, stage, message, super().answer)

        client.Client, client._Link = Recorded, Link  # type: ignore[misc]

    async def send(self, link: Any, stage: Stage, message: bytes, properly: Callable[..., Any]) -> None:
        """Send an answer as the plan has it for this client."""
        client_id = int(link.base.rpartition("/")[2])
        how, where = self.behavior.get(client_id, ("well", ""))
        if where == stage.name:
            if how in ("half", "slow"):
                await self._send_badly(link, stage, message, how)
            elif how == "after":
                await properly(stage, message)
                self._note(client_id, stage)
            raise VanishedError
        if how == "twice":
            await asyncio.gather(properly(stage, message), properly(stage, message))
        else:
            await properly(stage, message)
        self._note(client_id, stage)

    def _note(self, client_id: int, stage: Stage) -> None:
        if stage is Stage.MASKED_INPUT_COLLECTION:
            self.acknowledged.append(client_id)

    async def _send_badly(self, link: Any, stage: Stage, message: bytes, how: str) -> None:
        """Send half of a message and hang up, or so slowly that it never ends."""
        path = urlsplit(link.base).path
        lines = [f"POST {path}/{stage.name} HTTP/1.1", "Host: test", f"Content-Length: {len(message)}"]
        lines += [f"{name}: {value}" for name, value in link.headers.items()]
        with suppress(OSError):
            reader, writer = await raw(link.base, ("\r\n".join(lines) + "\r\n\r\n").encode())
            half = len(message) // 2
            if how == "half":
                writer.write(message[:half])
                await writer.drain()
                await asyncio.sleep(self.chance.random())
            else:
                ended = asyncio.create_task(reader.read())
                for start in range(0, half, SLOW_BYTES_PER_SECOND):
                    writer.write(message[start : start + SLOW_BYTES_PER_SECOND])
                    await asyncio.wait([ended], timeout=1.0)
                    if ended.done():
                        break
                ended.cancel()
            writer.transport.abort()

    async def _one(self, client_id: int) -> None:
        malicious = self.plan["adversary"] == "malicious_server"
        roster = None
        if malicious:
            roster = self._roster()
        terms = Terms(Policy(adversary=self.plan["adversary"]), roster)
        await asyncio.sleep(self.chance.random() * self.plan["arrive"])
        try:
            joined: Joined = await join(
                self.plan["url"],
                client_id,
                update_of(client_id, self.plan["entries"]),
                terms=terms,
                signing_key=key_of(client_id) if malicious else None,
            )
            self.survivors[client_id] = list(joined.survivors)
        except VanishedError:
            pass
        except SecFedError as error:
            self.failed[client_id] = f"{type(error).__name__}: {error}"

    def _roster(self) -> dict[int, bytes]:
        if not hasattr(self, "_keys"):
            self._keys = {int(key): bytes.fromhex(value) for key, value in self.plan["roster"].items()}
        return self._keys

    async def _probe(self) -> None:
        """Ask for the session's parameters now and then: how long does a small request take?"""
        limits = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=limits) as http:
            while True:
                start = time.monotonic()
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with http.get(self.plan["url"] + "/v1/session") as response:
                        await response.read()
                        if response.status == 200:
                            self.latencies.append(time.monotonic() - start)
                await asyncio.sleep(0.25)

    async def _stranger(self) -> None:
        """Bother the server without being in the session, again and again."""
        url = self.plan["url"]
        tricks: list[Callable[[aiohttp.ClientSession], Coroutine[Any, Any, object]]] = [
            lambda http: self._ask(http, "GET", f"{url}/v1/session"),
            lambda http: self._ask(http, "POST", f"{url}/v1/sessions/{'00' * 32}/clients/1/SHARE_KEYS", bytes(100_000)),
            lambda http: self._ask(http, "GET", f"{url}/{self.chance.random()}"),
            lambda http: self._hold(b"POST /v1/session HTTP/1.1\r\nHost: t\r\nX-Sl"),  # headers that never end
            lambda http: self._hold(b""),
            lambda http: self._hold(self.chance.randbytes(500)),
            lambda http: self._hold(b"GET /v1/session HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 100_000),
        ]
        if self.plan["adversary"] == "malicious_server":
            tricks.append(lambda http: self._pose(http))
        async with aiohttp.ClientSession() as http:
            while True:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    await self.chance.choice(tricks)(http)
                await asyncio.sleep(self.chance.random())

    async def _ask(
        self, http: aiohttp.ClientSession, method: str, url: str, body: bytes = b"", **headers: str
    ) -> bytes:
        async with http.request(method, url, data=body or None, headers=headers) as response:
            return await response.read()

    async def _hold(self, data: bytes) -> None:
        reader, writer = await raw(self.plan["url"], data)
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(), 20 * self.chance.random())
        writer.transport.abort()

    async def _pose(self, http: aiohttp.ClientSession) -> None:
        """Speak for a client of the session, with a token that is none."""
        name = json.loads(await self._ask(http, "GET", self.plan["url"] + "/v1/session"))["session"]
        stage, who = self.chance.choice(list(Stage)).name, self.chance.choice(self.ids)
        url = f"{self.plan['url']}/v1/sessions/{name}/clients/{who}/{stage}"
        await self._ask(http, "POST", url, bytes(1000), Authorization="Bearer " + self.chance.randbytes(64).hex())


def main(folder: Path, first: int, last: int) -> None:
    """Run the clients with ids from `first` to `last`, and leave a report in the folder."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard) if hard > soft else (soft, hard))
    crowd = Crowd(folder, first, last)
    asyncio.run(crowd.run())
    crowd.vectors.flush()
    found = {
        "acknowledged": crowd.acknowledged,
        "survivors": crowd.survivors,
        "failed": crowd.failed,
        "latencies": crowd.latencies,
        "cpu": time.process_time(),
    }
    (folder / f"clients-{first}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
