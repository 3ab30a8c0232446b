"""A library, its origin, and an engine at work on it under faults, or while its process dies."""

from __future__ import annotations

import os
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from engine import DownloadFailed, Engine, EngineError, StaticMonitor, open_engine
from engine.control.hub import EventHub
from engine.files.filesystem import FileSystem
from engine.model.events import EngineEvent
from engine.model.lines import UNKNOWN_LINE
from tests.fire.bad_day_faults import NumberedFiles, Numbering, numbered_client, numbered_engine
from tests.fire.judge import Journal
from tests.support.library import CHUNK, small
from tests.support.origin import Origin

# Short spans and commits, so that a small file takes many of each; what waits for better days waits for moments.
CONFIG: Final = small(
    commit_interval_s=0.005,
    first_span_bytes=CHUNK,
    span_bytes_min=CHUNK,
    chunk_bytes=CHUNK,
    parallel_bytes_min=CHUNK,
    close_timeout_s=0.5,
    space_check_interval_s=0.05,
    space_check_interval_max_s=0.05,
    settle_interval_s=0.05,
    reconcile_interval_s=0.1,
    breaker_open_s=0.02,
    breaker_open_max_s=0.04,
    host_rest_wait_s=0.1,
    network_settle_s=0.0,
    inbox_look_interval_s=0.02,
    orphan_grace_s=0.0,
)
RUN_S: Final = 25.0


@dataclass(frozen=True)
class World:
    """A library and the origin that it fetches from. ``boot``: what the machine calls its present boot; empty for the
    true one."""

    root: Path
    origin: Origin
    boot: str = ""

    @property
    def library(self) -> Path:
        """The library's own folder."""
        return self.root / "files"

    @property
    def own(self) -> Path:
        """A folder of the caller's."""
        return self.root.parent / "own"

    def open(self, *, files: FileSystem | None = None, **seams: Any) -> AbstractAsyncContextManager[Engine]:
        """An engine on it."""
        files = files or FileSystem()
        if self.boot:
            files.boot_id = lambda: self.boot  # type: ignore[method-assign]
        return open_engine(self.root, config=CONFIG, seed=1, network=StaticMonitor(UNKNOWN_LINE), files=files, **seams)


Work = Callable[[World, Engine, Journal], Awaitable[None]]
Prepare = Callable[[World], Awaitable[None]]


async def bad_day(world: World, numbering: Numbering, journal: Journal, work: Work) -> str:
    """The work under faults; the code of what it ended with, empty when it did what it should."""
    token = trio.lowlevel.current_trio_token()
    files, client = NumberedFiles(numbering), numbered_client(CONFIG, numbering)
    try:
        with numbered_engine(numbering), _acknowledging(journal, numbering), trio.CancelScope() as process:
            numbering.on_death = lambda: token.run_sync_soon(process.cancel)
            with trio.fail_after(RUN_S):
                async with world.open(files=files, client=client) as engine:
                    await work(world, engine, journal)
    except Exception as error:
        if numbering.dead:
            return "dead"  # what its last breath was is of no interest
        if isinstance(error, DownloadFailed):
            return error.cause_code
        if isinstance(error, EngineError):
            return error.code
        return f"untyped: {_words(error)}"
    return "dead" if numbering.dead else ""


def _words(error: BaseException) -> str:
    """The error itself, and where it comes from."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    places = [f"{os.path.basename(at.filename)}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__}: {error} ({' '.join(places[-8:])})"


@contextmanager
def _acknowledging(journal: Journal, numbering: Numbering) -> Iterator[None]:
    """Events count as acknowledged from the moment on in which the engine gives them out."""
    emit = EventHub.emit

    def told(self: EventHub, event: EngineEvent) -> None:
        if not numbering.dead:
            journal.told(event)
        emit(self, event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventHub, "emit", told)
        yield


def files_of(world: World) -> dict[str, bytes]:
    """All files of the library's folder and the caller's, by paths below the root's folder."""
    found = {}
    for folder in (world.library, world.own):
        for at, _, names in os.walk(folder):
            for name in names:
                path = Path(at) / name
                found[str(path.relative_to(world.root.parent))] = path.read_bytes()
    return found
