"""What is refused by the store, or given up by its caller, half-way: nothing is left that nobody moves on."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine import DownloadFailed, DownloadRequest, Engine, InvalidRequest, State, open_engine
from engine.errors import NoSpace
from engine.model.states import Event
from tests.support.library import BIG_CHUNK, CHUNK, content, payload_of, small
from tests.support.origin import Origin, Reply, serve
from tests.support.verbs import manager_of

PAYLOAD = payload_of(2 * CHUNK + 5, seed=511)
LARGE = payload_of(20 * BIG_CHUNK, seed=512)
ONE_AT_ONCE = small(entries_at_once=1, reconcile_interval_s=1000.0)
SECRET = ("Authorization", "Bearer x")


@contextmanager
def full(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, *events: Event) -> Iterator[None]:
    """The disk is full for that change of the store (by one of these events), for entries other than "first"."""
    call = getattr(owner, name)

    def refused(*args: Any, **kwargs: Any) -> Any:
        if args[0] != "first" and (not events or args[1] in events):
            raise NoSpace("the store's disk is full")
        return call(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refused)
        yield


async def _pause(engine: Engine, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(monkeypatch, engine._services.store, "transition", Event.PAUSE):
        await engine.pause("b")


async def _cancel(engine: Engine, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(monkeypatch, engine._services.store, "transition", Event.CANCEL):
        await engine.cancel("b")


async def _ask(engine: Engine, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(monkeypatch, engine._services.store, "update"):
        await engine.offline(request(origin, title="another"))


async def _remove(engine: Engine, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    with full(monkeypatch, engine._services.store.tombstones, "bury"):
        await manager_of(engine).remove("b")  # as evicting does: what a user asked for is finished by itself


Change = Callable[[Engine, Origin, pytest.MonkeyPatch], Awaitable[None]]


def request(origin: Origin, **fields: Any) -> DownloadRequest:
    return DownloadRequest(url=origin.url("b"), id="b", headers=(SECRET,), **fields)


@pytest.mark.parametrize("change", [_pause, _cancel, _ask, _remove])
async def test_what_the_store_refuses_leaves_the_entry_its_place(
    library: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    """It had lost its place in the queue, and was PENDING for ever: not looked at again but at the next start."""
    async with serve(LARGE) as origin, open_engine(library, config=ONE_AT_ONCE, resume=False) as engine:
        origin.rate = 4e6
        first = await engine.offline(DownloadRequest(url=origin.url("first"), id="first"))
        waiting = await engine.offline(request(origin))
        with pytest.raises(NoSpace):
            await change(engine, origin, monkeypatch)
        assert (await engine.get("b")).state is State.PENDING
        origin.rate = None
        with trio.fail_after(10):
            await first.wait()
            await waiting.wait()
    assert {asked.fields.get("authorization") for asked in origin.asked if asked.target == "/b"} == {SECRET[1]}


async def test_what_the_store_refuses_leaves_a_running_one_to_go_on(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped to be asked for otherwise, and that is refused: it goes on as it was asked for before."""
    async with serve(LARGE) as origin, open_engine(library, config=ONE_AT_ONCE, resume=False) as engine:
        origin.rate = 4e6
        download = await engine.offline(request(origin))
        await origin.until_sent(4 * BIG_CHUNK)
        with pytest.raises(NoSpace):
            await _ask(engine, origin, monkeypatch)
        origin.rate = None
        with trio.fail_after(10):
            assert content((await download.wait()).path) == LARGE
        assert (await engine.get("b")).title != "another"


async def test_one_that_waits_for_its_next_try_waits_on_when_a_verb_is_refused(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(backoff_base_s=1000.0, backoff_max_s=1000.0, reconcile_interval_s=1000.0)
    async with serve(PAYLOAD, lambda asked: Reply(status=503)) as origin, open_engine(library, config=config) as engine:
        await engine.offline(request(origin))
        with trio.fail_after(10), engine.events("b") as events:
            while (await engine.get("b")).next_retry_at is None:
                await anext(events)
        with pytest.raises(NoSpace):
            await _pause(engine, origin, monkeypatch)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(origin.asked) == 1
        assert manager_of(engine).runs.active("b")
        origin.script = lambda asked: Reply()
        await engine.retry("b")
        with trio.fail_after(10):
            await engine.wait("b")


async def test_a_lost_one_is_reconciled_with_the_credentials_that_are_known(library: Path) -> None:
    config = small(reconcile_interval_s=1000.0)
    async with serve(LARGE) as origin, open_engine(library, config=config) as engine:
        origin.rate = 4e6
        await engine.offline(request(origin))
        await origin.until_sent(4 * BIG_CHUNK)
        await manager_of(engine).runs.stop("b")  # a wake-up is lost
        before = len(origin.asked)
        assert [told.id for told in await engine.reconcile()] == ["b"]
        origin.rate = None
        with trio.fail_after(10):
            await engine.wait("b")
        assert {asked.fields.get("authorization") for asked in origin.asked[before:]} == {SECRET[1]}


@pytest.mark.parametrize("fields", [{}, {"title": "new", "priority": 3}], ids=["the same", "otherwise"])
async def test_asking_for_a_lost_file_given_up_half_way_fetches_it(
    library: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """It was PENDING from the first transaction on, and the caller's cancellation came before it had its place."""
    config = small(reconcile_interval_s=1000.0)
    async with serve(PAYLOAD) as origin, open_engine(library, config=config, resume=False) as engine:
        download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        os.unlink((await download.wait()).path)
        store, scope = engine._services.store, trio.CancelScope()
        transition = store.transition

        def cancelled(*args: Any, **kwargs: Any) -> Any:
            if args[1] is Event.REPAIR:
                trio.from_thread.run_sync(scope.cancel)
            return transition(*args, **kwargs)

        monkeypatch.setattr(store, "transition", cancelled)
        with scope:
            await engine.offline(DownloadRequest(url=origin.url(), id="x", **fields))
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        with trio.fail_after(10):
            assert content((await download.wait()).path) == PAYLOAD
        entry = await engine.get("x")
        assert (entry.title, entry.priority) == (fields.get("title", entry.title), fields.get("priority", 0))
    assert len(origin.asked) == 2


async def _both(*calls: Callable[[], Awaitable[object]]) -> list[str]:
    """Make the calls at once; what was refused."""
    refused: list[str] = []

    async def call(one: Callable[[], Awaitable[object]]) -> None:
        try:
            await one()
        except InvalidRequest as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        for one in calls:
            nursery.start_soon(call, one)
    return refused


@pytest.mark.parametrize("many", [False, True])
async def test_of_two_that_are_asked_for_at_once_for_one_path_one_is_refused(
    library: Path, tmp_path: Path, many: bool
) -> None:
    """Both looked, both waited for the store, and both ran: one was complete under a name that nobody asked for."""
    to = tmp_path / "out" / "film.bin"
    async with serve(PAYLOAD) as origin, open_engine(library, config=small()) as engine:

        def ask(name: str) -> Callable[[], Awaitable[object]]:
            wanted = DownloadRequest(url=origin.url(name), id=name, destination=str(to))
            return lambda: engine.offline_many([wanted]) if many else engine.offline(wanted)

        refused = await _both(ask("a"), ask("b"))
        assert len(refused) == 1
        assert "is the destination of" in refused[0]
        [entry] = await engine.list()
        with trio.fail_after(10):
            assert (await engine.wait(entry.id)).path == str(to)
    assert os.listdir(to.parent) == [to.name]


async def test_of_two_that_are_resumed_at_once_for_one_path_one_is_refused(library: Path, tmp_path: Path) -> None:
    to = str(tmp_path / "film.bin")
    async with serve(LARGE) as origin, open_engine(library, config=small()) as engine:
        origin.rate = 4e6
        for name in "ab":
            await engine.offline(DownloadRequest(url=origin.url(name), id=name, destination=to))
            await engine.pause(name)
        origin.rate = None
        assert len(await _both(lambda: engine.resume("a"), lambda: engine.resume("b"))) == 1
        states = {entry.id: entry.state for entry in await engine.list()}
        assert sorted(state is State.PAUSED for state in states.values()) == [False, True]
        [going] = [entry_id for entry_id, state in states.items() if state is not State.PAUSED]
        with trio.fail_after(10):
            assert (await engine.wait(going)).path == to


async def test_a_path_is_free_again_when_asking_for_it_was_refused(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = str(tmp_path / "film.bin")
    async with serve(PAYLOAD) as origin, open_engine(library, config=small()) as engine:
        with full(monkeypatch, engine._services.store, "add_missing"), pytest.raises(NoSpace):
            await engine.offline(DownloadRequest(url=origin.url("a"), id="a", destination=to))
        with full(monkeypatch, engine._services.store, "add_missing"), pytest.raises(NoSpace):
            await engine.offline_many([DownloadRequest(url=origin.url("a"), id="a", destination=to)])
        download = await engine.offline(DownloadRequest(url=origin.url("b"), id="b", destination=to))
        with trio.fail_after(10):
            assert (await download.wait()).path == to


async def test_a_path_that_another_has_is_never_another_name(library: Path, tmp_path: Path) -> None:
    """However it came to be so: the caller's own path is no wish that a tag may be put to."""
    to = str(tmp_path / "film.bin")
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(entries_at_once=1)) as engine:
        origin.rate = 1e5
        first = await engine.offline(DownloadRequest(url=origin.url("first"), id="first"))
        download = await engine.offline(DownloadRequest(url=origin.url("b"), id="b", destination=to))
        engine._services.targets.release("b")
        engine._services.targets.claim(to, "another")
        origin.rate = None
        with trio.fail_after(10), pytest.raises(DownloadFailed, match="is the destination of another") as failed:
            await first.wait()
            await download.wait()
        assert failed.value.cause_code == "target_exists"
    assert not [name for name in os.listdir(tmp_path) if name.startswith("film")]
