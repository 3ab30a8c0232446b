"""The paced receive: as few wake-ups and system calls as the line allows, a bounded amount per turn, never a hang."""

from __future__ import annotations

import trio

from engine.config import Config
from engine.errors import Stalled
from engine.net.link import Link

# Low water pays only when its bytes arrive sooner than anyone would notice: 256 KiB in 50 ms is 5 MiB/s.
FAST_INTERVAL_S = 0.05
# A line that slowed down under raised low water is looked at again after this long, so it is neither stalled nor stuck.
PATIENCE_S = 1.0


class Receiver:
    """Fills buffers from ``link``. ``received`` counts body bytes as they come, also those of a fill that failed."""

    def __init__(self, link: Link, config: Config) -> None:
        self.received = 0
        self._link = link
        self._config = config
        self._turn_left = config.receive_turn_bytes
        self._raised = False
        self._window_began = trio.current_time()
        self._window_start = 0

    async def fill(self, view: memoryview, body_left: int | None) -> int:
        """Receive until ``view`` is full. Fewer bytes only at the end of the stream. ``body_left``: how many bytes are
        certain to come, when known. Raises Stalled, ConnectionLost."""
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
            self._turn_left -= count
            if self._turn_left <= 0:
                await trio.lowlevel.checkpoint()
                self._turn_left = self._config.receive_turn_bytes
        return got

    async def receive_some(self, view: memoryview) -> int:
        """Receive at least 1 byte, or 0 at the end of the stream; nothing is counted as body."""
        while (count := self._link.receive_nowait(view)) is None:
            await self._wait(None)
            self._turn_left = self._config.receive_turn_bytes
        self._turn_left -= count
        if self._turn_left <= 0:
            await trio.lowlevel.checkpoint()
            self._turn_left = self._config.receive_turn_bytes
        return count

    def settle(self) -> None:
        """Make the link fit for another use: the next head is small."""
        if self._raised:
            self._set_raised(False)

    async def _wait(self, body_left: int | None) -> None:
        """Wait for bytes, or for a low water's worth of them while the line is fast."""
        idle_s = self._config.idle_timeout_s
        self._steer(body_left)
        if self._raised:
            patience_s = min(PATIENCE_S, idle_s / 2)
            with trio.move_on_after(patience_s):
                return await self._link.wait_ready()
            self._set_raised(False)
            idle_s -= patience_s
        with trio.move_on_after(idle_s):
            return await self._link.wait_ready()
        raise Stalled(f"nothing came for {self._config.idle_timeout_s:g} s")

    def _steer(self, body_left: int | None) -> None:
        """Raise low water on a fast line far from the end of the body, lower it elsewhere."""
        low_water = self._config.receive_low_water_bytes
        wanted = self._raised
        if self.received - self._window_start >= low_water:
            now = trio.current_time()
            rate = (self.received - self._window_start) / max(now - self._window_began, 1e-9)
            wanted = rate * FAST_INTERVAL_S >= low_water
            self._window_began, self._window_start = now, self.received
        if body_left is None or body_left <= 2 * low_water:
            wanted = False
        if wanted is not self._raised:
            self._set_raised(wanted)

    def _set_raised(self, raised: bool) -> None:
        self._link.set_low_water(max(1, self._config.receive_low_water_bytes) if raised else 1)
        self._raised = raised
        self._window_began, self._window_start = trio.current_time(), self.received
