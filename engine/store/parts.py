"""Part records and the list of parts with unsynced bits.

Counters and the unsynced mark belong to the store: they follow the bits in the same transaction, and a caller's older
copy of a record never sets them back.
"""

from __future__ import annotations

import msgspec

from engine.errors import BadRecord, UnknownEntry
from engine.model.records import DownloadEntry, PartRecord
from engine.store.codec import KEY_BYTES, Payload, Table, decode, encode, entry_key, part_index_of, part_key
from engine.store.txn import Txn


class UnsyncedRecord(msgspec.Struct, frozen=True):
    """A part that has bits whose bytes were not synced under this boot."""

    id: str
    boot_id: str


def find(txn: Txn, entry_id: str, part_index: int) -> PartRecord | None:
    """The record, or None. Raises BadRecord naming the entry."""
    key = part_key(entry_key(entry_id), part_index)
    try:
        payload = txn.get(Table.PARTS, key)
        return None if payload is None else decode(payload, PartRecord)
    except BadRecord as error:
        txn.note(Table.PARTS, key, entry_id, str(error))
        raise BadRecord(f"the record of part {part_index} of '{entry_id}' is damaged: {error}") from error


def require(txn: Txn, entry_id: str, part_index: int) -> PartRecord:
    """The record. Raises UnknownEntry, BadRecord."""
    part = find(txn, entry_id, part_index)
    if part is None:
        raise UnknownEntry(f"'{entry_id}' has no part {part_index}")
    return part


def all_of(txn: Txn, entry_id: str) -> tuple[PartRecord, ...]:
    """All parts of an entry in order. Raises BadRecord naming the entry."""
    found: list[PartRecord] = []
    for key, payload in txn.walk(Table.PARTS, entry_key(entry_id), entry_id=entry_id):
        if payload is None:
            raise BadRecord(f"the record of part {part_index_of(key)} of '{entry_id}' is damaged")
        found.append(decode(payload, PartRecord))
    return tuple(found)


def put(txn: Txn, entry_id: str, part: PartRecord) -> PartRecord:
    """Create or replace a record; its counters and unsynced mark stay the store's.

    Raises ValueError for another generation, BadRecord for a damaged record: only ``reset`` may replace that, as its
    generation is not known.
    """
    kept = find(txn, entry_id, part.index)
    if kept is None:
        kept = msgspec.structs.replace(part, chunks_done=0, bytes_done=0, unsynced_boot="")
    elif kept.generation != part.generation:
        raise ValueError(f"part {part.index} is of generation {kept.generation}; only reset_part begins another")
    stored = msgspec.structs.replace(
        part, chunks_done=kept.chunks_done, bytes_done=kept.bytes_done, unsynced_boot=kept.unsynced_boot
    )
    store(txn, entry_id, stored)
    return stored


def reset(txn: Txn, entry_id: str, part: PartRecord) -> PartRecord:
    """Drop all bits and CVs of the part and store this record with empty counters."""
    key = part_key(entry_key(entry_id), part.index)
    txn.delete_below(Table.BITS, key)
    txn.delete_below(Table.CVS, key)
    stored = msgspec.structs.replace(part, chunks_done=0, bytes_done=0, unsynced_boot="")
    store(txn, entry_id, stored)
    return stored


def store(txn: Txn, entry_id: str, part: PartRecord, *, was_unsynced: str | None = None) -> None:
    """Write the record as it is, and its line among the unsynced parts unless its mark is ``was_unsynced`` still."""
    key = part_key(entry_key(entry_id), part.index)
    txn.put(Table.PARTS, key, encode(part))
    if part.unsynced_boot == was_unsynced:
        return
    if part.unsynced_boot:
        txn.put(Table.UNSYNCED, key, encode(UnsyncedRecord(entry_id, part.unsynced_boot)))
    else:
        txn.discard(Table.UNSYNCED, key)


def set_mark(txn: Txn, entry_id: str, part_index: int, generation: int, boot_id: str) -> bool:
    """Set the unsynced mark of the part; False when it is of another generation or gone. Raises BadRecord."""
    part = find(txn, entry_id, part_index)
    if part is None or part.generation != generation:
        return False
    store(txn, entry_id, msgspec.structs.replace(part, unsynced_boot=boot_id))
    return True


def damaged(txn: Txn) -> list[DownloadEntry]:
    """Entries, each once, of which a part's record is damaged; damaged entries are noted and left out."""
    found: dict[bytes, DownloadEntry] = {}
    for key, payload in txn.walk(Table.PARTS):
        owner = key[:KEY_BYTES]
        if owner in found or (payload is not None and _decodes(payload)):
            continue
        try:
            kept = txn.get(Table.ENTRIES, owner)
            if kept is not None:
                found[owner] = decode(kept, DownloadEntry)
        except BadRecord as error:
            txn.note(Table.ENTRIES, owner, "", str(error))
    return list(found.values())


def _decodes(payload: Payload) -> bool:
    try:
        decode(payload, PartRecord)
    except BadRecord:
        return False
    return True


def unsynced(txn: Txn) -> list[tuple[str, int, str]]:
    """``(id, part index, boot id)`` of every part with bits whose bytes are not known synced.

    A damaged line is made good from the records of the part and the entry; when those are damaged too, they are noted.
    """
    found: list[tuple[str, int, str]] = []
    for key, payload in txn.walk(Table.UNSYNCED):
        try:
            record = _unsynced_of(txn, key) if payload is None else decode(payload, UnsyncedRecord)
        except BadRecord as error:
            txn.note(Table.PARTS, key, "", str(error))
            continue
        found.append((record.id, part_index_of(key), record.boot_id))
    return found


def _unsynced_of(txn: Txn, key: bytes) -> UnsyncedRecord:
    entry = txn.get(Table.ENTRIES, key[:KEY_BYTES])
    part = txn.get(Table.PARTS, key)
    if entry is None or part is None:
        raise BadRecord("a line of unsynced parts names a part that is not there")
    return UnsyncedRecord(decode(entry, DownloadEntry).id, decode(part, PartRecord).unsynced_boot)


def remove(txn: Txn, entry_id: str, part_index: int) -> None:
    """Drop the record, bits, CVs and unsynced line of one part."""
    _remove_below(txn, part_key(entry_key(entry_id), part_index))


def remove_all(txn: Txn, entry_id: str) -> None:
    """Drop the records, bits, CVs and unsynced lines of all parts of an entry."""
    _remove_below(txn, entry_key(entry_id))


def _remove_below(txn: Txn, key: bytes) -> None:
    for table in (Table.PARTS, Table.BITS, Table.CVS, Table.UNSYNCED):
        txn.delete_below(table, key)
