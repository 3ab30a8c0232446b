"""Servers that send a byte now and then: they hold no place for ever, whichever way the file is fetched (N10)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, open_engine
from engine.config import KIB, MIB
from engine.errors import Stalled
from tests.hostile.answers import Asked, Step, Truth, told
from tests.net.script_server import serve as serve_script
from tests.support.library import content, payload_of, small
from tests.support.origin import serve

PLACES = 3
FILE = payload_of(MIB)
# Five bytes a second, of a floor of 32; alone, a line is looked at for 12 * 0.05 s.
PAUSE_S = 0.2
CONFIG = small(entries_at_once=PLACES, crawl_s=0.05, chunk_bytes=256 * KIB, small_chunk_bytes=256 * KIB)


def dripped(truth: Truth, *, whole: bool) -> list[Step]:
    """Of the body as much as takes longer than any test."""
    body = truth.payload if whole else truth.body
    steps: list[Step] = [told(truth, body=b"", length=len(body), whole=whole)]
    return steps + [step for byte in body[:1000] for step in (bytes((byte,)), PAUSE_S)]


@pytest.mark.parametrize("size", [200_000, MIB], ids=["one chunk", "stream"])
async def test_entries_that_drip_free_their_places(library: Path, size: int) -> None:
    """Found: five such answers held all that the engine may run at once, and the sixth was never begun."""

    served: list[Asked] = []
    all_drip = trio.Event()

    def script(asked: Asked) -> list[Step]:
        served.append(asked)
        if len(served) == PLACES:
            all_drip.set()
        return dripped(Truth.of(asked, FILE[:size], 1), whole=True)

    async with (
        serve_script(script) as bad,
        serve(FILE) as good,
        open_engine(library, config=CONFIG, seed=1) as engine,
    ):
        for number in range(PLACES):
            await engine.offline(DownloadRequest(url=f"{bad.base}/{number}", id=f"bad{number}"))
        with trio.fail_after(30):
            await all_drip.wait()
            download = await engine.offline(DownloadRequest(url=good.url(), id="good"))
            assert content((await download.wait()).path) == FILE
        ended = [one for number in range(PLACES) for one in (await engine.get(f"bad{number}")).attempts if one.error]
        assert {one.error.code for one in ended if one.error} == {Stalled.code}


async def test_a_cap_does_not_hide_that_a_span_drips(library: Path) -> None:
    """Found: under any cap, however high, a span that dripped was waited for to its end."""
    served: list[Asked] = []

    def script(asked: Asked) -> list[Step]:
        served.append(asked)
        truth = Truth.of(asked, FILE, len(served))
        return dripped(truth, whole=False) if len(served) == 2 else [told(truth)]

    config = small(crawl_s=0.05, rate_limit_bytes_s=100 * MIB)
    async with serve_script(script) as server, open_engine(library, config=config, seed=1) as engine:
        with trio.fail_after(30):
            request = DownloadRequest(url=f"{server.base}/film.bin", id="x", connections=1)
            assert content((await (await engine.offline(request)).wait()).path) == FILE
    assert len(served) > 2


async def test_a_mirror_takes_over_from_who_drips(library: Path) -> None:
    """In the same attempt, for files that are one chunk too."""
    data = FILE[:200_000]

    def script(asked: Asked) -> list[Step]:
        return dripped(Truth.of(asked, data, 1), whole=True)

    async with serve_script(script) as bad, serve(data) as good, open_engine(library, config=CONFIG, seed=1) as engine:
        requests = [
            DownloadRequest(url=f"{bad.base}/{number}", mirrors=(good.url(f"{number}"),))
            for number in range(2 * PLACES)
        ]
        with trio.fail_after(60):
            for download in await engine.offline_many(requests):
                assert content((await download.wait()).path) == data
                assert (await engine.get(download.id)).attempt_count == 1
        assert len(good.asked) == 2 * PLACES
