"""What holds an entry: a row for each place in a group, and one of its own when it was asked for by itself as well.

An entry without any row was only ever asked for by itself: that costs nothing. When the last row of an entry goes, a
row below ``_LEAVING`` says in the same transaction that it has to be removed, until it is (or is asked for again): so
neither a crash nor a late request finds it in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from engine.errors import BadRecord
from engine.store.codec import KEY_BYTES, PLACE_BYTES, Table, decode, encode, entry_key
from engine.store.txn import Txn

_OWN: Final = bytes(KEY_BYTES + PLACE_BYTES)
_LEAVING: Final = b"\xff" * KEY_BYTES  # where the key of an entry would be: no hash is like that
_NO_PLACE: Final = bytes(PLACE_BYTES)


class LinkRecord(msgspec.Struct, frozen=True):
    """One reason to keep an entry. ``kind``: ``self``, ``group`` or ``leaving``."""

    entry_id: str
    kind: str
    group_id: str = ""


def add(txn: Txn, entry_id: str, group: bytes, place: bytes, group_id: str) -> None:
    """Have the group hold the entry at that place. An entry that is there and is held by nothing was asked for by
    itself: from now on a row says so."""
    key = entry_key(entry_id)
    leaving = txn.delete(Table.LINKS, _leaving(key))
    if not leaving and not _held(txn, key) and txn.has(Table.ENTRIES, key):
        txn.put(Table.LINKS, key + _OWN, encode(LinkRecord(entry_id, "self")))
    txn.put(Table.LINKS, key + group + place, encode(LinkRecord(entry_id, "group", group_id)))


def drop(txn: Txn, entry_id: str, group: bytes, place: bytes) -> bool:
    """Have the group hold it there no more; True when nothing holds it now, so that it has to be removed."""
    key = entry_key(entry_id)
    txn.delete(Table.LINKS, key + group + place)
    return _leave_unless_held(txn, entry_id, key)


def find_at(txn: Txn, group: bytes, place: bytes) -> list[str]:
    """The entries that the group holds at that place, found from the rows themselves: slow, for damage only."""
    target = group + place
    return [
        decode(payload, LinkRecord).entry_id
        for key, payload in txn.walk(Table.LINKS)
        if key.endswith(target) and payload is not None
    ]


def disown(txn: Txn, entry_id: str) -> tuple[str, ...]:
    """It is no longer wanted by itself. Returns the ids of groups that hold it still; with none it has to be removed,
    and is marked so."""
    key = entry_key(entry_id)
    txn.delete(Table.LINKS, key + _OWN)
    _leave_unless_held(txn, entry_id, key)
    return groups_of(txn, entry_id)


def own(txn: Txn, entry_ids: Iterable[str]) -> None:
    """They are wanted by themselves too: what was about to be removed stays."""
    for entry_id in entry_ids:
        key = entry_key(entry_id)
        if not txn.delete(Table.LINKS, _leaving(key)) and _held(txn, key):
            txn.put(Table.LINKS, key + _OWN, encode(LinkRecord(entry_id, "self")))


def needs_owning(txn: Txn, entry_ids: Iterable[str]) -> list[str]:
    """Those of the entries for which :func:`own` would change something."""
    found: list[str] = []
    for entry_id in entry_ids:
        key = entry_key(entry_id)
        held = _held(txn, key) and not txn.has(Table.LINKS, key + _OWN)
        if held or txn.has(Table.LINKS, _leaving(key)):
            found.append(entry_id)
    return found


def groups_of(txn: Txn, entry_id: str) -> tuple[str, ...]:
    """The ids of the groups that hold the entry, each once."""
    found: dict[str, None] = {}
    for key, payload in txn.walk(Table.LINKS, entry_key(entry_id), entry_id=entry_id):
        if payload is not None and not key.endswith(_OWN):
            found[decode(payload, LinkRecord).group_id] = None
    return tuple(found)


def is_leaving(txn: Txn, entry_id: str) -> bool:
    """Whether the entry is to be removed because nothing holds it."""
    return txn.has(Table.LINKS, _leaving(entry_key(entry_id)))


def leaving(txn: Txn) -> list[str]:
    """All entries that are to be removed because nothing holds them; of damaged rows, what the entry itself says."""
    found: list[str] = []
    for key, payload in txn.walk(Table.LINKS, _LEAVING):
        owner = key[KEY_BYTES : 2 * KEY_BYTES]
        entry_id = _id_in(txn, owner) if payload is None else decode(payload, LinkRecord).entry_id
        if entry_id is not None:
            found.append(entry_id)
    return found


def gone(txn: Txn, entry_ids: Iterable[str]) -> None:
    """They are removed."""
    for entry_id in entry_ids:
        txn.delete(Table.LINKS, _leaving(entry_key(entry_id)))


def forget_own(txn: Txn, key: bytes) -> None:
    """The entry with this key is gone: a later one with its id begins anew. Its places in groups stay, and are told as
    missing."""
    txn.delete(Table.LINKS, key + _OWN)
    txn.delete(Table.LINKS, _leaving(key))


def any_held(txn: Txn) -> bool:
    """Whether there is any row at all."""
    return next(txn.keys(Table.LINKS), None) is not None


def _leave_unless_held(txn: Txn, entry_id: str, key: bytes) -> bool:
    if _held(txn, key) or not txn.has(Table.ENTRIES, key):
        return False
    txn.put(Table.LINKS, _leaving(key), encode(LinkRecord(entry_id, "leaving")))
    return True


def _held(txn: Txn, key: bytes) -> bool:
    return next(txn.keys(Table.LINKS, key), None) is not None


def _leaving(key: bytes) -> bytes:
    return _LEAVING + key + _NO_PLACE


class _OnlyId(msgspec.Struct, frozen=True):
    id: str


def _id_in(txn: Txn, key: bytes) -> str | None:
    try:
        payload = txn.get(Table.ENTRIES, key)
        return None if payload is None else decode(payload, _OnlyId).id
    except BadRecord as error:
        txn.note(Table.ENTRIES, key, "", str(error))
        return None
