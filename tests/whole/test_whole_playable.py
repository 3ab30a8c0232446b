"""What a player asks before it plays: is it here, and is it still what was downloaded?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import DownloadRequest, Health, OfflineState, open_engine
from tests.support.library import BIG_CHUNK, SMALL, payload_of
from tests.support.origin import serve

PAYLOAD = payload_of(8 * BIG_CHUNK + 11, seed=44)


async def test_of_what_is_complete_and_of_what_is_not(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        assert await engine.offline_state("x") is OfflineState.NOT_OFFLINED
        origin.rate = 1e5
        download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        await engine.pause("x")
        assert await engine.offline_state("x") is OfflineState.NOT_OFFLINED
        origin.rate = None
        await engine.resume("x")
        await download.wait()
        assert await engine.offline_state("x") is OfflineState.OFFLINED_AND_VALID


@pytest.mark.parametrize("how", ["gone", "cut", "touched", "expired"])
async def test_what_is_not_valid_any_more(library: Path, how: str) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        offline = await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        if how == "gone":
            os.unlink(offline.path)
        elif how == "cut":
            os.truncate(offline.path, offline.size - 1)
        elif how == "touched":
            os.utime(offline.path, ns=(1, 1))
        else:
            await engine.expire("x", 1.0)
        assert await engine.offline_state("x") is OfflineState.OFFLINED_BUT_NOT_VALID


async def test_the_older_file_is_played_while_it_is_fetched_anew(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        offline = await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        with open(offline.path, "r+b") as file:
            file.write(b"\0" * 10)
        os.utime(offline.path, ns=(offline.mtime_ns, offline.mtime_ns))
        origin.rate = 1e4
        [found] = await engine.validate_downloads(repair=True)
        assert found.health is Health.CORRUPT
        assert await engine.offline_state("x") is OfflineState.OFFLINED_AND_VALID
