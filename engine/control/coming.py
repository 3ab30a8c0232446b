"""Entries that a transaction under way adds, many at once: on record a moment before they have their places."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import trio


class Coming:
    """``id in coming``: its transaction is under way. To the records such an entry looks as if it were forgotten, and
    to who asks for it as if nothing ran for it."""

    def __init__(self) -> None:
        self._batches: dict[trio.Event, Collection[str]] = {}

    def __contains__(self, entry_id: str) -> bool:
        return self._batch_of(entry_id) is not None

    @contextmanager
    def adding(self, entry_ids: Collection[str]) -> Iterator[None]:
        """A block that adds them and gives those that are new their places."""
        placed = trio.Event()
        self._batches[placed] = entry_ids
        try:
            yield
        finally:
            del self._batches[placed]
            placed.set()

    async def placed(self, entry_id: str) -> None:
        """Wait until no transaction under way adds the entry."""
        while (batch := self._batch_of(entry_id)) is not None:
            await batch.wait()

    def _batch_of(self, entry_id: str) -> trio.Event | None:
        return next((placed for placed, ids in self._batches.items() if entry_id in ids), None)
