"""What is left of removed and cancelled entries: the files that are still to be deleted.

A tombstone is written in the very transaction that takes the record away (DESIGN law 4: database first, then files),
and goes when its files are gone; so no crash leaves a file that nobody knows.
"""

from __future__ import annotations

import os

import msgspec

from engine.errors import BadRecord
from engine.model.records import DownloadEntry, OfflineEntry, PartPhase, PartRecord
from engine.store import entries, parts
from engine.store.codec import Table, decode, encode, entry_key
from engine.store.environment import Environment
from engine.store.txn import Txn

LIBRARY = ""  # stands for the library's own folder


class Doomed(msgspec.Struct, frozen=True, kw_only=True):
    """Files to delete in one folder. ``names`` are the engine's own, of unfinished files. ``final_name`` goes only
    while it is the very file that the rest tells of: device, inode and the inode's version; where those are zeros or
    cannot be compared, size and time stamp (-1: not known)."""

    folder: str
    names: tuple[str, ...] = ()
    final_name: str = ""
    device: int = 0
    inode: int = 0
    inode_version: int = 0
    size: int = -1
    mtime_ns: int = -1


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """``epoch`` and ``attempt`` are the entry's last ones (0 of a damaged record). ``removed``: the entry is gone;
    otherwise it was only cancelled. ``swept``: folders in which it may have unfinished files that no record names any
    more."""

    id: str
    epoch: int = 0
    attempt: int = 0
    removed: bool = True
    doomed: tuple[Doomed, ...] = ()
    swept: tuple[str, ...] = ()


class Tombstones:
    """A face of the store for removal; every method is one transaction, like the store's own."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def bury(self, entry_id: str, *, keep_file: bool = False) -> Tombstone:
        """Drop all records of the entry, damaged ones too, and note which files have to follow; with ``keep_file`` the
        finished one stays and is nobody's but the user's. Raises UnknownEntry."""
        return self._environment.write(lambda txn: bury(txn, entry_id, keep_file=keep_file))

    def find(self, entry_id: str) -> Tombstone | None:
        """What is still to be deleted of the entry; None when nothing is."""
        return self._environment.read(lambda txn: find(txn, entry_id))

    def all(self) -> list[Tombstone]:
        """All that wait for their files to be deleted; damaged ones are noted and left out."""
        return self._environment.read(all_of)

    def drop(self, entry_id: str) -> None:
        """The files are gone."""
        self._environment.write(lambda txn: txn.delete(Table.TOMBSTONES, entry_key(entry_id)))


def bury(txn: Txn, entry_id: str, *, keep_file: bool) -> Tombstone:
    """See :meth:`Tombstones.bury`."""
    offline = _offline(txn, entry_id)
    records = _parts(txn, entry_id)
    entry = entries.remove(txn, entry_id)
    parts.remove_all(txn, entry_id)
    doomed = [_unfinished(record) for record in records or ()]
    if not keep_file:
        doomed += _finished(records or (), offline)
    tombstone = Tombstone(
        id=entry_id,
        epoch=entry.epoch if entry is not None else 0,
        attempt=entry.attempt_count if entry is not None else 0,
        doomed=tuple(doomed),
        swept=_where(entry, records),
    )
    return _put(txn, tombstone)


def bury_unfinished(txn: Txn, entry: DownloadEntry) -> None:
    """Drop the parts of an entry that was cancelled, and note which files have to follow. Its finished file of an
    earlier time, if any, stays, and so does what is known of it."""
    records = _parts(txn, entry.id)
    doomed = [_unfinished(record) for record in records or ()]
    offline = _offline(txn, entry.id)
    for record in records or ():
        if record.phase is PartPhase.PUBLISHED:
            continue
        if record.replaces and offline is not None:
            parts.reset(txn, entry.id, _earlier(record, offline))
        else:
            parts.remove(txn, entry.id, record.index)
    if records is None:
        parts.remove_all(txn, entry.id)
    tombstone = Tombstone(
        id=entry.id,
        epoch=entry.epoch,
        attempt=entry.attempt_count,
        removed=False,
        doomed=tuple(doomed),
        swept=_where(entry, records),
    )
    _put(txn, tombstone)


def find(txn: Txn, entry_id: str) -> Tombstone | None:
    """See :meth:`Tombstones.find`. A damaged one only tells that something was to be deleted."""
    key = entry_key(entry_id)
    try:
        payload = txn.get(Table.TOMBSTONES, key)
        return None if payload is None else decode(payload, Tombstone)
    except BadRecord as error:
        txn.note(Table.TOMBSTONES, key, entry_id, str(error))
        return Tombstone(id=entry_id, swept=(LIBRARY,))


def all_of(txn: Txn) -> list[Tombstone]:
    """See :meth:`Tombstones.all`."""
    found: list[Tombstone] = []
    for key, payload in txn.walk(Table.TOMBSTONES):
        if payload is None:
            continue
        try:
            found.append(decode(payload, Tombstone))
        except BadRecord as error:
            txn.note(Table.TOMBSTONES, key, "", str(error))
    return found


def _put(txn: Txn, tombstone: Tombstone) -> Tombstone:
    """Write it if there is anything to do, together with what an earlier one of the same id (a cancelled entry's, that
    is removed now) has still to do."""
    earlier = find(txn, tombstone.id) or Tombstone(id=tombstone.id)
    doomed = tuple(one for one in (*earlier.doomed, *tombstone.doomed) if one.names or one.final_name)
    whole = msgspec.structs.replace(tombstone, doomed=doomed, swept=(*earlier.swept, *tombstone.swept))
    if whole.doomed or whole.swept:
        txn.put(Table.TOMBSTONES, entry_key(whole.id), encode(whole))
    return whole


def _parts(txn: Txn, entry_id: str) -> tuple[PartRecord, ...] | None:
    """None when one of the records is damaged: then files may be there that none of them names."""
    try:
        return parts.all_of(txn, entry_id)
    except BadRecord:  # noted when it was read
        return None


def _offline(txn: Txn, entry_id: str) -> OfflineEntry | None:
    try:
        return entries.find_offline(txn, entry_id)
    except BadRecord:  # noted when it was read
        return None


def _where(entry: DownloadEntry | None, records: tuple[PartRecord, ...] | None) -> tuple[str, ...]:
    """The folder to sweep when the records do not tell what is there."""
    if records is not None:
        return ()
    if entry is None:
        return (LIBRARY,)
    return (entry.destination if entry.destination_is_folder else os.path.dirname(entry.destination),)


def _unfinished(record: PartRecord) -> Doomed:
    """Of a part whose publishing had begun the final name too, if it came that far."""
    if record.phase is PartPhase.PUBLISHED:
        return Doomed(folder=record.folder, names=record.superseded, device=record.device)
    doomed = Doomed(folder=record.folder, names=(record.part_name, *record.superseded), device=record.device)
    if record.phase is not PartPhase.FINALIZING:
        return doomed
    return msgspec.structs.replace(
        doomed,
        final_name=record.final_name,
        device=record.device,
        inode=record.inode,
        inode_version=record.inode_version,
    )


def _finished(records: tuple[PartRecord, ...], offline: OfflineEntry | None) -> list[Doomed]:
    """The published file: of this generation, or the one that the unfinished part was to replace."""
    record = next(iter(records), None)
    identity = (0, 0, 0)
    if record is not None and record.phase is PartPhase.PUBLISHED:
        identity = record.identity
    elif record is not None and record.replaces:
        identity = (0, record.replaces, record.replaces_version)
    if offline is not None:
        folder, name = os.path.split(offline.path)
        if offline.inode:
            identity = (offline.device, offline.inode, offline.inode_version)
    elif record is not None and identity[1]:
        folder, name = record.folder, record.final_name
    else:
        return []
    device, inode, version = identity
    return [
        Doomed(
            folder=folder,
            final_name=name,
            device=device,
            inode=inode,
            inode_version=version,
            size=offline.size if offline is not None else -1,
            mtime_ns=offline.mtime_ns if offline is not None else -1,
        )
    ]


def _earlier(record: PartRecord, offline: OfflineEntry) -> PartRecord:
    """A record of the finished file that ``record`` was to replace: enough to replace it the next time. Its chunks are
    not known any more."""
    return msgspec.structs.replace(
        record,
        generation=record.generation + 1,  # a late commit of the dropped one finds nothing of its own
        phase=PartPhase.PUBLISHED,
        folder=os.path.dirname(offline.path),
        final_name=os.path.basename(offline.path),
        length=offline.size,
        device=offline.device or record.device,
        inode=record.replaces,
        inode_version=record.replaces_version,
        digest=offline.blake3,
        superseded=(),
        replaces=0,
        replaces_version=0,
    )
