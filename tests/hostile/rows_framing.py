"""S13-S25, S39, S40: heads and bodies that two parsers would read differently, and floods of what is no body."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.answers import ETAG, LAST_MODIFIED, End, Play, Step, Truth, chunks, told
from tests.hostile.row import ALL, KIB, MIB, RESUMED, Pass, Row

CL = ("Content-Length",)
CHUNKED = "Transfer-Encoding: chunked"


def told_with(*added: str, drop: tuple[str, ...] = (), line: str | None = None, end: str = "\r\n") -> Play:
    """The honest answer with these lines more or less."""
    return lambda truth: [told(truth, *added, line=line, drop=drop, end=end)]


def instead(old: bytes, new: bytes) -> Play:
    """The honest answer with some of its bytes replaced."""

    def play(truth: Truth) -> list[Step]:
        whole = told(truth)
        assert old in whole
        return [whole.replace(old, new, 1)]

    return play


def refused(row_id: str, name: str, play: Play, sent_max: int = MIB, passes: frozenset[Pass] = ALL) -> Row:
    """Three tries, nothing of it believed, no connection used again."""
    return Row(
        id=row_id,
        name=name,
        play=play,
        code="protocol",
        attempts_max=3,
        sent_max=sent_max,
        memory=2 * MIB,
        passes=passes,
    )


def status_line(text: str) -> Play:
    return told_with(line=text)


def endless_line(truth: Truth) -> Iterator[Step]:
    yield b"HTTP/1.1 200 OK\r\nX-Endless: "
    while True:
        yield b"a" * 16 * KIB


def endless_status(truth: Truth) -> Iterator[Step]:
    yield b"HTTP/1.1 200 "
    while True:
        yield b"a" * 16 * KIB


def endless_fields(truth: Truth) -> Iterator[Step]:
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"X-A: b\r\n" * 2048


def interims(count: int, head: bytes = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") -> Play:
    return lambda truth: [head * count, told(truth)]


def endless_interims(truth: Truth) -> Iterator[Step]:
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\n\r\n" * 512


def dripped_interims(truth: Truth) -> Iterator[Step]:
    while True:
        yield b"HTTP/1.1 103 Early Hints\r\n\r\n"
        yield 9.0


def dripped_head(truth: Truth) -> Iterator[Step]:
    for byte in told(truth):
        yield bytes((byte,))
        yield 7.0


def coded(
    extension: bytes = b"", last: bytes = b"0\r\n\r\n", behind: bytes = b"", size: int = 1000, more: bytes = b""
) -> Play:
    """The honest bytes in the chunked coding."""

    def play(truth: Truth) -> list[Step]:
        body = truth.body + more
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        return [told(truth, CHUNKED, drop=CL, body=b"".join(chunks(pieces, extension, last)) + behind)]

    return play


def coded_by(endless: Iterator[bytes] | None = None, *, start: bytes, again: bytes) -> Play:
    """A chunked whole that begins with ``start`` and then goes on with ``again`` for ever."""

    def play(truth: Truth) -> Iterator[Step]:
        yield told(truth, CHUNKED, drop=CL, body=start, whole=True)
        while True:
            yield again

    return play


def dripped_extension(truth: Truth) -> Iterator[Step]:
    yield told(truth, CHUNKED, drop=CL, body=b"5;")
    while True:
        yield b"a"
        yield 20.0


def dripped_trailers(truth: Truth) -> Iterator[Step]:
    yield told(truth, CHUNKED, drop=CL, body=b"%x\r\n%s\r\n0\r\n" % (len(truth.body), truth.body))
    while True:
        yield b"a"
        yield 20.0


def endless_trailers(truth: Truth) -> Iterator[Step]:
    yield told(truth, CHUNKED, drop=CL, body=b"%x\r\n%s\r\n0\r\n" % (len(truth.body), truth.body))
    while True:
        yield b"X-A: b\r\n" * 2048


def stray(after: float, data: bytes) -> Play:
    """Everything in one answer, and something more that nobody asked for."""

    def play(truth: Truth) -> list[Step]:
        steps: list[Step] = [told(truth, whole=True)]
        return [*steps, after, data] if after else [bytes(told(truth, whole=True)) + data]

    return play


FORGED = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 7\r\nContent-Range: bytes 0-6/20487\r\n\r\nforged!"
FORGED_200 = f"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nETag: {ETAG}\r\nLast-Modified: {LAST_MODIFIED}\r\n\r\nforged!"

HEADS = [
    refused("S13", "length and chunked", told_with(CHUNKED)),
    refused("S13", "chunked and length, a chunked body", lambda t: [told(t, CHUNKED, body=b"0\r\n\r\n")]),
    refused("S14", "the length twice, equal", lambda t: [told(t, f"Content-Length: {len(t.body)}")]),
    refused("S14", "two lengths", told_with("Content-Length: 5")),
    refused(
        "S14", "a list of equal lengths", lambda t: [told(t, "Content-Length: {0}, {0}".format(len(t.body)), drop=CL)]
    ),
    refused("S14", "chunked twice", told_with(CHUNKED, CHUNKED, drop=CL)),
    refused("S14", "a signed length", lambda t: [told(t, f"Content-Length: +{len(t.body)}", drop=CL)]),
    refused("S14", "a length in hexadecimal", lambda t: [told(t, f"Content-Length: {len(t.body):#x}", drop=CL)]),
    refused("S14", "a length with an underscore", told_with("Content-Length: 4_096", drop=CL)),
    refused("S14", "an empty length", told_with("Content-Length:", drop=CL)),
    refused("S15", "chunked over HTTP/1.0", told_with(CHUNKED, drop=CL, line="HTTP/1.0 200 OK")),
    refused("S15", "an unknown coding", told_with("Transfer-Encoding: gzip, chunked", drop=CL)),
    refused("S15", "chunked and more", told_with("Transfer-Encoding: chunked, identity", drop=CL)),
    refused("S16", "bare LF everywhere", told_with(end="\n")),
    refused("S16", "bare LF behind one line", instead(b"\r\nETag", b"\nETag")),
    refused("S16", "bare LF at the end", instead(b"\r\n\r\n", b"\r\n\n")),
    refused("S16", "bare CR inside", instead(b"\r\nETag", b"\rETag")),
    refused("S17", "a folded length", instead(b"Content-Length: ", b"Content-Length:\r\n ")),
    refused("S17", "a folded field", told_with("X-A: b\r\n\tc")),
    refused("S17", "a folded first field", instead(b"Content-Length", b" X: y\r\nContent-Length")),
    refused("S18", "a bell in the length", lambda t: [told(t, f"Content-Length: {len(t.body)}\a", drop=CL)]),
    refused("S18", "8 bits in the coding", told_with("Transfer-Encoding: chunked\xa0", drop=CL)),
    refused("S18", "8 bits in the range", lambda t: [told(t, range_text=f"bytes\xa0{t.start}-{t.end - 1}/{t.total}")]),
    refused("S18", "NUL in a value", told_with("X-A: b\0c")),
    refused("S18", "a space before the colon", told_with("Content-Length : 5", drop=CL)),
    refused("S18", "a name of nothing", told_with(": b")),
    refused("S18", "8 bits in a name", told_with("X\xe4: b")),
    refused("S19", "status 600", status_line("HTTP/1.1 600 Beyond")),
    refused("S19", "status 999", status_line("HTTP/1.1 999 Request Denied")),
    refused("S19", "a status of two digits", status_line("HTTP/1.1 20 OK")),
    refused("S19", "HTTP/2.0", status_line("HTTP/2.0 200 OK")),
    refused("S19", "HTTP/1.2", status_line("HTTP/1.2 200 OK")),
    refused("S19", "shoutcast", status_line("ICY 200 OK")),
    refused("S19", "HTTP/0.9", lambda t: [t.body, End.CLOSE]),
    refused("S19", "TLS where there should be none", lambda _: [b"\x15\x03\x01\x00\x02\x02\x28", End.CLOSE]),
    refused("S19", "switched protocols", told_with("Upgrade: h2c", line="HTTP/1.1 101 Switching Protocols", drop=CL)),
    refused("S20", "an endless field", endless_line),
    refused("S20", "an endless status line", endless_status),
    refused("S21", "101 fields in one piece", told_with(*["X-A: b"] * 101)),
    refused("S21", "100 KiB in one piece", told_with("X-A: " + "b" * 100 * KIB)),
    refused("S21", "40,000 fields in one piece", told_with(*["X-A: b"] * 40_000)),
    refused("S21", "endless fields", endless_fields),
    refused("S22", "nine interim answers", interims(9)),
    refused("S22", "endless interim answers", endless_interims),
    refused(
        "S22", "an interim answer with a length", interims(1, b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n")
    ),
    Row(id="S22", name="eight interim answers are skipped", play=interims(8), killed=False),
    Row(id="S22", name="interim answers dripped for ever", play=dripped_interims, code="stalled", seconds=1000),
    Row(id="S22", name="a head dripped for ever", play=dripped_head, code="stalled", seconds=1000),
]

BODIES = [
    Row(id="S23", name="small trailers are read past", play=coded(last=b"0\r\nX-A: b\r\n\r\n"), killed=False),
    refused("S23", "trailers of 5 KiB", coded(last=b"0\r\nX-A: " + b"b" * 5 * KIB + b"\r\n\r\n")),
    refused("S23", "endless trailers", endless_trailers, 16 * MIB),
    refused("S23", "a body that ends with a bare LF", coded(last=b"0\r\n\n")),
    refused("S23", "trailers that end with a bare LF", coded(last=b"0\r\nX-A: b\n\r\n")),
    refused("S23", "trailers with an answer behind a bare LF", coded(last=b"0\r\nX-A: b\n\n" + FORGED)),
    # Chunks that came whole before the trailers count as progress; sixteen connections wait, each with its buffer.
    Row(
        id="S23",
        name="trailers dripped for ever",
        play=dripped_trailers,
        code="stalled",
        seconds=1000,
        attempts_max=12,
        memory=8 * MIB,
    ),
    refused(
        "S24",
        "chunks of 1 byte with 16 KiB beside it",
        coded_by(start=b"", again=b"1;" + b"a" * 16 * KIB + b"\r\nx\r\n"),
        16 * MIB,
    ),
    # h11 takes 2 s for a MiB of them, which is let pass before the share of the overhead counts.
    refused("S24", "chunks of 1 byte", coded_by(start=b"", again=b"1\r\nx\r\n" * 2000), 16 * MIB, RESUMED),
    refused("S24", "an endless extension", coded_by(start=b"5;", again=b"a" * 16 * KIB), 16 * MIB),
    Row(id="S24", name="an extension dripped for ever", play=dripped_extension, code="stalled", seconds=1000),
    refused("S25", "a chunk of 21 digits", coded_by(start=b"F" * 21 + b"\r\n", again=bytes(16 * KIB)), 16 * MIB),
    refused("S25", "a negative chunk", coded(last=b"-1\r\n\r\n")),
    refused("S25", "a chunk in other digits", coded(last=b"0x0\r\n\r\n")),
    refused("S25", "a chunk that does not end", coded(last=b"5\r\nabcdefgh\r\n0\r\n\r\n")),
    refused("S25", "more chunks than the range", coded(more=b"more than was asked for")),
    Row(
        id="S25",
        name="a chunk of 2^64 bytes",
        play=coded_by(start=b"FFFFFFFFFFFFFFFF\r\n", again=bytes(16 * KIB)),
        code="too_big",
        config={"part_bytes_max": 64 * KIB},
        sent_max=16 * MIB,
        memory=8 * MIB,
    ),
    Row(id="S12", name="bytes behind the range", play=lambda t: [told(t) + b"surplus"], sent_max=64 * KIB),
    Row(id="S12", name="bytes behind the last chunk", play=coded(behind=b"surplus")),
    Row(id="S39", name="a word on an idle connection", play=stray(1.0, b"hello"), final=lambda p: p),
    Row(id="S39", name="an answer on an idle connection", play=stray(1.0, FORGED)),
    Row(id="S40", name="a second answer right behind", play=lambda t: [told(t) + FORGED]),
    Row(id="S40", name="a second answer behind the whole", play=stray(0, FORGED_200.encode())),
    Row(id="S40", name="a second answer behind the last chunk", play=coded(behind=FORGED)),
]
