"""The order in which waiting entries get their turn: by priority; among equals the host with the fewest running entries
first, then the group with the fewest, then in order of adding; some not before a time.

Pure: it knows ids, names and numbers, no clock and no tasks. A waiting entry costs a tuple and no task of its own, so a
hundred thousand of them may wait. Those of one host, priority, group and kind stand in one lane; a host shows the best
of its lanes, and the line holds the hosts: one turn costs a few heap operations, and a host that may have no more
entries is not in the line, so that nobody waits behind it. Only the lanes of the group that had the turn are looked at
again. A kind is a number that the caller gives meaning to; while it is held back, its lanes are not shown.
"""

from __future__ import annotations

import functools
import heapq
import math
import sys
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from engine.net.host import Limit

# Places that are void stay in the heaps until they come up (`heapq` cannot remove); beyond this many pushes for each
# that waits, the heaps are made anew.
_PUSHES_PER_PLACE = 6
_PUSHES_MIN = 4096

# Sorts first what runs first: rank, running of the group, sequence, and the group's name and the kind.
_LaneKey = tuple[int, int, int, str, int]
# Rank, running of the host, running of the group, sequence, and the host's name.
_HostKey = tuple[int, int, int, int, str]


def host_of(url: str) -> str:
    """The host of a URL as the store keeps it, in lower case and without its port; no full parse: a hundred thousand
    are looked at when the engine starts."""
    return _host_in(url.partition("://")[2].partition("/")[0])


@functools.lru_cache(maxsize=1024)  # many entries, few hosts; and one string for each
def _host_in(authority: str) -> str:
    address = authority.partition("?")[0].rpartition("@")[2]
    name, _, port = address.rpartition(":")
    return sys.intern(name if name and port.isdigit() else address)


class _Place(NamedTuple):
    """Sorts first what runs first within a lane. ``number`` is never given twice."""

    rank: int
    sequence: int
    number: int
    entry_id: str
    host: str
    group: str
    kind: int
    not_before: float | None


class _Lane(msgspec.Struct, eq=False):
    """Ready places of one host, rank, group and kind. ``told``: the key under which the host knows it."""

    host: _Host
    rank: int
    group: str
    kind: int
    places: list[_Place] = msgspec.field(default_factory=list)
    told: _LaneKey | None = None

    @property
    def name(self) -> tuple[int, str, int]:
        """What it is called at its host."""
        return self.rank, self.group, self.kind


class _Host(msgspec.Struct, eq=False):
    """``told``: the key under which it stands in the line. ``trial``: the entry that tries whether it answers again,
    alone until a time."""

    name: str
    running: int = 0
    trial: str = ""
    trial_until: float = -math.inf
    lanes: dict[tuple[int, str, int], _Lane] = msgspec.field(default_factory=dict)
    best: list[_LaneKey] = msgspec.field(default_factory=list)
    told: _HostKey | None = None


class _Group(msgspec.Struct, eq=False):
    running: int = 0
    lanes: dict[_Lane, None] = msgspec.field(default_factory=dict)


class WaitingQueue:
    """Entries that wait, and the hosts and groups of those that have their turn. ``per_host``: how many of one host may
    have it at once; 0 for any number. Entries of no host, or of no group (empty names), are not counted together."""

    def __init__(self, per_host: int = 0) -> None:
        self._per_host = per_host or math.inf
        self._waiting: dict[str, _Place] = {}
        self._running: dict[str, _Place] = {}
        self._number = 0
        self._pushes = 0
        self._delayed: list[tuple[float, _Place]] = []
        self._hosts: dict[str, _Host] = {}
        self._groups: dict[str, _Group] = {}
        self._line: list[_HostKey] = []
        self._limits: dict[str, Limit] = {}
        self._resting: list[tuple[float, str]] = []
        self._held_back: frozenset[int] = frozenset()

    def __contains__(self, entry_id: object) -> bool:
        return entry_id in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self,
        entry_id: str,
        priority: int,
        sequence: int,
        not_before: float | None = None,
        *,
        host: str = "",
        group: str = "",
        kind: int = 0,
    ) -> None:
        """Have the entry wait for its turn, at the time ``not_before`` at the earliest; again: in its new place."""
        self.discard(entry_id)
        self._number += 1
        place = _Place(-priority, sequence, self._number, entry_id, host, group, kind, not_before)
        self._waiting[entry_id] = place
        self._push(place)

    def discard(self, entry_id: str) -> bool:
        """Have it wait no more; False when it did not."""
        place = self._waiting.pop(entry_id, None)
        if place is None:
            return False
        lane = self._lane_of(place)
        if lane is not None:
            self._look(lane)
        return True

    def prioritise(self, entry_id: str, priority: int) -> bool:
        """Give it another priority, whether it waits or has its turn; False when it does neither."""
        place = self._waiting.get(entry_id)
        if place is not None:
            self._wait_again(place._replace(rank=-priority), place.not_before)
            return True
        if (place := self._running.get(entry_id)) is None:
            return False
        self._running[entry_id] = place._replace(rank=-priority)
        return True

    def restrict(self, host: str, most: int | None, until: float | None = None, trial_s: float | None = None) -> None:
        """Let no more than ``most`` entries of the host have their turn at once (None: as many as configured), and no
        other one begin before the time ``until``. ``trial_s``: then one begins, whoever runs, and the next when that
        one has ended, or after so many seconds."""
        known = self._hosts.get(host)
        self._limits[host] = limit = Limit(most, until, trial_s)
        if limit == Limit():
            del self._limits[host]
        if until is not None:
            heapq.heappush(self._resting, (until, host))
        if known is not None:
            if until is not None or (trial_s is None and most != 0):  # it is known how the trial ended
                known.trial = ""
            self._look_at_host(known)

    def take(self, now: float) -> str | None:
        """The entry whose turn it is; it waits no more, and has its turn until it is :meth:`done`, or :meth:`put_back`.
        None when nobody's time has come whose host may have one more."""
        self._ripen(now)
        while self._line:
            key = self._line[0]
            host = self._hosts.get(key[-1])
            if host is None or self._key_of(host) != key:
                heapq.heappop(self._line)
                continue
            rank, _, _, group, kind = host.best[0]
            lane = host.lanes[rank, group, kind]
            place = heapq.heappop(lane.places)
            del self._waiting[place.entry_id]
            self._running[place.entry_id] = place
            self._note_trial(host, place.entry_id, now)
            self._count(place, +1)
            self._look(lane)
            return place.entry_id
        return None

    def done(self, entry_id: str) -> None:
        """Its turn is over; nothing for an entry that has none."""
        place = self._running.pop(entry_id, None)
        if place is not None:
            self._count(place, -1)

    def put_back(self, entry_id: str, not_before: float | None = None) -> None:
        """Its turn is over, and it waits again, under the priority that it has by now."""
        place = self._running[entry_id]
        self.done(entry_id)
        self._wait_again(place, not_before)

    def hold_back(self, kinds: frozenset[int]) -> None:
        """Give no turns to entries of these kinds, and again to those of all others."""
        changed = kinds ^ self._held_back
        self._held_back = kinds
        lanes = [lane for host in self._hosts.values() for lane in host.lanes.values() if lane.kind in changed]
        for lane in lanes:
            self._look(lane)

    def sort(self, entry_id: str, kind: int) -> None:
        """It is of this kind from now on, whether it waits or has its turn."""
        place = self._waiting.get(entry_id)
        if place is not None and place.kind != kind:
            self._wait_again(place._replace(kind=kind), place.not_before)
        elif (place := self._running.get(entry_id)) is not None:
            self._running[entry_id] = place._replace(kind=kind)

    def hurry(self, entry_id: str) -> None:
        """It waits for no time any more, if it does."""
        place = self._waiting.get(entry_id)
        if place is not None and place.not_before is not None:
            self._wait_again(place, None)

    def victim(self, entry_id: str, now: float, among: Iterable[str]) -> str | None:
        """Which of ``among``, that have their turn, should give it up for this one, that waits: the least urgent and
        then newest of those with a lower priority; of the same host, if that is what it waits for. None without one."""
        place = self._waiting.get(entry_id)
        if place is None or (place.not_before is not None and place.not_before > now):
            return None
        host = self._hosts.get(place.host)
        if place.kind in self._held_back or self._closed(place.host, host):
            return None
        full = bool(place.host) and host is not None and host.running >= self._per_host
        running = [found for found in map(self._running.get, among) if found is not None]
        lower = [each for each in running if each.rank > place.rank and (not full or each.host == place.host)]
        return max(lower).entry_id if lower else None

    def next_at(self, now: float) -> float | None:
        """When, later than ``now``, the time of the next delayed entry, or resting host, comes; None without one."""
        self._ripen(now)
        while self._delayed and not self._holds(self._delayed[0][1]):
            heapq.heappop(self._delayed)
        times = [heap[0][0] for heap in (self._delayed, self._resting) if heap]
        return min(times) if times else None

    def _wait_again(self, place: _Place, not_before: float | None) -> None:
        rank, sequence, _, entry_id, host, group, kind, _ = place
        self.add(entry_id, -rank, sequence, not_before, host=host, group=group, kind=kind)

    def _holds(self, place: _Place) -> bool:
        return self._waiting.get(place.entry_id) is place

    def _ripen(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            place = heapq.heappop(self._delayed)[1]
            if self._holds(place):
                self._stand(place)
        while self._resting and self._resting[0][0] <= now:
            until, name = heapq.heappop(self._resting)
            limit, host = self._limits.get(name), self._hosts.get(name)
            if limit is not None and limit.until == until:
                self._limits[name] = limit._replace(until=None)
            if host is not None:
                host.trial = "" if host.trial_until <= now else host.trial
                self._look_at_host(host)

    def _note_trial(self, host: _Host, entry_id: str, now: float) -> None:
        limit = self._limits.get(host.name)
        if limit is not None and limit.trial_s is not None:
            host.trial, host.trial_until = entry_id, now + limit.trial_s
            heapq.heappush(self._resting, (host.trial_until, host.name))

    def _closed(self, name: str, host: _Host | None) -> bool:
        """Whether its trouble lets nobody begin, however few run."""
        limit = self._limits.get(name)
        if limit is None:
            return False
        tried = limit.trial_s is not None and host is not None and host.trial
        return limit.until is not None or limit.most == 0 or bool(tried)

    def _full(self, host: _Host) -> bool:
        limit = self._limits.get(host.name)
        most = self._per_host if limit is None or limit.most is None else min(self._per_host, limit.most)
        return host.running >= most or self._closed(host.name, host)

    def _push(self, place: _Place) -> None:
        self._pushes += 1
        if self._pushes > _PUSHES_MIN + _PUSHES_PER_PLACE * len(self._waiting):
            self._make_anew()
        elif place.not_before is None:
            self._stand(place)
        else:
            heapq.heappush(self._delayed, (place.not_before, place))

    def _stand(self, place: _Place) -> None:
        """Place it in its lane: it is ready."""
        host = self._hosts.setdefault(place.host, _Host(place.host))
        lane = self._lane_of(place)
        if lane is None:
            lane = _Lane(host, place.rank, place.group, place.kind)
            host.lanes[lane.name] = lane
            if place.group:
                self._groups.setdefault(place.group, _Group()).lanes[lane] = None
        heapq.heappush(lane.places, place)
        if lane.places[0] is place:  # otherwise nothing shows of it
            self._look(lane)

    def _lane_of(self, place: _Place) -> _Lane | None:
        host = self._hosts.get(place.host)
        return None if host is None else host.lanes.get((place.rank, place.group, place.kind))

    def _count(self, place: _Place, change: int) -> None:
        """One entry more, or less, of this host and group has its turn."""
        host = self._hosts.setdefault(place.host, _Host(place.host))
        host.running += change if place.host else 0
        if change < 0 and host.trial == place.entry_id:
            host.trial = ""
        if place.group:
            group = self._groups.setdefault(place.group, _Group())
            group.running += change
            for lane in tuple(group.lanes):
                self._look(lane)
            if not group.lanes and not group.running:
                self._groups.pop(place.group, None)
        self._look_at_host(host)

    def _look(self, lane: _Lane) -> None:
        """The lane's first place, or its group's count, may be another by now."""
        key = self._lane_key(lane)
        host = lane.host
        if key is None:
            host.lanes.pop(lane.name, None)
            self._leave_group(lane)
        elif lane.kind in self._held_back:
            lane.told = None
        elif key != lane.told:
            lane.told = key
            self._pushes += 1
            heapq.heappush(host.best, key)
        self._look_at_host(host)

    def _leave_group(self, lane: _Lane) -> None:
        group = self._groups.get(lane.group)
        if group is not None:
            group.lanes.pop(lane, None)
            if not group.lanes and not group.running:
                del self._groups[lane.group]

    def _look_at_host(self, host: _Host) -> None:
        key = self._key_of(host)
        if key is not None and key != host.told:
            self._pushes += 1
            heapq.heappush(self._line, key)
        host.told = key
        if not host.lanes and not host.running:
            self._hosts.pop(host.name, None)

    def _lane_key(self, lane: _Lane) -> _LaneKey | None:
        while lane.places and not self._holds(lane.places[0]):
            heapq.heappop(lane.places)
        if not lane.places:
            return None
        group = self._groups.get(lane.group)
        running = group.running if group is not None else 0
        return lane.rank, running, lane.places[0].sequence, lane.group, lane.kind

    def _key_of(self, host: _Host) -> _HostKey | None:
        """Where the host belongs in the line; None when it has nobody ready, or may have no more at once."""
        if self._full(host):
            return None
        while host.best:
            rank, group_running, sequence, group, kind = key = host.best[0]
            lane = host.lanes.get((rank, group, kind))
            if lane is not None and kind not in self._held_back and self._lane_key(lane) == key:
                return rank, host.running, group_running, sequence, host.name
            heapq.heappop(host.best)
        return None

    def _make_anew(self) -> None:
        """Drop what is void in all heaps."""
        ready = {id(place) for host in self._hosts.values() for lane in host.lanes.values() for place in lane.places}
        self._delayed.clear()
        self._line.clear()
        for host in self._hosts.values():
            host.lanes, host.best, host.told = {}, [], None
        for group in self._groups.values():
            group.lanes.clear()
        self._pushes = 0
        for place in self._waiting.values():
            if place.not_before is None or id(place) in ready:
                self._stand(place)
            else:
                heapq.heappush(self._delayed, (place.not_before, place))
