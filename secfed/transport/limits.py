"""Limits of one server, so that neither many clients nor hostile ones exhaust its memory or connections."""

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

RETRY_SECONDS: Final = 1  # how long a client that is turned away should wait
_MOST_ADDRESSES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of an `HttpServer`.

    Args:
        connections: Most open connections; further ones are closed at once. None means three for each client of the
            session, plus 100.
        upload_bytes: Most bytes of messages being read or written to disk, all clients together. Above it a client is
            told to try again later. One message is always accepted, however long.
        idle_seconds: A connection without a complete request header for this long is closed.
        silent_seconds: An upload without a single byte for this long is cut off.
        bytes_per_second: The slowest transfer: after `silent_seconds`, an upload or download that is slower on average
            is cut off.

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
    """There is no space for another upload now."""


class Uploads:
    """The space, in memory or in temporary files, reserved for uploads in progress.

    It is reserved before the body is read, so that an upload that has started can always finish.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._promised = limit, 0

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Reserve space for this many bytes while the body runs.

        Raises:
            FullError: There is no space, and another upload is in progress.
        """
        if self._promised and self._promised + size > self._limit:
            raise FullError
        self._promised += size
        try:
            yield
        finally:
            self._promised -= size


class Rate:
    """How often an address may make requests that need no token.

    Args:
        burst: Requests at once: as many as there are clients, because all may share one address.
        per_second: Requests per second after that.
    """

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._left: dict[str, tuple[float, float]] = {}  # requests left, and when this was computed

    def allows(self, address: str) -> bool:
        """Count one request of an address, and return whether it may be answered."""
        now = time.monotonic()
        if address not in self._left and len(self._left) >= _MOST_ADDRESSES:
            self._left.clear()
        left, since = self._left.get(address, (self._burst, now))
        left = min(left + (now - since) * self._per_second, self._burst)
        self._left[address] = (max(left - 1, 0.0), now)
        return left >= 1


class Connections:
    """Limits the number of open connections, and closes idle ones.

    aiohttp has neither limit: a client that sends half a header would keep its connection forever.

    Args:
        server: The protocols of aiohttp.
        most: Most open connections.
        idle_seconds: How long a connection may be open without a request in progress.
    """

    def __init__(self, server: web.Server, most: int, idle_seconds: float) -> None:
        self._server, self._most, self._idle_seconds = server, most, idle_seconds
        self._busy: dict[Any, int] = {}  # requests in progress
        self.turned_away = 0

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol for a new connection."""
        if len(self._server.connections) >= self._most:
            self.turned_away += 1
            return _Closing()
        return self._server()

    @contextmanager
    def busy(self, protocol: Any) -> Iterator[None]:
        """Mark a connection as busy with a request."""
        self._busy[protocol] = self._busy.get(protocol, 0) + 1
        try:
            yield
        finally:
            self._busy[protocol] -= 1
            if not self._busy[protocol]:
                del self._busy[protocol]

    async def close_idle(self) -> None:
        """Check all connections regularly, and close those that have been idle too long."""
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
