"""The face of an open engine: what a host calls. (``engine/opening.py`` makes one.)"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager

from engine.control.attempts import RunStats
from engine.control.door import Door, guarded
from engine.control.explain import Explanation, explain
from engine.control.groups import GroupChange, Groups
from engine.control.health import DownloadHealth
from engine.control.hub import EventHub, Subscription
from engine.control.line_watch import LineWatch
from engine.control.maintenance import MaintenanceReport
from engine.control.manager import Manager
from engine.control.playable import OfflineState, offline_state
from engine.control.rates import Rates
from engine.control.requests import with_known_id
from engine.control.scopes import ScopeReset, Scopes
from engine.control.upkeep import Upkeep
from engine.control.verify import Validation, validate
from engine.errors import BadRecord, DownloadFailed, InvalidRequest, StoreCorrupt, UnknownEntry
from engine.model.events import Recovered
from engine.model.groups import GroupRecord, GroupRequest, GroupSort, GroupStatus, Member, MemberSort
from engine.model.line_policy import LinePolicy
from engine.model.lines import Line
from engine.model.paging import Page, check_limit
from engine.model.records import DownloadEntry, DownloadRequest, OfflineEntry, PartRecord
from engine.model.states import Event, Reason, State
from engine.net.url import parse_url
from engine.transfer.services import Services

ListOfEntries = list[DownloadEntry]  # named here because `list` is a method of the class below
ListOfRequests = list[DownloadRequest]


@guarded(beyond_close=("stats",))
class Download:
    """A handle on one entry of an open engine; like that it belongs to the trio run that opened it."""

    def __init__(self, engine: Engine, entry_id: str) -> None:
        self._engine = engine
        self._enter = engine._enter
        self.id = entry_id

    async def wait(self) -> OfflineEntry:
        """The finished file's record. Raises DownloadFailed when the entry ends otherwise, EngineClosed when the engine
        does."""
        return await self._engine.wait(self.id)

    def events(self) -> Subscription:
        """The entry's events from now on; ends when the engine closes or the subscription is closed."""
        return self._engine.events(self.id)

    @property
    def stats(self) -> RunStats:
        """What this run of the engine did for the entry."""
        return self._engine.run_stats(self.id)


@guarded(beyond_close=("run_stats",))
class Engine:
    """Downloads that survive. Made by :func:`open_engine` only. All methods belong to the trio run that opened it:
    from elsewhere they raise WrongThread, and EngineClosed when it is closed (but for ``run_stats``)."""

    def __init__(self, services: Services, manager: Manager, hub: EventHub, recovered: list[Recovered]) -> None:
        self._door = Door()
        self._services = services
        self._manager = manager
        self._hub = hub
        self._rates = Rates(services, manager.runs)
        self._groups = Groups(services, ask=manager.ask, ask_many=manager.ask_many, remove=manager.remove)
        self._scopes = Scopes(services, self._groups, remove=manager.remove, remove_all=manager.remove_all)
        self._upkeep = Upkeep(services, hub, manager, self._groups)
        self._lines = LineWatch(services, manager.runs.gate, manager.runs, manager.pause, manager.resume)
        self.recovered = tuple(recovered)

    async def offline(self, request: DownloadRequest) -> Download:
        """Have this offline: adds the entry, or takes up the one with the same id, and starts it.

        Asking again is idempotent: a complete entry stays as it is, an unfinished one resumes. Raises InvalidRequest
        before anything is done, IntegrityError when a complete file contradicts what is newly expected of it.
        """
        [asked] = await self._make_way([request])
        entry = await self._manager.ask(asked)
        return Download(self, entry.id)

    async def offline_many(self, requests: Iterable[DownloadRequest]) -> list[Download]:
        """:meth:`offline` for all of them, in their order: thousands of new entries cost a few transactions.

        Raises InvalidRequest before anything is done when one of them is not valid or two aim at one path.
        """
        asked = await self._make_way(list(requests))
        return [Download(self, entry.id) for entry in await self._manager.ask_many(asked)]

    async def wait(self, entry_id: str) -> OfflineEntry:
        """See :meth:`Download.wait`; waits through pauses. Raises UnknownEntry too, and Superseded when the entry is
        removed meanwhile."""
        entry = await self._manager.wait(entry_id)
        if entry.state is State.COMPLETED:
            offline = self._services.store.offline(entry_id)
            if offline is None:
                raise StoreCorrupt(f"the record of the finished file of {entry_id} is damaged")
            return offline
        error = entry.last_error
        if entry.state_reason is Reason.NEEDS_CREDENTIALS:
            names = ", ".join(entry.secret_header_names)
            raise DownloadFailed(
                f"{entry_id} waits until it is asked for with {names}",
                entry_id=entry_id,
                cause_code=Reason.NEEDS_CREDENTIALS.value,
            )
        message = f"{entry_id} is {entry.state.value}" + (f": {error.message}" if error else "")
        if error is None:
            raise DownloadFailed(message, entry_id=entry_id, cause_code=entry.state.value)
        raise DownloadFailed(
            message,
            entry_id=entry_id,
            cause_code=error.code,
            status=error.status,
            fault=error.fault,
            retryable=error.retryable,
            advice=error.advice,
        )

    async def get(self, entry_id: str) -> DownloadEntry:
        """The entry's record. Raises UnknownEntry."""
        entry = self._services.store.get(entry_id) if isinstance(entry_id, str) else None
        if entry is None:
            raise UnknownEntry(f"there is no entry {entry_id}")
        return entry

    async def parts(self, entry_id: str) -> tuple[PartRecord, ...]:
        """The entry's parts; none before its first answer."""
        return self._services.store.parts(entry_id)

    async def offline_entry(self, entry_id: str) -> OfflineEntry | None:
        """The finished file's record, or None while there is none."""
        return self._services.store.offline(entry_id)

    async def offline_state(self, entry_id: str) -> OfflineState:
        """Whether it can be played without the network, by a look from outside; ``validate_downloads`` reads the bytes.
        An unknown id is NOT_OFFLINED. Raises StorageError when the file cannot be looked at."""
        store, services = self._services.store, self._services
        found = store.get(entry_id), store.offline(entry_id)
        return await services.work(offline_state, *found, services.files, services.now())

    async def list(
        self, *, state: State | None = None, after: str | None = None, limit: int = 100
    ) -> list[DownloadEntry]:
        """At most ``limit`` (up to 10,000) entries in order of adding, those behind the id ``after``. Raises
        UnknownEntry for that id, InvalidRequest."""
        check_limit(limit)
        return self._services.store.list(state, after, limit)

    async def pause(self, entry_id: str) -> DownloadEntry:
        """Stop the entry, keeping its bytes; durably PAUSED when this returns. Only ``resume`` (or asking for it again)
        lifts it, not a restart. Raises UnknownEntry, IllegalTransition."""
        return await self._manager.pause(entry_id)

    async def resume(self, entry_id: str) -> DownloadEntry:
        """Have a paused entry go on from its bytes, whoever paused it. Raises UnknownEntry, IllegalTransition,
        InvalidRequest when another entry has its destination now."""
        return await self._manager.resume(entry_id)

    async def cancel(self, entry_id: str) -> DownloadEntry:
        """Give the entry up; of its unfinished files nothing is left. Raises UnknownEntry, IllegalTransition when it is
        complete, StorageError when a file could not be deleted yet."""
        return await self._manager.cancel(entry_id)

    async def pause_all(self, scope: str | None = None) -> ListOfEntries:
        """:meth:`pause` for all that wait or run (of a scope); returns those that are paused now."""
        return await self._manager.for_all(Event.PAUSE, scope)

    async def resume_all(self, scope: str | None = None) -> ListOfEntries:
        """:meth:`resume` for all that are paused (of a scope); returns those that go on."""
        return await self._manager.for_all(Event.RESUME, scope)

    async def cancel_all(self, scope: str | None = None) -> ListOfEntries:
        """:meth:`cancel` for all that are not complete (of a scope); returns those that are cancelled now."""
        return await self._manager.for_all(Event.CANCEL, scope)

    async def retry(self, entry_id: str) -> DownloadEntry:
        """Try a failed entry again, or one that waits for its next try at once. Raises UnknownEntry,
        IllegalTransition."""
        return await self._manager.retry(entry_id)

    async def retry_failed(self, scope: str | None = None) -> ListOfEntries:
        """:meth:`retry` for all that failed (of a scope); returns those that go on."""
        return await self._manager.retry_failed(scope)

    async def prioritise(self, entry_id: str, priority: int, *, preempt: bool = False) -> DownloadEntry:
        """Change when the entry's turn comes. ``preempt``: now, if need be in the place of one of lower priority, which
        waits for its turn again. Raises UnknownEntry, InvalidRequest."""
        return await self._manager.prioritise(entry_id, priority, preempt=preempt)

    def line(self) -> Line:
        """The line as it is. :class:`LineChanged` tells of its changes."""
        return self._lines.line

    async def set_line_policy(self, policy: LinePolicy) -> None:
        """Which line entries may use, and when, that do not say so themselves: from now on, as long as this engine is
        open. What the policy leaves open is as configured. Raises InvalidRequest."""
        await self._lines.set_policy(policy)

    def set_rate_limit(self, bytes_s: int) -> None:
        """What all entries together may receive a second while this engine is open, from now on; 0 for any number.
        Raises InvalidRequest."""
        self._rates.set_all(bytes_s)

    async def set_entry_rate_limit(self, entry_id: str, bytes_s: int) -> DownloadEntry:
        """What this entry may receive a second, from now on and on record; 0 for no cap of its own. Raises
        InvalidRequest, UnknownEntry."""
        return await self._rates.set_entry(entry_id, bytes_s)

    async def reconcile(self) -> tuple[Recovered, ...]:
        """Compare what is on record with what runs, mend the difference, and tell what was mended. The engine does so
        every ``reconcile_interval_s`` too. Raises StoreError."""
        return tuple(await self._manager.runs.reconcile())

    async def remove(self, entry_id: str, *, keep_file: bool = False) -> tuple[str, ...]:
        """Take the entry away with its files (not the finished one with ``keep_file``), whatever it is doing. While
        groups hold it, it stays for them: their ids are returned. Raises UnknownEntry, StorageError when it is gone but
        a file could not be deleted yet: doing so again tries that again."""
        try:
            return await self._groups.release(entry_id, keep_file=keep_file)
        except UnknownEntry:
            if not isinstance(entry_id, str) or self._services.store.tombstones.find(entry_id) is None:
                raise
        await self._manager.removal.finish_alone(entry_id)
        return ()

    async def remove_all(self, scope: str | None = None, *, keep_files: bool = False) -> int:
        """Remove every entry (of a scope) with its files, whoever holds it; returns the bytes of the files deleted."""
        return await self._manager.remove_all(scope, keep_files=keep_files)

    async def explain(self, entry_id: str) -> Explanation:
        """Why the entry is in its state, since when, what would move it and when it is tried next. Raises
        UnknownEntry."""
        entry = await self.get(entry_id)
        rest, rest_s = self._services.client.hosts.why_resting(parse_url(entry.url).host)
        held, now = self._manager.runs.gate.held(entry), self._services.now()
        if not rest_s and (entry.next_retry_at or 0.0) > now:
            rest = ""  # its own time comes later than its host's
        return explain(entry, held=held, rest=rest, rests_until=now + rest_s if rest_s else None)

    async def validate_downloads(
        self, entry_ids: Iterable[str] | None = None, *, repair: bool = False
    ) -> tuple[Validation, ...]:
        """Read the finished files (or those of these entries) and compare every chunk with what was downloaded.

        ``repair``: the bad chunks are fetched again into a copy, and the file stays readable until that takes its
        place; this returns once the repairs run, ``wait`` tells their end.
        """
        ids = [entry.id async for entry in self._all(State.COMPLETED)] if entry_ids is None else list(entry_ids)
        if repair:
            return tuple(await self._upkeep.repairs.repair_all(ids))
        services = self._services
        entries = [await self.get(entry_id) for entry_id in ids]
        return tuple([await services.work(validate, services.store, services.files, entry) for entry in entries])

    async def repair(self, entry_id: str) -> Validation:
        """Look at the finished file and fetch again what is bad of it; see :meth:`validate_downloads`."""
        return await self._upkeep.repairs.repair(entry_id)

    async def perform_maintenance_cleanup(self, *, dry_run: bool = False) -> MaintenanceReport:
        """Remove what nothing needs any more: orphans, left-over parts, stale failed and cancelled entries. Tells what
        was found, what was done and the bytes reclaimed; with ``dry_run`` nothing is done."""
        return await self._upkeep.maintenance.clean(dry_run=dry_run)

    async def gc(
        self, *, dry_run: bool = False, remove_stale: bool = False, everywhere: bool = False
    ) -> MaintenanceReport:
        """The clean-up, and eviction now. ``remove_stale``: the records of stale entries too. ``everywhere``: no other
        library shares the folders of the caller's own."""
        return await self._upkeep.maintenance.gc(dry_run=dry_run, remove_stale=remove_stale, everywhere=everywhere)

    async def get_download_health(self) -> DownloadHealth:
        """Counts, rates, bytes wasted and reclaimed, the oldest waiting: one pass over all records in a thread."""
        return await self._upkeep.health()

    @contextmanager
    def reading(self, entry_id: str) -> Iterator[str]:
        """The path of the entry's finished file, which is not evicted inside the block; its last reading is what
        eviction goes by. Raises UnknownEntry when there is no finished file."""
        offline = self._services.store.offline(entry_id)
        if offline is None:
            raise UnknownEntry(f"there is no finished file of {entry_id}")
        with self._upkeep.space.readers.hold(entry_id):
            yield offline.path

    async def set_quota(self, scope: str, quota_bytes: int | None) -> None:
        """What the files of a scope may take from now on, also after a restart; 0: no bound, None: the configured
        quota. What is there stays. Raises InvalidRequest, StoreError."""
        await self._upkeep.space.set_quota(scope, quota_bytes)

    def quota(self, scope: str) -> int:
        """The bytes that the files of a scope may take together; 0 for no bound. What they do take is in
        :meth:`get_download_health`."""
        return self._upkeep.space.quota(scope)

    async def pin(self, entry_id: str, pinned: bool = True) -> DownloadEntry:
        """Never evict the entry's file, or do again. Raises UnknownEntry."""
        return await self._upkeep.pin(entry_id, pinned)

    async def expire(self, entry_id: str, at: float | None) -> OfflineEntry:
        """Let the finished file go at that time (seconds since the epoch) unless it is pinned; None for never. Raises
        UnknownEntry."""
        return await self._upkeep.expire(entry_id, at)

    async def add_group(self, request: GroupRequest) -> GroupChange:
        """Have all of a group (an album, a playlist …) offline, or ask for it again. What one member refuses is told in
        ``refused`` and stops no other. Raises InvalidRequest before anything is done, ScopeResetting."""
        return await self._groups.add(request)

    async def set_group_members(
        self, group_id: str, members: Iterable[tuple[DownloadRequest, int, int]], *, scope: str = ""
    ) -> GroupChange:
        """Make these (request, volume, position) the members: new ones are asked for, left-out ones lose their links
        and go when nothing else holds them. Raises UnknownGroup, InvalidRequest, ScopeResetting."""
        return await self._groups.set_members(group_id, members, scope=scope)

    async def remove_group(self, group_id: str, *, scope: str = "") -> GroupChange:
        """Take a group away; members that nothing else holds are stopped and removed with their files. Idempotent."""
        return await self._groups.remove(group_id, scope=scope)

    async def group(self, group_id: str, *, scope: str = "") -> GroupStatus:
        """State, counts, bytes and shortfalls, derived from the members as they are now. Raises UnknownGroup."""
        return await self._groups.status(group_id, scope=scope)

    async def groups(
        self, *, scope: str = "", sort: GroupSort = GroupSort.TITLE, after: str | None = None, limit: int = 100
    ) -> Page[GroupRecord]:
        """At most ``limit`` (up to 10,000) groups of a scope behind the cursor ``after``. Raises InvalidRequest."""
        return await self._groups.page(scope=scope, sort=sort, after=after, limit=limit)

    async def group_members(
        self,
        group_id: str,
        *,
        scope: str = "",
        sort: MemberSort = MemberSort.PLACE,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Member]:
        """At most ``limit`` members behind the cursor ``after``. Raises UnknownGroup, InvalidRequest."""
        return await self._groups.members(group_id, scope=scope, sort=sort, after=after, limit=limit)

    async def list_scope(
        self, scope: str, *, state: State | None = None, after: str | None = None, limit: int = 100
    ) -> Page[DownloadEntry]:
        """At most ``limit`` entries of a scope in order of adding, behind the cursor ``after``. Raises
        InvalidRequest."""
        return await self._scopes.page(scope, state=state, after=after, limit=limit)

    async def reset(self, scope: str) -> ScopeReset:
        """Stop and remove everything of a scope; nothing new is let in meanwhile (ScopeResetting). When interrupted it
        goes on at the next start. Raises StorageError, StoreError."""
        return await self._scopes.reset(scope)

    def events(self, entry_id: str | None = None, *, snapshot: bool = False) -> Subscription:
        """Events of all entries, or of one, from now on; with ``snapshot`` after the entries as they are, without a gap
        between."""
        return self._hub.subscribe(entry_id, snapshot=snapshot)

    def run_stats(self, entry_id: str) -> RunStats:
        """What this run of the engine did for the entry; nothing once it is removed."""
        return self._manager.runs.stats(entry_id)

    async def _make_way(self, requests: Sequence[DownloadRequest]) -> ListOfRequests:
        """Their scopes are open, and what is asked for by itself is held by itself. Returns them, with the ids of
        entries that an earlier version gave them. Raises ScopeResetting, InvalidRequest."""
        for request in requests:
            if not isinstance(request, DownloadRequest):
                raise InvalidRequest(f"a DownloadRequest is wanted, not {type(request).__name__}")
        for scope in {request.scope for request in requests if isinstance(request.scope, str)}:
            self._scopes.check_open(scope)
        asked = [with_known_id(request, self._is_known) for request in requests]
        await self._groups.own(asked)
        return asked

    def _is_known(self, entry_id: str) -> bool:
        try:
            return self._services.store.get(entry_id) is not None
        except BadRecord:
            return True

    async def _all(self, state: State | None) -> AsyncIterator[DownloadEntry]:
        after: str | None = None
        while page := self._services.store.list(state, after, 500):
            for entry in page:
                yield entry
            after = page[-1].id

    def _enter(self, what: str) -> None:
        self._door.check(what)
        self._manager.runs.check_open()
