"""The entries of one scope (account), in pages."""

from __future__ import annotations

from engine.errors import BadRecord
from engine.model.paging import Page
from engine.model.records import DownloadEntry, OfflineEntry
from engine.model.states import State
from engine.store.codec import Payload, Table, decode, number_of, scope_key
from engine.store.paging import read_page
from engine.store.txn import Txn


def page(txn: Txn, scope: str, state: State | None, after: str | None, limit: int) -> Page[DownloadEntry]:
    """Entries of a scope in order of adding, those behind the cursor ``after``; with a state, only those in it (the
    scope's others are looked at too). Raises InvalidRequest for a bad limit or cursor."""

    def load(line: bytes, key: Payload | None) -> DownloadEntry | None:
        entry = _entry(txn, line, key)
        if entry.scope != scope or entry.sequence != number_of(line):
            detail = "an index names an entry that has another place"
            txn.note(Table.BY_SCOPE, line, entry.id, detail)
            raise BadRecord(detail)
        return entry if state is None or entry.state == state else None

    return read_page(txn, Table.BY_SCOPE, scope_key(scope), after, limit, load)


def damaged(txn: Txn, scope: str) -> tuple[list[str], int]:
    """Entries of a scope whose records are damaged: the ids that their offline records tell, and how many more there
    are."""
    ids: list[str] = []
    nameless = 0
    for line, key in txn.walk(Table.BY_SCOPE, scope_key(scope)):
        try:
            _entry(txn, line, key)
        except BadRecord:  # noted
            entry_id = _id_of_offline(txn, line)
            if entry_id is None:
                nameless += 1
            else:
                ids.append(entry_id)
    return ids, nameless


def _id_of_offline(txn: Txn, line: bytes) -> str | None:
    try:
        key = txn.get(Table.BY_SCOPE, line) or b""
        payload = txn.get(Table.OFFLINE, key) if key else None
        return None if payload is None else decode(payload, OfflineEntry).id
    except BadRecord as error:
        txn.note(Table.OFFLINE, line, "", str(error))
        return None


def _entry(txn: Txn, line: bytes, named: Payload | None) -> DownloadEntry:
    """The entry that a line of the index names; None for a damaged line, which was noted."""
    key = b"" if named is None else bytes(named)
    try:
        payload = txn.get(Table.ENTRIES, key) if key else None
        if payload is None:
            raise BadRecord("an index names an entry that is not there")
        return decode(payload, DownloadEntry)
    except BadRecord as error:
        txn.note(Table.ENTRIES if key else Table.BY_SCOPE, key or line, "", str(error))
        raise BadRecord(f"the record of entry number {number_of(line)} is damaged: {error}") from error
