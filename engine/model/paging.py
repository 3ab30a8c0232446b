"""A page of a sorted list and the cursor to the next one.

A cursor is the key of the last line that was read, not a number of lines: rows may come and go, its own too, and every
row that stays is met exactly once.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Generic, TypeVar

import msgspec
from blake3 import blake3

from engine.errors import InvalidRequest

Item = TypeVar("Item")

LIMIT_MAX: Final = 10_000  # one page is read in one go
_CHECK_BYTES: Final = 6


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """``after``: the cursor to give for what follows; None at the end. ``damaged``: what lies among the items and
    cannot be read, in words; it never ends a page early."""

    items: tuple[Item, ...]
    after: str | None
    damaged: tuple[str, ...] = ()


def check_limit(limit: int) -> None:
    """Raises InvalidRequest for a page size that cannot work."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIMIT_MAX:
        raise InvalidRequest(f"limit must be 1 to {LIMIT_MAX}, not {limit!r}")


def cursor_of(listing: bytes, line: bytes) -> str:
    """The cursor behind the line with this key, good for this listing only."""
    return base64.urlsafe_b64encode(_check(listing, line) + line).rstrip(b"=").decode()


def line_of(listing: bytes, cursor: str) -> bytes:
    """The key in a cursor. Raises InvalidRequest for what is not a cursor of this listing."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise InvalidRequest("this is not a cursor") from error
    line = data[_CHECK_BYTES:]
    if not line or data[:_CHECK_BYTES] != _check(listing, line):
        raise InvalidRequest("this is not a cursor of this list, scope and order")
    return line


def _check(listing: bytes, line: bytes) -> bytes:
    return blake3(len(listing).to_bytes(4, "big") + listing + line).digest(length=_CHECK_BYTES)
