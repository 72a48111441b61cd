"""A `Driver` behind HTTP: one route that announces the session, one to send an answer, one to wait for a request.

A client that is not who it says it is gets 401 before anything else of its message is read.
"""

from __future__ import annotations  # the documentation is built without aiohttp, whose types are then no types

import asyncio
import hmac
import ipaddress
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from secfed.crypto.signing import verify
from secfed.errors import ConfigError, MissingExtraError, SecFedError
from secfed.secagg import Stage
from secfed.transport.driver import Answer, Driver
from secfed.transport.parameters import token

try:
    from aiohttp import web
except ImportError:
    raise MissingExtraError("transport", "aiohttp") from None

POLL_SECONDS: Final = 20.0  # a client that waits longer for a request asks again
SILENT_SECONDS: Final = 30.0  # an upload without a single byte for so long is broken off
_LINGERING_SECONDS: Final = 1.0  # how long the rest of a refused upload is thrown away before the connection closes
_CHUNK: Final = 1 << 16
_STATUS: Final = {
    Answer.ACCEPTED: 204,
    Answer.REFUSED: 422,
    Answer.CONFLICT: 409,
    Answer.LATE: 410,
    Answer.EARLY: 425,
}
_log = logging.getLogger("secfed.transport")


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine: `localhost`, or an address that never leaves it."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return the TLS settings of a server: TLS 1.3, and this certificate.

    Args:
        certificate: A PEM file with the certificate and those between it and the authority's.
        key: A PEM file with its private key.

    Raises:
        ConfigError: A file cannot be read, or the two do not fit.
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
        insecure: Allows, on addresses that other machines reach, what is otherwise for loopback addresses only: plain
            HTTP, and sessions without identity keys, in which anybody can speak for any client.

    Raises:
        ConfigError: Plain HTTP, or no identity keys, on an address that other machines reach.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        insecure: bool = False,
    ) -> None:
        if not insecure and not is_loopback(host):
            if tls is None:
                found = f"plain HTTP on {host}, which other machines reach"
                raise ConfigError(f"{found}: needed a certificate and its key, a loopback address, or insecure")
            if driver.directory is None:
                raise ConfigError(
                    f"without a roster anybody who reaches {host} can speak for any client: needed a roster, a "
                    "loopback address, or insecure"
                )
        self._driver = driver
        self._host, self._port, self._tls = host, port, tls
        self._known: dict[int, str] = {}  # tokens that were verified
        self._uploading: set[int] = set()
        self._announced = driver.parameters.to_bytes()
        self._changed = asyncio.Event()  # set once a stage has closed, then replaced
        self._answered = asyncio.Event()  # something came that may end the stage
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
        app = web.Application()
        app.router.add_get("/v1/session", self._session)
        app.router.add_post("/v1/sessions/{session}/clients/{client}/{stage}", self._post)
        app.router.add_get("/v1/sessions/{session}/clients/{client}/{stage}", self._get)
        runner = web.AppRunner(app, access_log=None, lingering_time=_LINGERING_SECONDS, shutdown_timeout=2.0)
        await runner.setup()
        try:
            try:
                site = web.TCPSite(runner, self._host, self._port, ssl_context=self._tls)
                await site.start()
            except OSError as error:
                raise ConfigError(f"{self._host} port {self._port} cannot be opened: {error.strerror}") from None
            host = f"[{self._host}]" if ":" in self._host else self._host
            self.url = f"{'https' if self._tls else 'http'}://{host}:{runner.addresses[0][1]}"
            _log.info("listening url=%s", self.url, extra={"event": "listening", "url": self.url})
            if started:
                started(self.url)
            await self._close_stages()
            if finished:
                await asyncio.to_thread(finished)
            await self._let_clients_know(linger)
        finally:
            self._wake()
            await runner.cleanup()

    async def _close_stages(self) -> None:
        while not self._driver.over:
            self._answered.clear()
            if self._broken:
                raise self._broken
            if await asyncio.to_thread(lambda: self._driver.due):
                await asyncio.to_thread(self._driver.close_stage, self._driver.stage)
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
        """Let everybody who waits for a stage look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _session(self, request: web.Request) -> web.Response:
        return web.Response(body=self._announced, content_type="application/json")

    def _who(self, request: web.Request) -> tuple[int, Stage]:
        """Return who asks about which stage, once it has proved to be that client."""
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
        limit = await asyncio.to_thread(self._driver.limit, client_id, stage)  # a closing stage holds the driver
        if not limit:
            answer = Answer.EARLY if stage > self._driver.stage else Answer.LATE
            return _plain(_STATUS[answer], f"the session is in stage {self._driver.stage.name}", request)
        if client_id in self._uploading:
            return _plain(429, "another message of this client is being read", request)
        self._uploading.add(client_id)
        try:
            message = await _read(request, limit)
            verdict = await asyncio.to_thread(self._driver.accept, client_id, stage, message)
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

    async def _get(self, request: web.Request) -> web.Response:
        client_id, stage = self._who(request)
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                while True:
                    changed = self._changed
                    try:
                        body = await asyncio.to_thread(self._driver.request, client_id, stage)
                    except SecFedError as error:
                        return _plain(410, str(error))
                    finally:
                        self._answered.set()
                    if body is not None:
                        return web.Response(body=body, content_type="application/octet-stream")
                    await changed.wait()
        return web.Response(status=204)


async def _read(request: web.Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes; a longer or broken one is never delivered."""
    if (request.content_length or 0) > limit:
        raise _refusal(web.HTTPRequestEntityTooLarge, request, f"at most {limit} bytes are allowed", limit)
    body = bytearray()
    try:
        while True:
            async with asyncio.timeout(SILENT_SECONDS):
                chunk = await request.content.readany()
            if not chunk:
                break
            if len(body) + len(chunk) > limit:
                raise _refusal(web.HTTPRequestEntityTooLarge, request, f"at most {limit} bytes are allowed", limit)
            body += chunk
    except TimeoutError:
        raise _refusal(web.HTTPRequestTimeout, request, f"no byte for {SILENT_SECONDS:g} seconds") from None
    return bytes(body)


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


def _log_refusal(status: int, request: web.Request, reason: str) -> None:
    fields = {"event": "turned away", "status": status, "peer": request.remote, "reason": reason}
    _log.info("turned away status=%d peer=%s reason=%s", status, request.remote, reason, extra=fields)
