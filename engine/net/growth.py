"""How many connections a host is worth, decided from measured goodput: one more only while it pays.

Pure: it is told the time and the bytes received so far, and says how many connections there should be. It begins with
few and doubles while that pays, so that a fast line is filled within a second; behind the first step that did not pay
it goes on one by one, and rests after each that did not.
"""

from __future__ import annotations

import math

import msgspec

from engine.config import MIB, Config

# One more connection pays when it brings this much more goodput; where even an ideal one brings less than twice that,
# half of the ideal is enough. On a line that loses packets a tenth is: chance moves each window there, and connections
# that have not lost one yet make what was before look better than it can stay.
GAIN_EACH = 0.07
IDEAL_SHARE, LOSSY_IDEAL_SHARE = 0.5, 0.1
# A lossy line bounds each connection, and steps of one are lost in its noise.
LOSSY_FACTOR = 4
# Another step back is due at once, without waiting for its spans' ends, when the last step cost this much.
COLLAPSE = 0.9

WINDOW_BYTES = 4 * MIB
WINDOW_S = 1.0
WINDOW_S_MAX = 10.0  # a line that needs longer for the bytes of a window is judged by fewer
WINDOW_ROUND_TRIPS = 8
# Doublings are told apart in less time than single steps.
START_WINDOW_S_MIN, START_WINDOW_S_MAX = 0.1, 0.25
START_ROUND_TRIPS = 4
SETTLE_ROUND_TRIPS = 2  # a new connection needs some to get up to speed
UNEVEN_S_MAX = 5.0  # connections that do not come do not hold a window up for longer


class Sample(msgspec.Struct, frozen=True):
    """What is seen of a host. ``received``: bytes so far; ``flowing``: connections on which bytes come;
    ``round_trip_s``: of its line, which is ``lossy`` when packets come behind gaps. ``may_grow``: there is work for
    more, and neither the disk nor a cap holds it up."""

    now: float
    received: int
    flowing: int
    round_trip_s: float
    lossy: bool
    may_grow: bool


class Growth:
    """The number of connections, ``level``. ``ceiling`` bounds it and may change; ``goodput``: bytes a second in the
    last window."""

    def __init__(self, config: Config) -> None:
        self.ceiling = min(config.connections_per_host_grown, config.connections_per_entry_max)
        self.level = min(config.connections_start, self.ceiling)
        self.goodput = 0.0
        self.collapsed = False
        self._hold_s = config.growth_hold_s
        self._base, self._base_rate = self.level, 0.0
        self._starting = True
        # The last step that was taken back, with its goodput: hosts that give a new connection a burst make what was
        # before it look better than it is. So the base is measured anew, and the step is taken again, once, if it pays
        # by that.
        self._rejected: tuple[int, float] | None = None
        self._again = False
        self._hold_until = -math.inf
        self._began: float | None = None
        self._changed_at: float | None = None
        self._start = 0

    def observe(self, sample: Sample) -> int:
        """Take notice; returns the level as it is now."""
        self.level = min(self.level, self.ceiling)
        self._base = min(self._base, self.level)
        if self._began is None or not self._settled(sample):
            self._restart(sample)
            return self.level
        elapsed, got = sample.now - self._began, sample.received - self._start
        if not self._enough(elapsed, got, sample.round_trip_s):
            return self.level
        self.goodput = got / elapsed
        self._restart(sample)
        if self.level > self._base and not self._paid(sample):
            return self.level
        self._base, self._base_rate = self.level, self.goodput
        rejected, self._rejected = self._rejected, None
        if rejected is not None and sample.may_grow and self._pays(*rejected, sample.lossy):
            self._again = True
            self._set(min(self.ceiling, rejected[0]), sample.now)
        elif sample.may_grow and sample.now >= self._hold_until:
            self._set(min(self.ceiling, self._next(sample.lossy)), sample.now)
        return self.level

    def at_least(self, count: int) -> None:
        """There are so many anyway: nobody fetches with less than one."""
        if count > self.level:
            self.ceiling = max(self.ceiling, count)
            self.level = self._base = count
            self._began = None

    def refuse(self, now: float) -> None:
        """The host refused, or broke connections in a row: half as many, and none more for a while."""
        self._starting = False
        self._set(max(1, self.level // 2), now)
        self._base, self._rejected = self.level, None
        self._hold_until = now + self._hold_s

    def _next(self, lossy: bool) -> int:
        if lossy:
            return LOSSY_FACTOR * self.level
        return 2 * self.level if self._starting else self.level + 1

    def _paid(self, sample: Sample) -> bool:
        """Whether the last step did; it is taken back otherwise."""
        again, self._again = self._again, False
        if self._pays(self.level, self.goodput, sample.lossy):
            return True
        self._rejected = None if again else (self.level, self.goodput)
        self.collapsed = self.goodput < self._base_rate * COLLAPSE
        if not self._starting or self.level - self._base == 1:
            self._hold_until = sample.now + self._hold_s
        self._starting = False
        self._set(self._base, sample.now)
        return False

    def _pays(self, level: int, goodput: float, lossy: bool) -> bool:
        """Whether ``level`` connections with this goodput are worth more than the base."""
        more = level - self._base
        ideal = more / self._base
        needed = min((1 + GAIN_EACH) ** more - 1, ideal * (LOSSY_IDEAL_SHARE if lossy else IDEAL_SHARE))
        return more > 0 and goodput >= self._base_rate * (1 + needed)

    def _set(self, level: int, now: float) -> None:
        if level != self.level:
            self.level = level
            self._changed_at = now
            self._began = None

    def _settled(self, sample: Sample) -> bool:
        """Whether what flows is what was decided, long enough for new connections to be up to speed."""
        if self._changed_at is None:
            return True
        waited = sample.now - self._changed_at
        if sample.flowing > self.level or (sample.flowing < self.level and waited < UNEVEN_S_MAX):
            return False
        if waited < SETTLE_ROUND_TRIPS * sample.round_trip_s:
            return False
        self._changed_at = None
        return False  # the window begins here

    def _enough(self, elapsed: float, got: int, round_trip_s: float) -> bool:
        if self._starting:
            least = max(START_WINDOW_S_MIN, START_ROUND_TRIPS * round_trip_s)
            return elapsed >= least and (got >= WINDOW_BYTES or elapsed >= max(START_WINDOW_S_MAX, least))
        least = max(WINDOW_S, WINDOW_ROUND_TRIPS * round_trip_s)
        return elapsed >= least and (got >= WINDOW_BYTES or elapsed >= max(WINDOW_S_MAX, least))

    def _restart(self, sample: Sample) -> None:
        self._began, self._start = sample.now, sample.received
