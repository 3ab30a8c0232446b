"""Pages read by key: as many rows are looked at as a page has lines (and damaged or unwanted rows between them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from engine.errors import BadRecord
from engine.model.paging import Page, check_limit, cursor_of, line_of
from engine.store.codec import Payload, Table
from engine.store.txn import Txn

Item = TypeVar("Item")


def read_page(
    txn: Txn,
    table: Table,
    prefix: bytes,
    after: str | None,
    limit: int,
    load: Callable[[bytes, Payload | None], Item | None],
) -> Page[Item]:
    """At most ``limit`` of what ``load`` makes of the rows below ``prefix``, each a key and its value (None for a
    damaged one, which is noted); None leaves a row out, BadRecord is told in the page. Raises InvalidRequest for a bad
    limit or cursor."""
    check_limit(limit)
    start = prefix if after is None else prefix + line_of(table.value + prefix, after) + b"\0"  # the next key there is
    items: list[Item] = []
    damaged: list[str] = []
    last = b""
    for key, payload in txn.walk(table, prefix, start):
        if len(items) == limit:
            return Page(tuple(items), cursor_of(table.value + prefix, last), tuple(damaged))
        last = key[len(prefix) :]
        try:
            item = load(key, payload)
        except BadRecord as error:
            damaged.append(str(error))
        else:
            if item is not None:
                items.append(item)
    return Page(tuple(items), None, tuple(damaged))
