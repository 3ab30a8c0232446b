"""Relaxed files catch up: what was published without a data sync is synced later, so that a reboot need not re-hash
it."""

from __future__ import annotations

import contextlib

import trio

from engine.errors import StorageError, StoreError
from engine.files.part_file import open_part
from engine.model.records import PartPhase
from engine.transfer.services import Services


async def settle(services: Services) -> None:
    """Every ``settle_interval_s``: sync the finished files that are not known synced, and note that they are."""
    while True:
        await trio.sleep(services.config.settle_interval_s)
        with contextlib.suppress(StorageError, StoreError):  # the store's disk is in trouble: the marks stay for later
            for entry_id, part_index, boot_id in services.store.unsynced():
                if boot_id == services.boot_id and await services.work(_sync, services, entry_id, part_index):
                    await services.write(services.store.mark_synced, entry_id, part_index)


def _sync(services: Services, entry_id: str, part_index: int) -> bool:
    """False when there is nothing to sync yet or it failed: then the mark stays and a reboot re-hashes the file."""
    record = next((part for part in services.store.parts(entry_id) if part.index == part_index), None)
    if record is None or record.phase is not PartPhase.PUBLISHED:
        return False
    try:
        file = open_part(services.files, record.folder, record.final_name)
    except StorageError:
        return False
    try:
        services.files.sync_data(file.fd)
    except OSError:
        return False
    finally:
        file.close()
    return True
