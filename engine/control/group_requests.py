"""From a request for a group to its records: checked before anything is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec
import trio

from engine.config import Config
from engine.control.manager import REQUESTS_PER_TURN
from engine.control.requests import ID_BYTES_MAX, TEXT_CHARS_MAX, entry_of
from engine.errors import InvalidRequest
from engine.model.groups import GroupRecord, GroupRequest, MemberRecord
from engine.model.records import DownloadRequest

MEMBERS_MAX: Final = 10_000  # all places of a group change in one transaction
METADATA_MAX: Final = 100
_PLACES: Final = range(2**32)


class Wanted(NamedTuple):
    """A member as it is to be recorded, and what to ask for to have it."""

    member: MemberRecord
    request: DownloadRequest


def group_of(request: GroupRequest, now: float) -> GroupRecord:
    """The record of the group. Raises InvalidRequest, saying which field is wrong."""
    if not isinstance(request, GroupRequest):
        raise InvalidRequest(f"a GroupRequest is needed, not {type(request).__name__}")
    _check_id(request.id)
    for name in ("scope", "kind", "title"):
        _check_text(name, getattr(request, name))
    if not isinstance(request.metadata, Mapping) or len(request.metadata) > METADATA_MAX:
        raise InvalidRequest(f"metadata must be a mapping of at most {METADATA_MAX} names to text")
    for name, value in request.metadata.items():
        _check_text("a name in metadata", name)
        _check_text(f"metadata {name}", value)
    return GroupRecord(
        id=request.id,
        scope=request.scope,
        kind=request.kind,
        title=request.title,
        added_at=now,
        updated_at=now,
        metadata=dict(request.metadata),
    )


async def members_of(
    members: Iterable[tuple[DownloadRequest, int, int]], group: GroupRecord, config: Config, now: float
) -> list[Wanted]:
    """What each member is recorded as and asked for with. Raises InvalidRequest, naming the place."""
    found: list[Wanted] = []
    places: set[tuple[int, int]] = set()
    for item in members:
        if len(found) == MEMBERS_MAX:
            raise InvalidRequest(f"a group has at most {MEMBERS_MAX} members")
        request, volume, position = _checked_item(item)
        where = f"volume {volume}, position {position}"
        if (volume, position) in places:
            raise InvalidRequest(f"{where} is given twice")
        places.add((volume, position))
        if request.scope not in {"", group.scope}:
            raise InvalidRequest(f"{where} is of the scope {request.scope!r}, its group of {group.scope!r}")
        request = msgspec.structs.replace(request, scope=group.scope, group_id=request.group_id or group.id)
        try:
            entry_id = entry_of(request, config, now).id
        except InvalidRequest as error:
            raise InvalidRequest(f"{where}: {error}") from error
        member = MemberRecord(entry_id=entry_id, volume=volume, position=position, title=request.title, added_at=now)
        found.append(Wanted(member, msgspec.structs.replace(request, id=entry_id)))
        if len(found) % REQUESTS_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
    return found


def _checked_item(item: object) -> tuple[DownloadRequest, int, int]:
    if not isinstance(item, tuple | list) or len(item) != 3:
        raise InvalidRequest("a member is a DownloadRequest, a volume and a position")
    request, volume, position = item
    if not isinstance(request, DownloadRequest):
        raise InvalidRequest(f"a DownloadRequest is needed, not {type(request).__name__}")
    for name, number in (("volume", volume), ("position", position)):
        if isinstance(number, bool) or not isinstance(number, int) or number not in _PLACES:
            raise InvalidRequest(f"{name} must be 0 to {_PLACES[-1]}, not {number!r}")
    return request, volume, position


def check_group(scope: object, group_id: object) -> None:
    """Raises InvalidRequest for what cannot be a scope or the id of a group."""
    checked_scope(scope)
    _check_id(group_id)


def checked_scope(scope: object) -> str:
    """The scope. Raises InvalidRequest for what cannot be one."""
    _check_text("scope", scope)
    return str(scope)


def _check_id(group_id: object) -> None:
    if not isinstance(group_id, str) or not group_id.isprintable():
        raise InvalidRequest("the id of a group is printable text")
    if not 1 <= len(group_id.encode()) <= ID_BYTES_MAX:
        raise InvalidRequest(f"the id of a group has 1 to {ID_BYTES_MAX} bytes")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX:
        raise InvalidRequest(f"{name} must be text of at most {TEXT_CHARS_MAX} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # lone surrogates, from bytes that are no UTF-8
        raise InvalidRequest(f"{name} must be text that UTF-8 can hold") from error
