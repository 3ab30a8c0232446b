"""Which entries run: one task each, one attempt after another, until the entry is settled or the engine closes.

Asking is serialised for each id. The newest request counts: when it asks for something else than what runs, what runs
is stopped (its bytes are kept), and started again as it was asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from msgspec.structs import replace

from engine.control.attempts import Attempts, Fields, Run, RunStats
from engine.control.hub import EventHub
from engine.control.moves import Moves
from engine.control.requests import changes_of, entry_of, merge, split_fields
from engine.control.slots import PrioritySlots
from engine.control.verify import Health, validate
from engine.errors import (
    EngineClosed,
    EngineError,
    IntegrityError,
    InvalidRequest,
    StorageError,
    StoreError,
    TargetExists,
    UnknownEntry,
)
from engine.files.reading import digest_of_path
from engine.model.events import Recovered
from engine.model.records import DownloadEntry, DownloadRequest, ErrorRecord
from engine.model.states import Event, Reason, State
from engine.transfer.services import Services

# What asking again does to an entry that does not run, by its state; an absent state stays as it is.
ASK_AGAIN: dict[State, Event] = {
    State.IN_PROGRESS: Event.RECOVER,  # the store could not be told how its last attempt ended
    State.PAUSED: Event.RESUME,
    State.FAILED: Event.RETRY,
    State.CANCELLED: Event.REQUEST,
}

TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


class Manager:
    """Owns which entries run. ``nursery`` is the engine's; cancelling it parks what runs, resumable."""

    def __init__(self, services: Services, hub: EventHub, nursery: trio.Nursery) -> None:
        self._services = services
        self._nursery = nursery
        self._moves = Moves(services, hub)
        self._attempts = Attempts(services, self._moves)
        self._slots = PrioritySlots(services.config.entries_at_once)
        self._runs: dict[str, Run] = {}
        self._targets = services.targets
        self._stats: dict[str, RunStats] = {}
        self._settled: dict[str, trio.Event] = {}
        self._unrecorded: dict[str, EngineError] = {}
        self._asking: dict[str, trio.Lock] = {}

    @property
    def closing(self) -> bool:
        """Whether the engine is being closed."""
        return self._attempts.closing

    def close(self) -> None:
        """Take no more requests, and let everyone who waits for an entry look again."""
        self._attempts.closing = True
        for event in self._settled.values():
            event.set()
        self._settled.clear()

    def stats(self, entry_id: str) -> RunStats:
        """What this run of the engine did for the entry so far."""
        return self._stats.get(entry_id, RunStats())

    async def ask(self, request: DownloadRequest) -> DownloadEntry:
        """Add the entry, or take up the one with the same id; it runs from here on. Raises InvalidRequest,
        IntegrityError."""
        self.check_open()
        asked = entry_of(request, self._services.config, self._services.now())
        _, secret = split_fields(request)
        async with self._alone(asked.id):
            entry = self._services.store.get(asked.id)
            if entry is not None and not await self._stop_to_change(entry, asked, secret):
                return entry
            entry = self._services.store.get(asked.id)
            self._check_target(asked)
            if entry is None:
                entry = await self._services.write(self._services.store.add, asked)
                self._moves.announce(entry, None)
                self._start(entry, secret)
                return entry
            if entry.state is State.COMPLETED:
                return await self._ask_completed(entry, asked, secret)
            return await self._take_up(entry, asked, secret)

    @asynccontextmanager
    async def _alone(self, entry_id: str) -> AsyncIterator[None]:
        lock = self._asking.setdefault(entry_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._asking.pop(entry_id, None)
                self._wake(entry_id)

    async def _stop_to_change(self, entry: DownloadEntry, asked: DownloadEntry, secret: Fields) -> bool:
        """False when what is asked for runs already; otherwise nothing runs for the entry when this returns."""
        run = self._runs.get(entry.id)
        if run is None:
            return True
        if entry.state not in TERMINAL:
            if not changes_of(entry, merge(entry, asked)) and secret in {(), run.secret}:
                return False
            run.scope.cancel()
        await run.ended.wait()
        return True

    async def _take_up(
        self, entry: DownloadEntry, asked: DownloadEntry, secret: Fields, *, fresh: bool = False
    ) -> DownloadEntry:
        """Merge what is asked into an entry that does not run, and start it."""
        changes = changes_of(entry, merge(entry, asked))
        same_check = not {"expect", "expected_length"} & changes.keys()
        if entry.last_error is not None and entry.last_error.code == IntegrityError.code and same_check:
            fresh = True  # the bytes were judged by these expectations already: only others can pass
        if changes:
            entry = await self._services.write(self._services.store.update, entry.id, entry.epoch, **changes)
        event = ASK_AGAIN.get(entry.state)
        if event is not None:
            entry = await self._moves.move(entry, event, next_retry_at=None)
        self._start(entry, secret, fresh=fresh)
        return entry

    async def _ask_completed(self, entry: DownloadEntry, asked: DownloadEntry, secret: Fields) -> DownloadEntry:
        """A completed entry whose file is as it was stays; what is newly expected of it is checked against the file.

        A file that is gone is fetched again. One that is not what was downloaded any more (somebody's edit, or rot) is
        only replaced when the caller asks to overwrite: then it is also looked at when nothing shows from outside.
        """
        merge(entry, asked)
        services = self._services
        offline = services.store.offline(entry.id)
        info = await services.work(services.files.stat_path, offline.path) if offline is not None else None
        if offline is None or info is None:
            return await self._fetch_anew(entry, asked, secret)
        if asked.overwrite or (info.st_size, info.st_mtime_ns) != (offline.size, offline.mtime_ns):
            found_bad = await services.work(validate, services.store, services.files, entry)
            if found_bad.health is not Health.VALID:
                if asked.overwrite:
                    return await self._fetch_anew(entry, asked, secret)
                raise TargetExists(f"{offline.path} is not what was downloaded any more: {found_bad.message}")
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

    async def _fetch_anew(self, entry: DownloadEntry, asked: DownloadEntry, secret: Fields) -> DownloadEntry:
        entry = await self._moves.move(entry, Event.REPAIR, completed_at=None)
        return await self._take_up(entry, asked, secret, fresh=True)

    async def resume_all(self) -> list[Recovered]:
        """Start every PENDING entry; one whose credentials are gone waits until it is asked for with them, and is
        told."""
        told: list[Recovered] = []
        after: str | None = None
        while page := self._services.store.list(State.PENDING, after, 500):
            for entry in page:
                if not entry.secret_header_names:
                    self._start(entry, ())
                    continue
                if entry.state_reason is not Reason.NEEDS_CREDENTIALS:
                    reason = Reason.NEEDS_CREDENTIALS
                    entry = await self._services.write(  # noqa: PLW2901  # the same entry, as it is stored now
                        self._services.store.update, entry.id, entry.epoch, state_reason=reason
                    )
                    self._moves.announce(entry, State.PENDING)
                what = f"waits until it is asked for with {', '.join(entry.secret_header_names)}"
                told.append(Recovered(id=entry.id, epoch=entry.epoch, attempt=entry.attempt_count, what=what))
            after = page[-1].id
        return told

    async def wait(self, entry_id: str) -> DownloadEntry:
        """The entry once nothing runs for it and nothing will unless it is asked for: COMPLETED, FAILED, CANCELLED,
        waiting for credentials, or the store cannot record what becomes of it. Raises UnknownEntry, EngineClosed."""
        while True:
            entry = self._services.store.get(entry_id)
            if entry is None:
                raise UnknownEntry(f"there is no entry {entry_id}")
            if entry_id not in self._runs and entry_id not in self._asking:
                if entry.state in TERMINAL or entry.state_reason is Reason.NEEDS_CREDENTIALS:
                    return entry
                if (error := self._unrecorded.get(entry_id)) is not None:
                    return replace(entry, last_error=ErrorRecord.of(error, self._services.now()))
            self.check_open()
            await self._settled.setdefault(entry_id, trio.Event()).wait()

    def check_open(self) -> None:
        """Raise EngineClosed when the engine is being closed."""
        if self.closing:
            raise EngineClosed("the engine is closed")

    def _check_target(self, asked: DownloadEntry) -> None:
        """Two entries that run must not aim at one path: only one could have it (H3)."""
        holder = None if asked.destination_is_folder else self._targets.get(asked.destination)
        if holder not in {None, asked.id}:
            raise InvalidRequest(f"{asked.destination} is the destination of {holder}, which is running")

    def _start(self, entry: DownloadEntry, secret: Fields, *, fresh: bool = False) -> None:
        if entry.id in self._runs:
            return
        run = self._runs[entry.id] = Run(secret, fresh, self._stats.setdefault(entry.id, RunStats()))
        if not entry.destination_is_folder:
            self._targets[entry.destination] = entry.id
        self._unrecorded.pop(entry.id, None)
        self._nursery.start_soon(self._drive, entry, run, name=f"entry {entry.id}")

    async def _drive(self, entry: DownloadEntry, run: Run) -> None:
        try:
            with run.scope:
                while True:
                    async with self._slots.hold(entry.priority, entry.sequence):
                        entry, delay_s = await self._attempts.make(entry, run)
                    if delay_s is None:
                        return
                    await trio.sleep(delay_s)
        except (StoreError, StorageError) as error:
            # The store cannot be written (its disk is full, read-only, gone). Its last record of the entry stands:
            # asking again, or the next start, takes the entry up from there.
            self._unrecorded[entry.id] = error
        finally:
            del self._runs[entry.id]
            for path in [path for path, holder in self._targets.items() if holder == entry.id]:
                del self._targets[path]
            run.ended.set()
            self._wake(entry.id)

    def _wake(self, entry_id: str) -> None:
        event = self._settled.pop(entry_id, None)
        if event is not None:
            event.set()
