"""Wrong variants of the protocol, each of which the power tests have to catch. Test-only: they patch the engine from
outside, in the recorded process or in the one that judges."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import lmdb

from engine.control import removal
from engine.control.recheck import Recheck
from engine.files.filesystem import FileSystem
from engine.store import creation
from engine.store.creation import STORE_NAME
from engine.store.tombstones import Tombstone
from engine.transfer import folder_lanes
from engine.transfer.committer import Committer
from engine.transfer.part_job import PartJob
from engine.transfer.sealing import Sealing
from tests.fire.power_world import FIRST_BOOT, OneDisk


@dataclass(frozen=True)
class Mutant:
    """``recorded`` is done to the process that is recorded, ``judging`` to the one that recovers."""

    what: str
    scenarios: tuple[str, ...]
    recorded: Callable[[], None] | None = None
    judging: Callable[[], None] | None = None


def _bit_before_sync() -> None:
    """The transaction first; the data sync of a group only before the next one's. (Write-back is not begun early: on a
    slow machine it would have ended by then.)"""

    submit = Sealing.submit

    def lazily(sealing: Sealing, job: PartJob, *args: Any, **kwargs: Any) -> None:
        durable, job.durable = job.durable, False
        try:
            submit(sealing, job, *args, **kwargs)
        finally:
            job.durable = durable

    commit_pending, sync_data = Committer.commit_pending, FileSystem.sync_data
    late: list[int] = []

    def postponed(_: FileSystem, fd: int) -> None:
        late.append(os.dup(fd))

    async def commit(committer: Committer) -> None:
        due, late[:] = list(late), []
        for fd in due:
            sync_data(FileSystem(), fd)
            os.close(fd)
        await commit_pending(committer)

    _set(Sealing, "submit", lazily)
    _set(FileSystem, "sync_data", postponed)
    _set(Committer, "commit_pending", commit)


def _no_folder_sync() -> None:
    """fsync of folders is left out."""
    sync = FileSystem.sync

    def files_only(files: FileSystem, fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            sync(files, fd)

    _set(FileSystem, "sync", files_only)


def _no_sync_of_small_files() -> None:
    """fsync of files is left out: the short way's data."""
    sync = FileSystem.sync

    def folders_only(files: FileSystem, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            sync(files, fd)

    _set(FileSystem, "sync", folders_only)


def _store_unsynced(**switches: bool) -> Callable[[], None]:
    """LMDB with other switches."""

    def patch() -> None:
        open_environment = lmdb.open

        def opened(*args: Any, **kwargs: Any) -> lmdb.Environment:
            return open_environment(*args, **(kwargs | switches))

        _set(lmdb, "open", opened)

    return patch


def _complete_before_named() -> None:
    """COMPLETED is recorded although the folder's sync is still to come: it never does."""
    _set(folder_lanes, "sync_folder", lambda *_: None)


def _files_before_record() -> None:
    """A removal deletes files first, then the record."""
    bury = removal.Removal._bury

    async def reversed_order(self: removal.Removal, entry_id: str, *, keep_file: bool) -> bool:
        services = self._services
        parts, offline = services.store.parts(entry_id), services.store.offline(entry_id)
        await self._runs.stop(entry_id, None)
        for path in [offline.path] if offline else [os.path.join(part.folder, part.part_name) for part in parts]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            with _folder(os.path.dirname(path)) as fd:
                os.fsync(fd)
        return await bury(self, entry_id, keep_file=keep_file)

    _set(removal.Removal, "_bury", reversed_order)


def _removal_unsynced() -> None:
    """A tombstone goes before the deletion of its files is durable."""
    delete_files = removal.delete_files

    def unsynced(files: FileSystem, tombstone: Tombstone, library: str | None) -> int:
        class Unsynced(type(files)):  # type: ignore[misc]  # of whichever file system there is
            def sync(self, fd: int) -> None:
                """Left out."""

        lazy = Unsynced.__new__(Unsynced)
        lazy.__dict__.update(files.__dict__)
        return delete_files(lazy, tombstone, library)

    _set(removal, "delete_files", unsynced)


def _relaxed_trusted() -> None:
    """After a reboot bits without a data sync are believed. (The suspect log alone finds most of them.)"""
    _set(Recheck, "unsynced", lambda _: None)


def _reboot_unnoticed() -> None:
    """The boot id says nothing: what the page cache held is believed to have survived."""
    _set(OneDisk, "boot_id", lambda _: FIRST_BOOT)


def _store_made_in_place() -> None:
    """A new store is made under its own name at once."""
    _set(creation, "UNFINISHED", STORE_NAME)
    _set(uuid, "uuid4", lambda: SimpleNamespace(hex=""))
    _set(creation, "_give_name", lambda *_: None)


@contextlib.contextmanager
def _folder(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _set(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


MUTANTS: Final[dict[str, Mutant]] = {
    "bit-before-sync": Mutant("bits are recorded before their bytes are synced", ("chunks",), _bit_before_sync),
    "no-folder-sync": Mutant("names are not synced", ("many",), _no_folder_sync),
    "no-file-sync": Mutant("a small file is not synced before its name", ("many",), _no_sync_of_small_files),
    "metasync-off": Mutant("LMDB does not sync its meta page", ("verbs", "many"), _store_unsynced(metasync=False)),
    "sync-off": Mutant("LMDB does not sync", ("many",), _store_unsynced(sync=False)),
    "completed-before-named": Mutant(
        "COMPLETED before its name is durable", ("many", "chunks"), _complete_before_named
    ),
    "files-before-record": Mutant("a removal deletes before it is recorded", ("removal",), _files_before_record),
    "removal-unsynced": Mutant("a tombstone goes before the deletion is durable", ("removal",), _removal_unsynced),
    "relaxed-trusted": Mutant("unsynced bits are believed after a reboot", ("relaxed",), judging=_relaxed_trusted),
    "reboot-unnoticed": Mutant("a reboot is taken for a kill", ("relaxed",), judging=_reboot_unnoticed),
    "store-in-place": Mutant("a new store is filled under its own name", ("creation",), _store_made_in_place),
}
