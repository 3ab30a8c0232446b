"""While ``get`` runs: bars on a terminal, and a note when something is tried again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, TextIO

from engine import Engine, EventsLost, Progress, Reason, State, StateChanged, UnknownEntry
from engine.cli.console import warn
from engine.cli.retrying import Tries, retry_text
from engine.cli.text import fault_text, shown_url
from engine.model.events import EngineEvent, LineChanged

LOOKED_AT = 64  # of those that may wait for a line


class Bars(Protocol):
    """Where progress is drawn."""

    def progress(self, event: Progress) -> None:
        """Bytes moved."""

    def ended(self, entry_id: str) -> None:
        """The entry does not run any more."""


class Watcher:
    """Reads the engine's events until cancelled."""

    def __init__(self, urls: Mapping[str, str], bars: Bars | None, *, quiet: bool) -> None:
        self._urls = urls
        self._bars = bars
        self._quiet = quiet
        self._tries: dict[str, Tries] = {}
        self._waits_told: set[str] = set()

    async def run(self, engine: Engine) -> None:
        """Show what happens to the entries whose URLs are known."""
        while True:
            with engine.events() as events:
                try:
                    async for event in events:
                        await self._show(engine, event)
                except EventsLost:
                    continue  # the terminal was too slow; the newest is what counts
            return

    def progress(self, event: Progress) -> None:
        """Bytes moved."""
        if self._bars is not None:
            self._bars.progress(event)

    def ended(self, entry_id: str) -> None:
        """The entry does not run any more."""
        if self._bars is not None:
            self._bars.ended(entry_id)

    async def _show(self, engine: Engine, event: EngineEvent) -> None:
        if isinstance(event, LineChanged):
            self._waits_told.clear()
            for entry_id in list(islice(self._urls, LOOKED_AT)):
                await self._show_wait(engine, entry_id)
        if event.id not in self._urls:
            return
        if isinstance(event, Progress):
            self.progress(event)
        elif isinstance(event, StateChanged):
            await self._show_state(engine, event)

    async def _show_wait(self, engine: Engine, entry_id: str) -> None:
        """Tell what the line keeps the entry waiting for; of many that wait for the same, of the first."""
        if self._quiet or engine.line().metered is None:  # not known yet: that is told as a change
            return
        try:
            waits_for = (await engine.explain(entry_id)).waits_for
        except UnknownEntry:
            return  # not asked for yet, or removed since
        if waits_for and waits_for not in self._waits_told:
            self._waits_told.add(waits_for)
            warn(f"waiting {waits_for}: {shown_url(self._urls[entry_id])}")

    async def _show_state(self, engine: Engine, event: StateChanged) -> None:
        if event.state in {State.PENDING, State.PAUSED}:
            await self._show_wait(engine, event.id)
        if event.state is State.IN_PROGRESS and event.id not in self._tries:
            self._tries[event.id] = Tries(bytes_done=await _bytes_done(engine, event.id))
        if event.previous is not State.IN_PROGRESS:
            return
        self.ended(event.id)
        if event.reason is Reason.BACKOFF and event.error is not None:
            tries = self._tries.setdefault(event.id, Tries())
            tries.count(await _bytes_done(engine, event.id))
            if not self._quiet:
                when = retry_text(await engine.get(event.id), event.error.code, tries, time.time())
                warn(f"trying again {shown_url(self._urls[event.id])} {when}: {fault_text(event.error)}")
        elif event.state is not State.IN_PROGRESS:
            self._tries.pop(event.id, None)
        for_space = event.state is State.PAUSED and event.reason in {Reason.DISK, Reason.QUOTA}
        if for_space and event.error is not None and not self._quiet:
            warn(f"waiting for space {shown_url(self._urls[event.id])}: {fault_text(event.error)}")


async def _bytes_done(engine: Engine, entry_id: str) -> int:
    return sum(part.bytes_done for part in await engine.parts(entry_id))


def _is_terminal(stream: TextIO) -> bool:
    """Also of a stream that was closed before the program began, which Python has as None."""
    return bool(stream) and stream.isatty()


@contextmanager
def open_watcher(urls: Mapping[str, str], *, quiet: bool, plain: bool) -> Iterator[Watcher]:
    """A watcher with bars where they help: stderr is a terminal, and no JSON shares it. ``quiet``: show nothing."""
    if quiet or not _is_terminal(sys.stderr) or (plain and _is_terminal(sys.stdout)):
        yield Watcher(urls, None, quiet=quiet)
        return
    from engine.cli.bars import open_bars  # noqa: PLC0415  # rich is slow to import, and seldom needed

    with open_bars(urls) as bars:
        yield Watcher(urls, bars, quiet=quiet)
