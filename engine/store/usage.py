"""What the files of the entries take, and which of their names are known: looks over many records, a page at a time, so
that no read transaction lasts for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from engine.errors import BadRecord, UnknownEntry
from engine.model.records import DownloadEntry, OfflineEntry, PartPhase, PartRecord
from engine.model.states import Reason, State
from engine.store import entries
from engine.store.codec import KEY_BYTES, Payload, Record, Table, decode, encode, entry_key, scope_key, state_key
from engine.store.environment import Environment
from engine.store.txn import Txn

PAGE_ENTRIES: Final = 500
_COUNTERS: Final = b"reclaimed"


class AttemptLine(msgspec.Struct, frozen=True):
    """Of an attempt, what is added up."""

    started_at: float
    ended_at: float = 0.0
    bytes_fetched: int = 0


class EntryLine(msgspec.Struct, frozen=True):
    """Of an entry's record, what clean-up, health and space look at: the rest is not even decoded."""

    id: str
    epoch: int = 1
    sequence: int = 0
    scope: str = ""
    state: State = State.PENDING
    state_reason: Reason = Reason.NONE
    priority: int = 0
    destination: str = ""
    destination_is_folder: bool = True
    bytes_total: int | None = None
    expected_length: int | None = None
    attempt_count: int = 0
    attempts: tuple[AttemptLine, ...] = ()
    created_at: float = 0.0
    updated_at: float = 0.0
    completed_at: float | None = None
    pinned: bool = False
    last_read_at: float | None = None


class PartLine(msgspec.Struct, frozen=True):
    """Of a part's record, the same."""

    folder: str
    part_name: str
    final_name: str
    phase: PartPhase = PartPhase.ALLOC
    length: int | None = None
    bytes_done: int = 0
    superseded: tuple[str, ...] = ()


class OfflineLine(msgspec.Struct, frozen=True):
    """Of the record of a finished file, the same."""

    path: str
    size: int
    expires_at: float | None = None


class Held(NamedTuple):
    """An entry with what it has on disk, as far as its records are sound."""

    entry: EntryLine
    parts: tuple[PartLine, ...]
    offline: OfflineLine | None

    @property
    def bytes_taken(self) -> int:
        """Bytes of the finished file and of unfinished ones, whose blocks are reserved when they are made."""
        taken = self.entry.bytes_total or 0 if self.entry.state is State.COMPLETED else 0
        for part in self.parts:
            if part.phase is PartPhase.ACTIVE or part.phase is PartPhase.FINALIZING:
                taken += part.length or part.bytes_done
        return taken


class Counters(msgspec.Struct, frozen=True):
    """What clean-up gave back to the disk since the store was made."""

    bytes_reclaimed: int = 0
    files_removed: int = 0


def needed_names(part: PartLine | PartRecord) -> tuple[str, ...]:
    """Names of unfinished files in the part's folder that the record stands for."""
    if part.phase is PartPhase.PUBLISHED:
        return part.superseded
    return (part.part_name, *part.superseded)


def page(txn: Txn, after: bytes, limit: int, offline: bool) -> tuple[list[Held], bytes | None]:
    """Entries behind the key ``after``, and the key to go on from; None at the end. Damaged ones are noted and left
    out."""
    found: dict[bytes, EntryLine] = {}
    last: bytes | None = None
    for seen, (key, payload) in enumerate(txn.walk(Table.ENTRIES, b"", after + b"\0" if after else b""), start=1):
        if (line := _decoded(txn, Table.ENTRIES, key, payload, EntryLine)) is not None:
            found[key] = line
        if seen == limit:
            last = key
            break
    if not found:
        return [], last
    # The tables are in the order of the entries' keys: one walk over each costs less than a look for every entry.
    parts_of: dict[bytes, tuple[PartLine, ...]] = {}
    for key, part in _between(txn, Table.PARTS, min(found), max(found), PartLine):
        parts_of[key] = (*parts_of.get(key, ()), part)
    finished = dict(_between(txn, Table.OFFLINE, min(found), max(found), OfflineLine)) if offline else {}
    return [Held(line, parts_of.get(key, ()), finished.get(key)) for key, line in found.items()], last


def _between(txn: Txn, table: Table, first: bytes, last: bytes, kind: type[Record]) -> Iterator[tuple[bytes, Record]]:
    """The sound records of the entries with the keys ``first`` to ``last``, each with its entry's key."""
    for key, payload in txn.walk(table, b"", first):
        owner = key[:KEY_BYTES]
        if owner > last:
            return
        if (line := _decoded(txn, table, key, payload, kind)) is not None:
            yield owner, line


def _decoded(txn: Txn, table: Table, key: bytes, payload: Payload | None, kind: type[Record]) -> Record | None:
    if payload is None:
        return None
    try:
        return decode(payload, kind)
    except BadRecord as error:
        txn.note(table, key, "", str(error))
        return None


def _parts(txn: Txn, key: bytes) -> tuple[PartLine, ...]:
    return tuple(part for _, part in _between(txn, Table.PARTS, key, key, PartLine))


def needs(txn: Txn, tag: str, name: str) -> bool:
    """Whether an entry with this tag (the first half of its key) needs the unfinished file: it is on record, the
    entry runs, or a record is damaged so that nobody can tell. In which folder is not asked: one may have many
    spellings, by links and mounts, and a name tells its entry and generation."""
    prefix = bytes.fromhex(tag)
    try:
        for _, payload in txn.walk(Table.ENTRIES, prefix):
            if payload is None or decode(payload, EntryLine).state is State.IN_PROGRESS:
                return True
        for _, payload in txn.walk(Table.PARTS, prefix):
            part = None if payload is None else decode(payload, PartLine)
            if part is None or name in needed_names(part):
                return True
    except BadRecord:
        return True
    return False


def in_states(txn: Txn, states: Iterable[State]) -> Iterator[tuple[bytes, EntryLine]]:
    """The sound entries in these states with their keys, in order of adding."""
    for state in states:
        yield from _named(txn, Table.BY_STATE, state_key(state.value))


def of_scope(txn: Txn, scope: str) -> dict[str, int]:
    """Bytes taken by each entry of a scope."""
    lines = _named(txn, Table.BY_SCOPE, scope_key(scope))
    return {line.id: Held(line, _parts(txn, key), None).bytes_taken for key, line in lines if line.scope == scope}


def of_entries(txn: Txn, entry_ids: Iterable[str]) -> dict[str, int]:
    """Bytes taken by each of these entries, as far as it is there and its record is sound."""
    found: dict[str, int] = {}
    for entry_id in entry_ids:
        key = entry_key(entry_id)
        try:
            payload = txn.get(Table.ENTRIES, key)
        except BadRecord as error:
            txn.note(Table.ENTRIES, key, entry_id, str(error))
            continue
        if (line := _decoded(txn, Table.ENTRIES, key, payload, EntryLine)) is not None:
            found[entry_id] = Held(line, _parts(txn, key), None).bytes_taken
    return found


def _named(txn: Txn, index: Table, prefix: bytes) -> Iterator[tuple[bytes, EntryLine]]:
    """The sound entries that an index names."""
    for _, named in txn.walk(index, prefix):
        if named is None:
            continue
        key = bytes(named)
        try:
            payload = txn.get(Table.ENTRIES, key)
        except BadRecord as error:
            txn.note(Table.ENTRIES, key, "", str(error))
            continue
        if (line := _decoded(txn, Table.ENTRIES, key, payload, EntryLine)) is not None:
            yield key, line


def update_offline(txn: Txn, entry_id: str, changes: dict[str, Any]) -> OfflineEntry:
    """Change fields of the record of a finished file. Raises UnknownEntry, BadRecord."""
    kept = entries.find_offline(txn, entry_id)
    if kept is None:
        raise UnknownEntry(f"'{entry_id}' has no finished file")
    changed = msgspec.structs.replace(kept, **changes)
    txn.put(Table.OFFLINE, entry_key(entry_id), encode(changed))
    return changed


def counters(txn: Txn) -> Counters:
    """The sums so far; damaged ones begin again."""
    try:
        kept = txn.get(Table.META, _COUNTERS)
        return Counters() if kept is None else decode(kept, Counters)
    except BadRecord as error:
        txn.note(Table.META, _COUNTERS, "", str(error))
        return Counters()


class UsageStore:
    """The part of the store's face that looks at usage; every method is one whole transaction, as all of them."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def pages(self, *, offline: bool = False) -> Iterator[Held]:
        """All sound entries, in no order that means anything; each page is a transaction of its own."""
        after: bytes | None = b""
        while after is not None:
            found, after = self._environment.read(
                lambda txn, start=after: page(txn, start, PAGE_ENTRIES, offline)  # type: ignore[misc]
            )
            yield from found

    def needs(self, tag: str, name: str) -> bool:
        """See :func:`needs`."""
        return self._environment.read(lambda txn: needs(txn, tag, name))

    def has_tag(self, tag: str) -> bool:
        """Whether there is an entry with this tag."""
        return self._environment.read(lambda txn: any(True for _ in txn.keys(Table.ENTRIES, bytes.fromhex(tag))))

    def stale(self, before: float) -> list[EntryLine]:
        """FAILED and CANCELLED entries that did not change since ``before``."""
        states = (State.FAILED, State.CANCELLED)
        return self._environment.read(
            lambda txn: [line for _, line in in_states(txn, states) if line.updated_at < before]
        )

    def parked(self, reason: Reason) -> list[Held]:
        """PAUSED entries with this reason, with their parts."""
        return self._environment.read(
            lambda txn: [
                Held(line, _parts(txn, key), None)
                for key, line in in_states(txn, (State.PAUSED,))
                if line.state_reason is reason
            ]
        )

    def of_scope(self, scope: str) -> dict[str, int]:
        """Bytes taken by each entry of a scope."""
        return self._environment.read(lambda txn: of_scope(txn, scope))

    def of_entries(self, entry_ids: Iterable[str]) -> dict[str, int]:
        """Bytes taken by each of these entries, as far as it is there and its record is sound."""
        wanted = tuple(entry_ids)
        return self._environment.read(lambda txn: of_entries(txn, wanted))

    def counters(self) -> Counters:
        """What clean-up gave back so far."""
        return self._environment.read(counters)

    def count(self, *, bytes_reclaimed: int, files_removed: int) -> Counters:
        """Add to the counters."""

        def work(txn: Txn) -> Counters:
            kept = counters(txn)
            added = Counters(kept.bytes_reclaimed + bytes_reclaimed, kept.files_removed + files_removed)
            txn.put(Table.META, _COUNTERS, encode(added))
            return added

        return self._environment.write(work)

    def update_offline(self, entry_id: str, **changes: Any) -> OfflineEntry:
        """Change fields of the record of a finished file, such as ``expires_at``. Raises UnknownEntry, BadRecord."""
        return self._environment.write(lambda txn: update_offline(txn, entry_id, changes))

    def touch(self, read_at: dict[str, float]) -> None:
        """Note when finished files were read last; entries that are gone or damaged are left out."""

        def work(txn: Txn) -> None:
            for entry_id, at in read_at.items():
                key = entry_key(entry_id)
                try:
                    payload = txn.get(Table.ENTRIES, key)
                    entry = None if payload is None else decode(payload, DownloadEntry)
                except BadRecord as error:
                    txn.note(Table.ENTRIES, key, entry_id, str(error))
                    continue
                if entry is not None and at > (entry.last_read_at or 0.0):
                    txn.put(Table.ENTRIES, key, encode(msgspec.structs.replace(entry, last_read_at=at)))

        self._environment.write(work)
