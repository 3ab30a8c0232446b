"""How many entries run at once: slots given by priority, then in order of adding."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class PrioritySlots:
    """``count`` slots; a free one goes to the waiter with the highest priority, the oldest of equals."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[int, int, trio.Event]] = []
        self._given: set[trio.Event] = set()

    @asynccontextmanager
    async def hold(self, priority: int, sequence: int) -> AsyncIterator[None]:
        """Wait for a slot and hold it for the block."""
        await self._acquire(priority, sequence)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, priority: int, sequence: int) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn = trio.Event()
        waiter = (-priority, sequence, turn)
        heapq.heappush(self._waiting, waiter)
        try:
            await turn.wait()
        except BaseException:
            if turn in self._given:
                self._given.discard(turn)
                self._release()
            else:
                self._waiting.remove(waiter)
                heapq.heapify(self._waiting)
            raise
        self._given.discard(turn)

    def _release(self) -> None:
        if self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            self._given.add(turn)
            turn.set()
        else:
            self._free += 1
