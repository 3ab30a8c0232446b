"""A media server on loopback that tells the truth, except where a test's script makes it lie or fail."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum

import trio
from blake3 import blake3

PIECE_BYTES = 16 * 1024
LAST_MODIFIED = "Tue, 03 Mar 2026 10:00:00 GMT"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class End(Enum):
    """How a connection goes on after an answer."""

    KEEP = "keep"  # ready for the next request
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"  # open and silent


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came. ``number`` counts all requests of the origin from 1; the range is half open."""

    number: int
    connection: int
    target: str
    fields: dict[str, str]
    start: int | None
    end: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; each field departs from the plain truth in one way.

    ``status`` other than 200 and 206 comes without payload. ``body``: other bytes than the origin's. ``stated``:
    the Content-Length told. ``send``: no more than this many body bytes, then ``end``. ``surplus``: bytes after it.
    ``etag``, ``last_modified``: None for the origin's own, empty for none. ``rate``: bytes a second.
    """

    status: int | None = None
    body: bytes | None = None
    ranges: bool = True
    framing: str = "length"  # length, chunked, eof
    etag: str | None = None
    last_modified: str | None = None
    content_range: str | None = None
    fields: tuple[tuple[str, str], ...] = ()
    stated: int | None = None
    send: int | None = None
    surplus: bytes = b""
    end: End = End.KEEP
    rate: float | None = None


Script = Callable[[Asked], Reply]


def plain(asked: Asked) -> Reply:
    """The truth."""
    return Reply()


@dataclass
class Origin:
    """What a test sees of the server, and what it may change while it runs. ``sent`` counts body bytes."""

    base: str
    payload: bytes
    script: Script = plain
    etag: str = ""
    last_modified: str = LAST_MODIFIED
    rate: float | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    sent: int = 0
    _moved: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.etag = self.etag or etag_of(self.payload)

    def url(self, name: str = "film.bin") -> str:
        """The payload's URL; any name leads to it."""
        return f"{self.base}/{name}"

    def serve(self, payload: bytes) -> None:
        """Have another payload from now on, with its own ETag."""
        self.payload, self.etag = payload, etag_of(payload)

    def forget(self) -> None:
        """Begin counting anew."""
        self.asked.clear()
        self.sent = 0

    async def until_sent(self, count: int) -> None:
        """Wait until ``count`` body bytes are sent."""
        while self.sent < count:
            await self._moved.wait()

    async def until_asked(self, count: int) -> None:
        """Wait until ``count`` requests came."""
        while len(self.asked) < count:
            await self._moved.wait()

    def moved(self) -> None:
        """Wake who waits for a count."""
        self._moved.set()
        self._moved = trio.Event()


def etag_of(payload: bytes) -> str:
    """A strong ETag that follows from the bytes."""
    return f'"{blake3(payload).hexdigest(8)}"'


@asynccontextmanager
async def serve(
    payload: bytes,
    script: Script = plain,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    address: str = "127.0.0.1",
) -> AsyncIterator[Origin]:
    """An origin until the block ends: it listens on ``address`` and is called ``host``."""
    listener = trio.socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind((address, 0))
    listener.listen(64)
    scheme = "https" if tls else "http"
    origin = Origin(f"{scheme}://{host}:{listener.getsockname()[1]}", payload, script)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_accept, listener, nursery, origin, tls)
            yield origin
            nursery.cancel_scope.cancel()
    finally:
        listener.close()


async def _accept(
    listener: trio.socket.SocketType, nursery: trio.Nursery, origin: Origin, tls: ssl.SSLContext | None
) -> None:
    while True:
        sock, _ = await listener.accept()
        origin.connections += 1
        nursery.start_soon(_talk, sock, origin, origin.connections, tls)


async def _talk(sock: trio.socket.SocketType, origin: Origin, connection: int, tls: ssl.SSLContext | None) -> None:
    transport = trio.SocketStream(sock)
    stream: trio.abc.Stream = transport if tls is None else trio.SSLStream(transport, tls, server_side=True)
    # Engines of these tests are stopped and killed at any moment: a client that is gone is not the origin's trouble.
    with sock, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while (raw := await read_request(stream)) is not None:
            asked = _parse(raw, len(origin.asked) + 1, connection)
            origin.asked.append(asked)
            origin.moved()
            end = await _answer(stream, origin, asked)
            if end is End.HANG:
                await trio.sleep_forever()
            if end is End.RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if end is not End.KEEP:
                break


async def read_request(stream: trio.abc.Stream) -> bytes | None:
    raw = bytearray()
    while not raw.endswith(b"\r\n\r\n"):
        data = await stream.receive_some(4096)
        if not data:
            return None
        raw += data
    return bytes(raw)


def _parse(raw: bytes, number: int, connection: int) -> Asked:
    request, *lines = raw.decode("latin-1").split("\r\n")[:-2]
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    found = _RANGE.fullmatch(fields.get("range", ""))
    start = int(found[1]) if found else None
    end = int(found[2]) + 1 if found and found[2] else None
    return Asked(number, connection, request.split(" ")[1], fields, start, end)


async def _answer(stream: trio.abc.Stream, origin: Origin, asked: Asked) -> End:
    reply = origin.script(asked)
    whole = origin.payload if reply.body is None else reply.body
    status, body, fields = _content(origin, reply, asked, whole)
    if status in {301, 302, 303, 307, 308}:
        body = b"moved"
    await stream.send_all(_head(status, reply, body, fields))
    if reply.framing == "chunked":
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _pieces(body)) + b"0\r\n\r\n"
    sent = body if reply.send is None else body[: reply.send]
    await _send(stream, origin, sent, reply)
    return End.CLOSE if reply.framing == "eof" and reply.end is End.KEEP else reply.end


def _content(origin: Origin, reply: Reply, asked: Asked, whole: bytes) -> tuple[int, bytes, list[tuple[str, str]]]:
    etag = origin.etag if reply.etag is None else reply.etag
    modified = origin.last_modified if reply.last_modified is None else reply.last_modified
    fields = [(name, value) for name, value in (("ETag", etag), ("Last-Modified", modified)) if value]
    if reply.status not in {None, 200, 206}:
        return reply.status or 0, b"", fields
    if reply.ranges:
        fields.append(("Accept-Ranges", "bytes"))
    if asked.start is None or not reply.ranges or reply.status == 200:
        return reply.status or 200, whole, fields
    if asked.start >= len(whole):
        return 416, b"", [*fields, ("Content-Range", f"bytes */{len(whole)}")]
    end = min(len(whole), asked.end or len(whole))
    said = reply.content_range or f"bytes {asked.start}-{end - 1}/{len(whole)}"
    return 206, whole[asked.start : end], [*fields, ("Content-Range", said)]


def _head(status: int, reply: Reply, body: bytes, fields: list[tuple[str, str]]) -> bytes:
    if reply.framing == "length":
        fields = [*fields, ("Content-Length", str(len(body) if reply.stated is None else reply.stated))]
    elif reply.framing == "chunked":
        fields = [*fields, ("Transfer-Encoding", "chunked")]
    lines = [f"HTTP/1.1 {status} Told", *(f"{name}: {value}" for name, value in (*fields, *reply.fields))]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _pieces(body: bytes) -> list[bytes]:
    return [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]


async def _send(stream: trio.abc.Stream, origin: Origin, body: bytes, reply: Reply) -> None:
    due = trio.current_time()
    rate = reply.rate or origin.rate
    *pieces, last = _pieces(body) or [b""]
    for piece in (*pieces, last + reply.surplus):
        await stream.send_all(piece)
        origin.sent += len(piece)
        origin.moved()
        if rate is not None:
            due = max(due, trio.current_time() - 0.02) + len(piece) / rate
            await trio.sleep_until(due)
