"""Entries and their three indexes: whole changes inside one transaction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import msgspec

from engine.errors import BadRecord, EntryExists, InvalidRequest, StaleEpoch, StoreCorrupt, UnknownEntry
from engine.model.line_policy import ANY_LINE, LinePolicy
from engine.model.records import DownloadEntry, OfflineEntry
from engine.model.states import NEW_EPOCH, Event, Reason, State, advance
from engine.store import links, parts, resets
from engine.store.codec import Table, decode, encode, entry_key, number_key, number_of, scope_key, state_key
from engine.store.environment import Environment
from engine.store.txn import Txn

_NEXT_SEQUENCE: Final = b"next_sequence"
_EPOCH_FLOOR: Final = b"epoch_floor"
_INDEXES: Final = (Table.BY_SEQUENCE, Table.BY_STATE, Table.BY_SCOPE)
_EPOCH_GAP_BITS: Final = 16  # more epochs than an entry ever has
_BATCH: Final = 1000
# What only `transition` and `add` may set.
_GUARDED: Final = frozenset({"id", "state", "epoch", "sequence", "created_at"})


def find(txn: Txn, entry_id: str) -> DownloadEntry | None:
    """The entry, or None. Raises BadRecord naming it."""
    key = entry_key(entry_id)
    try:
        payload = txn.get(Table.ENTRIES, key)
        if payload is None:
            return None
        return _own(entry_id, payload)
    except BadRecord as error:
        txn.note(Table.ENTRIES, key, entry_id, str(error))
        raise BadRecord(f"the record of '{entry_id}' is damaged: {error}") from error


def recalled(environment: Environment, entry_id: str) -> DownloadEntry | None:
    """The entry as it was written lately; None when it has to be read."""
    payload = environment.recall(Table.ENTRIES, entry_key(entry_id))
    return None if payload is None else _own(entry_id, payload)


def _own(entry_id: str, payload: bytes) -> DownloadEntry:
    entry = decode(payload, DownloadEntry)
    if entry.id != entry_id:
        raise StoreCorrupt(f"'{entry_id}' and '{entry.id}' have the same key")
    return entry


def require(txn: Txn, entry_id: str, epoch: int | None = None) -> DownloadEntry:
    """The entry, at ``epoch`` when one is given. Raises UnknownEntry, StaleEpoch, BadRecord."""
    entry = find(txn, entry_id)
    if entry is None:
        raise UnknownEntry(f"no entry has the id '{entry_id}'")
    if epoch is not None and entry.epoch != epoch:
        raise StaleEpoch(f"'{entry_id}' is at epoch {entry.epoch}, not {epoch}")
    return entry


def find_offline(txn: Txn, entry_id: str) -> OfflineEntry | None:
    """What playback needs of the entry, or None. Raises BadRecord naming it."""
    key = entry_key(entry_id)
    try:
        payload = txn.get(Table.OFFLINE, key)
        return None if payload is None else decode(payload, OfflineEntry)
    except BadRecord as error:
        txn.note(Table.OFFLINE, key, entry_id, str(error))
        raise BadRecord(f"the offline record of '{entry_id}' is damaged: {error}") from error


def add(txn: Txn, entry: DownloadEntry) -> DownloadEntry:
    """:func:`add_missing`. Raises EntryExists for an id that is there already."""
    placed = add_missing(txn, entry)
    if placed is None:
        raise EntryExists(f"there is an entry with the id '{entry.id}'")
    return placed


def add_missing(txn: Txn, entry: DownloadEntry) -> DownloadEntry | None:
    """Store a new entry as the last in order; None, and nothing is changed, when its id is there already, or files of
    an earlier one are still to be deleted. Raises ScopeResetting while its scope is being emptied.

    A damaged record, of no use to anybody, is noted and makes room, with all that hung on it.
    """
    key = entry_key(entry.id)
    if txn.has(Table.TOMBSTONES, key):
        return None
    damaged = txn.has(Table.ENTRIES, key)
    if damaged and not _drop_damaged(txn, entry.id):
        return None
    resets.check(txn, entry.scope)
    sequence = _take_sequence(txn)
    # Nobody knows at which epoch the damaged one was: none of its late results may count as the new one's.
    epoch = entry.epoch + (sequence << _EPOCH_GAP_BITS) if damaged else max(entry.epoch, _epoch_floor(txn))
    placed = msgspec.structs.replace(entry, sequence=sequence, epoch=epoch)
    txn.put(Table.ENTRIES, key, encode(placed))
    for table, place in _places(placed):
        txn.put(table, place, key)
    return placed


def _drop_damaged(txn: Txn, entry_id: str) -> bool:
    """Whether the record of the entry was damaged; then it is gone, and so are its parts."""
    try:
        find(txn, entry_id)
    except BadRecord:
        _erase(txn, entry_id)
        parts.remove_all(txn, entry_id)
        return True
    return False


def begin_anew(txn: Txn, entry_id: str, epoch: int) -> DownloadEntry:
    """Drop the entry's parts, and begin a new epoch: their generations are counted from 1 again, and a late commit of
    the dropped ones must not be taken for one of theirs. Raises UnknownEntry, StaleEpoch, BadRecord for the entry."""
    entry = msgspec.structs.replace(require(txn, entry_id, epoch), epoch=epoch + 1)
    parts.remove_all(txn, entry_id)
    txn.put(Table.ENTRIES, entry_key(entry_id), encode(entry))
    return entry


def update(txn: Txn, entry_id: str, epoch: int, changes: Mapping[str, Any]) -> DownloadEntry:
    """Change fields other than the state. Raises ValueError for a field that has its own way, or a wrong type."""
    guarded = _GUARDED & changes.keys()
    if guarded:
        raise ValueError(f"update() does not change {', '.join(sorted(guarded))}")
    entry = msgspec.structs.replace(require(txn, entry_id, epoch), **changes)
    txn.put(Table.ENTRIES, entry_key(entry_id), encode(entry))
    return entry


def transition(
    txn: Txn, entry_id: str, event: Event, *, epoch: int, now: float, reason: Reason, changes: Mapping[str, Any]
) -> DownloadEntry:
    """Move the entry along the table of transitions. Raises IllegalTransition, StaleEpoch, UnknownEntry, ValueError."""
    guarded = (_GUARDED | {"state_reason"}) & changes.keys()
    if guarded:
        raise ValueError(f"transition() does not take {', '.join(sorted(guarded))}; the reason is 'reason'")
    return move(txn, require(txn, entry_id, epoch), event, now=now, reason=reason, changes=changes)


def move(
    txn: Txn, old: DownloadEntry, event: Event, *, now: float, reason: Reason, changes: Mapping[str, Any]
) -> DownloadEntry:
    """:func:`transition` of an entry that this transaction has read. Raises IllegalTransition."""
    target = advance(old.state, event)
    moved: dict[str, Any] = {
        "updated_at": now,
        "paused_at": now if target is State.PAUSED else None,
        "completed_at": now if target is State.COMPLETED else None,
        **changes,
        "state": target,
        "state_reason": reason,
        "epoch": old.epoch + 1 if event in NEW_EPOCH else old.epoch,
    }
    new = msgspec.structs.replace(old, **moved)
    key = entry_key(old.id)
    txn.discard(Table.BY_STATE, _state_place(old))
    txn.put(Table.BY_STATE, _state_place(new), key)
    txn.put(Table.ENTRIES, key, encode(new))
    return new


def remove(txn: Txn, entry_id: str) -> DownloadEntry | None:
    """Take the entry, its offline record and its places in the indexes away; returns it. A damaged one can be removed
    too (None). Entries that come after it begin at later epochs: should one have its id, then no late result of this
    one is taken for its own. Raises UnknownEntry."""
    entry = _erase(txn, entry_id)
    links.forget_own(txn, entry_key(entry_id))
    gone = (newest_sequence(txn) + 1) << _EPOCH_GAP_BITS if entry is None else entry.epoch
    if gone >= _epoch_floor(txn):
        txn.put(Table.META, _EPOCH_FLOOR, (gone + 1).to_bytes(8, "big"))
    return entry


def _erase(txn: Txn, entry_id: str) -> DownloadEntry | None:
    key = entry_key(entry_id)
    if not txn.has(Table.ENTRIES, key):
        raise UnknownEntry(f"no entry has the id '{entry_id}'")
    entry: DownloadEntry | None = None
    try:
        entry = require(txn, entry_id)
    except BadRecord:  # noted by find(); its places are not known then, so they are looked for
        for table in _INDEXES:
            for place in [place for place, owner in txn.walk(table) if owner is not None and bytes(owner) == key]:
                txn.delete(table, place)
    else:
        for table, place in _places(entry):
            txn.delete(table, place)
    txn.delete(Table.ENTRIES, key)
    txn.delete(Table.OFFLINE, key)
    return entry


def put_offline(txn: Txn, offline: OfflineEntry) -> None:
    """Store what playback needs, replacing what was there."""
    txn.put(Table.OFFLINE, entry_key(offline.id), encode(offline))


def page(txn: Txn, state: State | None, after: str | None, limit: int) -> list[DownloadEntry]:
    """At most ``limit`` entries in order of adding, those after the id ``after``. Damaged ones are noted and left out.

    Raises InvalidRequest for a limit below 1, UnknownEntry for an unknown ``after``.
    """
    if limit < 1:
        raise InvalidRequest(f"limit must be at least 1, not {limit}")
    first = 0 if after is None else require(txn, after).sequence + 1
    found: list[DownloadEntry] = []
    for entry in _from(txn, state, first):
        found.append(entry)
        if len(found) == limit:
            break
    return found


def page_from(txn: Txn, sequence: int, limit: int) -> list[DownloadEntry]:
    """At most ``limit`` entries in order of adding, from that number on. Damaged ones are noted and left out."""
    return list(islice(_from(txn, None, sequence), limit))


def ids(txn: Txn, state: State | None, scope: str | None) -> list[str]:
    """The ids of all sound entries of a state and a scope (None: of any), in order of adding."""
    found = _from(txn, state, 0) if scope is None else of_scope(txn, scope)
    return [entry.id for entry in found if state is None or entry.state == state]


class PendingLine(msgspec.Struct, frozen=True):
    """Of an entry's record, what decides when it runs: the rest is not even decoded."""

    id: str
    sources: tuple[str, ...]
    sequence: int = 0
    priority: int = 0
    next_retry_at: float | None = None
    secret_header_names: tuple[str, ...] = ()
    destination: str = ""
    destination_is_folder: bool = True
    group_id: str = ""
    bytes_total: int | None = None
    expected_length: int | None = None
    line: LinePolicy = ANY_LINE


def pending(txn: Txn, first: int = 0, limit: int | None = None) -> list[PendingLine]:
    """A line for every PENDING entry from the sequence ``first`` on, at most ``limit``, in order of adding. Damaged
    ones are noted and left out."""
    most = math.inf if limit is None else limit
    prefix = state_key(State.PENDING.value)
    keys = (bytes(key) for _, key in txn.walk(Table.BY_STATE, prefix, prefix + number_key(first)) if key is not None)
    found: list[PendingLine] = []
    while batch := list(islice(keys, int(min(_BATCH, most - len(found))))):
        for key, payload in txn.get_many(Table.ENTRIES, batch):
            if payload is not None:
                try:
                    found.append(decode(payload, PendingLine))
                except BadRecord as error:
                    txn.note(Table.ENTRIES, key, "", str(error))
    return found


def counts(txn: Txn) -> dict[State, int]:
    """How many entries are in each state; states that only a newer version knows are counted under their name."""
    totals = dict.fromkeys(State, 0)
    for key in txn.keys(Table.BY_STATE):
        state = State(key[:-8].rstrip(b"\0").decode(errors="replace"))
        totals[state] = totals.get(state, 0) + 1
    return totals


def indexes_sound(txn: Txn) -> bool:
    """Whether every line of the indexes is sound; the others are noted."""
    damaged = sum(payload is None for table in _INDEXES for _, payload in txn.walk(table))
    return damaged == 0


def rebuild_indexes(txn: Txn) -> int:
    """Make the indexes anew from the entries, after damage to one; returns how many sound entries there are."""
    for table in _INDEXES:
        txn.clear(table)
    sound = 0
    for key, payload in txn.walk(Table.ENTRIES):
        if payload is None:
            continue
        for table, place in _places(decode(payload, DownloadEntry)):
            txn.put(table, place, key)
        sound += 1
    return sound


def index_scopes(txn: Txn) -> None:
    """Schema 2: entries are found by scope too. Damaged ones are noted when they are met."""
    for key, payload in txn.walk(Table.ENTRIES):
        if payload is None:
            continue
        try:
            entry = decode(payload, DownloadEntry)
        except BadRecord as error:
            txn.note(Table.ENTRIES, key, "", str(error))
        else:
            txn.put(Table.BY_SCOPE, _scope_place(entry), key)


def of_scope(txn: Txn, scope: str) -> Iterator[DownloadEntry]:
    """The sound entries of a scope, in order of adding; do not change them while it runs."""
    prefix = scope_key(scope)
    for _, key in txn.walk(Table.BY_SCOPE, prefix):
        entry = at(txn, bytes(key)) if key is not None else None
        if entry is not None and entry.scope == scope:
            yield entry


def _from(txn: Txn, state: State | None, first: int) -> Iterator[DownloadEntry]:
    table = Table.BY_SEQUENCE if state is None else Table.BY_STATE
    prefix = b"" if state is None else state_key(state.value)
    for place, key in txn.walk(table, prefix, prefix + number_key(first)):
        if key is None:
            continue
        owned = bytes(key)
        entry = at(txn, owned)
        if entry is None:
            continue
        if entry.sequence == number_of(place) and (state is None or entry.state == state):
            yield entry
        else:
            txn.note(table, place, entry.id, "an index names an entry that has another place")


def at(txn: Txn, key: bytes) -> DownloadEntry | None:
    """The entry under a key that an index names; None when it is damaged or not there, which is noted."""
    try:
        payload = txn.get(Table.ENTRIES, key)
        if payload is not None:
            return decode(payload, DownloadEntry)
        detail = "an index names an entry that is not there"
    except BadRecord as error:
        detail = str(error)
    txn.note(Table.ENTRIES, key, "", detail)
    return None


def _places(entry: DownloadEntry) -> tuple[tuple[Table, bytes], ...]:
    """Where the indexes name the entry."""
    return (
        (Table.BY_SEQUENCE, number_key(entry.sequence)),
        (Table.BY_STATE, _state_place(entry)),
        (Table.BY_SCOPE, _scope_place(entry)),
    )


def _scope_place(entry: DownloadEntry) -> bytes:
    return scope_key(entry.scope) + number_key(entry.sequence)


def _state_place(entry: DownloadEntry) -> bytes:
    return _prefix_of(entry.state.value) + number_key(entry.sequence)


_prefix_of = lru_cache(maxsize=64)(state_key)


def newest_sequence(txn: Txn) -> int:
    """The number of the entry that was added last, which may be removed by now; 0 before there was one."""
    try:
        kept = txn.get(Table.META, _NEXT_SEQUENCE)
        return int.from_bytes(kept, "big") - 1 if kept is not None else 0
    except BadRecord as error:
        txn.note(Table.META, _NEXT_SEQUENCE, "", str(error))
        return max((number_of(key) for key in txn.keys(Table.BY_SEQUENCE)), default=0)


def _take_sequence(txn: Txn) -> int:
    """The next number; never one that was used before, so that paging stays right when the last entry is removed."""
    number = newest_sequence(txn) + 1
    txn.put(Table.META, _NEXT_SEQUENCE, (number + 1).to_bytes(8, "big"))
    return number


def _epoch_floor(txn: Txn) -> int:
    """The least epoch of a new entry."""
    try:
        kept = txn.get(Table.META, _EPOCH_FLOOR)
        return int.from_bytes(kept, "big") if kept is not None else 1
    except BadRecord as error:
        txn.note(Table.META, _EPOCH_FLOOR, "", str(error))
        return (newest_sequence(txn) + 1) << _EPOCH_GAP_BITS
