"""One attempt at an entry, recorded from start to end, and what follows from how it ended."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
import trio
from msgspec.structs import replace

from engine.control.line_gate import LineGate
from engine.control.moves import Moves
from engine.control.queue import host_of
from engine.control.reach import Reach
from engine.errors import EngineError, Fault, InternalError, sole_error
from engine.model.line_policy import LINE_REASONS
from engine.model.records import Attempt, DownloadEntry, ErrorRecord
from engine.model.retry import Tries, decide, history
from engine.model.states import Event, Reason, State
from engine.transfer.services import Services
from engine.transfer.transfer import Transfer

log = logging.getLogger("engine")

Fields = tuple[tuple[str, str], ...]
Ending = tuple[Event, Reason]

NO_TRIES = Tries()
PREEMPTED: Ending = (Event.PREEMPT, Reason.NONE)
# It makes room for a more urgent one, and gets its turn again.
YIELDED: Ending = (Event.PREEMPT, Reason.PREEMPTED)
# The line moved: the connections that it had lead nowhere.
REROUTED: Ending = (Event.PREEMPT, Reason.NETWORK)


class RunStats(msgspec.Struct):
    """What this run of the engine did for an entry. ``bytes_fetched`` came off the wire, ``bytes_resumed`` were trusted
    from before; ``seconds`` is the time its attempts took."""

    bytes_fetched: int = 0
    bytes_resumed: int = 0
    seconds: float = 0.0
    attempts: int = 0


class Kept(msgspec.Struct):
    """What the engine knows of an entry beside its record, from one attempt to the next. ``secret``: header fields that
    are not stored. ``fresh``: its part is not to be built on. ``most_held``: bytes that an attempt ended with, at
    most."""

    secret: Fields = ()
    fresh: bool = False
    tries: Tries = NO_TRIES
    most_held: int = 0

    def __repr__(self) -> str:
        return f"Kept(fresh={self.fresh}, tries={self.tries})"


class Run(msgspec.Struct):
    """The task of one attempt. ``scope`` ends it, resumable; ``ended`` is set when it has. ``ending``: what is recorded
    of an attempt that was ended so; nothing (None) when the whole record is about to go. ``hurried``: that is recorded
    as soon as its connections are closed, before its last commit; ``recorded`` is set then, or with ``ended``.
    ``interface``: the one that its connections are bound to; empty for any. ``way_back``: the network came back since
    it began."""

    kept: Kept
    stats: RunStats
    scope: trio.CancelScope = msgspec.field(default_factory=trio.CancelScope)
    ended: trio.Event = msgspec.field(default_factory=trio.Event)
    ending: Ending | None = PREEMPTED
    hurried: bool = False
    recorded: trio.Event = msgspec.field(default_factory=trio.Event)
    interface: str = ""
    way_back: bool = False


class Attempts:
    """Makes attempts. ``closing`` tells why one was cut off: the engine closes, or somebody asked for a new start."""

    def __init__(self, services: Services, moves: Moves, gate: LineGate) -> None:
        self._services = services
        self._gate = gate
        self._moves = moves
        self._running: dict[Transfer, None] = {}
        self._begun = trio.Event()
        self._reach = Reach()
        self.closing = False

    async def make(self, entry: DownloadEntry, run: Run) -> tuple[DownloadEntry, float | None]:
        """Returns the entry as it is afterwards, and the delay before the next attempt, or None when it is settled.

        Raises StoreError and StorageError when the store cannot record what happened.
        """
        number = entry.attempt_count + 1
        entry = await self._moves.move(entry, Event.START, attempt_count=number, next_retry_at=None)
        attempt = Attempt(number=number, started_at=self._services.now())

        def ending(transfer: Transfer) -> dict[str, Any]:
            return self._record_of_end(entry, self._ended(attempt, transfer, None))

        async def cut_off() -> None:
            if run.hurried:
                with trio.CancelScope(shield=True):
                    await self._cut_off(entry, run, self._ended(attempt, transfer, None))
                run.recorded.set()

        fields = entry.headers + run.kept.secret
        transfer = Transfer(self._services, entry, fields, ending, fresh=run.kept.fresh)
        began = time.monotonic()
        error: EngineError | None = None
        self._running[transfer] = None
        self._begun.set()
        try:
            await transfer.run(cut_off)
        except EngineError as raised:
            error = raised
        except Exception as bug:  # it must end this entry, not all of them, and not again at every start
            log.exception("entry %s: an attempt ended with an error that nobody expected", entry.id)
            cause = sole_error(bug)
            error = InternalError(f"{type(cause).__name__}: {cause}")
        finally:
            del self._running[transfer]
            self._count(transfer, began, run)
            self._reach.note(host_of(entry.url), error, transfer.bytes_fetched)
            delay_s: float | None = None
            if transfer.completed is not None:
                entry = transfer.completed
                self._moves.announce(entry, State.IN_PROGRESS)
            else:
                with trio.CancelScope(shield=True):
                    ended = self._ended(attempt, transfer, error)
                    if error is not None:
                        entry, delay_s = await self._after_error(entry, run, ended, error, transfer)
                    else:
                        entry = await self._cut_off(entry, run, ended)
                    if entry.state is State.PAUSED and entry.state_reason in LINE_REASONS:
                        self._gate.paused(entry)
        return entry, delay_s

    async def report(self) -> None:
        """Emit the progress of what runs, at most every ``progress_interval_s``, until cancelled."""
        while True:
            await self._begun.wait()
            await trio.sleep(self._services.config.progress_interval_s)
            for transfer in self._running:
                if (progress := transfer.progress()) is not None:
                    self._services.emit(progress)
            if not self._running:
                self._begun = trio.Event()

    async def _cut_off(self, entry: DownloadEntry, run: Run, attempt: Attempt) -> DownloadEntry:
        """Record an attempt that somebody ended, unless that is done."""
        ending = run.ending if run.scope.cancel_called else (Event.PREEMPT, Reason.SHUTDOWN)
        if ending is None or run.recorded.is_set():
            return entry
        return await self._moves.move(entry, *ending, **self._record_of_end(entry, attempt))

    async def _after_error(
        self, entry: DownloadEntry, run: Run, attempt: Attempt, error: EngineError, transfer: Transfer
    ) -> tuple[DownloadEntry, float | None]:
        held = self._gate.held(entry)
        if not held.allowed and error.fault is Fault.NETWORK:  # what the line's end did proves nothing of the source
            changes = {**self._record_of_end(entry, attempt), "last_error": attempt.error}
            return await self._moves.move(entry, Event.PAUSE, held.reason, error=attempt.error, **changes), None
        config, all_fail = self._services.config, self._reach.all_fail
        tries = run.kept.tries.after(error, progress=_is_progress(transfer, run.kept), all_fail=all_fail)
        run.kept.tries = tries
        decision = decide(error, tries.count, config, self._services.rng, failed=tries.failed, all_fail=all_fail)
        changes = {**self._record_of_end(entry, attempt), "last_error": attempt.error}
        if decision.delay_s is not None:
            changes["next_retry_at"] = self._services.now() + decision.delay_s
        entry = await self._moves.move(
            entry,
            decision.event,
            decision.reason,
            error=attempt.error,
            tries=tries.count,
            tries_max=decision.tries_max,
            **changes,
        )
        return entry, decision.delay_s

    def _ended(self, attempt: Attempt, transfer: Transfer, error: EngineError | None) -> Attempt:
        now = self._services.now()
        record = ErrorRecord.of(error, now) if error is not None else None
        return replace(attempt, ended_at=now, bytes_fetched=transfer.bytes_fetched, error=record)

    def _record_of_end(self, entry: DownloadEntry, attempt: Attempt) -> dict[str, Any]:
        """What an attempt leaves in the record, however it ended: what is recorded was no crash."""
        return {"attempts": history(entry.attempts, attempt, self._services.config.attempts_kept), "crashes": 0}

    def _count(self, transfer: Transfer, began: float, run: Run) -> None:
        stats = run.stats
        if stats.bytes_fetched == 0:
            stats.bytes_resumed = transfer.bytes_resumed
        stats.attempts += 1
        stats.bytes_fetched += transfer.bytes_fetched
        stats.seconds += time.monotonic() - began
        run.kept.fresh = transfer.fresh


def _is_progress(transfer: Transfer, kept: Kept) -> bool:
    """Whether the attempt committed what was not held before. One that began anew first has to get beyond what others
    had: a server that cannot resume and always ends early would be asked for ever."""
    held = transfer.bytes_resumed + transfer.bytes_committed
    more = transfer.bytes_committed > 0 and (transfer.bytes_resumed > 0 or held > kept.most_held)
    kept.most_held = max(kept.most_held, held)
    return more
