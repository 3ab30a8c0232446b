"""Finished files that a reboot made doubtful, and that the start could not look at: their disk is mounted later.

They are hashed once they can be. What is bad is then taken back as a start does it, and runs where all that waits does.
A file that is not there is left to the next start, and so is what somebody wrote to, or whose disk went, meanwhile.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from engine.control.attempts import Kept
from engine.control.moves import Moves
from engine.control.rehash import Rehashed, carry_out, rehash
from engine.control.runs import Runs
from engine.control.settle import failed_mark, finished
from engine.errors import EngineError, StorageError, StoreError
from engine.files.filesystem import FileSystem
from engine.files.part_file import open_finished
from engine.model.events import Recovered
from engine.model.records import DownloadEntry, PartRecord
from engine.model.states import State
from engine.store.state_store import StateStore
from engine.transfer.services import Services

log = logging.getLogger("engine")

PAUSE_MAX_S = 3600.0  # between two readings of a file that come to nothing

# Device, inode, version, size and time stamp: another value is another file, or one that was written to.
Version = tuple[int, int, int, int, int]


class Doubts:
    """``run`` is its task. ``needs_credentials`` parks an entry that cannot run without them."""

    def __init__(
        self, services: Services, runs: Runs, moves: Moves, needs_credentials: Callable[[str], Awaitable[object]]
    ) -> None:
        self._services = services
        self._runs = runs
        self._moves = moves
        self._needs_credentials = needs_credentials
        self._read: dict[str, tuple[Version, float, float]] = {}  # what was, when it may be again, and the pause

    async def run(self) -> None:
        """Every ``settle_interval_s``, until cancelled."""
        services = self._services
        settled = {services.boot_id, failed_mark(services.boot_id)}
        while True:
            await trio.sleep(services.config.settle_interval_s)
            with suppress(StoreError, StorageError):  # the store cannot be read now: the marks stay for later
                for entry_id, part_index, mark in await services.work(services.store.unsynced):
                    if mark not in settled:
                        await self._look(entry_id, part_index)

    async def _look(self, entry_id: str, part_index: int) -> None:
        services = self._services
        # One file's trouble (it is away, its record damaged) is not the others': its mark stays for later.
        with suppress(EngineError, OSError):
            record = await services.work(_doubted, services.store, entry_id, part_index)
            if record is None:
                return
            before = await services.work(_file_of, services.files, record)
            if not self._begins(entry_id, before):
                return
            found = await services.work(rehash, services.store, services.files, entry_id, record)
            if found.elsewhere:
                return  # the next start tells of it
            async with self._runs.alone(entry_id):
                if await services.work(_file_of, services.files, record) != before:
                    return
                entry = await self._carry_out(entry_id, record, found)
            if entry is not None and self._runs.credentials.missing(entry):
                await self._needs_credentials(entry_id)

    def _begins(self, entry_id: str, version: Version) -> bool:
        """Whether it is time to read this version of the file; the next time comes after twice the pause."""
        seen, due, pause = self._read.get(entry_id, (version, -math.inf, 0.0))
        if seen != version:
            due, pause = -math.inf, 0.0
        if trio.current_time() < due:
            return False
        pause = min(max(2 * pause, self._services.config.settle_interval_s), PAUSE_MAX_S)
        self._read[entry_id] = version, trio.current_time() + pause, pause
        return True

    async def _carry_out(self, entry_id: str, record: PartRecord, found: Rehashed) -> DownloadEntry | None:
        """Nobody else changes the entry. Returns it when it is to run again."""
        services, runs = self._services, self._runs
        entry, what = await services.write(_on_record, services.store, entry_id, record, found, services.now())
        if entry is None or not what:
            return None
        log.warning("entry %s: %s", entry_id, what)
        if entry.state is State.PENDING:
            self._moves.announce(entry, State.COMPLETED)
        services.emit(Recovered(id=entry_id, epoch=entry.epoch, attempt=entry.attempt_count, what=what))
        if entry.state is not State.PENDING or not runs.takes_all:
            return None  # only what is asked for runs in this engine
        if not runs.credentials.missing(entry):
            runs.take_up(entry, Kept(runs.credentials.of(entry_id)))
        return entry


def _file_of(files: FileSystem, record: PartRecord) -> Version:
    """Which file has the part's final name, and as of when. Raises StorageError when none can be opened."""
    file = open_finished(files, record.folder, record.final_name)
    try:
        return *file.identity, file.size, files.stat_fd(file.fd).st_mtime_ns
    finally:
        file.close()


def _doubted(store: StateStore, entry_id: str, part_index: int) -> PartRecord | None:
    """The record of a completed entry's part; None for another's, which an attempt looks at itself."""
    entry = store.get(entry_id)
    return finished(store, entry_id, part_index) if entry is not None and entry.state is State.COMPLETED else None


def _on_record(
    store: StateStore, entry_id: str, record: PartRecord, found: Rehashed, now: float
) -> tuple[DownloadEntry | None, str]:
    """One transaction: the entry as it is then, and what was found in words. None when the part is another by now."""
    entry, there = store.get(entry_id), _doubted(store, entry_id, record.index)
    if entry is None or there is None or there.generation != record.generation:
        return None, ""
    what = carry_out(store, entry, there, found, now)
    return store.get(entry_id), what
