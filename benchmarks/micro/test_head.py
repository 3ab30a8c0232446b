"""Parsing an answer's head: our strict scan, and the whole reader with h11 behind it."""

from __future__ import annotations

import h11

from benchmarks.micro.timing import Timing
from engine.config import DEFAULT_CONFIG
from engine.net.head import Framing, Head, HeadReader, scan_head

HEAD = (
    b"HTTP/1.1 206 Partial Content\r\n"
    b"Server: nginx/1.22.1\r\n"
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    b"Content-Type: application/octet-stream\r\n"
    b"Content-Length: 1048576\r\n"
    b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    b"Connection: keep-alive\r\n"
    b'ETag: "6720a3c8-40000000"\r\n'
    b"Content-Range: bytes 0-1048575/1073741824\r\n"
    b"\r\n"
)


def _asked() -> h11.Connection:
    codec = h11.Connection(h11.CLIENT)
    codec.send(h11.Request(method="GET", target="/", headers=[("Host", "localhost")]))
    codec.send(h11.EndOfMessage())
    return codec


def test_scan_head(benchmark: Timing) -> None:
    head = benchmark(scan_head, HEAD, DEFAULT_CONFIG)

    assert (head.status, head.framing, head.length) == (206, Framing.LENGTH, 1 << 20)


def test_read_head(benchmark: Timing) -> None:
    def prepared() -> tuple[tuple[HeadReader], dict[str, object]]:
        return (HeadReader(DEFAULT_CONFIG, _asked()),), {}

    def read(reader: HeadReader) -> Head | None:
        return reader.feed(HEAD)

    head = benchmark.pedantic(read, setup=prepared, rounds=2000)

    assert head is not None
    assert head.status == 206
