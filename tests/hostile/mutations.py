"""Heads made by chance from what servers send and what smuggles: seeded, so that a failure can be played again."""

from __future__ import annotations

import random

_LINES = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 206 Partial Content",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 204",
    b"HTTP/1.1 103 Hints",
]
_FIELDS = [
    b"Content-Length: 5",
    b"content-length:5",
    b"Content-Length: 05",
    b"Content-Length: 5, 5",
    b"Content-Length: +5",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:\tCHUNKED ",
    b"Transfer-Encoding: identity",
    b"Connection: close",
    b"Connection: keep-alive, x",
    b"Content-Range: bytes 0-4/9",
    b'ETag: "x"',
    b"X-A: \xff\xfe",
    b"X-Empty:",
    b"X-Tab: a\tb",
    b"Keep-Alive: timeout=5",
    b"X_y.z~!: 1",
    b" folded",
    b"NoColon",
]
_PIECES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"\0",
    b"\t",
    b" ",
    b":",
    b",",
    b";",
    b"\x0b",
    b"\x0c",
    b"\x1f",
    b"\x7f",
    b"\x80",
    b"\x85",
    b"\xa0",
    b"\xff",
    b"0",
    b"9",
    b"_",
    b"-",
    b"+",
    b"HTTP/1.1 ",
    b"chunked",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
]


def a_head(rng: random.Random) -> bytes:
    """A head, mostly a good one with a few changes; it ends with its empty line, and may hold others before it."""
    fields = rng.choices(_FIELDS[:-2], k=rng.randrange(5))
    if rng.random() < 0.1:
        fields.insert(rng.randrange(len(fields) + 1), rng.choice(_FIELDS[-2:]))
    head = bytearray(b"\r\n".join([rng.choice(_LINES), *fields]))
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        at = rng.randrange(len(head) + 1)
        match rng.randrange(4):
            case 0:
                head[at:at] = rng.choice(_PIECES)
            case 1:
                piece = rng.choice(_PIECES)
                head[at : at + len(piece)] = piece
            case 2:
                del head[at : at + rng.randrange(1, 4)]
            case _:
                head[at : at + 1] = bytes((rng.randrange(256),))
    return bytes(head) + b"\r\n\r\n"


def cuts(rng: random.Random, data: bytes) -> list[bytes]:
    """The data in pieces."""
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]
