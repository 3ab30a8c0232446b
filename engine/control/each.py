"""One call for each of many entries, some at a time: enough to share transactions, too few to crowd out others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

from engine.errors import EngineError

_Result = TypeVar("_Result")

AT_ONCE = 128  # two batches of the group commit: one gathers while the other is written


async def for_each(
    ids: Iterable[str], call: Callable[[str], Awaitable[_Result]], at_once: int = AT_ONCE
) -> tuple[list[_Result], list[EngineError]]:
    """The results of the calls that returned, and the errors of those that refused; in no order."""
    results: list[_Result] = []
    errors: list[EngineError] = []
    asked = list(ids)
    waiting = iter(asked)

    async def work() -> None:
        for entry_id in waiting:
            try:
                results.append(await call(entry_id))
            except EngineError as error:
                errors.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(min(at_once, len(asked))):
            nursery.start_soon(work)
    return results, errors
