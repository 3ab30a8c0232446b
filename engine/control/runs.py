"""What runs and what waits to run: the first in the queue, as many as may at once, one attempt each, then the next.

A task of its own has an entry only while an attempt is made; waiting costs a place in the queue.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from engine.control.attempts import Attempts, Fields, Kept, Run, RunStats
from engine.control.moves import Moves
from engine.control.queue import WaitingQueue
from engine.errors import EngineClosed, EngineError, StorageError, StoreError
from engine.model.records import DownloadEntry
from engine.model.states import State
from engine.transfer.services import Services


class Runs:
    """Owns the queue and the running attempts. ``nursery`` is the engine's; cancelling it parks what runs,
    resumable."""

    def __init__(self, services: Services, moves: Moves, nursery: trio.Nursery) -> None:
        self._services = services
        self._nursery = nursery
        self._attempts = Attempts(services, moves)
        self._queue = WaitingQueue()
        self._delays = trio.Event()
        self._kept: dict[str, Kept] = {}
        self._running: dict[str, Run] = {}
        self._targets = services.targets
        self._stats: dict[str, RunStats] = {}
        self._settled: dict[str, trio.Event] = {}
        self._unrecorded: dict[str, EngineError] = {}
        self._locks: dict[str, trio.Lock] = {}

    def close(self) -> None:
        """Begin nothing more, and let everyone who waits for an entry look again."""
        self._attempts.closing = True
        for event in self._settled.values():
            event.set()
        self._settled.clear()

    def check_open(self) -> None:
        """Raise EngineClosed when the engine is being closed."""
        if self._attempts.closing:
            raise EngineClosed("the engine is closed")

    async def run(self) -> None:
        """Give entries that wait for a time their turn when it comes; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._attempts.report)
            while True:
                at = self._queue.next_at()
                with trio.move_on_at(math.inf if at is None else at):
                    await self._delays.wait()
                    self._delays = trio.Event()
                self._fill()

    def stats(self, entry_id: str) -> RunStats:
        """What this run of the engine did for the entry so far."""
        return self._stats.get(entry_id, RunStats())

    def active(self, entry_id: str) -> bool:
        """Whether the entry runs, waits for its turn, or is being changed."""
        return entry_id in self._running or entry_id in self._queue or entry_id in self._locks

    def kept(self, entry_id: str) -> Kept | None:
        """What is known of an entry that runs or waits for its turn, beside its record; None for another."""
        run = self._running.get(entry_id)
        if run is not None:
            return run.kept
        return self._kept.get(entry_id, Kept()) if entry_id in self._queue else None

    def unrecorded(self, entry_id: str) -> EngineError | None:
        """Why the store could not be told how the entry's last attempt ended, if so."""
        return self._unrecorded.get(entry_id)

    async def changed(self, entry_id: str) -> None:
        """Wait until the entry is settled, or the engine closes."""
        await self._settled.setdefault(entry_id, trio.Event()).wait()

    @asynccontextmanager
    async def alone(self, entry_id: str) -> AsyncIterator[None]:
        """The block is the only one that changes the entry from outside: requests for one id come one by one."""
        lock = self._locks.setdefault(entry_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(entry_id, None)
                self._wake(entry_id)

    def start(self, entry: DownloadEntry, secret: Fields = (), *, fresh: bool = False) -> None:
        """Let the entry run when its turn comes."""
        if secret or fresh:
            self._kept[entry.id] = Kept(secret, fresh)
        else:
            self._kept.pop(entry.id, None)
        self._unrecorded.pop(entry.id, None)
        self.enqueue(entry.id, entry.priority, entry.sequence)
        if not entry.destination_is_folder:
            self._targets.claim(entry.destination, entry.id)
        self._fill()

    def enqueue(self, entry_id: str, priority: int, sequence: int, not_before: float | None = None) -> None:
        """Give the entry its place in the queue; it is looked at when :meth:`run` or a change comes by."""
        self._queue.add(entry_id, priority, sequence, not_before)
        self._delays.set()

    async def stop(self, entry_id: str) -> None:
        """Nothing runs and nothing waits for the entry when this returns; its bytes are kept."""
        self._queue.discard(entry_id)
        run = self._running.get(entry_id)
        if run is not None:
            run.scope.cancel()
            await run.ended.wait()
            self._queue.discard(entry_id)
        self._kept.pop(entry_id, None)

    def _fill(self) -> None:
        """Give turns while there is room."""
        while len(self._running) < self._services.config.entries_at_once and not self._attempts.closing:
            entry_id = self._queue.take(trio.current_time())
            if entry_id is None:
                return
            try:
                entry = self._services.store.get(entry_id)
            except StoreError as error:
                self._unrecorded[entry_id] = error
                self._settle(entry_id)
                continue
            if entry is None or entry.state is not State.PENDING:
                self._settle(entry_id)
                continue
            stats = self._stats.setdefault(entry_id, RunStats())
            run = self._running[entry_id] = Run(self._kept.pop(entry_id, Kept()), stats)
            self._nursery.start_soon(self._drive, entry, run, name=f"entry {entry_id}")

    async def _drive(self, entry: DownloadEntry, run: Run) -> None:
        delay_s: float | None = None
        try:
            with run.scope:
                entry, delay_s = await self._attempts.make(entry, run)
        except (StoreError, StorageError) as error:
            # The store cannot be written (its disk is full, read-only, gone). Its last record of the entry stands:
            # asking again, or the next start, takes the entry up from there.
            self._unrecorded[entry.id] = error
        finally:
            del self._running[entry.id]
            if delay_s is not None and not run.scope.cancel_called:
                self._kept[entry.id] = run.kept
                self.enqueue(entry.id, entry.priority, entry.sequence, trio.current_time() + delay_s)
            else:
                self._settle(entry.id)
            run.ended.set()
            self._fill()

    def _settle(self, entry_id: str) -> None:
        """Nothing runs for the entry any more, and nothing will unless it is asked for."""
        self._kept.pop(entry_id, None)
        self._targets.release(entry_id)
        self._wake(entry_id)

    def _wake(self, entry_id: str) -> None:
        event = self._settled.pop(entry_id, None)
        if event is not None:
            event.set()
