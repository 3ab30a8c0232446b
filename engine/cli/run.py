"""``run``: work the queue until nothing in it can go on, or for ever."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import trio

from engine import DownloadEntry, Engine, EventsLost, Reason, State, StateChanged, StoreBusy, open_engine
from engine.cli import status
from engine.cli.console import PROGRAM, escape, print_json, print_line, warn
from engine.cli.interrupt import until_interrupted
from engine.cli.library import PAGE_ENTRIES
from engine.cli.outcome import outcome_of
from engine.cli.text import state_text
from engine.cli.trusting import trust_of
from engine.cli.watching import open_watcher
from engine.errors import UnknownEntry
from engine.model.events import EngineEvent, Removed
from engine.model.line_policy import LINE_REASONS

PASSING_S = 2.0
LOOK_INTERVAL_S = 0.05
_IN_QUEUE = (State.PENDING, State.IN_PROGRESS)


def run(arguments: argparse.Namespace) -> int:
    """Work the queue; 0 when all that was in it is complete. Raises InvalidRequest, StoreError."""
    return trio.run(_Run(arguments).run)


def _waits_in_queue(entry: DownloadEntry) -> bool:
    return _goes_on(entry.state, entry.state_reason)


def _goes_on(state: State, reason: Reason) -> bool:
    """Whether an entry that is so goes on without anybody's doing."""
    if state is State.PAUSED:
        return reason in LINE_REASONS
    return state in _IN_QUEUE and reason is not Reason.NEEDS_CREDENTIALS


class _Run:
    """One run of the verb. ``_queue``: the URLs, by id, of entries that run or will without anybody's doing;
    ``_unfinished``: those that left it without being complete, and have not come back."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._queue: dict[str, str] = {}
        self._unfinished: set[str] = set()

    async def run(self) -> int:
        interrupted = await until_interrupted(self._work)
        if interrupted and self._queue:
            warn(f"interrupted: {len(self._queue)} resumable; run the same command again")
            return status.INTERRUPTED
        if interrupted and not self._arguments.forever:  # before it was known what is in the queue
            warn(f"{PROGRAM}: interrupted")
            return status.INTERRUPTED
        return status.FAILED if self._unfinished else status.COMPLETE

    async def _work(self) -> None:
        arguments = self._arguments
        async with self._opened() as engine:
            engine.set_rate_limit(arguments.limit_rate_all)
            for recovered in () if arguments.no_progress else engine.recovered:
                warn(f"{PROGRAM}: {escape(recovered.id)}: {recovered.what}")
            with open_watcher(self._queue, quiet=arguments.no_progress, plain=arguments.json) as watcher:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watcher.run, engine)
                    await self._follow(engine)
                    nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Engine]:
        """The engine; a verb that has the store for a moment is waited for."""
        arguments, until = self._arguments, trio.current_time() + PASSING_S
        async with AsyncExitStack() as stack:
            while True:
                opening = open_engine(arguments.root, adopt=arguments.adopt, trust=trust_of(arguments))
                try:
                    engine = await stack.enter_async_context(opening)
                    break
                except StoreBusy as busy:
                    if busy.pid == os.getpid() or trio.current_time() > until:
                        raise
                await trio.sleep(LOOK_INTERVAL_S)
            yield engine

    async def _follow(self, engine: Engine) -> None:
        """Tell what leaves the queue, until it is empty; with ``--forever``, until the engine closes."""
        while True:
            with engine.events() as events:
                await self._take_stock(engine)
                try:
                    while self._queue or self._arguments.forever:
                        await self._note(engine, await anext(events))
                except EventsLost:
                    continue  # the terminal was too slow: what the records say counts
                except StopAsyncIteration:
                    return
            return

    async def _take_stock(self, engine: Engine) -> None:
        """The queue as the records have it."""
        before = set(self._queue)
        for state in (*_IN_QUEUE, State.PAUSED):
            after: str | None = None
            while page := await engine.list(state=state, after=after, limit=PAGE_ENTRIES):
                for entry in page:
                    if _waits_in_queue(entry):
                        self._queue.setdefault(entry.id, entry.url)
                        self._unfinished.discard(entry.id)
                        before.discard(entry.id)
                    elif entry.id not in before and state is not State.PAUSED:
                        self._leave(entry)
                after = page[-1].id
        for entry_id in before:
            await self._ended(engine, entry_id)

    async def _note(self, engine: Engine, event: EngineEvent) -> None:
        if isinstance(event, StateChanged):
            if _goes_on(event.state, event.reason):
                if event.id not in self._queue:
                    self._unfinished.discard(event.id)
                    with suppress(UnknownEntry):  # removed since: that is the next event
                        self._queue[event.id] = (await engine.get(event.id)).url
            elif event.id in self._queue:
                await self._ended(engine, event.id)
        elif isinstance(event, Removed):
            self._queue.pop(event.id, None)
            self._unfinished.discard(event.id)

    async def _ended(self, engine: Engine, entry_id: str) -> None:
        """Tell of an entry that has left the queue."""
        del self._queue[entry_id]
        try:
            entry = await engine.get(entry_id)
        except UnknownEntry:
            return  # removed since
        outcome = outcome_of(
            entry, await engine.parts(entry_id), await engine.offline_entry(entry_id), engine.run_stats(entry_id)
        )
        if not outcome.good and entry.state is not State.CANCELLED:
            self._unfinished.add(entry_id)
        if self._arguments.json:
            print_json(outcome.as_json())
        elif outcome.good:
            print_line(outcome.as_line())
        elif entry.state is State.PAUSED:
            warn(f"{escape(entry_id)} {state_text(entry)}")
        else:
            warn(outcome.as_line())

    def _leave(self, entry: DownloadEntry) -> None:
        self._unfinished.add(entry.id)
        if not self._arguments.no_progress:
            warn(f"{PROGRAM}: left as it is: {escape(entry.id)} {state_text(entry)}")
