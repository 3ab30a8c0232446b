"""Lines that drip: what is hopeless is a stall, what is only slow goes on to its end (N10)."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import trio
import trio.testing

from engine.config import KIB, MIB, Config
from engine.errors import Stalled
from engine.net.drip import ALONE_CRAWLS, PACKET_BYTES, PACKET_S, REST_S, SPARE_CRAWLS
from engine.net.pacing import Pace, Pacing
from engine.net.receiver import Receiver

CONFIG = Config(idle_timeout_s=30.0, crawl_s=10.0)
ALONE_S, SPARE_S = ALONE_CRAWLS * CONFIG.crawl_s, SPARE_CRAWLS * CONFIG.crawl_s
FLOOR = PACKET_BYTES / PACKET_S


class Drops:
    """As much of a link as a receiver uses: ``size`` bytes at a time, each ``every_s`` after the last was waited for;
    ``early`` more are there from the beginning."""

    buffer_bytes = None

    def __init__(self, size: int, every_s: float, early: int = 0) -> None:
        self._size = size
        self._every_s = every_s
        self._here = early

    def receive_nowait(self, view: memoryview) -> int | None:
        count = min(len(view), self._here)
        self._here -= count
        return count or None

    async def wait_ready(self) -> None:
        await trio.sleep(self._every_s)
        self._here += self._size

    def set_low_water(self, count: int) -> None:
        """It wakes its reader whenever it likes."""

    def bound_buffer(self, size: int | None) -> None:
        """It has none."""

    def tcp_facts(self) -> None:
        """It is no TCP."""


def receiver_of(link: Drops, *, spare: bool = False, pace: Pace | None = None, config: Config = CONFIG) -> Receiver:
    receiver = Receiver(link, config)  # type: ignore[arg-type]
    receiver.pace = pace
    if spare:
        receiver.drip.has_spare()
    return receiver


async def seconds_until_stalled(receiver: Receiver, size: int, *, length_known: bool = True) -> float:
    began = trio.current_time()
    with pytest.raises(Stalled, match="bytes came in"):
        await receiver.fill(memoryview(bytearray(size)), size if length_known else None)
    return trio.current_time() - began


@pytest.mark.parametrize("every_s", [1.0, 29.0])
@pytest.mark.parametrize("length_known", [True, False])
async def test_a_byte_now_and_then_is_a_stall(
    every_s: float, length_known: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Found: 256 KiB at a byte in 29 s held one of five places for 88 days."""
    receiver = receiver_of(Drops(1, every_s))
    seconds = await seconds_until_stalled(receiver, 256 * KIB, length_known=length_known)
    assert ALONE_S <= seconds <= ALONE_S + every_s


async def test_with_a_spare_source_it_is_one_much_sooner(autojump_clock: trio.testing.MockClock) -> None:
    receiver = receiver_of(Drops(1, 1.0), spare=True)
    assert await seconds_until_stalled(receiver, 200_000) == pytest.approx(SPARE_S)


@pytest.mark.parametrize("spare", [False, True])
async def test_just_above_the_floor_it_ends_and_just_below_it_does_not(
    spare: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Behind what came fast: with a spare source too, as that much would be lost."""
    early = 100 * KIB
    for share, ends in ((1.02, True), (0.98, False)):
        receiver = receiver_of(Drops(64, 64 / (FLOOR * share), early), spare=spare)
        size = early + 150 * KIB
        if ends:
            assert await receiver.fill(memoryview(bytearray(size)), size) == size
        else:
            assert await seconds_until_stalled(receiver, size) <= 2 * ALONE_S + 3


async def test_a_packet_in_each_idle_timeout_is_enough(autojump_clock: trio.testing.MockClock) -> None:
    """A line at the end of its range: who has more patience for silence has it for that."""
    for idle_s in (30.0, 120.0):
        config = Config(idle_timeout_s=idle_s)
        receiver = receiver_of(Drops(PACKET_BYTES, idle_s - 1), config=config)
        assert await receiver.fill(memoryview(bytearray(MIB)), None) == MIB


async def test_gprs_ends_also_where_others_would_be_faster(autojump_clock: trio.testing.MockClock) -> None:
    """One try elsewhere, while little is lost; not another one, when nothing else is known to be free."""
    gprs = Drops(1200, 1.0)
    with pytest.raises(Stalled):
        await receiver_of(gprs, spare=True).fill(memoryview(bytearray(200_000)), 200_000)
    assert await receiver_of(gprs).fill(memoryview(bytearray(200_000)), 200_000) == 200_000
    late = receiver_of(Drops(1200, 1.0, early=100 * KIB), spare=True)
    assert await late.fill(memoryview(bytearray(300_000)), 300_000) == 300_000


@pytest.mark.parametrize(("spare", "patience_s"), [(False, REST_S), (True, SPARE_S)])
async def test_what_will_be_there_soon_is_waited_for(
    spare: bool, patience_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    """To ask again may cost all of it, and bring no more the next time."""
    window_s = SPARE_S if spare else ALONE_S
    size = int(window_s + patience_s)
    assert await receiver_of(Drops(1, 1.0), spare=spare).fill(memoryview(bytearray(size)), size) == size
    size += 2
    assert await seconds_until_stalled(receiver_of(Drops(1, 1.0), spare=spare), size) == pytest.approx(window_s)


async def test_waiting_for_anything_else_is_no_drip(autojump_clock: trio.testing.MockClock) -> None:
    """For a buffer or the disk, between two fills: 8 KiB a second come while the line is waited for."""
    receiver = receiver_of(Drops(8 * KIB, 1.0), spare=True)
    for left in range(3 * int(SPARE_S), 0, -1):
        await trio.sleep(1000.0)
        assert await receiver.fill(memoryview(bytearray(8 * KIB)), left * 8 * KIB) == 8 * KIB


@pytest.mark.parametrize("spare", [False, True])
async def test_under_a_cap_nothing_stalls(spare: bool, autojump_clock: trio.testing.MockClock) -> None:
    """Neither one that always has bytes, nor one that brings them as the cap would have them."""
    for rate, link in ((KIB, Drops(MIB, 0.1, MIB)), (2 * KIB, Drops(KIB, 1.0)), (KIB, Drops(300, 1.0))):
        with Pacing(rate).running("a") as pace:
            receiver = receiver_of(link, spare=spare, pace=pace)
            assert await receiver.fill(memoryview(bytearray(200 * KIB)), 200 * KIB) == 200 * KIB


async def test_a_cap_does_not_hide_a_drip(autojump_clock: trio.testing.MockClock) -> None:
    """Found: under any cap no line was too slow."""
    pacing = Pacing(KIB)
    with ExitStack() as running:
        pace, *_ = [running.enter_context(pacing.running(name)) for name in "abcde"]
        receiver = receiver_of(Drops(1, 1.0), pace=pace)
        assert await seconds_until_stalled(receiver, 200_000) == pytest.approx(ALONE_S, rel=0.05)
        shared = pace.share
    assert shared is not None
    assert shared / 4 > 1.0


async def test_only_bytes_of_the_body_count(autojump_clock: trio.testing.MockClock) -> None:
    """The framing of the chunked coding is none; each chunk is progress, but this is a drip of chunks."""
    receiver = receiver_of(Drops(6, 5.0))
    view = memoryview(bytearray(6))
    with pytest.raises(Stalled, match="bytes came in"):
        for _ in range(100):
            assert await receiver.receive_some(view) == 6
            receiver.progressed(1)
    assert receiver.received == ALONE_S / 5.0
