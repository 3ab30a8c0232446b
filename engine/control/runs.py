"""What runs and what waits to run: the first in the queue, as many as may at once, one attempt each, then the next.

A task of its own has an entry only while an attempt is made; waiting costs a place in the queue.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from engine.control.attempts import PREEMPTED, REROUTED, YIELDED, Attempts, Ending, Fields, Kept, Run, RunStats
from engine.control.coming import Coming
from engine.control.credentials import Credentials
from engine.control.line_gate import LineGate
from engine.control.moves import Moves
from engine.control.queue import WaitingQueue, host_of
from engine.errors import (
    BadRecord,
    EngineClosed,
    EngineError,
    IllegalTransition,
    InvalidRequest,
    StaleEpoch,
    StorageError,
    StoreError,
    UnknownEntry,
)
from engine.model.events import Recovered
from engine.model.line_policy import ANY_LINE
from engine.model.records import DownloadEntry
from engine.model.retry import not_before
from engine.model.states import Event, Reason, State
from engine.net.binding import bound_to
from engine.store.state_store import PendingLine
from engine.transfer.services import Services

log = logging.getLogger("engine")

LINES_PER_LOOK = 512  # of the records, while others may work


class Runs:
    """Owns the queue and the running attempts. Cancelling the engine's ``nursery`` parks what runs, resumable."""

    def __init__(self, services: Services, moves: Moves, nursery: trio.Nursery, gate: LineGate | None = None) -> None:
        self._services = services
        self._nursery = nursery
        self._moves = moves
        self.gate = gate or LineGate(ANY_LINE, ANY_LINE, services.now, trio.current_time)
        self._attempts = Attempts(services, moves, self.gate)
        self.takes_all = False  # whether every PENDING entry on record is to run, not only those that were asked for
        self._queue = WaitingQueue(services.config.entries_per_host)
        self._delays = trio.Event()
        self._kept: dict[str, Kept] = {}
        self._running: dict[str, Run] = {}
        self._targets = services.targets
        self.credentials = Credentials(host_gives=services.resolver is not None)
        self._stats: dict[str, RunStats] = {}
        self._settled: dict[str, trio.Event] = {}
        self._unrecorded: dict[str, EngineError] = {}
        self._locks: dict[str, trio.Lock] = {}
        self.coming = Coming()
        self._lost: set[str] = set()  # what waits to be tried again because the network was gone
        self._kinds = 0
        services.client.hosts.changed = self._host_changed

    def close(self) -> None:
        """Begin nothing more; who waits for an entry looks again."""
        self._attempts.closing = True
        for event in self._settled.values():
            event.set()
        self._settled.clear()

    def check_open(self) -> None:
        """Raise EngineClosed when the engine is being closed."""
        if self._attempts.closing:
            raise EngineClosed("the engine is closed")

    async def run(self) -> None:
        """Give entries that wait for a time their turn when it comes; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._attempts.report)
            nursery.start_soon(self._reconcile_regularly)
            looked_at, hosts = -math.inf, self._services.client.hosts
            while True:
                at = self._queue.next_at(looked_at)  # not now: what became due since was not given its turn
                with trio.move_on_at(min(math.inf if at is None else at, hosts.eases_at())):
                    await self._delays.wait()
                    self._delays = trio.Event()
                looked_at = trio.current_time()
                hosts.ease()
                self._fill()

    def _host_changed(self, name: str) -> None:
        """A host wants to be left alone, or takes fewer entries at once, or has recovered: others go on meanwhile."""
        hosts = self._services.client.hosts
        place = f"[{name}]" if ":" in name else name  # as URLs have it
        self._queue.restrict(place, *hosts.limit(name))
        self._delays.set()

    def stats(self, entry_id: str) -> RunStats:
        """What this run of the engine did for the entry so far."""
        return self._stats.get(entry_id, RunStats())

    def forget(self, entry_id: str) -> None:
        """The entry is gone: what was counted for it would only pile up."""
        self._stats.pop(entry_id, None)

    def active(self, entry_id: str) -> bool:
        """Whether the entry runs, waits for its turn, or is being changed."""
        return entry_id in self._running or entry_id in self._queue or entry_id in self._locks

    def running(self, entry_id: str) -> bool:
        """Whether an attempt at the entry is made right now."""
        return entry_id in self._running

    def kept(self, entry_id: str) -> Kept | None:
        """What is known of an entry that runs or waits for its turn, beside its record; None for another."""
        if (run := self._running.get(entry_id)) is not None:
            return run.kept
        return self._kept.get(entry_id, Kept()) if entry_id in self._queue else None

    def unrecorded(self, entry_id: str) -> EngineError | None:
        """Why the store could not be told how the entry's last attempt ended, if so."""
        return self._unrecorded.get(entry_id)

    async def changed(self, entry_id: str) -> None:
        """Wait until the entry is settled, or the engine closes."""
        await self._settled.setdefault(entry_id, trio.Event()).wait()

    @asynccontextmanager
    async def alone(self, entry_id: str) -> AsyncIterator[None]:
        """The block is the only one that changes the entry from outside: requests for one id come one by one. What was
        interrupted has ended by then."""
        lock = self._locks.setdefault(entry_id, trio.Lock())
        try:
            async with lock:
                await self.coming.placed(entry_id)
                run = self._running.get(entry_id)
                if run is not None and run.recorded.is_set():
                    await run.ended.wait()
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(entry_id, None)
                self._wake(entry_id)

    def start(self, entry: DownloadEntry, secret: Fields = (), *, fresh: bool = False) -> None:
        """Let the entry run when its turn comes."""
        if secret or fresh:
            self._kept[entry.id] = Kept(secret, fresh)
        else:
            self._kept.pop(entry.id, None)
        self._unrecorded.pop(entry.id, None)
        self._enqueue(entry)
        self._fill()

    def take_up(self, line: DownloadEntry | PendingLine, kept: Kept | None = None) -> None:
        """Let an entry run, that is PENDING on record, when its time and its turn come; :meth:`run` sees to that."""
        if kept is not None:
            self._kept[line.id] = kept
        at = not_before(line.next_retry_at, self._services.now(), trio.current_time(), self._services.config)
        self._enqueue(line, at)
        self._delays.set()

    def _enqueue(self, entry: DownloadEntry | PendingLine, at: float | None = None) -> None:
        if not entry.destination_is_folder:
            self._targets.claim(entry.destination, entry.id)
        if entry.id not in self._running:
            host, group = host_of(entry.sources[0]), entry.group_id
            kind = self._kind(entry)
            self._queue.add(entry.id, entry.priority, entry.sequence, at, host=host, group=group, kind=kind)

    def _kind(self, entry: DownloadEntry | PendingLine) -> int:
        """Its kind for the gate; of one that is new, the queue learns whether it is held back."""
        kind = self.gate.kind_of(entry)
        if self.gate.kinds > self._kinds:
            self._kinds = self.gate.kinds
            self._queue.hold_back(self.gate.closed())
        return kind

    def hold_back(self) -> None:
        """Entries of kinds that the gate has closed get no turns, all others get theirs again."""
        self._queue.hold_back(self.gate.closed())
        self._fill()

    def hurry_lost(self) -> None:
        """There is a way again: what waits only because there was none is tried at once, or fails so after all."""
        for run in self._running.values():
            run.way_back = True
        for entry_id in self._lost:
            self._queue.hurry(entry_id)
        self._lost.clear()
        self._fill()

    async def sort_anew(self) -> None:
        """The gate's policy is another one: give everything that waits its kind by it."""
        first = 0
        while page := await self._services.work(self._services.store.pending, first, LINES_PER_LOOK):
            for line in page:
                self._queue.sort(line.id, self._kind(line))
            first = page[-1].sequence + 1
        self.hold_back()

    def all_running(self) -> list[DownloadEntry]:
        """The records of what runs and is not being ended. Raises StoreError, StorageError when none can be read."""
        found = []
        for entry_id in [other for other, run in self._running.items() if not run.scope.cancel_called]:
            with suppress(BadRecord):  # the attempt itself deals with that
                if (entry := self._services.store.get(entry_id)) is not None:
                    self._learn_size(entry)
                    found.append(entry)
        return found

    def _learn_size(self, entry: DownloadEntry) -> None:
        """Where the gate goes by it: from what is there of its file, until its record says so."""
        if self.gate.wants_size(entry):
            with suppress(StoreError, StorageError):  # the attempt itself deals with that
                if lengths := [part.length for part in self._services.store.parts(entry.id)]:
                    self.gate.learn(entry, sum(math.inf if length is None else length for length in lengths))

    def interface(self, entry_id: str) -> str:
        """The interface that the running entry is bound to; empty for any."""
        return self._running[entry_id].interface

    def reroute(self, entry_id: str) -> None:
        """The connections of a running entry are of no use any more: it gets its turn again, with others."""
        run = self._running[entry_id]
        run.ending = REROUTED
        run.scope.cancel()

    async def prioritise(self, entry_id: str, priority: int, *, preempt: bool = False) -> DownloadEntry:
        """Give the entry another priority, on record and in the queue. ``preempt``: when it has to wait only because
        all turns are taken, a running one of lower priority gives its own up, and gets it again later.

        Raises InvalidRequest, UnknownEntry, EngineClosed.
        """
        self.check_open()
        if isinstance(priority, bool) or not isinstance(priority, int) or not -(2**31) <= priority < 2**31:
            raise InvalidRequest(f"priority must be a number that fits 32 bits, not {priority!r}")
        async with self.alone(entry_id):
            if (entry := self._services.store.get(entry_id)) is None:
                raise UnknownEntry(f"there is no entry {entry_id}")
            entry = await self._services.write(self._services.store.update, entry_id, entry.epoch, priority=priority)
            self._queue.prioritise(entry_id, priority)
        self._fill()
        if preempt:
            self._make_room(entry_id)
        return entry

    def _make_room(self, entry_id: str) -> None:
        among = [other for other, run in self._running.items() if not run.scope.cancel_called]
        victim = self._queue.victim(entry_id, trio.current_time(), among)
        if victim is not None:
            run = self._running[victim]
            run.ending = YIELDED
            run.scope.cancel()

    async def stop(self, entry_id: str, ending: Ending | None = PREEMPTED) -> None:
        """Nothing runs and nothing waits for the entry when this returns; its bytes are kept. ``ending``: what is
        recorded of the attempt that this cuts off, in the transition that ends it; None: nothing."""
        self._queue.discard(entry_id)
        run = self._running.get(entry_id)
        if run is not None:
            run.ending = ending
            run.scope.cancel()
            await run.ended.wait()
            self._queue.discard(entry_id)
        self._kept.pop(entry_id, None)
        self._targets.release(entry_id)

    async def interrupt(self, entry_id: str, ending: Ending) -> None:
        """:meth:`stop`, but back as soon as the ending is on record: the last commit of its bytes may still be under
        way. The next who has the entry alone waits for that."""
        run = self._running.get(entry_id)
        if run is None:
            await self.stop(entry_id, ending)
            return
        run.ending, run.hurried = ending, True
        run.scope.cancel()
        await run.recorded.wait()

    def _fill(self) -> None:
        """Give turns while there is room."""
        while len(self._running) < self._services.config.running_max and not self._attempts.closing:
            if (entry_id := self._queue.take(trio.current_time())) is None:
                return
            try:
                entry = self._services.store.get(entry_id)
            except (StoreError, StorageError) as error:
                entry, self._unrecorded[entry_id] = None, error
            if entry is None or entry.state is not State.PENDING:
                self._queue.done(entry_id)
                self._settle(entry_id)
                continue
            self._learn_size(entry)
            held = self.gate.held(entry)
            self._queue.sort(entry_id, self._kind(entry))
            if not held.allowed:  # its size is known by now, or the gate has just closed
                self._queue.hold_back(self.gate.closed())
                self._queue.put_back(entry_id)
                continue
            self._unrecorded.pop(entry_id, None)
            self._lost.discard(entry_id)
            stats = self._stats.setdefault(entry_id, RunStats())
            run = self._running[entry_id] = Run(self._kept.pop(entry_id, Kept()), stats, interface=held.interface)
            self._nursery.start_soon(self._drive, entry, run, name=f"entry {entry_id}")

    async def _drive(self, entry: DownloadEntry, run: Run) -> None:
        delay_s: float | None = None
        try:
            with run.scope, bound_to(run.interface, self.gate.leave_of(entry)):
                entry, delay_s = await self._attempts.make(entry, run)
        except (StoreError, StorageError) as error:
            # Its last record of the entry stands: asking again, or the next start, takes the entry up from there.
            self._unrecorded[entry.id] = error
        except (IllegalTransition, StaleEpoch, UnknownEntry) as late:
            log.warning("entry %s: the result of an attempt came too late and was dropped: %s", entry.id, late)
        finally:
            del self._running[entry.id]
            if self._goes_on(entry, run, delay_s):
                self._kept[entry.id] = run.kept
                if delay_s is not None and entry.state_reason is Reason.NETWORK:
                    self._lost.add(entry.id)
                    delay_s = 0.0 if run.way_back else delay_s  # it looked for a way before there was one
                self._queue.put_back(entry.id, None if delay_s is None else trio.current_time() + delay_s)
                self._delays.set()
            else:
                self._queue.done(entry.id)
                self._settle(entry.id)
            run.recorded.set()
            run.ended.set()
            self._fill()

    def _goes_on(self, entry: DownloadEntry, run: Run, delay_s: float | None) -> bool:
        """Whether the entry waits again after its attempt: it is to be tried again, or gave its turn up for another."""
        if entry.id in self._unrecorded:
            return False
        if run.scope.cancel_called:
            return run.ending in {YIELDED, REROUTED} and entry.state is State.PENDING
        return delay_s is not None

    async def reconcile(self) -> list[Recovered]:
        """Compare what is on record with what runs and waits, and mend the difference: an entry that is IN_PROGRESS and
        has no task, or PENDING and no place in the queue, gets one. Returns what was mended; it is told as events too.

        Raises StoreError when the records cannot be read or written.
        """
        services = self._services
        running = await services.work(services.store.list, State.IN_PROGRESS, None, LINES_PER_LOOK)
        strays = [entry.id for entry in running if not self.active(entry.id)]
        first = 0
        while page := await services.work(services.store.pending, first, LINES_PER_LOOK):
            lost = [line.id for line in page if not (self.active(line.id) or line.id in self.coming)]
            strays += [entry_id for entry_id in lost if self.takes_all or entry_id in self._unrecorded]
            first = page[-1].sequence + 1
        return [told for entry_id in strays if (told := await self._mend(entry_id)) is not None]

    async def _mend(self, entry_id: str) -> Recovered | None:
        async with self.alone(entry_id):
            entry = self._services.store.get(entry_id)
            if entry is None or entry_id in self._running or entry_id in self._queue:
                return None
            waits = self.credentials.missing(entry)
            if entry.state is State.IN_PROGRESS:
                reason = Reason.NEEDS_CREDENTIALS if waits else Reason.RECOVERED
                entry = await self._moves.move(entry, Event.RECOVER, reason)
                what = "was on record as running, and no task had it; it waits for its turn again"
            elif entry.state is State.PENDING and not waits:
                what = "was on record as waiting, and had no place in the queue; it has one again"
            else:
                return None
            self._unrecorded.pop(entry_id, None)
            if not waits:
                self.take_up(entry, Kept(self.credentials.of(entry_id)))
        log.warning("entry %s %s", entry_id, what)
        self._services.emit(told := Recovered(id=entry.id, epoch=entry.epoch, attempt=entry.attempt_count, what=what))
        return told

    async def _reconcile_regularly(self) -> None:
        while True:
            await trio.sleep(self._services.config.reconcile_interval_s)
            try:
                await self.reconcile()
            except EngineError as error:
                log.warning("what runs could not be compared with the records, and will be later: %s", error)

    def _settle(self, entry_id: str) -> None:
        """Nothing runs for the entry any more, and nothing will unless it is asked for."""
        self._kept.pop(entry_id, None)
        self._targets.release(entry_id)
        self._wake(entry_id)

    def _wake(self, entry_id: str) -> None:
        if (event := self._settled.pop(entry_id, None)) is not None:
            event.set()
