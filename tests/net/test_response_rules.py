"""The response rules of the download anchors (section 5), one row for each of its rows that one head alone decides.

Rows that need a whole engine, because more than one answer decides them, are in ``tests/whole/test_whole_identity.py``
and ``tests/whole/test_whole_urls_that_end.py``; ``ELSEWHERE`` names them, so that no row is forgotten.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.config import Config
from engine.errors import (
    BadRange,
    CaptivePortal,
    Changed,
    Encoded,
    EngineError,
    HttpStatus,
    NeedsUrl,
    PerhapsChanged,
    ProtocolViolation,
)
from engine.model.records import Representation
from engine.model.retry import Loss, policy_of
from engine.model.states import Reason
from engine.net.head import Head, scan_head
from engine.net.response import AnswerKind, judge, representation_of

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
LATER = "Fri, 02 Jan 2026 00:00:00 GMT"
KNOWN = Representation(length=1000, etag='"a"', last_modified=DATE, ranges=True, other_etags=('"c"',))
UNDATED = Representation(length=1000, etag='"a"', ranges=True)
YOUNG = Representation(length=1000, etag='"a"', last_modified=DATE, young=True, ranges=True)
HASHED = Representation(length=1000, ranges=True, digests={"sha256": "00" * 32})
NAKED = Representation(length=1000, ranges=True)
SAME = ('ETag: "a"', f"Last-Modified: {DATE}")
ZEROS = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"
ONES = "sha-256=:" + "/" * 42 + "8=:"
MIB = 1024 * 1024

Asked = tuple[int, int | None] | None
Outcome = type[EngineError] | tuple[AnswerKind, int, int | None]


def head(status: int, *fields: str) -> Head:
    return scan_head("\r\n".join([f"HTTP/1.1 {status} X", *fields, "", ""]).encode("latin-1"), Config())


def part(first: int, last: int, total: int | str = 1000, *fields: str) -> Head:
    size = f"Content-Length: {last - first + 1}"
    return head(206, f"Content-Range: bytes {first}-{last}/{total}", size, *fields)


RANGE, WHOLE, NONE = AnswerKind.RANGE, AnswerKind.WHOLE, AnswerKind.UNSATISFIED

# The row of the anchors' table: cases of (what came, what was asked, what is known) and what it means.
RULES: dict[str, list[tuple[Head, Asked, Representation | None, Outcome]]] = {
    "206 as asked, validators equal": [
        (part(0, 99, 1000, *SAME), (0, 100), KNOWN, (RANGE, 0, 100)),
        (part(0, 99, 1000, SAME[0]), (0, 100), KNOWN, (RANGE, 0, 100)),
        (part(0, 99, 1000, SAME[1]), (0, 100), KNOWN, (RANGE, 0, 100)),
        (part(0, 99, 1000, 'ETag: "c"', SAME[1]), (0, 100), KNOWN, (RANGE, 0, 100)),
        (part(0, 99, 1000, f"Repr-Digest: {ZEROS}"), (0, 100), HASHED, (RANGE, 0, 100)),
    ],
    "206 narrower or shorter": [
        (part(0, 49, 1000, *SAME), (0, 100), KNOWN, (RANGE, 0, 50)),
        (part(0, 0, 1000, *SAME), (0, 100), KNOWN, (RANGE, 0, 1)),
    ],
    "206 starting earlier": [
        (part(5, 99, 1000, *SAME), (50, 100), KNOWN, (RANGE, 5, 100)),
        (part(0, 3 * MIB - 1, 9 * MIB), (MIB, 3 * MIB), None, (RANGE, 0, 3 * MIB)),
        (part(0, 3 * MIB - 1, 9 * MIB), (MIB + 1, 3 * MIB), None, BadRange),
    ],
    "206 other start, total changed, multipart, no Content-Range": [
        (part(1, 99, 1000, *SAME), (0, 100), KNOWN, BadRange),
        (part(200, 299, 1000, *SAME), (0, 100), KNOWN, BadRange),
        (part(0, 199, 1000, *SAME), (0, 100), KNOWN, BadRange),
        (part(0, 99, 1001, *SAME), (0, 100), KNOWN, Changed),
        (part(0, 99, 1000, *SAME, "Content-Type: multipart/byteranges; boundary=b"), (0, 100), KNOWN, BadRange),
        (head(206, "Content-Length: 100", *SAME), (0, 100), KNOWN, BadRange),
        (head(206, "Content-Range: bytes 0-99/1000", "Content-Length: 50", *SAME), (0, 100), KNOWN, BadRange),
    ],
    "strong ETag changed, same total and Last-Modified": [
        (part(0, 99, 1000, 'ETag: "b"', SAME[1]), (0, 100), KNOWN, PerhapsChanged),
        (head(200, "Content-Length: 1000", 'ETag: "b"', SAME[1]), None, KNOWN, PerhapsChanged),
        (part(0, 99, 1000, 'ETag: "b"'), (0, 100), UNDATED, Changed),
        (part(0, 99, 1000, 'ETag: "b"', SAME[1]), (0, 100), YOUNG, Changed),
    ],
    "total or Last-Modified changed": [
        (part(0, 99, 999, *SAME), (0, 100), KNOWN, Changed),
        (head(200, "Content-Length: 999", *SAME), None, KNOWN, Changed),
        (part(0, 99, 1000, SAME[0], f"Last-Modified: {LATER}"), (0, 100), KNOWN, Changed),
        (part(0, 99, 1000, f"Last-Modified: {LATER}"), (0, 100), KNOWN, Changed),
        (part(0, 99, 1000, f"Repr-Digest: {ONES}"), (0, 100), HASHED, Changed),
    ],
    "no strong validator at all": [
        (part(0, 99, 1000), (0, 100), NAKED, (RANGE, 0, 100)),
        (part(0, 99, 1000, 'ETag: W/"x"'), (0, 100), NAKED, (RANGE, 0, 100)),
        (part(0, 99, 1000), (0, 100), KNOWN, PerhapsChanged),
        (part(0, 99, 1000, 'ETag: W/"a"'), (0, 100), KNOWN, PerhapsChanged),
        (part(0, 99, 1000, SAME[1]), (0, 100), YOUNG, PerhapsChanged),
    ],
    "200 to a Range": [
        (head(200, "Content-Length: 1000", *SAME), (0, 100), None, (WHOLE, 0, 1000)),
        (head(200, "Content-Length: 1000", *SAME), (500, 600), KNOWN, (WHOLE, 0, 1000)),
        (head(200, "Content-Length: 1000", f"Last-Modified: {LATER}"), (500, 600), KNOWN, Changed),
    ],
    "416": [
        (head(416, "Content-Range: bytes */1000"), (1000, None), KNOWN, (NONE, 0, 0)),
        (head(416, "Content-Range: bytes */999"), (999, None), KNOWN, Changed),
        (head(416), (999, None), KNOWN, (NONE, 0, 0)),
    ],
    "Content-Encoding though identity was asked for": [
        (part(0, 99, 1000, *SAME, "Content-Encoding: gzip"), (0, 100), KNOWN, Encoded),
        (head(200, "Content-Length: 9", "Content-Encoding: br"), None, None, Encoded),
        (part(0, 99, 1000, *SAME, "Content-Encoding: identity"), (0, 100), KNOWN, (RANGE, 0, 100)),
    ],
    "chunked or no length": [
        (head(200, "Transfer-Encoding: chunked", *SAME), None, None, (WHOLE, 0, None)),
        (head(200), None, None, (WHOLE, 0, None)),
    ],
    "401, 403, 404, 410": [
        *((head(status), (0, 100), KNOWN, HttpStatus) for status in (401, 403, 404, 410)),
        (head(304), (0, 100), KNOWN, ProtocolViolation),
    ],
}

ELSEWHERE: dict[str, str] = {
    "If-Range on the first resume request only": "test_if_range_is_sent_once_and_only_with_a_strong_etag",
    "302, 303, 307: the final URL kept in memory": "test_spans_ask_the_final_url",
    "length short at EOF": "test_a_stream_cut_short_is_not_complete",
    "ENOSPC, EDQUOT, EROFS, EIO": "test_whole_disk",
    "CV or digest mismatch": "test_a_corrupt_range_is_fetched_again",
}

CASES = [(row, case) for row, cases in RULES.items() for case in cases]


@pytest.mark.parametrize(("row", "case"), CASES, ids=[row for row, _ in CASES])
def test_what_an_answer_means(row: str, case: tuple[Head, Asked, Representation | None, Outcome]) -> None:
    came, asked, known, outcome = case
    if isinstance(outcome, tuple):
        answer = judge(came, asked, known)
        assert (answer.kind, answer.start, answer.end) == outcome
        return
    with pytest.raises(outcome) as caught:
        judge(came, asked, known)
    assert type(caught.value) is outcome


@pytest.mark.parametrize(("row", "name"), ELSEWHERE.items())
def test_the_other_rows_have_tests(row: str, name: str) -> None:
    """A row whose test went away, or got another name, has to be looked at."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("test_*.py")}
    assert name in texts or any(re.search(rf"def {name}\b", text) for text in texts.values()), row


DATED: list[tuple[str, tuple[str, ...], bool]] = [
    ("a minute before its Date", (f"Last-Modified: {DATE}", "Date: Thu, 01 Jan 2026 00:01:00 GMT"), False),
    ("a second less", (f"Last-Modified: {DATE}", "Date: Thu, 01 Jan 2026 00:00:59 GMT"), True),
    ("in the future", (f"Last-Modified: {LATER}", f"Date: {DATE}"), True),
    ("without a Date, by our own clock", (f"Last-Modified: {DATE}",), False),
    ("without a Last-Modified", (f"Date: {DATE}",), False),
]


@pytest.mark.parametrize(("fields", "young"), [row[1:] for row in DATED], ids=[row[0] for row in DATED])
def test_s8_a_date_counts_only_when_its_second_was_long_over(fields: tuple[str, ...], young: bool) -> None:
    """RFC 9110, 8.8.2.2, with a margin of 60 s."""
    seen = representation_of(head(200, "Content-Length: 5", *fields), now=1.8e9)
    assert seen.young is young
    assert seen.comparable == (not young and bool(seen.last_modified))
    assert representation_of(head(200, "Content-Length: 5", *fields, 'ETag: "x"'), now=1.8e9).comparable


@pytest.mark.parametrize("etag", ['W/"a"', '"a', 'a"', "a", "", '"a b"', '"' + "a" * 255 + '"'])
def test_only_a_strong_etag_is_one(etag: str) -> None:
    assert representation_of(head(200, "Content-Length: 5", f"ETag: {etag}")).etag == ""


def test_an_etag_alone_raises_a_doubt_that_names_it() -> None:
    with pytest.raises(PerhapsChanged) as caught:
        judge(part(0, 99, 1000, 'ETag: "b"', SAME[1]), (0, 100), KNOWN)
    assert caught.value.etag == '"b"'
    with pytest.raises(PerhapsChanged) as caught:
        judge(part(0, 99, 1000), (0, 100), KNOWN)
    assert caught.value.etag == ""


def test_what_waits_for_a_url_is_parked_and_a_portal_costs_no_try() -> None:
    assert policy_of(NeedsUrl("x")).parks is Reason.NEEDS_URL
    assert policy_of(CaptivePortal("x")).loss is Loss.CERTAIN
