"""What may be done to an entry from outside: pause, resume, cancel, retry; one table of states decides.

Each verb has its entry alone, and ends with it in the state that it returns; the store's transition is the judge of
every race. A verb that its entry's state does not allow raises IllegalTransition, which names the state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import trio

from engine.control.attempts import Ending
from engine.control.bulk import PAGE_ENTRIES, Bulk
from engine.control.credentials import Credentials
from engine.control.each import for_each
from engine.control.moves import Moves
from engine.control.places import aimed, place_kept
from engine.control.removal import Removal
from engine.control.runs import Runs
from engine.errors import EngineError, IllegalTransition, IntegrityError, InvalidRequest, UnknownEntry
from engine.model.records import DownloadEntry
from engine.model.states import Event, Reason, State, advance
from engine.net.url import parse_url
from engine.transfer.services import Services

# Who may pause. A user's pause is only lifted by a user (or by asking again); any other by its own cause's end, too.
PAUSES = frozenset({Reason.USER, Reason.NETWORK, Reason.METERED, Reason.HOURS, Reason.DISK, Reason.QUOTA})

ON_THEIR_WAY = frozenset({State.PENDING, State.IN_PROGRESS})

# Which entries a verb for all of them is meant for, in the order in which they are taken: those that wait for a turn
# before those that run, so that few turns that become free are given away in between.
FOR_ALL: dict[Event, tuple[State, ...]] = {
    Event.PAUSE: (State.PAUSED, State.PENDING, State.IN_PROGRESS),
    Event.RESUME: (State.PAUSED,),
    Event.CANCEL: (State.PAUSED, State.FAILED, State.PENDING, State.IN_PROGRESS),
    Event.RETRY: (State.FAILED,),
}


class _Tally(msgspec.Struct):
    """What a verb for all has come to so far."""

    asked: set[str] = msgspec.field(default_factory=set)
    changed: list[DownloadEntry] = msgspec.field(default_factory=list)
    errors: list[EngineError] = msgspec.field(default_factory=list)


class Verbs:
    """The verbs for one entry, and for all."""

    def __init__(
        self, services: Services, moves: Moves, runs: Runs, removal: Removal, credentials: Credentials
    ) -> None:
        self._services = services
        self._moves = moves
        self._runs = runs
        self._removal = removal
        self._credentials = credentials
        self._bulk = Bulk(services, moves, runs, removal, credentials)

    async def pause(self, entry_id: str, reason: Reason = Reason.USER) -> DownloadEntry:
        """Stop the entry, keeping its bytes: PAUSED with the reason, durably, and its connections closed when this
        returns (what they brought last is still being committed). A user's pause outlives restarts, and takes the place
        of any other; any other leaves a paused entry as it is.

        Raises UnknownEntry, InvalidRequest for a reason that is none, and IllegalTransition when it ended meanwhile.
        """
        if reason not in PAUSES:
            raise InvalidRequest(f"an entry is not paused for the reason {reason.value!r}")
        async with self._runs.alone(entry_id):
            entry = await self._ended(self._asked_for(entry_id), Event.PAUSE, State.PAUSED, reason)
            if reason is Reason.USER and entry.state_reason is not reason:
                services = self._services
                entry = await services.write(services.store.update, entry_id, entry.epoch, state_reason=reason)
                self._moves.announce(entry, State.PAUSED)
            return entry

    async def resume(self, entry_id: str, by: Reason = Reason.USER) -> DownloadEntry:
        """Have a paused entry go on from its bytes. ``by``: whose pause is over; a user's request lifts every pause,
        another only its own. An entry that waits or runs stays as it is.

        Raises UnknownEntry, IllegalTransition, and InvalidRequest when another entry has its destination now.
        """
        async with self._runs.alone(entry_id):
            entry = self._asked_for(entry_id)
            if entry.state in ON_THEIR_WAY:
                return await self._see_that_it_runs(entry)
            advance(entry.state, Event.RESUME)
            if by not in {Reason.USER, entry.state_reason}:
                return entry
            return await self._go_on(entry, Event.RESUME)

    async def cancel(self, entry_id: str) -> DownloadEntry:
        """Give the entry up: CANCELLED, and of its unfinished files nothing is left when this returns. A finished file
        of an earlier time stays. Doing so again changes nothing.

        Raises UnknownEntry, IllegalTransition (it is complete), StorageError when it is cancelled but a file could not
        be deleted yet.
        """
        async with self._runs.alone(entry_id):
            entry = await self._ended(self._asked_for(entry_id), Event.CANCEL, State.CANCELLED, Reason.USER)
            self._credentials.forget(entry_id)
            self._removal.tell_freed(entry_id)
            await self._removal.finish(entry_id)
            return entry

    async def retry(self, entry_id: str) -> DownloadEntry:
        """Try a failed entry again, or one that waits for its next try at once, whatever its host asked for. One that
        runs stays as it is.

        Raises UnknownEntry, IllegalTransition, and InvalidRequest when another entry has its destination now.
        """
        async with self._runs.alone(entry_id):
            entry = self._asked_for(entry_id)
            if entry.state not in ON_THEIR_WAY:
                advance(entry.state, Event.RETRY)
            self._services.client.hosts.excuse(parse_url(entry.url).origin.host)
            if entry.state in ON_THEIR_WAY:
                return await self._see_that_it_runs(entry, now=True)
            # The bytes were judged by what is expected of them: the same ones cannot pass.
            fresh = entry.last_error is not None and entry.last_error.code == IntegrityError.code
            return await self._go_on(entry, Event.RETRY, fresh=fresh)

    async def for_all(self, event: Event, scope: str | None = None) -> list[DownloadEntry]:
        """Pause, resume, cancel or retry every entry (of a scope) that it is meant for; returns those that were. What
        one of them refuses does not keep the others; an error of the store or a disk is raised in the end."""
        changed, errors = await self.change_all(event, scope)
        failed = [e for e in errors if not isinstance(e, IllegalTransition | UnknownEntry | InvalidRequest)]
        if failed:
            raise failed[0]
        return changed

    async def change_all(
        self, event: Event, scope: str | None = None, newest: int | None = None
    ) -> tuple[list[DownloadEntry], list[EngineError]]:
        """:meth:`for_all` for entries up to the sequence ``newest`` (None: all that are there now). Returns those that
        were changed and what the others refused. Raises EngineClosed, StoreError, NoSpace."""
        newest = await self._services.work(self._services.store.bulk.newest) if newest is None else newest
        tally = _Tally()
        states = FOR_ALL[event]
        while states:
            known = len(tally.asked)
            for state in states:
                await self._change_state(event, state, scope, newest, tally)
            # What ran while the waiting ones were taken may wait by now: once more, until there is nothing new.
            states = tuple(state for state in states if state in ON_THEIR_WAY) if len(tally.asked) > known else ()
        return tally.changed, tally.errors

    async def _change_state(self, event: Event, state: State, scope: str | None, newest: int, tally: _Tally) -> None:
        """The entries of one state, a page at a time; none is asked twice."""
        after: int | None = 0
        while after is not None:
            self._runs.check_open()
            listed = self._services.store.bulk.listed
            page, after = await self._services.work(listed, state, scope, after, PAGE_ENTRIES)
            meant = [entry for entry in page if entry.sequence <= newest and entry.id not in tally.asked]
            tally.asked.update(entry.id for entry in meant)
            at_once = await self._bulk.change(event, meant)
            results, refusals = await for_each(at_once.left, self._verb(event))
            tally.changed += at_once.entries + results
            tally.errors += at_once.errors + refusals

    async def retry_failed(self, scope: str | None = None) -> list[DownloadEntry]:
        """:meth:`retry` for all that are FAILED; returns those that go on."""
        return await self.for_all(Event.RETRY, scope)

    def _verb(self, event: Event) -> Callable[[str], Awaitable[DownloadEntry]]:
        verbs: dict[Event, Callable[[str], Awaitable[DownloadEntry]]] = {
            Event.PAUSE: self.pause,
            Event.RESUME: self.resume,
            Event.CANCEL: self.cancel,
            Event.RETRY: self.retry,
        }
        return verbs[event]

    def _asked_for(self, entry_id: str) -> DownloadEntry:
        """The entry as it is when it is asked to change. Raises EngineClosed, UnknownEntry."""
        self._runs.check_open()
        return self._require(entry_id)

    def _require(self, entry_id: str) -> DownloadEntry:
        entry = self._services.store.get(entry_id)
        if entry is None:
            raise UnknownEntry(f"there is no entry {entry_id}")
        return entry

    async def _ended(self, entry: DownloadEntry, event: Event, target: State, reason: Reason) -> DownloadEntry:
        """The entry in ``target``, with nothing running for it. What runs is ended in that one transition, unless it
        ends by itself first; then its end counts, and the event has to be legal after it."""
        if entry.state is target:
            return entry
        advance(entry.state, event)
        ending: Ending = (event, reason)
        await trio.lowlevel.checkpoint_if_cancelled()  # not any more once its place in the queue is gone
        with (
            place_kept(self._runs, self._services.store, entry.id),
            trio.CancelScope(shield=True),  # bounded: the last commit of what is stopped, and one transaction
        ):
            await (self._runs.interrupt if event is Event.PAUSE else self._runs.stop)(entry.id, ending)
            entry = self._require(entry.id)
            if entry.state is not target:
                entry = await self._moves.move(entry, *ending)
        return entry

    async def _see_that_it_runs(self, entry: DownloadEntry, *, now: bool = False) -> DownloadEntry:
        """Of an entry that is to run: it has its place in the queue, or its turn; ``now``: it waits for no time."""
        kept = self._runs.kept(entry.id)
        if self._credentials.missing(entry):
            return entry
        if kept is not None and (not now or entry.next_retry_at is None or self._runs.running(entry.id)):
            return entry
        with aimed(self._runs, self._services.targets, [entry]):
            if entry.state is State.IN_PROGRESS:  # the store could not be told how its last attempt ended
                entry = await self._moves.move(entry, Event.RECOVER, Reason.RECOVERED)
            return await self._start(entry, fresh=kept is not None and kept.fresh)

    async def _start(self, entry: DownloadEntry, *, fresh: bool) -> DownloadEntry:
        """It waits for no time, only for its turn."""
        if entry.next_retry_at is not None:
            changes = {"next_retry_at": None, "state_reason": Reason.NONE}
            services = self._services
            entry = await services.write(services.store.update, entry.id, entry.epoch, **changes)
            self._moves.announce(entry, entry.state)
        self._runs.start(entry, self._credentials.of(entry.id), fresh=fresh)
        return entry

    async def _go_on(self, entry: DownloadEntry, event: Event, *, fresh: bool = False) -> DownloadEntry:
        """Move an entry that nothing runs for back into the queue."""
        with aimed(self._runs, self._services.targets, [entry]):
            missing = self._credentials.missing(entry)
            reason = Reason.NEEDS_CREDENTIALS if missing else Reason.NONE
            entry = await self._moves.move(entry, event, reason, next_retry_at=None)
            if not missing:
                self._runs.start(entry, self._credentials.of(entry.id), fresh=fresh)
        return entry
