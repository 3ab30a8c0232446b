"""Sources that became slow, compared with what others give: their fetchers go on elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio

from engine.config import Config
from engine.transfer.fetcher import Fetcher
from engine.transfer.sources import Source, Sources

LOOK_S = 1.0
SHARE = 0.25  # of the median: below that a source is slow


class Rate(NamedTuple):
    """What a fetcher's present exchange gave in the last seconds, once it had time to warm up."""

    source: Source
    bytes_s: float


async def replace_slow(config: Config, sources: Sources, working: Callable[[], Sequence[Fetcher]]) -> None:
    """Until cancelled: a fetcher whose source gives much less than another would, goes on with that one."""
    seen: dict[Fetcher, list[tuple[float, int]]] = {}
    while True:
        await trio.sleep(LOOK_S)
        now = trio.current_time()
        fetchers = working()
        seen = {fetcher: seen.get(fetcher, []) for fetcher in fetchers}
        rates = {fetcher: _rate(fetcher, seen[fetcher], now, config.crawl_s) for fetcher in fetchers}
        known = [rate for rate in rates.values() if rate is not None]
        for fetcher, rate in rates.items():
            if rate is not None and is_slow(rate, known, sources, now, config.crawl_bytes_s):
                sources.slow(rate.source, now)
                fetcher.replace()


def _rate(fetcher: Fetcher, seen: list[tuple[float, int]], now: float, window_s: float) -> Rate | None:
    """Over the last ``window_s``, of an exchange that had as long before to warm up."""
    seen.append((now, fetcher.received))
    while len(seen) > 1 and now - seen[1][0] >= window_s:
        del seen[0]
    began, before = seen[0]
    if fetcher.source is None or now - fetcher.since < 2 * window_s or now - began < window_s:
        return None
    return Rate(fetcher.source, (fetcher.received - before) / (now - began))


def is_slow(rate: Rate, rates: Sequence[Rate], sources: Sources, now: float, floor: float) -> bool:
    """Whether another source, that is free, gives far more: it is below the ``floor``, or below a quarter of the median
    of what the others give now, or gave when they were asked last."""
    others = [s for s in sources.usable if s is not rate.source and s.parked_until <= now]
    if not others:
        return False
    running = [other.bytes_s for other in rates if other.source is not rate.source]
    resting = [s.score.rate_bytes_s for s in others if not s.active and s.score.rate_bytes_s]
    from statistics import median  # noqa: PLC0415  # slow to import, and needed late

    typical = median(running + resting) if running or resting else 0.0
    return rate.bytes_s < max(floor, SHARE * typical)
