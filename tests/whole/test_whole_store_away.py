"""A store that cannot be read for a while, or a record of it that never can: the engine's own tasks outlive it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, Durability, Engine, EngineError, Reason, State
from engine.control import line_gate, line_watch
from engine.errors import BadRecord, NoSpace, StoreUnusable, TooManyFiles
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.store.environment import Environment
from engine.store.state_store import StateStore
from engine.store.translate import translated
from tests.support.library import content, payload_of, small
from tests.support.lines import FREE, GONE, METERED, QUICK, until
from tests.support.origin import Asked, End, Reply, plain, serve
from tests.support.verbs import until_state
from tests.whole.test_whole_line_policy import opened, request
from tests.whole.test_whole_recovery import until as met

PAYLOAD = payload_of(100_000)
NUMBERS = pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE])


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The origins count as other machines, and what failed is looked at again soon."""
    monkeypatch.setattr(line_gate, "is_here", lambda _: False)
    monkeypatch.setattr(line_watch, "AGAIN_AFTER_S", 0.02)


def silent(asked: Asked) -> Reply:
    """A head, and then nothing."""
    return Reply(send=0, end=End.HANG)


@contextmanager
def store_away(engine: Engine, monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[list[int]]:
    """The store is closed as after an error of its disk, and cannot be opened again in the block; yields a list that
    grows with each try."""
    environment = engine._services.store._environment
    tries: list[int] = []

    def failing(self: Environment) -> None:
        tries.append(number)
        with translated("open the store"):
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Environment, "_open", failing)
        with environment._writing, environment._gate.alone():
            environment._shut()
        yield tries


async def begun(engine: Engine, entry_id: str) -> None:
    """Wait until the entry's part is on record, so that its attempt asks nothing of the store any more."""
    parts = engine._services.store.parts
    await met(lambda: any(part.phase is PartPhase.ACTIVE for part in parts(entry_id)))


@NUMBERS
async def test_the_line_changes_while_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with serve(PAYLOAD, silent) as origin, opened(tmp_path, origin, FREE) as (engine, monitor, events):
        await engine.offline(request(origin))
        await begun(engine, "film")
        with store_away(engine, monkeypatch, number) as tries:
            monitor.set(GONE)
            await met(lambda: len(tries) >= 3)
        with trio.fail_after(10):
            await until(events, State.PAUSED, Reason.NETWORK)
        origin.script = plain
        monitor.set(FREE)
        with trio.fail_after(10):
            assert content((await engine.wait("film")).path) == PAYLOAD


@NUMBERS
async def test_files_catch_up_after_the_store_was_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    config = small(settle_interval_s=0.02)
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, FREE, config=config) as (engine, _, _):
        with store_away(engine, monkeypatch, number) as tries:
            await met(lambda: len(tries) >= 3)
        relaxed = DownloadRequest(url=origin.url(), id="film", durability=Durability.RELAXED)
        await (await engine.offline(relaxed)).wait()
        await met(lambda: engine._services.store.unsynced() == [])


@pytest.mark.parametrize("runs", [True, False], ids=["running", "parked"])
async def test_one_damaged_record_does_not_keep_the_line_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool
) -> None:
    get, bad = StateStore.get, ""

    def damaged(store: StateStore, entry_id: str) -> DownloadEntry | None:
        if entry_id == bad:
            raise BadRecord("damaged")
        return get(store, entry_id)

    monkeypatch.setattr(StateStore, "get", damaged)
    async with serve(PAYLOAD, silent) as origin, opened(tmp_path, origin, FREE) as (engine, monitor, events):
        for name in ("a", "b"):
            await engine.offline(request(origin, name))
            await begun(engine, name)
        if runs:
            bad = "a"
        monitor.set(GONE)
        with trio.fail_after(10):
            await until(events, State.PAUSED, Reason.NETWORK, "b")
            if not runs:
                await until_state(engine, "a", State.PAUSED, Reason.NETWORK)
        bad = "a"
        origin.script = plain
        monitor.set(FREE)
        with trio.fail_after(10):
            assert content((await engine.wait("b")).path) == PAYLOAD
        bad = ""


@pytest.mark.parametrize("kind", [BadRecord, StoreUnusable, NoSpace, TooManyFiles])
async def test_a_size_that_cannot_be_read_at_its_turn_is_left_to_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[EngineError]
) -> None:
    parts, errors = StateStore.parts, [kind("the disk is away")]

    def shaky(store: StateStore, entry_id: str) -> tuple[PartRecord, ...]:
        if errors:
            raise errors.pop()
        return parts(store, entry_id)

    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, METERED, config=QUICK) as (engine, _, _):
        monkeypatch.setattr(StateStore, "parts", shaky)
        asked = request(origin, metered_bytes_max=len(PAYLOAD))
        with trio.fail_after(10):
            assert content((await (await engine.offline(asked)).wait()).path) == PAYLOAD
        assert errors == [], "nobody asked for its size"
