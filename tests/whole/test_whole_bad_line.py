"""A line that loses, doubles and disorders packets, in private network namespaces: TCP, and the whole engine (N13)."""

from __future__ import annotations

import os
import threading
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from benchmarks.lines import SERVER_ADDRESS, Quality, line
from engine import DownloadRequest, open_engine
from engine.config import MIB
from tests.support.library import content, payload_of, small
from tests.support.netns import cable, inside
from tests.support.origin import serve

WORST = Quality(delay_s=0.002, loss=0.05, doubled=0.02, swapped=0.05)


@pytest.mark.parametrize("size", [2 * MIB, pytest.param(32 * MIB, marks=pytest.mark.long)])
async def test_n13_packets_lost_doubled_and_out_of_order(tmp_path: Path, size: int) -> None:
    """It is slower; the bytes are the same, and no try is burnt."""
    payload = payload_of(size)
    async with AsyncExitStack() as stack:
        ends = stack.enter_context(line(str(tmp_path), WORST))
        with inside(ends.server_namespace):
            origin = await stack.enter_async_context(serve(payload, host=SERVER_ADDRESS, address="0.0.0.0"))
        stack.enter_context(inside(ends.client_namespace))
        engine = await stack.enter_async_context(open_engine(tmp_path / "library", config=small(), seed=1))
        download = await engine.offline(DownloadRequest(url=origin.url(), id="film", connections=4))
        offline = await download.wait()
        entry = await engine.get("film")

    assert content(offline.path) == payload
    assert [attempt.error for attempt in entry.attempts] == [None]


async def _namespaces(count: int) -> set[str]:
    """Where so many of trio's threads are, each asked once."""
    together, found = threading.Barrier(count), set[str]()

    def look() -> None:
        together.wait(10)
        found.add(os.readlink("/proc/thread-self/ns/net"))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(partial(trio.to_thread.run_sync, look, limiter=trio.CapacityLimiter(1)))
    return found


async def test_threads_that_outlive_a_line_are_back_home() -> None:
    """They are trio's, and begin the processes of later tests."""
    count = threading.active_count() + 1  # one of them at least is born in the block
    home = await _namespaces(1)
    with cable():
        assert await _namespaces(count) > home
    assert await _namespaces(count) == home
