"""Slots: never more at once than there are, the highest priority first, and none lost to a cancellation."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from engine.control.slots import PrioritySlots


class Line:
    """Tasks that want a slot; notes who got one, in order."""

    def __init__(self, count: int) -> None:
        self.slots = PrioritySlots(count)
        self.served: list[str] = []
        self.inside = 0
        self.most = 0
        self.leave = trio.Event()

    async def stand(self, name: str, priority: int = 0, sequence: int = 0) -> None:
        async with self.slots.hold(priority, sequence):
            self.served.append(name)
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                await self.leave.wait()
            finally:
                self.inside -= 1


async def test_by_priority_then_by_age() -> None:
    line = Line(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.stand, "holder")
        await trio.testing.wait_all_tasks_blocked()
        for name, priority, sequence in (("c", 0, 3), ("low", -5, 1), ("high", 5, 9), ("a", 0, 1), ("b", 0, 2)):
            nursery.start_soon(line.stand, name, priority, sequence)
            await trio.testing.wait_all_tasks_blocked()
        line.leave.set()
    assert line.served == ["holder", "high", "a", "b", "c", "low"]
    assert line.most == 1


@pytest.mark.parametrize("count", [1, 3, 7])
async def test_never_more_than_there_are(count: int) -> None:
    line = Line(count)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(line.stand, str(number), 0, number)
        await trio.testing.wait_all_tasks_blocked()
        assert line.inside == count
        line.leave.set()
    assert line.most == count
    assert len(line.served) == 20


async def test_who_stops_waiting_takes_no_slot() -> None:
    line = Line(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.stand, "holder")
        await trio.testing.wait_all_tasks_blocked()
        scope = trio.CancelScope()

        async def impatient() -> None:
            with scope:
                await line.stand("impatient", 9)

        nursery.start_soon(impatient)
        nursery.start_soon(line.stand, "patient", 0, 1)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        line.leave.set()
    assert line.served == ["holder", "patient"]


async def test_a_slot_given_to_one_who_is_cancelled_goes_on() -> None:
    """Between being given the slot and waking up: the slot must not vanish."""
    line = Line(1)
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:

        async def unlucky() -> None:
            with scope:
                await line.stand("unlucky", 9)

        async def holder() -> None:
            async with line.slots.hold(0, 0):
                await line.leave.wait()
            scope.cancel()  # the slot has just been given to the unlucky one, who has not run since

        nursery.start_soon(holder)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(unlucky)
        nursery.start_soon(line.stand, "next", 0, 1)
        await trio.testing.wait_all_tasks_blocked()
        line.leave.set()
    assert line.served[-1] == "next"


@pytest.mark.parametrize("seed", range(5))
async def test_no_slot_is_lost_over_many_cancellations(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    rng = random.Random(seed)
    slots = PrioritySlots(3)
    inside = 0

    async def worker(number: int) -> None:
        nonlocal inside
        with trio.move_on_after(rng.uniform(0, 3)):
            async with slots.hold(rng.randint(-2, 2), number):
                inside += 1
                assert inside <= 3
                try:
                    await trio.sleep(rng.uniform(0, 1))
                finally:
                    inside -= 1

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(worker, number)
    line = Line(0)
    line.slots = slots
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(line.stand, str(number))
        await trio.testing.wait_all_tasks_blocked()
        assert line.inside == 3, "a slot was lost or made"
        line.leave.set()
