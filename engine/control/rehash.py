"""Whether the bytes of a part are what was committed: its chunks hashed again. Blocking; runs in a worker thread.

A finished file that somebody changed since is told apart: what differs in it was not lost, and is not ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.errors import BadRecord, PartLost, TargetGone
from engine.files.filesystem import FileSystem
from engine.files.part_file import PartFile, open_finished, open_unfinished
from engine.model.chunks import ChunkGrid
from engine.model.records import PartPhase, PartRecord
from engine.store.state_store import StateStore
from engine.transfer.setup_part import bad_chunks


class Rehashed(NamedTuple):
    """``bad``: chunks that do not hash to their CV. ``synced``: what is there is on the disk by now. ``touched``: it is
    a finished file that somebody changed."""

    bad: list[int]
    synced: bool
    touched: bool = False


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
        touched = bool(bad) and record.phase is PartPhase.PUBLISHED and _touched(store, entry_id, record, file)
        return Rehashed(bad, _sync(file), touched)
    finally:
        file.close()


def _touched(store: StateStore, entry_id: str, record: PartRecord, file: PartFile) -> bool:
    """Whether the file under the final name is another than was published, or was written to since. A power cut
    leaves the file and its time stamp, and its size too where that was synced; its device may have another number
    afterwards."""
    try:
        offline = store.offline(entry_id)
    except BadRecord:
        offline = None
    if offline is None or (file.inode, file.version) != (record.inode, record.inode_version):
        return True
    info = file.files.stat_fd(file.fd)
    resized = not record.unsynced_boot and info.st_size != offline.size
    return resized or offline.mtime_ns not in {0, info.st_mtime_ns}


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
