"""A client over HTTP: TLS, addresses it refuses, and servers that send what they should not."""

import asyncio
import datetime
import ipaddress
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secfed import SecAgg
from secfed.errors import ConfigError, FaultyServerError, SecFedError
from secfed.secagg import Stage
from secfed.transport.client import client_context
from secfed.transport.http_server import server_context
from tests.transport.sessions import (
    IDS,
    announced,
    answer,
    assert_mean,
    client_of,
    driver_of,
    holding,
    joining,
    serving,
)


def certificate(folder: Path, name: str = "server") -> tuple[Path, Path]:
    """Make a certificate of its own for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def test_session_over_tls_with_a_certificate_that_clients_trust(tmp_path: Path) -> None:
    server, key = certificate(tmp_path)
    other, _ = certificate(tmp_path, "other")
    driver = driver_of()

    async def session() -> None:
        async with serving(driver, tls=server_context(str(server), str(key))) as url:
            assert url.startswith("https://127.0.0.1:")
            for untrusted in (None, client_context(str(other))):
                with pytest.raises(SecFedError, match="certificate is not accepted"):
                    await joining(url, 2, tls=untrusted)
            with pytest.raises(SecFedError, match="certificate is not accepted"):
                await joining(url.replace("127.0.0.1", "localhost"), 2, tls=client_context(str(server)))
            tls = client_context(str(server))
            await asyncio.gather(*(joining(url, client_id, tls=tls) for client_id in IDS))

    asyncio.run(session())
    assert_mean(driver, IDS)


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    server, _ = certificate(tmp_path)
    _, key = certificate(tmp_path, "other")
    with pytest.raises(ConfigError, match=r"server\.pem .*cannot be used"):
        server_context(str(server), str(key))
    with pytest.raises(ConfigError, match=r"absent\.pem cannot be used"):
        client_context(str(tmp_path / "absent.pem"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://192.0.2.1:8765", "plain HTTP to 192.0.2.1"),
        ("http://localhost.example.org", "plain HTTP"),
        ("ftp://127.0.0.1", "not a URL of a server"),
        ("127.0.0.1:8765", "not a URL of a server"),
        ("https://user@host", "not a URL of a server"),
        ("http://127.0.0.1:99999", "not a URL"),
    ],
)
def test_url_that_cannot_be_used_is_refused_before_anything_is_sent(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asyncio.run(joining(url, 2))


def test_identity_key_and_roster_belong_together() -> None:
    with pytest.raises(ConfigError, match="belong together"):
        asyncio.run(joining("http://127.0.0.1:1", 2, signing_key=None))


def test_client_gives_up_when_no_server_is_there_in_time() -> None:
    with pytest.raises(SecFedError, match=r"within 0\.3 seconds; the last try: ClientConnectorError"):
        asyncio.run(joining("http://127.0.0.1:1", 2, timeout=0.3))


def against(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], timeout: float = 5.0) -> None:
    """Join a server that answers everything with one handler."""

    async def session() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            await joining(f"http://127.0.0.1:{runner.addresses[0][1]}", 2, timeout=timeout)
        finally:
            await runner.cleanup()

    asyncio.run(session())


def test_token_does_not_follow_a_redirect() -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere") if request.path == "/v1/session" else AssertionError(request.path)

    with pytest.raises(SecFedError, match="refused with 302"):
        against(elsewhere)


def test_request_that_is_too_long_is_not_read_to_its_end() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/session":
            return web.Response(body=announced().to_bytes())
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(bytes(1 << 16))
        return response

    with pytest.raises(FaultyServerError, match="more than 70 bytes"):
        against(endless)


def test_server_that_is_busy_is_asked_again() -> None:
    asked = 0

    async def busy(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(status=503, text="later\x1b[2J")

    with pytest.raises(SecFedError, match=r"the last try: 503 later\[2J"):
        against(busy, timeout=0.5)
    assert asked > 1


def test_server_that_does_not_let_its_client_wait_is_not_asked_all_the_time() -> None:
    asked = 0

    async def nothing(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(body=announced().to_bytes()) if request.path == "/v1/session" else web.Response(status=204)

    with pytest.raises(SecFedError, match="the last try: the stage has not come"):
        against(nothing, timeout=0.5)
    assert 2 < asked < 8


def test_client_whose_first_answer_came_from_another_process_is_refused() -> None:
    driver = driver_of()
    answer(driver, client_of(driver, 2))

    async def session() -> None:
        async with serving(driver) as url:
            await joining(url, 2)

    with pytest.raises(SecFedError, match="refused with 409: client 2 has answered ADVERTISE_KEYS with other bytes"):
        asyncio.run(session())


def test_client_leaves_before_its_first_answer_where_the_server_could_split_the_sum() -> None:
    async def sparse(request: web.Request) -> web.StreamResponse:
        assert request.path == "/v1/session", "nothing else may be asked"
        aggregator = SecAgg(threshold=2, clip=16.0, max_weight=10, adversary="malicious_server", neighbors=2)
        return web.Response(body=announced(aggregator).to_bytes())

    with pytest.raises(FaultyServerError, match="lets the server split the sum, this client's policy refuses that"):
        against(sparse)


def test_client_that_finds_the_server_faulty_leaves_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty() -> None:
        raise FaultyServerError("a survivor had not shared its keys", "C15")

    held = holding(5, Stage.CONSISTENCY_CHECK, faulty)
    monkeypatch.setattr("secfed.transport.client.Client", held)
    driver = driver_of()

    async def session() -> list[Any]:
        async with serving(driver) as url:
            return await asyncio.gather(*(joining(url, client_id) for client_id in IDS), return_exceptions=True)

    found = dict(zip(IDS, asyncio.run(session()), strict=True))
    assert isinstance(found[5], FaultyServerError)
    assert_mean(driver, IDS)
    assert driver._server.aborts == {5: "C15"}
