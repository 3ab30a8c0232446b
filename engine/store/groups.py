"""Groups and their members: whole changes inside one transaction, and lists sorted by rows of their own.

GROUPS: group key -> record. MEMBERS: group key, place -> record. LINKS: see :mod:`engine.store.links`. SORTED: a line
for every order that a group (below its scope) or a member (below its group) is listed in; it is all key, and ends in
the key of what it stands for, which also makes the order of equal ones firm.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from blake3 import blake3

from engine.errors import BadRecord, UnknownGroup
from engine.model.groups import (
    GroupRecord,
    GroupSort,
    GroupStatus,
    Member,
    MemberRecord,
    MemberSort,
    Place,
    changes_between,
    status_of,
)
from engine.model.paging import Page
from engine.model.records import ErrorRecord
from engine.model.states import Reason, State
from engine.store import links, resets
from engine.store.codec import KEY_BYTES, PLACE_BYTES, Payload, Table, decode, encode, entry_key, scope_key
from engine.store.paging import read_page
from engine.store.txn import Txn

_PLACE: Final = struct.Struct(">II")
_TITLE: Final = b"t"
_ADDED: Final = b"a"
_SORT_TITLE_BYTES: Final = 300  # a key of LMDB has at most 511; titles that are equal so far follow in firm order
_MICROSECONDS: Final = 1_000_000


class _EntryLine(msgspec.Struct, frozen=True):
    """Of an entry's record, what a list of members shows: the rest is not even decoded."""

    state: State = State.PENDING
    state_reason: Reason = Reason.NONE
    bytes_total: int | None = None
    expected_length: int | None = None
    attempt_count: int = 0
    last_error: ErrorRecord | None = None


class _PartLine(msgspec.Struct, frozen=True):
    """Of a part's record, the same."""

    length: int | None = None
    bytes_done: int = 0


def group_key(scope: str, group_id: str) -> bytes:
    """The key of a group: the same id in another scope is another group."""
    owner = scope.encode()
    return blake3(len(owner).to_bytes(8, "big") + owner + group_id.encode()).digest(length=KEY_BYTES)


def find(txn: Txn, scope: str, group_id: str) -> GroupRecord | None:
    """The group, or None. Raises BadRecord."""
    return _group_at(txn, group_key(scope, group_id))


def require(txn: Txn, scope: str, group_id: str) -> GroupRecord:
    """The group. Raises UnknownGroup, BadRecord."""
    group = find(txn, scope, group_id)
    if group is None:
        raise UnknownGroup(f"the scope {scope!r} has no group '{group_id}'")
    return group


def put(txn: Txn, group: GroupRecord, wanted: Sequence[MemberRecord], *, replace: bool) -> list[str]:
    """Store the group with these members; one that had a place that is given to another loses it.

    ``replace``: members that are not wanted any more lose their places too. A group that is there keeps the time when
    it was added. Returns the entries that nothing holds now. Raises ScopeResetting.
    """
    resets.check(txn, group.scope)
    key = group_key(group.scope, group.id)
    _put_record(txn, key, group)
    present, damaged = _present(txn, key)
    changes = changes_between(present, wanted, replace=replace)
    lost = {(member.entry_id, _pack(member)) for member in changes.drop}
    taken = {_pack(member) for member in wanted}
    for place in damaged:
        if replace or place in taken:
            lost |= {(entry_id, place) for entry_id in _clear_damaged(txn, key, place)}
    for member in changes.drop:
        txn.delete(Table.MEMBERS, key + _pack(member))
        _unsort(txn, key, member)
    for member in changes.put:
        if (old := present.get(member.place)) is not None:
            _unsort(txn, key, old)
        _put_member(txn, key, group.id, member)
    lost -= {(member.entry_id, _pack(member)) for member in changes.put}
    # Last, when all new links are there: what only changes its place is never without one.
    return [entry_id for entry_id, place in sorted(lost) if links.drop(txn, entry_id, key, place)]


def drop(txn: Txn, scope: str, group_id: str) -> list[str] | None:
    """Take the group and all its links away, a damaged one too; returns the entries that nothing holds now, None when
    there is no such group."""
    key = group_key(scope, group_id)
    return _drop_at(txn, scope, key) if txn.has(Table.GROUPS, key) else None


def drop_any(txn: Txn, scope: str) -> bool:
    """Take one group of a scope that is being emptied away; False when there is none. Its entries are not marked: they
    go by themselves."""
    key = next((line[-KEY_BYTES:] for line in txn.keys(Table.SORTED, scope_key(scope) + _ADDED)), None)
    if key is None:  # its line may be lost: then only a look at all groups finds it
        key = next((key for key, group in _sound_groups(txn) if group.scope == scope), None)
    if key is None:
        return False
    links.gone(txn, _drop_at(txn, scope, key))
    return True


def members_there(txn: Txn, scope: str, group_id: str) -> set[str]:
    """The ids of the members whose entries are there. Raises UnknownGroup, BadRecord for the group itself."""
    require(txn, scope, group_id)
    sound, _ = _present(txn, group_key(scope, group_id))
    return {member.entry_id for member in sound.values() if txn.has(Table.ENTRIES, entry_key(member.entry_id))}


def page(txn: Txn, scope: str, sort: GroupSort, after: str | None, limit: int) -> Page[GroupRecord]:
    """Groups of a scope. Raises InvalidRequest for a bad limit or cursor."""
    prefix = scope_key(scope) + (_TITLE if sort is GroupSort.TITLE else _ADDED)

    def load(line: bytes, _: Payload | None) -> GroupRecord:
        group = _group_at(txn, line[-KEY_BYTES:])
        if group is None or line not in _group_lines(line[-KEY_BYTES:], group):
            raise _stray(txn, line)
        return group

    return read_page(txn, Table.SORTED, prefix, after, limit, load)


def members(txn: Txn, scope: str, group_id: str, sort: MemberSort, after: str | None, limit: int) -> Page[Member]:
    """Members of a group with what their entries say. Raises UnknownGroup, BadRecord for the group itself,
    InvalidRequest for a bad limit or cursor."""
    require(txn, scope, group_id)
    key = group_key(scope, group_id)
    if sort is MemberSort.PLACE:
        return read_page(txn, Table.MEMBERS, key, after, limit, lambda *row: _listed(txn, _member(txn, *row)))

    kind, line_of = (_TITLE, _title_line) if sort is MemberSort.TITLE else (_ADDED, _added_line)

    def load(line: bytes, _: Payload | None) -> Member:
        member = _required(txn, key + line[-PLACE_BYTES:])
        if line != line_of(key, member):
            raise _stray(txn, line)
        return _listed(txn, member)

    return read_page(txn, Table.SORTED, key + kind, after, limit, load)


def status(txn: Txn, scope: str, group_id: str) -> GroupStatus:
    """The group as a whole, derived from all its members. Raises UnknownGroup, BadRecord for the group itself."""
    group = require(txn, scope, group_id)
    found: list[Member] = []
    damaged: list[str] = []
    for line, payload in txn.walk(Table.MEMBERS, group_key(scope, group_id)):
        try:
            found.append(_listed(txn, _member(txn, line, payload)))
        except BadRecord as error:
            damaged.append(str(error))
    return status_of(group, found, tuple(damaged))


def _put_record(txn: Txn, key: bytes, group: GroupRecord) -> None:
    old = _unsort_group(txn, group.scope, key)
    if old is not None:
        group = msgspec.structs.replace(group, added_at=old.added_at)
    txn.put(Table.GROUPS, key, encode(group))
    for line in _group_lines(key, group):
        txn.put(Table.SORTED, line, b"")


def _put_member(txn: Txn, key: bytes, group_id: str, member: MemberRecord) -> None:
    place = _pack(member)
    txn.put(Table.MEMBERS, key + place, encode(member))
    for line in _member_lines(key, member):
        txn.put(Table.SORTED, line, b"")
    links.add(txn, member.entry_id, key, place, group_id)


def _drop_at(txn: Txn, scope: str, key: bytes) -> list[str]:
    present, damaged = _present(txn, key)
    held = [(member.entry_id, _pack(member)) for member in present.values()]
    for place in damaged:
        held += [(entry_id, place) for entry_id in links.find_at(txn, key, place)]
    _unsort_group(txn, scope, key)
    txn.delete_below(Table.SORTED, key)
    txn.delete_below(Table.MEMBERS, key)
    txn.delete(Table.GROUPS, key)
    return [entry_id for entry_id, place in held if links.drop(txn, entry_id, key, place)]


def _present(txn: Txn, key: bytes) -> tuple[dict[Place, MemberRecord], list[bytes]]:
    """The members of a group, and the places whose records are damaged."""
    sound: dict[Place, MemberRecord] = {}
    damaged: list[bytes] = []
    for line, payload in txn.walk(Table.MEMBERS, key):
        try:
            member = _member(txn, line, payload)
        except BadRecord:  # noted
            damaged.append(line[KEY_BYTES:])
        else:
            sound[member.place] = member
    return sound, damaged


def _clear_damaged(txn: Txn, key: bytes, place: bytes) -> list[str]:
    """Make room where a member's record is damaged; returns whose link leads there."""
    txn.delete(Table.MEMBERS, key + place)
    for line in [line for line in txn.keys(Table.SORTED, key) if line.endswith(place)]:
        txn.delete(Table.SORTED, line)
    return links.find_at(txn, key, place)


def _group_at(txn: Txn, key: bytes) -> GroupRecord | None:
    try:
        payload = txn.get(Table.GROUPS, key)
        return None if payload is None else decode(payload, GroupRecord)
    except BadRecord as error:
        txn.note(Table.GROUPS, key, "", str(error))
        raise BadRecord(f"the record of a group is damaged: {error}") from error


def _sound_groups(txn: Txn) -> Iterator[tuple[bytes, GroupRecord]]:
    for key, payload in txn.walk(Table.GROUPS):
        if payload is not None:
            yield key, decode(payload, GroupRecord)


def _required(txn: Txn, line: bytes) -> MemberRecord:
    """The member with this key. Raises BadRecord naming its place."""
    payload, damage = None, "there is no record"
    try:
        payload = txn.get(Table.MEMBERS, line)
    except BadRecord as error:
        damage = str(error)
    if payload is None:
        txn.note(Table.MEMBERS, line, "", damage)
    return _member(txn, line, payload)


def _member(txn: Txn, line: bytes, payload: Payload | None) -> MemberRecord:
    """The member in the row ``line``; a row that is not there, or was noted as damaged, has no payload. Raises
    BadRecord naming its place."""
    try:
        if payload is None:
            raise BadRecord("there is no sound record")
        return decode(payload, MemberRecord)
    except BadRecord as error:
        if payload is not None:
            txn.note(Table.MEMBERS, line, "", str(error))
        volume, position = _PLACE.unpack(line[KEY_BYTES:])
        raise BadRecord(f"the member at volume {volume}, position {position} is damaged: {error}") from error


def _listed(txn: Txn, member: MemberRecord) -> Member:
    """The member with what its entry says. Raises BadRecord naming the entry."""
    key = entry_key(member.entry_id)
    try:
        payload = txn.get(Table.ENTRIES, key)
        entry = None if payload is None else decode(payload, _EntryLine)
        done, total = (0, None) if entry is None else _sizes(txn, key, entry)
    except BadRecord as error:
        txn.note(Table.ENTRIES, key, member.entry_id, str(error))
        raise BadRecord(f"the record of '{member.entry_id}' is damaged: {error}") from error
    return Member(
        entry_id=member.entry_id,
        volume=member.volume,
        position=member.position,
        title=member.title,
        added_at=member.added_at,
        state=None if entry is None else entry.state,
        reason=Reason.NONE if entry is None else entry.state_reason,
        bytes_done=done,
        bytes_total=total,
        error=None if entry is None else entry.last_error,
    )


def _sizes(txn: Txn, key: bytes, entry: _EntryLine) -> tuple[int, int | None]:
    """``(done, total)`` bytes of an entry; a complete one has all, of others the parts tell."""
    if entry.state is State.COMPLETED and entry.bytes_total is not None:
        return entry.bytes_total, entry.bytes_total
    if entry.state is State.PENDING and entry.attempt_count == 0:  # its parts are made by its first attempt
        return 0, entry.expected_length
    found = [decode(payload, _PartLine) for _, payload in txn.walk(Table.PARTS, key) if payload is not None]
    done = sum(part.bytes_done for part in found)
    lengths = [part.length for part in found if part.length is not None]
    return done, sum(lengths) if found and len(lengths) == len(found) else entry.expected_length


def _stray(txn: Txn, line: bytes) -> BadRecord:
    detail = "an order names something that has another place"
    txn.note(Table.SORTED, line, "", detail)
    return BadRecord(detail)


def _unsort_group(txn: Txn, scope: str, key: bytes) -> GroupRecord | None:
    """Take the group out of the orders; returns its record, if that is sound."""
    try:
        group = _group_at(txn, key)
    except BadRecord:  # noted; its lines are not known then, so they are looked for
        group = None
        for line in [line for line in txn.keys(Table.SORTED, scope_key(scope)) if line.endswith(key)]:
            txn.delete(Table.SORTED, line)
    if group is not None:
        for line in _group_lines(key, group):
            txn.delete(Table.SORTED, line)
    return group


def _unsort(txn: Txn, key: bytes, member: MemberRecord) -> None:
    for line in _member_lines(key, member):
        txn.delete(Table.SORTED, line)


def _group_lines(key: bytes, group: GroupRecord) -> tuple[bytes, bytes]:
    owner, title = scope_key(group.scope), _sort_title(group.title)
    return owner + _TITLE + title + key, owner + _ADDED + _sort_time(group.added_at) + title + key


def _member_lines(key: bytes, member: MemberRecord) -> tuple[bytes, bytes]:
    return _title_line(key, member), _added_line(key, member)


def _title_line(key: bytes, member: MemberRecord) -> bytes:
    return key + _TITLE + _sort_title(member.title) + _pack(member)


def _added_line(key: bytes, member: MemberRecord) -> bytes:
    return key + _ADDED + _sort_time(member.added_at) + _pack(member)


def _sort_title(title: str) -> bytes:
    """The title as it sorts: case does not count, a letter with an accent follows the one without (it is taken apart
    into both), and a shorter title comes before what it begins."""
    folded = title[:_SORT_TITLE_BYTES]
    if folded.isascii():  # nothing to take apart
        folded = folded.lower()
    else:
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", folded).casefold())
    return folded.replace("\0", "\1").encode()[:_SORT_TITLE_BYTES] + b"\0"


def _sort_time(at: float) -> bytes:
    return max(0, int(at * _MICROSECONDS)).to_bytes(8, "big")


def _pack(member: MemberRecord) -> bytes:
    return _PLACE.pack(member.volume, member.position)
