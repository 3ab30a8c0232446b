"""The face of an open engine: what ties its parts together."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import (
    DownloadRequest,
    EngineClosed,
    GroupRequest,
    InvalidRequest,
    Reason,
    State,
    UnknownEntry,
    open_engine,
)
from tests.support.library import CHUNK, SMALL, content, files_under, payload_of, small
from tests.support.mounts import TinyTmpfs
from tests.support.origin import serve
from tests.support.run import wait_or_parked

MIB = 1 << 20
PAYLOAD = payload_of(2 * CHUNK)


async def test_removing_goes_by_links_whether_the_file_is_kept_or_not(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        member = DownloadRequest(url=origin.url(), id="m")
        await engine.add_group(GroupRequest(id="g", kind="album", title="G", members=((member, 1, 1),)))
        await engine.wait("m")
        assert await engine.remove("m", keep_file=True) == ("g",)
        assert (await engine.group("g")).missing == 0
        await (await engine.offline(DownloadRequest(url=f"{origin.url()}?alone", id="alone"))).wait()
        path = (await engine.wait("alone")).path
        assert await engine.remove("alone", keep_file=True) == ()
        assert content(path) == PAYLOAD
        with pytest.raises(UnknownEntry):
            await engine.get("alone")
        await engine.remove_group("g")
        assert await engine.list() == []


async def test_what_is_read_is_held_and_its_reading_is_noted(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await (await engine.offline(DownloadRequest(url=origin.url(), id="m"))).wait()
        with engine.reading("m") as path:
            assert content(path) == PAYLOAD
            assert engine._upkeep.space.readers.held("m")
        assert not engine._upkeep.space.readers.held("m")
        with pytest.raises(UnknownEntry), engine.reading("nothing"):
            pass
    async with open_engine(library, config=SMALL) as engine:
        assert (await engine.get("m")).last_read_at is not None


@pytest.mark.parametrize("at", ["soon", math.nan, math.inf, True])
async def test_what_is_no_time_is_refused(library: Path, at: object) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await (await engine.offline(DownloadRequest(url=origin.url(), id="m"))).wait()
        with pytest.raises(InvalidRequest):
            await engine.expire("m", at)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            await engine.pin("m", "no")  # type: ignore[arg-type]
        with pytest.raises(UnknownEntry):
            await engine.explain(5)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            await engine.set_quota("", True)
    with pytest.raises(EngineClosed):
        await engine.set_quota("", 5)


async def test_what_is_no_request_is_refused(library: Path) -> None:
    async with open_engine(library, config=SMALL) as engine:
        with pytest.raises(InvalidRequest, match="DownloadRequest"):
            await engine.offline("http://h/x")  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="DownloadRequest"):
            await engine.offline_many([{"url": "http://h/x"}])  # type: ignore[list-item]
        assert await engine.list() == []


async def test_what_waits_for_space_goes_on_at_the_next_start_when_there_is_some(
    tmp_path: Path, tiny_tmpfs: Callable[[int], TinyTmpfs]
) -> None:
    disk = tiny_tmpfs(1 * MIB)
    payload = payload_of(3 * MIB)
    target = str(disk.path / "film.bin")
    config = small(free_space_reserve_bytes=0)
    async with serve(payload) as origin:
        async with open_engine(tmp_path / "library", config=config) as engine:
            download = await engine.offline(DownloadRequest(url=origin.url(), id="m", destination=target))
            assert await wait_or_parked(engine, download) is None
            assert (await engine.explain("m")).reason is Reason.DISK
        disk.resize(8 * MIB)
        async with open_engine(tmp_path / "library", config=config) as engine:
            assert (await engine.wait("m")).size == len(payload)
            assert content(target) == payload


async def test_all_can_be_paused_and_go_on(library: Path) -> None:
    async with serve(payload_of(40 * CHUNK)) as origin, open_engine(library, config=SMALL) as engine:
        origin.rate = 50_000.0
        for number in range(3):
            await engine.offline(DownloadRequest(url=f"{origin.url()}?{number}", id=f"e{number}"))
        assert {entry.id for entry in await engine.pause_all()} == {"e0", "e1", "e2"}
        assert {entry.state for entry in await engine.list()} == {State.PAUSED}
        origin.rate = None
        assert len(await engine.resume_all()) == 3
        for number in range(3):
            await engine.wait(f"e{number}")
        await engine.remove_all()
        assert files_under(library / "files") == set()
