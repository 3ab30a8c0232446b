"""The face of an open engine: what a host calls. (``engine/opening.py`` makes one.)"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager

from engine.control.attempts import RunStats
from engine.control.explain import Explanation, explain
from engine.control.groups import GroupChange, Groups
from engine.control.health import DownloadHealth
from engine.control.hub import EventHub, Subscription
from engine.control.maintenance import MaintenanceReport
from engine.control.manager import Manager
from engine.control.scopes import ScopeReset, Scopes
from engine.control.upkeep import Upkeep
from engine.control.verify import Validation, validate
from engine.errors import DownloadFailed, InvalidRequest, StoreCorrupt, UnknownEntry
from engine.model.events import Recovered
from engine.model.groups import GroupRecord, GroupRequest, GroupSort, GroupStatus, Member, MemberSort
from engine.model.paging import Page
from engine.model.records import DownloadEntry, DownloadRequest, OfflineEntry, PartRecord
from engine.model.states import Event, Reason, State
from engine.transfer.services import Services

ListOfEntries = list[DownloadEntry]  # named here because `list` is a method of the class below


class Download:
    """A handle on one entry of an open engine."""

    def __init__(self, engine: Engine, entry_id: str) -> None:
        self._engine = engine
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


class Engine:
    """Downloads that survive. Made by :func:`open_engine` only; all methods belong to the trio run that opened it."""

    def __init__(self, services: Services, manager: Manager, hub: EventHub, recovered: list[Recovered]) -> None:
        self._services = services
        self._manager = manager
        self._hub = hub
        self._groups = Groups(services, ask=manager.ask, ask_many=manager.ask_many, remove=manager.remove)
        self._scopes = Scopes(services, self._groups, remove=manager.remove, remove_all=manager.remove_all)
        self._upkeep = Upkeep(services, hub, manager)
        self.recovered = tuple(recovered)

    async def offline(self, request: DownloadRequest) -> Download:
        """Have this offline: adds the entry, or takes up the one with the same id, and starts it.

        Asking again is idempotent: a complete entry stays as it is, an unfinished one resumes. Raises InvalidRequest
        before anything is done, IntegrityError when a complete file contradicts what is newly expected of it.
        """
        await self._make_way([request])
        entry = await self._manager.ask(request)
        return Download(self, entry.id)

    async def offline_many(self, requests: Iterable[DownloadRequest]) -> list[Download]:
        """:meth:`offline` for all of them, in their order: thousands of new entries cost a few transactions.

        Raises InvalidRequest before anything is done when one of them is not valid or two aim at one path.
        """
        asked = list(requests)
        await self._make_way(asked)
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
        raise DownloadFailed(
            message,
            entry_id=entry_id,
            cause_code=error.code if error else entry.state.value,
            status=error.status if error else None,
        )

    async def get(self, entry_id: str) -> DownloadEntry:
        """The entry's record. Raises UnknownEntry."""
        self._check_open()
        entry = self._services.store.get(entry_id) if isinstance(entry_id, str) else None
        if entry is None:
            raise UnknownEntry(f"there is no entry {entry_id}")
        return entry

    async def parts(self, entry_id: str) -> tuple[PartRecord, ...]:
        """The entry's parts; none before its first answer."""
        self._check_open()
        return self._services.store.parts(entry_id)

    async def offline_entry(self, entry_id: str) -> OfflineEntry | None:
        """The finished file's record, or None while there is none."""
        self._check_open()
        return self._services.store.offline(entry_id)

    async def list(
        self, *, state: State | None = None, after: str | None = None, limit: int = 100
    ) -> list[DownloadEntry]:
        """At most ``limit`` entries in order of adding, those behind the id ``after``. Raises UnknownEntry for that
        id."""
        self._check_open()
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

    async def reconcile(self) -> tuple[Recovered, ...]:
        """Compare what is on record with what runs, mend the difference, and tell what was mended. The engine does so
        every ``reconcile_interval_s`` too. Raises StoreError."""
        self._check_open()
        return tuple(await self._manager.runs.reconcile())

    async def remove(self, entry_id: str, *, keep_file: bool = False) -> tuple[str, ...]:
        """Take the entry away with its files (not the finished one with ``keep_file``), whatever it is doing. While
        groups hold it, it stays for them: their ids are returned. Raises UnknownEntry, StorageError when it is gone but
        a file could not be deleted yet."""
        self._check_open()
        return await self._groups.release(entry_id, keep_file=keep_file)

    async def remove_all(self, scope: str | None = None, *, keep_files: bool = False) -> int:
        """Remove every entry (of a scope) with its files, whoever holds it; returns the bytes of the files deleted."""
        return await self._manager.remove_all(scope, keep_files=keep_files)

    async def explain(self, entry_id: str) -> Explanation:
        """Why the entry is in its state, since when, what would move it and when it is tried next. Raises
        UnknownEntry."""
        return explain(await self.get(entry_id))

    async def validate_downloads(
        self, entry_ids: Iterable[str] | None = None, *, repair: bool = False
    ) -> tuple[Validation, ...]:
        """Read the finished files (or those of these entries) and compare every chunk with what was downloaded.

        ``repair``: the bad chunks are fetched again into a copy, and the file stays readable until that takes its
        place; this returns once the repairs run, ``wait`` tells their end.
        """
        self._check_open()
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
        self._check_open()
        return await self._upkeep.maintenance.clean(dry_run=dry_run)

    async def gc(
        self, *, dry_run: bool = False, remove_stale: bool = False, everywhere: bool = False
    ) -> MaintenanceReport:
        """The clean-up, and eviction now. ``remove_stale``: the records of stale entries too. ``everywhere``: no other
        library shares the folders of the caller's own."""
        self._check_open()
        return await self._upkeep.maintenance.gc(dry_run=dry_run, remove_stale=remove_stale, everywhere=everywhere)

    async def get_download_health(self) -> DownloadHealth:
        """Counts, rates, bytes wasted and reclaimed, the oldest waiting: one pass over all records in a thread."""
        return await self._upkeep.health()

    @contextmanager
    def reading(self, entry_id: str) -> Iterator[str]:
        """The path of the entry's finished file, which is not evicted inside the block; its last reading is what
        eviction goes by. Raises UnknownEntry when there is no finished file."""
        self._check_open()
        offline = self._services.store.offline(entry_id)
        if offline is None:
            raise UnknownEntry(f"there is no finished file of {entry_id}")
        with self._upkeep.space.readers.hold(entry_id):
            yield offline.path

    def set_quota(self, scope: str, quota_bytes: int | None) -> None:
        """What the files of a scope may take while this engine is open; None: the configured quota. Raises
        InvalidRequest."""
        self._check_open()
        self._upkeep.space.set_quota(scope, quota_bytes)

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
        self._check_open()
        return await self._groups.add(request)

    async def set_group_members(
        self, group_id: str, members: Iterable[tuple[DownloadRequest, int, int]], *, scope: str = ""
    ) -> GroupChange:
        """Make these (request, volume, position) the members: new ones are asked for, left-out ones lose their links
        and go when nothing else holds them. Raises UnknownGroup, InvalidRequest, ScopeResetting."""
        self._check_open()
        return await self._groups.set_members(group_id, members, scope=scope)

    async def remove_group(self, group_id: str, *, scope: str = "") -> GroupChange:
        """Take a group away; members that nothing else holds are stopped and removed with their files. Idempotent."""
        self._check_open()
        return await self._groups.remove(group_id, scope=scope)

    async def group(self, group_id: str, *, scope: str = "") -> GroupStatus:
        """State, counts, bytes and shortfalls, derived from the members as they are now. Raises UnknownGroup."""
        self._check_open()
        return await self._groups.status(group_id, scope=scope)

    async def groups(
        self, *, scope: str = "", sort: GroupSort = GroupSort.TITLE, after: str | None = None, limit: int = 100
    ) -> Page[GroupRecord]:
        """At most ``limit`` (up to 10,000) groups of a scope behind the cursor ``after``. Raises InvalidRequest."""
        self._check_open()
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
        self._check_open()
        return await self._groups.members(group_id, scope=scope, sort=sort, after=after, limit=limit)

    async def list_scope(
        self, scope: str, *, state: State | None = None, after: str | None = None, limit: int = 100
    ) -> Page[DownloadEntry]:
        """At most ``limit`` entries of a scope in order of adding, behind the cursor ``after``. Raises
        InvalidRequest."""
        self._check_open()
        return await self._scopes.page(scope, state=state, after=after, limit=limit)

    async def reset(self, scope: str) -> ScopeReset:
        """Stop and remove everything of a scope; nothing new is let in meanwhile (ScopeResetting). When interrupted it
        goes on at the next start. Raises StorageError, StoreError."""
        self._check_open()
        return await self._scopes.reset(scope)

    def events(self, entry_id: str | None = None, *, snapshot: bool = False) -> Subscription:
        """Events of all entries, or of one, from now on; with ``snapshot`` after the entries as they are, without a gap
        between."""
        return self._hub.subscribe(entry_id, snapshot=snapshot)

    def run_stats(self, entry_id: str) -> RunStats:
        """What this run of the engine did for the entry."""
        return self._manager.runs.stats(entry_id)

    async def _make_way(self, requests: Sequence[DownloadRequest]) -> None:
        """Their scopes are open, and what is asked for by itself is held by itself. Raises ScopeResetting; what is not
        valid is refused by the manager, in words."""
        self._check_open()
        for request in requests:
            if not isinstance(request, DownloadRequest):
                raise InvalidRequest(f"a DownloadRequest is wanted, not {type(request).__name__}")
        for scope in {request.scope for request in requests if isinstance(request.scope, str)}:
            self._scopes.check_open(scope)
        await self._groups.own(requests)

    async def _all(self, state: State | None) -> AsyncIterator[DownloadEntry]:
        after: str | None = None
        while page := self._services.store.list(state, after, 500):
            for entry in page:
                yield entry
            after = page[-1].id

    def _check_open(self) -> None:
        self._manager.runs.check_open()
