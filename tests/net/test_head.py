"""The strict head layer: one row per case, each fed whole, byte by byte, and with junk behind it."""

from __future__ import annotations

import h11
import pytest

from engine.config import Config
from engine.errors import ProtocolViolation
from engine.net.head import Framing, Head, HeadReader

CONFIG = Config()
CRLF = b"\r\n"


def head(*lines: bytes) -> bytes:
    return CRLF.join(lines) + CRLF + CRLF


OK = b"HTTP/1.1 200 OK"
CL5 = b"Content-Length: 5"

# name: bytes -> (status, framing, length, keep_alive)
ACCEPTED: dict[str, tuple[bytes, tuple[int, Framing, int | None, bool]]] = {
    "plain": (head(OK, CL5), (200, Framing.LENGTH, 5, True)),
    "no reason": (head(b"HTTP/1.1 200", CL5), (200, Framing.LENGTH, 5, True)),
    "empty reason": (head(b"HTTP/1.1 200 ", CL5), (200, Framing.LENGTH, 5, True)),
    "no fields": (head(OK), (200, Framing.EOF, None, False)),
    "zero length": (head(OK, b"Content-Length: 0"), (200, Framing.LENGTH, 0, True)),
    "leading zeros": (head(OK, b"Content-Length: 005"), (200, Framing.LENGTH, 5, True)),
    "optional white space": (head(OK, b"Content-Length: \t5 \t"), (200, Framing.LENGTH, 5, True)),
    "chunked": (head(OK, b"Transfer-Encoding: Chunked"), (200, Framing.CHUNKED, None, True)),
    "close": (head(OK, CL5, b"Connection: foo, CLOSE"), (200, Framing.LENGTH, 5, False)),
    "1.0": (head(b"HTTP/1.0 200 OK", CL5), (200, Framing.LENGTH, 5, False)),
    "1.0 keep-alive": (head(b"HTTP/1.0 200 OK", CL5, b"Connection: keep-alive"), (200, Framing.LENGTH, 5, True)),
    "204": (head(b"HTTP/1.1 204 No Content"), (204, Framing.NONE, None, True)),
    "304 with a length": (head(b"HTTP/1.1 304 Not Modified", CL5), (304, Framing.NONE, None, True)),
    "8-bit elsewhere": (head(OK, CL5, b"X-Name: \xc3\xa4"), (200, Framing.LENGTH, 5, True)),
    "S22 eight interims": (head(b"HTTP/1.1 103 Hints", b"A: x") * 8 + head(OK, CL5), (200, Framing.LENGTH, 5, True)),
    "S21 a hundred fields": (head(OK, CL5, *[b"X-%d: y" % n for n in range(99)]), (200, Framing.LENGTH, 5, True)),
    "S43 early 400": (head(b"HTTP/1.1 400 Bad Request", CL5), (400, Framing.LENGTH, 5, True)),
    "599": (head(b"HTTP/1.1 599 Odd", CL5), (599, Framing.LENGTH, 5, True)),
}  # fmt: skip

REFUSED: dict[str, bytes] = {
    "S13 length and chunked": head(OK, CL5, b"Transfer-Encoding: chunked"),
    "S14 equal lengths": head(OK, CL5, CL5),
    "S14 different lengths": head(OK, CL5, b"Content-Length: 6"),
    "S14 list of lengths": head(OK, b"Content-Length: 5, 5"),
    "S14 two codings": head(OK, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "S15 chunked on 1.0": head(b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"),
    "coding list": head(OK, b"Transfer-Encoding: gzip, chunked"),
    "identity coding": head(OK, b"Transfer-Encoding: identity"),
    "empty coding": head(OK, b"Transfer-Encoding:"),
    "S16 all bare LF": b"HTTP/1.1 200 OK\nContent-Length: 5\n\n",
    "S16 one bare LF": b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 5\r\n\r\n",
    "S16 bare LF at the end": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n\r\n\r\n",
    "bare CR": b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
    "S17 folded line": head(OK, b"A: b", b" c", CL5),
    "S17 folded length": head(OK, b"Content-Length:", b"\t5"),
    "S17 fold first": head(OK, b" A: b"),
    "S18 NUL": head(OK, b"A: b\0c"),
    "S18 BEL": head(OK, b"A: b\x07c"),
    "S18 DEL": head(OK, b"A: b\x7fc"),
    "S18 8-bit length": head(OK, b"Content-Length: \xb25"),
    "S18 8-bit coding": head(OK, b"Transfer-Encoding: chunked\xa0"),
    "S18 8-bit range": head(b"HTTP/1.1 206 Part", CL5, b"Content-Range: bytes 0-4/5\xff"),
    "S18 control in reason": head(b"HTTP/1.1 200 O\x01K", CL5),
    "S19 status 600": head(b"HTTP/1.1 600 Odd"),
    "S19 status 099": head(b"HTTP/1.1 099 Odd"),
    "S19 status of two digits": head(b"HTTP/1.1 20 OK"),
    "S19 status of four digits": head(b"HTTP/1.1 2000 OK"),
    "S19 Unicode status": head("HTTP/1.1 \uff1200 OK".encode()),
    "S19 HTTP/2.0": head(b"HTTP/2.0 200 OK", CL5),
    "S19 HTTP/1.2": head(b"HTTP/1.2 200 OK", CL5),
    "S19 HTTP/0.9": b"<html>hello</html>",
    "S19 lower-case protocol": head(b"http/1.1 200 OK", CL5),
    "ICY": head(b"ICY 200 OK"),
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x16",
    "leading CRLF": CRLF + head(OK, CL5),
    "two spaces": head(b"HTTP/1.1  200 OK", CL5),
    "S20 endless status line": b"HTTP/1.1 200 " + b"x" * 1100,
    "S20 long status line": head(b"HTTP/1.1 200 " + b"x" * 1100, CL5),
    "S20 endless field": OK + CRLF + b"A: " + b"x" * 33000,
    "S21 101 fields": head(OK, *[b"X-%d: y" % n for n in range(101)]),
    "S21 101 fields, unfinished": CRLF.join([OK, *[b"X-%d: y" % n for n in range(103)]]),
    "S21 33 KiB in all": head(OK, *[b"X-%d: " % n + b"y" * 1000 for n in range(33)]),
    "S22 nine interims": head(b"HTTP/1.1 102 Processing") * 9 + head(OK, CL5),
    "S22 interims beyond the total": head(b"HTTP/1.1 103 Hints", b"A: " + b"x" * 8000) * 5,
    "101": head(b"HTTP/1.1 101 Switching Protocols", b"Upgrade: x", b"Connection: upgrade"),
    "S27 absurd length": head(OK, b"Content-Length: 1000000000000000000"),
    "S27 20 digits": head(OK, b"Content-Length: 18446744073709551616"),
    "M20 5000 digits": head(OK, b"Content-Length: " + b"9" * 5000),
    "M20 signed": head(OK, b"Content-Length: +5"),
    "M20 negative": head(OK, b"Content-Length: -5"),
    "M20 underscore": head(OK, b"Content-Length: 1_0"),
    "M20 hex": head(OK, b"Content-Length: 0x5"),
    "empty length": head(OK, b"Content-Length:"),
    "space before colon": head(OK, b"Content-Length : 5"),
    "no colon": head(OK, b"Content-Length"),
    "empty name": head(OK, b": x"),
    "204 with two framings": head(b"HTTP/1.1 204 No Content", CL5, b"Transfer-Encoding: chunked"),
}


def reader() -> HeadReader:
    codec = h11.Connection(h11.CLIENT, max_incomplete_event_size=CONFIG.head_bytes_max)
    codec.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    codec.send(h11.EndOfMessage())
    return HeadReader(CONFIG, codec)


def feed_whole(data: bytes) -> tuple[Head | None, bytes]:
    target = reader()
    size = CONFIG.head_feed_bytes
    for at in range(0, len(data), size):
        result = target.feed(data[at : at + size])
        if result is not None:
            return result, target.leftover + data[at + size :]
    return None, b""


def feed_bytewise(data: bytes) -> tuple[Head | None, bytes]:
    target = reader()
    for at in range(len(data)):
        result = target.feed(data[at : at + 1])
        if result is not None:
            return result, target.leftover + data[at + 1 :]
    return None, b""


FEEDERS = [feed_whole, feed_bytewise]


@pytest.mark.parametrize("feeder", FEEDERS)
@pytest.mark.parametrize("tail", [b"", b"hello", b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"\n\0"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str, tail: bytes, feeder) -> None:  # type: ignore[no-untyped-def]
    data, expected = ACCEPTED[name]
    result, leftover = feeder(data + tail)
    assert (result.status, result.framing, result.length, result.keep_alive) == expected
    assert leftover == tail


@pytest.mark.parametrize("feeder", FEEDERS)
@pytest.mark.parametrize("tail", [b"", b"hello"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tail: bytes, feeder) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ProtocolViolation) as caught:
        feeder(REFUSED[name] + tail)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_proper_prefix_wants_more(name: str) -> None:
    data = ACCEPTED[name][0]
    target = reader()
    for at in range(len(data) - 1):
        assert target.feed(data[at : at + 1]) is None


def test_fields_are_lower_case_and_several_values_are_no_value() -> None:
    result, _ = feed_whole(head(OK, CL5, b'ETag: "a"', b"X-A: 1", b"x-a: 2"))
    assert result is not None
    assert result.get("etag") == '"a"'
    assert result.get("x-a") == ""
    assert result.get_all("x-a") == ["1", "2"]
    assert result.get("absent") == ""
