"""Groups (album, playlist, season …): what adding, changing and removing them does to their members' entries.

Changes of groups come one by one in each scope. First the store says who is in which group, in one transaction; then
the members are asked for, and those that nothing holds any more are removed. A crash in between is made good, and so
is a change that its caller gave up or that was refused half-way: asking again is idempotent, and the store remembers
what is to be removed (:mod:`engine.store.links`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import msgspec
import trio

from engine.control.each import for_each
from engine.control.group_requests import Wanted, check_group, checked_scope, group_of, members_of
from engine.control.requests import entry_of
from engine.errors import (
    BadRecord,
    EngineClosed,
    EngineError,
    InvalidRequest,
    ScopeResetting,
    StorageError,
    StoreError,
    UnknownEntry,
    UnknownGroup,
)
from engine.model.events import Recovered
from engine.model.groups import GroupRecord, GroupRequest, GroupSort, GroupStatus, Member, MemberSort
from engine.model.paging import Page
from engine.model.records import DownloadEntry, DownloadRequest, ErrorRecord
from engine.model.states import State
from engine.transfer.services import Services

log = logging.getLogger("engine")

_Sort = TypeVar("_Sort", GroupSort, MemberSort)

Ask = Callable[[DownloadRequest], Awaitable[object]]
AskMany = Callable[[Iterable[DownloadRequest]], Awaitable[object]]
Remove = Callable[..., Awaitable[object]]


class Refusal(msgspec.Struct, frozen=True):
    """What could not be done for one entry of a group; the others are not held up by it."""

    entry_id: str
    error: ErrorRecord


class GroupChange(msgspec.Struct, frozen=True):
    """What a change of a group led to. ``asked``: members that were asked for; ``removed``: entries that went because
    nothing holds them any more."""

    asked: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()


class Groups:
    """The groups of an open engine. ``ask``, ``ask_many`` and ``remove`` are what the manager does for entries."""

    def __init__(self, services: Services, *, ask: Ask, ask_many: AskMany, remove: Remove) -> None:
        self._services = services
        self._store = services.store.groups
        self._ask = ask
        self._ask_many = ask_many
        self._remove = remove
        self._locks: dict[str, trio.Lock] = {}
        self._removing: dict[str, trio.Event] = {}
        self._given_up = trio.Event()
        self._keeping: set[str] = set()  # what is to be removed without its finished file

    async def add(self, request: GroupRequest) -> GroupChange:
        """Have all of a group offline, or ask for it again: a member that is complete stays so, any other goes on.

        A group that is there gets what is new, and keeps what is not named; a place that is given to another entry is
        the old one's no more. What one member refuses is told of it and stops no other. Raises InvalidRequest before
        anything is done, ScopeResetting.
        """
        group = group_of(request, self._services.now())
        wanted = await self._wanted(request.members, group)
        async with self.alone(group.scope):
            return await self._put(group, wanted, wanted, replace=False)

    async def set_members(
        self, group_id: str, members: Iterable[tuple[DownloadRequest, int, int]], *, scope: str = ""
    ) -> GroupChange:
        """Make these the members of a group: new ones are asked for, those that are left out lose their links (and go,
        when nothing else holds them), the others stay as they are. Raises UnknownGroup, InvalidRequest before anything
        is done, ScopeResetting."""
        check_group(scope, group_id)
        services = self._services
        async with self.alone(scope):
            group = await services.work(self._store.find, scope, group_id)
            if group is None:
                raise UnknownGroup(f"the scope {scope!r} has no group '{group_id}'")
            wanted = await self._wanted(members, group)
            there = await services.work(self._store.members_there, scope, group_id)
            new = [one for one in wanted if one.member.entry_id not in there]
            return await self._put(group, wanted, new, replace=True)

    async def remove(self, group_id: str, *, scope: str = "") -> GroupChange:
        """Take a group away. Its members that nothing else holds are stopped and removed with their files, wherever
        they are in their lives. Of a group that is not there: nothing."""
        check_group(scope, group_id)
        async with self.alone(scope):
            with self._finished_later():
                leaving = await self._services.write(self._store.drop, scope, group_id)
                return await self._let_go(leaving or ())

    async def release(self, entry_id: str, *, keep_file: bool = False) -> tuple[str, ...]:
        """The entry is not wanted by itself any more: it is removed with its files (not the finished one with
        ``keep_file``), unless groups hold it; their ids are returned. Raises UnknownEntry; StorageError when it is gone
        but a file could not be deleted."""
        async with self.alone(self._scope_of(entry_id)):
            (self._keeping.add if keep_file else self._keeping.discard)(entry_id)
            with self._finished_later():
                holders = await self._services.write(self._store.disown, entry_id)
                if holders:
                    self._keeping.discard(entry_id)
                else:
                    await self._remove_one(entry_id)
                return holders

    async def own(self, requests: Iterable[DownloadRequest]) -> None:
        """To be called before entries are asked for by themselves: they will stay when their last group goes, and what
        is being removed just now is gone when this returns. Raises InvalidRequest."""
        if not self._store.any_held():
            return
        services = self._services
        ids = [entry_of(request, services.config, services.now()).id for request in requests]
        if needing := self._store.needs_owning(ids):
            await services.write(self._store.own, needing)
            self._keeping.difference_update(needing)
        for entry_id in needing:
            while (removing := self._removing.get(entry_id)) is not None:
                await removing.wait()

    async def finish(self) -> list[Recovered]:
        """For the start, before anything runs: remove what nothing held any more when the process ended."""
        change = await self._let_go(await self._services.work(self._store.leaving))
        told = [(entry_id, "no group held it any more; it was removed") for entry_id in change.removed]
        told += [(refusal.entry_id, f"it could not be removed: {refusal.error.message}") for refusal in change.refused]
        return [Recovered(id=entry_id, epoch=0, attempt=0, what=what) for entry_id, what in told]

    async def finish_left(self) -> None:
        """Remove what nothing holds any more and a change left: at once when it was given up half-way, and from time to
        time; until cancelled. (To shield the change would keep its caller for as long as a thousand files take.)"""
        while True:
            with trio.move_on_after(self._services.config.space_check_interval_max_s):
                await self._given_up.wait()
            self._given_up = trio.Event()
            try:
                await self._finish_alone()
            except EngineClosed:
                return
            except (StoreError, StorageError) as error:
                log.warning("what no group holds any more could not be removed, and will be later: %s", error)

    async def _finish_alone(self) -> None:
        """While no change of the scope is at work: that one removes what it left itself."""
        by_scope: dict[str, list[str]] = {}
        for entry_id in await self._services.work(self._store.leaving):
            entry = self._look(entry_id)
            by_scope.setdefault("" if entry is None else entry.scope, []).append(entry_id)
        for scope, entry_ids in by_scope.items():
            async with self.alone(scope):
                await self._let_go(entry_ids)

    @contextmanager
    def _finished_later(self) -> Iterator[None]:
        """However the block ends, what it has the store remember is removed soon."""
        try:
            yield
        except BaseException:
            self._given_up.set()
            raise

    async def status(self, group_id: str, *, scope: str = "") -> GroupStatus:
        """A group's state, counts, bytes and shortfalls, derived from its members as they are now. Raises
        UnknownGroup."""
        check_group(scope, group_id)
        return await self._services.work(self._store.status, scope, group_id)

    async def page(
        self, *, scope: str = "", sort: GroupSort = GroupSort.TITLE, after: str | None = None, limit: int = 100
    ) -> Page[GroupRecord]:
        """At most ``limit`` groups of a scope, those behind the cursor ``after``. Raises InvalidRequest."""
        return await self._services.work(self._store.page, checked_scope(scope), _sort(GroupSort, sort), after, limit)

    async def members(
        self,
        group_id: str,
        *,
        scope: str = "",
        sort: MemberSort = MemberSort.PLACE,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Member]:
        """At most ``limit`` members of a group, those behind the cursor ``after``. Raises UnknownGroup,
        InvalidRequest."""
        check_group(scope, group_id)
        return await self._services.work(self._store.members, scope, group_id, _sort(MemberSort, sort), after, limit)

    @asynccontextmanager
    async def alone(self, scope: str) -> AsyncIterator[None]:
        """The block is the only one that changes groups of the scope."""
        lock = self._locks.setdefault(scope, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(scope, None)

    async def _wanted(self, members: Iterable[tuple[DownloadRequest, int, int]], group: GroupRecord) -> list[Wanted]:
        """The members, checked, and none of them another scope's entry."""
        wanted = await members_of(members, group, self._services.config, self._services.now())
        await self._services.work(self._check_scope, wanted, group.scope)
        return wanted

    def _check_scope(self, wanted: Iterable[Wanted], scope: str) -> None:
        for entry in filter(None, (self._look(one.member.entry_id) for one in wanted)):
            if entry.scope != scope:
                raise InvalidRequest(f"entry {entry.id} is of the scope {entry.scope!r}, the group of {scope!r}")

    async def _put(
        self, group: GroupRecord, wanted: Sequence[Wanted], new: Sequence[Wanted], *, replace: bool
    ) -> GroupChange:
        members = [one.member for one in wanted]
        with self._finished_later():
            leaving = await self._services.write(self._store.put, group, members, replace=replace)
            self._keeping.difference_update(member.entry_id for member in members)
            refused = await self._ask_for([one.request for one in new])
            change = await self._let_go(leaving)
        asked = tuple(dict.fromkeys(one.member.entry_id for one in new))
        return GroupChange(asked, change.removed, (*refused, *change.refused))

    async def _ask_for(self, requests: Sequence[DownloadRequest]) -> list[Refusal]:
        """All in few transactions; when one is refused, one by one, so that it is known which and the others are not
        held up."""
        try:
            await self._ask_many(requests)
        except EngineError as error:
            if _ends_all(error):
                raise
        else:
            return []
        refused: list[Refusal] = []
        for request in requests:
            try:
                await self._ask(request)
            except EngineError as error:
                if _ends_all(error):
                    raise
                refused.append(self._refusal(request.id or "", error))
        return refused

    async def _let_go(self, entry_ids: Iterable[str]) -> GroupChange:
        """Remove entries that nothing holds. Those that wait go first: else each one that is stopped would let the next
        begin."""
        removed: list[str] = []
        refused: list[Refusal] = []

        async def remove(entry_id: str) -> None:
            try:
                if await self._remove_one(entry_id):
                    removed.append(entry_id)
            except EngineError as error:
                if _ends_all(error):
                    raise
                refused.append(self._refusal(entry_id, error))

        for batch in await self._services.work(self._waiting_first, entry_ids):
            _, errors = await for_each(batch, remove)
            if errors:
                raise errors[0]
        return GroupChange(removed=tuple(removed), refused=tuple(refused))

    async def _remove_one(self, entry_id: str) -> bool:
        """False when the entry is wanted again by now. No await before its removal is registered: :meth:`own` must find
        it either not begun or here."""
        if not self._store.is_leaving(entry_id):
            return False
        removing = self._removing[entry_id] = trio.Event()
        try:
            await (self._remove(entry_id, keep_file=True) if entry_id in self._keeping else self._remove(entry_id))
        except UnknownEntry:  # somebody else did
            await self._services.write(self._store.gone, [entry_id])
        finally:
            if self._removing.get(entry_id) is removing:  # asked for twice at once, the later one has the place
                del self._removing[entry_id]
            removing.set()
        self._keeping.discard(entry_id)
        return True

    def _waiting_first(self, entry_ids: Iterable[str]) -> tuple[list[str], list[str]]:
        waiting: list[str] = []
        others: list[str] = []
        for entry_id in entry_ids:
            entry = self._look(entry_id)
            (waiting if entry is not None and entry.state is State.PENDING else others).append(entry_id)
        return waiting, others

    def _scope_of(self, entry_id: str) -> str:
        entry = self._services.store.get(entry_id)
        if entry is None:
            raise UnknownEntry(f"there is no entry {entry_id}")
        return entry.scope

    def _look(self, entry_id: str) -> DownloadEntry | None:
        """The entry; None also for a damaged one, which the store noted and a new one takes the place of."""
        try:
            return self._services.store.get(entry_id)
        except BadRecord:
            return None

    def _refusal(self, entry_id: str, error: EngineError) -> Refusal:
        return Refusal(entry_id, ErrorRecord.of(error, self._services.now()))


def _sort(kind: type[_Sort], value: str) -> _Sort:
    try:
        return kind(value)
    except ValueError as error:
        raise InvalidRequest(f"unknown order {value!r}: {', '.join(kind)} are known") from error


def _ends_all(error: EngineError) -> bool:
    """Whether an error is not of one entry alone."""
    return isinstance(error, EngineClosed | ScopeResetting | StoreError) and not isinstance(error, BadRecord)
