"""S26-S38, S42: answers that are well formed and not the media."""

from __future__ import annotations

from collections.abc import Iterator

from engine.model.states import Reason
from tests.hostile.answers import ETAG, Play, Step, Truth, told
from tests.hostile.row import FROM_THE_START, KIB, MIB, Row
from tests.hostile.rows_framing import CHUNKED


def ranged(text: str) -> Play:
    """A Content-Range with fields to fill: s, e (the last byte), t."""
    return lambda t: [
        told(t, range_text=text.format(s=t.start, e=t.end - 1, t=t.total, later=t.start + 1, less=t.end - 2))
    ]


def status(code: int, *fields: str, body: bytes = b"") -> Play:
    lines = [f"HTTP/1.1 {code} So", f"Content-Length: {len(body)}", *fields, "", ""]
    return lambda _: ["\r\n".join(lines).encode() + body]


def moved(location: str) -> Play:
    return status(302, f"Location: {location}")


def ever_further(truth: Truth) -> list[Step]:
    return [f"HTTP/1.1 302 On\r\nContent-Length: 0\r\nLocation: /bad/{truth.serial}\r\n\r\n".encode()]


def endless(*fields: str, coded: bool = False) -> Play:
    def play(truth: Truth) -> Iterator[Step]:
        yield "\r\n".join(["HTTP/1.1 200 OK", *fields, "", ""]).encode()
        while True:
            yield b"4000\r\n" + bytes(16 * KIB) + b"\r\n" if coded else bytes(16 * KIB)

    return play


def retry_after(value: str) -> Play:
    return status(429, f"Retry-After: {value}", "Date: Mon, 23 Nov 2026 10:00:00 GMT")


SIZES = [
    Row(
        id="S26",
        name="an endless body of chunks",
        play=endless(CHUNKED, coded=True),
        code="too_big",
        config={"part_bytes_max": 64 * KIB},
        sent_max=16 * MIB,
        memory=8 * MIB,
    ),
    Row(
        id="S26",
        name="an endless body without end",
        play=endless(),
        code="integrity",
        request={"expected_length": 20 * KIB + 7},
        sent_max=16 * MIB,
        memory=8 * MIB,
    ),
    Row(
        id="S27",
        name="10^18 bytes",
        play=endless(f"Content-Length: {10**18}"),
        code="protocol",
        status=200,
        attempts_max=3,
        sent_max=16 * MIB,
    ),
    Row(
        id="S27",
        name="a range of 10^18 bytes",
        play=ranged(f"bytes {{s}}-{{e}}/{10**18}"),
        code="too_big",
        attempts_max=1,
        passes=FROM_THE_START,
    ),
    Row(
        id="S27",
        name="more than the disk has",
        play=ranged(f"bytes {{s}}-{{e}}/{10**13}"),
        code="no_space",
        attempts_max=1,
        passes=FROM_THE_START,
        mends=False,
        reason=Reason.DISK,
    ),
    Row(id="S28", name="gzip", play=lambda t: [told(t, "Content-Encoding: gzip")], code="encoded", attempts_max=1),
    Row(
        id="S28",
        name="identity and gzip",
        play=lambda t: [told(t, "Content-Encoding: identity", "Content-Encoding: br")],
        code="encoded",
        attempts_max=1,
    ),
]

REDIRECTS = [
    Row(
        id="S29", name="a loop", play=moved("/bad/film.bin"), code="redirect", status=302, attempts_max=1, killed=False
    ),
    Row(id="S29", name="ever further", play=ever_further, code="redirect", status=302, attempts_max=1, killed=False),
    Row(id="S29", name="nowhere", play=status(301), code="redirect", status=301, attempts_max=1, killed=False),
    Row(
        id="S29",
        name="two places",
        play=status(302, "Location: /a", "Location: /b"),
        code="redirect",
        attempts_max=1,
        killed=False,
    ),
    Row(
        id="S30",
        name="https to http",
        play=moved("http://localhost:1/film.bin"),
        code="redirect",
        tls=True,
        attempts_max=1,
        killed=False,
    ),
    Row(id="S31", name="to a file", play=moved("file:///etc/passwd"), code="redirect", attempts_max=1, killed=False),
    Row(id="S31", name="to ftp", play=moved("ftp://127.0.0.1/film.bin"), code="redirect", attempts_max=1, killed=False),
    Row(id="S31", name="to data", play=moved("data:text/plain,hello"), code="redirect", attempts_max=1, killed=False),
    Row(id="S31", name="to a script", play=moved("javascript:alert(1)"), code="redirect", attempts_max=1, killed=False),
    Row(
        id="S31",
        name="with a password",
        play=moved("http://user:word@127.0.0.1:1/"),
        code="redirect",
        attempts_max=1,
        killed=False,
    ),
    Row(
        id="S31", name="with a line break", play=moved("/a%0d%0aX: y\tz"), code="redirect", attempts_max=1, killed=False
    ),
    Row(
        id="S32",
        name="to metadata",
        play=moved("http://169.254.169.254/latest/"),
        code="address_refused",
        attempts_max=1,
        killed=False,
    ),
    Row(
        id="S32",
        name="to a private network",
        play=moved("http://10.255.255.1/x"),
        code="address_refused",
        attempts_max=1,
        killed=False,
    ),
    Row(
        id="S32",
        name="to metadata in v6 clothes",
        play=moved("http://[::ffff:169.254.169.254]/"),
        code="address_refused",
        attempts_max=1,
        killed=False,
    ),
    Row(
        id="S34",
        name="cookies of all kinds",
        killed=False,
        play=lambda t: [
            told(t, "Set-Cookie: a=b; Domain=.com", "Set-Cookie: c=\xff; Path=/.", "Set-Cookie: d=e; Domain=127.0.0.1.")
        ],
    ),
    Row(
        id="S34",
        name="a cookie with a control byte",
        play=lambda t: [told(t, "Set-Cookie: a=b\x01; Path=/")],
        code="protocol",
        attempts_max=3,
    ),
]

DAY_S = 24 * 3600.0
STATUSES = [
    Row(
        id="S35",
        name="Retry-After 10^9",
        play=retry_after("1000000000"),
        code="rate_limited",
        seconds=8 * 6.7 * 3600,
        killed=False,
    ),
    Row(
        id="S35",
        name="Retry-After 10^40",
        play=retry_after("1" + "0" * 40),
        code="rate_limited",
        seconds=8 * 6.7 * 3600,
        killed=False,
    ),
    Row(id="S35", name="Retry-After -5", play=retry_after("-5"), code="rate_limited", seconds=400, killed=False),
    Row(id="S35", name="Retry-After NaN", play=retry_after("NaN"), code="rate_limited", seconds=400, killed=False),
    Row(
        id="S35",
        name="Retry-After a past date",
        play=retry_after("Mon, 01 Jan 2001 00:00:00 GMT"),
        code="rate_limited",
        seconds=400,
        killed=False,
    ),
    Row(
        id="S35",
        name="Retry-After a date in 9999",
        play=retry_after("Fri, 31 Dec 9999 23:59:59 GMT"),
        code="rate_limited",
        seconds=8 * 6.7 * 3600,
        killed=False,
    ),
    Row(
        id="S36",
        name="401",
        play=status(401),
        code="auth",
        status=401,
        attempts_max=1,
        killed=False,
        passes=FROM_THE_START,
    ),
    Row(
        id="S36",
        name="403",
        play=status(403),
        code="auth",
        status=403,
        attempts_max=1,
        killed=False,
        passes=FROM_THE_START,
    ),
    Row(id="S37", name="404", play=status(404), code="not_found", status=404, attempts_max=1, killed=False),
    Row(id="S37", name="410", play=status(410), code="gone", status=410, attempts_max=1, killed=False),
    Row(id="S37", name="500", play=status(500), code="http_5xx", status=500, seconds=400, killed=False),
    Row(id="S37", name="503", play=status(503), code="http_5xx", status=503, seconds=400, killed=False),
    Row(id="S37", name="408", play=status(408), code="http_4xx", status=408, seconds=400, killed=False),
    Row(id="S37", name="501", play=status(501), code="http_5xx", status=501, attempts_max=1, killed=False),
    Row(id="S38", name="204", play=status(204), code="protocol", status=204, attempts_max=3, killed=False),
    Row(id="S38", name="204 with a body", play=status(204, body=b"hello"), code="protocol", status=204, attempts_max=3),
    Row(id="S38", name="205", play=status(205), code="protocol", status=205, attempts_max=3, killed=False),
    Row(
        id="S38",
        name="304",
        play=status(304, f"ETag: {ETAG}"),
        code="protocol",
        status=304,
        attempts_max=3,
        killed=False,
    ),
    Row(
        id="S42",
        name="a page in place of a film",
        play=lambda t: [told(t, "Content-Type: text/html", body=b"<html>Sign in</html>", whole=True)],
        code="wrong_type",
    ),
]
