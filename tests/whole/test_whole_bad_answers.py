"""Servers and lines that fail or lie: a typed error, nothing published or lost, and a right file once they mend."""

from __future__ import annotations

import dataclasses
import datetime as dt
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from engine import AddressPolicy, DownloadRequest, Trust
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, payload_of, small
from tests.support.origin import Asked, End, Reply, Script, plain, serve
from tests.support.run import assert_complete, assert_failed, assert_nothing_published, run

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=3)
IMPATIENT = small(idle_timeout_s=0.05, first_byte_timeout_s=0.5)


def always(reply: Reply) -> Script:
    """Every answer is bad."""
    return lambda _: reply


def later(reply: Reply, good: int = 3) -> Script:
    """The first few answers are good."""
    return lambda asked: Reply() if asked.number <= good else reply


def content_range(text: str) -> Reply:
    return Reply(content_range=text)


def shifted(asked: Asked) -> Reply:
    """The range that comes begins one chunk later than asked, and says so."""
    if asked.start is None or asked.end is None:
        return Reply(status=404)
    start = asked.start + CHUNK
    return Reply(content_range=f"bytes {start}-{start + asked.end - asked.start - 1}/{len(PAYLOAD)}")


def location(target: str) -> tuple[tuple[str, str], ...]:
    return (("Location", target),)


# name, answer, error code, status. Each is tried from the first answer on, and from the fourth.
BAD_ANSWERS: list[tuple[str, Reply, str, int | None]] = [
    ("N7 cut short", Reply(send=100, end=End.CLOSE), "connection_lost", None),
    ("N6 reset", Reply(send=100, end=End.RESET), "connection_lost", None),
    ("N9 stalled", Reply(send=100, end=End.HANG), "stalled", None),
    ("S36 unauthorized", Reply(status=401), "auth", 401),
    ("S36 forbidden", Reply(status=403), "auth", 403),
    ("S37 not found", Reply(status=404), "not_found", 404),
    ("S37 gone", Reply(status=410), "gone", 410),
    ("teapot", Reply(status=418), "http_4xx", 418),
    ("S35 rate limited", Reply(status=429), "rate_limited", 429),
    ("S37 server error", Reply(status=500), "http_5xx", 500),
    ("S37 unavailable", Reply(status=503, fields=(("Retry-After", "0"),)), "http_5xx", 503),
    ("S37 not implemented", Reply(status=501), "http_5xx", 501),
    ("S38 no content", Reply(status=204, framing="none"), "protocol", 204),
    ("S3 no Content-Range", Reply(status=206, ranges=False), "bad_range", 206),
    ("S3 malformed Content-Range", content_range("bytes 0-x/y"), "bad_range", 206),
    ("S3 overflowing Content-Range", content_range(f"bytes 0-{'9' * 5000}/1"), "bad_range", 206),
    ("S5 multipart", Reply(fields=(("Content-Type", "multipart/byteranges; boundary=x"),)), "bad_range", 206),
    ("S28 compressed", Reply(fields=(("Content-Encoding", "gzip"),)), "encoded", None),
    ("S29 loop", Reply(status=302, fields=location("/film.bin")), "redirect", 302),
    ("S31 other scheme", Reply(status=302, fields=location("ftp://127.0.0.1/film.bin")), "redirect", None),
    ("S31 file scheme", Reply(status=307, fields=location("file:///etc/passwd")), "redirect", None),
    ("redirect to nowhere", Reply(status=301), "redirect", 301),
    ("S13 CL and TE", Reply(fields=(("Transfer-Encoding", "chunked"),)), "protocol", None),
    ("S14 two lengths", Reply(fields=(("Content-Length", "5"),)), "protocol", None),
    ("S27 a length that lies", Reply(ranges=False, stated=10**18), "protocol", 200),
]


# Access that is withdrawn later waits for another URL: tests/whole/test_whole_needs_url.py.
BAD_CASES = [
    (when, row) for when in (always, later) for row in BAD_ANSWERS if when is always or row[3] not in {401, 403}
]


@pytest.mark.parametrize(
    ("when", "reply", "code", "status"),
    [(when, *row[1:]) for when, row in BAD_CASES],
    ids=[f"{row[0]}-{when.__name__}" for when, row in BAD_CASES],
)
async def test_bad_answers(library: Path, when: object, reply: Reply, code: str, status: int | None) -> None:
    assert callable(when)
    async with serve(PAYLOAD, when(reply)) as origin:
        request = DownloadRequest(url=origin.url(), connections=3)
        outcome = await run(library, request, config=IMPATIENT)
        assert outcome.code == code, outcome.message
        assert outcome.entry.last_error is not None
        if status is not None:
            assert outcome.entry.last_error.status == status
        assert_failed(outcome, code, outcome.entry.last_error.status)
        held = assert_nothing_published(library, PAYLOAD)
        assert (held > 0) == (when is later)
        origin.script = plain
        again = await run(library, request, config=IMPATIENT)
    assert_complete(again, PAYLOAD)
    assert again.stats.bytes_resumed == held
    assert again.stats.bytes_fetched == len(PAYLOAD) - held


FLAKY: list[tuple[str, Reply]] = [
    ("cut short", Reply(send=BIG_CHUNK + 100, end=End.CLOSE)),
    ("reset", Reply(send=BIG_CHUNK + 100, end=End.RESET)),
    ("stalled", Reply(send=BIG_CHUNK + 100, end=End.HANG)),
    ("longer than stated", Reply(surplus=b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")),
]


@pytest.mark.parametrize("reply", [row[1] for row in FLAKY], ids=[row[0] for row in FLAKY])
async def test_a_flaky_server_that_gets_on_is_enough(library: Path, reply: Reply) -> None:
    """N6, N7, N9, S12: every answer ends badly after a chunk or two; no byte that was sealed is asked for again."""
    async with serve(PAYLOAD, always(reply)) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()), config=IMPATIENT)
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_fetched <= len(PAYLOAD) + 200 * len(origin.asked)


@pytest.mark.parametrize("every", [2, 3])
async def test_every_other_answer_is_an_error(library: Path, every: int) -> None:
    """5xx, then fine: the download gets there by itself."""

    def script(asked: Asked) -> Reply:
        return Reply(status=503) if asked.number % every == 0 else Reply()

    async with serve(PAYLOAD, script) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()))
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_fetched == len(PAYLOAD)


async def test_a_server_that_is_down_at_first(library: Path) -> None:
    async with serve(PAYLOAD, lambda asked: Reply(status=500) if asked.number < 5 else Reply()) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()))
    assert_complete(outcome, PAYLOAD)
    assert outcome.entry.attempt_count == 5


async def test_refused(library: Path) -> None:
    """N3, and the server that comes up again on the same port is found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outcome = await run(library, DownloadRequest(url=f"http://127.0.0.1:{port}/film.bin"))
    assert_failed(outcome, "refused")
    assert outcome.entry.attempt_count == 4
    assert_nothing_published(library, PAYLOAD)


async def test_no_such_host(library: Path) -> None:
    """N1."""
    outcome = await run(library, DownloadRequest(url="http://no-such-host.invalid/film.bin"))
    assert_failed(outcome, "dns")


@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
async def test_a_stream_cut_short_is_not_complete(library: Path, framing: str) -> None:
    """N7, N8: without ranges the whole is fetched again, and never taken for complete."""
    cut = Reply(ranges=False, framing=framing, send=len(PAYLOAD) // 2, end=End.CLOSE)
    async with serve(PAYLOAD, always(cut)) as origin:
        request = DownloadRequest(url=origin.url(), expected_length=len(PAYLOAD))
        outcome = await run(library, request)
        assert_failed(outcome, "connection_lost")
        assert_nothing_published(library, PAYLOAD)
        origin.script = always(dataclasses.replace(cut, send=None))
        assert_complete(await run(library, request), PAYLOAD)


@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
async def test_a_body_longer_than_expected_is_not_complete(library: Path, framing: str) -> None:
    async with serve(PAYLOAD + b"!", always(Reply(ranges=False, framing=framing))) as origin:
        request = DownloadRequest(url=origin.url(), expected_length=len(PAYLOAD))
        outcome = await run(library, request)
        assert_failed(outcome, "integrity")
        assert_nothing_published(library, PAYLOAD)
        origin.serve(PAYLOAD)
        assert_complete(await run(library, request), PAYLOAD)


async def test_an_endless_body_is_stopped(library: Path) -> None:
    """S26: neither memory nor disk is filled by a body that goes on behind what it may have."""
    endless = Reply(ranges=False, framing="chunked", body=bytes(40 * BIG_CHUNK))
    async with serve(PAYLOAD, always(endless)) as origin:
        for limits, length, code in (
            (SMALL, 2 * BIG_CHUNK, "integrity"),
            (small(part_bytes_max=2 * BIG_CHUNK), None, "too_big"),
        ):
            request = DownloadRequest(url=origin.url(), expected_length=length, id=code)
            origin.forget()
            outcome = await run(library, request, config=limits)
            assert_failed(outcome, code)
            assert outcome.stats.bytes_fetched <= 4 * BIG_CHUNK


async def test_a_body_that_nothing_can_check_is_not_complete(library: Path) -> None:
    """N8: its end is the connection's, and neither length nor digest is known."""
    async with serve(PAYLOAD, always(Reply(ranges=False, framing="eof"))) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()))
        assert_failed(outcome, "unverifiable_length")
        assert_nothing_published(library, PAYLOAD)


async def test_200_to_a_range_in_the_middle(library: Path) -> None:
    """S6: never appended; one stream from the first byte, of which what is held is not written again."""
    async with serve(PAYLOAD, later(Reply(ranges=False), good=4)) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), connections=2))
    assert_complete(outcome, PAYLOAD)
    assert outcome.entry.attempt_count == 1


async def test_200_to_a_range_in_the_middle_without_validators(library: Path) -> None:
    """S6, S8: nothing shows that the stream is of the same bytes, so nothing of the old ones is kept."""
    other = payload_of(len(PAYLOAD), seed=99)
    first = Reply(etag="", last_modified="")
    then = Reply(ranges=False, etag="", last_modified="", body=other)
    async with serve(PAYLOAD, lambda asked: first if asked.number <= 1 else then) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), connections=2))
    assert_complete(outcome, other)


async def test_416_in_the_middle(library: Path) -> None:
    """S7: the file is shorter now; another generation, complete and unmixed."""
    shorter = PAYLOAD[: 10 * BIG_CHUNK]

    def script(asked: Asked) -> Reply:
        return Reply() if asked.number <= 3 else Reply(body=shorter, etag='"short"')

    async with serve(PAYLOAD, script) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), connections=2))
    assert_complete(outcome, shorter)


async def test_a_range_other_than_asked_writes_nothing(library: Path) -> None:
    """S1."""
    async with serve(PAYLOAD, shifted) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()))
        assert_failed(outcome, "bad_range", 206)
        assert_nothing_published(library, PAYLOAD)


TLS_TROUBLE = ["wrong name", "expired", "unknown authority"]


@pytest.mark.parametrize("trouble", TLS_TROUBLE)
async def test_certificates(library: Path, tmp_path: Path, trouble: str) -> None:
    """N16: no byte is asked for over a connection that cannot be trusted, and the right certificate mends it."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    yesterday = dt.datetime.now(tz=dt.UTC) - dt.timedelta(days=1)
    certificates = {
        "wrong name": authority.issue_cert("elsewhere.example"),
        "expired": authority.issue_cert("localhost", not_before=yesterday - dt.timedelta(days=9), not_after=yesterday),
        "unknown authority": stranger.issue_cert("localhost"),
        "good": authority.issue_cert("localhost"),
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates[trouble].configure_cert(context)
    async with serve(PAYLOAD, tls=context, host="localhost") as origin:
        request = DownloadRequest(url=origin.url())
        outcome = await run(library, request, cafile=str(tmp_path / "ca.pem"))
        assert_failed(outcome, "tls")
        assert origin.asked == []
        assert_nothing_published(library, PAYLOAD)
        certificates["good"].configure_cert(context)
        assert_complete(await run(library, request, cafile=str(tmp_path / "ca.pem")), PAYLOAD)


async def test_https_is_not_left_for_http(library: Path, tmp_path: Path) -> None:
    """S30."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with serve(PAYLOAD) as target:
        script = always(Reply(status=302, fields=location(target.url())))
        async with serve(b"", script, tls=context, host="localhost") as origin:
            outcome = await run(library, DownloadRequest(url=origin.url()), cafile=str(tmp_path / "ca.pem"))
        assert_failed(outcome, "redirect")
        assert target.asked == []


async def test_credentials_stay_at_home(library: Path) -> None:
    """S33: over a redirect to another origin none of the caller's fields goes along."""
    async with serve(PAYLOAD) as target:
        script = always(Reply(status=302, fields=location(target.url())))
        async with serve(b"", script) as origin:
            request = DownloadRequest(
                url=origin.url(),
                headers=(("X-Token", "t1"), ("Authorization", "Bearer secret-two")),
                secret_headers=(("X-S", "secret-three"),),
            )
            here = Trust(addresses=AddressPolicy(allow=("127.0.0.1",)))
            assert_complete(await run(library, request, trust=here), PAYLOAD)
    assert {"x-token", "authorization", "x-s"} <= origin.asked[0].fields.keys()
    for asked in target.asked:
        assert not {"x-token", "authorization", "x-s"} & asked.fields.keys()
    stored = (library / "store" / "data.mdb").read_bytes()
    assert b"secret-two" not in stored
    assert b"secret-three" not in stored
