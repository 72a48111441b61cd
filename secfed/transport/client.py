"""One client's side of a session over HTTP: it asks, answers, and asks again until the session is done.

The client does not depend on a connection: if one breaks, or the server restarts, it sends the same bytes again. The
server accepts the same bytes any number of times.
"""

from __future__ import annotations  # the documentation is built without aiohttp, whose types are then no types

import asyncio
import hashlib
import io
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from secfed.crypto.entropy import SystemEntropy
from secfed.encoding.flatten import Update
from secfed.errors import ConfigError, FaultyServerError, MissingExtraError, SecFedError
from secfed.secagg import Abort, Answer, Client, Config, SigningKey, Stage
from secfed.secagg.messages import MAXIMUM_REASON
from secfed.secagg.stages import longest_request
from secfed.transport import spool
from secfed.transport.client_state import Answered, ClientState, Record, SavedAnswer, update_digest
from secfed.transport.http_server import POLL_SECONDS, is_loopback
from secfed.transport.parameters import MAXIMUM_BYTES, SessionParameters, Terms, bearer
from secfed.wire import kind_of

try:
    import aiohttp
except ImportError:
    raise MissingExtraError("transport", "aiohttp") from None

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 3.0
_LONGEST_WISH: Final = 60.0  # most that a server may tell a client to wait
_IDLE_SECONDS: Final = 5.0  # less than a server keeps an idle connection
_ANSWER_SECONDS: Final = POLL_SECONDS + 40.0  # after this long without a byte from the server, the connection is cut
_CHUNK: Final = 1 << 16
_TRY_AGAIN: Final = (408, 425, 429, 500, 502, 503, 504)
_log = logging.getLogger("secfed.transport")
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Joined:
    """The result of a session for one client.

    Attributes:
        survivors: Ids of the clients in the sum, as this client helped to unmask it.
        bytes_up: Bytes of the messages that it sent, each counted once.
        bytes_down: Bytes of the messages that it received, each counted once.
    """

    survivors: tuple[int, ...]
    bytes_up: int
    bytes_down: int


def client_context(authority: str | None = None) -> ssl.SSLContext:
    """Return the TLS settings of a client: TLS 1.3, with a server certificate signed by an authority.

    Args:
        authority: A PEM file with the only trusted authority, which may be the server's own certificate. None trusts
            the system's authorities.

    Raises:
        ConfigError: The file cannot be read or holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the authority's certificate {authority} cannot be used: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _check_identity(client_id: int, key: SigningKey, roster: Mapping[int, bytes]) -> None:
    """Check that the key is the client's in the roster, before contacting the server."""
    if client_id not in roster:
        raise ConfigError(f"client {client_id} is not among the {len(roster)} clients of the roster")
    if key.public_bytes != roster[client_id]:
        owner = next((other for other, public in roster.items() if public == key.public_bytes), None)
        whose = "of no client of the roster" if owner is None else f"that of client {owner}"
        raise ConfigError(f"the identity key is {whose}, needed that of client {client_id}")


async def join(
    url: str,
    client_id: int,
    update: Update,
    *,
    weight: int = 1,
    terms: Terms | None = None,
    signing_key: SigningKey | None = None,
    tls: ssl.SSLContext | None = None,
    insecure: bool = False,
    timeout: float = 600.0,
    state: ClientState | None = None,
    record: Record | None = None,
) -> Joined:
    """Take part in one session, to its end.

    Args:
        url: Where the server listens, such as `"https://host:8443"`.
        client_id: This client's id in the session.
        update: Array, or list or dictionary of arrays, of any float dtype, with the names and shapes that the server
            announces.
        weight: Whole number from 1 to the session's largest weight.
        terms: What this client requires.
        signing_key: Its identity key (with a roster in `terms`).
        tls: TLS settings; by default with the system's authorities.
        insecure: Allows plain HTTP to other machines.
        timeout: Seconds that the client waits for the server in each stage, even if the server cannot be reached.
        state: Keeps the client's part of the session. After a kill, the same call with the same state continues.
        record: Keeps which session each update went to; an update that went to another one is refused.

    Returns:
        Who is in the sum, and the bytes of the messages.

    Raises:
        ConfigError: The URL, the identity or the timeout cannot be used, the client is not in the session, the state
            belongs to something else, or the update went to another session.
        EncodingError: The update or the weight does not fit the session; nothing has been sent.
        FaultyServerError: The server's parameters or messages are not acceptable; the client has erased its secrets.
        MalformedMessageError: The server sent bytes that are not a valid message.
        SecFedError: The server could not be reached in time, continued without this client or ended the session.

    Security:
        The client checks everything that the server announces: see `Terms`. Give an update to only one session: two
        sums with the same update and different survivors reveal their difference.
    """
    if not 0 < timeout < float("inf"):
        raise ConfigError(f"the timeout is {timeout} seconds, needed a positive finite number")
    terms = terms or Terms()
    if (terms.roster is None) != (signing_key is None):
        raise ConfigError("a roster and an identity key belong together: found one of them")
    if terms.roster is not None and signing_key is not None:
        _check_identity(client_id, signing_key, terms.roster)
    if state:
        state.refuse_if_over()
    base = _checked(url, insecure)
    limits = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_ANSWER_SECONDS)
    connector = aiohttp.TCPConnector(
        ssl=tls or (client_context() if base.startswith("https") else True), limit=2, keepalive_timeout=_IDLE_SECONDS
    )
    # No redirects, proxies or compression: the token goes only to this address, and bodies are as long as they look.
    async with aiohttp.ClientSession(connector=connector, timeout=limits, auto_decompress=False) as http:
        link = _Link(http, base, timeout)
        announced = await link.parameters()
        found = SessionParameters.from_bytes(announced)
        transform = terms.agree(found, client_id, update, weight)
        digest = update_digest(update) if state or record else b""
        if record:
            record.check(digest, found.session)
        if signing_key:
            link.headers = {"Authorization": f"Bearer {bearer(signing_key, found, client_id)}"}
        link.base = f"{base}/v1/sessions/{found.session.hex()}/clients/{client_id}"
        purpose = hashlib.sha256(announced + digest + f"{client_id} {weight}".encode()).digest()
        last = state.begin(purpose) if state else None
        identity: dict[str, Any] = {
            "policy": terms.session_policy(transform),
            "signing_key": signing_key,
            "directory": terms.roster,
        }
        client = None
        if last is None:
            client = Client(found.config, client_id, transform.encode(update, weight), copy=False, **identity)
        elif last.snapshot:
            client = Client.from_bytes(last.snapshot, **identity)
            last = replace(last, snapshot=b"")
        del update, transform  # the vector exists: free the rest of a large model
        give = partial(record.add, digest, found.session, found.config.round) if record else None
        return await _session(client, link, found.config, last, state, give)


async def _session(
    client: Client | None,
    link: _Link,
    config: Config,
    last: Answered | None,
    state: ClientState | None,
    give: Callable[[], None] | None,
) -> Joined:
    """Answer every stage and wait for the end.

    Args:
        client: None if its last answer is in `last`.
        link: The server.
        config: The session's parameters.
        last: The answer on disk, which may not have been sent yet.
        state: Where answers are written before they are sent.
        give: Called before the first message that depends on the update is sent.
    """
    if last:
        _log.info("resume stage=%s", last.stage.name, extra={"event": "resume", "stage": last.stage.name})
        assert not isinstance(last.message, Answer)  # an answer read from disk is complete
        await link.answer(last.stage, last.message)
    while client and (stage := client.stage) is not Stage.DONE:
        request = await link.request(stage, longest_request(stage, config))
        try:
            answer = await asyncio.to_thread(client.receive_chunks, request)
            if answer.size and give and stage is Stage.MASKED_INPUT_COLLECTION:
                give()
            message: bytes | Answer = answer
            if answer.size <= spool.LONG:
                message = await asyncio.to_thread(b"".join, answer)
        except SecFedError as error:
            _end(state, f"the client left in {stage.name}")
            await link.leave(stage, client.abort(getattr(error, "check", "") or "left"))
            raise
        if not answer.size:
            _end(state, f"the server ended it in {stage.name}")
            raise SecFedError(f"the server ended the session in {stage.name}: {_reason(request)}")
        up, down = (last.bytes_up, last.bytes_down) if last else (0, 0)
        snapshot = client.to_bytes() if state and stage is not Stage.UNMASKING else b""
        last = Answered(stage, message, snapshot, client.survivors, up + answer.size, down + len(request))
        with ExitStack() as files:
            if state:
                await link.answer(stage, await asyncio.to_thread(state.save, last))
            elif isinstance(message, Answer):
                await link.answer(stage, files.enter_context(closing(spool.Spool(message))))
            else:
                await link.answer(stage, message)
        last = replace(last, message=b"", snapshot=b"")
        if client.stage is Stage.ABORTED:
            raise FaultyServerError(f"the server accepted the answer to {stage.name} before it was whole", "")
        _log.info("answered stage=%s bytes=%d", stage.name, answer.size, extra={"event": "answered"})
    assert last is not None  # a session has stages
    end = await link.request(Stage.DONE, Abort.size(MAXIMUM_REASON))
    _end(state, "the server ended it without a sum" if end else "done")
    if end:
        raise SecFedError(f"the server ended the session without a sum: {_reason(end)}")
    return Joined(last.survivors, last.bytes_up, last.bytes_down)


def _end(state: ClientState | None, how: str) -> None:
    if state:
        state.end(how)


def _reason(message: bytes) -> str:
    if kind_of(message) != Abort.kind:
        raise FaultyServerError("the server sent a message after the last one", "C2")
    return Abort.from_bytes(message).text()


class _Link:
    """Requests to one server, repeated until they are answered or the stage's time is up."""

    def __init__(self, http: aiohttp.ClientSession, base: str, timeout: float) -> None:
        self._http, self.base, self._timeout = http, base, timeout
        self.headers: dict[str, str] = {}

    async def parameters(self) -> bytes:
        async def once() -> bytes | None:
            async with self._http.get(f"{self.base}/v1/session", allow_redirects=False) as response:
                return await _body(response, MAXIMUM_BYTES)

        return await self._until("the session's parameters", once)

    async def request(self, stage: Stage, limit: int) -> bytes:
        async def once() -> bytes | None:
            url = f"{self.base}/{stage.name}"
            async with self._http.get(url, headers=self.headers, allow_redirects=False) as response:
                return await _body(response, limit)

        return await self._until(f"the request of {stage.name}", once)

    async def answer(self, stage: Stage, message: bytes | spool.Spool | SavedAnswer) -> None:
        size = len(message) if isinstance(message, bytes) else message.size
        headers = {**self.headers, "Content-Length": str(size)}
        failed: list[SecFedError] = []

        async def pieces() -> AsyncIterator[bytes]:
            assert not isinstance(message, bytes)
            start = 0
            while start < size:
                try:
                    piece = await asyncio.to_thread(message.read, start)
                except SecFedError as error:  # aiohttp would treat it as a broken connection
                    failed.append(error)
                    raise
                yield piece
                start += len(piece)

        async def once() -> bool | None:
            url = f"{self.base}/{stage.name}"
            body = io.BytesIO(message) if isinstance(message, bytes) else pieces()
            try:
                async with self._http.post(url, data=body, headers=headers, allow_redirects=False) as response:
                    if response.status != 204:
                        await _body(response, 0)
                        return None
                    return True
            except aiohttp.ClientError:
                if failed:
                    raise failed[0] from None
                raise

        await self._until(f"the answer to {stage.name}", once)

    async def leave(self, stage: Stage, message: bytes) -> None:
        """Tell the server, once, that this client is leaving; if that fails, the client is just silent."""
        try:
            url = f"{self.base}/{stage.name}"
            async with self._http.post(url, data=message, headers=self.headers, allow_redirects=False):
                pass
        except (aiohttp.ClientError, TimeoutError, OSError):
            _log.info("the server was not told that this client left", extra={"event": "left"})

    async def _until(self, what: str, once: Callable[[], Awaitable[_Found | None]]) -> _Found:
        deadline, pause, last = time.monotonic() + self._timeout, _FIRST_PAUSE, "nothing came"
        while (left := deadline - time.monotonic()) > 0:
            wish = 0.0
            try:
                async with asyncio.timeout(left):
                    if (found := await once()) is not None:
                        return found
                pause, last = _FIRST_PAUSE, "the stage has not come"
                # The server usually makes a client wait; if it does not, do not ask more often.
                await asyncio.sleep(_FIRST_PAUSE)
                continue
            except aiohttp.ClientConnectorCertificateError as error:
                raise SecFedError(f"the server's certificate is not accepted: {error.certificate_error}") from None
            except _TryAgainError as error:
                last, wish = str(error), error.seconds
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                last = f"{type(error).__name__}: {error}"
            _log.info("again what=%s reason=%s", what, last, extra={"event": "again", "reason": last})
            # Half to one and a half times the pause, so that clients turned away together do not return together.
            wait = wish + pause * (0.5 + int.from_bytes(SystemEntropy().draw("pause", 4)) / 2**32)
            await asyncio.sleep(min(wait, max(deadline - time.monotonic(), 0)))
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise SecFedError(f"{what}: no success within {self._timeout:g} seconds; the last try: {last}")


class _TryAgainError(Exception):
    """The server cannot take this now; ask it again after this many seconds."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """Return the body of a 200, None for a 204; a body beyond the limit is not read."""
    if response.status == 204:
        return None
    refused = response.status != 200
    most = 1000 if refused else limit
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk[: most + 1 - len(body)]
        if len(body) > most:
            break
    if refused:
        reason = "".join(letter for letter in body[:200].decode("ascii", "replace") if letter.isprintable())
        if response.status in _TRY_AGAIN:
            after = response.headers.get("Retry-After", "")  # a number of seconds, or a date, which is ignored
            seconds = float(after) if after.isdecimal() and len(after) < 5 else 0.0
            raise _TryAgainError(f"{response.status} {reason}", min(seconds, _LONGEST_WISH))
        raise SecFedError(f"the server refused with {response.status}: {reason}")
    if len(body) > limit:
        raise FaultyServerError(f"the server sent more than {limit} bytes", "C1")
    return bytes(body)


def _checked(url: str, insecure: bool) -> str:
    """Check a URL and return it without a trailing slash."""
    try:
        found = urlsplit(url)
        host, _ = found.hostname, found.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is not a URL: {error}") from None
    if found.scheme not in ("http", "https") or not host or found.query or found.fragment or found.username:
        raise ConfigError(f"{url!r} is not a URL of a server: needed one such as https://host:8443")
    if found.scheme == "http" and not insecure and not is_loopback(host):
        raise ConfigError(f"plain HTTP to {host}: needed https, a loopback address, or insecure")
    return url.rstrip("/")
