"""One budget for buffers of two sizes: never more than it has, whoever waits first is served first."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine import native
from engine.config import KIB, Config
from engine.transfer.buffers import Buffers

LARGE, SMALL = 64 * KIB, 16 * KIB
CONFIG = Config(chunk_bytes=LARGE, small_chunk_bytes=SMALL, buffer_count=4, commit_window_bytes=4 * LARGE)


@pytest.mark.parametrize(("size", "most"), [(1, 16), (SMALL, 16), (SMALL + 1, 4), (LARGE, 4)])
async def test_as_many_as_the_budget_has_of_that_size(size: int, most: int) -> None:
    buffers = Buffers(CONFIG)
    held = [await buffers.acquire(size) for _ in range(most)]
    assert {len(buffer) for buffer in held} == {SMALL if size <= SMALL else LARGE}
    assert buffers.bytes_free == 0
    with trio.move_on_after(0.01) as scope:
        await buffers.acquire(1)
    assert scope.cancelled_caught
    for buffer in held:
        buffers.release(buffer)
    assert buffers.bytes_free == 4 * LARGE


async def test_a_large_one_waits_for_its_turn_and_small_ones_do_not_pass_it() -> None:
    buffers = Buffers(CONFIG)
    held = [await buffers.acquire(SMALL) for _ in range(16)]
    served: list[int] = []
    got: list[native.ChunkBuffer] = []

    async def wait(size: int) -> None:
        got.append(await buffers.acquire(size))
        served.append(size)

    async with trio.open_nursery() as nursery:
        for size in (LARGE, SMALL):
            nursery.start_soon(wait, size)
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            buffers.release(held.pop())
            await trio.testing.wait_all_tasks_blocked()
            assert served == []
        buffers.release(held.pop())
        await trio.testing.wait_all_tasks_blocked()
        assert served == [LARGE]
        buffers.release(held.pop())
    assert served == [LARGE, SMALL]
    for buffer in held + got:
        buffers.release(buffer)
    assert buffers.bytes_free == 4 * LARGE


async def test_one_that_gives_up_lets_those_behind_it_pass() -> None:
    buffers = Buffers(CONFIG)
    held = [await buffers.acquire(SMALL) for _ in range(15)]
    served: list[str] = []

    async def wait_large(scope: trio.CancelScope) -> None:
        with scope:
            await buffers.acquire(LARGE)

    async def wait_small() -> None:
        buffers.release(await buffers.acquire(SMALL))
        served.append("small")

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(wait_large, scope)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait_small)
        await trio.testing.wait_all_tasks_blocked()
        assert served == []
        scope.cancel()
    assert served == ["small"]
    for buffer in held:
        buffers.release(buffer)
    assert buffers.bytes_free == 4 * LARGE
