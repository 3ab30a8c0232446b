"""The verbs for all entries: pages of them in one transaction each, with everything that one entry's verb promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from engine import DownloadRequest, Engine, Event, Reason, State, StateChanged, open_engine
from engine.control.bulk import PAGE_ENTRIES
from engine.errors import NoSpace
from engine.model.records import ErrorRecord
from engine.store.bulk import BulkStore
from tests.support.library import BIG_CHUNK, files_under, payload_of, small
from tests.support.origin import Reply, serve
from tests.support.verbs import begin, manager_of, moves_of, steps, told, until_taken_up

STILL = small(records_only=True)  # nothing runs
MANY = 2 * PAGE_ENTRIES + 10


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries each transaction was for."""
    counts: list[int] = []
    move = BulkStore.move

    def counted(store: BulkStore, moves: Any, now: float) -> Any:
        counts.append(len(moves))
        return move(store, moves, now)

    monkeypatch.setattr(BulkStore, "move", counted)
    return counts


async def added(engine: Engine, count: int, **fields: Any) -> list[str]:
    """Entries that wait."""
    names = [f"e{number:04}" for number in range(count)]
    await engine.offline_many(
        [DownloadRequest(url=f"http://127.0.0.1:9/{name}", id=name, **fields) for name in names],
    )
    return names


async def fail(engine: Engine, entry_id: str, code: str = "http_status") -> None:
    """As an attempt does that gives up."""
    error = ErrorRecord(code=code, message="made up", at=1.0)
    await moves_of(engine).move(await engine.get(entry_id), Event.FAIL, Reason.ERROR, last_error=error)


async def test_a_page_is_one_transaction_and_each_entry_an_event(library: Path, moved: list[int]) -> None:
    async with open_engine(library, config=STILL) as engine:
        names = await added(engine, MANY)
        async with told(engine) as events:
            paused = await engine.pause_all()
        assert moved == [PAGE_ENTRIES, PAGE_ENTRIES, 10]
        assert [entry.id for entry in paused] == names
        assert [(event.id, event.state, event.reason) for event in events if isinstance(event, StateChanged)] == [
            (name, State.PAUSED, Reason.USER) for name in names
        ]
        found = await engine.list(state=State.PAUSED, limit=1000)
        assert found == paused
        assert all(entry.paused_at == entry.updated_at > 0 for entry in found)
        assert not any(manager_of(engine).runs.active(name) for name in names)
        moved.clear()
        assert await engine.pause_all() == paused, "they are paused already"
        resumed = await engine.resume_all()
        assert moved == [PAGE_ENTRIES, PAGE_ENTRIES, 10]
        assert {(entry.state, entry.state_reason) for entry in resumed} == {(State.PENDING, Reason.NONE)}
        assert all(manager_of(engine).runs.kept(name) is not None for name in names), "each has its place again"


async def test_the_pause_of_the_network_becomes_the_users(library: Path, moved: list[int]) -> None:
    async with open_engine(library, config=STILL) as engine:
        names = await added(engine, 3)
        await until_taken_up(engine)  # or what is paused here would be taken for an earlier engine's, and go on
        for name in names[:2]:
            await manager_of(engine).pause(name, Reason.NETWORK)
        async with told(engine) as events:
            await engine.pause_all()
        assert moved == [2, 1]
        assert [event.reason for event in events if isinstance(event, StateChanged)] == [Reason.USER] * 3
        assert {entry.state_reason for entry in await engine.list()} == {Reason.USER}


async def test_failed_ones_begin_a_new_epoch_and_a_wrong_file_begins_anew(library: Path) -> None:
    async with open_engine(library, config=STILL) as engine:
        plain, wrong = await added(engine, 2)
        await fail(engine, plain)
        await fail(engine, wrong, "integrity")
        before = {entry.id: entry.epoch for entry in await engine.list()}
        retried = await engine.retry_failed()
        assert {entry.id: entry.epoch for entry in retried} == {name: epoch + 1 for name, epoch in before.items()}
        kept = {name: manager_of(engine).runs.kept(name) for name in (plain, wrong)}
        assert {name: one is not None and one.fresh for name, one in kept.items()} == {plain: False, wrong: True}


async def test_who_needs_credentials_or_a_place_that_is_taken_does_not_go_on(library: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "film.bin")
    async with open_engine(library, config=STILL) as engine:
        await added(engine, 1)
        await engine.offline(
            DownloadRequest(url="http://127.0.0.1:9/s", id="secret", secret_headers=(("X-Key", "k" * 20),))
        )
        await engine.offline(DownloadRequest(url="http://127.0.0.1:9/1", id="first", destination=target))
        await engine.pause_all()
        await engine.offline(DownloadRequest(url="http://127.0.0.1:9/2", id="second", destination=target))
        await engine.pause_all()
    async with open_engine(library, config=STILL) as engine:
        resumed = {entry.id: entry.state_reason for entry in await engine.resume_all()}
        assert resumed == {"e0000": Reason.NONE, "secret": Reason.NEEDS_CREDENTIALS, "first": Reason.NONE}
        assert (await engine.get("second")).state is State.PAUSED
        assert not manager_of(engine).runs.active("secret")


async def test_what_runs_and_what_waits_is_cancelled_and_leaves_nothing(library: Path) -> None:
    payload = payload_of(20 * BIG_CHUNK)
    config = small(entries_at_once=1)
    async with serve(payload, lambda asked: Reply(rate=4e6)) as origin, open_engine(library, config=config) as engine:
        await begin(engine, origin, "paused")
        await engine.pause("paused")
        await begin(engine, origin, "runs")
        await engine.offline(DownloadRequest(url=origin.url(), id="waits"))
        async with told(engine) as events:
            cancelled = await engine.cancel_all()
        assert {entry.id for entry in cancelled} == {"paused", "runs", "waits"}
        assert steps(events) == ["cancelled"] * 3
        assert files_under(library / "files") == set()
        assert engine._services.store.tombstones.all() == []


async def test_an_entry_in_other_hands_is_waited_for_and_keeps_no_other(library: Path, moved: list[int]) -> None:
    async with open_engine(library, config=STILL) as engine:
        names = await added(engine, 4)
        await engine.pause_all()
        async with trio.open_nursery() as nursery, manager_of(engine).runs.alone(names[1]):
            nursery.start_soon(engine.resume_all)
            with trio.fail_after(5), engine.events(names[3]) as events:
                async for _ in events:
                    break
            assert [entry.state for entry in await engine.list()] == [State.PENDING, State.PAUSED, *[State.PENDING] * 2]
        assert {entry.state for entry in await engine.list()} == {State.PENDING}
        assert moved == [4, 3]


async def test_a_scope_and_what_came_later_are_left_alone(library: Path) -> None:
    async with open_engine(library, config=STILL) as engine:
        await added(engine, 2, scope="mine")
        newest = engine._services.store.bulk.newest()
        for name, scope in (("later", "mine"), ("theirs", "other")):
            await engine.offline(DownloadRequest(url=f"http://127.0.0.1:9/{name}", id=name, scope=scope))
        changed, errors = await manager_of(engine).change_all(Event.PAUSE, "mine", newest)
        assert ({entry.id for entry in changed}, errors) == ({"e0000", "e0001"}, [])
        assert len(await engine.pause_all("mine")) == 3
        assert (await engine.get("theirs")).state is State.PENDING


async def test_a_store_that_is_full_moves_none_of_the_page(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_engine(library, config=STILL) as engine:
        names = await added(engine, 3)
        with monkeypatch.context() as patch:

            def full(*_: Any) -> Any:
                raise NoSpace("the disk is full")

            patch.setattr(BulkStore, "move", full)
            async with told(engine) as events:
                with pytest.raises(NoSpace):
                    await engine.pause_all()
        assert events == []
        assert all(manager_of(engine).runs.kept(name) is not None for name in names), "each has its place still"
        assert {entry.state for entry in await engine.list()} == {State.PENDING}
        assert len(await engine.pause_all()) == 3


async def test_all_that_run_and_wait_come_to_rest_while_they_are_paused(library: Path) -> None:
    """Turns go on being given while pages are moved: whoever gets one meanwhile is paused too."""
    payload = payload_of(4 * BIG_CHUNK)
    async with serve(payload) as origin, open_engine(library, config=small(entries_at_once=8)) as engine:
        names = [f"e{number}" for number in range(40)]
        await engine.offline_many([DownloadRequest(url=origin.url(name), id=name) for name in names])
        await origin.until_asked(8)
        await engine.pause_all()
        states = {entry.state for entry in await engine.list(limit=100)}
        assert states <= {State.PAUSED, State.COMPLETED}
        assert State.PAUSED in states
        await engine.resume_all()
        for name in names:
            await engine.wait(name)
