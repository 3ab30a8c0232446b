"""Whether an answer is the kind of thing that was asked for: a page in place of media is found out by its head alone.

A network that wants a login answers for every host; what it cannot do is answer for one over https. So a page is taken
for the network's only where it can be, and for the server's own otherwise.
"""

from __future__ import annotations

import re

import msgspec

from engine.errors import CaptivePortal, WrongType
from engine.files.names import HARMLESS_EXTENSIONS
from engine.net.head import Head
from engine.net.url import Url

LOGIN_REQUIRED = 511
MEDIA_TYPES_MAX = 32

PAGES = frozenset({"text/html", "application/xhtml+xml"})
# What servers say when they do not know.
UNTOLD = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/unknown"})
# Names of text say little: servers show many such files as pages.
TEXT_EXTENSIONS = frozenset(
    {"txt", "csv", "json", "log", "md", "toml", "tsv", "xml", "yaml", "yml", "sha1", "sha256", "sha512", "sig", "key"}
    | {"lic", "dat"}
)
MEDIA_EXTENSIONS = HARMLESS_EXTENSIONS - TEXT_EXTENSIONS

_NAME = r"[a-z0-9!#$&^_.+\-]{1,127}"
_MEDIA_RANGE = re.compile(rf"(?:\*/\*|{_NAME}/(?:\*|{_NAME}))", re.ASCII)


class Wanted(msgspec.Struct, frozen=True):
    """What is known of the thing before its answer. ``types``: the caller's word, like ``audio/*``; nothing else counts
    then. ``before``: the Content-Type of the bytes that are held already. ``named``: its own URL has a name of
    media."""

    types: tuple[str, ...] = ()
    before: str = ""
    named: bool = False


def essence(content_type: str) -> str:
    """``text/html; charset=x`` as ``text/html``."""
    return content_type.partition(";")[0].strip().lower()


def is_media_range(text: str) -> bool:
    """Whether it is a type like ``audio/flac``, ``audio/*`` or ``*/*``, in lower case."""
    return _MEDIA_RANGE.fullmatch(text) is not None


def check_media_type(head: Head, asked: Url, answered: Url, wanted: Wanted) -> None:
    """Raise CaptivePortal or WrongType when ``head`` brings a page, or another type than was wanted.

    A URL that promises no media, for a caller who named no type, may be a page. A 511 that only the host itself can
    have sent is a status like any other, and :func:`engine.net.response.judge` tells it.
    """
    proved = asked.scheme == "https" or (answered.scheme == "https" and answered.host == asked.host)
    if head.status == LOGIN_REQUIRED and not proved:
        raise CaptivePortal("the network wants a login before it lets anything through", status=head.status)
    if head.status not in (200, 206):
        return
    kind = essence(head.get("content-type"))
    if kind in UNTOLD or _fits(kind, asked, answered, wanted):
        return
    if kind in PAGES and _may_be_the_networks(asked, answered, wanted):
        raise CaptivePortal(
            f"a page of {answered.host} came in place of {asked.redacted()}, as from a network that wants a login",
            status=head.status,
        )
    expected = ", ".join(wanted.types) or essence(wanted.before) or "media"
    raise WrongType(f"{answered.redacted()} has the type {kind[:80]!r}, expected {expected}", status=head.status)


def _fits(kind: str, asked: Url, answered: Url, wanted: Wanted) -> bool:
    if wanted.types:
        return any(_matches(kind, pattern) for pattern in wanted.types)
    if kind not in PAGES:
        return True
    before = essence(wanted.before)
    if before:
        return before in PAGES
    return not (wanted.named or names_media(asked) or names_media(answered))


def _matches(kind: str, pattern: str) -> bool:
    return pattern in {"*/*", kind} or (pattern.endswith("/*") and kind.startswith(pattern[:-1]))


def names_media(url: Url) -> bool:
    """Whether the URL promises media by its extension."""
    return url.last_segment.rpartition(".")[2].lower() in MEDIA_EXTENSIONS


def _may_be_the_networks(asked: Url, answered: Url, wanted: Wanted) -> bool:
    """A box on the way can only answer for plain http: with a redirect to itself, or in place of a file that was there
    before."""
    if asked.scheme != "http":
        return False
    if answered.host != asked.host:
        return True
    return answered == asked and essence(wanted.before) not in PAGES | UNTOLD
