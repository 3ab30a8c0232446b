"""The verbs for many entries at once: a page of those that wait is moved in one transaction, without a task for each.

An entry that runs, or that another verb has alone, is left for the verb of one entry; so is one that the store found
changed since it was read. Entries are taken in order of adding, so that two who take many never wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec
import trio

from engine.control.credentials import Credentials
from engine.control.each import for_each
from engine.control.moves import Moves
from engine.control.places import aimed
from engine.control.removal import Removal
from engine.control.runs import Runs
from engine.errors import EngineError, IntegrityError
from engine.model.records import DownloadEntry
from engine.model.states import Event, Reason, State
from engine.store.bulk import Move, Moved
from engine.transfer.services import Services

# Entries a transaction: some ten milliseconds of the writer, for which the commits of what runs wait.
PAGE_ENTRIES: Final = 256

# What a verb does to entries that do not run: the event for those in a state, None where only the reason changes.
EVENTS: Final[dict[tuple[Event, State], Event | None]] = {
    (Event.PAUSE, State.PENDING): Event.PAUSE,
    (Event.PAUSE, State.PAUSED): None,
    (Event.CANCEL, State.PENDING): Event.CANCEL,
    (Event.CANCEL, State.PAUSED): Event.CANCEL,
    (Event.CANCEL, State.FAILED): Event.CANCEL,
    (Event.RESUME, State.PAUSED): Event.RESUME,
    (Event.RETRY, State.FAILED): Event.RETRY,
}
GO_ON: Final = frozenset({Event.RESUME, Event.RETRY})


class Changed(msgspec.Struct):
    """What became of a page: the entries that are as they were asked to be, the ids of those that have to be asked one
    by one, and what went wrong behind a change that took place."""

    entries: list[DownloadEntry] = msgspec.field(default_factory=list)
    left: list[str] = msgspec.field(default_factory=list)
    errors: list[EngineError] = msgspec.field(default_factory=list)


class Bulk:
    """Changes entries that do not run; what runs is stopped one by one."""

    def __init__(
        self, services: Services, moves: Moves, runs: Runs, removal: Removal, credentials: Credentials
    ) -> None:
        self._services = services
        self._moves = moves
        self._runs = runs
        self._removal = removal
        self._credentials = credentials

    async def change(self, event: Event, page: Sequence[DownloadEntry]) -> Changed:
        """Pause, resume, cancel or retry what a user asked for, in one transaction. Raises StoreError, NoSpace; then no
        entry of the page was moved."""
        changed = Changed()
        async with AsyncExitStack() as alone:
            mine: list[DownloadEntry] = []
            for entry in page:
                if event is Event.PAUSE and entry.state_reason is Reason.USER and entry.state is State.PAUSED:
                    changed.entries.append(entry)
                elif await self._take(alone, event, entry):
                    mine.append(entry)
                else:
                    changed.left.append(entry.id)
            moves = list(self._moves_of(event, mine, changed))
            if moves:
                going = [move.entry for move in moves if event in GO_ON]
                with aimed(self._runs, self._services.targets, going):
                    await trio.lowlevel.checkpoint_if_cancelled()
                    with trio.CancelScope(shield=True):  # bounded: one transaction, and the files of the cancelled
                        await self._make(event, moves, changed)
        return changed

    async def _take(self, alone: AsyncExitStack, event: Event, entry: DownloadEntry) -> bool:
        """Have the entry alone until the stack ends; False for one that runs or is in other hands."""
        runs = self._runs
        if (event, entry.state) not in EVENTS or runs.running(entry.id):
            return False
        if runs.active(entry.id) and runs.kept(entry.id) is None:  # neither runs nor waits: somebody has it alone
            return False
        await alone.enter_async_context(runs.alone(entry.id))
        return not runs.running(entry.id)

    def _moves_of(self, event: Event, mine: Iterable[DownloadEntry], changed: Changed) -> Iterable[Move]:
        """The move of each entry. One whose destination another has now, that runs, is left: it is refused by name."""
        reason = Reason.USER
        aims: dict[str, str] = {}
        for entry in mine:
            changes: dict[str, object] = {}
            if event in GO_ON:
                reason = Reason.NEEDS_CREDENTIALS if self._credentials.missing(entry) else Reason.NONE
                changes = {"next_retry_at": None}
                target = None if entry.destination_is_folder else entry.destination
                if (
                    target is not None
                    and aims.setdefault(target, self._services.targets.holder(target) or entry.id) != entry.id
                ):
                    changed.left.append(entry.id)
                    continue
            yield Move(entry, EVENTS[event, entry.state], reason, changes)

    async def _make(self, event: Event, moves: Sequence[Move], changed: Changed) -> None:
        waiting = [] if event in GO_ON else [(move.entry, self._runs.kept(move.entry.id)) for move in moves]
        for entry, _ in waiting:
            await self._runs.stop(entry.id)  # it does not run: only its place goes
        try:
            done = await self._moves.move_all(moves)
        except EngineError:
            for entry, kept in waiting:
                if kept is not None:  # it waits still, as the store has it
                    self._runs.start(entry, kept.secret, fresh=kept.fresh)
            raise
        leftover: list[str] = []
        for move, moved in zip(moves, done, strict=True):
            if moved is None:
                changed.left.append(move.entry.id)
                continue
            changed.entries.append(moved.entry)
            if event in GO_ON:
                self._start(move, moved)
            elif event is Event.CANCEL:
                self._credentials.forget(moved.entry.id)
                self._removal.tell_freed(moved.entry.id)
                if moved.leftover:
                    leftover.append(moved.entry.id)
        changed.errors += (await for_each(leftover, self._removal.finish))[1]

    def _start(self, move: Move, moved: Moved) -> None:
        if move.reason is Reason.NEEDS_CREDENTIALS:
            return
        error = moved.entry.last_error
        # The bytes were judged by what is expected of them: the same ones cannot pass.
        fresh = move.event is Event.RETRY and error is not None and error.code == IntegrityError.code
        self._runs.start(moved.entry, self._credentials.of(moved.entry.id), fresh=fresh)
