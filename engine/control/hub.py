"""Events to any number of consumers, each with its own bounded mailbox.

State changes are kept in order and never dropped; of progress only the newest a consumer has not read is kept. A
consumer so slow that its mailbox fills up is told (:class:`~engine.errors.EventsLost`) instead of slowing the engine.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

import trio

from engine.errors import EventsLost
from engine.model.events import EngineEvent, Progress

MAILBOX_EVENTS_MAX = 10_000


class Subscription:
    """One consumer's mailbox: an async iterator that ends when the engine is closed. Leave it with ``close`` or
    ``with``."""

    def __init__(self, hub: EventHub, entry_id: str | None) -> None:
        self._hub = hub
        self.entry_id = entry_id
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
        await trio.lowlevel.checkpoint()
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


class EventHub:
    """Where the engine puts its events."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._closed = False

    def subscribe(self, entry_id: str | None = None) -> Subscription:
        """Events from now on, of one entry or of all."""
        subscription = Subscription(self, entry_id)
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
