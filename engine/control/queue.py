"""The order in which waiting entries get their turn: by priority, then in order of adding; some not before a time.

Pure: it knows ids and numbers, no clock and no tasks. A waiting entry costs a tuple and no task of its own, so a
hundred thousand of them may wait.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple


class _Place(NamedTuple):
    """Sorts first what runs first."""

    rank: int
    sequence: int
    entry_id: str


class WaitingQueue:
    """Entries that wait. Places that are void stay in the heaps until they come up (``heapq`` cannot remove)."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._ready: list[_Place] = []
        self._delayed: list[tuple[float, _Place]] = []

    def __contains__(self, entry_id: object) -> bool:
        return entry_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, entry_id: str, priority: int, sequence: int, not_before: float | None = None) -> None:
        """Have the entry wait for its turn, at the time ``not_before`` at the earliest; again: in its new place."""
        place = self._places[entry_id] = _Place(-priority, sequence, entry_id)
        if not_before is None:
            heapq.heappush(self._ready, place)
        else:
            heapq.heappush(self._delayed, (not_before, place))

    def discard(self, entry_id: str) -> bool:
        """Have it wait no more; False when it did not."""
        return self._places.pop(entry_id, None) is not None

    def take(self, now: float) -> str | None:
        """The entry whose turn it is; it waits no more. None when nobody's time has come."""
        while self._delayed and self._delayed[0][0] <= now:
            place = heapq.heappop(self._delayed)[1]
            if self._places.get(place.entry_id) is place:
                heapq.heappush(self._ready, place)
        while self._ready:
            place = heapq.heappop(self._ready)
            if self._places.get(place.entry_id) is place:
                del self._places[place.entry_id]
                return place.entry_id
        return None

    def next_at(self) -> float | None:
        """When the time of the next delayed entry comes; None without one."""
        while self._delayed and self._places.get(self._delayed[0][1].entry_id) is not self._delayed[0][1]:
            heapq.heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None
