"""Progress bars on a terminal, by rich: one for each entry that runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from engine import Progress
from engine.cli.console import escape
from engine.cli.text import size
from engine.net.url import parse_url

NAME_CHARS_MAX = 32


class _Rate(ProgressColumn):
    """Bytes a second in the units of all other lines."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{size(int(task.speed))}/s")


class _Screen(Console):
    """Leaves the lines that are printed above the bars in one piece: the terminal may fold them, but a path that is
    copied from it has no line break inside."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As Console's, but text is not wrapped."""
        whole = {"soft_wrap": True} if objects and isinstance(objects[0], Text) else {}
        super().print(*objects, **{**whole, **options})


class TerminalBars:
    """Draws on the terminal behind stderr."""

    def __init__(self, screen: RichProgress, urls: Mapping[str, str]) -> None:
        self._screen = screen
        self._urls = urls
        self._tasks: dict[str, TaskID] = {}

    def progress(self, event: Progress) -> None:
        """Bytes moved. A bar begins at what was there before, so that its rate is that of this run."""
        task = self._tasks.get(event.id)
        if task is None:
            name = _name(self._urls[event.id])
            task = self._screen.add_task(name, total=event.bytes_total, completed=event.bytes_received)
            self._tasks[event.id] = task
        self._screen.update(task, completed=event.bytes_received, total=event.bytes_total)

    def ended(self, entry_id: str) -> None:
        """Take the entry's bar away; its result is a line of its own."""
        task = self._tasks.pop(entry_id, None)
        if task is not None:
            self._screen.remove_task(task)


def _name(url: str) -> str:
    name = escape(parse_url(url).last_segment or url.partition("?")[0])
    return name if len(name) <= NAME_CHARS_MAX else name[: NAME_CHARS_MAX - 1] + "…"


@contextmanager
def open_bars(urls: Mapping[str, str]) -> Iterator[TerminalBars]:
    """Bars for the block; lines that are printed meanwhile go above them."""
    screen = RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        _Rate(),
        TimeRemainingColumn(),
        console=_Screen(stderr=True),
        redirect_stdout=bool(sys.stdout)
        and sys.stdout.isatty(),  # otherwise it would take the results away from who reads them
        transient=True,
    )
    with screen:
        yield TerminalBars(screen, urls)
