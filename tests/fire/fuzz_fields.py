"""Fuzz targets for values of header fields and for names: each is compared with a second, plainer reading."""

from __future__ import annotations

import base64
import math
import os
import random
import re
import tempfile
import unicodedata
import zlib
from functools import cache

from engine.config import Config
from engine.errors import EngineError, InvalidRequest
from engine.files.names import DEFAULT_NAME, HARMLESS_EXTENSIONS, HARMLESS_SUFFIX, NAME_BYTES_MAX, safe_name, with_tag
from engine.model.records import Representation
from engine.net.digest_fields import MD5_BYTES, parse_content_md5, parse_digests
from engine.net.expiry import EARLIEST_S, LATEST_S, expires_at
from engine.net.fields import (
    COUNT_MAX,
    DISPOSITION_CHARS_MAX,
    NAME_CHARS_MAX,
    ContentRange,
    disposition_filename,
    parse_content_range,
    parse_count,
    parse_date,
    parse_retry_after,
    parse_unsatisfied_total,
)
from engine.net.head import scan_head
from engine.net.response import SKIP_BYTES_MAX, AnswerKind, judge
from engine.net.url import parse_url

CONFIG = Config()
DIGITS = frozenset("0123456789")


def rng_of(data: bytes) -> random.Random:
    """Choices beside the input, the same each time it is played."""
    return random.Random(zlib.crc32(data))


def _count(text: str) -> int | None:
    if not 1 <= len(text) <= 19 or not set(text) <= DIGITS:
        return None
    return int(text) if int(text) <= COUNT_MAX else None


def _range(text: str) -> ContentRange | None:
    if text[:6].lower() != "bytes ":
        return None
    span, slash, of = text[6:].partition("/")
    first, dash, last = span.partition("-")
    low, high, total = _count(first), _count(last), _count(of)
    if not slash or not dash or low is None or high is None or low > high or high == COUNT_MAX:
        return None
    if of != "*" and (total is None or high >= total):
        return None
    return ContentRange(low, high + 1, total)


def content_range(data: bytes) -> None:
    """Content-Range: what is believed is what a plain reading gives, and an answer built on it fits what was asked."""
    text = data.decode("latin-1")
    found = parse_content_range(text)
    assert found == _range(text)
    assert parse_count(text) == _count(text)
    total = parse_unsatisfied_total(text)
    assert total is None or (text.lower() == f"bytes */{text[8:]}" and total == _count(text[8:]))
    rng = rng_of(data)
    try:
        head = scan_head(b"HTTP/1.1 206 P\r\nContent-Range: %b\r\n\r\n" % data, CONFIG)
    except EngineError:
        return
    start = rng.choice([0, 5, found.start if found else 1])
    asked = (start, rng.choice([None, start + 1, found.end if found else 9, start + 4 * SKIP_BYTES_MAX]))
    known = rng.choice([None, Representation(length=9), Representation(length=found.total if found else None)])
    try:
        answer = judge(head, asked, known, now=1e9)
    except EngineError:
        return
    assert answer.kind is AnswerKind.RANGE
    assert answer.end is not None
    assert answer.total is not None
    assert answer.start <= asked[0] < answer.end <= answer.total
    assert asked[0] - answer.start <= SKIP_BYTES_MAX
    assert asked[1] is None or answer.end <= asked[1]
    assert known is None or known.length in (None, answer.total)


_PLAIN_DISPOSITION = re.compile(r'attachment; filename="([A-Za-z0-9 ._-]*)"', re.ASCII)
_TAG = "1f2e3d4c"


@cache
def _folder() -> tuple[tempfile.TemporaryDirectory[str], int]:
    folder = tempfile.TemporaryDirectory(prefix="fuzz-names-", dir="/dev/shm")
    return folder, os.open(folder.name, os.O_RDONLY | os.O_DIRECTORY)


def check_name(name: str) -> None:
    """Whatever came in, a file of this name can be made, and it is harmless."""
    stem, dot, extension = name.rpartition(".")
    known = extension.lower() in HARMLESS_EXTENSIONS or f".{extension}" == HARMLESS_SUFFIX
    assert name == DEFAULT_NAME or not dot or not stem or known or len(extension) > 16
    _check_component(name)
    _, place = _folder()
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, dir_fd=place))
    assert os.listdir(place) == [name]
    os.unlink(name, dir_fd=place)


def check_folder(name: str) -> None:
    """Whatever came in, a folder of this name can be made, and no desktop takes it for a program."""
    _, dot, extension = name.rpartition(".")
    assert not dot or len(extension) > 16 or not extension.isalnum() or extension.isdecimal()
    _check_component(name)
    _, place = _folder()
    os.mkdir(name, dir_fd=place)
    os.rmdir(name, dir_fd=place)


def _check_component(name: str) -> None:
    assert 0 < len(name.encode()) <= NAME_BYTES_MAX
    assert name[0] not in ".-~ "
    assert name[-1] not in ". "
    assert not set(name) & set('/\\:*?"<>|')
    assert not any(unicodedata.category(char)[0] == "C" or unicodedata.category(char) in {"Zl", "Zp"} for char in name)
    assert name.split(".", maxsplit=1)[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


def disposition(data: bytes) -> None:
    """Content-Disposition and names: bounded text, and a name that is safe wherever it stands."""
    text = data.decode("latin-1")
    offered = disposition_filename(text)
    assert len(offered) <= NAME_CHARS_MAX
    offered.encode()
    plain = _PLAIN_DISPOSITION.fullmatch(text) if len(text) <= DISPOSITION_CHARS_MAX else None
    assert plain is None or offered == plain[1][:NAME_CHARS_MAX]
    for given in (offered, text, data.decode(errors="replace"), data.decode(errors="surrogateescape")):
        name = safe_name(given)
        check_name(name)
        check_name(with_tag(name, _TAG))


_FIXDATE = re.compile(
    r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), (0[1-9]|1[0-9]|2[0-8]) (Jan|Feb|Mar) (19[7-9][0-9]|20[0-9]{2})"
    r" ([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]) GMT",
    re.ASCII,
)
_MONTH_STARTS = {"Jan": 0, "Feb": 31, "Mar": 59}


def _fixed_date(text: str) -> float | None:
    """Days counted by hand, for a quarter of all proper dates."""
    match = _FIXDATE.fullmatch(text)
    if match is None:
        return None
    year = int(match[4])
    leaps = sum(1 for y in range(1970, year) if y % 4 == 0 and (y % 100 != 0 or y % 400 == 0))
    leap_day = match[3] == "Mar" and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    days = (year - 1970) * 365 + leaps + _MONTH_STARTS[match[3]] + leap_day + int(match[2]) - 1
    return float(days * 86400 + int(match[5]) * 3600 + int(match[6]) * 60 + int(match[7]))


def times(data: bytes) -> None:
    """Retry-After, HTTP dates, and the ends of signed URLs: inside their bounds, and as counted by hand."""
    text = data.decode("latin-1")
    date = parse_date(text)
    assert date is None or math.isfinite(date)
    assert _fixed_date(text) in (None, date)
    for now in (0.0, 1.7e9):
        wait = parse_retry_after(text, now=now, longest_s=CONFIG.retry_after_s_max)
        assert wait is None or 0 <= wait <= CONFIG.retry_after_s_max
        if set(text) <= DIGITS and text:
            assert wait == min(int(text) if len(text) <= 19 else math.inf, CONFIG.retry_after_s_max)
    try:
        url = parse_url("https://a.example/x?" + text)
    except InvalidRequest:
        return
    end = expires_at(url)
    assert end is None or EARLIEST_S <= end <= LATEST_S


def digests(data: bytes) -> None:
    """Repr-Digest, Content-Digest, Content-MD5: only whole digests that stand in the text."""
    text = data.decode("latin-1")
    sizes = {"sha256": 32, "sha512": 64}
    for algorithm, value in parse_digests(text).items():
        raw = bytes.fromhex(value)
        assert len(raw) == sizes[algorithm]
        assert f"sha-{algorithm[3:]}=:" in text
        assert any(raw == base64.b64decode(part) for part in text.split(":")[1::2] if _is_base64(part))
    md5 = parse_content_md5(text)
    assert md5 == "" or base64.b64decode(text, validate=True).hex() == md5
    assert len(md5) in (0, 2 * MD5_BYTES)


def _is_base64(text: str) -> bool:
    return len(text) % 4 == 0 and re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", text, re.ASCII) is not None
