"""What tests of the verbs share: an engine's manager, what its events told, and waiting for a state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from engine import DownloadRequest, Engine, Health, Reason, State, StateChanged
from engine.control.manager import Manager
from engine.control.moves import Moves
from engine.control.verify import Repair
from engine.model.events import EngineEvent, Removed
from tests.support.library import BIG_CHUNK, CHUNK, content
from tests.support.origin import Origin
from tests.support.upkeep import spoil


def manager_of(engine: Engine) -> Manager:
    """The manager behind an engine's face."""
    return engine._manager


def moves_of(engine: Engine) -> Moves:
    """What moves entries: as an attempt would."""
    return engine._manager._moves


async def until_taken_up(engine: Engine) -> None:
    """What an earlier engine paused for its line has been looked for."""
    while engine._lines._untaken:  # noqa: ASYNC110  # there is no event for it, and for one test there need not be
        await trio.sleep(0.001)


async def begin(engine: Engine, origin: Origin, entry_id: str = "x", **fields: Any) -> None:
    """A download that is half-way, on a slow line."""
    origin.rate = 4e6
    before = origin.sent
    await engine.offline(DownloadRequest(url=origin.url(), id=entry_id, **fields))
    await origin.until_sent(before + 8 * BIG_CHUNK)


async def repair_whole(engine: Engine, entry_id: str = "x") -> bytes:
    """Begin the repair of a finished file of which every chunk has rotted; returns what is in it meanwhile."""
    offline = await engine.offline_entry(entry_id)
    assert offline is not None
    spoil(offline.path, range(0, offline.size, CHUNK))
    found = await engine.repair(entry_id)
    assert (found.health, found.repair) == (Health.CORRUPT, Repair.WHOLE)
    return content(offline.path)


@asynccontextmanager
async def told(engine: Engine, entry_id: str | None = None) -> AsyncIterator[list[EngineEvent]]:
    """All events of the block, in order; complete when the block has ended."""
    events: list[EngineEvent] = []

    async def read() -> None:
        async for event in subscription:
            events.append(event)  # noqa: PERF401  # what came so far is looked at meanwhile

    with engine.events(entry_id) as subscription:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            yield events
            subscription.close()


def steps(events: list[EngineEvent]) -> list[str]:
    """The states that the events told, in order, and ``removed``."""
    return [
        event.state.value if isinstance(event, StateChanged) else "removed"
        for event in events
        if isinstance(event, StateChanged | Removed)
    ]


async def until_state(engine: Engine, entry_id: str, state: State, reason: Reason | None = None) -> None:
    """Until the entry is in the state, for that reason or any; bounded."""
    with trio.fail_after(10), engine.events(entry_id) as events:
        entry = await engine.get(entry_id)
        if entry.state is state and reason in {None, entry.state_reason}:
            return
        async for event in events:
            if isinstance(event, StateChanged) and event.state is state and reason in {None, event.reason}:
                return
