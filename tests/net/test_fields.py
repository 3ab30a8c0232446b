"""Bounded parsers of field values, and what callers may send."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.net.fields import (
    COUNT_MAX,
    ContentRange,
    check_host_fields,
    disposition_filename,
    parse_content_range,
    parse_count,
    parse_retry_after,
    parse_unsatisfied_total,
    strong_etag,
)

counts = st.integers(0, 2**65)


@given(counts)
def test_count_of_a_number(value: int) -> None:
    assert parse_count(str(value)) == (value if value <= COUNT_MAX else None)


@pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", " 1", "1 ", "0x1", "\uff11", "²", "1.0", "9" * 5000])
def test_m20_not_a_count(text: str) -> None:
    assert parse_count(text) is None


@given(counts, counts, st.one_of(st.none(), counts))
def test_content_range_is_believed_exactly_when_it_is_possible(first: int, last: int, total: int | None) -> None:
    text = f"bytes {first}-{last}/{'*' if total is None else total}"
    possible = first <= last < (COUNT_MAX if total is None else min(total, COUNT_MAX)) and (total or 0) <= COUNT_MAX
    assert parse_content_range(text) == (ContentRange(first, last + 1, total) if possible else None)


@given(st.text(alphabet="bytes 0123456789-/*=,", max_size=30))
def test_content_range_reads_nothing_else(text: str) -> None:
    if parse_content_range(text) is not None:
        assert re.fullmatch(r"bytes \d+-\d+/(\d+|\*)", text)


@pytest.mark.parametrize(
    "text",
    ["", "bytes", "bytes 0-4", "bytes=0-4/5", "bytes 0-4/5, bytes 5-6/7", "bytes */5", "bytes 4-0/5", "bytes 0-5/5",
     "items 0-4/5", "bytes 0 - 4/5", "bytes -4/5", "bytes 0-/5", "bytes  0-4/5", "bytes 0-4/" + "9" * 30,
     "bytes 0-4/\uff15", "bytes 00000000000000000000-4/5"],
)  # fmt: skip
def test_s3_malformed_content_range(text: str) -> None:
    assert parse_content_range(text) is None


def test_unsatisfied_total() -> None:
    assert parse_unsatisfied_total("bytes */1234") == 1234
    assert parse_unsatisfied_total("bytes */*") is None
    assert parse_unsatisfied_total("bytes 0-1/2") is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("120", 120), (" 5 ", 5), ("1000000000", 600), ("9" * 5000, 600), ("-5", None), ("NaN", None),
     ("1e3", None), ("", None), ("soon", None), ("Thu, 01 Jan 1970 00:02:00 GMT", 20),
     ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
     ("Fri, 31 Dec 9999 23:59:59 GMT", 600), ("Thu, 99 Jan 1970 00:00:00 GMT", None), ("x" * 10000, None), ("٣", None)],
)  # fmt: skip
def test_s35_retry_after(text: str, seconds: float | None) -> None:
    assert parse_retry_after(text, now=100.0, longest_s=600.0) == seconds


@pytest.mark.parametrize(
    ("text", "etag"),
    [('"a"', '"a"'), ('""', '""'), ('W/"a"', ""), ("a", ""), ('"a', ""), ('"a"b"', ""), ('"\u00e4"', ""), ('"a b"', ""),
     ('"' + "a" * 255 + '"', "")],
)  # fmt: skip
def test_only_strong_etags(text: str, etag: str) -> None:
    assert strong_etag(text) == etag


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('attachment; filename="a b.mp3"', "a b.mp3"),
        ("attachment; filename=a.mp3", "a.mp3"),
        ("attachment; filename=\"plain.mp3\"; filename*=UTF-8''%e2%82%ac.mp3", "€.mp3"),
        ("attachment; filename*=UTF-8''%e2%82%ac.mp3; filename=plain.mp3", "€.mp3"),
        ("attachment; FILENAME=a", "a"),
        ('attachment; filename="\u00c3\u00a4.mp3"', "ä.mp3"),
        ('attachment; filename="\u00e4.mp3"', "ä.mp3"),
        ('attachment; filename="../../etc/passwd"', "../../etc/passwd"),
        ("attachment; filename*=NOSUCH''%ff", ""), ("attachment; filename*=idna''a..mp4", ""),
        ("attachment; filename*=utf-7''+2AA-.mp4", ""), ("attachment; filename*=iso-8859-1''%e4.mp4", "ä.mp4"),
        ("attachment", ""), ("", ""), ("inline; name=x", ""), ("x" * 5000, ""),
    ],
)  # fmt: skip
def test_disposition(text: str, name: str) -> None:
    assert disposition_filename(text) == name


@given(st.text(alphabet=st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=80))
def test_disposition_survives_anything(tail: str) -> None:
    assert len(disposition_filename("attachment; filename" + tail)) <= 1024


@pytest.mark.parametrize(
    "field",
    [("Host", "x"), ("content-LENGTH", "1"), ("Range", "bytes=0-"), ("Transfer-Encoding", "chunked"), ("If-Range", "x"),
     ("Connection", "close"), ("Accept-Encoding", "gzip"), ("Proxy-Authorization", "x"), ("X-A", "a\r\nB: c"),
     ("X-A", "a\0"), ("X-A", "a\n"), ("X A", "b"), ("", "b"), ("X-A:", "b"), ("X-A", " b"), ("X-A", "ä"), ("X-Ä", "b"),
     ("X\r\nA", "b"), ("X-A", "x" * 20000)],
)  # fmt: skip
def test_m17_m18_refused_fields(field: tuple[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        check_host_fields([("X-Fine", "1"), field])


def test_allowed_fields() -> None:
    check_host_fields([("Authorization", "Bearer x"), ("Cookie", "a=b; c"), ("X-Empty", ""), ("User-Agent", "me/1.0")])
    with pytest.raises(InvalidRequest):
        check_host_fields([("X", "1")] * 65)
