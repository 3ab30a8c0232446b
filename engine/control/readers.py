"""Who has finished files open: those are never evicted, and when they were read last decides which go first. What is
being evicted is not opened any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.errors import UnknownEntry


class Readers:
    """Counts the holders of each entry's file. ``now``: wall time, for the records."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._holders: dict[str, int] = {}
        self._read_at: dict[str, float] = {}
        self._going: set[str] = set()

    @contextmanager
    def hold(self, entry_id: str) -> Iterator[None]:
        """The entry's file is being read in the block. Raises UnknownEntry when it is being evicted."""
        if entry_id in self._going:
            raise UnknownEntry(f"the finished file of {entry_id} is being evicted")
        self._holders[entry_id] = self._holders.get(entry_id, 0) + 1
        self._read_at[entry_id] = self._now()
        try:
            yield
        finally:
            self._read_at[entry_id] = self._now()
            self._holders[entry_id] -= 1
            if not self._holders[entry_id]:
                del self._holders[entry_id]

    def held(self, entry_id: str) -> bool:
        """Whether somebody reads the entry's file now."""
        return entry_id in self._holders

    def refuse(self, entry_id: str) -> None:
        """Nobody begins to read the entry's file any more, until :meth:`allow`."""
        self._going.add(entry_id)

    def allow(self, entry_id: str) -> None:
        """It is gone, or stays after all."""
        self._going.discard(entry_id)

    def read_at(self, entry_id: str) -> float:
        """When it was read last, as far as that is not on record yet; 0 when it was not."""
        return self._read_at.get(entry_id, 0.0)

    def take_read(self) -> dict[str, float]:
        """What is not on record yet, to be recorded by the caller."""
        taken, self._read_at = self._read_at, {}
        return taken
