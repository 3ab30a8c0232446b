"""A line that drips: bytes come, so it is not silent, but so few that it would hold its place for ever (N10)."""

from __future__ import annotations

from engine.config import KIB, Config
from engine.errors import Stalled

# However slow an honest line is, it brings whole packets: one within the idle timeout, or it would be silent by that.
PACKET_BYTES = 1 * KIB
PACKET_S = 32.0
# How long a rate is looked at, in `crawl_s`: where nobody else can be asked, a line may fade that long and come back.
SPARE_CRAWLS, ALONE_CRAWLS = 2, 12
# What comes within this time is waited for where nobody else can be asked: to ask again may cost all that came.
REST_S = 3600.0
CAP_SHARE = 0.25


class Drip:
    """Judges what one exchange brings while it is waited for; ``waited_s`` counts only the network, not the turns under
    a cap, nor buffers or the disk.

    The rule: over a window of such waiting fewer bytes came than the floor allows, and the rest would take too long.
    Alone, the floor is a packet (1 KiB) in 32 s, or in the idle timeout where that is longer; the window is twelve
    times `crawl_s`, and what will be there within an hour is never cut off: many such bodies cannot be resumed, so that
    a slow success must not become failures without end. With a spare source the window is twice `crawl_s`, what will
    be there within one more is let end, and as long as little would be lost the floor is `crawl_bytes_s`. A cap lowers
    the floor to a quarter of what it leaves to the connection."""

    __slots__ = ("_before", "_config", "_spare", "waited_s", "window_s")

    def __init__(self, config: Config) -> None:
        self._config = config
        self._spare = False
        self._before = 0
        self.waited_s = 0.0
        self.window_s = ALONE_CRAWLS * config.crawl_s

    def has_spare(self) -> None:
        """Another source is free, and did not fail lately."""
        self._spare = True
        self.window_s = SPARE_CRAWLS * self._config.crawl_s

    def look(self, received: int, left: int | None, share: float | None) -> None:
        """At the end of a window, and begin the next. ``received``: body bytes so far; ``left``: those to come, when
        known; ``share``: bytes a second that a cap leaves. Raises Stalled."""
        came = received - self._before
        rate = came / self.waited_s
        patience_s = self.window_s if self._spare else REST_S
        if rate < self._floor(received, share) and (left is None or left > rate * patience_s):
            raise Stalled(f"only {came} bytes came in {self.waited_s:.3g} s")
        self._before, self.waited_s = received, 0.0

    def _floor(self, received: int, share: float | None) -> float:
        config = self._config
        floor = PACKET_BYTES / max(PACKET_S, config.idle_timeout_s)
        if self._spare and received < config.crawl_bytes_s * self.window_s:
            floor = max(floor, config.crawl_bytes_s)
        return floor if share is None else min(floor, CAP_SHARE * share)
