"""The paced receive: as few wake-ups and system calls as the line allows, a bounded amount per turn, never a hang."""

from __future__ import annotations

import trio

from engine.config import KIB, Config
from engine.errors import Stalled
from engine.net.drip import Drip
from engine.net.link import Link
from engine.net.pacing import Pace

# Low water is what arrives sooner than anyone would notice: 256 KiB in 50 ms is 5 MiB/s. Many slow connections would
# else be woken up for each packet.
FAST_INTERVAL_S = 0.05
LOW_WATER_BYTES_MIN = 8 * KIB
WINDOW_BYTES = 64 * KIB
# Receives of a turn, however little each brings: one over TLS may take a hundred records of a byte.
RECEIVES_PER_TURN = 4
# A line that slowed down under raised low water is looked at again after this long, so it is neither stalled nor stuck.
PATIENCE_S = 1.0


class Receiver:
    """Fills buffers from ``link``. ``received`` counts body bytes as they come, also those of a fill that failed."""

    def __init__(self, link: Link, config: Config) -> None:
        self.received = 0
        self.pace: Pace | None = None
        self.drip = Drip(config)
        self._link = link
        self._config = config
        self._turn_left = config.receive_turn_bytes
        self._waited_s = 0.0  # in a row, without anything that counts
        self._low_water = 1
        self._window_began = trio.current_time()
        self._window_start = 0

    async def fill(self, view: memoryview, body_left: int | None) -> int:
        """Receive until ``view`` is full. Fewer bytes only at the end of the stream. ``body_left``: how many bytes are
        certain to come, when known. Raises Stalled, ConnectionLost."""
        if self.pace is not None and (self.pace.limited or self._link.buffer_bytes is not None):
            return await self._fill_paced(view, body_left, self.pace)
        got, size = 0, len(view)
        while got < size:
            with view[got:] as rest:
                count = self._link.receive_nowait(rest)
            if count is None:
                await self._wait(None if body_left is None else body_left - got)
                self._turn_left = self._config.receive_turn_bytes
                continue
            if count == 0:
                break
            got += count
            self.received += count
            self._waited_s = 0.0
            await self._took(count)
        return got

    async def _took(self, count: int) -> None:
        """So many bytes came at once; others get their turn when this one has had its own."""
        turn = self._config.receive_turn_bytes
        self._turn_left -= max(count, turn // RECEIVES_PER_TURN)
        if self._turn_left <= 0:
            await trio.lowlevel.checkpoint()
            self._turn_left = turn

    async def _fill_paced(self, view: memoryview, body_left: int | None, pace: Pace) -> int:
        """The same under a cap: each receive waits for its turn, and takes no more than it was given."""
        facts = self._link.tcp_facts()
        self._link.bound_buffer(pace.buffer_bytes(0.0 if facts is None else facts.round_trip_s))
        got, size = 0, len(view)
        while got < size:
            count = await self._receive_paced(view, got, pace)
            if count is None:
                await self._wait(None if body_left is None else body_left - got, steered=False)
                continue
            if count == 0:
                break
            got += count
            self.received += count
            self._waited_s = 0.0
        return got

    async def _receive_paced(self, view: memoryview, start: int, pace: Pace) -> int | None:
        allowed = await pace.take(len(view) - start)
        count: int | None = None
        try:
            with view[start : start + allowed] as rest:
                count = self._link.receive_nowait(rest)
        finally:
            pace.owe((count or 0) - allowed)
        return count

    async def receive_some(self, view: memoryview) -> int:
        """Receive at least 1 byte, or 0 at the end of the stream; nothing is counted as body, nor as progress, until
        :meth:`progressed` says so. Raises Stalled, ConnectionLost."""
        while (count := await self._receive_something(view)) is None:
            await self._wait(None)
            self._turn_left = self._config.receive_turn_bytes
        await self._took(count)
        return count

    async def _receive_something(self, view: memoryview) -> int | None:
        if self.pace is not None and self.pace.limited:
            return await self._receive_paced(view, 0, self.pace)
        return self._link.receive_nowait(view)

    def progressed(self, count: int) -> None:
        """What came by :meth:`receive_some` held ``count`` bytes of the body."""
        self.received += count
        self._waited_s = 0.0

    def settle(self) -> None:
        """Make the link fit for another use: the next head is small."""
        if self._low_water > 1:
            self._set_low_water(1)

    async def _wait(self, body_left: int | None, *, steered: bool = True) -> None:
        """Wait for bytes, or for a low water's worth of them while the line is fast and the wait ``steered``.

        A drip of what carries no byte of the body (pieces of a TLS record, of a chunk's header, of trailers) wakes it
        again and again; so the silence is the sum of the waits. What did come is judged before the next one, for
        then all of it is counted."""
        idle_s = self._config.idle_timeout_s
        if self.drip.waited_s >= self.drip.window_s:
            self.drip.look(self.received, body_left, None if self.pace is None else self.pace.share)
        self._steer(body_left if steered else None)
        began = trio.current_time()
        if self._low_water > 1:
            with trio.move_on_after(min(PATIENCE_S, idle_s / 2)):
                await self._link.wait_ready()
                self._count_wait(began)
                return
            self._set_low_water(1)
        with trio.move_on_at(began + idle_s - self._waited_s):
            await self._link.wait_ready()
            self._count_wait(began)
            return
        raise Stalled(f"nothing came for {idle_s:g} s")

    def _count_wait(self, began: float) -> None:
        waited_s = trio.current_time() - began
        self._waited_s += waited_s
        self.drip.waited_s += waited_s

    def _steer(self, body_left: int | None) -> None:
        """Low water follows the rate far from the end of the body, and is low elsewhere."""
        most = self._config.receive_low_water_bytes
        wanted = self._low_water
        if self.received - self._window_start >= min(most, WINDOW_BYTES):
            now = trio.current_time()
            rate = (self.received - self._window_start) / max(now - self._window_began, 1e-9)
            wanted = low_water_of(rate, most)
            self._window_began, self._window_start = now, self.received
        if body_left is None or body_left <= 2 * wanted:
            wanted = 1
        if wanted != self._low_water:
            self._set_low_water(wanted)

    def _set_low_water(self, count: int) -> None:
        self._link.set_low_water(count)
        self._low_water = count
        self._window_began, self._window_start = trio.current_time(), self.received


def low_water_of(rate: float, most: int) -> int:
    """What comes in the time that nobody notices, in steps of two, so that it is seldom set; 1 where that is little."""
    count = int(rate * FAST_INTERVAL_S)
    if count >= most:
        return max(1, most)
    return 1 << (count.bit_length() - 1) if count >= LOW_WATER_BYTES_MIN else 1
