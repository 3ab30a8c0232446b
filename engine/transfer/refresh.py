"""Asking the host for a fresh URL: bounded in time, checked like a caller's own, and never twice at the same time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import trio
from msgspec.structs import replace

from engine.config import Config
from engine.errors import InvalidRequest, NeedsUrl, RefreshFailed
from engine.model.records import DownloadEntry
from engine.model.resolve import Resolve, Resolved, Resolver
from engine.net.expiry import expires_at
from engine.net.fields import check_host_fields
from engine.net.url import Url, parse_url

log = logging.getLogger("engine")

Fields = tuple[tuple[str, str], ...]


class Place(NamedTuple):
    """A URL to ask, and the header fields that go with it. ``named``: by the caller or the host, not by a server.
    ``ends_at``: when it expires (wall time), if that is known."""

    url: Url
    fields: Fields
    named: bool = True
    ends_at: float | None = None

    @classmethod
    def at(cls, url: Url, fields: Fields, *, named: bool = True) -> Place:
        """With what the URL itself says of its end."""
        return cls(url, fields, named, expires_at(url))

    def asks_like(self, other: Place) -> bool:
        """Whether requests to both are the same."""
        return (str(self.url), self.fields) == (str(other.url), other.fields)

    def __repr__(self) -> str:
        return f"Place({self.url!r})"


async def ask_host(resolver: Resolver, entry: DownloadEntry, why: Resolve, own: Place, config: Config) -> Place:
    """A fresh place for the entry from the host's ``resolver``; ``own``: the entry's own URL and fields.

    Raises RefreshFailed when the resolver raises, takes longer than ``resolver_timeout_s`` or returns something
    unusable, NeedsUrl when it has no URL. Its URLs and its exceptions' texts are in no message: they may be signed, in
    their paths too. So of the place, and of those behind it, errors name the origin only.
    """
    log.info("entry %s: the host is asked for a fresh URL (%s)", entry.id, why.value)
    answer: object = None
    with trio.move_on_after(config.resolver_timeout_s) as scope:
        try:
            answer = await resolver(entry, why)
        except Exception as error:
            raise RefreshFailed(f"the host's resolver raised {type(error).__name__}") from error
    if scope.cancelled_caught:
        raise RefreshFailed(f"the host's resolver gave no answer within {config.resolver_timeout_s:g} s")
    if answer is None:
        raise NeedsUrl(f"the URL does not work ({why.value}), and the host's resolver has no other")
    return _checked(answer, own)


def _checked(answer: object, own: Place) -> Place:
    if not isinstance(answer, Resolved):
        raise RefreshFailed(f"the host's resolver returned {type(answer).__name__}, not Resolved")
    try:
        url = replace(parse_url(answer.url), secret=True)
        fields = _fields(answer.headers)
    except (InvalidRequest, TypeError, ValueError) as error:
        raise RefreshFailed("the host's resolver returned a URL or headers that cannot be used") from error
    if fields is None:
        fields = own.fields if url.origin == own.url.origin else ()
    ends_at = answer.expires_at
    if ends_at is not None and (isinstance(ends_at, bool) or not isinstance(ends_at, int | float)):
        raise RefreshFailed("the host's resolver returned an expires_at that is no time")
    return Place(url, fields, ends_at=expires_at(url) if ends_at is None else float(ends_at))


def _fields(given: object) -> Fields | None:
    if given is None:
        return None
    pairs = given.items() if isinstance(given, Mapping) else given
    fields = tuple((name, value) for name, value in pairs)  # type: ignore[attr-defined]  # TypeError is caught
    if not all(isinstance(text, str) for field in fields for text in field):
        raise TypeError("header fields are text")
    check_host_fields(fields)
    return fields
