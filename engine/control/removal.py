"""Removing entries for good: the record first, by a tombstone, then its files, then the tombstone (DESIGN law 4).

Whatever cannot be deleted now (a disk that is read-only or not mounted, a folder without permission) keeps its
tombstone, and is tried again every minute, when its id is removed or asked for again, and at the next start.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Sequence

import trio

from engine.control.credentials import Credentials
from engine.control.each import for_each
from engine.control.places import place_kept
from engine.control.runs import Runs
from engine.errors import EngineError, NotMounted, StorageError, StoreError, TargetGone, UnknownEntry, storage_error
from engine.files.filesystem import FileSystem
from engine.files.part_file import is_file
from engine.model.events import Recovered, Removed
from engine.model.records import DownloadEntry
from engine.model.states import State
from engine.store.state_store import StateStore
from engine.store.tombstones import LIBRARY, Doomed, Tombstone
from engine.transfer.services import Services
from engine.transfer.setup_part import entry_tag

log = logging.getLogger("engine")


class Removal:
    """Removes entries that wait, run or are done alike. ``freed`` is called with the id when its record is gone, or it
    was cancelled, and again when files of it are."""

    def __init__(self, services: Services, runs: Runs, credentials: Credentials) -> None:
        self._services = services
        self._runs = runs
        self._credentials = credentials
        self.freed: Callable[[str], None] | None = None

    async def remove(self, entry_id: str, keep_file: bool = False) -> int:
        """Stop the entry, drop all that is known of it, and delete its files; with ``keep_file`` the finished file
        stays. Returns the bytes of the files deleted. A request for the same id that comes meanwhile waits, and then is
        a new entry; who waits for the removed one gets Superseded.

        Only the very files of the record are deleted: what a user or another entry put in their place stays. Raises
        UnknownEntry; StorageError when the entry is gone but a file could not be deleted.
        """
        self._runs.check_open()
        async with self._runs.alone(entry_id):
            if not await self._bury(entry_id, keep_file=keep_file) and not self._pending(entry_id):
                raise UnknownEntry(f"there is no entry {entry_id}")
            return await self.finish(entry_id)

    async def remove_if(self, entry_id: str, still: Callable[[DownloadEntry], bool]) -> bool:
        """:meth:`remove` what may go by itself: ``still`` is asked once nobody else can change the entry, so that
        whatever a user did meanwhile counts. False when it is not so any more, or the entry is gone.

        Raises EngineClosed, BadRecord; StorageError when the entry is gone but a file could not be deleted.
        """
        self._runs.check_open()
        async with self._runs.alone(entry_id):
            entry = self._services.store.get(entry_id)
            if entry is None or not still(entry) or not await self._bury(entry_id, keep_file=False):
                return False
            await self.finish(entry_id)
            return True

    async def remove_all(self, scope: str | None = None, keep_files: bool = False) -> int:
        """Remove every entry, or every one of a scope; returns the bytes of the files deleted. One whose files cannot
        be deleted does not keep the others: the first such error is raised in the end."""
        self._runs.check_open()
        store, failed, reclaimed = self._services.store, [], 0
        # Those that wait first: otherwise each one that is stopped would let the next begin.
        for state in (State.PENDING, None):
            ids = await self._services.work(store.ids, state, scope)
            sizes, errors = await for_each(ids, lambda entry_id: self.remove(entry_id, keep_files))
            reclaimed += sum(sizes)
            failed += [error for error in errors if not isinstance(error, UnknownEntry)]  # removed by somebody else
        if failed:
            raise failed[0]
        return reclaimed

    async def finish_left(self) -> None:
        """Try again, from time to time, to delete what could not be deleted (its disk is back by then); until
        cancelled."""
        services = self._services
        while True:
            await trio.sleep(services.config.space_check_interval_max_s)
            try:
                left = await services.work(services.store.tombstones.all)
                await for_each([tombstone.id for tombstone in left], self.finish_alone)
            except (StoreError, StorageError) as error:
                log.warning("what is left of removed entries could not be looked at, and will be later: %s", error)

    async def finish_alone(self, entry_id: str) -> int:
        """:meth:`finish`, for who has the entry not alone yet."""
        async with self._runs.alone(entry_id):
            return await self.finish(entry_id)

    async def finish(self, entry_id: str) -> int:
        """Delete what is left of a removed or cancelled entry, if anything; returns the bytes. For who has the entry
        alone. Raises StorageError when something cannot be deleted; then it is tried again later."""
        services = self._services
        tombstone = services.store.tombstones.find(entry_id)
        if tombstone is None:
            return 0
        reclaimed = await services.work(delete_files, services.files, tombstone, services.library)
        await services.write(services.store.tombstones.drop, entry_id)
        self.tell_freed(entry_id)
        return reclaimed

    def tell_freed(self, entry_id: str) -> None:
        """The entry was removed or cancelled, or files of it are gone: its scope has it no more."""
        if self.freed is not None:
            self.freed(entry_id)

    async def _bury(self, entry_id: str, *, keep_file: bool) -> bool:
        """Drop the record; False when there is none. Once the entry is stopped this is not left half-way."""
        services = self._services
        with trio.CancelScope(shield=True), place_kept(self._runs, services.store, entry_id):
            await self._runs.stop(entry_id, None)
            try:
                tombstone = await services.write(services.store.tombstones.bury, entry_id, keep_file=keep_file)
            except UnknownEntry:
                return False
        self._credentials.forget(entry_id)
        self._runs.forget(entry_id)
        self.tell_freed(entry_id)  # with no file to delete, or one that is kept, nothing follows
        services.emit(Removed(id=entry_id, epoch=tombstone.epoch, attempt=tombstone.attempt, kept_file=keep_file))
        return True

    def _pending(self, entry_id: str) -> bool:
        return self._services.store.tombstones.find(entry_id) is not None


def finish_removals(store: StateStore, files: FileSystem) -> list[Recovered]:
    """Delete what removals and cancellations left when the process ended; tells of each. Blocks; for the start. What
    cannot be deleted now stays for later."""
    found: list[Recovered] = []
    for tombstone in store.tombstones.all():
        try:
            delete_files(files, tombstone, None)
        except StorageError as error:
            what = f"what is left of it could not be deleted: {error}"
        else:
            store.tombstones.drop(tombstone.id)
            what = "its removal was finished" if tombstone.removed else "its cancellation was finished"
        found.append(Recovered(id=tombstone.id, epoch=tombstone.epoch, attempt=tombstone.attempt, what=what))
    return found


def delete_files(files: FileSystem, tombstone: Tombstone, library: str | None) -> int:
    """Delete what the tombstone names, durably; returns the bytes. A file or folder that is gone counts as deleted,
    unless it seems to be on a disk that is not mounted. ``library``: the folder that it may call by :data:`LIBRARY`;
    without it that one is not swept, and what is there is left to the search for orphans. Raises StorageError
    (NotMounted) in the end, when all the others are deleted."""
    failed: list[EngineError] = []
    reclaimed = 0
    tag = entry_tag(tombstone.id)
    folders = [library if folder == LIBRARY else folder for folder in tombstone.swept]
    for folder, doomed in [
        *((one.folder, one) for one in tombstone.doomed),
        *((folder, None) for folder in folders if folder is not None),
    ]:
        try:
            done = _delete_in(files, folder, doomed, tag)
        except OSError as error:
            typed = storage_error(error, f"what {tombstone.id} left in {folder} is deleted once it can be")
            if not isinstance(typed, TargetGone):
                failed.append(typed)
                continue
            done = 0
        reclaimed += done
        if done == 0 and doomed is not None and _is_away(files, folder, doomed.device):
            failed.append(NotMounted(f"{folder}, where {tombstone.id} left files, is on a disk that is not mounted"))
    if failed:
        raise failed[0]
    return reclaimed


def _is_away(files: FileSystem, folder: str, device: int) -> bool:
    """Whether the folder's disk (0: not known) seems not to be mounted: the folder is missing or empty, and what is
    there in its place is on another one. A folder with anything in it is what it was, and the file was deleted."""
    if device == 0:
        return False
    at, info = folder, files.stat_path(folder)
    if info is not None and stat.S_ISDIR(info.st_mode) and files.names(folder):
        return False
    while info is None and at != "/":
        at = os.path.dirname(at)
        info = files.stat_path(at)
    return info is not None and info.st_dev != device


def _delete_in(files: FileSystem, folder: str, doomed: Doomed | None, tag: str) -> int:
    """Delete the doomed files, or (None) all unfinished ones of that tag."""
    folder_fd = files.open_folder(folder)
    try:
        names: Sequence[str]
        if doomed is None:
            names = [name for name in files.names(folder) if name.startswith(f".oe-{tag}-")]
        elif doomed.final_name and _is_it(files, folder_fd, doomed):
            names = [*doomed.names, doomed.final_name]
        else:
            names = doomed.names
        reclaimed = sum(_delete(files, folder_fd, name) for name in names)
        files.sync(folder_fd)
    finally:
        files.close(folder_fd)
    return reclaimed


def _delete(files: FileSystem, folder_fd: int, name: str) -> int:
    info = files.stat_name(folder_fd, name)
    return info.st_blocks * 512 if info is not None and files.unlink(folder_fd, name) else 0


def _is_it(files: FileSystem, folder_fd: int, doomed: Doomed) -> bool:
    """Whether the final name is that of the very file. A reboot may have given its device another number; then its
    size and time stamp have to be what they were."""
    info = files.stat_name(folder_fd, doomed.final_name)
    if info is None or not stat.S_ISREG(info.st_mode):
        return False
    unchanged = (info.st_size, info.st_mtime_ns) == (doomed.size, doomed.mtime_ns)
    if not doomed.inode:
        return unchanged
    if not is_file(files, folder_fd, doomed.final_name, doomed.inode, doomed.inode_version):
        return False
    return doomed.device in {0, info.st_dev} or unchanged
