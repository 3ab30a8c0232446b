"""Groups (album, playlist, season …): their records, and how a group's state follows from its members' (never stored).

A member is an entry at a place. One entry may be at several places, of several groups of its scope.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from engine.model.records import DownloadRequest, ErrorRecord
from engine.model.states import Reason, State


class Place(NamedTuple):
    """Where a member stands; sorts as it is played."""

    volume: int
    position: int


class GroupRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A group that the caller wants offline. ``id`` is the caller's own, unique in its scope. ``members``: what to have
    offline, with volume and position (0 to 2^32 - 1); a place is taken once. Their scope is the group's."""

    id: str
    scope: str = ""
    kind: str = ""
    title: str = ""
    members: tuple[tuple[DownloadRequest, int, int], ...] = ()
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)


class GroupRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The durable record of a group; its members have records of their own."""

    id: str
    scope: str = ""
    kind: str = ""
    title: str = ""
    added_at: float = 0.0
    updated_at: float = 0.0
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class MemberRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One place of a group and the entry that has it. ``added_at``: since when the entry is in the group."""

    entry_id: str
    volume: int = 0
    position: int = 0
    title: str = ""
    added_at: float = 0.0

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.volume, self.position)


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member as it is listed. ``state`` is None when there is no such entry (any more). ``bytes_done`` are durable,
    ``bytes_total`` is None while it is not known."""

    entry_id: str
    volume: int
    position: int
    title: str
    added_at: float
    state: State | None = None
    reason: Reason = Reason.NONE
    bytes_done: int = 0
    bytes_total: int | None = None
    error: ErrorRecord | None = None


class GroupSort(StrEnum):
    """Orders of a list of groups. Equal ones keep one order among them, always the same."""

    TITLE = "title"  # case does not count
    ADDED = "added"


class MemberSort(StrEnum):
    """Orders of a list of members."""

    PLACE = "place"
    TITLE = "title"
    ADDED = "added"


class GroupState(StrEnum):
    """What a group is as a whole."""

    EMPTY = "empty"
    IN_PROGRESS = "in_progress"  # something of it runs, or it is half-way and something of it waits for its turn
    PENDING = "pending"  # nothing of it ran yet, something waits
    PAUSED = "paused"  # nothing moves until it is resumed
    COMPLETED = "completed"
    PARTIAL = "partial"  # nothing moves by itself any more; some of it is there, some is not
    CANCELLED = "cancelled"
    FAILED = "failed"  # nothing of it is there, and nothing moves


Counts = Mapping[State | None, int]


def _only(*states: State | None) -> Callable[[Counts], bool]:
    return lambda counts: all(count == 0 or state in states for state, count in counts.items())


def _any(*states: State | None) -> Callable[[Counts], bool]:
    return lambda counts: any(counts.get(state, 0) for state in states)


def _half_way(counts: Counts) -> bool:
    return _any(State.PENDING)(counts) and _any(State.COMPLETED, State.FAILED)(counts)


# The first that holds, from the top. Between two members a group does not fall back to PENDING: no flicker.
GROUP_STATES: tuple[tuple[Callable[[Counts], bool], GroupState], ...] = (
    (_only(), GroupState.EMPTY),
    (_any(State.IN_PROGRESS), GroupState.IN_PROGRESS),
    (_half_way, GroupState.IN_PROGRESS),
    (_any(State.PENDING), GroupState.PENDING),
    (_any(State.PAUSED), GroupState.PAUSED),
    (_only(State.COMPLETED), GroupState.COMPLETED),
    (_any(State.COMPLETED), GroupState.PARTIAL),
    (_only(State.CANCELLED), GroupState.CANCELLED),
    (_any(State.FAILED, State.CANCELLED, None), GroupState.FAILED),
)

# Members in these states lack nothing, or will go on by themselves.
ON_THEIR_WAY = frozenset({State.PENDING, State.IN_PROGRESS, State.COMPLETED})


class GroupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A group as a whole. ``counts``: places by the state of their entry; ``missing``: places whose entry is not there;
    ``damaged``: places that cannot be read. Bytes count each entry once: ``bytes_total`` of those whose size is known,
    ``sizes_unknown`` are not. ``shortfalls``: members that will not complete by themselves."""

    group: GroupRecord
    state: GroupState
    members: int
    counts: dict[State, int]
    missing: int
    damaged: tuple[str, ...]
    bytes_done: int
    bytes_total: int
    sizes_unknown: int
    shortfalls: tuple[Member, ...]


def state_of(counts: Counts) -> GroupState:
    """The group's state, from how many places are in each state (None: no entry). One in which some are in states that
    only a newer version knows is PARTIAL."""
    return next((state for holds, state in GROUP_STATES if holds(counts)), GroupState.PARTIAL)


def status_of(group: GroupRecord, members: Iterable[Member], damaged: tuple[str, ...]) -> GroupStatus:
    """The status of a group with these members."""
    counts: Counter[State | None] = Counter()
    by_id: dict[str, Member] = {}
    shortfalls: list[Member] = []
    for member in members:
        counts[member.state] += 1
        by_id[member.entry_id] = member
        if member.state not in ON_THEIR_WAY:
            shortfalls.append(member)
    counts[None] += len(damaged)
    return GroupStatus(
        group=group,
        state=state_of(counts),
        members=counts.total(),
        counts={state: count for state, count in counts.items() if state is not None},
        missing=counts[None] - len(damaged),
        damaged=damaged,
        bytes_done=sum(member.bytes_done for member in by_id.values()),
        bytes_total=sum(member.bytes_total or 0 for member in by_id.values()),
        sizes_unknown=sum(member.bytes_total is None for member in by_id.values()),
        shortfalls=tuple(shortfalls),
    )


class Changes(NamedTuple):
    """What leads from the present members to the wanted ones."""

    put: list[MemberRecord]
    drop: list[MemberRecord]


def changes_between(present: Mapping[Place, MemberRecord], wanted: Iterable[MemberRecord], *, replace: bool) -> Changes:
    """``put``: members to write, each with the time when its entry came into the group; ``drop``: members that lose
    their place. Without ``replace`` places that are not wanted stay as they are."""
    since: dict[str, float] = {}
    for member in present.values():
        since[member.entry_id] = min(member.added_at, since.get(member.entry_id, member.added_at))
    put: list[MemberRecord] = []
    drop: list[MemberRecord] = []
    places: set[Place] = set()
    for member in wanted:
        places.add(member.place)
        old = present.get(member.place)
        new = msgspec.structs.replace(member, added_at=since.get(member.entry_id, member.added_at))
        if new != old:
            put.append(new)
        if old is not None and old.entry_id != new.entry_id:
            drop.append(old)
    if replace:
        drop += [member for place, member in present.items() if place not in places]
    return Changes(put, drop)
