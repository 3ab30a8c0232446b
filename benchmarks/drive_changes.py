"""Change the states of entries: ``python -m benchmarks.drive_changes ROOT TASKS`` on a store of waiting and failed.

Prints one JSON object: state changes a second through the engine's face, each durable when its call returns. Nothing
runs meanwhile; what the verbs cost is measured, and no network.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from engine import Config, Engine, State, open_engine

PAGE_ENTRIES = 1000


async def ids_of(engine: Engine, state: State) -> list[str]:
    """All entries in a state."""
    found: list[str] = []
    while page := await engine.list(state=state, after=found[-1] if found else None, limit=PAGE_ENTRIES):
        found += [entry.id for entry in page]
    return found


async def rate_of_all(verb: Callable[[], Awaitable[list[Any]]]) -> float:
    """Changes a second of a verb for all entries."""
    began = time.perf_counter()
    changed = await verb()
    return len(changed) / (time.perf_counter() - began)


async def rate_of_each(ids: list[str], tasks: int, verb: Callable[[str], Awaitable[object]]) -> float:
    """Changes a second of a verb for one entry, called by so many tasks at the same time."""
    waiting = iter(ids)

    async def work() -> None:
        for entry_id in waiting:
            await verb(entry_id)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)
    return len(ids) / (time.perf_counter() - began)


async def measure(root: str, tasks: int) -> dict[str, float]:
    """Each verb in turn, every one leaving the entries as the next one needs them."""
    async with open_engine(root, config=Config(records_only=True)) as engine:
        waiting = await ids_of(engine, State.PENDING)
        return {
            "pause_all_per_s": await rate_of_all(engine.pause_all),
            "resume_all_per_s": await rate_of_all(engine.resume_all),
            "retry_failed_per_s": await rate_of_all(engine.retry_failed),
            "pause_per_s": await rate_of_each(waiting, tasks, engine.pause),
            "resume_per_s": await rate_of_each(waiting, tasks, engine.resume),
            "cancel_all_per_s": await rate_of_all(engine.cancel_all),
        }


def main(root: str, tasks: int) -> None:
    """See the module."""
    print(json.dumps(trio.run(measure, root, tasks)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
