"""Looking at finished files again: every chunk is read and compared with its CV. Blocking; runs in a worker thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum

import msgspec

from engine.errors import BadRecord, PartLost, StorageError, TargetGone
from engine.files.filesystem import FileSystem
from engine.files.part_file import PartFile, open_finished
from engine.files.reading import digests
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry, OfflineEntry, PartRecord
from engine.model.states import State
from engine.store.state_store import StateStore
from engine.transfer.setup_part import bad_chunks


class Health(StrEnum):
    """What looking at an entry's files showed."""

    VALID = "valid"
    INCOMPLETE = "incomplete"
    MISSING = "missing"
    CORRUPT = "corrupt"
    UNREADABLE = "unreadable"


class Repair(StrEnum):
    """What is being done about a file that is not valid."""

    NONE = ""
    CHUNKS = "chunks"  # only what is bad is fetched again
    WHOLE = "whole"  # everything is
    REFUSED = "refused"  # nothing; the message says why


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """One entry's health as it was found. ``bad_ranges``: byte ranges ``[start, end)`` whose bytes are not what was
    downloaded. ``repair``: what was begun about it; the entry then runs, and is COMPLETED again at its end."""

    id: str
    health: Health
    path: str = ""
    bytes_checked: int = 0
    bad_ranges: tuple[tuple[int, int], ...] = ()
    message: str = ""
    repair: Repair = Repair.NONE


def validate(store: StateStore, files: FileSystem, entry: DownloadEntry) -> Validation:
    """Check a COMPLETED entry's file chunk by chunk; any other state is INCOMPLETE.

    When the record of its part is damaged, the file as a whole is compared with its BLAKE3 hash.
    """
    if entry.state is not State.COMPLETED:
        return Validation(id=entry.id, health=Health.INCOMPLETE, message=f"the entry is {entry.state.value}")
    try:
        record = next(iter(store.parts(entry.id)), None)
    except BadRecord as error:
        return _validate_whole(store, files, entry, str(error))
    if record is None or record.length is None:
        return Validation(id=entry.id, health=Health.INCOMPLETE, message="nothing is on record of its chunks")
    path = os.path.join(record.folder, record.final_name)
    return _look(files, entry.id, path, lambda file: _by_chunks(store, entry.id, record, file))


def _validate_whole(store: StateStore, files: FileSystem, entry: DownloadEntry, damage: str) -> Validation:
    try:
        offline = store.offline(entry.id)
    except BadRecord as error:
        return Validation(id=entry.id, health=Health.UNREADABLE, message=f"{damage}; {error}")
    if offline is None:
        return Validation(id=entry.id, health=Health.UNREADABLE, message=damage)
    return _look(files, entry.id, offline.path, lambda file: _by_hash(offline, file))


def _look(files: FileSystem, entry_id: str, path: str, check: Callable[[PartFile], Validation]) -> Validation:
    try:
        file = open_finished(files, *os.path.split(path))
    except (PartLost, TargetGone) as error:
        return Validation(id=entry_id, health=Health.MISSING, path=path, message=str(error))
    except StorageError as error:
        return Validation(id=entry_id, health=Health.UNREADABLE, path=path, message=str(error))
    try:
        return msgspec.structs.replace(check(file), path=path)
    except (StorageError, OSError) as error:
        return Validation(id=entry_id, health=Health.UNREADABLE, path=path, message=str(error))
    finally:
        file.close()


def _by_chunks(store: StateStore, entry_id: str, record: PartRecord, file: PartFile) -> Validation:
    length = record.length or 0
    grid = ChunkGrid(length, record.chunk_bytes)
    held = store.bitmap(entry_id, record.index, grid.count)
    bad = bad_chunks(store, file.files, entry_id, record, file, grid, held)
    bad += [index for first, count in held.runs(False) for index in range(first, first + count)]
    if not bad and file.size == length:
        return Validation(id=entry_id, health=Health.VALID, bytes_checked=length)
    message = f"{len(bad)} of {grid.count} chunks are wrong"
    if file.size != length:
        message += f"; the file has {file.size} bytes, not {length}"
    ranges = tuple(grid.byte_range(index, 1) for index in sorted(bad))
    return Validation(id=entry_id, health=Health.CORRUPT, bytes_checked=length, bad_ranges=ranges, message=message)


def _by_hash(offline: OfflineEntry, file: PartFile) -> Validation:
    if file.size == offline.size:
        found = digests(file.files, file.fd, file.size, ["blake3"])["blake3"]
        if found == offline.blake3:
            return Validation(id=offline.id, health=Health.VALID, bytes_checked=file.size)
        message = f"blake3 is {found}, not {offline.blake3}"
    else:
        message = f"the file has {file.size} bytes, not {offline.size}"
    everything = ((0, offline.size),)
    return Validation(
        id=offline.id, health=Health.CORRUPT, bytes_checked=file.size, bad_ranges=everything, message=message
    )
