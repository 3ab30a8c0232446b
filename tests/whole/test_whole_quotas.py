"""What counts for a quota: what is on the disk for the scope, and what is on its way, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from engine import DownloadEntry, DownloadFailed, DownloadRequest, Engine, Reason, State, open_engine
from engine.config import KIB
from tests.support.library import CHUNK, parts_under, payload_of, small
from tests.support.origin import Asked, Origin, Reply, serve

PAYLOAD = payload_of(40 * CHUNK, seed=97)
SIZE = len(PAYLOAD)
ONE = {"scope_quota_bytes": SIZE + SIZE // 9, "space_check_interval_s": 0.05, "space_check_interval_max_s": 0.1}


def chunked(_: Asked) -> Reply:
    return Reply(framing="chunked", ranges=False)


async def settled(engine: Engine, origin: Origin, entry_id: str, **fields: object) -> DownloadEntry:
    """Ask for it, and wait until it is done, failed, or parked."""
    request = DownloadRequest(url=origin.url(entry_id), id=entry_id, **fields)  # type: ignore[arg-type]
    await engine.offline(request)
    return await at_rest(engine, entry_id)


async def at_rest(engine: Engine, entry_id: str) -> DownloadEntry:
    with trio.fail_after(30):
        while True:
            entry = await engine.get(entry_id)
            if entry.state not in {State.PENDING, State.IN_PROGRESS}:
                return entry
            await trio.sleep(0.01)


def on_disk(library: Path) -> int:
    return sum(os.stat(library / "files" / name).st_blocks * 512 for name in os.listdir(library / "files"))


async def test_a_file_that_was_given_away_counts_no_more(library: Path) -> None:
    """Its record is gone, and no file has to follow."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(**ONE)) as engine:
        await settled(engine, origin, "a")
        waiting = await settled(engine, origin, "b")
        assert (waiting.state, waiting.state_reason) == (State.PAUSED, Reason.QUOTA)
        await engine.remove("a", keep_file=True)
        with trio.fail_after(20):
            assert (await engine._manager.wait("b")).state is State.COMPLETED


@pytest.mark.parametrize("removed", [False, True])
async def test_what_never_came_to_be_counts_for_nothing(library: Path, tmp_path: Path, removed: bool) -> None:
    (tmp_path / "file").touch()
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(**ONE)) as engine:
        nowhere = await settled(engine, origin, "a", destination=str(tmp_path / "file" / "a.bin"))
        assert nowhere.state is State.FAILED
        assert await engine.parts("a") == ()
        if removed:
            await engine.remove("a")
        assert (await settled(engine, origin, "b")).state is State.COMPLETED


async def cancel_one(engine: Engine) -> object:
    return await engine.cancel("b")


async def cancel_all(engine: Engine) -> object:
    return await engine.cancel_all()


@pytest.mark.parametrize("cancel", [cancel_one, cancel_all])
async def test_of_what_was_cancelled_nothing_is_kept_in_mind(
    library: Path, cancel: Callable[[Engine], Awaitable[object]]
) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(**ONE)) as engine:
        await settled(engine, origin, "a")
        assert (await settled(engine, origin, "b")).state is State.PAUSED
        space = engine._upkeep.space
        assert "b" in space._refused
        await cancel(engine)
        assert "b" not in space._refused


async def test_a_file_of_unknown_length_counts_with_what_it_came_to(library: Path) -> None:
    async with serve(PAYLOAD, chunked) as origin, open_engine(library, config=small(**ONE)) as engine:
        assert (await settled(engine, origin, "0")).state is State.COMPLETED
        for number in range(1, 4):
            entry = await settled(engine, origin, f"{number}")
            assert (entry.state, entry.state_reason) == (State.PAUSED, Reason.QUOTA)
            assert entry.last_error is not None
            assert entry.last_error.code == "quota"
        assert on_disk(library) <= SIZE + 4 * KIB
        origin.script = lambda _: Reply()
        entry = await settled(engine, origin, "known")
        assert entry.state_reason is Reason.QUOTA
        await engine.remove("0")
        origin.script = chunked
        with trio.fail_after(20):
            await engine._manager.wait("1")


async def test_files_of_unknown_length_that_come_together_share_the_quota(library: Path) -> None:
    slow = small(**{**ONE, "space_check_interval_s": 3600.0})
    async with serve(PAYLOAD, chunked) as origin, open_engine(library, config=slow) as engine:
        for number in range(4):
            await engine.offline(DownloadRequest(url=origin.url(f"{number}"), id=f"{number}"))
        states = [(await at_rest(engine, f"{number}")).state for number in range(4)]
        assert states.count(State.COMPLETED) <= 1
        assert states.count(State.PAUSED) >= 3
        assert on_disk(library) <= SIZE + 4 * KIB


@pytest.mark.parametrize("evicting", [False, True])
async def test_a_body_without_an_end_is_left_at_the_quota(library: Path, evicting: bool) -> None:
    """It evicts nothing: no quota is large enough for it."""
    config = small(**ONE, evict_least_recent=evicting)
    async with serve(PAYLOAD, chunked) as origin, open_engine(library, config=config) as engine:
        assert (await settled(engine, origin, "a")).state is State.COMPLETED
        origin.forget()
        origin.script = lambda _: Reply(framing="chunked", ranges=False, body=PAYLOAD * 400, rate=50_000_000.0)
        entry = await settled(engine, origin, "endless")
        assert (entry.state, entry.state_reason) == (State.PAUSED, Reason.QUOTA)
        assert entry.attempts[-1].bytes_fetched < 200 * SIZE
        assert (await engine.get("a")).state is State.COMPLETED
        assert on_disk(library) <= SIZE + 4 * KIB


async def test_a_file_of_unknown_length_takes_the_place_of_the_least_recent_once_it_is_whole(library: Path) -> None:
    config = small(**ONE, evict_least_recent=True)
    async with serve(PAYLOAD, chunked) as origin, open_engine(library, config=config) as engine:
        for name in ("a", "b", "c"):
            assert (await settled(engine, origin, name)).state is State.COMPLETED
        assert [entry.id for entry in await engine.list()] == ["c"]
        assert parts_under(library / "files") == set()


async def test_a_file_of_unknown_length_that_fails_counts_for_nothing(library: Path) -> None:
    async with serve(PAYLOAD, chunked) as origin, open_engine(library, config=small(**ONE)) as engine:
        request = DownloadRequest(url=origin.url("a"), id="a", expected_length=SIZE - 5)
        with pytest.raises(DownloadFailed):
            await (await engine.offline(request)).wait()
        assert (await settled(engine, origin, "b")).state is State.COMPLETED
