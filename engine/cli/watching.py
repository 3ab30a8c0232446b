"""While ``get`` runs: bars on a terminal, and a note when something is tried again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from engine import DownloadRequest, Engine, EventsLost, Progress, Reason, State, StateChanged
from engine.cli.text import fault_text, shown_url, warn
from engine.model.events import EngineEvent


class Bars(Protocol):
    """Where progress is drawn."""

    def progress(self, event: Progress) -> None:
        """Bytes moved."""

    def ended(self, entry_id: str) -> None:
        """The entry does not run any more."""


class Watcher:
    """Reads the engine's events until cancelled."""

    def __init__(self, requests: Mapping[str, DownloadRequest], bars: Bars | None, *, quiet: bool) -> None:
        self._requests = requests
        self._bars = bars
        self._quiet = quiet

    async def run(self, engine: Engine) -> None:
        """Show what happens to the entries asked for."""
        while True:
            with engine.events() as events:
                try:
                    async for event in events:
                        self._show(event)
                except EventsLost:
                    continue  # the terminal was too slow; the newest is what counts
            return

    def _show(self, event: EngineEvent) -> None:
        if event.id not in self._requests:
            return
        if isinstance(event, Progress):
            if self._bars is not None:
                self._bars.progress(event)
        elif isinstance(event, StateChanged) and event.previous is State.IN_PROGRESS:
            if self._bars is not None:
                self._bars.ended(event.id)
            if event.reason is Reason.BACKOFF and event.error is not None and not self._quiet:
                warn(f"trying again {shown_url(self._requests[event.id].url)}: {fault_text(event.error)}")


@contextmanager
def open_watcher(requests: Mapping[str, DownloadRequest], *, quiet: bool, plain: bool) -> Iterator[Watcher]:
    """A watcher with bars where they help: stderr is a terminal, and no JSON shares it. ``quiet``: show nothing."""
    if quiet or not sys.stderr.isatty() or (plain and sys.stdout.isatty()):
        yield Watcher(requests, None, quiet=quiet)
        return
    from engine.cli.bars import open_bars  # noqa: PLC0415  # rich is slow to import, and seldom needed

    with open_bars(requests) as bars:
        yield Watcher(requests, bars, quiet=quiet)
