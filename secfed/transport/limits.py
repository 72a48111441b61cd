"""What one server takes on at a time: neither many clients nor hostile ones use up its memory or its connections."""

from __future__ import annotations  # the documentation is built without aiohttp, whose types are then no types

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from secfed.errors import ConfigError

if TYPE_CHECKING:
    from aiohttp import web

RETRY_SECONDS: Final = 1  # what a client that is turned away is told to wait
_MOST_ADDRESSES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a `HttpServer` takes on.

    Args:
        connections: Most open connections; more are closed as soon as they are made. None takes three for each client
            of the session, and 100.
        upload_bytes: Most bytes of messages that are being read or written to the disk, all clients together. Beyond
            it a client is told to try again later. One message is always taken, however long.
        idle_seconds: A connection that has not sent a whole request header for so long is closed.
        silent_seconds: An upload without a single byte for so long is broken off.
        bytes_per_second: The slowest transfer: after `silent_seconds`, an upload or download that has been slower on
            average is broken off.

    Raises:
        ConfigError: A bound is not positive.
    """

    connections: int | None = None
    upload_bytes: int = 1 << 28
    idle_seconds: float = 20.0
    silent_seconds: float = 30.0
    bytes_per_second: float = 1024.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if (bound := getattr(self, name)) is not None and not bound > 0:
                raise ConfigError(f"the limit {name} is {bound}, needed a positive number")


class FullError(Exception):
    """There is no room for another upload now."""


class Uploads:
    """The room, in memory or in temporary files, that uploads in progress have been promised.

    It is promised before the body is read, so that an upload that has begun can always end.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._promised = limit, 0

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Keep room for this many bytes while the body runs.

        Raises:
            FullError: There is no room, and another upload is in progress.
        """
        if self._promised and self._promised + size > self._limit:
            raise FullError
        self._promised += size
        try:
            yield
        finally:
            self._promised -= size


class Rate:
    """How often an address may ask for what needs no token.

    Args:
        burst: Requests at once: as many as there are clients, who may all share one address.
        per_second: Requests per second after that.
    """

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._left: dict[str, tuple[float, float]] = {}  # requests left, and when that was

    def allows(self, address: str) -> bool:
        """Count one request of an address, and tell whether it may be answered."""
        now = time.monotonic()
        if address not in self._left and len(self._left) >= _MOST_ADDRESSES:
            self._left.clear()
        left, since = self._left.get(address, (self._burst, now))
        left = min(left + (now - since) * self._per_second, self._burst)
        self._left[address] = (max(left - 1, 0.0), now)
        return left >= 1


class Connections:
    """The open connections: not too many, and none that neither asks nor awaits anything.

    aiohttp has neither bound: a client that sends half a header keeps its connection forever.

    Args:
        server: The protocols of aiohttp.
        most: Most open connections.
        idle_seconds: How long one may be open without a request in progress.
    """

    def __init__(self, server: web.Server, most: int, idle_seconds: float) -> None:
        self._server, self._most, self._idle_seconds = server, most, idle_seconds
        self._busy: dict[Any, int] = {}  # requests in progress
        self.turned_away = 0

    def __call__(self) -> asyncio.Protocol:
        """Return what speaks with a new connection."""
        if len(self._server.connections) >= self._most:
            self.turned_away += 1
            return _Closing()
        return self._server()

    @contextmanager
    def busy(self, protocol: Any) -> Iterator[None]:
        """Mark a connection as one with a request in progress."""
        self._busy[protocol] = self._busy.get(protocol, 0) + 1
        try:
            yield
        finally:
            self._busy[protocol] -= 1
            if not self._busy[protocol]:
                del self._busy[protocol]

    async def close_idle(self) -> None:
        """Look at all connections again and again, and close those that have been idle for too long."""
        since: dict[Any, float] = {}
        while True:
            await asyncio.sleep(min(1.0, self._idle_seconds / 4))
            now = time.monotonic()
            idle = [each for each in self._server.connections if each not in self._busy]
            since = {each: since.get(each, now) for each in idle}
            for protocol, start in since.items():
                if now - start > self._idle_seconds:
                    protocol.force_close()


class _Closing(asyncio.Protocol):
    """A connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
