"""Runs entries: one task each, one attempt after another, until the entry is complete, failed, or the engine closes.

All changes of state go through :meth:`Manager._move`: the store first, then memory, then the event (DESIGN law 4).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import trio
from msgspec.structs import replace

from engine.control.hub import EventHub
from engine.control.requests import entry_of, merge, split_fields
from engine.control.slots import PrioritySlots
from engine.errors import EngineClosed, EngineError, IntegrityError, StorageError, StoreError, UnknownEntry
from engine.files.reading import digest_of_path
from engine.model.events import StateChanged
from engine.model.records import Attempt, DownloadEntry, DownloadRequest, ErrorRecord
from engine.model.retry import decide
from engine.model.states import Event, Reason, State
from engine.transfer.services import Services
from engine.transfer.transfer import Transfer

# What asking again does to an entry, by its state; states that are absent stay as they are.
ASK_AGAIN: dict[State, Event] = {State.PAUSED: Event.RESUME, State.FAILED: Event.RETRY, State.CANCELLED: Event.REQUEST}

TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


@dataclass(slots=True)
class RunStats:
    """What this run of the engine did for an entry. ``bytes_fetched`` came off the wire, ``bytes_resumed`` were trusted
    from before; ``seconds`` is the time its attempts took."""

    bytes_fetched: int = 0
    bytes_resumed: int = 0
    seconds: float = 0.0
    attempts: int = 0


@dataclass(slots=True)
class _Run:
    """The task of one entry. ``fresh``: its part is not to be built on."""

    secret: tuple[tuple[str, str], ...]
    fresh: bool
    tries_without_progress: int = 0


class Manager:
    """Owns which entries run. ``nursery`` is the engine's; cancelling it parks what runs, resumable."""

    def __init__(self, services: Services, hub: EventHub, nursery: trio.Nursery) -> None:
        self._services = services
        self._hub = hub
        self._nursery = nursery
        self._slots = PrioritySlots(services.config.entries_at_once)
        self._runs: dict[str, _Run] = {}
        self._stats: dict[str, RunStats] = {}
        self._settled: dict[str, trio.Event] = {}
        self._unrecorded: dict[str, EngineError] = {}
        self._asking = trio.Lock()
        self.closing = False

    def stats(self, entry_id: str) -> RunStats:
        """What this run did for the entry so far."""
        return self._stats.get(entry_id, RunStats())

    async def ask(self, request: DownloadRequest) -> DownloadEntry:
        """Add the entry, or take up the one with the same id; it runs from here on. Raises InvalidRequest,
        IntegrityError."""
        self._check_open()
        asked = entry_of(request, self._services.config, self._services.now())
        _, secret = split_fields(request)
        async with self._asking:
            store = self._services.store
            entry = store.get(asked.id)
            if entry is None:
                entry = await self._services.write(store.add, asked)
                self._announce(entry, None)
                self._start(entry, secret)
                return entry
            return await self._ask_again(entry, merge(entry, asked), asked, secret)

    async def _ask_again(
        self, entry: DownloadEntry, merged: DownloadEntry, asked: DownloadEntry, secret: tuple[tuple[str, str], ...]
    ) -> DownloadEntry:
        if entry.id in self._runs:
            return entry
        if entry.state is State.COMPLETED:
            return await self._ask_completed(entry, asked, secret)
        failed_check = entry.last_error is not None and entry.last_error.code == IntegrityError.code
        fresh = failed_check and (merged.expect, merged.expected_length) == (entry.expect, entry.expected_length)
        changes = {
            name: getattr(merged, name)
            for name in merged.__struct_fields__
            if getattr(merged, name) != getattr(entry, name)
        }
        if changes:
            entry = await self._services.write(self._services.store.update, entry.id, entry.epoch, **changes)
        event = Event.RECOVER if entry.state is State.IN_PROGRESS else ASK_AGAIN.get(entry.state)
        if event is not None:
            entry = await self._move(entry, event, next_retry_at=None)
        self._start(entry, secret, fresh=fresh)
        return entry

    async def _ask_completed(
        self, entry: DownloadEntry, asked: DownloadEntry, secret: tuple[tuple[str, str], ...]
    ) -> DownloadEntry:
        """A completed entry whose file is there stays; what is newly expected of it is checked against the file."""
        offline = self._services.store.offline(entry.id)
        info = await self._services.work(self._services.files.stat_path, offline.path) if offline is not None else None
        if offline is None or info is None or info.st_size != offline.size:
            entry = await self._move(entry, Event.REPAIR, completed_at=None)
            self._start(entry, secret, fresh=True)
            return entry
        found = {"blake3": offline.blake3, **offline.digests}
        for name, expected in asked.expect.items():
            if name not in found:
                found[name] = await self._services.work(digest_of_path, self._services.files, offline.path, name)
            if found[name] != expected:
                raise IntegrityError(f"{offline.path} is complete, its {name} is {found[name]}, expected {expected}")
        if asked.expected_length not in {None, offline.size}:
            raise IntegrityError(
                f"{offline.path} is complete, it has {offline.size} bytes, expected {asked.expected_length}"
            )
        return entry

    async def resume_all(self) -> None:
        """Start every PENDING entry whose credentials, if it needs any, are not missing."""
        after: str | None = None
        while page := self._services.store.list(State.PENDING, after, 500):
            for entry in page:
                if not entry.secret_header_names:
                    self._start(entry, ())
                elif entry.state_reason is not Reason.NEEDS_CREDENTIALS:
                    await self._services.write(
                        self._services.store.update, entry.id, entry.epoch, state_reason=Reason.NEEDS_CREDENTIALS
                    )
            after = page[-1].id

    async def wait(self, entry_id: str) -> DownloadEntry:
        """The entry once it is COMPLETED, FAILED or CANCELLED and nothing runs for it, or once the store cannot record
        what becomes of it. Raises UnknownEntry, EngineClosed."""
        while True:
            entry = self._services.store.get(entry_id)
            if entry is None:
                raise UnknownEntry(f"there is no entry {entry_id}")
            if entry_id not in self._runs:
                if entry.state in TERMINAL:
                    return entry
                if (error := self._unrecorded.get(entry_id)) is not None:
                    return replace(entry, last_error=ErrorRecord.of(error, self._services.now()))
            self._check_open()
            await self._settled.setdefault(entry_id, trio.Event()).wait()

    def wake_waiters(self) -> None:
        """Let everyone who waits for an entry look again; used when the engine closes."""
        for event in self._settled.values():
            event.set()
        self._settled.clear()

    def _check_open(self) -> None:
        if self.closing:
            raise EngineClosed("the engine is closed")

    def _start(self, entry: DownloadEntry, secret: tuple[tuple[str, str], ...], *, fresh: bool = False) -> None:
        if entry.id in self._runs:
            return
        self._runs[entry.id] = _Run(secret, fresh)
        self._unrecorded.pop(entry.id, None)
        self._stats.setdefault(entry.id, RunStats())
        self._nursery.start_soon(self._drive, entry, name=f"entry {entry.id}")

    async def _drive(self, entry: DownloadEntry) -> None:
        run = self._runs[entry.id]
        try:
            while True:
                async with self._slots.hold(entry.priority, entry.sequence):
                    entry, delay_s = await self._attempt(entry, run)
                if delay_s is None:
                    return
                await trio.sleep(delay_s)
        except (StoreError, StorageError) as error:
            # The store cannot be written (its disk is full, read-only, gone). Its last record of the entry stands:
            # asking again, or the next start, takes the entry up from there.
            self._unrecorded[entry.id] = error
        finally:
            del self._runs[entry.id]
            event = self._settled.pop(entry.id, None)
            if event is not None:
                event.set()

    async def _attempt(self, entry: DownloadEntry, run: _Run) -> tuple[DownloadEntry, float | None]:
        """One attempt, recorded from start to end; returns the delay before the next one, or None when it is
        settled."""
        number = entry.attempt_count + 1
        entry = await self._move(entry, Event.START, attempt_count=number, next_retry_at=None)
        transfer = Transfer(self._services, entry, entry.headers + run.secret, fresh=run.fresh)
        attempt = Attempt(number=number, started_at=self._services.now())
        began = time.monotonic()
        try:
            await transfer.run()
        except EngineError as error:
            self._count(entry.id, transfer, began, run)
            with trio.CancelScope(shield=True):
                ended = self._ended(attempt, transfer, error)
                entry, delay_s = await self._after_error(entry, run, ended, error, transfer)
            return entry, delay_s
        except BaseException:  # cancelled (nurseries wrap that in groups), or a bug: parked either way, resumable
            self._count(entry.id, transfer, began, run)
            with trio.CancelScope(shield=True):
                await self._leave(entry, self._ended(attempt, transfer, None))
            raise
        self._count(entry.id, transfer, began, run)
        with trio.CancelScope(shield=True):
            completed = await self._leave(entry, self._ended(attempt, transfer, None))
        return completed, None

    async def _leave(self, entry: DownloadEntry, attempt: Attempt) -> DownloadEntry:
        """Record an attempt that ended without an error: complete, or cut off (perhaps just after it completed)."""
        present = self._services.store.get(entry.id) or entry
        attempts = self._history(entry, attempt)
        if present.state is State.IN_PROGRESS:
            return await self._move(present, Event.PREEMPT, Reason.SHUTDOWN, attempts=attempts)
        self._announce(present, State.IN_PROGRESS)
        return await self._services.write(self._services.store.update, entry.id, entry.epoch, attempts=attempts)

    async def _after_error(
        self, entry: DownloadEntry, run: _Run, attempt: Attempt, error: EngineError, transfer: Transfer
    ) -> tuple[DownloadEntry, float | None]:
        run.tries_without_progress = 1 if transfer.bytes_committed else run.tries_without_progress + 1
        decision = decide(error, run.tries_without_progress, self._services.config, self._services.rng)
        changes = {"attempts": self._history(entry, attempt), "last_error": attempt.error}
        if decision.delay_s is None:
            entry = await self._move(entry, Event.FAIL, Reason.ERROR, error=attempt.error, **changes)
            return entry, None
        retry_at = self._services.now() + decision.delay_s
        entry = await self._move(
            entry, Event.PREEMPT, Reason.BACKOFF, error=attempt.error, next_retry_at=retry_at, **changes
        )
        return entry, decision.delay_s

    def _ended(self, attempt: Attempt, transfer: Transfer, error: EngineError | None) -> Attempt:
        now = self._services.now()
        record = ErrorRecord.of(error, now) if error is not None else None
        return replace(attempt, ended_at=now, bytes_fetched=transfer.bytes_fetched, error=record)

    def _history(self, entry: DownloadEntry, attempt: Attempt) -> tuple[Attempt, ...]:
        return (*entry.attempts, attempt)[-self._services.config.attempts_kept :]

    def _count(self, entry_id: str, transfer: Transfer, began: float, run: _Run) -> None:
        stats = self._stats[entry_id]
        if stats.attempts == 0:
            stats.bytes_resumed = transfer.bytes_resumed
        stats.attempts += 1
        stats.bytes_fetched += transfer.bytes_fetched
        stats.seconds += time.monotonic() - began
        run.fresh = False

    async def _move(
        self,
        entry: DownloadEntry,
        event: Event,
        reason: Reason = Reason.NONE,
        *,
        error: ErrorRecord | None = None,
        **changes: Any,
    ) -> DownloadEntry:
        moved = await self._services.write(
            self._services.store.transition,
            entry.id,
            event,
            epoch=entry.epoch,
            now=self._services.now(),
            reason=reason,
            **changes,
        )
        self._announce(moved, entry.state, error)
        return moved

    def _announce(self, entry: DownloadEntry, previous: State | None, error: ErrorRecord | None = None) -> None:
        self._hub.emit(
            StateChanged(
                id=entry.id,
                epoch=entry.epoch,
                attempt=entry.attempt_count,
                previous=previous,
                state=entry.state,
                reason=entry.state_reason,
                error=error,
            )
        )
