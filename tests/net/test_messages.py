"""What errors of the line say: where, once, without the secrets of the URL; and whose fault it is."""

from __future__ import annotations

import os
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
import trustme

from engine.config import Config
from engine.errors import Fault, NetworkError, ProtocolViolation, TlsError, TooManyFiles, TransferError
from engine.net.addresses import AddressPolicy
from engine.net.client import Client
from engine.net.trust import Trust
from engine.net.url import parse_url
from tests.net.script_server import End, Step, answer, serve
from tests.net.test_client import get, redirect

QUICK = Config(connect_timeout_s=1.0, tls_timeout_s=1.0, first_byte_timeout_s=1.0, idle_timeout_s=1.0)
SECRET = "s3cr3t"
TARGET = f"/film.mkv?token={SECRET}&part=1"


def check(error: TransferError, origin: str) -> None:
    text = str(error)
    assert text.startswith(f"{origin}/film.mkv?token=…&part=…: "), text
    assert text.count(origin) == 1
    assert SECRET not in text


@contextmanager
def refusing() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield unheard.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_refused_connection_is_told_once(scheme: str) -> None:
    client = Client(QUICK)
    with refusing() as port:
        origin = f"{scheme}://127.0.0.1:{port}"
        with pytest.raises(NetworkError, match="refused") as raised:
            await get(client, parse_url(origin + TARGET))
    check(raised.value, origin)
    await client.aclose()


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([End.CLOSE], NetworkError),
        ([End.HANG], NetworkError),
        ([b"SSH-2.0-x\r\n", End.HANG], ProtocolViolation),
    ],
)
async def test_a_failed_answer_is_told_once(steps: list[Step], kind: type[TransferError]) -> None:
    client = Client(QUICK)
    async with serve(lambda _: steps) as server:
        with pytest.raises(kind) as raised:
            await get(client, server.url(TARGET))
        check(raised.value, str(server.url().origin))
    await client.aclose()


async def test_an_unknown_authority_is_told_once() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    client = Client(QUICK)
    async with serve(lambda _: [answer(b"x")], tls=context) as server:
        url = server.url(TARGET)
        with pytest.raises(TlsError, match="unknown authority") as raised:
            await get(client, url)
        check(raised.value, str(url.origin))
    await client.aclose()


async def test_where_a_redirect_led_is_told_without_its_secrets() -> None:
    client = Client(QUICK, trust=Trust(addresses=AddressPolicy(allow=("127.0.0.1",))))
    with refusing() as port:
        origin = f"http://127.0.0.1:{port}"
        async with serve(lambda _: [redirect(origin + TARGET)]) as server:
            with pytest.raises(NetworkError) as raised:
                await get(client, server.url("/start"))
    check(raised.value, origin)
    await client.aclose()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Not one more descriptor for this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in held:
            os.close(fd)


async def test_n21_no_descriptor_is_left_for_a_connection() -> None:
    """Not the network's fault: the advice is to raise the limit, and afterwards it works."""
    client = Client(QUICK)
    async with serve(lambda _: [answer(b"x")]) as server:
        url = server.url(TARGET)
        await trio.to_thread.run_sync(lambda: None)  # its thread needs no descriptor later
        with no_descriptors(), pytest.raises(TooManyFiles, match="Too many open files") as raised:
            await get(client, url)
        check(raised.value, str(url.origin))
        assert raised.value.fault is Fault.HOST
        assert raised.value.retryable
        assert "RLIMIT_NOFILE" in raised.value.advice
        assert (await get(client, url))[1] == b"x"
    await client.aclose()
