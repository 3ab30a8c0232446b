"""Events to any number of consumers, each with its own bounded mailbox.

State changes are kept in order and never dropped; of progress only the newest a consumer has not read is kept. A
consumer so slow that its mailbox fills up is told (:class:`~engine.errors.EventsLost`) instead of slowing the engine.

A subscription with a snapshot begins with the entries as they are. Its mailbox is open from the first moment on, so
nothing falls into a gap; each page is read without letting anything else run, and the changes that the mailbox holds of
its entries are dropped then: all of them were in the store before they were told, so the page is at least as new.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import trio

from engine.control.door import Door
from engine.errors import EventsLost
from engine.model.events import EngineEvent, Progress, Removed, Snapshot, StateChanged
from engine.store.state_store import StateStore

MAILBOX_EVENTS_MAX = 10_000
SNAPSHOT_ENTRIES_MAX = 100  # a page: about a millisecond of the loop's time


class _Pages:
    """The present entries, a page at a time, or the one entry."""

    def __init__(self, store: StateStore, entry_id: str | None) -> None:
        self._store = store
        self._entry_id = entry_id
        self._from = 0
        self.done = False

    def next(self) -> Snapshot:
        """The next page. Raises StoreError; then it was the last."""
        self.done = True
        if self._entry_id is not None:
            entry = self._store.get(self._entry_id)
            return Snapshot(entries=() if entry is None else (entry,), last=True, id=self._entry_id)
        page = self._store.page_from(self._from, SNAPSHOT_ENTRIES_MAX)
        self.done = len(page) < SNAPSHOT_ENTRIES_MAX
        if page:
            self._from = page[-1].sequence + 1
        return Snapshot(entries=tuple(page), last=self.done)


class Subscription:
    """One consumer's mailbox: an async iterator that ends when the engine is closed. Leave it with ``close`` or
    ``with``. Like the engine it belongs to the trio run that opened it: from elsewhere it raises WrongThread."""

    def __init__(self, hub: EventHub, entry_id: str | None, pages: _Pages | None = None) -> None:
        self._door = Door()
        self._hub = hub
        self.entry_id = entry_id
        self._pages = pages
        self._queue: deque[EngineEvent | str] = deque()
        self._progress: dict[str, Progress] = {}
        self._wake = trio.Event()
        self._ended = False
        self._overrun = False

    def put(self, event: EngineEvent) -> None:
        """Take an event; never blocks."""
        if isinstance(event, Progress):
            if event.id not in self._progress:
                self._queue.append(event.id)
            self._progress[event.id] = event
        elif len(self._queue) >= MAILBOX_EVENTS_MAX:
            self._overrun = True
        else:
            if self._progress.pop(event.id, None) is not None:
                self._queue.remove(event.id)  # older than this event, and of no use behind it
            self._queue.append(event)
        self._wake.set()

    def end(self) -> None:
        """No more events will come; what is in the mailbox can still be read."""
        self._ended = True
        self._wake.set()

    def close(self) -> None:
        """Stop receiving."""
        self._door.check("Subscription.close")
        self._hub.drop(self)
        self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EngineEvent:
        self._door.check("Subscription.__anext__")
        await trio.lowlevel.checkpoint()
        if self._pages is not None and not self._ended and not self._overrun:
            return self._next_page(self._pages)
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            await self._wake.wait()
            self._wake = trio.Event()
        if self._overrun:
            self.close()
            raise EventsLost(f"more than {MAILBOX_EVENTS_MAX} events were not read")
        item = self._queue.popleft()
        return self._progress.pop(item) if isinstance(item, str) else item

    def _next_page(self, pages: _Pages) -> Snapshot:
        try:
            page = pages.next()
        finally:
            if pages.done:
                self._pages = None
        shown = {entry.id for entry in page.entries}
        self._queue = deque(
            item for item in self._queue if not (isinstance(item, StateChanged | Removed) and item.id in shown)
        )
        return page


class EventHub:
    """Where the engine puts its events."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._closed = False
        self._store: StateStore | None = None

    def attach(self, store: StateStore) -> None:
        """Where snapshots are read from."""
        self._store = store

    def subscribe(self, entry_id: str | None = None, *, snapshot: bool = False) -> Subscription:
        """Events from now on, of one entry or of all; with ``snapshot``, first the entries as they are
        (:class:`~engine.model.events.Snapshot`)."""
        pages = _Pages(self._store, entry_id) if snapshot and self._store is not None else None
        subscription = Subscription(self, entry_id, pages)
        if self._closed:
            subscription.end()
        else:
            self._subscriptions.append(subscription)
        return subscription

    def drop(self, subscription: Subscription) -> None:
        """Forget a consumer."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def emit(self, event: EngineEvent) -> None:
        """Give an event to all who want it."""
        for subscription in self._subscriptions:
            if subscription.entry_id is None or subscription.entry_id == event.id:
                subscription.put(event)

    def close(self) -> None:
        """End all subscriptions."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
