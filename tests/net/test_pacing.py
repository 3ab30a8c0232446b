"""Bandwidth caps: they hold over any five seconds, share fairly, and change while running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from engine.config import KIB, MIB
from engine.errors import InvalidRequest
from engine.net.pacing import BODY_SHARE, BUFFER_BYTES_MAX, Pace, Pacing, checked_rate

RATE = 10 * MIB
WINDOW_S = 5.0


class Meter:
    """What was received when, by entry."""

    def __init__(self) -> None:
        self.came: list[tuple[float, str, int]] = []

    async def receive(self, name: str, pace: Pace, until: float, most: int = MIB) -> None:
        """One connection that always has bytes."""
        while trio.current_time() < until:
            count = await pace.take(most)
            self.came.append((trio.current_time(), name, count))

    def rate(self, since: float, until: float, name: str | None = None) -> float:
        """Bytes a second in ``since`` <= t < ``until``."""
        counts = (count for at, of, count in self.came if since <= at < until and name in (None, of))
        return sum(counts) / (until - since)


def run(script: Callable[[], Awaitable[None]]) -> None:
    trio.run(script, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(("entries", "connections"), [(1, 1), (3, 8), (8, 1), (2, 16)])
def test_a_cap_holds_over_any_five_seconds_and_is_shared_fairly(entries: int, connections: int) -> None:
    meter = Meter()

    async def script() -> None:
        pacing = Pacing(RATE)
        with ExitStack() as running:
            paces = [running.enter_context(pacing.running(str(entry))) for entry in range(entries)]
            await receive_all(paces)

    async def receive_all(paces: list[Pace]) -> None:
        async with trio.open_nursery() as nursery:
            for entry, pace in enumerate(paces):
                for _ in range(connections * (1 + entry)):  # who has more connections gets no more
                    nursery.start_soon(meter.receive, str(entry), pace, 20.0)

    run(script)
    for step in range(100):
        rate = meter.rate(1 + step / 10, 1 + step / 10 + WINDOW_S)
        assert 0.95 * RATE <= rate <= RATE
    shares = [meter.rate(1, 19, str(entry)) for entry in range(entries)]
    assert min(shares) >= 0.95 * max(shares)


def test_an_entrys_own_cap_leaves_the_rest_to_others() -> None:
    meter = Meter()

    async def script() -> None:
        pacing = Pacing(RATE)
        with pacing.running("slow", MIB) as slow, pacing.running("fast") as fast:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(meter.receive, "slow", slow, 20.0)
                nursery.start_soon(meter.receive, "fast", fast, 20.0)

    run(script)
    assert 0.93 * MIB <= meter.rate(1, 19, "slow") <= MIB
    assert 0.95 * RATE <= meter.rate(1, 19) <= RATE


def test_who_waits_goes_on_by_a_new_rate_at_once() -> None:
    meter = Meter()

    async def script() -> None:
        pacing = Pacing(1 * KIB)
        with pacing.running("x"):
            await change(pacing)

    async def change(pacing: Pacing) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meter.receive, "x", pacing.of("x"), 30.0)
            await trio.sleep(10)
            pacing.set_rate(RATE)
            await trio.sleep(10)
            pacing.set_entry_rate("x", MIB)
            pacing.set_entry_rate("unknown", MIB)

    run(script)
    assert meter.rate(0, 10) <= 2 * KIB
    assert 0.95 * RATE <= meter.rate(11, 19) <= RATE
    assert 0.93 * MIB <= meter.rate(21, 29) <= MIB


def test_without_a_cap_nobody_waits() -> None:
    async def script() -> None:
        pacing = Pacing()
        pace = Pace(pacing, None)
        assert not pace.limited
        assert (pace.rate, pace.connections_max, pace.buffer_bytes(0.05)) == (None, None, None)
        for _ in range(100):
            await pace.take(MIB)
            await pace.begin()
        assert trio.current_time() == 0
        limited = []
        for rate in (MIB, 0):
            pacing.set_rate(rate)
            limited.append(pace.limited)
        assert limited == [True, False]

    run(script)


def test_what_came_unasked_is_owed_and_what_did_not_come_is_given_back() -> None:
    async def script() -> None:
        pace = Pace(Pacing(MIB), None)
        assert await pace.take(4 * KIB) == 4 * KIB
        pace.owe(-4 * KIB)
        await pace.take(1)
        assert trio.current_time() < 0.01
        pace.owe(MIB)
        await pace.begin()
        assert trio.current_time() == pytest.approx(1 / BODY_SHARE, rel=0.02)

    run(script)


def test_a_cancelled_wait_loses_nothing_and_blocks_nobody() -> None:
    async def script() -> None:
        pace = Pace(Pacing(MIB), None)
        pace.owe(MIB)
        with trio.move_on_after(0.1) as scope:
            await pace.take(MIB)
        assert scope.cancelled_caught
        await pace.take(1)
        assert trio.current_time() == pytest.approx(1 / BODY_SHARE, rel=0.02)

    run(script)


def test_little_is_buffered_under_a_cap_but_what_the_line_needs() -> None:
    pacing = Pacing(RATE)
    with pacing.running("0") as many, pacing.running("1") as one:
        many.connections = 8
        near, far = many.buffer_bytes(0.001), many.buffer_bytes(0.3)
        assert near is not None
        assert far is not None
        assert near <= RATE / 2 / 8 * 0.1
        assert far >= 0.9 * RATE / 2 / 8 * 0.3
        assert one.buffer_bytes(1e9) == BUFFER_BYTES_MAX
        pacing.set_rate(300 * KIB)
        assert many.connections_max == 1


def test_what_is_left_of_an_earlier_run_neither_keeps_its_cap_nor_counts() -> None:
    """Found: a pace lived as long as anything held it, and the cap that an entry was asked anew with was dropped."""
    pacing = Pacing(RATE)
    left = []
    for rate in (5 * MIB, MIB, 0, 2 * MIB):
        with pacing.running("x", rate) as pace:
            assert pacing.of("x") is pace
            assert pace.own.rate == (rate * BODY_SHARE or None)
            assert pacing.entries == 1
            pacing.set_entry_rate("x", 3 * MIB)
            assert pace.own.rate == 3 * MIB * BODY_SHARE
        left.append(pace)
        assert pacing.entries == 0
    assert len(set(left)) == 4


def test_a_run_that_fails_has_ended() -> None:
    pacing = Pacing()
    with pytest.raises(InvalidRequest), pacing.running("x", 5):
        pytest.fail("that is no rate")
    with pytest.raises(ValueError, match="a bug"), pacing.running("x"):
        raise ValueError("a bug")
    assert pacing.entries == 0


@pytest.mark.parametrize("rate", [-1, 1, 1023, 1 << 60, 1.5, True, "1M", None, float("nan")])
def test_rates_that_cannot_be(rate: object) -> None:
    with pytest.raises(InvalidRequest, match="rate limit"):
        checked_rate(rate)
