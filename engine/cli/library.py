"""Looking into the store beside a running engine: what ``list`` and ``show`` share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from engine.cli.console import PROGRAM, escape, warn
from engine.config import DEFAULT_CONFIG
from engine.files.filesystem import FileSystem
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.store.creation import STORE_NAME
from engine.store.schema import SCHEMA_VERSION, peek_version
from engine.store.state_store import StateStore
from engine.store.translate import translated

PAGE_ENTRIES = 500
_LOOKS_MAX = 5


def has_store(root: str) -> bool:
    """Whether an engine ever worked in ``root``."""
    return os.path.lexists(os.path.join(root, STORE_NAME))


def tell_without_store(root: str) -> None:
    """An empty answer is right, but it may be the wrong folder."""
    warn(f"{PROGRAM}: no engine has worked in {escape(root)} yet")


def needs_migration(root: str) -> bool:
    """Whether an engine has to bring the store up to date before it can be read. Raises StoreError."""
    store = os.path.join(os.path.abspath(root), STORE_NAME)
    with translated(f"open the store {store}"):
        return peek_version(store, DEFAULT_CONFIG.map_bytes, FileSystem()) < SCHEMA_VERSION


@contextmanager
def open_store(root: str) -> Iterator[StateStore]:
    """The store of ``root`` for reading. Raises StoreError."""
    store = StateStore.open_readonly(root, DEFAULT_CONFIG, FileSystem())
    try:
        yield store
    finally:
        store.close()


def worker_of(store: StateStore) -> int:
    """The process that seems to work on the library, or 0. A hint for people only; the truth is the lease, and to ask
    for that could keep a starting engine out."""
    session = store.session
    return session.pid if not session.previous_clean and runs(session.pid) else 0


def runs(pid: int) -> bool:
    """Whether there is such a process that has not ended: what nobody has waited for yet is a zombie (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as source:
            state = source.read().rpartition(b")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {b"Z", b"X"}


def current_path(part: PartRecord) -> str:
    """Where the part's bytes are now."""
    published = part.phase is PartPhase.PUBLISHED
    return os.path.join(part.folder, part.final_name if published else part.part_name)


def held_ranges(store: StateStore, entry: DownloadEntry) -> tuple[tuple[PartRecord, ...], list[list[tuple[int, int]]]]:
    """The parts, and for each the byte ranges ``[start, end)`` that its bitmap claims.

    Another process may begin a new generation between two reads; then it is looked at again.
    """
    for _ in range(_LOOKS_MAX):
        parts = store.parts(entry.id)
        ranges = [_ranges_of(store, entry.id, part) for part in parts]
        after = store.parts(entry.id)
        if [_identity(part) for part in parts] == [_identity(part) for part in after]:
            break
    return parts, ranges


def _identity(part: PartRecord) -> tuple[int, int, int | None]:
    return part.index, part.generation, part.length


def _ranges_of(store: StateStore, entry_id: str, part: PartRecord) -> list[tuple[int, int]]:
    if part.length is None:  # nothing is claimed before the length is known
        return []
    grid = ChunkGrid(part.length, part.chunk_bytes)
    return [grid.byte_range(first, count) for first, count in store.held_runs(entry_id, part.index, grid.count)]
