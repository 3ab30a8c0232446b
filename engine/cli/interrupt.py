"""Ctrl-C and SIGTERM: the work is ended once, and what it still has to put in order is waited for."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from engine.cli import status
from engine.cli.console import PROGRAM, warn
from engine.config import DEFAULT_CONFIG
from engine.errors import sole_error

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The engine bounds its last commit by `close_timeout_s`; a disk that does not even answer then is not waited for.
_LEAVE_AFTER_S = 2 * DEFAULT_CONFIG.close_timeout_s


async def until_interrupted(work: Callable[[], Awaitable[None]]) -> bool:
    """Run ``work``; a signal cancels it, further ones change nothing. True when there was one.

    Signals that were ignored when the process began (``nohup``, a background job) stay ignored. Raises what ``work``
    does.
    """
    wanted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    interrupted = False

    async def watch(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal interrupted
        await anext(signals)
        interrupted = True
        scope.cancel()
        with trio.move_on_after(_LEAVE_AFTER_S):
            async for _ in signals:
                continue  # it is ending already; what is not taken here would be raised again afterwards
        warn(f"{PROGRAM}: still busy after {_LEAVE_AFTER_S:.0f} s, not waited for; what was committed is safe")
        os._exit(status.INTERRUPTED)

    with trio.open_signal_receiver(*wanted) as signals:
        try:
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()
                nursery.start_soon(watch, signals, scope)
                with scope:
                    await work()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            error = sole_error(group)
            if error is group:
                raise
            raise error from error.__cause__  # that of ``work``, for who catches it by its kind
    if interrupted:
        for number in wanted:
            signal.signal(number, signal.SIG_IGN)  # the process only ends from here on
    return interrupted
