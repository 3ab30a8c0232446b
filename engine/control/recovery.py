"""What the start does before anything runs: believe what held, mend or drop what did not (fault catalogue section 3,
step 8).

Blocking; runs in a worker thread. Every step can be interrupted and run again.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from engine.control.recheck import Recheck
from engine.errors import BadRecord, IntegrityError, StorageError
from engine.files.filesystem import FileSystem
from engine.files.part_file import open_unfinished, publish
from engine.files.reading import digests
from engine.model.chunks import ChunkGrid
from engine.model.events import Recovered
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.model.states import Event, Reason, State
from engine.store.state_store import StateStore
from engine.transfer.completion import check_expected, complete, other_digests, root_of


class Recovery:
    """One run over the store at its opening; ``found`` tells what was recovered."""

    def __init__(self, store: StateStore, files: FileSystem, now: float) -> None:
        self.store = store
        self.files = files
        self.now = now
        self.found: list[Recovered] = []
        self._recheck = Recheck(store, files, now, self._note)

    def run(self) -> list[Recovered]:
        """Recover every entry that needs it."""
        if not self.store.session.previous_clean:  # a look at every record: not at each of a great library's starts
            if not self.store.indexes_sound():
                self.store.rebuild_indexes()
            self._drop_damaged_parts()
        self._recheck.unsynced()
        if self.store.session.recheck:
            self._recheck.suspects()
        for entry in list(self._in_state(State.IN_PROGRESS)):
            self._take_back(entry)
        self._tell_damages()
        return self.found

    def _in_state(self, state: State) -> Iterator[DownloadEntry]:
        after: str | None = None
        while page := self.store.list(state, after, 500):
            yield from page
            after = page[-1].id

    def _note(self, entry: DownloadEntry, what: str) -> None:
        self.found.append(Recovered(id=entry.id, epoch=entry.epoch, attempt=entry.attempt_count, what=what))

    def _drop_damaged_parts(self) -> None:
        """Without the record of its part an unfinished entry has nothing to build on. A finished file stays: it can be
        compared with its hash."""
        for entry in self.store.damaged_parts():
            if entry.state is State.COMPLETED:
                self._note(entry, "the record of its chunks is damaged; its file is as it was")
            else:
                self.store.drop_parts(entry.id, entry.epoch)
                self._note(entry, "the record of its chunks was damaged; it begins anew")

    def _take_back(self, entry: DownloadEntry) -> None:
        parts = self.store.parts(entry.id)
        if parts and parts[0].phase is PartPhase.FINALIZING and self._finish(entry, parts[0]):
            self._note(entry, "publishing was finished")
            return
        self.store.transition(entry.id, Event.RECOVER, epoch=entry.epoch, now=self.now, reason=Reason.RECOVERED)
        self._note(entry, "was running when the process ended; it continues where it was")

    def _finish(self, entry: DownloadEntry, record: PartRecord) -> bool:
        """Publish a part that was complete. False when that cannot be done now, or it is not what the entry expects by
        now (which may be another thing than when it was checked): then the entry runs again."""
        grid = ChunkGrid(record.length or 0, record.chunk_bytes)
        if entry.id in self._recheck.deferred or not self.store.bitmap(entry.id, record.index, grid.count).complete:
            return False
        try:
            file = open_unfinished(self.files, record)
        except StorageError:
            return False
        try:
            if (file.identity, file.size) != (record.identity, record.length):
                return False
            record = replace(record, digest=root_of(self.store, entry.id, record.index, grid))
            found = digests(self.files, file.fd, file.size, other_digests(entry, resumed=True))
            check_expected(entry, file.size, {"blake3": record.digest, **found})
            publish(file, record, overwrite=entry.overwrite)
            mtime_ns = self.files.stat_fd(file.fd).st_mtime_ns
        except (StorageError, IntegrityError, BadRecord, OSError):
            return False
        finally:
            file.close()
        found.pop("blake3", None)
        published = replace(record, phase=PartPhase.PUBLISHED, superseded=())
        complete(self.store, entry, published, found, self.now, mtime_ns)
        return True

    def _tell_damages(self) -> None:
        """What of the store itself was found damaged, where it is known whose it was."""
        told = {recovered.id for recovered in self.found}
        for damage in self.store.take_damages():
            if damage.entry_id and damage.entry_id not in told:
                told.add(damage.entry_id)
                what = f"a record of it is damaged ({damage.table}): {damage.detail}"
                self.found.append(Recovered(id=damage.entry_id, epoch=0, attempt=0, what=what))
