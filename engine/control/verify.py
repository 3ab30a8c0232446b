"""Looking at finished files again: every chunk is read and compared with its CV. Blocking; runs in a worker thread."""

from __future__ import annotations

import os
from enum import StrEnum

import msgspec

from engine.errors import PartLost, StorageError
from engine.files.filesystem import FileSystem
from engine.files.part_file import open_part
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry
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


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """One entry's health. ``bad_ranges``: byte ranges ``[start, end)`` whose bytes are not what was downloaded."""

    id: str
    health: Health
    path: str = ""
    bytes_checked: int = 0
    bad_ranges: tuple[tuple[int, int], ...] = ()
    message: str = ""


def validate(store: StateStore, files: FileSystem, entry: DownloadEntry) -> Validation:
    """Check a COMPLETED entry's file chunk by chunk; any other state is INCOMPLETE."""
    parts = store.parts(entry.id)
    if entry.state is not State.COMPLETED or not parts or parts[0].length is None:
        return Validation(id=entry.id, health=Health.INCOMPLETE, message=f"the entry is {entry.state.value}")
    record = parts[0]
    length = parts[0].length or 0
    path = os.path.join(record.folder, record.final_name)
    grid = ChunkGrid(length, record.chunk_bytes)
    try:
        file = open_part(files, record.folder, record.final_name)
    except PartLost as error:
        return Validation(id=entry.id, health=Health.MISSING, path=path, message=str(error))
    except StorageError as error:
        health = Health.MISSING if error.code == "target_gone" else Health.UNREADABLE
        return Validation(id=entry.id, health=health, path=path, message=str(error))
    try:
        held = store.bitmap(entry.id, record.index, grid.count)
        bad = bad_chunks(store, files, entry.id, record, file, grid, held)
        bad += [index for first, count in held.runs(False) for index in range(first, first + count)]
    except OSError as error:
        return Validation(id=entry.id, health=Health.UNREADABLE, path=path, message=str(error))
    finally:
        file.close()
    if not bad and file.size == length:
        return Validation(id=entry.id, health=Health.VALID, path=path, bytes_checked=length)
    message = f"{len(bad)} of {grid.count} chunks are wrong"
    if file.size != length:
        message += f"; the file has {file.size} bytes, not {length}"
    ranges = tuple(grid.byte_range(index, 1) for index in sorted(bad))
    return Validation(
        id=entry.id, health=Health.CORRUPT, path=path, bytes_checked=length, bad_ranges=ranges, message=message
    )
