"""The face of the store: every method is one whole transaction on the calling thread (DESIGN sections 3-6).

Reads may come from any thread, writes are let in one at a time; all of them block and belong off the event loop when
the disk may be slow. What is returned is frozen and owns its bytes. Every method may raise StoreError, and NoSpace when
the disk is full; then nothing was changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from engine.config import Config
from engine.errors import StoreUnusable
from engine.files.filesystem import FileSystem
from engine.model.bitmap import Bitmap
from engine.model.records import DownloadEntry, OfflineEntry, PartRecord
from engine.model.states import Event, Reason, State
from engine.store import commits, entries, pages, parts, suspects, tombstones
from engine.store.bulk import BulkStore
from engine.store.codec import Table, decode, entry_key
from engine.store.commits import ChunkCommit
from engine.store.creation import STORE_NAME, ensure_store, read_uuid
from engine.store.damage import Damage
from engine.store.entries import PendingLine
from engine.store.environment import Environment
from engine.store.group_store import GroupStore
from engine.store.home import settle
from engine.store.inbox import EngineInbox
from engine.store.lease import Lease
from engine.store.opening import DATA_NAME
from engine.store.root import check_file_system, prepare_root
from engine.store.schema import SCHEMA_VERSION, migrate, peek_version
from engine.store.session import Session, begin_session, end_recheck, end_session, read_session
from engine.store.structure import check_as_owner, check_structure, leave_mark
from engine.store.suspects import Suspects
from engine.store.translate import translated
from engine.store.txn import Txn
from engine.store.usage import UsageStore

__all__ = ["ChunkCommit", "Damage", "PendingLine", "Session", "StateStore", "Suspects"]

LONG_WALK: Final = 1000  # entries; reading so many leaves megabytes of the store's pages resident

# Named here because `list` is a method of the class below.
EntryList = list[DownloadEntry]
RunList = list[tuple[int, int]]
UnsyncedList = list[tuple[str, int, str]]
SuspectsList = list[Suspects]
CommittedList = list[PartRecord | None]
MaybeEntries = list[DownloadEntry | None]
PendingList = list[PendingLine]
IdList = list[str]


class StateStore:
    """Made by :meth:`open` (the one writing engine) or :meth:`open_readonly` (a look from another process)."""

    def __init__(self, environment: Environment, lease: Lease | None, session: Session, uuid: str) -> None:
        self._environment = environment
        self._lease = lease
        self.session = session
        self.uuid = uuid
        self.moved = ""  # what was done about a root that is not where it was, in words
        self._leave_mark: Callable[[], None] = lambda: None
        self.bulk = BulkStore(environment)
        self.groups = GroupStore(environment)
        self.inbox = EngineInbox(environment)
        self.tombstones = tombstones.Tombstones(environment)
        self.usage = UsageStore(environment)

    @classmethod
    def open(cls, root: str, config: Config, files: FileSystem, *, now: float, adopt: bool = False) -> StateStore:
        """Take the root's lease and open its store, made when there is none; an older schema is brought up to date, and
        so are the paths of a root that was moved. ``adopt``: a copy of another root becomes a library of its own.

        Raises StoreBusy, StoreTooNew, StoreCorrupt, StoreCopied (all: nothing was changed), StoreUnusable, NoSpace.
        """
        path = prepare_root(root, files)
        with ExitStack() as undo:
            with translated(f"take the lease of {path}"):
                lease = Lease.acquire(path, files, now=now)
                undo.callback(lease.forget)  # the next opening looks as closely as this one
                boot_id = files.boot_id()
            store = ensure_store(path, config.map_bytes, files)
            with translated(f"open the store {store}"):
                data = os.path.join(store, DATA_NAME)
                walked_at = check_as_owner(data, files, thorough=lease.inherited, now=now)
                migrate(store, config.map_bytes, files)
            environment = Environment(store, config.map_bytes, files, readonly=False)
            undo.callback(environment.close)
            environment.reader_check()
            moved = settle(environment, path, files, adopt=adopt)
            session = environment.write(lambda txn: begin_session(txn, boot_id=boot_id, pid=os.getpid(), now=now))
            opened = cls(environment, lease, session, environment.read(read_uuid))
            opened.moved = moved
            opened._leave_mark = lambda: leave_mark(data, files, walked_at)
            undo.pop_all()
        return opened

    @classmethod
    def open_readonly(cls, root: str, config: Config, files: FileSystem) -> StateStore:
        """Open the store for reading, also while an engine of another process writes it.

        Raises StoreUnusable when there is none or it needs a migration first, StoreTooNew, StoreCorrupt, StoreBusy when
        this very process has it open.
        """
        path = os.path.abspath(root)
        check_file_system(path, files)
        store = os.path.join(path, STORE_NAME)
        with translated(f"open the store {store}"):
            if files.stat_path(store) is None:
                raise StoreUnusable(f"there is no store in {path}")
            check_structure(os.path.join(store, DATA_NAME), files, thorough=False)
            version = peek_version(store, config.map_bytes, files)
        if version < SCHEMA_VERSION:
            raise StoreUnusable(f"the store {store} is of an older version: let an engine open it once")
        environment = Environment(store, config.map_bytes, files, readonly=True)
        with ExitStack() as undo:
            undo.callback(environment.close)
            opened = cls(environment, None, environment.read(read_session), environment.read(read_uuid))
            undo.pop_all()
        return opened

    def close(self, *, clean: bool = True) -> None:
        """Record a clean end when ``clean``, close, and give the lease back. Doing so again changes nothing."""
        lease, self._lease = self._lease, None
        with translated("close the store"), ExitStack() as ending:
            if lease is not None:
                ending.callback(lease.release)
            ending.callback(self._environment.close)
            if lease is not None and clean:
                self._environment.write(lambda txn: end_session(txn, self.session))
                self._environment.close()
                self._leave_mark()

    def take_damages(self) -> tuple[Damage, ...]:
        """Bad records and pages met since the last call. Their chunks read as missing, their entries need a look."""
        return self._environment.damages.take()

    def together(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run calls of this store's methods in one transaction with one sync; the result of each, or the exception by
        which it refused and changed nothing. Raises StoreError or NoSpace when the transaction cannot be made."""
        return self._environment.write_together(calls)

    # Reads.

    def get(self, entry_id: str) -> DownloadEntry | None:
        """The entry, or None. Raises BadRecord naming it."""
        entry = entries.recalled(self._environment, entry_id)
        return entry or self._environment.read(lambda txn: entries.find(txn, entry_id))

    def parts(self, entry_id: str) -> tuple[PartRecord, ...]:
        """The entry's parts in order; empty for an unknown id. Raises BadRecord naming it."""
        return self._environment.read(lambda txn: parts.all_of(txn, entry_id))

    def offline(self, entry_id: str) -> OfflineEntry | None:
        """What playback needs, or None when the entry was never complete. Raises BadRecord naming it."""
        payload = self._environment.recall(Table.OFFLINE, entry_key(entry_id))
        if payload is not None:
            return decode(payload, OfflineEntry)
        return self._environment.read(lambda txn: entries.find_offline(txn, entry_id))

    def list(self, state: State | None = None, after: str | None = None, limit: int = 100) -> EntryList:
        """At most ``limit`` entries in order of adding, those after the id ``after``; damaged ones are left out.

        Raises InvalidRequest for a limit below 1, UnknownEntry for an unknown ``after``.
        """
        return self._environment.read(lambda txn: entries.page(txn, state, after, limit))

    def page_from(self, sequence: int, limit: int) -> EntryList:
        """At most ``limit`` entries in order of adding, from that number on; damaged ones are left out."""
        return self._environment.read(lambda txn: entries.page_from(txn, sequence, limit))

    def ids(self, state: State | None = None, scope: str | None = None) -> IdList:
        """The ids of all sound entries of a state and a scope (None: of any), in order of adding."""
        return self._environment.read(lambda txn: entries.ids(txn, state, scope))

    def pending(self, first: int = 0, limit: int | None = None) -> PendingList:
        """What the queue has to know of the PENDING entries from a sequence on, in order of adding; damaged ones are
        noted and left out. After many of them the process lets go of the store's pages that it read."""
        found = self._environment.read(lambda txn: entries.pending(txn, first, limit))
        if len(found) >= LONG_WALK:
            self._environment.release_pages()
        return found

    def counts(self) -> dict[State, int]:
        """How many entries are in each state, zeros included."""
        return self._environment.read(entries.counts)

    def bitmap(self, entry_id: str, part_index: int, bit_count: int) -> Bitmap:
        """The part's bits, owned by the caller. A damaged page reads as clear and is told by :meth:`take_damages`."""
        return self._environment.read(lambda txn: pages.read_bitmap(txn, entry_id, part_index, bit_count), buffers=True)

    def held_runs(self, entry_id: str, part_index: int, bit_count: int) -> RunList:
        """Runs ``(first, count)`` of the chunks that the part holds."""
        return self._environment.read(lambda txn: pages.read_runs(txn, entry_id, part_index, bit_count), buffers=True)

    def cvs(self, entry_id: str, part_index: int, count: int, *, first: int = 0) -> bytes:
        """The 32-byte CVs of ``count`` chunks from ``first``, joined. They mean something for chunks whose bit is set.

        Raises BadRecord when one of them is missing or damaged.
        """
        return self._environment.read(lambda txn: pages.read_cvs(txn, entry_id, part_index, first, count))

    def unsynced(self) -> UnsyncedList:
        """``(id, part index, boot id)`` of parts with bits whose bytes are not known synced."""
        return self._environment.read(parts.unsynced)

    def damaged_parts(self) -> EntryList:
        """Entries of which a part's record is damaged, as far as they are sound themselves."""
        return self._environment.read(parts.damaged)

    def indexes_sound(self) -> bool:
        """Whether no line of the indexes is damaged; damaged ones are told by :meth:`take_damages`."""
        return self._environment.read(entries.indexes_sound)

    def suspects(self) -> SuspectsList:
        """The chunks of the last commits (64 groups or 1 GiB), to be hashed again after a power cut."""
        return self._environment.read(suspects.read)

    # Writes.

    def add(self, entry: DownloadEntry) -> DownloadEntry:
        """Store a new entry; it is returned with its sequence. Raises EntryExists."""
        return self._environment.write(lambda txn: entries.add(txn, entry))

    def add_many(self, new: Iterable[DownloadEntry]) -> EntryList:
        """Store all of them, or none. Raises EntryExists."""
        batch = tuple(new)
        return self._environment.write(lambda txn: [entries.add(txn, entry) for entry in batch])

    def add_missing(self, new: Iterable[DownloadEntry]) -> MaybeEntries:
        """Store those whose id is new; each as it was stored, None where there is an entry already."""
        batch = tuple(new)
        return self._environment.write(lambda txn: [entries.add_missing(txn, entry) for entry in batch])

    def update(self, entry_id: str, epoch: int, **changes: Any) -> DownloadEntry:
        """Change fields other than the state. Raises UnknownEntry, StaleEpoch, ValueError."""
        return self._environment.write(lambda txn: entries.update(txn, entry_id, epoch, changes))

    def transition(
        self,
        entry_id: str,
        event: Event,
        *,
        epoch: int,
        now: float,
        reason: Reason = Reason.NONE,
        parts: Sequence[PartRecord] = (),
        offline: OfflineEntry | None = None,
        **changes: Any,
    ) -> DownloadEntry:
        """Move the entry by the table of transitions, together with its parts and its offline record.

        ``updated_at``, ``paused_at`` and ``completed_at`` follow from ``now``. Completing needs an offline record,
        given or kept from before; leaving COMPLETED keeps it until the next. Cancelling drops the unfinished parts,
        and leaves a tombstone for their files. Raises IllegalTransition, StaleEpoch,
        UnknownEntry, ValueError; then nothing was changed.
        """

        def work(txn: Txn) -> DownloadEntry:
            entry = entries.transition(txn, entry_id, event, epoch=epoch, now=now, reason=reason, changes=changes)
            _put_implied(txn, entry, parts, offline)
            return entry

        return self._environment.write(work)

    def put_part(self, entry_id: str, epoch: int, part: PartRecord) -> PartRecord:
        """Create or replace a part's record; its counters and ``unsynced_boot`` stay what the store knows.

        Raises UnknownEntry, StaleEpoch, ValueError for another generation than the one that is there.
        """

        def work(txn: Txn) -> PartRecord:
            entries.require(txn, entry_id, epoch)
            return parts.put(txn, entry_id, part)

        return self._environment.write(work)

    def reset_part(self, entry_id: str, epoch: int, part: PartRecord) -> PartRecord:
        """Drop all bits and CVs of that part index and store this record, with empty counters: a new generation."""

        def work(txn: Txn) -> PartRecord:
            entries.require(txn, entry_id, epoch)
            return parts.reset(txn, entry_id, part)

        return self._environment.write(work)

    def clear_chunks(self, entry_id: str, epoch: int, part_index: int, runs: Iterable[tuple[int, int]]) -> PartRecord:
        """Unset the bits of the runs ``(first, count)`` and count anew from the bits; with no runs, only count.

        Raises UnknownEntry, StaleEpoch, BadRecord.
        """
        owned = tuple(runs)

        def work(txn: Txn) -> PartRecord:
            entries.require(txn, entry_id, epoch)
            return commits.clear(txn, entry_id, part_index, owned)

        return self._environment.write(work)

    def commit_chunks(self, batch: Sequence[ChunkCommit]) -> CommittedList:
        """Record the chunks of all commits in one durable transaction; returns the parts after it, in order.

        None for a commit that a newer epoch or generation, or a removal, made void. Call it only after the bytes are
        written, and synced where ``synced`` says so (law 1).
        """
        return self._environment.write(lambda txn: commits.commit_group(txn, batch))

    def put_whole_part(self, part: PartRecord, commit: ChunkCommit) -> PartRecord:
        """:meth:`put_part` and :meth:`commit_chunks` for a part that was just reset and is one chunk. Raises
        UnknownEntry, StaleEpoch."""
        return self._environment.write(lambda txn: commits.commit_whole(txn, part, commit))

    def mark_synced(self, entry_id: str, part_index: int, generation: int) -> bool:
        """All bits of this generation are known synced: call it after a sync that began after their last commit.

        False, and nothing is changed, when the part is of another generation by now, or gone.
        """
        return self._environment.write(lambda txn: parts.set_mark(txn, entry_id, part_index, generation, ""))

    def mark_unsynced(self, entry_id: str, part_index: int, generation: int, boot_id: str) -> bool:
        """The bytes of this generation are not known to be on the disk, as far as they were written under ``boot_id``.

        False, and nothing is changed, when the part is of another generation by now, or gone.
        """
        return self._environment.write(lambda txn: parts.set_mark(txn, entry_id, part_index, generation, boot_id))

    def drop_parts(self, entry_id: str, epoch: int) -> DownloadEntry:
        """Drop the entry's parts with their bits and CVs, damaged ones too: it begins anew, in a new epoch. Raises
        UnknownEntry, StaleEpoch, BadRecord for the entry itself."""
        return self._environment.write(lambda txn: entries.begin_anew(txn, entry_id, epoch))

    def clear_suspects(self) -> None:
        """Forget the suspect log: its chunks were hashed again. A clean close does so too."""

        def work(txn: Txn) -> None:
            txn.clear(Table.SUSPECTS)
            end_recheck(txn)

        self._environment.write(work)

    def rebuild_indexes(self) -> int:
        """Make the indexes anew from the entries, after damage to one; returns the number of sound entries."""
        return self._environment.write(entries.rebuild_indexes)

    def remove(self, entry_id: str) -> None:
        """Drop the entry with its parts, bits, CVs, offline record and places in the indexes. Raises UnknownEntry.

        The files come after it (law 4). Works on damaged records too.
        """

        def work(txn: Txn) -> None:
            entries.remove(txn, entry_id)
            parts.remove_all(txn, entry_id)

        self._environment.write(work)


def _put_implied(txn: Txn, entry: DownloadEntry, changed: Sequence[PartRecord], offline: OfflineEntry | None) -> None:
    """What a transition brings along: part records, and for COMPLETED the offline record."""
    for part in changed:
        parts.put(txn, entry.id, part)
    if entry.state is State.CANCELLED:
        tombstones.bury_unfinished(txn, entry)
    if offline is not None:
        if entry.state is not State.COMPLETED or offline.id != entry.id:
            raise ValueError(
                f"an offline record of '{offline.id}' does not belong to '{entry.id}', {entry.state.value}"
            )
        entries.put_offline(txn, offline)
    elif entry.state is State.COMPLETED and not txn.has(Table.OFFLINE, entry_key(entry.id)):
        raise ValueError(f"'{entry.id}' cannot be completed without an offline record")
