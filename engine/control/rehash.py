"""Whether the bytes of a part are what was committed: its chunks hashed again. Blocking; runs in worker threads.

A finished file that somebody changed since is told apart: what differs in it was not lost, and is not ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.control.settle import failed_mark
from engine.errors import BadRecord, PartLost, TargetGone
from engine.files.filesystem import FileSystem
from engine.files.part_file import PartFile, open_finished, open_unfinished
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.model.states import Event, Reason, State
from engine.store.state_store import StateStore
from engine.transfer.setup_part import bad_chunks


class Rehashed(NamedTuple):
    """``bad``: chunks that do not hash to their CV. ``synced``: what is there is on the disk by now. ``touched``: it is
    a finished file that somebody changed. ``elsewhere``: it is a file of another disk."""

    bad: list[int]
    synced: bool
    touched: bool = False
    elsewhere: bool = False


def rehash(
    store: StateStore, files: FileSystem, entry_id: str, record: PartRecord, indexes: Sequence[int] | None = None
) -> Rehashed:
    """What hashing the chunks among ``indexes`` (None: all) shows.

    Raises PartLost when the file is gone, another StorageError or OSError when that cannot be told now.
    """
    grid = ChunkGrid(record.length or 0, record.chunk_bytes)
    held = store.bitmap(entry_id, record.index, grid.count)
    file = _open(files, record)
    try:
        bad = bad_chunks(store, files, entry_id, record, file, grid, held, indexes)
        if not bad or record.phase is not PartPhase.PUBLISHED:
            return Rehashed(bad, _sync(file))
        own = (file.inode, file.version) == (record.inode, record.inode_version)
        touched = not own or not _as_left(store, entry_id, record, file)
        return Rehashed(bad, _sync(file), touched, elsewhere=not own and file.device != record.device)
    finally:
        file.close()


def carry_out(
    store: StateStore, entry: DownloadEntry, record: PartRecord, found: Rehashed, now: float, *, whole: bool = True
) -> str:
    """Put on record what hashing all chunks (``whole``) or some of them showed; returns it in words, empty when all is
    well. With a file of another disk the mark stays: the own one may come back, and is as doubtful as it was."""
    if not found.elsewhere:
        if found.bad and not found.touched:
            entry = taken_back(store, entry, now)
            store.clear_chunks(entry.id, entry.epoch, record.index, [(index, 1) for index in found.bad])
        if not found.synced:
            store.mark_unsynced(entry.id, record.index, record.generation, failed_mark(store.session.boot_id))
        elif whole:
            store.mark_synced(entry.id, record.index, record.generation)
    if found.touched:
        return "its file was changed since it was finished; it is left as it is"
    return f"{len(found.bad)} chunks had not reached the disk; they are fetched again" if found.bad else ""


def taken_back(store: StateStore, entry: DownloadEntry, now: float) -> DownloadEntry:
    """A completed file that turned out bad is incomplete again: its entry runs once more, in a new generation."""
    if entry.state is not State.COMPLETED:
        return entry
    return store.transition(
        entry.id, Event.REPAIR, epoch=entry.epoch, now=now, reason=Reason.RECOVERED, completed_at=None
    )


def _as_left(store: StateStore, entry_id: str, record: PartRecord, file: PartFile) -> bool:
    """Whether the file under the final name has the time stamp of the one that was published. A power cut leaves that,
    and the size too where that was synced; the device may have another number afterwards."""
    try:
        offline = store.offline(entry_id)
    except BadRecord:
        offline = None
    if offline is None:
        return False
    info = file.files.stat_fd(file.fd)
    resized = not record.unsynced_boot and info.st_size != offline.size
    return not resized and offline.mtime_ns in {0, info.st_mtime_ns}


def _open(files: FileSystem, record: PartRecord) -> PartFile:
    try:
        if record.phase is PartPhase.PUBLISHED:
            return open_finished(files, record.folder, record.final_name)
        return open_unfinished(files, record)
    except PartLost as error:
        folder = files.stat_path(record.folder)
        if folder is None or folder.st_dev != record.device:
            raise TargetGone(f"{record.folder} is not the disk that it was: {error}") from error
        raise


def _sync(file: PartFile) -> bool:
    try:
        file.files.sync_data(file.fd)
    except OSError:
        return False  # its bytes are right as long as this boot lasts, and are hashed again after it
    return True
