"""TLS: trust, names, times, truncation, and what the environment must not switch on."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trustme

from engine.config import Config
from engine.errors import ConnectionLost, ConnectTimeout, InvalidRequest, TlsError
from engine.net.client import Client
from engine.net.url import parse_url
from tests.net.script_server import End, Step, answer, chunked, serve

QUICK = Config(tls_timeout_s=1.0, first_byte_timeout_s=1.0, idle_timeout_s=1.0)
NAME = "localhost"
MIB = 1024 * 1024


def server_side(cert: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    return context


async def fetch(client: Client, url: str, size: int = 64 * 1024) -> bytes:
    async with client.get(parse_url(url)) as exchange:
        view = memoryview(bytearray(size))
        return bytes(view[: await exchange.fill(view)])


Errors = type[Exception] | tuple[type[Exception], ...]


async def failing(error: Errors, tls: ssl.SSLContext, cafile: str | None, steps: list[Step]) -> str:
    client = Client(QUICK, cafile=cafile)
    async with serve(lambda _: steps, tls=tls, host=NAME) as server:
        with pytest.raises(error) as caught:
            await fetch(client, server.base)
    assert repr(client.pool).startswith("<Pool active=0 connecting=0 idle=0")
    await client.aclose()
    return str(caught.value)


async def test_good(authority: trustme.CA, cafile: str) -> None:
    client = Client(QUICK, cafile=cafile)
    tls = server_side(authority.issue_cert(NAME, "127.0.0.1"))
    body = os.urandom(3 * MIB + 5)
    async with serve(lambda _: [answer(body)], tls=tls, host=NAME) as server:
        for _ in range(3):
            assert await fetch(client, server.base, 4 * MIB) == body
        assert server.connections == 1
        assert await fetch(client, server.base.replace(NAME, "127.0.0.1"), 4 * MIB) == body
        assert server.connections == 2
    await client.aclose()


async def test_n16_another_host(authority: trustme.CA, cafile: str) -> None:
    message = await failing(TlsError, server_side(authority.issue_cert("other.example")), cafile, [answer()])
    assert "is for another host name" in message


async def test_n16_expired(authority: trustme.CA, cafile: str) -> None:
    then = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    cert = authority.issue_cert(NAME, not_before=then, not_after=then + dt.timedelta(days=1))
    assert "has expired" in await failing(TlsError, server_side(cert), cafile, [answer()])


async def test_n16_unknown_authority(cafile: str) -> None:
    stranger = server_side(trustme.CA().issue_cert(NAME))
    assert "unknown authority" in await failing(TlsError, stranger, cafile, [answer()])
    assert "unknown authority" in await failing(TlsError, stranger, None, [answer()])


async def test_old_tls_is_refused(authority: trustme.CA, cafile: str) -> None:
    tls = server_side(authority.issue_cert(NAME))
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        tls.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        tls.maximum_version = ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    await failing((TlsError, ConnectionLost), tls, cafile, [answer()])  # with the server's alert, or without


@pytest.mark.parametrize("content", [None, "not a certificate"])
async def test_unusable_ca_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "bad.pem"
    if content is not None:
        path.write_text(content)
    client = Client(QUICK, cafile=str(path))
    with pytest.raises(InvalidRequest):
        await fetch(client, "https://localhost:1/")
    await client.aclose()


TRUNCATED: dict[str, list[Step]] = {
    "to the end": [b"HTTP/1.1 200 OK\r\n\r\nhello", End.CLOSE],
    "length": [answer(b"hello", length=6), End.CLOSE],
    "chunked": [chunked(b"hello"), End.CLOSE],
    "reset": [b"HTTP/1.1 200 OK\r\n\r\nhello", 0.05, End.RESET],
    "length, said goodbye": [answer(b"hello", length=6), End.GOODBYE],
}


@pytest.mark.parametrize("name", TRUNCATED)
async def test_n17_a_ragged_end_is_truncation(name: str, authority: trustme.CA, cafile: str) -> None:
    await failing(ConnectionLost, server_side(authority.issue_cert(NAME)), cafile, TRUNCATED[name])


async def test_n17_a_proper_goodbye_ends_a_body(authority: trustme.CA, cafile: str) -> None:
    client = Client(QUICK, cafile=cafile)
    steps: list[Step] = [b"HTTP/1.1 200 OK\r\n\r\nhello", End.GOODBYE]
    async with serve(lambda _: steps, tls=server_side(authority.issue_cert(NAME)), host=NAME) as server:
        assert await fetch(client, server.base) == b"hello"
    await client.aclose()


async def test_m26_no_key_log_is_written(
    authority: trustme.CA, cafile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    client = Client(QUICK, cafile=cafile)
    async with serve(lambda _: [answer(b"x")], tls=server_side(authority.issue_cert(NAME)), host=NAME) as server:
        assert await fetch(client, server.base) == b"x"
    assert not log.exists()
    await client.aclose()


async def closes(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def resets(stream: trio.SocketStream) -> None:
    await stream.receive_some(10)
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def speaks_plainly(stream: trio.SocketStream) -> None:
    await stream.receive_some(4096)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await stream.aclose()


async def keeps_silent(stream: trio.SocketStream) -> None:
    await trio.sleep(5)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [(closes, ConnectionLost), (resets, ConnectionLost), (speaks_plainly, TlsError), (keeps_silent, ConnectTimeout)],
)
async def test_a_handshake_that_fails(
    behaviour: Callable[[trio.SocketStream], Awaitable[None]], error: type[Exception], cafile: str
) -> None:
    client = Client(QUICK, cafile=cafile)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, behaviour, listeners)
        with pytest.raises(error) as caught:
            await fetch(client, f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/")
        assert type(caught.value) is error
        nursery.cancel_scope.cancel()
    assert repr(client.pool) == "<Pool active=0 connecting=0 idle=0 opened=0>"
    await client.aclose()


async def test_c18_cancelled_in_the_handshake(cafile: str) -> None:
    client = Client(QUICK, cafile=cafile)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, keeps_silent, listeners)
        with trio.move_on_after(0.1) as scope:
            await fetch(client, f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/")
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()
    assert repr(client.pool) == "<Pool active=0 connecting=0 idle=0 opened=0>"
    await client.aclose()


async def test_a_second_connection_resumes_the_session_of_the_first(authority: trustme.CA, cafile: str) -> None:
    client = Client(QUICK, cafile=cafile)
    tls = server_side(authority.issue_cert(NAME, "127.0.0.1"))
    async with serve(lambda _: [answer(b"x" * 100)], tls=tls, host=NAME) as server:
        assert await fetch(client, server.base) == b"x" * 100
        origin = parse_url(server.base).origin
        again = await client.pool.acquire(origin, fresh=True, named=True)
        other = await client.pool.acquire(parse_url(server.base.replace(NAME, "127.0.0.1")).origin, named=True)
        assert again._link.resumed
        assert not other._link.resumed, "a session belongs to the name that its certificate was checked for"
        client.pool.release(again, reusable=False)
        client.pool.release(other, reusable=False)
        again.close()
        other.close()
    await client.aclose()


async def test_a_line_that_breaks_behind_some_records_gives_them_first(authority: trustme.CA, cafile: str) -> None:
    """The bytes that came count, then the break is told, however often it is asked."""
    client = Client(QUICK, cafile=cafile)
    tls = server_side(authority.issue_cert(NAME))
    body = os.urandom(300 * 1024)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    steps: list[Step] = [head + body[: 200 * 1024], 0.05, End.CLOSE]
    async with serve(lambda _: steps, tls=tls, host=NAME) as server, client.get(parse_url(server.base)) as exchange:
        with pytest.raises(ConnectionLost):
            await exchange.fill(memoryview(bytearray(len(body))))
        assert 0 < exchange.received <= 200 * 1024
        with pytest.raises(ConnectionLost):
            await exchange.fill(memoryview(bytearray(10)))
    await client.aclose()
