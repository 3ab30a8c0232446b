"""Values of header fields: bounded, ASCII-only parsers (M20), and what a caller may put into a request (M17, M18)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC
from email.utils import collapse_rfc2231_value, parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from engine.errors import InvalidRequest

if TYPE_CHECKING:
    from email.message import Message

COUNT_DIGITS_MAX = 19  # below 2**63 is checked apart; more digits are never a size
COUNT_MAX = 2**63 - 1
DISPOSITION_CHARS_MAX = 4096
NAME_CHARS_MAX = 1024
CALLER_FIELDS_MAX = 64
CALLER_BYTES_MAX = 16 * 1024

# The engine decides these itself: they are the framing, the routing, the range, or belong to the connection (M18).
RESERVED_NAMES = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e\t]*", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII | re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes \*/([0-9]{1,19})", re.ASCII | re.IGNORECASE)
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,254}"', re.ASCII)


class ContentRange(msgspec.Struct, frozen=True):
    """``bytes a-b/t`` as the half-open ``[start, end)``; ``total`` is None for ``*``."""

    start: int
    end: int
    total: int | None


def parse_count(text: str, *, digits_max: int = COUNT_DIGITS_MAX) -> int | None:
    """A non-negative decimal number of ASCII digits below 2**63, or None: no sign, space or other digits."""
    if not 0 < len(text) <= digits_max or not text.isascii() or not text.isdigit():
        return None
    value = int(text)
    return value if value <= COUNT_MAX else None


def parse_content_range(text: str) -> ContentRange | None:
    """The range of a 206, or None when it is malformed, backwards, or reaches beyond its total."""
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    first, last = parse_count(match[1]), parse_count(match[2])
    total = None if match[3] == "*" else parse_count(match[3])
    if first is None or last is None or first > last or last == COUNT_MAX:
        return None
    if match[3] != "*" and (total is None or last >= total):
        return None
    return ContentRange(first, last + 1, total)


def parse_unsatisfied_total(text: str) -> int | None:
    """The total in a 416's ``bytes */N``, or None."""
    match = _UNSATISFIED.fullmatch(text)
    return parse_count(match[1]) if match else None


def parse_retry_after(text: str, *, now: float, longest_s: float) -> float | None:
    """Seconds to wait, in ``[0, longest_s]``, from seconds or an HTTP date seen at ``now`` (seconds since the epoch).
    None when there is nothing usable (S35)."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        seconds = parse_count(text)
        return longest_s if seconds is None else min(float(seconds), longest_s)
    then = parse_date(text)
    return None if then is None else min(max(then - now, 0.0), longest_s)


@lru_cache(maxsize=256)  # a server's files share their dates, and its answers of one second theirs
def parse_date(text: str) -> float | None:
    """An HTTP date as seconds since the epoch, or None. One without a zone (the form of C's asctime) is in GMT."""
    if not 0 < len(text) <= 64 or not text.isascii():
        return None
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def strong_etag(text: str) -> str:
    """The entity tag with its quotes when it is a strong one, else empty: a weak one identifies no bytes."""
    return text if _STRONG_ETAG.fullmatch(text) else ""


# Those that RFC 8187 lets a sender use, and ASCII. Python knows a hundred more, some of which raise or decode to
# half characters.
EXTENDED_CHARSETS = frozenset({"utf-8", "iso-8859-1", "us-ascii"})


def disposition_filename(text: str) -> str:
    """The file name a Content-Disposition asks for, ``filename*`` preferred; empty without one. Raw: it may hold
    anything and is never used as it is."""
    if not text or len(text) > DISPOSITION_CHARS_MAX:
        return ""
    from email.message import Message  # noqa: PLC0415  # slow to import, and for few answers

    message = Message()
    message["Content-Disposition"] = text
    found: list[str | tuple[str | None, str | None, str]] = [
        value for key, value in _parameters(message) if key.lower() == "filename"
    ]
    found.sort(key=lambda value: not isinstance(value, tuple))  # the extended form arrives as (charset, language, text)
    if not found:
        return ""
    first = found[0]
    if not isinstance(first, tuple):
        name = _utf8_if_it_is(first)
    elif (first[0] or "us-ascii").lower() in EXTENDED_CHARSETS:
        name = collapse_rfc2231_value(first)
    else:
        return ""
    return name[:NAME_CHARS_MAX] if _is_text(name) else ""


def _parameters(message: Message) -> list[tuple[str, str | tuple[str | None, str | None, str]]]:
    """The field's parameters; none where it is so malformed that Python's parser fails on it with whatever comes
    (numbered pieces beside one without a number)."""
    try:
        return [*message.get_params([], "content-disposition")]
    except (TypeError, ValueError, IndexError, AttributeError):
        return []


def _is_text(name: str) -> bool:
    """Whether UTF-8 can hold it: no half of a surrogate pair."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def _utf8_if_it_is(text: str) -> str:
    """Head values hold one character per byte; many servers put plain UTF-8 there."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def check_host_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Raises InvalidRequest unless every (name, value) may be sent for the caller: a token and visible ASCII, no
    CR, LF or NUL, no name that the engine sets itself, bounded in number and size."""
    if len(fields) > CALLER_FIELDS_MAX or sum(len(name) + len(value) for name, value in fields) > CALLER_BYTES_MAX:
        raise InvalidRequest(f"more than {CALLER_FIELDS_MAX} headers, or more than {CALLER_BYTES_MAX} bytes of them")
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            raise InvalidRequest(f"{name[:64]!r} is not a header name")
        if name.lower() in RESERVED_NAMES:
            raise InvalidRequest(f"the header {name} is set by the engine and cannot be given")
        if not _VALUE.fullmatch(value) or value != value.strip():
            raise InvalidRequest(f"the value of the header {name} holds characters that cannot be sent")
