"""Regressions of the weaknesses of the system that this one grew out of: ``bug_N`` is number N of section 4 of its
description (origin-behaviour)."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from engine import (
    DownloadFailed,
    DownloadRequest,
    Event,
    Health,
    IllegalTransition,
    Reason,
    State,
    open_engine,
)
from engine.errors import StaleEpoch
from engine.files.filesystem import FileSystem
from engine.model.records import DownloadEntry
from engine.store.state_store import StateStore
from tests.support.library import (
    BIG_CHUNK,
    CHUNK,
    SMALL,
    content,
    files_under,
    parts_under,
    payload_of,
)
from tests.support.origin import Asked, End, Reply, plain, serve
from tests.support.verbs import begin, manager_of, moves_of, repair_whole, steps, told, until_state

PAYLOAD = payload_of(20 * BIG_CHUNK + 11, seed=401)
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


async def test_bug_15_cancel_stops_the_transfer_and_a_pause_is_no_cancel(library: Path) -> None:
    """Cancelled while it runs: nothing of it is left on disk but the record, and no error takes its place."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await begin(engine, origin)
        await manager_of(engine).pause("x")
        assert parts_under(library / "files"), "a pause keeps what came"
        await manager_of(engine).resume("x")
        await until_state(engine, "x", State.IN_PROGRESS)
        async with told(engine, "x") as events:
            cancelled = await manager_of(engine).cancel("x")
        assert steps(events) == ["cancelled"]
        assert (cancelled.state, cancelled.last_error) == (State.CANCELLED, None)
        assert files_under(library / "files") == set()
        assert await engine.parts("x") == ()
        assert engine._services.store.tombstones.all() == []
        assert not engine._services.client.pool._active
        with pytest.raises(DownloadFailed) as failed:
            await engine.wait("x")
        assert failed.value.cause_code == "cancelled"
        assert await manager_of(engine).cancel("x") == cancelled
        origin.rate = None
        download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        assert content((await download.wait()).path) == PAYLOAD, "only a new request brings it back"
        assert (await engine.get("x")).epoch == cancelled.epoch + 1


class Held:
    """Holds a state's transition back, in its thread, until told to go on."""

    def __init__(self, state: State, patch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        transition = StateStore.transition

        def slow(store: StateStore, *args: Any, **kwargs: Any) -> DownloadEntry:
            moved = transition(store, *args, **kwargs)
            if moved.state is state and not self.entered.is_set():
                self.entered.set()
                assert self.go_on.wait(10)
            return moved

        patch.setattr(StateStore, "transition", slow)

    async def reached(self) -> None:
        assert await trio.to_thread.run_sync(self.entered.wait, 10)


@pytest.mark.parametrize("verb", ["pause", "cancel"])
async def test_bug_8_a_race_with_the_completion_is_decided_by_the_store_and_told(
    library: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """It is being made COMPLETED when the verb comes: the file stays, and the caller learns how it stands."""
    held = Held(State.COMPLETED, monkeypatch)
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        await held.reached()
        async with trio.open_nursery() as nursery:

            async def say() -> None:
                with pytest.raises(IllegalTransition, match="completed"):
                    await getattr(manager_of(engine), verb)("x")

            nursery.start_soon(say)
            await trio.sleep(0.05)
            held.go_on.set()
        assert content((await engine.wait("x")).path) == PAYLOAD
        with pytest.raises(IllegalTransition, match="completed"):
            await getattr(manager_of(engine), verb)("x")
    assert files_under(library / "files") == {"film.bin"}


@pytest.mark.parametrize("after", ["answer", "head", "bytes"])
async def test_bug_8_cancel_at_any_point_leaves_nothing(library: Path, after: str) -> None:
    """Before the first answer, before the first byte, in the middle: told as cancelled, never as failed."""
    silent = {"answer": Reply(end=End.HANG, send=0), "head": Reply(send=0, end=End.HANG), "bytes": Reply(rate=1e6)}

    async with serve(PAYLOAD, lambda asked: silent[after]) as origin, open_engine(library, config=SMALL) as engine:
        async with told(engine) as events:
            await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            if after != "answer":
                await origin.until_asked(1)
            if after == "bytes":
                await origin.until_sent(3 * BIG_CHUNK)
            with trio.fail_after(2):
                await manager_of(engine).cancel("x")
        assert steps(events)[-1] == "cancelled"
        assert "failed" not in steps(events)
        assert (await engine.get("x")).last_error is None
    assert files_under(library / "files") == set()


async def test_bug_14_a_late_write_never_overwrites_a_terminal_state(library: Path) -> None:
    """Compare and set: what an attempt of before still wants to say is dropped, by the table or by its epoch."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await begin(engine, origin)
        stale = await engine.get("x")
        await manager_of(engine).cancel("x")
        for late in ("complete", "fail", "preempt"):
            with pytest.raises(IllegalTransition):
                await moves_of(engine).move(stale, Event(late))
        origin.rate = None
        await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        with pytest.raises(StaleEpoch):
            await moves_of(engine).move(stale, Event.FAIL)
        assert (await engine.get("x")).state is State.COMPLETED


async def test_bug_13_attempts_are_counted_and_their_ends_kept(library: Path) -> None:
    def script(asked: Asked) -> Reply:
        return Reply(status=404) if asked.target == "/gone.bin" else Reply()

    async with serve(PAYLOAD, script) as origin, open_engine(library, config=SMALL) as engine:
        with pytest.raises(DownloadFailed):
            await (await engine.offline(DownloadRequest(url=origin.url("gone.bin"), id="x"))).wait()
        first = await engine.get("x")
        assert (first.attempt_count, len(first.attempts)) == (1, 1)
        retried = await manager_of(engine).retry("x")
        assert (retried.state, retried.epoch) == (State.PENDING, first.epoch + 1)
        with pytest.raises(DownloadFailed):
            await engine.wait("x")
        again = await engine.get("x")
        assert (again.attempt_count, len(again.attempts)) == (2, 2)
        assert again.attempts[1].error is not None
        origin.script = plain
        await manager_of(engine).retry("x")
        await engine.wait("x")
        done = await engine.get("x")
    assert (done.attempt_count, done.last_error) == (3, None), "what is over is taken back"


async def test_bug_4_a_repair_keeps_the_old_file_until_the_new_one_is_published(library: Path) -> None:
    """Readable in the meantime; a failure, or a cancellation, leaves it as it was."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        verbs = manager_of(engine)
        old = await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        inode = os.stat(old.path).st_ino
        with open(old.path, "rb") as reader:
            origin.rate = 4e6
            origin.forget()
            spoiled = await repair_whole(engine)
            entry = await engine.get("x")
            assert (entry.state, entry.completed_at) == (State.PENDING, None)
            await origin.until_sent(4 * BIG_CHUNK)
            assert (await engine.repair("x")).health is Health.INCOMPLETE, "it is on its way already"
            assert content(old.path) == spoiled
            assert await engine.offline_entry("x") == old
            await verbs.cancel("x")
            assert (content(old.path), os.stat(old.path).st_ino) == (spoiled, inode)
            assert files_under(library / "files") == {"film.bin"}
            origin.rate = None
            new = await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
            assert reader.read() == spoiled, "who reads the old one reads it to the end"
        assert new.path == old.path
        assert os.stat(new.path).st_ino != inode
    assert files_under(library / "files") == {"film.bin"}


async def test_bug_1_asked_for_twice_it_is_one_transfer_and_one_file(library: Path) -> None:
    """State is durable; a second request while it runs starts nothing, and after a crash it goes on."""
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await begin(engine, origin)
            asked = len(origin.asked)
            again = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            await trio.sleep(0.05)
            assert (await engine.get("x")).attempt_count == 1
            assert len({one.connection for one in origin.asked}) <= SMALL.connections_start
            assert asked
        origin.rate = None
        async with open_engine(library, config=SMALL) as engine:
            assert content((await engine.wait(again.id)).path) == PAYLOAD
            entry = await engine.get("x")
    assert entry.attempt_count == 2
    assert files_under(library / "files") == {"film.bin"}


async def test_bug_16_completion_and_its_record_are_one_and_a_clock_may_go_back(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No moment at which one is there without the other; ages are never below zero."""
    seen: list[tuple[State, bool]] = []
    transition = StateStore.transition

    def looking(store: StateStore, entry_id: str, *args: Any, **kwargs: Any) -> DownloadEntry:
        entry = transition(store, entry_id, *args, **kwargs)
        seen.append((entry.state, store.offline(entry_id) is not None))
        return entry

    monkeypatch.setattr(StateStore, "transition", looking)
    async with serve(payload_of(CHUNK)) as origin, open_engine(library, config=SMALL) as engine:
        clock = iter(range(2_000_000_000, 0, -1000))  # every look is earlier than the one before
        object.__setattr__(engine._services, "now", lambda: float(next(clock)))
        await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        await repair_whole(engine)
        await engine.wait("x")
        entry = await engine.get("x")
        await manager_of(engine).remove("x")
        assert engine._services.store.offline("x") is None
        assert await engine.list() == []
    assert entry.completed_at is not None
    assert entry.completed_at < entry.created_at
    assert all(there == (state is State.COMPLETED) for state, there in seen[:2])
    assert files_under(library / "files") == set()


async def test_bug_17_what_ran_when_the_process_died_goes_on_and_blocks_no_request(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await begin(engine, origin)
            await manager_of(engine).pause("x")
        store = StateStore.open(str(library), SMALL, FileSystem(), now=1.0)
        entry = store.get("x")
        assert entry is not None
        entry = store.transition("x", Event.RESUME, epoch=entry.epoch, now=2.0)
        store.transition("x", Event.START, epoch=entry.epoch, now=3.0)
        store.close(clean=False)
        origin.rate = None
        async with open_engine(library, config=SMALL, resume=False) as engine:
            entry = await engine.get("x")
            assert (entry.state, entry.state_reason) == (State.PENDING, Reason.RECOVERED)
            assert [found.id for found in engine.recovered] == ["x"]
            await manager_of(engine).resume("x")
            assert content((await engine.wait("x")).path) == PAYLOAD
