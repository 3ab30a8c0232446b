"""``get`` while another process runs the engine: asked for through the inbox, watched in the records."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Final

import msgspec
import trio

from engine import DownloadRequest, InvalidRequest, Progress, Reason, State, StoreBusy
from engine.cli.outcome import Outcome, bytes_total, outcome_of, removed
from engine.cli.sending import owner_runs
from engine.cli.watching import Watcher
from engine.config import DEFAULT_CONFIG
from engine.control.attempts import RunStats
from engine.control.inbox import command_of
from engine.files.filesystem import FileSystem
from engine.model.commands import Command, CommandResult
from engine.model.commands import Outcome as CommandOutcome
from engine.model.records import DownloadEntry
from engine.store.bell import ring
from engine.store.guest import GuestStore

LOOK_INTERVAL_S: Final = 0.1
HEARD_INTERVAL_S: Final = 0.5
# An engine that takes longer is an older version without an inbox, or hangs.
TAKEN_WITHIN_S: Final = 15.0

_ENDED = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


def check_can_be_handed_over(requests: Iterable[DownloadRequest], options: Iterable[str], busy: StoreBusy) -> None:
    """Raise InvalidRequest when something of what is asked for cannot reach another process: secrets never do, nor does
    whom to trust."""
    if given := ", ".join(options):
        raise InvalidRequest(f"{given} cannot be given to an engine that runs already: {busy}")
    for request in requests:
        command_of(request, "", token="", now=0.0)


class _Before(msgspec.Struct, frozen=True):
    """What an entry had when it was asked for: the rest is this request's doing."""

    attempts: int = 0
    bytes_done: int = 0


class Elsewhere:
    """What is asked for here and fetched there. ``busy`` is how that engine was met."""

    def __init__(self, root: str, guest: GuestStore, watcher: Watcher, busy: StoreBusy) -> None:
        self._root = root
        self._guest = guest
        self._watcher = watcher
        self._busy = busy
        self._files = FileSystem()
        self._sent: dict[int, Command] = {}
        self._heard_at = trio.current_time()

    async def one(self, entry_id: str, request: DownloadRequest) -> Outcome | None:
        """Have one request done there. None when that engine ended before it did. Raises StoreBusy when it does not
        answer."""
        before = self._before(entry_id)
        result = await self._ask(entry_id, request)
        if result is None:
            return None
        if result.outcome is not CommandOutcome.DONE:
            return self._refused(entry_id, request, result)
        while True:
            entry = self._guest.get(entry_id)
            if entry is None:
                return removed(entry_id, request.url, RunStats())
            if entry.state in _ENDED or entry.state_reason is Reason.NEEDS_URL:
                return self._outcome(entry, before)
            if not self._engine_runs():
                return None
            self._watcher.progress(self._progress(entry))
            await trio.sleep(LOOK_INTERVAL_S)

    def leave(self) -> None:
        """Take back what was not begun there yet."""
        if self._sent:
            self._guest.withdraw(self._sent.values())

    async def _ask(self, entry_id: str, request: DownloadRequest) -> CommandResult | None:
        asked = command_of(request, entry_id, token=secrets.token_hex(8), now=time.time())
        [command] = self._guest.append([asked], DEFAULT_CONFIG.inbox_commands_max)
        self._sent[command.number] = command
        ring(self._root, self._files)
        until = trio.current_time() + TAKEN_WITHIN_S
        while not (found := self._guest.results([command])):
            if not self._engine_runs() or trio.current_time() > until:
                self._guest.withdraw([command])  # what is begun, the next engine finishes: this process's, if need be
                del self._sent[command.number]
                if self._engine_runs():
                    raise self._busy
                return None
            await trio.sleep(LOOK_INTERVAL_S / 5)
        del self._sent[command.number]
        return found[command.number]

    def _refused(self, entry_id: str, request: DownloadRequest, result: CommandResult) -> Outcome:
        if result.error is None:  # an older version: it cannot be asked this
            raise self._busy
        state = State(result.state) if result.state else State.CANCELLED
        return Outcome(id=entry_id, url=request.url, state=state, stats=RunStats(), error=result.error)

    def _engine_runs(self) -> bool:
        now = trio.current_time()
        if now - self._heard_at < HEARD_INTERVAL_S:
            return True
        if not ring(self._root, self._files) and not owner_runs(self._guest):
            return False
        self._heard_at = now
        return True

    def _before(self, entry_id: str) -> _Before:
        entry = self._guest.get(entry_id)
        if entry is None:
            return _Before()
        return _Before(entry.attempt_count, sum(part.bytes_done for part in self._guest.parts(entry_id)))

    def _outcome(self, entry: DownloadEntry, before: _Before) -> Outcome:
        self._watcher.ended(entry.id)
        mine = [attempt for attempt in entry.attempts if attempt.number > before.attempts]
        stats = RunStats(
            bytes_fetched=sum(attempt.bytes_fetched for attempt in mine),
            bytes_resumed=before.bytes_done if mine else 0,
            seconds=sum(max(0.0, attempt.ended_at - attempt.started_at) for attempt in mine),
            attempts=entry.attempt_count - before.attempts,
        )
        return outcome_of(entry, self._guest.parts(entry.id), self._guest.offline(entry.id), stats)

    def _progress(self, entry: DownloadEntry) -> Progress:
        parts = self._guest.parts(entry.id)
        done = sum(part.bytes_done for part in parts)
        return Progress(
            id=entry.id,
            epoch=entry.epoch,
            attempt=entry.attempt_count,
            bytes_done=done,
            bytes_received=done,
            bytes_total=bytes_total(entry, parts),
        )
