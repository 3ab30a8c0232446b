"""How many fetchers work at one part: they come while more goodput comes with them, and go when a host wants fewer.

Which span a fetcher takes, and from which source, is not decided here. A crew looks at itself a few times a second: it
lets its host measure, hires or sends away, tells the plan how fast a connection is (spans follow the rate), and has a
connection replaced that crawls while others do not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import trio

from engine.config import Config
from engine.errors import HostResting, TransferError
from engine.model.chunks import ChunkGrid
from engine.net.host import Host
from engine.net.pacing import Pace
from engine.net.tcp import TcpFacts
from engine.transfer.fetcher import Fetcher, Opened
from engine.transfer.plan import Plan
from engine.transfer.services import Services

# A connection that gets less than this share of what the median of the others gets is slow.
CRAWL_SHARE = 0.25
# One that is alone, when it would take longer than this for a chunk: asking again costs the part of one.
CHUNK_S_MAX = 3600.0
RATE_WINDOW_S = 1.0
# More connections are worth their setting up only while there is work for this long.
WORK_S_MIN = 2.0
# The disk holds a part up when this share of the sealer's buffers, or of the commit window, waits for it.
SEALER_SHARE, COMMITTER_SHARE = 0.5, 0.75


class _Watch(msgspec.Struct):
    """How a fetcher does: bytes a second in the last second, and since when it crawls."""

    began: float
    at: float
    received: int
    rate: float = 0.0
    slow_since: float | None = None
    leaving: bool = False


class Crew:
    """The fetchers of one part. ``hire`` makes one, ``work`` runs it to its end and raises nothing that concerns only
    this one. ``connections``: never more, and so many at once; 0: few at first (one for a small part), and what the
    host's goodput pays for.
    ``last_error``: why the last one gave up."""

    def __init__(
        self,
        services: Services,
        host: Host,
        plan: Plan,
        pace: Pace,
        *,
        grid: ChunkGrid,
        connections: int,
        hire: Callable[[], Fetcher],
        work: Callable[[Fetcher, Opened | None], Awaitable[None]],
    ) -> None:
        self._services = services
        self._config: Config = services.config
        self._host = host
        self._plan = plan
        self._pace = pace
        self._chunk_bytes = grid.chunk_bytes
        self._eager = grid.length >= services.config.parallel_bytes_min or connections > 0
        self._adaptive = connections == 0
        self._most = connections or services.config.connections_per_entry_max
        self.last_error: TransferError | None = None
        self._hire, self._work = hire, work
        self._watches: dict[Fetcher, _Watch] = {}
        self._departed = 0
        self._ended = trio.Event()
        self._rates_at = trio.current_time()

    @property
    def fetchers(self) -> list[Fetcher]:
        """Those that work now."""
        return list(self._watches)

    @property
    def received(self) -> int:
        """Body bytes so far; never fewer than before."""
        return self._departed + sum(fetcher.received for fetcher in self._watches)

    @property
    def flowing(self) -> int:
        """Connections on which bytes come."""
        return sum(1 for fetcher in self._watches if fetcher.received)

    @property
    def wanted(self) -> int:
        """How many connections it could use: one more only for work that is worth it, and that may be another's that
        it will share."""
        present = max(1, len(self._watches))
        goodput = self._host.growth.goodput if self._adaptive else 0.0
        if goodput:
            more = self._limit if self._plan.left * self._chunk_bytes >= goodput * WORK_S_MIN else 0
        else:
            more = -(-self._plan.unclaimed * self._chunk_bytes // self._config.span_bytes_min) if self._eager else 0
        return min(self._limit, present + more)

    @property
    def held_up(self) -> bool:
        """Whether the disk or a cap holds it up, rather than the line."""
        services, config = self._services, self._config
        return (
            services.sealing.bytes_queued > SEALER_SHARE * config.buffer_count * config.chunk_bytes
            or services.committer.uncommitted_bytes > COMMITTER_SHARE * config.commit_window_bytes
            or self._pace.limited
        )

    def tcp_facts(self) -> TcpFacts | None:
        """Of its connections together; the least of their round trips."""
        told = [facts for fetcher in self._watches if (facts := fetcher.tcp_facts()) is not None]
        if not told:
            return None
        return TcpFacts(
            min(facts.round_trip_s for facts in told),
            sum(facts.segments for facts in told),
            sum(facts.out_of_order for facts in told),
        )

    async def run(self, opened: Opened | None) -> None:
        """Until nothing is left to do, or nobody is left who could; ``opened`` is the first one's first span."""
        self._host.join(self)
        try:
            async with trio.open_nursery() as nursery:
                self._add(nursery, opened)
                while self._watches:
                    self._look(nursery)
                    with trio.move_on_after(self._interval_s):
                        await self._ended.wait()
        finally:
            self._host.leave(self)

    @property
    def _shared(self) -> bool:
        """Whether the host decides how many."""
        return self._adaptive or self._host.cap is not None

    @property
    def _interval_s(self) -> float:
        """Time to the next look: a thousand crews must not be busy with that."""
        if not self._shared:
            return RATE_WINDOW_S
        return min(RATE_WINDOW_S, self._config.growth_look_interval_s * max(1, self._host.crews))

    @property
    def _limit(self) -> int:
        slowest = self._pace.connections_max
        return self._most if slowest is None else min(self._most, slowest)

    def _look(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        shared = self._shared
        if shared:
            self._host.look(now, self)
        if now - self._rates_at >= RATE_WINDOW_S:
            self._rates_at = now
            self._measure(now)
        target = self._host.share(self) if shared else self._limit
        staying = [fetcher for fetcher, watch in self._watches.items() if not watch.leaving]
        wanted = min(target, self.wanted)
        for fetcher, watch in self._watches.items():
            if len(staying) < wanted and watch.leaving and not fetcher.leaving:
                watch.leaving = fetcher.resigned = False
                staying.append(fetcher)
        while len(staying) < wanted and len(self._watches) < self._limit:
            staying.append(self._add(nursery, None))
        for fetcher in staying[max(1, target) :]:
            self._watches[fetcher].leaving = True
            if self._host.growth.collapsed:
                fetcher.leaving = True  # at its next chunk
            else:
                fetcher.resigned = True  # behind its present span: what is on its way is not thrown away
        rate = self._host.growth.goodput if shared else sum(watch.rate for watch in self._watches.values())
        self._plan.follow(len(staying), rate / max(1, self._host.growth.level if shared else len(staying)))
        self._pace.connections = len(self._watches)

    def _add(self, nursery: trio.Nursery, opened: Opened | None) -> Fetcher:
        fetcher, now = self._hire(), trio.current_time()
        self._watches[fetcher] = _Watch(now, now, 0)
        nursery.start_soon(self._employ, fetcher, opened)
        return fetcher

    async def _employ(self, fetcher: Fetcher, opened: Opened | None) -> None:
        try:
            await self._work(fetcher, opened)
        finally:
            watch = self._watches.pop(fetcher)
            self._departed += fetcher.received
            if self.last_error is None or not isinstance(fetcher.last_error, HostResting):  # follows from the other's
                self.last_error = fetcher.last_error or self.last_error
            if not (watch.leaving or self._plan.finished):  # it gave up: nobody comes in its place
                self._most = max(1, len(self._watches))
            self._ended.set()
            self._ended = trio.Event()

    def _measure(self, now: float) -> None:
        """The rate of each, and whether it crawls."""
        for fetcher, watch in self._watches.items():
            received = fetcher.received
            watch.rate = (received - watch.received) / max(now - watch.at, 1e-9)
            watch.at, watch.received = now, received
        if self.held_up:
            return
        crawl_s = self._config.crawl_s
        rates = {fetcher: watch.rate for fetcher, watch in self._watches.items()}
        for fetcher, watch in self._watches.items():
            least = slow_below([rate for other, rate in rates.items() if other is not fetcher], self._config)
            if watch.rate >= (least if least is not None else self._chunk_bytes / CHUNK_S_MAX):
                watch.slow_since = None
                continue
            watch.slow_since = now if watch.slow_since is None else watch.slow_since
            if now - watch.slow_since >= crawl_s and now - watch.began >= 2 * crawl_s:
                watch.slow_since, watch.began = None, now
                fetcher.replace(f"only {watch.rate:.0f} bytes a second came for {crawl_s:g} s")


def slow_below(others: list[float], config: Config) -> float | None:
    """Below how many bytes a second a connection is slow beside these; None when nothing shows that another would do
    better."""
    if not others:
        return None
    from statistics import median as median_of  # noqa: PLC0415  # slow to import, and needed late

    median = median_of(others)
    return max(config.crawl_bytes_s, median * CRAWL_SHARE) if median >= config.crawl_bytes_s else None
