"""Albums, playlists and accounts with real downloads: files come and go with the links that hold them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from engine import DownloadRequest, Engine, EngineError, InvalidRequest, State, open_engine
from engine.errors import ScopeResetting, StoreUnusable, UnknownEntry
from engine.model.groups import GroupRequest, GroupState
from engine.model.states import Event
from engine.store.codec import Table, entry_key
from tests.store.helpers import spoil
from tests.support.grouping import album, controllers, tracks
from tests.support.library import BIG_CHUNK, CHUNK, files_under, parts_under, payload_of, small
from tests.support.origin import Asked, Origin, Reply, serve

CONFIG = small(entries_at_once=4)
PAYLOAD = payload_of(2 * CHUNK + 5, seed=31)
LARGE = payload_of(20 * BIG_CHUNK, seed=32)


async def until(engine: Engine, state: GroupState, group_id: str = "g", **options: Any) -> None:
    groups, _ = controllers(engine)
    with trio.fail_after(20), engine.events() as events:
        while (await groups.status(group_id, **options)).state is not state:
            await anext(events)


async def path_of(engine: Engine, entry_id: str) -> str:
    offline = await engine.offline_entry(entry_id)
    assert offline is not None
    return offline.path


def names(origin: Origin) -> list[str]:
    return [asked.target.rpartition("/")[2] for asked in origin.asked]


async def test_an_album_comes_whole_and_is_asked_for_once(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=CONFIG) as engine:
        groups, _ = controllers(engine)
        letters = "abcdefghijklmnop"
        await groups.add(album(origin.base, letters))
        await until(engine, GroupState.COMPLETED)
        status = await groups.status("g")
        assert (status.bytes_done, status.bytes_total, status.sizes_unknown) == (*(16 * len(PAYLOAD),) * 2, 0)
        assert status.shortfalls == ()
        await groups.add(album(origin.base, letters))
        await until(engine, GroupState.COMPLETED)
        assert sorted(names(origin)) == list(letters)
        assert {entry.group_id for entry in await engine.list()} == {"g"}


async def test_a_member_that_fails_stops_no_other_and_is_reported(library: Path) -> None:
    """Issue 4, 6: per-item failure never stops a group; shortfalls are told per item."""

    def script(asked: Asked) -> Reply:
        return Reply(status=404) if asked.target.endswith("/b") else Reply()

    async with serve(PAYLOAD, script) as origin, open_engine(library, config=CONFIG) as engine:
        groups, _ = controllers(engine)
        await groups.add(album(origin.base, "abcde"))
        await until(engine, GroupState.PARTIAL)
        status = await groups.status("g")
        assert status.counts == {State.COMPLETED: 4, State.FAILED: 1}
        [short] = status.shortfalls
        assert (short.entry_id, short.position) == ("b", 1)
        assert short.error is not None
        assert (short.error.code, short.error.status) == ("not_found", 404)
        assert short.error.advice


async def test_bug_23_a_shared_file_goes_with_its_last_link(library: Path) -> None:
    """origin-behaviour 4.23: members with no link were left, and files of replaced members stayed."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=CONFIG) as engine:
        groups, _ = controllers(engine)
        own = await engine.offline(DownloadRequest(url=f"{origin.base}/o", id="o"))
        await own.wait()
        await groups.add(album(origin.base, "abo"))
        await groups.add(album(origin.base, "bcdo", "h"))
        await until(engine, GroupState.COMPLETED)
        await until(engine, GroupState.COMPLETED, "h")
        paths = {name: await path_of(engine, name) for name in "abcdo"}
        await groups.add(album(origin.base, "xbco", "h"))  # takes the place of b, which goes to that of c, …
        await until(engine, GroupState.COMPLETED, "h")
        assert not os.path.exists(paths["d"])
        assert sorted((await groups.remove("g")).removed) == ["a"]
        assert {name for name, path in paths.items() if os.path.exists(path)} == {"b", "c", "o"}
        assert sorted((await groups.remove("h")).removed) == ["b", "c", "x"]
        assert [entry.id for entry in await engine.list()] == ["o"]
        assert files_under(library / "files") == {os.path.basename(paths["o"])}


async def test_bug_19_removing_an_album_stops_its_running_children(library: Path) -> None:
    """origin-behaviour 4.19: removing a collection did not stop its running children."""
    tracks_ = [f"t{number:03}" for number in range(100)]  # more than are removed at once
    async with serve(LARGE) as origin, open_engine(library, config=CONFIG) as engine:
        origin.rate = 1e6
        groups, _ = controllers(engine)
        await groups.add(album(origin.base, tracks_))
        await origin.until_asked(4)
        await until(engine, GroupState.IN_PROGRESS)
        with trio.fail_after(10):
            change = await groups.remove("g")
        assert sorted(change.removed) == tracks_
        assert await engine.list() == []
        assert set(names(origin)) == set(tracks_[:4]), "no other began while they were stopped"
        assert files_under(library / "files") == set()
        assert not engine._manager.runs.active(tracks_[0])


async def test_bug_19_a_track_that_left_the_playlist_does_not_linger(library: Path) -> None:
    """origin-behaviour 4.19: out-of-order store and remove left a removed track behind."""
    async with serve(LARGE) as origin, open_engine(library, config=CONFIG) as engine:
        origin.rate = 3e6
        groups, _ = controllers(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(groups.add, album(origin.base, "abc"))
            await trio.lowlevel.checkpoint()
            nursery.start_soon(groups.add, album(origin.base, "d", "h"))
            await origin.until_asked(1)
            nursery.start_soon(groups.set_members, "g", tracks(origin.base, "cd"))
        origin.rate = None
        await until(engine, GroupState.COMPLETED)
        assert sorted(entry.id for entry in await engine.list()) == ["c", "d"]
        assert len(files_under(library / "files")) == 2
        assert (await groups.remove("h")).removed == ()


async def until_only(engine: Engine, *left: str) -> None:
    with trio.fail_after(10), engine.events() as events:
        while {entry.id for entry in await engine.list()} != set(left):
            await anext(events)


@pytest.mark.parametrize("change", ["remove", "set"])
async def test_a_change_that_is_given_up_half_way_is_finished(
    library: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The group was gone and its members stayed until the next start, also when it was removed again."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=CONFIG) as engine:
        await engine.add_group(album(origin.base, "abcdef"))
        await until(engine, GroupState.COMPLETED)
        groups, scope = engine._services.store.groups, trio.CancelScope()

        def then_cancelled(name: str) -> None:
            call = getattr(groups, name)

            def made(*args: Any, **kwargs: Any) -> Any:
                trio.from_thread.run_sync(scope.cancel)
                return call(*args, **kwargs)

            monkeypatch.setattr(groups, name, made)

        with scope:
            if change == "remove":
                then_cancelled("drop")
                await engine.remove_group("g")
            else:
                then_cancelled("put")
                await engine.set_group_members("g", tracks(origin.base, "a"))
        assert scope.cancelled_caught
        await until_only(engine, *([] if change == "remove" else ["a"]))
        with trio.fail_after(10):
            while files_under(library / "files") != (set() if change == "remove" else {"a"}):  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_file_that_is_to_be_kept_is_kept_when_its_removal_is_given_up_half_way(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=CONFIG) as engine:
        download = await engine.offline(DownloadRequest(url=origin.url(), id="a"))
        path = (await download.wait()).path
        groups, scope = engine._services.store.groups, trio.CancelScope()
        disown = groups.disown

        def cancelled(entry_id: str) -> tuple[str, ...]:
            trio.from_thread.run_sync(scope.cancel)
            return disown(entry_id)

        monkeypatch.setattr(groups, "disown", cancelled)
        with scope:
            await engine.remove("a", keep_file=True)
        await until_only(engine)
        assert groups.leaving() == []
        assert os.path.getsize(path) == len(PAYLOAD)
    assert os.path.getsize(path) == len(PAYLOAD)


async def test_what_is_refused_of_a_change_does_not_keep_what_left(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=CONFIG) as engine:
        await engine.add_group(album(origin.base, "abc"))
        await until(engine, GroupState.COMPLETED)

        def broken(entries: object) -> object:
            raise StoreUnusable("nothing new is taken")

        monkeypatch.setattr(engine._services.store, "add_missing", broken)
        with pytest.raises(StoreUnusable):
            await engine.set_group_members("g", tracks(origin.base, "az"))
        await until_only(engine, "a")


async def test_a_crash_between_the_last_link_and_the_file_leaves_nothing(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=CONFIG) as engine:
            groups, _ = controllers(engine)
            await groups.add(album(origin.base, "ab"))
            await until(engine, GroupState.COMPLETED)

            async def die(entry_id: str) -> None:
                raise StoreUnusable("the process was killed here")

            groups._remove = die
            with pytest.raises(StoreUnusable):
                await groups.remove("g")
            assert len(await engine.list()) == 2
        async with open_engine(library, config=CONFIG) as engine:
            assert sorted(recovered.id for recovered in engine.recovered) == ["a", "b"]
            assert await engine.list() == []
            assert files_under(library / "files") == set()
            assert await controllers(engine)[0].finish() == []


async def test_asked_for_while_its_group_goes_it_is_there_in_the_end(library: Path) -> None:
    async with serve(LARGE) as origin, open_engine(library, config=CONFIG) as engine:
        origin.rate = 2e6
        groups, _ = controllers(engine)
        await groups.add(album(origin.base, "abcdef"))
        await origin.until_asked(3)
        request = DownloadRequest(url=f"{origin.base}/a", id="a")

        async def ask() -> None:
            await groups.own([request])
            await engine.offline(request)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(groups.remove, "g")
            await trio.lowlevel.checkpoint()
            nursery.start_soon(ask)
        origin.rate = None
        with trio.fail_after(10):
            await engine.wait("a")
        assert [entry.id for entry in await engine.list()] == ["a"]
        assert len(files_under(library / "files")) == 1
        assert not engine._services.store.groups.leaving()


async def test_a_reset_empties_one_account_while_it_is_at_work(library: Path) -> None:
    async with serve(LARGE) as origin, open_engine(library, config=CONFIG) as engine:
        groups, scopes = controllers(engine)
        await (await engine.offline(DownloadRequest(url=f"{origin.base}/z", id="z", scope="bob"))).wait()
        await (await engine.offline(DownloadRequest(url=f"{origin.base}/y", id="y", scope="alice"))).wait()
        origin.rate = 1e6
        await groups.add(album(origin.base, "abcdefgh", scope="alice"))
        await until(engine, GroupState.IN_PROGRESS, scope="alice")
        with trio.fail_after(10):
            reset = await scopes.reset("alice")
        assert (reset.entries, reset.groups) == (9, 1)
        assert [entry.id for entry in await engine.list()] == ["z"]
        assert files_under(library / "files") == {os.path.basename(await path_of(engine, "z"))}
        assert parts_under(library / "files") == set()
        origin.rate = None
        await groups.add(album(origin.base, "ab", scope="alice"))
        await until(engine, GroupState.COMPLETED, scope="alice")


async def test_bug_25_a_late_completion_finds_no_row_to_bring_back(library: Path) -> None:
    """origin-behaviour 4.25: an in-flight completion could resurrect rows during a reset."""
    async with serve(LARGE) as origin, open_engine(library, config=CONFIG) as engine:
        groups, scopes = controllers(engine)
        store = engine._services.store
        origin.rate = 1e6
        await groups.add(album(origin.base, "a", scope="alice"))
        await until(engine, GroupState.IN_PROGRESS, scope="alice")
        late = store.get("a")
        assert late is not None
        await scopes.reset("alice")
        with pytest.raises(UnknownEntry):
            store.transition("a", Event.FAIL, epoch=late.epoch, now=1.0)
        await groups.add(album(origin.base, "a", scope="alice"))
        with pytest.raises(EngineError) as stale:
            store.transition("a", Event.FAIL, epoch=late.epoch, now=1.0)
        assert stale.value.code == "stale_epoch"


async def test_bug_25_accounts_are_apart(library: Path) -> None:
    """origin-behaviour 4.25: unscoped storage leaked a previous user's downloads."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=CONFIG) as engine:
        groups, scopes = controllers(engine)
        for scope in ("alice", "bob"):
            members = tuple(
                (DownloadRequest(url=f"{origin.base}/{n}"), 1, n) for n in range(3)
            )  # ids of their own: derived from the scope too
            await groups.add(GroupRequest(id="g", scope=scope, members=members))
            await until(engine, GroupState.COMPLETED, scope=scope)
        mine = {entry.id for entry in (await scopes.page("alice")).items}
        theirs = {entry.id for entry in (await scopes.page("bob")).items}
        assert (len(mine), len(theirs), mine & theirs) == (3, 3, set())
        assert len(files_under(library / "files")) == 6
        some = min(mine)
        with pytest.raises(InvalidRequest, match="scope"):
            await engine.offline(DownloadRequest(url=f"{origin.base}/0", id=some, scope="bob"))
        await scopes.reset("alice")
        assert {entry.id for entry in await engine.list()} == theirs
        assert len(files_under(library / "files")) == 3


async def test_a_reset_that_the_process_did_not_survive_goes_on_at_the_next_start(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=CONFIG) as engine:
            groups, scopes = controllers(engine)
            await groups.add(album(origin.base, "abc", scope="alice"))
            await until(engine, GroupState.COMPLETED, scope="alice")

            async def die(scope: str) -> None:
                await engine._manager.remove("a")
                raise StoreUnusable("the process was killed here")

            scopes._remove_all = die
            with pytest.raises(StoreUnusable):
                await scopes.reset("alice")
            assert len(await engine.list()) == 2
            with pytest.raises(ScopeResetting):
                await engine.offline(DownloadRequest(url=f"{origin.base}/n", id="n", scope="alice"))
        async with open_engine(library, config=CONFIG) as engine:
            assert await engine.list() == []
            assert files_under(library / "files") == set()
            await engine.offline(DownloadRequest(url=f"{origin.base}/n", id="n", scope="alice"))


async def test_a_reset_takes_entries_with_damaged_records_too(library: Path) -> None:
    """Their files are the account's as much as the others'; what has lost even its name is told."""
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=CONFIG) as engine:
            groups, _ = controllers(engine)
            await groups.add(album(origin.base, "abc", scope="alice"))
            await until(engine, GroupState.COMPLETED, scope="alice")
        spoil(str(library), Table.ENTRIES, lambda key: key in {entry_key("b"), entry_key("c")})
        spoil(str(library), Table.OFFLINE, lambda key: key == entry_key("c"))
        async with open_engine(library, config=CONFIG) as engine:
            _, scopes = controllers(engine)
            reset = await scopes.reset("alice")
            assert (reset.entries, reset.nameless) == (2, 1)
            assert len(files_under(library / "files")) == 1
            assert len((await scopes.page("alice")).damaged) == 1
