"""Scopes (accounts): the entries of one, and emptying one for good.

While a scope is emptied the store itself lets nothing new into it, whatever asks; the gate is a mark that outlives a
crash, and :meth:`Scopes.finish_resets` goes on from there. What completes late finds no row to complete.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import msgspec

from engine.control.each import for_each
from engine.control.group_requests import checked_scope
from engine.control.groups import Groups, Remove
from engine.errors import ScopeResetting, StorageError, StoreError
from engine.model.paging import Page
from engine.model.records import DownloadEntry
from engine.model.states import State
from engine.transfer.services import Services

RemoveAll = Callable[[str], Awaitable[object]]


class ScopeReset(msgspec.Struct, frozen=True):
    """What a reset took away. ``nameless``: entries whose records are so damaged that not even their ids are known;
    they are still there, and so may be their files."""

    scope: str
    entries: int
    groups: int
    nameless: int = 0


class Scopes:
    """The scopes of an open engine. ``remove`` removes an entry with its files, ``remove_all`` every sound one of a
    scope."""

    def __init__(self, services: Services, groups: Groups, *, remove: Remove, remove_all: RemoveAll) -> None:
        self._services = services
        self._store = services.store.groups
        self._groups = groups
        self._remove = remove
        self._remove_all = remove_all

    def check_open(self, scope: str) -> None:
        """Raises ScopeResetting while the scope is being emptied."""
        if self._store.resetting(scope):
            raise ScopeResetting(f"the scope {scope!r} is being reset")

    async def page(
        self, scope: str, *, state: State | None = None, after: str | None = None, limit: int = 100
    ) -> Page[DownloadEntry]:
        """At most ``limit`` entries of a scope in order of adding, those behind the cursor ``after``. Raises
        InvalidRequest."""
        return await self._services.work(self._store.of_scope, checked_scope(scope), state, after, limit)

    async def reset(self, scope: str) -> ScopeReset:
        """Stop and remove everything of a scope: entries in any state, groups, files. Nothing new is let in meanwhile
        (ScopeResetting). When it is interrupted (an error of the store, a cancellation, a crash), nothing is let in
        until it is asked for again, or the next start has finished it.

        Raises StorageError when all is removed but a file could not be deleted yet, StoreError when an entry cannot be
        removed.
        """
        services = self._services
        checked_scope(scope)
        await services.write(self._store.begin_reset, scope, services.now())  # ends changes of groups that go on
        async with self._groups.alone(scope):
            await services.write(self._store.begin_reset, scope, services.now())  # another reset may just have ended
            groups = 0
            while await services.write(self._store.drop_any, scope):
                groups += 1
            damaged, nameless = await services.work(self._store.damaged_of_scope, scope)
            entries = len(damaged) + len(await services.work(services.store.ids, None, scope))
            undeleted = await self._empty(scope, damaged)
            if left := await services.work(services.store.ids, None, scope):
                raise StoreError(f"{len(left)} entries of the scope {scope!r} could not be removed: {left[0]} …")
            await services.write(self._store.end_reset, scope)
        if undeleted is not None:
            raise undeleted
        return ScopeReset(scope, entries, groups, nameless)

    async def _empty(self, scope: str, damaged: Iterable[str]) -> StorageError | None:
        """Remove the sound entries of the scope and these; returns why a file could not be deleted, if so."""
        undeleted: StorageError | None = None
        try:
            await self._remove_all(scope)
        except StorageError as error:
            undeleted = error
        _, refusals = await for_each(damaged, self._remove)
        for refusal in refusals:
            if not isinstance(refusal, StorageError):
                raise refusal
            undeleted = refusal
        return undeleted

    async def finish_resets(self) -> list[ScopeReset]:
        """For the start, before anything runs: go on with what a crash interrupted."""
        scopes = await self._services.write(self._store.unfinished_resets)
        return [await self.reset(scope) for scope in scopes]
