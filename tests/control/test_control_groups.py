"""Groups and scopes as the engine's callers meet them: what is refused, what is asked for, what is removed, and when.

What the manager does for entries is a stand-in here; ``tests/whole/test_whole_groups.py`` has all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine import DownloadRequest, Engine, InvalidRequest, State, open_engine
from engine.control.groups import Groups
from engine.control.requests import entry_of
from engine.control.scopes import Scopes
from engine.errors import (
    EngineError,
    NoSpace,
    ScopeResetting,
    StorageError,
    StoreError,
    StoreUnusable,
    TargetExists,
    UnknownEntry,
    UnknownGroup,
)
from engine.model.groups import (
    GROUP_STATES,
    GroupRequest,
    GroupState,
    MemberRecord,
    MemberSort,
    Place,
    changes_between,
    state_of,
)
from engine.model.states import Event
from tests.support.grouping import album, tracks
from tests.support.library import SMALL

BASE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({}, GroupState.EMPTY),
        ({None: 0, State.FAILED: 0}, GroupState.EMPTY),
        ({State.PENDING: 3}, GroupState.PENDING),
        ({State.PENDING: 3, State.PAUSED: 1}, GroupState.PENDING),
        ({State.PENDING: 3, State.CANCELLED: 1}, GroupState.PENDING),
        ({State.PENDING: 3, State.IN_PROGRESS: 1}, GroupState.IN_PROGRESS),
        ({State.IN_PROGRESS: 1, State.FAILED: 9}, GroupState.IN_PROGRESS),
        ({State.PENDING: 1, State.COMPLETED: 1}, GroupState.IN_PROGRESS),
        ({State.PENDING: 1, State.FAILED: 1}, GroupState.IN_PROGRESS),
        ({State.PAUSED: 1, State.COMPLETED: 5}, GroupState.PAUSED),
        ({State.COMPLETED: 5}, GroupState.COMPLETED),
        ({State.COMPLETED: 5, None: 0}, GroupState.COMPLETED),
        ({State.COMPLETED: 5, None: 1}, GroupState.PARTIAL),
        ({State.COMPLETED: 5, State.FAILED: 1}, GroupState.PARTIAL),
        ({State.COMPLETED: 5, State.CANCELLED: 1}, GroupState.PARTIAL),
        ({State.CANCELLED: 2}, GroupState.CANCELLED),
        ({State.CANCELLED: 2, State.FAILED: 1}, GroupState.FAILED),
        ({State.FAILED: 2}, GroupState.FAILED),
        ({None: 2}, GroupState.FAILED),
        ({State("newer"): 2}, GroupState.PARTIAL),
        ({State("newer"): 2, State.COMPLETED: 1}, GroupState.PARTIAL),
    ],
)
def test_the_state_of_a_group_follows_from_its_members(counts: dict[State | None, int], state: GroupState) -> None:
    assert state_of(Counter(counts)) is state


def test_every_state_of_a_group_can_be_reached() -> None:
    assert {state for _, state in GROUP_STATES} == set(GroupState)


def test_changes_are_only_what_differs() -> None:
    def at(entry_id: str, position: int, added_at: float = 0.0, title: str = "") -> MemberRecord:
        return MemberRecord(entry_id=entry_id, position=position, added_at=added_at, title=title)

    present = {Place(0, n): at(name, n, added_at=n + 1.0) for n, name in enumerate("abc")}
    assert changes_between(present, [at("a", 0, 9.0), at("b", 1, 9.0), at("c", 2, 9.0)], replace=True) == ([], [])
    assert changes_between(present, [at("a", 0, 9.0)], replace=False) == ([], [])
    put, drop = changes_between(present, [at("c", 0, 9.0), at("x", 5, 9.0), at("b", 1, 9.0, "new")], replace=True)
    assert put == [at("c", 0, 3.0), at("x", 5, 9.0), at("b", 1, 2.0, "new")]
    assert drop == [at("a", 0, 1.0), at("c", 2, 3.0)]


class Entries:
    """What stands in for the manager: entries are added and removed at once, except where a test says otherwise."""

    def __init__(self, engine: Engine) -> None:
        self._services = engine._services
        self.asked: list[str] = []
        self.removed: list[str] = []
        self.refuse: dict[str, EngineError] = {}
        self.removing = trio.Event()
        self.go_on = trio.Event()
        self.go_on.set()

    async def ask(self, request: DownloadRequest) -> None:
        entry = entry_of(request, self._services.config, 1.0)
        if entry.id in self.refuse:
            raise self.refuse[entry.id]
        self.asked.append(entry.id)
        await self._services.write(self._services.store.add_missing, [entry])

    async def ask_many(self, requests: Iterable[DownloadRequest]) -> None:
        for request in requests:
            await self.ask(request)

    async def remove(self, entry_id: str) -> None:
        self.removing.set()
        await self.go_on.wait()
        if entry_id in self.refuse:
            raise self.refuse[entry_id]
        await self._services.write(self._services.store.remove, entry_id)
        self.removed.append(entry_id)

    async def remove_all(self, scope: str) -> None:
        for entry_id in self._services.store.ids(None, scope):
            await self.remove(entry_id)

    def there(self) -> list[str]:
        return sorted(entry.id for entry in self._services.store.list())


@asynccontextmanager
async def opened(library: Path) -> AsyncIterator[tuple[Groups, Scopes, Entries]]:
    async with open_engine(library, config=SMALL, resume=False) as engine:
        entries = Entries(engine)
        groups = Groups(engine._services, ask=entries.ask, ask_many=entries.ask_many, remove=entries.remove)
        yield groups, Scopes(engine._services, groups, remove=entries.remove, remove_all=entries.remove_all), entries


async def ids(groups: Groups, group_id: str = "g", **options: Any) -> str:
    return "".join([member.entry_id for member in (await groups.members(group_id, **options)).items])


async def test_all_of_a_group_is_asked_for_and_again_when_it_is_asked_for_again(library: Path) -> None:
    async with opened(library) as (groups, _, entries):
        change = await groups.add(album(BASE, "cab"))
        assert change.asked == ("c", "a", "b")
        assert entries.there() == ["a", "b", "c"]
        assert await ids(groups) == "cab"
        assert await ids(groups, sort=MemberSort.TITLE) == "abc"
        await groups.add(album(BASE, "cab"))
        assert await ids(groups) == "cab"
        assert entries.asked == list("cabcab")
        assert entries.removed == []
        assert [group.id for group in (await groups.page()).items] == ["g"]


async def test_a_changed_playlist_asks_for_what_is_new_and_removes_what_nothing_holds(library: Path) -> None:
    """origin-behaviour 4.19: a removed track lingered."""
    async with opened(library) as (groups, _, entries):
        await groups.add(album(BASE, "abcd"))
        await groups.add(album(BASE, "d", "other"))
        entries.asked.clear()
        change = await groups.set_members("g", tracks(BASE, "bxa"))
        assert change.asked == ("x",)
        assert entries.asked == ["x"]
        assert change.removed == ("c",)
        assert await ids(groups) == "bxa"
        assert entries.there() == ["a", "b", "d", "x"]
        status = await groups.status("g")
        assert (status.members, status.state) == (3, GroupState.PENDING)
        with pytest.raises(UnknownGroup):
            await groups.set_members("nobody", ())


async def test_what_is_missing_is_asked_for_again(library: Path) -> None:
    async with opened(library) as (groups, _, entries):
        await groups.add(album(BASE, "ab"))
        await entries.remove("a")
        assert [member.entry_id for member in (await groups.status("g")).shortfalls] == ["a"]
        assert (await groups.set_members("g", tracks(BASE, "ab"))).asked == ("a",)


async def test_removing_a_group_twice_changes_nothing(library: Path) -> None:
    async with opened(library) as (groups, _, entries):
        await groups.add(album(BASE, "ab"))
        assert sorted((await groups.remove("g")).removed) == ["a", "b"]
        assert (await groups.remove("g")).removed == ()
        assert entries.there() == []
        with pytest.raises(UnknownGroup):
            await groups.status("g")


async def test_bug_19_what_runs_is_stopped_when_nothing_waits_for_its_turn_any_more(library: Path) -> None:
    """origin-behaviour 4.19: else each one that is stopped would let the next begin."""
    async with opened(library) as (groups, _, entries):
        await groups.add(album(BASE, "abc"))
        groups._services.store.transition("a", Event.START, epoch=1, now=2.0)
        await groups.remove("g")
        assert entries.removed[-1] == "a"


async def test_what_one_member_refuses_holds_up_no_other(library: Path) -> None:
    async with opened(library) as (groups, _, entries):
        entries.refuse["b"] = TargetExists("a file of yours is there")
        change = await groups.add(album(BASE, "abc"))
        assert entries.there() == ["a", "c"]
        assert [(refusal.entry_id, refusal.error.code) for refusal in change.refused] == [("b", "target_exists")]
        status = await groups.status("g")
        assert (status.missing, [member.entry_id for member in status.shortfalls]) == (1, ["b"])
        entries.refuse = {"a": NoSpace("full")}
        change = await groups.remove("g")
        assert change.removed == ("c",)
        assert [refusal.error.code for refusal in change.refused] == ["no_space"]


async def test_trouble_of_the_store_is_not_one_members(library: Path) -> None:
    async with opened(library) as (groups, _, entries):
        entries.refuse["b"] = StoreUnusable("gone")
        with pytest.raises(StoreUnusable):
            await groups.add(album(BASE, "abc"))
        entries.refuse["b"] = InvalidRequest("no")
        await groups.add(album(BASE, "abc"))
        entries.refuse["a"] = StoreUnusable("gone")
        with pytest.raises(StoreUnusable):
            await groups.remove("g")
    async with opened(library) as (groups, _, entries):  # what opens an engine finishes it
        assert await groups.finish() == []
        assert entries.there() == []


REQUEST = DownloadRequest(url=f"{BASE}/x")
WRONG: list[tuple[Any, str]] = [
    ("album", "GroupRequest"),
    (GroupRequest(id=""), "id"),
    (GroupRequest(id="a\nb"), "id"),
    (GroupRequest(id="x" * 513), "id"),
    (GroupRequest(id=7), "id"),  # type: ignore[arg-type]
    (GroupRequest(id="g", title="\ud800"), "title"),
    (GroupRequest(id="g", kind=None), "kind"),  # type: ignore[arg-type]
    (GroupRequest(id="g", metadata={"a": 1}), "metadata"),  # type: ignore[dict-item]
    (GroupRequest(id="g", metadata={str(n): "" for n in range(101)}), "metadata"),
    (GroupRequest(id="g", members=((REQUEST, 0),)), "a member is"),  # type: ignore[arg-type]
    (GroupRequest(id="g", members=(("http://h/x", 0, 0),)), "DownloadRequest"),  # type: ignore[arg-type]
    (GroupRequest(id="g", members=((REQUEST, -1, 0),)), "volume"),
    (GroupRequest(id="g", members=((REQUEST, 0, 2**32),)), "position"),
    (GroupRequest(id="g", members=((REQUEST, True, 0),)), "volume"),
    (GroupRequest(id="g", members=((REQUEST, 0, 1), (REQUEST, 0, 1))), "twice"),
    (GroupRequest(id="g", members=((DownloadRequest(url="no url"), 0, 3),)), "position 3"),
    (GroupRequest(id="g", members=((DownloadRequest(url=f"{BASE}/x", scope="y"), 0, 3),)), "scope"),
    (GroupRequest(id="g", members=tuple((REQUEST, 0, n) for n in range(10_001))), "10000"),
]


@pytest.mark.parametrize(("request_", "what"), WRONG, ids=[what for _, what in WRONG])
async def test_a_wrong_request_is_refused_before_anything_is_done(library: Path, request_: Any, what: str) -> None:
    async with opened(library) as (groups, _, entries):
        with pytest.raises(InvalidRequest, match=what):
            await groups.add(request_)
        assert (await groups.page()).items == ()
        assert entries.asked == []


async def test_wrong_names_and_orders_are_refused(library: Path) -> None:
    async with opened(library) as (groups, scopes, _):
        for call in (
            lambda: groups.members("g", sort="size"),  # type: ignore[arg-type]
            lambda: groups.page(scope=None),  # type: ignore[arg-type]
            lambda: groups.page(limit=0),
            lambda: groups.status(""),
            lambda: groups.remove(None),  # type: ignore[arg-type]
            lambda: scopes.reset(None),  # type: ignore[arg-type]
            lambda: scopes.page("\ud800"),
        ):
            with pytest.raises(InvalidRequest):
                await call()


async def test_a_group_holds_no_entry_of_another_scope(library: Path) -> None:
    async with opened(library) as (groups, _, entries):
        await entries.ask(DownloadRequest(url=f"{BASE}/a", id="a", scope="alice"))
        with pytest.raises(InvalidRequest, match="'alice'"):
            await groups.add(album(BASE, "ab", scope="bob"))
        assert (await groups.page(scope="bob")).items == ()
        await groups.add(album(BASE, "ab", scope="alice"))
        assert await ids(groups, scope="alice") == "ab"


async def test_asked_for_by_itself_it_stays_when_its_group_goes(library: Path) -> None:
    async with opened(library) as (groups, _, entries):
        await groups.own([DownloadRequest(url="anything, there are no groups")])
        await groups.add(album(BASE, "ab"))
        with pytest.raises(InvalidRequest):
            await groups.own([DownloadRequest(url="not an URL")])
        await groups.own([DownloadRequest(url=f"{BASE}/a", id="a")])
        assert (await groups.remove("g")).removed == ("b",)
        assert await groups.release("a") == ()
        assert entries.there() == []


async def test_released_it_stays_while_a_group_holds_it(library: Path) -> None:
    async with opened(library) as (groups, _, entries):
        await entries.ask(DownloadRequest(url=f"{BASE}/a", id="a"))
        await groups.add(album(BASE, "a"))
        assert await groups.release("a") == ("g",)
        assert entries.there() == ["a"]
        assert (await groups.remove("g")).removed == ("a",)
        with pytest.raises(UnknownEntry):
            await groups.release("a")


async def test_asked_for_while_it_is_being_removed(library: Path) -> None:
    """The last one wins: what is being removed is waited for, what is about to be removed stays."""
    async with opened(library) as (groups, _, entries), trio.open_nursery() as nursery:
        await groups.add(album(BASE, "a"))
        entries.go_on = trio.Event()
        nursery.start_soon(groups.remove, "g")
        await entries.removing.wait()
        owned = trio.Event()

        async def own() -> None:
            await groups.own([DownloadRequest(url=f"{BASE}/a", id="a")])
            owned.set()

        nursery.start_soon(own)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not owned.is_set()
        entries.go_on.set()
        with trio.fail_after(5):
            await owned.wait()
        assert entries.removed == ["a"]


async def test_asked_for_before_its_turn_to_be_removed_it_stays(library: Path) -> None:
    async with opened(library) as (groups, _, entries):
        await groups.add(album(BASE, "ab"))
        services = groups._services
        services.store.groups.drop("", "g")
        await groups.own([DownloadRequest(url=f"{BASE}/a", id="a")])
        assert [recovered.id for recovered in await groups.finish()] == ["b"]
        assert entries.there() == ["a"]


async def test_a_reset_takes_one_scope_and_all_of_it(library: Path) -> None:
    async with opened(library) as (groups, scopes, entries):
        await groups.add(album(BASE, "ab", scope="alice"))
        await groups.add(album(BASE, "bc", "h", scope="alice"))
        await groups.add(album(BASE, "xy", scope="bob"))
        await entries.ask(DownloadRequest(url=f"{BASE}/z", id="z", scope="alice"))
        reset = await scopes.reset("alice")
        assert (reset.entries, reset.groups) == (4, 2)
        assert entries.there() == ["x", "y"]
        assert (await groups.page(scope="alice")).items == ()
        assert await ids(groups, scope="bob") == "xy"
        assert (await scopes.page("alice")).items == ()
        assert [entry.id for entry in (await scopes.page("bob")).items] == ["x", "y"]
        await groups.add(album(BASE, "ab", scope="alice"))
        assert (await scopes.reset("nobody")).entries == 0


async def test_bug_25_nothing_is_let_into_a_scope_while_it_is_reset(library: Path) -> None:
    """origin-behaviour 4.25: in-flight completion could resurrect rows during reset."""
    async with opened(library) as (groups, scopes, entries), trio.open_nursery() as nursery:
        await groups.add(album(BASE, "ab", scope="alice"))
        entries.go_on = trio.Event()
        nursery.start_soon(scopes.reset, "alice")
        await entries.removing.wait()
        with pytest.raises(ScopeResetting):
            scopes.check_open("alice")
        scopes.check_open("bob")
        with pytest.raises(ScopeResetting):
            await entries.ask(DownloadRequest(url=f"{BASE}/new", id="new", scope="alice"))
        adding = trio.Event()

        async def add() -> None:
            await groups.add(album(BASE, "n", scope="alice"))  # it waits, and comes after the reset
            adding.set()

        nursery.start_soon(add)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not adding.is_set()
        entries.go_on.set()
        with trio.fail_after(5):
            await adding.wait()
        scopes.check_open("alice")
        assert entries.there() == ["n"]


async def test_a_reset_that_was_interrupted_is_finished_at_the_next_start(library: Path) -> None:
    async with opened(library) as (groups, scopes, entries):
        await groups.add(album(BASE, "abc", scope="alice"))
        entries.refuse["b"] = StoreUnusable("the machine went down")
        with pytest.raises(StoreUnusable):
            await scopes.reset("alice")
        with pytest.raises(ScopeResetting):
            await groups.add(album(BASE, "n", scope="alice"))
        assert entries.there() == ["b", "c"]
    async with opened(library) as (_, scopes, entries):
        assert entries.there() == []
        scopes.check_open("alice")
        assert await scopes.finish_resets() == []


async def test_a_file_that_cannot_be_deleted_does_not_keep_a_scope_closed(library: Path) -> None:
    async with opened(library) as (groups, scopes, entries):
        await groups.add(album(BASE, "a", scope="alice"))

        async def remove_all(scope: str) -> None:
            await entries.remove_all(scope)
            raise StorageError("its file is in use")

        scopes._remove_all = remove_all
        with pytest.raises(StorageError):
            await scopes.reset("alice")
        scopes.check_open("alice")


async def test_an_entry_that_cannot_be_removed_keeps_a_scope_closed(library: Path) -> None:
    async with opened(library) as (groups, scopes, _):
        await groups.add(album(BASE, "a", scope="alice"))

        async def remove_nothing(scope: str) -> None:
            await trio.lowlevel.checkpoint()

        scopes._remove_all = remove_nothing
        with pytest.raises(StoreError, match="a"):
            await scopes.reset("alice")
        with pytest.raises(ScopeResetting):
            scopes.check_open("alice")
