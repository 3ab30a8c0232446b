"""Group commit, for anything that costs about the same once or a hundred times: while one batch runs in its thread,
the calls of all other tasks gather for the next.

So the price of a synced transaction, of a folder's sync or of a change of threads is shared by whoever is at work at
the same time; alone, a call waits for nobody. No task of its own: the first of those that wait runs the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import trio

from engine.threads import in_thread

_Result = TypeVar("_Result")

# One batch may run Python code under the GIL: more calls than this in a row would keep the event loop waiting.
CALLS_PER_BATCH = 64


class _Waiter:
    """One call and the task that waits for it; that goes on when the call has an outcome, or to run the next batch."""

    __slots__ = ("call", "outcome", "settled", "task")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.task: trio.lowlevel.Task | None = None
        self.settled = False
        self.outcome: Any = None

    def wake(self) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task)


def _not_now(_raise_cancel: object) -> trio.lowlevel.Abort:
    """A cancellation waits: cheaper than a shielded scope for each call."""
    return trio.lowlevel.Abort.FAILED


class Combiner:
    """``run_batch`` blocks; it gets the calls and returns, for each, its result or the exception that it ended with."""

    def __init__(
        self,
        run_batch: Callable[[Sequence[Callable[[], Any]]], Sequence[Any]],
        limiter: trio.CapacityLimiter,
        most: int = CALLS_PER_BATCH,
    ) -> None:
        self._run_batch = run_batch
        self._limiter = limiter
        self._most = most
        self._queue: list[_Waiter] = []
        self._busy = False

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._busy

    async def do(self, call: Callable[[], _Result]) -> _Result:
        """Run ``call`` in a worker thread, together with others. Once it is in the queue it is not left half-way by a
        cancellation. Raises what it raises, or what the batch as a whole ran into."""
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = _Waiter(call)
        self._queue.append(waiter)
        if self._busy:
            waiter.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(_not_now)
        if not waiter.settled:
            with trio.CancelScope(shield=True):
                await self._run_next()
        if isinstance(waiter.outcome, Exception):
            raise waiter.outcome
        result: _Result = waiter.outcome
        return result

    async def _run_next(self) -> None:
        self._busy = True
        batch, self._queue = self._queue[: self._most], self._queue[self._most :]
        calls = [waiter.call for waiter in batch]
        outcomes: Sequence[Any]
        try:
            outcomes = await in_thread(self._run_batch, calls, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001  # it is raised in every task of the batch
            outcomes = [error] * len(batch)
        for waiter, outcome in zip(batch, outcomes, strict=True):
            waiter.outcome, waiter.settled = outcome, True
            waiter.wake()
        if self._queue:
            self._queue[0].wake()  # still busy: that task goes on
        else:
            self._busy = False


def outcome_of(call: Callable[[], _Result]) -> _Result | Exception:
    """The result of ``call``, or the exception it raised."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001  # handed to whoever asked for the call
        return error
