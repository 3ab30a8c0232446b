"""What the start does before anything runs: believe what held, mend or drop what did not (fault catalogue section 3,
step 8).

Blocking; runs in a worker thread. Every step can be interrupted and run again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from engine.errors import EngineError, StorageError
from engine.files.filesystem import FileSystem
from engine.files.part_file import PartFile, open_for_finishing, open_part, publish
from engine.model.chunks import ChunkGrid
from engine.model.events import Recovered
from engine.model.records import DownloadEntry, OfflineEntry, PartPhase, PartRecord
from engine.model.states import Event, Reason, State
from engine.store.state_store import StateStore
from engine.transfer.setup_part import bad_chunks


class Recovery:
    """One run over the store at its opening; ``found`` tells what was recovered."""

    def __init__(self, store: StateStore, files: FileSystem, now: float) -> None:
        self.store = store
        self.files = files
        self.now = now
        self.found: list[Recovered] = []

    def run(self) -> list[Recovered]:
        """Recover every entry that needs it."""
        for entry in list(self._in_state(State.IN_PROGRESS)):
            self._take_back(entry)
        self._recheck_unsynced()
        if self.store.session.recheck:
            self._recheck_suspects()
        return self.found

    def _in_state(self, state: State) -> Iterator[DownloadEntry]:
        after: str | None = None
        while page := self.store.list(state, after, 500):
            yield from page
            after = page[-1].id

    def _note(self, entry: DownloadEntry, what: str) -> None:
        self.found.append(Recovered(id=entry.id, epoch=entry.epoch, attempt=entry.attempt_count, what=what))

    def _take_back(self, entry: DownloadEntry) -> None:
        parts = self.store.parts(entry.id)
        if parts and parts[0].phase is PartPhase.FINALIZING and self._finish(entry, parts[0]):
            self._note(entry, "publishing was finished")
            return
        self.store.transition(entry.id, Event.RECOVER, epoch=entry.epoch, now=self.now, reason=Reason.RECOVERED)
        self._note(entry, "was running when the process ended; it continues where it was")

    def _finish(self, entry: DownloadEntry, record: PartRecord) -> bool:
        """Publish a part that was complete and checked. False when that cannot be done now: then the entry runs
        again."""
        try:
            file = open_for_finishing(self.files, record.folder, record.part_name, record.final_name, record.inode)
        except StorageError:
            return False
        try:
            if (file.identity, file.size) != (record.identity, record.length):
                return False
            publish(file, record, overwrite=entry.overwrite)
        except StorageError:
            return False
        finally:
            file.close()
        self._complete(entry, replace(record, phase=PartPhase.PUBLISHED, superseded=()))
        return True

    def _complete(self, entry: DownloadEntry, record: PartRecord) -> None:
        length = record.length or 0
        offline = OfflineEntry(
            id=entry.id,
            path=os.path.join(record.folder, record.final_name),
            size=length,
            blake3=record.digest,
            digests={name: value for name, value in entry.expect.items() if name != "blake3"},
            media_type=record.representation.content_type,
            verified_at=self.now,
        )
        self.store.transition(
            entry.id,
            Event.COMPLETE,
            epoch=entry.epoch,
            now=self.now,
            parts=(record,),
            offline=offline,
            bytes_total=length,
            last_error=None,
            next_retry_at=None,
        )

    def _recheck_unsynced(self) -> None:
        """Relaxed entries after a reboot: nothing is believed until it hashes to its CV (DESIGN law 1)."""
        for entry_id, part_index, boot_id in self.store.unsynced():
            if boot_id != self.store.session.boot_id:
                self._recheck(entry_id, part_index, None)

    def _recheck_suspects(self) -> None:
        """The last commits before an unclean end of another boot: hashed again, in case the disk lied about its
        syncs."""
        for suspect in self.store.suspects():
            self._recheck(suspect.id, suspect.part_index, suspect.indexes, suspect.generation)
        self.store.clear_suspects()

    def _recheck(
        self, entry_id: str, part_index: int, indexes: Sequence[int] | None, generation: int | None = None
    ) -> None:
        entry = self.store.get(entry_id)
        record = (
            next((part for part in self.store.parts(entry_id) if part.index == part_index), None) if entry else None
        )
        if entry is None or record is None or record.length is None or generation not in {None, record.generation}:
            return
        bad = self._bad(entry, record, indexes)
        if bad is None:
            self.store.clear_chunks(
                entry_id, entry.epoch, part_index, [(0, ChunkGrid(record.length, record.chunk_bytes).count)]
            )
            self._unpublish(entry)
            self._note(entry, "its file was lost; it is fetched again")
        elif bad:
            self.store.clear_chunks(entry_id, entry.epoch, part_index, [(index, 1) for index in bad])
            self._unpublish(entry)
            self._note(entry, f"{len(bad)} chunks had not reached the disk; they are fetched again")
        if indexes is None:
            self.store.mark_synced(entry_id, part_index)

    def _bad(self, entry: DownloadEntry, record: PartRecord, indexes: Sequence[int] | None) -> list[int] | None:
        """Chunks among ``indexes`` (None: all) that do not hash to their CV; None when the file itself is gone."""
        length = record.length or 0
        grid = ChunkGrid(length, record.chunk_bytes)
        held = self.store.bitmap(entry.id, record.index, grid.count)
        try:
            file = self._open(record)
        except StorageError:
            return None
        try:
            bad = bad_chunks(self.store, self.files, entry.id, record, file, grid, held, indexes)
            self.files.sync_data(file.fd)
        except (EngineError, OSError):
            return None
        finally:
            file.close()
        return bad

    def _open(self, record: PartRecord) -> PartFile:
        if record.phase is PartPhase.PUBLISHED:
            return open_part(self.files, record.folder, record.final_name)
        return open_for_finishing(self.files, record.folder, record.part_name, record.final_name, record.inode)

    def _unpublish(self, entry: DownloadEntry) -> None:
        """A completed file that turned out bad is incomplete again: its entry runs once more, in a new generation."""
        if entry.state is State.COMPLETED:
            self.store.transition(
                entry.id, Event.REPAIR, epoch=entry.epoch, now=self.now, reason=Reason.RECOVERED, completed_at=None
            )
