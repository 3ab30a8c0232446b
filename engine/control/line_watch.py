"""What a change of the line does: what may not go on is paused at once, and goes on by itself once it may again.

An entry that waits for its turn costs nothing: the queue holds its kind back. One that ran is PAUSED with the reason,
so that its record says why; a user's pause in between is the user's from then on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import trio

from engine.control.line_gate import LineGate
from engine.control.runs import Runs
from engine.errors import (
    BadRecord,
    EngineClosed,
    EngineError,
    IllegalTransition,
    InvalidRequest,
    MeteredLine,
    StorageError,
    StoreError,
    UnknownEntry,
)
from engine.model.events import LineChanged
from engine.model.line_policy import LINE_REASONS, LinePolicy
from engine.model.lines import Line, moved
from engine.model.records import DownloadEntry
from engine.model.states import Reason, State
from engine.network.monitor import NetworkMonitor
from engine.transfer.services import Services

log = logging.getLogger("engine")

Verb = Callable[[str, Reason], Awaitable[DownloadEntry]]
AGAIN_AFTER_S = 5.0  # a pause, or its end, that could not be recorded


class LineWatch:
    """``pause`` and ``resume`` are the verbs for one entry. :meth:`run` is its task."""

    def __init__(self, services: Services, gate: LineGate, runs: Runs, pause: Verb, resume: Verb) -> None:
        self._services = services
        self._gate = gate
        self._runs = runs
        self._pause = pause
        self._resume = resume
        self._moved = False
        self._untaken = False
        self._changed = trio.Event()
        gate.freed = self._look_again
        self._space = services.reservations.admission
        services.reservations.admission = self.admit

    @property
    def line(self) -> Line:
        """The line as it is."""
        return self._gate.line

    async def run(
        self, monitor: NetworkMonitor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow the monitor until cancelled; started once the line is known."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._follow, monitor)
            task_status.started()
            while True:
                failed = not await self._take_up() or not await self._apply()
                with trio.move_on_after(min(self._gate.next_look_s(), AGAIN_AFTER_S if failed else math.inf)):
                    await self._changed.wait()
                self._changed = trio.Event()
                self._gate.look()

    def _look_again(self) -> None:
        self._changed.set()

    def take_up_parked(self) -> None:
        """An earlier engine paused entries for its line: they go on when this one's allows it."""
        self._untaken = True
        self._changed.set()

    async def set_policy(self, policy: LinePolicy) -> None:
        """The engine's policy from now on; what it leaves open is as configured. Raises InvalidRequest."""
        policy.check()
        self._gate.set_policy(policy)
        await self._runs.sort_anew()
        self._gate.look(at_once=True)
        self._changed.set()

    async def admit(self, entry: DownloadEntry, length: int | None) -> None:
        """The source said how long the entry is. Raises MeteredLine when that is too much for the line as it is,
        NoSpace."""
        self._gate.learn(entry, math.inf if length is None else length)
        verdict = self._gate.held(entry)
        if not verdict.allowed:
            self._gate.parked[entry.id] = None
            size = "a length that nobody tells" if length is None else f"{length} bytes"
            raise MeteredLine(f"it has {size}, and waits {verdict.why}")
        if self._space is not None:
            await self._space(entry, length)

    async def _follow(self, monitor: NetworkMonitor, *, task_status: trio.TaskStatus[None]) -> None:
        await monitor.follow(self._tell, task_status=task_status)

    def _tell(self, line: Line) -> None:
        """The line changed: from this moment on nothing begins that may not."""
        before = self._gate.line
        if line == before:
            return
        if moved(before, line):
            self._moved = True
        if self._moved or not line.connected:
            self._services.client.pool.drop_idle()
        self._gate.update(line)
        self._changed.set()
        self._services.emit(LineChanged(line=line))
        if line.default_interfaces - before.default_interfaces:
            self._services.client.hosts.forgive()
            self._runs.hurry_lost()

    async def _apply(self) -> bool:
        """Make what runs and waits be as the verdicts are; False when something could not be recorded."""
        try:
            parked, running = self._parked_entries(), self._runs.all_running()
        except (StoreError, StorageError) as error:
            log.warning("a change of the line could not be compared with the records, and will be: %s", error)
            return False
        rerouted, self._moved = self._moved, False
        results: list[bool] = []

        async def do(verb: Verb, entry_id: str, reason: Reason) -> None:
            results.append(await self._do(verb, entry_id, reason))

        async with trio.open_nursery() as nursery:
            for entry, reason in parked:
                if self._gate.held(entry).allowed:
                    nursery.start_soon(do, self._resume, entry.id, reason)
            for entry in running:
                verdict = self._gate.held(entry)
                if not verdict.allowed:
                    self._gate.parked[entry.id] = None
                    nursery.start_soon(do, self._pause, entry.id, verdict.reason)
                elif self._runs.interface(entry.id) != verdict.interface or (rerouted and self._gate.needs_line(entry)):
                    self._runs.reroute(entry.id)
        self._runs.hold_back()
        return all(results)

    async def _take_up(self) -> bool:
        """Learn which entries an earlier engine paused; False when their records could not be read."""
        if not self._untaken:
            return True
        services = self._services
        try:
            for reason in sorted(LINE_REASONS):
                for held in await services.work(services.store.usage.parked, reason):
                    self._gate.parked[held.entry.id] = None
        except EngineError as error:
            log.warning("what the line paused earlier could not be read, and will be: %s", error)
            return False
        self._untaken = False
        return True

    def _parked_entries(self) -> list[tuple[DownloadEntry, Reason]]:
        """Those that the line paused and that still are, by the reason on record: the line may have changed while it
        was written. The others are nobody's business here any more. Raises StoreError, StorageError."""
        found = []
        for entry_id in list(self._gate.parked):
            entry = self._record(entry_id)
            if entry is not None and entry.state is State.PAUSED and entry.state_reason in LINE_REASONS:
                found.append((entry, entry.state_reason))
            elif not self._runs.active(entry_id):
                del self._gate.parked[entry_id]
        return found

    def _record(self, entry_id: str) -> DownloadEntry | None:
        """None also for one whose record is damaged: nothing can lift its pause, and the others go on."""
        try:
            return self._services.store.get(entry_id)
        except BadRecord:
            return None

    async def _do(self, verb: Verb, entry_id: str, reason: Reason) -> bool:
        """False when it could not be recorded, and is to be done again."""
        try:
            await verb(entry_id, reason)
        except (IllegalTransition, UnknownEntry, InvalidRequest, EngineClosed):
            return True  # it ended meanwhile, or its destination is another's: whoever asks for it is told
        except EngineError as error:
            log.warning("entry %s could not be told of a change of the line, and will be: %s", entry_id, error)
            return False
        return True
