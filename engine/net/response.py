"""What an answer means, decided before any byte of it is written (the response rules of the download anchors)."""

from __future__ import annotations

import time
from enum import Enum

import msgspec

from engine.config import DEFAULT_CONFIG, MIB, Config
from engine.errors import BadRange, Changed, Encoded, HttpStatus, PerhapsChanged, ProtocolViolation
from engine.model.records import Representation
from engine.net.digest_fields import whole_digests
from engine.net.fields import (
    disposition_filename,
    parse_content_range,
    parse_date,
    parse_retry_after,
    parse_unsatisfied_total,
    strong_etag,
)
from engine.net.head import Framing, Head

SKIP_BYTES_MAX = 1 * MIB  # a range that starts this much early is still cheaper to skip than to ask for again
TEXT_CHARS_MAX = 255

# A date tells versions apart only when the second that it names was long over (RFC 9110, 8.8.2.2).
YOUNG_S = 60.0

# A redirect target may have expired although the URL itself is fine: asking again from the start may help.
SPENT_STATUSES = frozenset({401, 403, 404, 410})


class AnswerKind(Enum):
    """What the body is."""

    RANGE = "range"  # the bytes [start, end)
    WHOLE = "whole"  # everything, from 0
    UNSATISFIED = "unsatisfied"  # nothing: no byte of the range exists


class Answer(msgspec.Struct, frozen=True):
    """The body is the bytes ``[start, end)`` of ``total``; None where the server does not say. ``start`` may lie up to
    1 MiB before what was asked: skip that much. ``representation`` has whatever identifies the bytes."""

    kind: AnswerKind
    start: int
    end: int | None
    total: int | None
    representation: Representation


def representation_of(head: Head, now: float | None = None) -> Representation:
    """What ``head`` says of the bytes: only a strong ETag, only a stated length. The name is the raw one of its
    Content-Disposition, fit for nothing until it is made safe. ``now`` stands in for a Date that it lacks."""
    content_range = parse_content_range(head.get("content-range")) if head.status == 206 else None
    length = content_range.total if content_range else None
    if head.status == 200 and head.framing is Framing.LENGTH:
        length = head.length
    last_modified = head.get("last-modified")
    modified_at = parse_date(last_modified)
    accepts = head.get("accept-ranges").lower()
    return Representation(
        length=length,
        etag=strong_etag(head.get("etag")),
        last_modified=last_modified if modified_at is not None else "",
        ranges=head.status == 206 or accepts == "bytes",
        content_type=head.get("content-type")[:TEXT_CHARS_MAX],
        name=disposition_filename(head.get("content-disposition")),
        young=modified_at is not None and modified_at + YOUNG_S > _seen_at(head, now),
        digests=whole_digests(head),
    )


def judge(
    head: Head,
    asked: tuple[int, int | None] | None,
    known: Representation | None,
    final_redirected: bool = False,
    *,
    config: Config = DEFAULT_CONFIG,
    now: float | None = None,
) -> Answer:
    """What ``head`` answers to the range ``asked`` (``[start, end)``, None: everything) when the bytes so far are
    ``known``; ``final_redirected``: it came from another URL than the source's own.

    Raises, before anything is read: BadRange, Changed (PerhapsChanged when only the ETag tells so), Encoded,
    ProtocolViolation, HttpStatus (with Retry-After, reckoned from the head's own Date or else ``now``)."""
    if head.status in (200, 206):
        _check_coding(head)
        seen = representation_of(head, now)
        return _judge_range(head, asked, known, seen) if head.status == 206 else _judge_whole(known, seen)
    if head.status == 416 and asked is not None:
        total = parse_unsatisfied_total(head.get("content-range"))
        _check_total(total, known)
        return Answer(AnswerKind.UNSATISFIED, 0, 0, total, representation_of(head, now))
    if head.status < 300 or head.status in (304, 305, 306):
        raise ProtocolViolation(f"the answer {head.status} carries no media and was not asked for", status=head.status)
    error = HttpStatus(
        f"the server answered {head.status}",
        status=head.status,
        retry_after_s=retry_after(head, config, now),
    )
    if final_redirected and known is not None and head.status in SPENT_STATUSES:
        error.retryable = True  # type: ignore[misc]  # per answer, as the status's own
    raise error


def _judge_whole(known: Representation | None, seen: Representation) -> Answer:
    _check_same(seen, known)
    return Answer(AnswerKind.WHOLE, 0, seen.length, seen.length, seen)


def _judge_range(
    head: Head, asked: tuple[int, int | None] | None, known: Representation | None, seen: Representation
) -> Answer:
    if asked is None:
        raise BadRange("the server sent a part although everything was asked for", status=206)
    if head.get("content-type").lower().startswith("multipart/"):
        raise BadRange("the server sent several ranges although one was asked for", status=206)
    given = parse_content_range(head.get("content-range"))
    if given is None:
        raise BadRange("the server sent a part without saying which", status=206)
    if head.length is not None and head.length != given.end - given.start:
        raise BadRange(f"the part is said to be {given.end - given.start} bytes and {head.length} bytes", status=206)
    total = given.total if given.total is not None else known.length if known else None
    if total is None:
        raise BadRange("the server sent a part without saying of how much", status=206)
    _check_total(total, known)
    start, end = asked
    if given.end > total or (end is not None and given.end > end):
        raise BadRange(f"bytes up to {given.end} came, up to {end or total} were asked for", status=206)
    if not start - SKIP_BYTES_MAX <= given.start <= start < given.end:
        raise BadRange(f"bytes from {given.start} came, from {start} were asked for", status=206)
    _check_same(seen, known)
    return Answer(AnswerKind.RANGE, given.start, given.end, total, seen)


def _check_coding(head: Head) -> None:
    codings = [value for value in head.get_all("content-encoding") if value.lower() not in ("", "identity")]
    if codings:
        raise Encoded(
            f"the body is compressed ({codings[0][:40]!r}) although identity was asked for", status=head.status
        )


def _check_same(seen: Representation, known: Representation | None) -> None:
    """Two answers are of the same bytes when something that both state shows it; old and new are never mixed (law 3).

    Raises Changed for another length, digest or date, or another ETag alone. Beside a date that stayed, another ETag
    may be another server's of the same site; and an answer that states no validator of before shows nothing: both are
    PerhapsChanged.
    """
    if known is None:
        return
    _check_total(seen.length, known)
    for name in known.digests.keys() & seen.digests.keys():
        if known.digests[name] != seen.digests[name]:
            raise Changed(f"the source changed: its {name} was {known.digests[name]}, now it is {seen.digests[name]}")
    dated = bool(known.last_modified and seen.last_modified)
    if dated and known.last_modified != seen.last_modified:
        raise Changed(
            f"the source changed: its Last-Modified was {known.last_modified}, now it is {seen.last_modified}"
        )
    dated = dated and not known.young
    tagged = bool(known.etag and seen.etag)
    if tagged and seen.etag not in (known.etag, *known.other_etags):
        what = f"its ETag was {known.etag}, now it is {seen.etag}"
        if not dated:
            raise Changed(f"the source changed: {what}")
        raise PerhapsChanged(f"the source may have changed: {what}", etag=seen.etag)
    if known.comparable and not (tagged or dated or known.digests.keys() & seen.digests.keys()):
        raise PerhapsChanged("the source does not state any more what would show that its bytes are the same", etag="")


def _check_total(total: int | None, known: Representation | None) -> None:
    if known is not None and None not in (total, known.length) and total != known.length:
        raise Changed(f"the source changed: it was {known.length} bytes long, now it is {total}")


def retry_after(head: Head, config: Config, now: float | None = None) -> float | None:
    """How long the server wants to be left alone, in seconds, clamped (S35); None when it does not say."""
    text = head.get("retry-after")
    if not text:
        return None
    return parse_retry_after(text, now=_seen_at(head, now), longest_s=config.retry_after_s_max)


def _seen_at(head: Head, now: float | None) -> float:
    """When the answer was made, by its own clock if it says."""
    seen_at = parse_date(head.get("date"))
    if seen_at is None:
        return time.time() if now is None else now
    return seen_at
