"""A `Driver` behind HTTP: one route announces the session, one takes an answer, one waits for a request.

A client that cannot prove its identity gets 401 before the rest of its message is read.
"""

from __future__ import annotations  # the documentation is built without aiohttp, whose types are then no types

import asyncio
import hmac
import ipaddress
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from secfed.crypto.signing import verify
from secfed.errors import ConfigError, MissingExtraError, SecFedError
from secfed.secagg import Stage
from secfed.staging import Staging
from secfed.transport.driver import Answer, Driver
from secfed.transport.inbox import Inbox
from secfed.transport.limits import RETRY_SECONDS, Connections, FullError, Limits, Rate, Uploads
from secfed.transport.parameters import token

try:
    from aiohttp import web
except ImportError:
    raise MissingExtraError("transport", "aiohttp") from None

POLL_SECONDS: Final = 20.0  # after this long a waiting client asks again
_HANDSHAKE_SECONDS: Final = 10.0  # for TLS
_AFTER_THE_STAGE: Final = 1.0  # how long an upload may outlast its stage, to be told that it is late
_LINGERING_SECONDS: Final = 1.0  # how long to discard the rest of a refused upload before closing
_CHUNK: Final = 1 << 16
_AT_ONCE: Final = 8  # requests looked up at once
_STATUS: Final = {
    Answer.ACCEPTED: 204,
    Answer.REFUSED: 422,
    Answer.CONFLICT: 409,
    Answer.LATE: 410,
    Answer.EARLY: 425,
}
_log = logging.getLogger("secfed.transport")
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine: `localhost`, or an address that never leaves it."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return the TLS settings of a server: TLS 1.3, and this certificate.

    Args:
        certificate: A PEM file with the certificate and the intermediate ones.
        key: A PEM file with its private key.

    Raises:
        ConfigError: A file cannot be read, or the two do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"certificate {certificate} with key {key} cannot be used: {error}") from None
    return context


class HttpServer:
    """One session on one address.

    Args:
        driver: The session.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        tls: TLS settings; None is plain HTTP.
        insecure: Allows two things on addresses that other machines can reach, which are otherwise only for loopback
            addresses: plain HTTP, and sessions without identity keys, in which anyone can act as any client.
        limits: Bounds on connections, memory and slowness.

    Raises:
        ConfigError: Plain HTTP, or no identity keys, on an address that other machines can reach.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        insecure: bool = False,
        limits: Limits | None = None,
    ) -> None:
        if not insecure and not is_loopback(host):
            if tls is None:
                found = f"plain HTTP on {host}, which other machines reach"
                raise ConfigError(f"{found}: needed a certificate and its key, a loopback address, or insecure")
            if driver.directory is None:
                raise ConfigError(
                    f"without a roster anyone who reaches {host} can act as any client: needed a roster, a "
                    "loopback address, or insecure"
                )
        self._driver = driver
        self._host, self._port, self._tls = host, port, tls
        self._known: dict[int, str] = {}  # verified tokens
        self._uploading: set[int] = set()
        self._limits = limits or Limits()
        self._uploads = Uploads(self._limits.upload_bytes)
        clients = len(driver.parameters.config.ids)
        self._rate = Rate(2.0 * clients + 100, clients / 10 + 10)
        self._most = self._limits.connections or 3 * clients + 100
        # The driver has its own thread, so the disk and the end of a stage never block the event loop.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="secfed-driver")
        # When a stage opens, all clients ask at once: serve them in small groups, so that others are answered in
        # between.
        self._asking = asyncio.Semaphore(_AT_ONCE)
        self._inbox = Inbox(lambda messages: self._call(driver.accept_all, messages))
        self._announced = driver.parameters.to_bytes()
        self._changed = asyncio.Event()  # set once a stage has closed, then replaced
        self._answered = asyncio.Event()  # a message came that may end the stage
        self._broken: SecFedError | None = None
        self.url = ""

    async def run(
        self,
        *,
        linger: float = 10.0,
        started: Callable[[str], object] | None = None,
        finished: Callable[[], object] | None = None,
    ) -> None:
        """Serve until the session is over and its clients know.

        Args:
            linger: Seconds to wait, after the end, for clients that have not asked how it ended.
            started: Called with the URL once the address is open.
            finished: Called in a thread when the session is over, before clients are waited for.

        Raises:
            ConfigError: The address cannot be opened.
            SecFedError: The state cannot be written.
        """
        app = web.Application(middlewares=[self._mark_busy])
        app.router.add_get("/v1/session", self._session)
        app.router.add_post("/v1/sessions/{session}/clients/{client}/{stage}", self._post)
        app.router.add_get("/v1/sessions/{session}/clients/{client}/{stage}", self._get)
        runner = web.AppRunner(
            app,
            access_log=None,
            lingering_time=_LINGERING_SECONDS,
            shutdown_timeout=2.0,
            handler_cancellation=True,  # stop when the client is gone
            auto_decompress=False,  # a small body must not become a large one
        )
        await runner.setup()
        assert runner.server is not None
        self._connections = Connections(runner.server, self._most, self._limits.idle_seconds)
        closing = asyncio.create_task(self._connections.close_idle())
        listener: asyncio.Server | None = None
        try:
            try:
                listener = await asyncio.get_running_loop().create_server(
                    self._connections,
                    self._host,
                    self._port,
                    ssl=self._tls,
                    ssl_handshake_timeout=_HANDSHAKE_SECONDS if self._tls else None,
                    backlog=1024,
                )
            except OSError as error:
                raise ConfigError(f"{self._host} port {self._port} cannot be opened: {error.strerror}") from None
            host = f"[{self._host}]" if ":" in self._host else self._host
            self.url = f"{'https' if self._tls else 'http'}://{host}:{listener.sockets[0].getsockname()[1]}"
            _log.info("listening url=%s", self.url, extra={"event": "listening", "url": self.url})
            if started:
                started(self.url)
            await self._close_stages()
            if finished:
                await asyncio.to_thread(finished)
            await self._let_clients_know(linger)
        finally:
            self._wake()
            closing.cancel()
            if listener:
                listener.close()
            await runner.cleanup()
            self._thread.shutdown()
            if turned_away := self._connections.turned_away:
                fields = {"event": "too many", "turned_away": turned_away}
                _log.info("connections beyond %d: %d turned away", self._most, turned_away, extra=fields)

    async def _call(self, function: Callable[_Given, _Found], *given: _Given.args, **named: _Given.kwargs) -> _Found:
        """Run a function of the driver in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *given, **named))

    @web.middleware
    async def _mark_busy(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        with self._connections.busy(request.protocol):
            return await handler(request)

    async def _close_stages(self) -> None:
        while not self._driver.over:
            self._answered.clear()
            if self._broken:
                raise self._broken
            if await self._call(lambda: self._driver.due):
                await self._call(self._driver.close_stage, self._driver.stage)
                self._wake()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._driver.seconds_left, 0)):
                    await self._answered.wait()

    async def _let_clients_know(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._driver.uncollected:
                    self._answered.clear()
                    await self._answered.wait()

    def _wake(self) -> None:
        """Wake all requests that wait for a stage."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _session(self, request: web.Request) -> web.StreamResponse:
        if not self._rate.allows(request.remote or ""):
            return _later("too many requests from this address", request)
        return await self._send(request, self._announced, "application/json")

    def _who(self, request: web.Request) -> tuple[int, Stage]:
        """Return the client and the stage of a request, after the client has proved its identity."""
        if request.match_info["session"] != self._driver.parameters.session.hex():
            raise _refusal(web.HTTPNotFound, request, "this server runs another session")
        try:
            client_id = int(request.match_info["client"])
            self._driver.parameters.config.position(client_id)
        except (ValueError, KeyError):
            raise _refusal(web.HTTPUnauthorized, request, "unknown client") from None
        if self._driver.directory is not None and not self._proved(client_id, request.headers.get("Authorization", "")):
            raise _refusal(web.HTTPUnauthorized, request, "no token of this client")
        try:
            return client_id, Stage[request.match_info["stage"]]
        except KeyError:
            raise _refusal(web.HTTPNotFound, request, "unknown stage") from None

    def _proved(self, client_id: int, header: str) -> bool:
        scheme, _, found = header.partition(" ")
        if scheme != "Bearer" or self._driver.directory is None or not found.isascii():
            return False
        if known := self._known.get(client_id):
            return hmac.compare_digest(known, found)
        parameters = self._driver.parameters
        try:
            signature = bytes.fromhex(found)
        except ValueError:
            return False
        if not verify(
            self._driver.directory[client_id], signature, token(parameters.session, parameters.config, client_id)
        ):
            return False
        self._known[client_id] = found
        return True

    async def _post(self, request: web.Request) -> web.Response:
        client_id, stage = self._who(request)
        limit = await self._call(self._driver.limit, client_id, stage)
        if not limit:
            answer = Answer.EARLY if stage > self._driver.stage else Answer.LATE
            return _plain(_STATUS[answer], f"the session is in stage {self._driver.stage.name}", request)
        if (request.content_length or 0) > limit:
            raise _refusal(web.HTTPRequestEntityTooLarge, request, f"at most {limit} bytes are allowed", limit)
        if client_id in self._uploading:
            return _plain(429, "another message of this client is being read", request)
        self._uploading.add(client_id)
        try:
            with self._uploads.room(request.content_length or limit), closing(Staging()) as staging:
                await self._read(request, limit, staging)
                verdict = await self._inbox.put(client_id, stage, staging.message())
        except FullError:
            return _later("the server reads as many messages as it has room for", request)
        except SecFedError as error:
            self._broken = error
            self._answered.set()
            return _plain(503, "the server cannot write its state")
        finally:
            self._uploading.discard(client_id)
        self._answered.set()
        if verdict.answer is Answer.ACCEPTED:
            return web.Response(status=204)
        return _plain(_STATUS[verdict.answer], verdict.reason)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        client_id, stage = self._who(request)
        try:
            async with asyncio.timeout(POLL_SECONDS):
                body = await self._awaited(client_id, stage)
        except TimeoutError:
            return web.Response(status=204)
        except SecFedError as error:
            return _plain(410, str(error))
        return await self._send(request, body, "application/octet-stream")

    async def _awaited(self, client_id: int, stage: Stage) -> bytes:
        """Wait for a client's request of a stage."""
        while True:
            changed = self._changed
            try:
                async with self._asking:
                    body = await self._call(self._driver.request, client_id, stage)
            finally:
                self._answered.set()
            if body is not None:
                return body
            await changed.wait()

    async def _send(self, request: web.Request, body: bytes, content_type: str) -> web.StreamResponse:
        """Send a body in pieces, each after the previous one has left; a client that is too slow is cut off."""
        response = web.StreamResponse(headers={"Content-Type": content_type})
        response.content_length = len(body)
        try:
            async with asyncio.timeout(self._limits.silent_seconds + len(body) / self._limits.bytes_per_second):
                await response.prepare(request)
                for start in range(0, len(body), _CHUNK):
                    await response.write(body[start : start + _CHUNK])
                await response.write_eof()
        except TimeoutError:
            _log_refusal(200, request, f"took less than {self._limits.bytes_per_second:g} bytes per second")
            if request.transport:
                request.transport.abort()
        return response

    async def _read(self, request: web.Request, limit: int, staging: Staging) -> None:
        """Read a body of at most `limit` bytes; one that is longer, broken or too slow is never delivered."""
        limits, start = self._limits, time.monotonic()
        end_of_stage = start + self._driver.seconds_left + _AFTER_THE_STAGE
        while True:
            now = time.monotonic()
            slowest = start + limits.silent_seconds + staging.size / limits.bytes_per_second
            until = min(now + limits.silent_seconds, slowest, end_of_stage)
            try:
                async with asyncio.timeout(until - now):
                    chunk = await request.content.readany()
            except TimeoutError:
                reason = f"{staging.size} bytes in {time.monotonic() - start:.1f} seconds"
                raise _refusal(web.HTTPRequestTimeout, request, reason) from None
            if not chunk:
                return
            if staging.size + len(chunk) > limit:
                raise _refusal(web.HTTPRequestEntityTooLarge, request, f"at most {limit} bytes are allowed", limit)
            try:
                staging.write(chunk)
            except SecFedError as error:
                _log.warning("%s", error, extra={"event": "no room on the disk"})
                raise FullError from None


def _refusal(kind: Any, request: web.Request, reason: str, limit: int | None = None) -> web.HTTPException:
    _log_refusal(kind.status_code, request, reason)
    refused: web.HTTPException = kind(limit, 0, text=reason) if limit is not None else kind(text=reason)
    refused.force_close()
    return refused


def _plain(status: int, reason: str, request: web.Request | None = None) -> web.Response:
    response = web.Response(status=status, text=reason)
    if request is not None:  # its body was not read
        _log_refusal(status, request, reason)
        response.force_close()
    return response


def _later(reason: str, request: web.Request) -> web.Response:
    """Answer 503: the request may be repeated after some seconds."""
    response = _plain(503, reason, request)
    response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def _log_refusal(status: int, request: web.Request, reason: str) -> None:
    fields = {"event": "turned away", "status": status, "peer": request.remote, "reason": reason}
    _log.info("turned away status=%d peer=%s reason=%s", status, request.remote, reason, extra=fields)
