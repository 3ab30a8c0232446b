"""The face of groups, links and scopes, reached as ``store.groups``: every method is one whole transaction, with the
promises of :class:`~engine.store.state_store.StateStore`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.model.groups import GroupRecord, GroupSort, GroupStatus, Member, MemberRecord, MemberSort
from engine.model.paging import Page
from engine.model.records import DownloadEntry
from engine.model.states import State
from engine.store import groups, links, quotas, resets, scopes
from engine.store.environment import Environment
from engine.store.txn import Txn


class GroupStore:
    """Part of a store; lives as long as it."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    # Groups.

    def find(self, scope: str, group_id: str) -> GroupRecord | None:
        """The group, or None. Raises BadRecord."""
        return self._environment.read(lambda txn: groups.find(txn, scope, group_id))

    def page(
        self, scope: str, sort: GroupSort = GroupSort.TITLE, after: str | None = None, limit: int = 100
    ) -> Page[GroupRecord]:
        """Groups of a scope in that order, those behind the cursor ``after``. Raises InvalidRequest."""
        return self._environment.read(lambda txn: groups.page(txn, scope, sort, after, limit))

    def members(
        self,
        scope: str,
        group_id: str,
        sort: MemberSort = MemberSort.PLACE,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Member]:
        """Members of a group in that order. Raises UnknownGroup, InvalidRequest."""
        return self._environment.read(lambda txn: groups.members(txn, scope, group_id, sort, after, limit))

    def status(self, scope: str, group_id: str) -> GroupStatus:
        """The group as a whole. Raises UnknownGroup."""
        return self._environment.read(lambda txn: groups.status(txn, scope, group_id))

    def members_there(self, scope: str, group_id: str) -> set[str]:
        """The ids of the members whose entries are there. Raises UnknownGroup."""
        return self._environment.read(lambda txn: groups.members_there(txn, scope, group_id))

    def put(self, group: GroupRecord, wanted: Sequence[MemberRecord], *, replace: bool) -> list[str]:
        """Store the group with these members, beside those it has or (``replace``) instead of them; returns the entries
        that nothing holds now. Raises ScopeResetting."""
        return self._environment.write(lambda txn: groups.put(txn, group, wanted, replace=replace))

    def drop(self, scope: str, group_id: str) -> list[str] | None:
        """Take the group away; returns the entries that nothing holds now, None when there is no such group."""
        return self._environment.write(lambda txn: groups.drop(txn, scope, group_id))

    # Links.

    def any_held(self) -> bool:
        """Whether any entry is held by a group, or about to be removed because none holds it."""
        return self._environment.read(links.any_held)

    def needs_owning(self, entry_ids: Iterable[str]) -> list[str]:
        """Those of the entries for which :meth:`own` would change something."""
        asked = tuple(entry_ids)
        return self._environment.read(lambda txn: links.needs_owning(txn, asked))

    def own(self, entry_ids: Iterable[str]) -> None:
        """They are wanted by themselves too: they stay when their last group goes."""
        asked = tuple(entry_ids)
        self._environment.write(lambda txn: links.own(txn, asked))

    def disown(self, entry_id: str) -> tuple[str, ...]:
        """It is not wanted by itself any more; returns the groups that hold it still. With none it is to be removed."""
        return self._environment.write(lambda txn: links.disown(txn, entry_id))

    def groups_of(self, entry_id: str) -> tuple[str, ...]:
        """The ids of the groups that hold the entry."""
        return self._environment.read(lambda txn: links.groups_of(txn, entry_id))

    def is_leaving(self, entry_id: str) -> bool:
        """Whether the entry is to be removed because nothing holds it."""
        return self._environment.read(lambda txn: links.is_leaving(txn, entry_id))

    def leaving(self) -> list[str]:
        """All entries that are to be removed because nothing holds them."""
        return self._environment.read(links.leaving)

    def gone(self, entry_ids: Iterable[str]) -> None:
        """They are removed."""
        removed = tuple(entry_ids)
        self._environment.write(lambda txn: links.gone(txn, removed))

    # Scopes.

    def of_scope(
        self, scope: str, state: State | None = None, after: str | None = None, limit: int = 100
    ) -> Page[DownloadEntry]:
        """Entries of a scope in order of adding; with a state, only those in it. Raises InvalidRequest."""
        return self._environment.read(lambda txn: scopes.page(txn, scope, state, after, limit))

    def damaged_of_scope(self, scope: str) -> tuple[list[str], int]:
        """Entries of a scope whose records are damaged: the ids that are known, and how many more there are."""
        return self._environment.read(lambda txn: scopes.damaged(txn, scope))

    def begin_reset(self, scope: str, now: float) -> None:
        """Let nothing new into the scope, until :meth:`end_reset`; a crash changes nothing about it."""
        self._environment.write(lambda txn: resets.begin(txn, scope, now))

    def drop_any(self, scope: str) -> bool:
        """Take one group of a scope that is being reset away; False when there is none left."""
        return self._environment.write(lambda txn: groups.drop_any(txn, scope))

    def end_reset(self, scope: str) -> None:
        """Let new entries into the scope again."""
        self._environment.write(lambda txn: resets.end(txn, scope))

    def resetting(self, scope: str) -> bool:
        """Whether the scope is being reset."""
        return self._environment.read(lambda txn: resets.closed(txn, scope))

    def set_quota(self, scope: str, quota_bytes: int | None) -> None:
        """Record what the files of a scope may take together; None takes that back."""
        self._environment.write(lambda txn: quotas.put(txn, scope, quota_bytes))

    def quotas(self) -> dict[str, int]:
        """The recorded quotas in bytes, by scope; a damaged one is left out."""
        return self._environment.read(quotas.all_of)

    def unfinished_resets(self) -> list[str]:
        """Scopes whose reset has begun and not ended."""

        def work(txn: Txn) -> list[str]:
            resets.drop_damaged(txn)
            return resets.unfinished(txn)

        return self._environment.write(work)
