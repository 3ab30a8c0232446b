"""Relaxed files catch up: what was published without a data sync is synced later, so that a reboot need not re-hash
it. And what a reboot made doubtful, and the start could not look at (its disk was not mounted yet), is looked at.

A sync that failed is never tried again under the same boot: the second try would succeed and prove nothing, as the
kernel drops the pages that it could not write (fault catalogue D6).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import trio

from engine.control.rehash import rehash
from engine.errors import EngineError, PartLost, StorageError, StoreError
from engine.files.filesystem import FileSystem
from engine.files.part_file import open_finished
from engine.model.records import PartPhase, PartRecord
from engine.store.state_store import StateStore
from engine.transfer.services import Services

# Parts whose sync failed: (entry id, part index, generation).
FailedParts = set[tuple[str, int, int]]
Repair = Callable[[str], Awaitable[object]]


def failed_mark(boot_id: str) -> str:
    """The unsynced mark of a part whose sync failed under this boot: it is not synced again before the next one, and
    hashed again then."""
    return f"{boot_id} failed"


async def settle(services: Services, repair: Repair) -> None:
    """Every ``settle_interval_s``: sync the finished files that are not known synced, and note that they are; hash
    those that are doubtful, and have those that are bad mended by ``repair``."""
    failed: FailedParts = set()
    own, own_failed = services.boot_id, failed_mark(services.boot_id)
    while True:
        await trio.sleep(services.config.settle_interval_s)
        with contextlib.suppress(StoreError, StorageError):  # the store cannot be read now: the marks stay for later
            for entry_id, part_index, boot_id in await services.work(services.store.unsynced):
                if boot_id != own_failed:
                    await _settle_part(services, entry_id, part_index, failed, None if boot_id == own else repair)


async def _settle_part(
    services: Services, entry_id: str, part_index: int, failed: FailedParts, repair: Repair | None
) -> None:
    # One part's trouble (its file is away, its record damaged, it was removed) is not the others': its mark stays.
    with contextlib.suppress(EngineError, OSError):
        record = await services.work(_finished, services.store, entry_id, part_index)
        if record is None or (key := (entry_id, part_index, record.generation)) in failed:
            return
        if repair is None:
            synced = await services.work(_sync, services.files, record)
        elif (found := await services.work(_doubted, services.store, services.files, entry_id, record)) is None:
            failed.add(key)  # a repair that was refused is for the user, or the next start
            await repair(entry_id)
            return
        else:
            synced = found
        if synced:
            await services.write(services.store.mark_synced, *key)
        else:
            failed.add(key)
            await services.write(services.store.mark_unsynced, *key, failed_mark(services.boot_id))


def _doubted(store: StateStore, files: FileSystem, entry_id: str, record: PartRecord) -> bool | None:
    """Whether the bytes, which are right, are on the disk by now; None when they are not right. Raises StorageError or
    OSError when that cannot be told now."""
    try:
        found = rehash(store, files, entry_id, record)
    except PartLost:
        return None
    return None if found.bad and not found.touched else found.synced


def _finished(store: StateStore, entry_id: str, part_index: int) -> PartRecord | None:
    record = next((part for part in store.parts(entry_id) if part.index == part_index), None)
    return record if record is not None and record.phase is PartPhase.PUBLISHED else None


def _sync(files: FileSystem, record: PartRecord) -> bool:
    """False when the sync failed. Raises StorageError when the file cannot be opened; then it can be tried later."""
    file = open_finished(files, record.folder, record.final_name)
    try:
        files.sync_data(file.fd)
    except OSError:
        return False
    finally:
        file.close()
    return True
