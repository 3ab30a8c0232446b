"""What a host is asked, and answers, when a URL has to be replaced by a fresh one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum

import msgspec

from engine.model.records import DownloadEntry


class Resolve(StrEnum):
    """Why a fresh URL is asked for."""

    EXPIRING = "expiring"  # the present one says that it ends soon, or has ended
    REFUSED = "refused"  # the server answered 401, 403, 404 or 410 to it
    CREDENTIALS = "credentials"  # header fields are missing that are never stored


class Resolved(msgspec.Struct, frozen=True):
    """A URL to fetch the entry from now, with the header fields that belong to its origin. Both are kept in memory
    only.

    ``headers``: as a mapping or as pairs; None keeps the entry's own, which are sent as long as the origin is the same.
    ``expires_at``: seconds since the epoch; before that a fresh one is asked for. None: what the URL itself says.
    """

    url: str
    headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None
    expires_at: float | None = None

    def __repr__(self) -> str:
        """Without anything: the URL may be signed, the headers are secret."""
        return "Resolved(…)"


# The host's own resolver; None for "there is no other URL".
Resolver = Callable[[DownloadEntry, Resolve], Awaitable[Resolved | None]]
