"""Blocking calls off the event loop, also where no further thread is to be had."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TypeVar

import trio

_Result = TypeVar("_Result")

log = logging.getLogger("engine")


def stop_if_cancelled() -> None:
    """Raise trio.Cancelled when who waits for this worker thread's call was cancelled. What reads a whole file asks
    between its blocks, so that a pause or the engine's end need not wait for gigabytes; elsewhere it does nothing."""
    with contextlib.suppress(RuntimeError):  # the thread is the loop's own, or a caller's
        trio.from_thread.check_cancelled()


async def in_thread(
    call: Callable[..., _Result], *args: object, limiter: trio.CapacityLimiter | None = None
) -> _Result:
    """Run ``call(*args)`` in a worker thread; a cancellation does not leave it half-way, but where it asks by
    :func:`stop_if_cancelled`. ``limiter``: trio's own by default.

    Where none can be started (limits of processes, threads, address space) it runs here: the loop waits for it, but
    the engine goes on, and what has to be durable becomes so.
    """
    limiter = limiter or trio.to_thread.current_default_thread_limiter()
    began = False

    def begin() -> _Result:
        nonlocal began
        began = True
        return call(*args)

    try:
        return await trio.to_thread.run_sync(begin, limiter=limiter)
    except (RuntimeError, MemoryError) as error:
        if began:
            raise
        log.info("no thread can be started, so the loop does the work: %s", error)
    async with limiter:
        return call(*args)
