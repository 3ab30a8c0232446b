"""One interface to whoever knows the line, and the monitor for hosts that know better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from engine.model.lines import Line

Tell = Callable[[Line], None]


class NetworkMonitor(Protocol):
    """Follows the line. A monitor may be followed by one engine after another."""

    async def follow(self, tell: Tell, *, task_status: trio.TaskStatus[None]) -> None:
        """Tell the line as it is, say ``task_status.started()``, and tell it again whenever it changed, until
        cancelled. Never fails for want of a source: what cannot be known is told as such."""


class StaticMonitor:
    """The line is what the host says, with :meth:`set`. For hosts that know better, and for tests."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._followers: dict[Tell, None] = {}

    @property
    def line(self) -> Line:
        """The line as it was said last."""
        return self._line

    def set(self, line: Line) -> None:
        """From now on this is the line. To be called in the trio run of whoever follows."""
        self._line = line
        for tell in tuple(self._followers):
            tell(line)

    async def follow(self, tell: Tell, *, task_status: trio.TaskStatus[None]) -> None:
        """See :class:`NetworkMonitor`."""
        self._followers[tell] = None
        try:
            tell(self._line)
            task_status.started()
            await trio.sleep_forever()
        finally:
            del self._followers[tell]
