"""What may be asked of the engine's entries.

Asking is serialised for each id. The newest request counts: when it asks for something else than what runs, what runs
is stopped (its bytes are kept), and started again as it was asked for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence

import trio
from msgspec.structs import replace

from engine.control.attempts import Fields
from engine.control.hub import EventHub
from engine.control.line_gate import LineGate
from engine.control.moves import Moves
from engine.control.places import aimed, place_kept
from engine.control.removal import Removal
from engine.control.requests import asked_of, changes_of, merge
from engine.control.runs import Runs
from engine.control.verbs import Verbs
from engine.control.verify import Health, validate
from engine.errors import (
    BadRecord,
    EngineError,
    IntegrityError,
    InvalidRequest,
    Superseded,
    TargetExists,
    UnknownEntry,
)
from engine.files.reading import digest_of_path
from engine.model.events import Recovered
from engine.model.records import DownloadEntry, DownloadRequest, ErrorRecord, OfflineEntry
from engine.model.states import Event, Reason, State
from engine.store.bell import BELL_NAME
from engine.store.creation import STORE_NAME
from engine.store.lease import LOCK_NAME
from engine.transfer.services import Services

log = logging.getLogger("engine")

# Checking a request takes a tenth of a millisecond, adding it about as much: others get their turn between batches.
REQUESTS_PER_TURN = 64

# A hundred thousand may wait: they are read a page at a time, so that they are never all in memory twice.
LINES_PER_PAGE = 1000

# What asking again does to an entry that does not run, by its state; an absent state stays as it is.
ASK_AGAIN: dict[State, Event] = {
    State.IN_PROGRESS: Event.RECOVER,  # the store could not be told how its last attempt ended
    State.PAUSED: Event.RESUME,
    State.FAILED: Event.RETRY,
    State.CANCELLED: Event.REQUEST,
}

TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
# Nothing but asking for the entry again moves it on.
WAITS_TO_BE_ASKED_FOR = frozenset({Reason.NEEDS_CREDENTIALS, Reason.NEEDS_URL})
OWN_NAMES = (STORE_NAME, LOCK_NAME, BELL_NAME)  # in the root: no destination lies there


class Manager:
    """Turns requests into changes of entries and of what runs."""

    def __init__(self, services: Services, hub: EventHub, nursery: trio.Nursery, gate: LineGate | None = None) -> None:
        self._services = services
        self._moves = Moves(services, hub)
        self._targets = services.targets
        hub.attach(services.store)
        self.runs = Runs(services, self._moves, nursery, gate)
        self._credentials = self.runs.credentials
        self.removal = Removal(services, self.runs, self._credentials)
        self.remove, self.remove_all = self.removal.remove, self.removal.remove_all
        verbs = Verbs(services, self._moves, self.runs, self.removal, self._credentials)
        self.pause, self.resume, self.cancel = verbs.pause, verbs.resume, verbs.cancel
        self.retry, self.retry_failed = verbs.retry, verbs.retry_failed
        self.for_all, self.change_all = verbs.for_all, verbs.change_all
        self.prioritise = self.runs.prioritise

    async def ask(self, request: DownloadRequest) -> DownloadEntry:
        """Add the entry, or take up the one with the same id; it runs from here on. Raises InvalidRequest,
        IntegrityError."""
        self.runs.check_open()
        asked, secret = self._asked_of(request)
        return await self._ask(asked, secret)

    async def ask_many(self, requests: Iterable[DownloadRequest]) -> list[DownloadEntry]:
        """:meth:`ask` for all of them, the new ones in few transactions. Nothing is done when one is not valid, or two
        aim at one path. Raises what ``ask`` raises."""
        self.runs.check_open()
        asked: list[tuple[DownloadEntry, Fields]] = []
        for request in requests:
            asked.append(self._asked_of(request))
            if len(asked) % REQUESTS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
        _check_apart(entry for entry, _ in asked)
        with aimed(self.runs, self._targets, [entry for entry, _ in asked]):
            return await self._ask_in_batches(asked)

    async def _ask_in_batches(self, asked: Sequence[tuple[DownloadEntry, Fields]]) -> list[DownloadEntry]:
        entries: list[DownloadEntry] = []
        for at in range(0, len(asked), REQUESTS_PER_TURN):
            batch = asked[at : at + REQUESTS_PER_TURN]
            with self.runs.coming.adding({entry.id for entry, _ in batch}):
                added = await self._services.write(self._services.store.add_missing, [entry for entry, _ in batch])
                for (_, secret), new in zip(batch, added, strict=True):
                    if new is not None:  # before anything that waits: a cancellation leaves none without its place
                        self._moves.announce(new, None)
                        self._start(new, secret)
            for (wanted, secret), new in zip(batch, added, strict=True):
                entries.append(new if new is not None else await self._ask(wanted, secret))
        return entries

    def _asked_of(self, request: DownloadRequest) -> tuple[DownloadEntry, Fields]:
        asked, secret = asked_of(request, self._services.config, self._services.now())
        for name in OWN_NAMES:
            own = os.path.join(self._services.root, name)
            if asked.destination == own or asked.destination.startswith(own + os.sep):
                raise InvalidRequest(f"{asked.destination} is a place of the library's own store: choose another")
        return asked, secret

    async def _ask(self, asked: DownloadEntry, secret: Fields) -> DownloadEntry:
        async with self.runs.alone(asked.id):
            await self.removal.finish(asked.id)
            entry = await self._known(asked.id)
            if entry is None:
                with aimed(self.runs, self._targets, [asked]):
                    if (added := await self._add(asked, secret)) is not None:
                        return added
                await self.runs.coming.placed(asked.id)  # another task added it with many others
                entry = await self._known(asked.id)
            with place_kept(self.runs, self._services.store, asked.id):
                if entry is not None and not await self._stop_to_change(entry, asked, secret):
                    return entry
                with aimed(self.runs, self._targets, [asked]):
                    return await self._ask_again(asked, secret)

    async def _add(self, asked: DownloadEntry, secret: Fields) -> DownloadEntry | None:
        [added] = await self._services.write(self._services.store.add_missing, [asked])
        if added is not None:
            self._moves.announce(added, None)
            self._start(added, secret)
        return added

    async def _ask_again(self, asked: DownloadEntry, secret: Fields) -> DownloadEntry:
        """Nothing runs for it."""
        present = self._services.store.get(asked.id)  # what ran may have changed it
        if present is None:
            raise Superseded(f"{asked.id} was removed while it was asked for")
        if present.state is State.COMPLETED:
            return await self._ask_completed(present, asked, secret)
        with trio.CancelScope(shield=True):  # its place in the queue is gone, and it gets it back
            taken_up = await self._take_up(present, asked, secret)
        return taken_up  # noqa: RET504  # to mypy a scope may swallow what is inside it

    async def _known(self, entry_id: str) -> DownloadEntry | None:
        """The entry; None also for one whose record is damaged: nothing runs for it any more, and a new one takes its
        place in the store."""
        try:
            return self._services.store.get(entry_id)
        except BadRecord:
            await self.runs.stop(entry_id)
            return None

    async def _stop_to_change(self, entry: DownloadEntry, asked: DownloadEntry, secret: Fields) -> bool:
        """False when what is asked for runs or waits for its turn already; otherwise nothing runs for the entry when
        this returns."""
        kept = self.runs.kept(entry.id)
        if kept is None:
            return True
        if entry.state not in TERMINAL and not changes_of(entry, merge(entry, asked)) and secret in {(), kept.secret}:
            return False
        with trio.CancelScope(shield=True):  # bounded: the last commit of what is stopped
            await self.runs.stop(entry.id)
        return True

    async def _take_up(self, entry: DownloadEntry, asked: DownloadEntry, secret: Fields) -> DownloadEntry:
        """Merge what is asked into an entry that does not run, and start it."""
        changes = changes_of(entry, merge(entry, asked))
        same_check = not {"expect", "expected_length"} & changes.keys()
        # The bytes were judged by these expectations already: only others can pass.
        fresh = entry.last_error is not None and entry.last_error.code == IntegrityError.code and same_check
        if changes:
            entry = await self._services.write(self._services.store.update, entry.id, entry.epoch, **changes)
        event = ASK_AGAIN.get(entry.state)
        if event is not None:
            entry = await self._moves.move(entry, event, next_retry_at=None)
        self._start(entry, secret, fresh=fresh)
        return entry

    def _start(self, entry: DownloadEntry, secret: Fields, *, fresh: bool = False) -> None:
        self._credentials.keep(entry.id, secret)
        self.runs.start(entry, secret, fresh=fresh)

    async def _ask_completed(self, entry: DownloadEntry, asked: DownloadEntry, secret: Fields) -> DownloadEntry:
        """A completed entry whose file is as it was stays; what is newly expected of it is checked against the file.

        A file that is gone is fetched again. One that is not what was downloaded any more (somebody's edit, or rot) is
        only replaced when the caller asks to overwrite: then it is also looked at when nothing shows from outside.
        """
        merge(entry, asked)
        services = self._services
        offline = await self._offline(entry, asked)
        info = await services.work(services.files.stat_path, offline.path) if offline is not None else None
        if offline is None or info is None:
            return await self._fetch_anew(entry, asked, secret)
        if asked.overwrite or (info.st_size, info.st_mtime_ns) != (offline.size, offline.mtime_ns):
            found_bad = await services.work(validate, services.store, services.files, entry)
            if found_bad.health is not Health.VALID:
                if asked.overwrite:
                    return await self._fetch_anew(entry, asked, secret)
                raise TargetExists(f"{offline.path} is not what was downloaded any more: {found_bad.message}")
        found = {"blake3": offline.blake3, **offline.digests}
        for name, expected in asked.expect.items():
            if name not in found:
                found[name] = await self._services.work(digest_of_path, self._services.files, offline.path, name)
            if found[name] != expected:
                raise IntegrityError(f"{offline.path} is complete, its {name} is {found[name]}, expected {expected}")
        if asked.expected_length not in {None, offline.size}:
            raise IntegrityError(
                f"{offline.path} is complete, it has {offline.size} bytes, expected {asked.expected_length}"
            )
        return entry

    async def _offline(self, entry: DownloadEntry, asked: DownloadEntry) -> OfflineEntry | None:
        """What is on record of the finished file. None when that is damaged, and the file may be fetched anew: it is
        gone, or the very bytes that were downloaded, or is to be overwritten."""
        services = self._services
        try:
            return services.store.offline(entry.id)
        except BadRecord as error:
            found = await services.work(validate, services.store, services.files, entry)
            if not asked.overwrite and found.health not in {Health.VALID, Health.MISSING}:
                raise TargetExists(f"{error}, and so may be its file: {found.message}") from error
            return None

    async def _fetch_anew(self, entry: DownloadEntry, asked: DownloadEntry, secret: Fields) -> DownloadEntry:
        """All in one transaction, and shielded: it is PENDING from there on, and only its place has it run."""
        changes = changes_of(entry, merge(entry, asked))
        with trio.CancelScope(shield=True):
            entry = await self._moves.move(entry, Event.REPAIR, completed_at=None, **changes)
            self._start(entry, secret, fresh=True)
        return entry

    async def resume_all(self) -> list[Recovered]:
        """Start every PENDING entry; one whose credentials are gone waits until it is asked for with them, and is
        told. With a resolver those start too that wait for a URL: it may have one by now."""
        told: list[Recovered] = []
        self.runs.takes_all = True
        first = 0
        while lines := await self._services.work(self._services.store.pending, first, LINES_PER_PAGE):
            for line in lines:
                if line.secret_header_names and self._services.resolver is None:
                    if (recovered := await self._needs_credentials(line.id)) is not None:
                        told.append(recovered)
                    continue
                self.runs.take_up(line)
            first = lines[-1].sequence + 1
        if self._services.resolver is not None:
            await self._resume_without_url()
        return told

    async def _resume_without_url(self) -> None:
        for held in await self._services.work(self._services.store.usage.parked, Reason.NEEDS_URL):
            try:
                await self.resume(held.entry.id, Reason.NEEDS_URL)
            except EngineError as error:  # its record is damaged, its destination another's: the others go on
                log.warning("entry %s still waits for a URL: %s", held.entry.id, error)

    async def _needs_credentials(self, entry_id: str) -> Recovered | None:
        services = self._services
        async with self.runs.alone(entry_id):  # another process may change it meanwhile
            entry = services.store.get(entry_id)
            if entry is None or entry.state is not State.PENDING:
                return None
            if entry.state_reason is not Reason.NEEDS_CREDENTIALS:
                reason = Reason.NEEDS_CREDENTIALS
                entry = await services.write(services.store.update, entry.id, entry.epoch, state_reason=reason)
                self._moves.announce(entry, State.PENDING)
        what = f"waits until it is asked for with {', '.join(entry.secret_header_names)}"
        return Recovered(id=entry.id, epoch=entry.epoch, attempt=entry.attempt_count, what=what)

    async def wait(self, entry_id: str) -> DownloadEntry:
        """The entry once nothing runs for it and nothing will unless it is asked for: COMPLETED, FAILED, CANCELLED,
        waiting for credentials or a URL, or the store cannot record what becomes of it. Another pause is waited
        through. Raises UnknownEntry, EngineClosed, and Superseded when the entry is removed meanwhile, also when its id
        was asked for anew since."""
        sequence: int | None = None
        while True:
            entry = self._services.store.get(entry_id)
            if sequence is not None and (entry is None or entry.sequence != sequence):
                raise Superseded(f"{entry_id} was removed while it was waited for")
            if entry is None:
                raise UnknownEntry(f"there is no entry {entry_id}")
            sequence = entry.sequence
            if not self.runs.active(entry_id):
                if entry.state in TERMINAL or entry.state_reason in WAITS_TO_BE_ASKED_FOR:
                    return entry
                if (error := self.runs.unrecorded(entry_id)) is not None:
                    return replace(entry, last_error=ErrorRecord.of(error, self._services.now()))
            self.runs.check_open()
            await self.runs.changed(entry_id)


def _check_apart(entries: Iterable[DownloadEntry]) -> None:
    """Raise InvalidRequest when two different entries of one batch aim at one path."""
    holders: dict[str, str] = {}
    for entry in entries:
        if not entry.destination_is_folder and holders.setdefault(entry.destination, entry.id) != entry.id:
            raise InvalidRequest(f"{entry.destination} is the destination of {holders[entry.destination]} too")
