"""Many entries in one transaction: a page of those in a state, and moving all of a page at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from engine.errors import BadRecord, IllegalTransition, StaleEpoch, UnknownEntry
from engine.model.records import DownloadEntry
from engine.model.states import Event, Reason, State
from engine.store import entries, tombstones
from engine.store.codec import Table, entry_key, number_key, number_of, scope_key, state_key
from engine.store.environment import Environment
from engine.store.txn import Txn

# What says that an entry is not (any more) as the caller saw it.
_REFUSALS: Final = (IllegalTransition, StaleEpoch, UnknownEntry, BadRecord)


class Move(msgspec.Struct, frozen=True):
    """What is to become of an entry, as it was seen. ``event`` None: it stays in its state, for another reason."""

    entry: DownloadEntry
    event: Event | None
    reason: Reason = Reason.NONE
    changes: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Moved(NamedTuple):
    """An entry that was moved. ``leftover``: files of it are to be deleted now."""

    entry: DownloadEntry
    previous: State
    leftover: bool


class Listed(NamedTuple):
    """Entries in order of adding; ``after``: the sequence to go on behind, None at the end."""

    entries: tuple[DownloadEntry, ...]
    after: int | None


def listed(txn: Txn, state: State, scope: str | None, after: int, limit: int) -> Listed:
    """Entries of a state (and a scope) with a sequence above ``after``; at most ``limit`` are looked at, so that no
    transaction lasts for long. Damaged ones are noted and left out."""
    found: list[DownloadEntry] = []
    last = after
    seen = 0
    table, prefix = (Table.BY_STATE, state_key(state.value)) if scope is None else (Table.BY_SCOPE, scope_key(scope))
    for seen, (place, key) in enumerate(txn.walk(table, prefix, prefix + number_key(after + 1)), start=1):
        last = number_of(place)
        entry = entries.at(txn, bytes(key)) if key is not None else None
        if entry is not None and (entry.sequence, entry.state) == (last, state) and scope in {None, entry.scope}:
            found.append(entry)
        if seen == limit:
            break
    return Listed(tuple(found), last if seen == limit else None)


def move(txn: Txn, moves: Sequence[Move], now: float) -> list[Moved | None]:
    """Make each move, if its entry is still of the state and the epoch in which it was seen; None for one that is not,
    or that the table of transitions refuses: nothing of it is changed."""
    return [_moved(txn, each, now) for each in moves]


def _moved(txn: Txn, wanted: Move, now: float) -> Moved | None:
    seen = wanted.entry
    try:
        entry = entries.require(txn, seen.id, seen.epoch)
        if entry.state is not seen.state:
            return None
        if wanted.event is None:
            changes = {**wanted.changes, "state_reason": wanted.reason}
            return Moved(entries.update(txn, seen.id, seen.epoch, changes), seen.state, False)
        entry = entries.move(txn, entry, wanted.event, now=now, reason=wanted.reason, changes=wanted.changes)
    except _REFUSALS:
        return None
    if entry.state is State.CANCELLED:
        tombstones.bury_unfinished(txn, entry)
    return Moved(entry, seen.state, entry.state is State.CANCELLED and txn.has(Table.TOMBSTONES, entry_key(entry.id)))


class BulkStore:
    """Part of a store; lives as long as it. Every method is one whole transaction."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def newest(self) -> int:
        """The sequence of the entry that was added last; 0 before there was one."""
        return self._environment.read(entries.newest_sequence)

    def listed(self, state: State, scope: str | None, after: int, limit: int) -> Listed:
        """See :func:`listed`."""
        return self._environment.read(lambda txn: listed(txn, state, scope, after, limit))

    def move(self, moves: Sequence[Move], now: float) -> list[Moved | None]:
        """See :func:`move`; all of them are durable when this returns, or (StoreError, NoSpace) none."""
        return self._environment.write(lambda txn: move(txn, moves, now))
