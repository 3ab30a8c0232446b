"""Bandwidth caps, for all entries together and for one: a token bucket each, asked before anything is received, so that
TCP holds the sender back.

Turns are taken in order: the connections of an entry one after the other, and one of each entry at a time, so that both
share fairly whatever number they are. A cap counts what comes over the line, so a little is left for its framing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from engine.config import KIB, MIB, RATE_LIMIT_MIN
from engine.errors import InvalidRequest

RATE_MAX = 1 << 40
# Of the cap, for bodies: the rest is for heads and for the frames of TCP, IP and TLS (3.5 % at 1,500 bytes a packet).
BODY_SHARE = 0.96
BURST_S = 0.05  # how much a late wake-up may catch up with
QUANTUM_S = 0.005
QUANTUM_BYTES_MIN, QUANTUM_BYTES_MAX = 4 * KIB, 256 * KIB
# What the kernel buffers for a connection under a cap: little, or its buffers hide it; but what a line of this length
# has under way.
BUFFER_S, BUFFER_ROUND_TRIPS = 0.1, 2
BUFFER_BYTES_MIN, BUFFER_BYTES_MAX = 16 * KIB, 4 * MIB
# A connection slower than this is not worth having: servers close what takes nothing for a minute.
CONNECTION_BYTES_S_MIN = 128 * KIB


class Bucket:
    """``rate`` bytes a second; None for any number."""

    def __init__(self, rate: int | None = None) -> None:
        self.rate: float | None = None
        self._tokens = 0.0
        self._at = 0.0
        self._changed = trio.Event()
        self.set_rate(rate)

    def set_rate(self, rate: int | None) -> None:
        """From now on; who waits goes on by the new rate."""
        self.rate = None if rate is None else rate * BODY_SHARE
        self._tokens, self._at = 0.0, -1.0
        self._changed.set()
        self._changed = trio.Event()

    async def take(self, count: int) -> None:
        """Wait until nothing is owed, and owe ``count`` bytes."""
        while (wait_s := self._wait_s()) > 0:
            with trio.move_on_after(wait_s):
                await self._changed.wait()
        self._tokens -= count

    def owe(self, count: int) -> None:
        """``count`` bytes came unasked; negative: of those taken so many did not come."""
        self._tokens -= count

    def _wait_s(self) -> float:
        """How long something is owed yet."""
        if self.rate is None:
            self._tokens = 0.0
            return 0.0
        now = trio.current_time()
        if self._at >= 0:
            self._tokens = min(self._tokens + (now - self._at) * self.rate, self.rate * BURST_S)
        self._at = now
        return -self._tokens / self.rate if self._tokens <= -1 else 0.0  # less than a byte is no debt


class Pacing:
    """The cap of all entries, and the paces of those that run."""

    def __init__(self, rate: int = 0) -> None:
        """``rate``: bytes a second; 0 for no cap."""
        self._bucket = Bucket(checked_rate(rate))
        self._turn = trio.Lock()
        self._paces: dict[str, Pace] = {}

    @property
    def rate(self) -> float | None:
        """Of bodies; None without a cap."""
        return self._bucket.rate

    def set_rate(self, rate: int) -> None:
        """From now on; 0 for no cap. Raises InvalidRequest."""
        self._bucket.set_rate(checked_rate(rate))

    def set_entry_rate(self, entry_id: str, rate: int) -> None:
        """The same for an entry, if it runs. Raises InvalidRequest."""
        bytes_s = checked_rate(rate)
        pace = self._paces.get(entry_id)
        if pace is not None:
            pace.own.set_rate(bytes_s)

    @contextmanager
    def running(self, entry_id: str, rate: int = 0) -> Iterator[Pace]:
        """The entry runs until the end of the block, with its own cap ``rate``. Its pace is a new one: what an earlier
        attempt left behind may still hold that attempt's."""
        pace = self._paces[entry_id] = Pace(self, checked_rate(rate))
        try:
            yield pace
        finally:
            del self._paces[entry_id]

    def of(self, entry_id: str) -> Pace:
        """The pace of an entry that runs, the same for all that fetch for it."""
        return self._paces[entry_id]

    @property
    def entries(self) -> int:
        """How many run."""
        return len(self._paces)

    async def take(self, count: int) -> None:
        """One entry's turn."""
        if self._bucket.rate is not None:
            async with self._turn:
                await self._bucket.take(count)

    def owe(self, count: int) -> None:
        """See :meth:`Bucket.owe`."""
        self._bucket.owe(count)


class Pace:
    """How fast one entry may receive: by its own cap and by that of all."""

    def __init__(self, everyone: Pacing, rate: int | None) -> None:
        self.own = Bucket(rate)
        self._everyone = everyone
        self._turn = trio.Lock()
        self.connections = 1

    @property
    def limited(self) -> bool:
        """Whether there is any cap; all else is only worth a call if so."""
        return self.own.rate is not None or self._everyone.rate is not None

    @property
    def rate(self) -> float | None:
        """What the entry may receive a second when all that run do."""
        shared = self._everyone.rate
        rates = [self.own.rate] if self.own.rate is not None else []
        if shared is not None:
            rates.append(shared / max(1, self._everyone.entries))
        return min(rates) if rates else None

    @property
    def share(self) -> float | None:
        """The same for each of its connections."""
        rate = self.rate
        return None if rate is None else rate / max(1, self.connections)

    @property
    def connections_max(self) -> int | None:
        """More connections would each be too slow to live; None without a cap."""
        rate = self.rate
        return None if rate is None else max(1, int(rate / CONNECTION_BYTES_S_MIN))

    def buffer_bytes(self, round_trip_s: float) -> int | None:
        """What the kernel should buffer for each of its connections; None for as it likes."""
        share = self.share
        if share is None:
            return None
        wanted = share * max(BUFFER_S, BUFFER_ROUND_TRIPS * round_trip_s)
        return int(min(max(wanted, BUFFER_BYTES_MIN), BUFFER_BYTES_MAX))

    async def begin(self) -> None:
        """Wait until nothing is owed, before a request: what comes with its head is owed then."""
        if self.limited:
            await self.take(1)
            self.owe(-1)

    async def take(self, wanted: int) -> int:
        """Wait for this connection's turn; returns how many bytes, at least 1 and at most ``wanted``, it may receive.
        Those that do not come are given back by :meth:`owe`."""
        count = min(wanted, self._quantum())
        async with self._turn:
            await self.own.take(count)
            await self._everyone.take(count)
        return count

    def owe(self, count: int) -> None:
        """``count`` bytes came unasked; negative: of those taken so many did not come."""
        self.own.owe(count)
        self._everyone.owe(count)

    def _quantum(self) -> int:
        """Bytes of one turn: few, so that turns are short; but by its own cap as many as come due while all others have
        theirs."""
        wanted = float(QUANTUM_BYTES_MAX)
        if self._everyone.rate is not None:
            wanted = min(wanted, self._everyone.rate * QUANTUM_S)
        if self.own.rate is not None:
            wanted = min(wanted, self.own.rate * QUANTUM_S * 2 * (1 + self._everyone.entries))
        return int(max(wanted, QUANTUM_BYTES_MIN))


def checked_rate(rate: object, name: str = "a rate limit") -> int | None:
    """A rate in bytes a second; None for 0. Raises InvalidRequest, calling it ``name``."""
    if isinstance(rate, bool) or not isinstance(rate, int) or not (rate == 0 or RATE_LIMIT_MIN <= rate <= RATE_MAX):
        raise InvalidRequest(f"{name} is {RATE_LIMIT_MIN} bytes a second or more, or 0 for none; not {rate!r}")
    return rate or None
