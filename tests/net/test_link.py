"""Links over TLS whose server sends as little as it can in each record: nothing is lost, and others get their turns."""

from __future__ import annotations

import fcntl
import socket
import ssl
import sys
import termios
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from engine.config import Config
from engine.net.connection import Connection
from engine.net.link import RECORDS_AT_ONCE, Link
from engine.net.receiver import RECEIVES_PER_TURN
from engine.net.url import parse_url
from tests.support.tls import server_side

NAME = "localhost"
BODY = bytes(range(250)) * 8
FILLER = "X-Filler: " + "f" * 2000
FRAMINGS = {
    "length": (f"Content-Length: {len(BODY)}", BODY),
    "chunked": ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
}


class Dribbler(threading.Thread):
    """A server that agrees on TLS and sends ``data`` in records of one byte each, all at once: ``sent`` is how many
    bytes they are. It is silent then, until it is told to ``leave``."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, data: bytes) -> None:
        super().__init__(daemon=True)
        self._sock, self._data = sock, data
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.sent = 0
        self.leave = threading.Event()

    def run(self) -> None:
        with self._sock:
            self._agree()
            for at in range(len(self._data)):
                self._tls.write(self._data[at : at + 1])
            self.sent = self._outgoing.pending
            self._sock.sendall(self._outgoing.read())
            self.leave.wait(30)

    def _agree(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._sock.sendall(self._outgoing.read())
                self._incoming.write(self._sock.recv(16384))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection; the near one takes all that is sent here without being read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    return near, far


def arrived(sock: socket.socket) -> int:
    """How many bytes the kernel has for the reader."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


@asynccontextmanager
async def dribbled(authority: trustme.CA, data: bytes) -> AsyncIterator[Link]:
    """A link behind which all of ``data`` waits, one byte a record."""
    near, far = tcp_pair()
    server = Dribbler(far, server_side(authority, NAME), data)
    server.start()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    sock = await trio.to_thread.run_sync(lambda: context.wrap_socket(near, server_hostname=NAME))
    with trio.fail_after(30):
        while not server.sent or arrived(sock) < server.sent:  # noqa: ASYNC110  # the kernel tells nobody
            await trio.sleep(0.001)
    sock.setblocking(False)
    link = Link(sock)
    try:
        yield link
    finally:
        link.close()
        server.leave.set()
        await trio.to_thread.run_sync(server.join)


async def test_one_receive_takes_so_many_records_at_most(authority: trustme.CA) -> None:
    """Found: a million records of a byte were taken in one call, which held the loop for six seconds."""
    async with dribbled(authority, BODY) as link:
        got = bytearray()
        while len(got) < len(BODY):
            before = link.receive_calls
            view = memoryview(bytearray(len(BODY)))
            count = link.receive_nowait(view)
            assert count, "what is there needs no wait"
            assert link.receive_calls - before <= RECORDS_AT_ONCE
            got += view[:count]
        assert got == BODY
        assert link.receive_nowait(view) is None


async def count_turns(link: Link, most: list[int]) -> None:
    """``most``: how often the link was read, at most, until others got their turn."""
    before = 0
    while True:
        await trio.lowlevel.checkpoint()
        most[0] = max(most[0], link.receive_calls - before)
        before = link.receive_calls


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_others_get_turns_between_tiny_records(authority: trustme.CA, framing: str) -> None:
    """In the head, and in the body. Its last receive of the head and the first of the body are of one turn; and between
    two turns of the one another may have two: trio shuffles them."""
    field, body = FRAMINGS[framing]
    data = f"HTTP/1.1 200 OK\r\n{FILLER}\r\n{field}\r\n\r\n".encode() + body
    most = [0]
    async with dribbled(authority, data) as link, trio.open_nursery() as nursery:
        nursery.start_soon(count_turns, link, most)
        with trio.fail_after(30):
            assert await fetch(link) == BODY
        for _ in range(2):  # the last turn counts too
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert link.receive_calls > len(BODY) + len(FILLER)
    assert 0 < most[0] <= 2 * RECORDS_AT_ONCE * (RECEIVES_PER_TURN + 1) < len(BODY)


async def fetch(link: Link) -> bytes:
    connection = Connection(link, Config())
    _, body = await connection.get(parse_url(f"https://{NAME}/"), ())
    view = memoryview(bytearray(len(BODY)))
    return bytes(view[: await body.fill(view)])
