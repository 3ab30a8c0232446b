"""Calls of many tasks in few batches: who gathers, who leads, what an error or a cancellation does to the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import trio
import trio.lowlevel

from engine.errors import StoreUnusable
from engine.transfer.combiner import Combiner, outcome_of


class Batches:
    """Runs the calls of a batch one by one; a batch can be held up."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def __call__(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        self.gate.wait()
        self.sizes.append(len(calls))
        if self.error is not None:
            raise self.error
        return [outcome_of(call) for call in calls]


async def until_busy(combiner: Combiner) -> None:
    with trio.fail_after(5):
        while combiner.idle:
            await trio.lowlevel.checkpoint()


async def test_alone_a_call_waits_for_nobody() -> None:
    batches = Batches()
    combiner = Combiner(batches, trio.CapacityLimiter(1))
    assert await combiner.do(lambda: 7) == 7
    assert batches.sizes == [1]
    assert combiner.idle


async def test_what_gathers_while_a_batch_runs_is_the_next_batch_and_no_larger_than_allowed() -> None:
    batches = Batches()
    batches.gate.clear()
    combiner = Combiner(batches, trio.CapacityLimiter(1), most=4)
    results: dict[int, int] = {}

    async def ask(number: int) -> None:
        results[number] = await combiner.do(partial(pow, number, 2))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 0)
        await until_busy(combiner)
        for number in range(1, 11):
            nursery.start_soon(ask, number)
        await trio.testing.wait_all_tasks_blocked()
        batches.gate.set()
    assert results == {number: number**2 for number in range(11)}
    assert batches.sizes == [1, 4, 4, 2]
    assert combiner.idle


async def test_one_call_that_refuses_is_its_own_trouble() -> None:
    combiner = Combiner(Batches(), trio.CapacityLimiter(1))

    def refuse() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await combiner.do(refuse)
    assert await combiner.do(lambda: "fine") == "fine"


async def test_a_batch_that_fails_as_a_whole_fails_for_all_of_it_and_no_later_one() -> None:
    batches = Batches()
    batches.gate.clear()
    combiner = Combiner(batches, trio.CapacityLimiter(1))
    failed = []

    async def ask() -> None:
        try:
            await combiner.do(lambda: None)
        except StoreUnusable:
            failed.append(True)

    batches.error = StoreUnusable("the disk is away")
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        batches.gate.set()
    assert len(failed) == 5
    batches.error = None
    assert await combiner.do(lambda: 1) == 1


async def test_a_call_in_the_queue_is_made_although_its_task_is_cancelled() -> None:
    batches = Batches()
    batches.gate.clear()
    combiner = Combiner(batches, trio.CapacityLimiter(1))
    made: list[str] = []

    async def ask(name: str, scope: trio.CancelScope) -> None:
        with scope:
            await combiner.do(partial(made.append, name))
            made.append(f"{name} returned")

    leading, waiting = trio.CancelScope(), trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "leader", leading)
        await until_busy(combiner)
        nursery.start_soon(ask, "waiter", waiting)
        await trio.testing.wait_all_tasks_blocked()
        leading.cancel()
        waiting.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert made == []
        batches.gate.set()
    assert sorted(made) == ["leader", "leader returned", "waiter", "waiter returned"]


async def test_a_task_that_is_cancelled_already_asks_for_nothing() -> None:
    batches = Batches()
    combiner = Combiner(batches, trio.CapacityLimiter(1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await combiner.do(lambda: None)
    assert scope.cancelled_caught
    assert batches.sizes == []
