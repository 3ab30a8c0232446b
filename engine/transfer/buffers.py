"""Chunk buffers under one budget of bytes: the engine's memory bound (DESIGN section 4).

Most chunks are of one of two sizes. A slow connection holds its buffer for as long as its chunk takes, so a thousand of
them with small chunks need many small buffers more than a few large ones; both come out of the same budget. (Pages that
were used once stay with the process: who fills the budget with one size and then with the other has twice of it
resident.)
"""

from __future__ import annotations

from collections import deque

import trio

from engine import native
from engine.config import Config


class _Waiter:
    """A task that waits for a buffer of a size, and what it got."""

    __slots__ = ("buffer", "size", "task")

    def __init__(self, size: int) -> None:
        self.size = size
        self.task = trio.lowlevel.current_task()
        self.buffer: native.ChunkBuffer | None = None


class Buffers:
    """``buffer_count`` buffers of ``chunk_bytes``, or more of ``small_chunk_bytes`` in their place. Whoever waits first
    is served first, whatever the size."""

    def __init__(self, config: Config) -> None:
        self._budget = self._left = config.buffer_count * config.chunk_bytes
        self._small_bytes, self._large_bytes = config.small_chunk_bytes, config.chunk_bytes
        self._large = native.BufferPool(config.buffer_count, config.chunk_bytes)
        self._small = native.BufferPool(self._budget // config.small_chunk_bytes, config.small_chunk_bytes)
        self._waiters: deque[_Waiter] = deque()

    @property
    def most(self) -> int:
        """How many can be out at once."""
        return self._budget // self._small_bytes

    @property
    def bytes_free(self) -> int:
        """Bytes that nobody holds."""
        return self._left

    async def acquire(self, size: int) -> native.ChunkBuffer:
        """A buffer for a chunk of ``size`` bytes; waits in turn while the budget is out."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._waiters and (buffer := self._take(size)) is not None:
            return buffer
        waiter = _Waiter(size)
        self._waiters.append(waiter)

        def give_up(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiters.remove(waiter)
            self._grant()  # the one behind may want less
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)
        assert waiter.buffer is not None  # noqa: S101  # only _grant goes on with the task
        return waiter.buffer

    def release(self, buffer: native.ChunkBuffer) -> None:
        """Take a buffer back."""
        self._left += len(buffer)
        buffer.release()
        self._grant()

    def _take(self, size: int) -> native.ChunkBuffer | None:
        small = size <= self._small_bytes
        wanted = self._small_bytes if small else self._large_bytes
        if wanted > self._left:
            return None
        buffer = (self._small if small else self._large).acquire()
        if buffer is not None:
            self._left -= wanted
        return buffer

    def _grant(self) -> None:
        while self._waiters:
            waiter = self._waiters[0]
            waiter.buffer = self._take(waiter.size)
            if waiter.buffer is None:
                return
            self._waiters.popleft()
            trio.lowlevel.reschedule(waiter.task)
