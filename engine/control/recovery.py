"""What the start does before anything runs: believe what held, mend or drop what did not (fault catalogue section 3,
step 8).

Blocking; runs in a worker thread. Every step can be interrupted and run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from engine.control.recheck import Recheck
from engine.control.removal import finish_removals
from engine.errors import BadRecord, IntegrityError, PoisonError, StorageError
from engine.files.filesystem import FileSystem
from engine.files.part_file import open_unfinished, publish
from engine.files.reading import digests
from engine.model.chunks import ChunkGrid
from engine.model.events import Recovered
from engine.model.records import DownloadEntry, ErrorRecord, PartPhase, PartRecord
from engine.model.states import Event, Reason, State
from engine.store.state_store import StateStore
from engine.transfer.completion import check_expected, complete, other_digests, root_of

# An entry that the process died with so often in a row, without one byte more, is suspected to be the cause.
CRASHES_MAX = 3


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
        self.found += finish_removals(self.store, self.files)
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
        entry = self._count_crash(entry, parts)
        if entry.crashes >= CRASHES_MAX:
            self._quarantine(entry)
            return
        if parts and parts[0].phase is PartPhase.FINALIZING and self._finish(entry, parts[0]):
            self._note(entry, "publishing was finished")
            return
        self.store.transition(entry.id, Event.RECOVER, epoch=entry.epoch, now=self.now, reason=Reason.RECOVERED)
        self._note(entry, "was running when the process ended; it continues where it was")

    def _count_crash(self, entry: DownloadEntry, parts: Sequence[PartRecord]) -> DownloadEntry:
        """Note that the process died while the entry ran, before anything is tried with it that may crash again. The
        end of the whole machine, or of a store that was closed in order, is not the entry's doing."""
        session = self.store.session
        if session.previous_clean or not session.same_boot:
            return entry
        held = sum(part.bytes_done for part in parts)
        crashes = entry.crashes + 1 if held == entry.crash_bytes else 0
        return self.store.update(entry.id, entry.epoch, crashes=crashes, crash_bytes=held)

    def _quarantine(self, entry: DownloadEntry) -> None:
        what = f"the process died {entry.crashes} times in a row while it ran, and it came no further"
        error = ErrorRecord.of(PoisonError(what), self.now)
        self.store.transition(
            entry.id,
            Event.FAIL,
            epoch=entry.epoch,
            now=self.now,
            reason=Reason.ERROR,
            last_error=error,
            crashes=0,
        )
        self._note(entry, f"{what}: it is FAILED, and not tried again unasked")

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
            found = digests(self.files, file.fd, file.size, other_digests(entry, record, resumed=True))
            check_expected(entry, record, file.size, {"blake3": record.digest, **found})
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
