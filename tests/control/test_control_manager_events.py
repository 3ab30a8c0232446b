"""Events as the engine tells them: a snapshot first, then the changes, without a gap and never back in time."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.lowlevel

from engine import DownloadRequest, Engine, Event, EventsLost, Reason, State, StateChanged, open_engine
from engine.control import hub as hub_module
from engine.control.hub import EventHub, Subscription
from engine.model.events import EngineEvent, Removed, Snapshot
from engine.store.state_store import StateStore
from tests.store.helpers import entry, open_store
from tests.support.library import BIG_CHUNK, SMALL, payload_of, small
from tests.support.origin import Reply, serve
from tests.support.verbs import begin, manager_of, until_state

PAYLOAD = payload_of(20 * BIG_CHUNK + 11, seed=421)


def subscribe(engine: Engine, entry_id: str | None = None) -> Subscription:
    return engine._hub.subscribe(entry_id, snapshot=True)


async def snapshot(subscription: Subscription) -> list[Snapshot]:
    """All pages of it."""
    pages: list[Snapshot] = []
    while not pages or not pages[-1].last:
        page = await anext(subscription)
        assert isinstance(page, Snapshot)
        pages.append(page)
    return pages


async def next_change(subscription: Subscription) -> StateChanged:
    """The next change of a state."""
    async for event in subscription:
        if isinstance(event, StateChanged):
            return event
    raise AssertionError("the events have ended")


async def test_the_entries_as_they_are_come_first(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(entries_at_once=1)) as engine:
        await begin(engine, origin, "running")
        names = [f"e{number}" for number in range(250)]
        await engine.offline_many([DownloadRequest(url=origin.url(name), id=name) for name in names])
        with subscribe(engine) as subscription:
            await manager_of(engine).pause("e7")
            pages = await snapshot(subscription)
            assert [len(page.entries) for page in pages] == [100, 100, 51]
            shown = [entry for page in pages for entry in page.entries]
            assert [entry.id for entry in shown] == ["running", *names]
            assert {entry.id: entry.state for entry in shown}["e7"] is State.PAUSED
            await manager_of(engine).pause("e8")
            change = await next_change(subscription)
            assert (change.id, change.state, change.reason) == ("e8", State.PAUSED, Reason.USER), "e7's was shown"
        await manager_of(engine).remove_all()


async def test_one_entrys_snapshot_is_that_entry_or_nothing(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await begin(engine, origin)
        with subscribe(engine, "x") as subscription, subscribe(engine, "y") as other:
            [page] = await snapshot(subscription)
            assert ([entry.id for entry in page.entries], page.id) == (["x"], "x")
            assert (await snapshot(other))[0].entries == ()
            await manager_of(engine).remove("x")
            while not isinstance(event := await anext(subscription), Removed):
                assert event.id == "x"


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return open_store(str(tmp_path))


def changed(entry_id: str, state: State) -> StateChanged:
    return StateChanged(id=entry_id, epoch=1, attempt=1, previous=None, state=state)


async def test_no_change_is_lost_or_told_after_a_newer_state(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries move, come and go between the pages."""
    monkeypatch.setattr(hub_module, "SNAPSHOT_ENTRIES_MAX", 2)
    hub = EventHub()
    hub.attach(store)

    def move(entry_id: str, event: Event) -> None:
        moved = store.transition(entry_id, event, epoch=1, now=1.0)
        hub.emit(changed(entry_id, moved.state))

    for name in "abcd":
        store.add(entry(name))
    subscription = hub.subscribe(snapshot=True)
    first = await anext(subscription)
    assert isinstance(first, Snapshot)
    assert ([one.id for one in first.entries], first.last) == (["a", "b"], False)
    move("a", Event.START)  # shown already: is told later
    move("c", Event.START)  # not shown yet: the page will be newer
    store.remove("b")  # the last one of the page before
    hub.emit(Removed(id="b", epoch=1, attempt=0))
    store.add(entry("e"))
    hub.emit(changed("e", State.PENDING))
    move("c", Event.PAUSE)
    rest = [page for page in await snapshot(subscription) if page.entries]
    assert [(one.id, one.state) for page in rest for one in page.entries] == [
        ("c", State.PAUSED), ("d", State.PENDING), ("e", State.PENDING),
    ]  # fmt: skip
    hub.close()
    told: list[EngineEvent] = [event async for event in subscription]
    assert told == [changed("a", State.IN_PROGRESS), Removed(id="b", epoch=1, attempt=0)]
    store.close()


async def test_a_consumer_that_raises_or_never_reads_harms_nobody(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "MAILBOX_EVENTS_MAX", 5)

    async def raising(engine: Engine) -> None:
        async for _ in engine.events():
            raise RuntimeError("its own trouble")

    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        stuck, stuck_early = engine.events(), subscribe(engine)
        raised: list[BaseException] = []

        async def contained() -> None:
            with pytest.raises(RuntimeError) as error:
                await raising(engine)
            raised.append(error.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(contained)
            await trio.lowlevel.checkpoint()
            for name in "abcd":
                await (await engine.offline(DownloadRequest(url=origin.url(name), id=name))).wait()
        assert len(raised) == 1
        for slow in (stuck, stuck_early):
            with pytest.raises(EventsLost):
                await anext(slow)


async def test_a_retry_that_is_coming_tells_when_and_which_it_is(library: Path) -> None:
    busy = Reply(status=503)
    config = small(backoff_base_s=30.0, backoff_max_s=60.0)
    async with serve(PAYLOAD, lambda asked: busy) as origin, open_engine(library, config=config, seed=5) as engine:
        with engine.events("x") as events:
            await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            while (event := await next_change(events)).reason is not Reason.BACKOFF:
                assert event.retry_at is None
        found = await engine.get("x")
        assert event.retry_at == found.next_retry_at
        assert 1 <= event.tries < event.tries_max
        assert event.error is not None
        await until_state(engine, "x", State.PENDING, Reason.BACKOFF)


async def test_a_snapshot_of_an_engine_that_closes_ends(library: Path) -> None:
    async with open_engine(library, config=SMALL) as engine:
        subscription = subscribe(engine)
    assert [event async for event in subscription] == []
