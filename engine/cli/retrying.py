"""When the next try comes, why then, and how many there will be."""

from __future__ import annotations

import time

import msgspec

from engine.config import DEFAULT_CONFIG
from engine.model.records import DownloadEntry
from engine.model.retry import TRIES_DEFAULT, TRIES_WITHOUT_PROGRESS

SOON_S = 90.0  # a wait up to here is told in seconds, a longer one by the clock
TENTHS_BELOW_S = 10.0
_SLACK_S = 0.05  # between the attempt's recorded end and the moment from which the wait counts


class Tries(msgspec.Struct):
    """The tries of one entry in a row that brought nothing, counted as the engine counts them; ``bytes_done`` were
    durable at the last look."""

    failed: int = 0
    bytes_done: int = 0

    def count(self, bytes_done: int) -> None:
        """One more try has failed, and this much is durable now: any progress begins the count anew."""
        self.failed = 1 if bytes_done > self.bytes_done else self.failed + 1
        self.bytes_done = bytes_done


def retry_text(entry: DownloadEntry, code: str, tries: Tries, now: float) -> str:
    """``in 3 s, try 2 of 8 (backoff)``: after a try that ended with the error ``code``."""
    tries_max = TRIES_WITHOUT_PROGRESS.get(code, TRIES_DEFAULT)
    which = f"try {min(tries.failed + 1, tries_max)} of {tries_max}"
    if entry.next_retry_at is None:  # it has begun already
        return f"now, {which}"
    return f"{_when(entry.next_retry_at, now)}, {which} ({_why(entry, tries)})"


def _when(at: float, now: float) -> str:
    wait_s = at - now
    if wait_s <= SOON_S:
        return f"in {max(0.0, wait_s):.{1 if wait_s < TENTHS_BELOW_S else 0}f} s"
    same_day = time.localtime(at)[:3] == time.localtime(now)[:3]
    return "at " + time.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M", time.localtime(at))


def _why(entry: DownloadEntry, tries: Tries) -> str:
    """A wait longer than any backoff at this count can only be what the server asked for."""
    doublings = max(0, tries.failed - 1)
    backoff_s_max = min(DEFAULT_CONFIG.backoff_max_s, DEFAULT_CONFIG.backoff_base_s * 2.0**doublings)
    ended_at = entry.attempts[-1].ended_at if entry.attempts else entry.updated_at
    waits_s = (entry.next_retry_at or ended_at) - ended_at
    return "the server asked for it: Retry-After" if waits_s > backoff_s_max + _SLACK_S else "backoff"
