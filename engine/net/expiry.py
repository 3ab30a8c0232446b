"""When a signed URL ends, as far as it says so itself: its query is read as the common signers write it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from engine.net.fields import parse_count
from engine.net.url import Url

# Times below and above are no times of day: a small number is something else's count.
EARLIEST_S = 1_000_000_000
LATEST_S = 32_503_680_000  # the year 3000
PARAMETERS_MAX = 100

# Begin and length, both parts of one signature.
_SPANS = (("x-amz-date", "x-amz-expires"), ("x-goog-date", "x-goog-expires"))
# Seconds since the epoch: Amazon and Google (older), CloudFront, many others.
_MOMENTS = ("expires", "exp", "expiry", "e")
_AZURE = "se"
_COMPACT = "%Y%m%dT%H%M%SZ"
_AKAMAI = re.compile(r"(?:^|~)exp=([0-9]{1,11})(?:~|$)", re.ASCII)
_COMPACT_FORM = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)
_ISO_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}:[0-9]{2}(?::[0-9]{2})?Z)?", re.ASCII)


def expires_at(url: Url) -> float | None:
    """When ``url`` ends, in seconds since the epoch; None when it does not say."""
    query = url.target.partition("?")[2]
    if not query:
        return None
    given: dict[str, str] = {}
    for pair in query.split("&")[:PARAMETERS_MAX]:
        name, _, value = pair.partition("=")
        given.setdefault(unquote(name).lower(), unquote(value))
    ends = [end for end in _ends(given) if end is not None and EARLIEST_S <= end <= LATEST_S]
    return min(ends, default=None)


def _ends(given: dict[str, str]) -> list[float | None]:
    ends: list[float | None] = [_after(given.get(begin), given.get(length)) for begin, length in _SPANS]
    ends += [_moment(given.get(name)) for name in _MOMENTS]
    if "sig" in given:
        ends.append(_iso(given.get(_AZURE)))
    for value in given.values():
        found = _AKAMAI.search(value) if "exp=" in value else None
        if found is not None:
            ends.append(_moment(found[1]))
    return ends


def _after(begin: str | None, length: str | None) -> float | None:
    seconds = parse_count(length or "", digits_max=9)
    if seconds is None or begin is None or _COMPACT_FORM.fullmatch(begin) is None:
        return None
    try:
        start = datetime.strptime(begin, _COMPACT).replace(tzinfo=UTC)
        return (start + timedelta(seconds=seconds)).timestamp()
    except (ValueError, OverflowError):
        return None


def _moment(text: str | None) -> float | None:
    seconds = parse_count(text or "", digits_max=11)
    return None if seconds is None else float(seconds)


def _iso(text: str | None) -> float | None:
    if text is None or _ISO_FORM.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
