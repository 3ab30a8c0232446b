"""The manager: the newest request counts, whatever the entry is doing just then (DESIGN section 6)."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from engine import (
    DownloadFailed,
    DownloadRequest,
    Engine,
    EngineError,
    IntegrityError,
    InvalidRequest,
    Reason,
    State,
    StateChanged,
    open_engine,
)
from engine.control.hub import EventHub
from engine.model.events import EngineEvent
from engine.model.records import DownloadEntry
from engine.store.state_store import StateStore
from engine.transfer.services import Services
from tests.support.library import BIG_CHUNK, SMALL, content, files_under, parts_under, payload_of, small
from tests.support.origin import Asked, Reply, plain, serve

PAYLOAD = payload_of(20 * BIG_CHUNK + 11, seed=95)
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()
WRONG = "0" * 64


@pytest.mark.parametrize(
    "wish",
    [{"expect": {"sha256": WRONG}}, {"expect": {"blake3": WRONG}}, {"expected_length": 5}],
    ids=["sha256", "blake3", "length"],
)
async def test_a_new_expectation_counts_while_it_runs(library: Path, wish: dict[str, Any]) -> None:
    """M22, H2: what contradicts it is never COMPLETED."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        origin.rate = 4e6
        await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        await origin.until_sent(2 * BIG_CHUNK)
        download = await engine.offline(DownloadRequest(url=origin.url(), id="x", **wish))
        origin.rate = None
        with pytest.raises(DownloadFailed) as failed:
            await download.wait()
        assert failed.value.cause_code == "integrity"
        assert (await engine.get("x")).state is State.FAILED
    assert files_under(library / "files") == parts_under(library / "files")


async def test_what_came_before_a_new_request_is_kept(library: Path) -> None:
    """Asked for again with a right digest and another URL while it runs: checked, from there, and nothing twice."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        origin.rate = 4e6
        await engine.offline(DownloadRequest(url=origin.url("old"), id="x"))
        await origin.until_sent(8 * BIG_CHUNK)
        wish = DownloadRequest(url=origin.url("new"), id="x", expect={"sha256": SHA256})
        download = await engine.offline(wish)
        await engine.offline(wish)
        origin.rate = None
        offline = await download.wait()
        entry = await engine.get("x")
    assert content(offline.path) == PAYLOAD
    assert offline.digests["sha256"] == SHA256
    targets = [asked.target for asked in origin.asked]
    assert set(targets[targets.index("/new") :]) == {"/new"}
    assert entry.attempt_count == 2, "the same again starts nothing"
    assert entry.attempts[0].error is None
    assert 0 < entry.attempts[1].bytes_fetched < len(PAYLOAD)


async def test_a_new_url_is_taken_up_at_once_in_backoff(library: Path) -> None:
    """S35, S36: the delay was that of the old one's server."""
    busy = Reply(status=503, fields=(("Retry-After", "3600"),))
    async with (
        serve(PAYLOAD, lambda _: busy) as old,
        serve(PAYLOAD, address="127.0.0.2", host="127.0.0.2") as origin,  # another host: the first one is left alone
        open_engine(library, config=SMALL) as engine,
    ):
        with engine.events() as events:
            await engine.offline(DownloadRequest(url=old.url("busy"), id="x"))
            async for event in events:
                if isinstance(event, StateChanged) and event.reason is Reason.BACKOFF:
                    break
        assert (await engine.get("x")).next_retry_at is not None
        with trio.fail_after(5):
            offline = await (await engine.offline(DownloadRequest(url=origin.url("good"), id="x"))).wait()
        entry = await engine.get("x")
    assert content(offline.path) == PAYLOAD
    assert entry.url == origin.url("good")
    assert entry.next_retry_at is None


async def test_a_lost_file_is_fetched_as_the_newest_request_says(library: Path) -> None:
    """H2, M22: COMPLETED, its file deleted: the new URL is asked and the new digest is compared."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        offline = await (await engine.offline(DownloadRequest(url=origin.url("old"), id="x"))).wait()
        os.unlink(offline.path)
        origin.forget()
        wrong = DownloadRequest(url=origin.url("new"), id="x", expect={"sha256": WRONG})
        with pytest.raises(DownloadFailed) as failed:
            await (await engine.offline(wrong)).wait()
        assert failed.value.cause_code == "integrity"
        assert {asked.target for asked in origin.asked} == {"/new"}
        right = DownloadRequest(url=origin.url("new"), id="x", expect={"sha256": SHA256})
        again = await (await engine.offline(right)).wait()
    assert content(again.path) == PAYLOAD
    assert again.digests["sha256"] == SHA256


class Settling:
    """Holds the store's answer back once an entry moved to ``state``: its task has not ended yet."""

    def __init__(self, state: State, patch: pytest.MonkeyPatch) -> None:
        self._entered, self._go_on = threading.Event(), threading.Event()
        transition: Callable[..., DownloadEntry] = StateStore.transition

        def slow(store: StateStore, *args: Any, **kwargs: Any) -> DownloadEntry:
            moved = transition(store, *args, **kwargs)
            if moved.state is state and not self._entered.is_set():
                self._entered.set()
                assert self._go_on.wait(10)
            return moved

        patch.setattr(StateStore, "transition", slow)

    async def ask_meanwhile(self, engine: Engine, request: DownloadRequest) -> BaseException | None:
        """Ask in that window; returns what asking raised."""
        raised: list[BaseException | None] = []

        async def ask() -> None:
            try:
                await engine.offline(request)
                raised.append(None)
            except EngineError as error:
                raised.append(error)

        try:
            assert await trio.to_thread.run_sync(self._entered.wait, 10)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked(0.02)
                self._go_on.set()
        finally:
            self._go_on.set()
        return raised[0]


async def test_asked_for_while_its_failure_settles(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H2: it is FAILED in the store and its task has not ended yet; the request in that window is not lost."""
    settling = Settling(State.FAILED, monkeypatch)

    def script(asked: Asked) -> Reply:
        return Reply(status=404) if asked.target == "/bad" else Reply()

    async with serve(PAYLOAD, script) as origin, open_engine(library, config=SMALL) as engine:
        await engine.offline(DownloadRequest(url=origin.url("bad"), id="x"))
        assert await settling.ask_meanwhile(engine, DownloadRequest(url=origin.url("good"), id="x")) is None
        assert content((await engine.wait("x")).path) == PAYLOAD
        assert (await engine.get("x")).url == origin.url("good")


async def test_a_new_expectation_while_its_completion_settles(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H2, M22: the finished file is compared with it, and stays."""
    settling = Settling(State.COMPLETED, monkeypatch)
    quiet = small(progress_interval_s=60.0)  # its wake-ups would keep the tasks from being all blocked
    async with serve(PAYLOAD) as origin, open_engine(library, config=quiet) as engine:
        await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        wish = DownloadRequest(url=origin.url(), id="x", expect={"sha256": WRONG})
        assert isinstance(await settling.ask_meanwhile(engine, wish), IntegrityError)
        assert content((await engine.wait("x")).path) == PAYLOAD


async def test_of_two_entries_with_one_target_the_running_one_has_it(library: Path, tmp_path: Path) -> None:
    """H3: the other is refused, and nothing of it is kept; once the first has failed the target is free."""
    target = str(tmp_path / "film.bin")

    def script(asked: Asked) -> Reply:
        return Reply(status=404) if asked.start else Reply(rate=4e6)

    async with serve(PAYLOAD, script) as origin, open_engine(library, config=SMALL) as engine:
        first = await engine.offline(DownloadRequest(url=origin.url("a"), id="a", destination=target))
        await origin.until_asked(1)
        second = DownloadRequest(url=origin.url("b"), id="b", destination=target)
        with pytest.raises(InvalidRequest, match="destination of a"):
            await engine.offline(second)
        assert [entry.id for entry in await engine.list()] == ["a"]
        with pytest.raises(DownloadFailed):
            await first.wait()
        origin.script = plain
        assert content((await (await engine.offline(second)).wait()).path) == PAYLOAD


async def test_missing_credentials_are_told_and_not_waited_for(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """M24: who waits for the entry, and who listens, learns which header is missing; with it the download goes on."""
    told: list[EngineEvent] = []
    emit = EventHub.emit

    def listening(hub: EventHub, event: EngineEvent) -> None:
        told.append(event)
        emit(hub, event)

    monkeypatch.setattr(EventHub, "emit", listening)  # the start speaks before anyone can subscribe
    request = {"id": "x", "secret_headers": (("X-Key", "k" * 20),)}
    async with serve(PAYLOAD) as origin:
        origin.rate = 4e6
        async with open_engine(library, config=SMALL) as engine:
            await engine.offline(DownloadRequest(url=origin.url(), **request))  # type: ignore[arg-type]
            await origin.until_sent(2 * BIG_CHUNK)
        told.clear()
        origin.forget()
        origin.rate = None
        async with open_engine(library, config=SMALL) as engine:
            with trio.fail_after(5), pytest.raises(DownloadFailed, match="x-key") as failed:
                await engine.wait("x")
            assert failed.value.cause_code == "needs_credentials"
            (event,) = [event for event in told if isinstance(event, StateChanged)]
            assert (event.id, event.state, event.reason) == ("x", State.PENDING, Reason.NEEDS_CREDENTIALS)
            assert origin.asked == []
            offline = await (await engine.offline(DownloadRequest(url=origin.url(), **request))).wait()  # type: ignore[arg-type]
            assert (await engine.get("x")).state_reason is Reason.NONE
    assert content(offline.path) == PAYLOAD
    assert {asked.fields["x-key"] for asked in origin.asked} == {"k" * 20}


@pytest.mark.parametrize("text", ["\udcff", "a\ud800b"])
@pytest.mark.parametrize("name", ["id", "scope", "title", "product_id", "product_type", "destination", "url"])
async def test_text_that_utf8_cannot_hold_is_refused(library: Path, name: str, text: str) -> None:
    """H12: such text comes from file names and broken decoders; no record could hold it."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        wish = {"url": origin.url()} | {name: origin.url(text) if name == "url" else text}
        if name == "destination":
            wish[name] = str(library / text)
        with pytest.raises(InvalidRequest):
            await engine.offline(DownloadRequest(**wish))  # type: ignore[arg-type]
        assert await engine.list() == []
        assert origin.asked == []


async def test_what_is_cancelled_while_the_start_looks_at_it_keeps_its_reason(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may hand a command over as soon as the lease is taken."""
    entered, go_on, transition = threading.Event(), threading.Event(), StateStore.transition

    def slow(store: StateStore, *arguments: Any, **changes: Any) -> DownloadEntry:
        entered.set()
        assert go_on.wait(30)
        return transition(store, *arguments, **changes)

    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        origin.rate = 4e6
        await engine.offline(DownloadRequest(url=origin.url(), id="x", secret_headers=(("X-Key", "k"),)))
        await origin.until_sent(2 * BIG_CHUNK)
    async with open_engine(library, config=SMALL, resume=False) as engine:
        with monkeypatch.context() as patch, trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                patch.setattr(StateStore, "transition", slow)
                nursery.start_soon(engine.cancel, "x")
                await trio.to_thread.run_sync(entered.wait, 30)
                nursery.start_soon(engine._manager.resume_all)
                await trio.testing.wait_all_tasks_blocked(0.2)
                go_on.set()
        cancelled = await engine.get("x")
        assert (cancelled.state, cancelled.state_reason) == (State.CANCELLED, Reason.USER)


async def test_what_is_added_just_now_is_not_taken_for_forgotten(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On record, and the task that gives it its place is not told yet."""
    armed, entered, go_on, together = threading.Event(), threading.Event(), threading.Event(), StateStore.together

    def slow(store: StateStore, work: Any) -> Any:
        done = together(store, work)
        if armed.is_set():
            entered.set()
            assert go_on.wait(30)
        return done

    monkeypatch.setattr(StateStore, "together", slow)
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        runs = engine._manager.runs
        armed.set()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.offline_many, [DownloadRequest(url=origin.url(), id="x")])
                await trio.to_thread.run_sync(entered.wait, 30)
                state = (await engine.get("x")).state
                found = await runs.reconcile()
                nursery.start_soon(engine.pause, "x")  # waits until it has its place
                go_on.set()
            paused = await engine.get("x")
            await engine.resume("x")
            await engine.wait("x")
        assert (state, found, "x" in runs.coming) == (State.PENDING, [], False)
        assert paused.state is State.PAUSED


@pytest.mark.parametrize("priority", [0, 7])
async def test_what_many_others_brought_in_first_is_asked_for_once_more(
    library: Path, monkeypatch: pytest.MonkeyPatch, priority: int
) -> None:
    """It was not there when the one asked for it, and runs by the time that its own transaction comes. (It was moved
    under its running attempt, whose end was dropped: nothing ran for it until the records were compared.)"""
    write, reached, go_on = Services.write, trio.Event(), trio.Event()

    async def slow_for_one(services: Services, call: Any, *args: Any, **kwargs: Any) -> Any:
        if call == services.store.add_missing and task_of_one is trio.lowlevel.current_task():
            reached.set()
            await go_on.wait()
        return await write(services, call, *args, **kwargs)

    monkeypatch.setattr(Services, "write", slow_for_one)
    slowly = Reply(rate=len(PAYLOAD))
    async with serve(PAYLOAD, lambda _: slowly) as origin, open_engine(library, config=SMALL) as engine:
        request = DownloadRequest(url=origin.url(), id="x")
        task_of_one: trio.lowlevel.Task | None = None

        async def one() -> None:
            nonlocal task_of_one
            task_of_one = trio.lowlevel.current_task()
            await engine.offline(msgspec.structs.replace(request, priority=priority))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one)
                await reached.wait()
                await engine.offline_many([request])
                await origin.until_asked(1)
                go_on.set()
            assert engine._manager.runs.active("x")
            await engine.wait("x")
        assert (await engine.get("x")).priority == priority
