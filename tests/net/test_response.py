"""What answers mean: the response rules as one table, each row also against what is known already."""

from __future__ import annotations

import pytest

from engine.config import Config
from engine.errors import BadRange, Changed, Encoded, HttpStatus, PerhapsChanged, ProtocolViolation, TransferError
from engine.model.records import Representation
from engine.net.head import Head, scan_head
from engine.net.response import Answer, AnswerKind, judge, representation_of

KNOWN = Representation(length=1000, etag='"a"', last_modified="Thu, 01 Jan 2026 00:00:00 GMT", ranges=True)
MIB = 1024 * 1024


def made(status: int, *fields: str) -> Head:
    return scan_head("\r\n".join([f"HTTP/1.1 {status} X", *fields, "", ""]).encode("latin-1"), Config())


def part(content_range: str, length: int | None, *fields: str) -> Head:
    size = ["Transfer-Encoding: chunked"] if length is None else [f"Content-Length: {length}"]
    return made(206, f"Content-Range: {content_range}", *size, *fields)


Asked = tuple[int, int | None] | None

# name: (head, asked, known) -> (kind, start, end, total)
BELIEVED: dict[str, tuple[Head, Asked, Representation | None, tuple[AnswerKind, int, int | None, int | None]]] = {
    "206 as asked": (part("bytes 0-99/1000", 100), (0, 100), None, (AnswerKind.RANGE, 0, 100, 1000)),
    "206 of the rest": (part("bytes 10-999/1000", 990), (10, None), None, (AnswerKind.RANGE, 10, 1000, 1000)),
    "206 chunked": (part("bytes 0-99/1000", None), (0, 100), None, (AnswerKind.RANGE, 0, 100, 1000)),
    "206 shorter": (part("bytes 0-49/1000", 50), (0, 100), None, (AnswerKind.RANGE, 0, 50, 1000)),
    "206 of a short file": (part("bytes 0-9/10", 10), (0, 100), None, (AnswerKind.RANGE, 0, 10, 10)),
    "206 a little early": (part("bytes 5-99/1000", 95), (50, 100), None, (AnswerKind.RANGE, 5, 100, 1000)),
    "206 total known from before": (
        part("bytes 0-99/*", 100, 'ETag: "a"'), (0, 100), KNOWN, (AnswerKind.RANGE, 0, 100, 1000)),
    "206 same validators": (
        part("bytes 0-99/1000", 100, 'ETag: "a"', f"Last-Modified: {KNOWN.last_modified}"),
        (0, 100), KNOWN, (AnswerKind.RANGE, 0, 100, 1000)),
    "206 weak ETag says nothing": (
        part("bytes 0-99/1000", 100, 'ETag: W/"b"', f"Last-Modified: {KNOWN.last_modified}"),
        (0, 100), KNOWN, (AnswerKind.RANGE, 0, 100, 1000)),
    "206 identity": (
        part("bytes 0-99/1000", 100, "Content-Encoding: identity"), (0, 100), None, (AnswerKind.RANGE, 0, 100, 1000)),
    "200": (made(200, "Content-Length: 1000"), None, None, (AnswerKind.WHOLE, 0, 1000, 1000)),
    "200 without length": (made(200, 'ETag: "a"'), None, KNOWN, (AnswerKind.WHOLE, 0, None, None)),
    "S6 200 to a range": (
        made(200, "Content-Length: 1000", 'ETag: "a"'), (500, 600), KNOWN, (AnswerKind.WHOLE, 0, 1000, 1000)),
    "S7 416": (made(416, "Content-Range: bytes */1000", "Content-Length: 0"), (1000, None), KNOWN,
               (AnswerKind.UNSATISFIED, 0, 0, 1000)),
    "S7 416 without total": (made(416, "Content-Length: 0"), (9, None), None, (AnswerKind.UNSATISFIED, 0, 0, None)),
}  # fmt: skip

REFUSED: dict[str, tuple[Head, Asked, Representation | None, type[TransferError]]] = {
    "S1 later start": (part("bytes 1-99/1000", 99), (0, 100), None, BadRange),
    "S1 ends before the start": (part("bytes 0-9/1000", 10), (50, 100), None, BadRange),
    "S1 more than 1 MiB early": (
        part(f"bytes 0-{3 * MIB - 1}/{9 * MIB}", 3 * MIB), (MIB + 1, 3 * MIB), None, BadRange),
    "S2 later end": (part("bytes 0-100/1000", 101), (0, 100), None, BadRange),
    "S2 length disagrees": (part("bytes 0-99/1000", 99), (0, 100), None, BadRange),
    "S3 no Content-Range": (made(206, "Content-Length: 100"), (0, 100), None, BadRange),
    "S3 malformed": (part("bytes 99-0/1000", 100), (0, 100), None, BadRange),
    "S3 overflowing": (part("bytes 0-99999999999999999999/1000", 100), (0, 100), None, BadRange),
    "S3 two Content-Ranges": (
        part("bytes 0-99/1000", 100, "Content-Range: bytes 0-99/1000"), (0, 100), None, BadRange),
    "S3 unknown total": (part("bytes 0-99/*", 100), (0, 100), None, BadRange),
    "S3 beyond the known total": (part("bytes 950-1049/*", 100), (950, 1050), KNOWN, BadRange),
    "S4 total changed": (part("bytes 0-99/1001", 100), (0, 100), KNOWN, Changed),
    "S5 multipart": (
        part("bytes 0-99/1000", 100, "Content-Type: Multipart/byteranges; boundary=x"), (0, 100), None, BadRange),
    "206 unasked": (part("bytes 0-99/1000", 100), None, None, BadRange),
    "S9 ETag changed": (part("bytes 0-99/1000", 100, 'ETag: "b"'), (0, 100), KNOWN, Changed),
    "S9 ETag changed, the same date": (
        part("bytes 0-99/1000", 100, 'ETag: "b"', f"Last-Modified: {KNOWN.last_modified}"), (0, 100), KNOWN,
        PerhapsChanged),
    "S9 no validator any more": (part("bytes 0-99/1000", 100), (0, 100), KNOWN, PerhapsChanged),
    "S9 Last-Modified changed": (
        part("bytes 0-99/1000", 100, "Last-Modified: Fri, 02 Jan 2026 00:00:00 GMT"), (0, 100), KNOWN, Changed),
    "S9 200 with another ETag": (made(200, "Content-Length: 1000", 'ETag: "b"'), (0, 100), KNOWN, Changed),
    "200 with another length": (made(200, "Content-Length: 999"), None, KNOWN, Changed),
    "416 with another total": (made(416, "Content-Range: bytes */999"), (1000, None), KNOWN, Changed),
    "416 unasked": (made(416, "Content-Length: 0"), None, None, HttpStatus),
    "S28 gzip": (made(200, "Content-Length: 5", "Content-Encoding: gzip"), None, None, Encoded),
    "S28 206 br": (part("bytes 0-99/1000", 100, "Content-Encoding: br"), (0, 100), None, Encoded),
    "S28 two codings": (
        made(200, "Content-Length: 5", "Content-Encoding: identity", "Content-Encoding: gzip"), None, None, Encoded),
    "S38 204": (made(204), None, None, ProtocolViolation),
    "S38 205": (made(205, "Content-Length: 0"), None, None, ProtocolViolation),
    "S38 304": (made(304), (0, 100), KNOWN, ProtocolViolation),
    "201": (made(201, "Content-Length: 5"), None, None, ProtocolViolation),
    "300": (made(300, "Content-Length: 5"), None, None, HttpStatus),
    "S36 403": (made(403, "Content-Length: 5"), None, None, HttpStatus),
    "S37 404": (made(404, "Content-Encoding: gzip"), None, None, HttpStatus),
    "S37 503": (made(503), (0, 100), KNOWN, HttpStatus),
}  # fmt: skip


@pytest.mark.parametrize("name", BELIEVED)
def test_believed(name: str) -> None:
    head, asked, known, expected = BELIEVED[name]
    answer = judge(head, asked, known)
    assert isinstance(answer, Answer)
    assert (answer.kind, answer.start, answer.end, answer.total) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    head, asked, known, error = REFUSED[name]
    with pytest.raises(error) as caught:
        judge(head, asked, known)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [(401, "auth", False), (403, "auth", False), (404, "not_found", False), (410, "gone", False),
     (400, "http_4xx", False), (408, "http_4xx", True), (429, "rate_limited", True), (500, "http_5xx", True),
     (501, "http_5xx", False),
     (503, "http_5xx", True), (511, "http_5xx", False), (524, "http_5xx", True)],
)  # fmt: skip
def test_s37_status_says_whether_again_helps(status: int, code: str, retryable: bool) -> None:
    with pytest.raises(HttpStatus) as caught:
        judge(made(status, "Content-Length: 0"), None, None)
    assert (caught.value.code, caught.value.retryable, caught.value.status) == (code, retryable, status)


def test_s36_an_expired_redirect_target_is_asked_again_from_the_start() -> None:
    with pytest.raises(HttpStatus) as caught:
        judge(made(403), (0, 100), KNOWN, True)
    assert caught.value.retryable
    with pytest.raises(HttpStatus) as caught:
        judge(made(403), (0, 100), None, True)
    assert not caught.value.retryable


def test_s35_retry_after_counts_from_the_servers_own_date() -> None:
    head = made(503, "Date: Thu, 01 Jan 1970 00:01:00 GMT", "Retry-After: Thu, 01 Jan 1970 00:02:00 GMT")
    with pytest.raises(HttpStatus) as caught:
        judge(head, None, None, now=1e9)
    assert caught.value.retry_after_s == 60.0
    with pytest.raises(HttpStatus) as caught:
        judge(made(429, "Retry-After: 999999999"), None, None)
    assert caught.value.retry_after_s == Config().retry_after_s_max


def test_representation_holds_what_identifies_the_bytes() -> None:
    head = part("bytes 0-4/10", 5, 'ETag: "x"', "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
                "Content-Type: audio/flac", 'Content-Disposition: attachment; filename="a.flac"')  # fmt: skip
    assert representation_of(head) == Representation(
        length=10, etag='"x"', last_modified="Thu, 01 Jan 2026 00:00:00 GMT", ranges=True, content_type="audio/flac",
        name="a.flac",
    )  # fmt: skip
    plain = made(200, "Content-Length: 7", 'ETag: W/"x"', "Last-Modified: yesterday", "Accept-Ranges: bytes")
    assert representation_of(plain) == Representation(length=7, ranges=True)
    assert representation_of(made(200, "Accept-Ranges: none")) == Representation()
