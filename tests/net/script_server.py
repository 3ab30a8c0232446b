"""A server on loopback that answers each request with a script of raw bytes, pauses and endings."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum

import trio

from engine.net.url import Url, parse_url
from tests.support.origin import read_request


class End(Enum):
    """How a script ends the connection, if it does."""

    CLOSE = "close"  # FIN; over TLS without its closing message
    GOODBYE = "goodbye"  # TLS closing message, then FIN
    RESET = "reset"
    HANG = "hang"  # stay open and silent


Step = bytes | float | End


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    connection: int
    number: int  # of the requests on this connection, from 1
    target: str
    raw: bytes

    @property
    def fields(self) -> list[tuple[str, str]]:
        lines = self.raw.decode("latin-1").split("\r\n")[1:-2]
        pairs = [line.split(": ", 1) for line in lines]
        return [(name.lower(), value) for name, value in pairs]

    def get(self, name: str) -> str | None:
        return dict(self.fields).get(name)


@dataclass
class ScriptServer:
    """What a test sees of the server."""

    base: str
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    def url(self, target: str = "/") -> Url:
        return parse_url(self.base + target)


Script = Callable[[Asked], Sequence[Step]]


@asynccontextmanager
async def serve(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[ScriptServer]:
    """Run ``script`` for every request until the block ends."""
    listener = trio.socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    scheme = "https" if tls else "http"
    server = ScriptServer(f"{scheme}://{host}:{listener.getsockname()[1]}")
    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept, listener, nursery, server, script, tls)
            yield server
            nursery.cancel_scope.cancel()


async def _accept(
    listener: trio.socket.SocketType,
    nursery: trio.Nursery,
    server: ScriptServer,
    script: Script,
    tls: ssl.SSLContext | None,
) -> None:
    while True:
        sock, _ = await listener.accept()
        server.connections += 1
        nursery.start_soon(_talk, sock, server, server.connections, script, tls)


async def _talk(
    sock: trio.socket.SocketType, server: ScriptServer, connection: int, script: Script, tls: ssl.SSLContext | None
) -> None:
    transport = trio.SocketStream(sock)
    stream: trio.abc.Stream = transport if tls is None else trio.SSLStream(transport, tls, server_side=True)
    number = 0
    with sock, suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # these clients leave when they like
        while (raw := await read_request(stream)) is not None:
            number += 1
            asked = Asked(connection, number, raw.split(b" ", 2)[1].decode("ascii"), raw)
            server.asked.append(asked)
            if await _play(script(asked), stream, sock):
                break


async def _play(steps: Sequence[Step], stream: trio.abc.Stream, sock: trio.socket.SocketType) -> bool:
    """Whether the script ended the connection."""
    for step in steps:
        if isinstance(step, bytes):
            await stream.send_all(step)
        elif isinstance(step, float):
            await trio.sleep(step)
        elif step is End.HANG:
            await trio.sleep_forever()
        else:
            if step is End.RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if step is End.GOODBYE:
                await stream.aclose()
            return True
    return False


def answer(body: bytes = b"", *fields: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A plain answer with its Content-Length."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked(*pieces: bytes) -> bytes:
    """An answer in the chunked coding, without its last chunk's end when a piece is empty."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


LAST_CHUNK = b"0\r\n\r\n"
