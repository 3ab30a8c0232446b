"""Hashing again what a reboot made doubtful, before anything believes it (DESIGN law 1).

The order makes every step repeatable: a finished file that is bad is first taken back (REPAIR), then its bits are
cleared, and the mark that brought it here goes last. Whatever cannot be looked at now keeps its bits and its mark, by
which the next attempt, settling, or the next start finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from engine.control.rehash import carry_out, rehash, taken_back
from engine.control.settle import failed_mark
from engine.errors import BadRecord, PartLost, StorageError
from engine.files.filesystem import FileSystem
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.store.state_store import StateStore

# The unsynced mark of a part whose suspects could not be hashed: no boot has this id, so that every start tries again.
UNVERIFIED: Final = "unverified"


class Recheck:
    """``note`` is told what was found of an entry. ``deferred`` are the entries that could not be looked at."""

    def __init__(
        self, store: StateStore, files: FileSystem, now: float, note: Callable[[DownloadEntry, str], None]
    ) -> None:
        self._store = store
        self._files = files
        self._now = now
        self._note = note
        self._seen: set[tuple[str, int]] = set()
        self.deferred: set[str] = set()

    def unsynced(self) -> None:
        """Parts whose bytes were not synced under an earlier boot: nothing of them is believed until it hashes to its
        CV."""
        boot_id = self._store.session.boot_id
        for entry_id, part_index, mark in self._store.unsynced():
            if mark not in {boot_id, failed_mark(boot_id)}:
                self._part(entry_id, part_index, None)

    def suspects(self) -> None:
        """The last commits before an unclean end of another boot: hashed again, in case the disk lied about its
        syncs."""
        for suspect in self._store.suspects():
            if (suspect.id, suspect.part_index) not in self._seen:
                self._part(suspect.id, suspect.part_index, suspect.indexes, suspect.generation)
        self._store.clear_suspects()

    def _part(
        self, entry_id: str, part_index: int, indexes: Sequence[int] | None, generation: int | None = None
    ) -> None:
        try:
            entry = self._store.get(entry_id)
            parts = self._store.parts(entry_id) if entry is not None else ()
        except BadRecord:
            return  # the store noted the damage, and Recovery tells it
        record = next((part for part in parts if part.index == part_index), None)
        if entry is None or record is None or record.length is None or generation not in {None, record.generation}:
            return
        self._seen.add((entry_id, part_index))
        try:
            found = rehash(self._store, self._files, entry_id, record, indexes)
        except PartLost:
            entry = taken_back(self._store, entry, self._now)
            everything = (0, ChunkGrid(record.length, record.chunk_bytes).count)
            self._store.clear_chunks(entry_id, entry.epoch, part_index, [everything])
            if indexes is None:
                self._store.mark_synced(entry_id, part_index, record.generation)
            self._note(entry, "its file was lost; it is fetched again")
        except (StorageError, OSError) as error:
            self._defer(entry, record, error)
        else:
            if what := carry_out(self._store, entry, record, found, self._now, whole=indexes is None):
                self._note(self._store.get(entry_id) or entry, what)

    def _defer(self, entry: DownloadEntry, record: PartRecord, error: Exception) -> None:
        """Leave the bits, and make sure that neither the next attempt nor the next start believes them unseen."""
        if not record.unsynced_boot:
            self._store.mark_unsynced(entry.id, record.index, record.generation, UNVERIFIED)
        if record.phase is PartPhase.ACTIVE:
            # A file that is not the one on record is hashed before an attempt builds on it.
            doubtful = replace(record, inode=0, inode_version=0)
            self._store.put_part(entry.id, entry.epoch, doubtful)
        self.deferred.add(entry.id)
        self._note(entry, f"its file could not be looked at ({error}); it is looked at again when it can be")
