"""Fuzz targets for what is read off a connection, and for URLs: each is compared with another reader of the same."""

from __future__ import annotations

import ipaddress
import random
import re
from typing import NamedTuple
from urllib.parse import urlsplit

import h11
import trio

from engine.errors import BadRedirect, ConnectionLost, InvalidRequest, ProtocolViolation
from engine.net.body import OVERHEAD_FREE_BYTES, Body, ChunkedBody, LengthBody
from engine.net.head import Framing, Head, HeadReader, scan_head
from engine.net.receiver import Receiver
from engine.net.url import HOST_CHARS_MAX, URL_BYTES_MAX, Url, parse_url, resolve_location
from tests.fire.fuzz_fields import CONFIG, rng_of

END = b"\r\n\r\n"
NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")  # a host that ends in one is an address, for browsers
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def codec(head: bytes = b"") -> h11.Connection:
    """One whose request is sent, and that has read ``head``."""
    fresh = h11.Connection(h11.CLIENT)
    fresh.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    fresh.send(h11.EndOfMessage())
    if head:
        fresh.receive_data(head)
        fresh.next_event()
    return fresh


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """The data, cut at some places."""
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 2, 9))))
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


def _read(parts: list[bytes]) -> tuple[Head | None, bytes] | str:
    reader = HeadReader(CONFIG, codec())
    try:
        for number, part in enumerate(parts):
            found = reader.feed(part)
            if found is not None:
                return found, reader.leftover + b"".join(parts[number + 1 :])
    except ProtocolViolation:
        return "refused"
    return None, b""


def head(data: bytes) -> None:
    """A head: what is believed h11 reads in the same way, its framing is one, and how it is cut changes nothing."""
    whole = _read([data + END])
    assert _read(pieces(rng_of(data), data + END)) == whole
    block = data + END
    block = block[: block.index(END) + len(END)]
    try:
        believed = scan_head(block, CONFIG)
    except ProtocolViolation:
        return
    assert len(block) > CONFIG.head_bytes_max or whole != "refused" or believed.status < 200 or b"\r\n\r\n" in data
    connection = codec()
    connection.receive_data(block)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        assert believed.status == 101
        return
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert event.status_code == believed.status
    ours = [(name.encode(), value.encode("latin-1")) for name, value in believed.fields]
    lowered = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in ours]
    assert lowered == [(bytes(name), bytes(value)) for name, value in event.headers]
    if isinstance(event, h11.Response) and believed.status not in (204, 304):
        _same_framing(believed, connection)


def _same_framing(believed: Head, connection: h11.Connection) -> None:
    if believed.framing is Framing.CHUNKED:
        connection.receive_data(b"1\r\nx\r\n0\r\n\r\n")
        assert connection.next_event() == h11.Data(data=b"x", chunk_start=True, chunk_end=True)
    elif believed.framing is Framing.LENGTH and believed.length:
        connection.receive_data(b"x")
        assert connection.next_event() == h11.Data(data=b"x")
        connection.receive_data(b"")
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            event = None
        assert isinstance(event, h11.EndOfMessage) == (believed.length == 1)


class _Line:
    """A link whose bytes are all there already: some at a time, then its end."""

    buffer_bytes = None

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = [part for part in parts if part]
        self._ready = False

    def receive_nowait(self, view: memoryview) -> int | None:
        if not self._parts:
            return 0
        if not self._ready:
            self._ready = True
            return None
        part = self._parts[0]
        count = min(len(part), len(view))
        view[:count] = part[:count]
        self._parts[0] = part[count:]
        if not self._parts[0]:
            del self._parts[0]
            self._ready = False
        return count

    async def wait_ready(self) -> None:
        await trio.lowlevel.checkpoint()

    @property
    def unread(self) -> bytes:
        return b"".join(self._parts)

    def set_low_water(self, count: int) -> None:
        assert count >= 1


class _Drained(NamedTuple):
    """What a body gave, how it ended ("clean", "ended", "lost" or "refused"), and what nobody took off the line."""

    taken: bytes
    how: str
    unread: bytes


async def _drained(data: bytes, length: int | None) -> _Drained:
    rng = rng_of(data)
    leftover, *parts = pieces(rng, data)
    line = _Line(parts)
    receiver = Receiver(line, CONFIG)  # type: ignore[arg-type]  # as much of a link as it uses
    view = memoryview(bytearray(rng.choice((1, 7, 4096)) if len(data) <= 4096 else 4096))
    taken = bytearray()
    try:
        body: Body
        if length is not None:
            body = LengthBody(receiver, length, leftover)
        else:
            body = ChunkedBody(receiver, codec(CHUNKED_HEAD), leftover, CONFIG)
        got = len(view)
        while got == len(view) and body.left != 0:
            got = await body.fill(view)
            taken += view[:got]
            assert body.received == len(taken)
        how = "clean" if body.clean else "ended"
    except ConnectionLost:
        how = "lost"
    except ProtocolViolation:
        how = "refused"
    return _Drained(bytes(taken), how, line.unread)


def length_body(data: bytes) -> None:
    """A body of known length: exactly its bytes, whatever came behind; too few are a lost connection."""
    rng = rng_of(data)
    length = rng.choice((0, 1, len(data), len(data) + 1, max(0, len(data) - 1), len(data) // 2))
    taken, how, unread = trio.run(_drained, data, length)
    if len(data) < length:
        assert how == "lost"
        assert data.startswith(taken)
    else:
        assert taken == data[:length]
        assert how in ("clean", "ended")
        assert how == ("clean" if unread == data[length:] else "ended")


def _decoded(data: bytes) -> tuple[bytes, bytes | None, bool]:
    """A chunked body by the grammar: the data, what is behind its end (None: it has none), whether all was strict."""
    body, strict = b"", True
    while True:
        line, end, rest = data.partition(b"\r\n")
        size, _, extension = line.partition(b";")
        size = size.rstrip(b" \t")
        if not end or not 0 < len(size) <= 20 or not set(size) <= set(b"0123456789abcdefABCDEF"):
            return body, None, False
        strict = strict and not extension and size == line and len(line) < 16
        count = int(size, 16)
        if count == 0:
            break
        body += rest[:count]
        if rest[count : count + 2] != b"\r\n":
            return body, None, False
        data = rest[count + 2 :]
    if rest.startswith(b"\r\n"):
        return body, rest[2:], strict
    _trailers, end, behind = rest.partition(END)
    return body, behind if end else None, False


def chunked_body(data: bytes) -> None:
    """The chunked coding: what is clean is so by the grammar and holds its bytes; what is given out is never wrong."""
    taken, how, unread = trio.run(_drained, data, None)
    expected, behind, strict = _decoded(data)
    if how in ("clean", "ended"):
        assert taken == expected
        assert behind is not None
        assert (how == "clean") == (behind == unread)
    else:
        assert expected.startswith(taken)
        assert not (strict and behind is not None and len(data) < OVERHEAD_FREE_BYTES)


_BASES = (parse_url("http://a.example/b/c?d"), parse_url("https://a.example:8443/b/"))


def _check_url(url: Url) -> None:
    text = str(url)
    assert parse_url(text) == url
    assert url.scheme in ("http", "https")
    assert 1 <= url.port <= 65535
    assert 0 < len(url.host) <= HOST_CHARS_MAX
    assert url.host == url.host.lower()
    assert url.target.startswith("/")
    assert len(url.target) <= URL_BYTES_MAX
    assert all("!" <= char <= "~" for char in url.target + url.host_header)
    assert not set("@/\\?#%") & set(url.host)
    other = urlsplit(text)
    assert other.hostname == url.host
    assert (other.port or {"http": 80, "https": 443}[url.scheme]) == url.port
    assert other.username is None
    if ":" in url.host or NUMBER.fullmatch(url.host.rpartition(".")[2]):
        assert str(ipaddress.ip_address(url.host)) == url.host
    h11.Request(method="GET", target=url.target, headers=[("Host", url.host_header)])
    redacted = url.redacted()
    query = url.target.partition("?")[2]
    shown = redacted.partition("?")[2].split("&")
    assert not query or all(part.endswith("…") for part in shown)
    url.last_segment.encode()


def url(data: bytes) -> None:
    """A URL, and a Location: refused, or the same for every other reader, and fit for a request line."""
    for text in {data.decode("latin-1"), data.decode(errors="replace")}:
        try:
            _check_url(parse_url(text))
        except InvalidRequest:
            continue
    for base in _BASES:
        try:
            target = resolve_location(base, data.decode("latin-1"))
        except BadRedirect:
            continue
        _check_url(target)
        assert base.scheme == "http" or target.scheme == "https"
