"""Relaxed files catch up: what was published without a data sync is synced later, so that a reboot need not re-hash
it.

A sync that failed is never tried again under the same boot: the second try would succeed and prove nothing, as the
kernel drops the pages that it could not write (fault catalogue D6).
"""

from __future__ import annotations

import contextlib

import trio

from engine.errors import StorageError, StoreError
from engine.files.filesystem import FileSystem
from engine.files.part_file import open_finished
from engine.model.records import PartPhase, PartRecord
from engine.store.state_store import StateStore
from engine.transfer.services import Services

# Parts whose sync failed: (entry id, part index, generation).
FailedParts = set[tuple[str, int, int]]


def failed_mark(boot_id: str) -> str:
    """The unsynced mark of a part whose sync failed under this boot: it is not synced again before the next one, and
    hashed again then."""
    return f"{boot_id} failed"


async def settle(services: Services) -> None:
    """Every ``settle_interval_s``: sync the finished files that are not known synced, and note that they are."""
    failed: FailedParts = set()
    while True:
        await trio.sleep(services.config.settle_interval_s)
        with contextlib.suppress(StoreError, StorageError):  # the store cannot be read now: the marks stay for later
            for entry_id, part_index, boot_id in await services.work(services.store.unsynced):
                if boot_id == services.boot_id:
                    await _settle_part(services, entry_id, part_index, failed)


async def _settle_part(services: Services, entry_id: str, part_index: int, failed: FailedParts) -> None:
    # One part's trouble (its file is away, its record damaged) is not the others': its mark stays for later.
    with contextlib.suppress(StorageError, StoreError):
        record = await services.work(finished, services.store, entry_id, part_index)
        if record is None or (key := (entry_id, part_index, record.generation)) in failed:
            return
        if await services.work(_sync, services.files, record):
            await services.write(services.store.mark_synced, *key)
        else:
            failed.add(key)
            await services.write(services.store.mark_unsynced, *key, failed_mark(services.boot_id))


def finished(store: StateStore, entry_id: str, part_index: int) -> PartRecord | None:
    """The record of a part whose file is published; None for another's."""
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
