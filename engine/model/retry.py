"""What to do after an error: one table from error code to patience, one pure decision."""

from __future__ import annotations

import random
from dataclasses import dataclass

from engine.config import Config
from engine.errors import EngineError, TransferError

# Tries in a row without one committed chunk, by error code. A host that refuses or has no name seldom changes its mind
# within a minute; an overloaded or flaky one does.
TRIES_WITHOUT_PROGRESS: dict[str, int] = {
    "dns": 4,
    "refused": 4,
    "protocol": 3,
    "bad_range": 3,
    "changed": 3,
    "part_lost": 3,
}
TRIES_DEFAULT = 8


@dataclass(frozen=True, slots=True)
class Decision:
    """Try again after ``delay_s`` seconds, or give up (``delay_s`` None)."""

    delay_s: float | None


GIVE_UP = Decision(None)


def decide(error: EngineError, tries_without_progress: int, config: Config, rng: random.Random) -> Decision:
    """After the ``tries_without_progress``-th try in a row (from 1) that ended with ``error`` and committed nothing.

    Full jitter: uniform in 0 .. base x 2^(tries-1), at most ``backoff_max_s``; a server's Retry-After is the least
    delay and gets up to 10 % more, so that clients told the same time do not come back at once.
    """
    if not error.retryable:
        return GIVE_UP
    if tries_without_progress >= TRIES_WITHOUT_PROGRESS.get(error.code, TRIES_DEFAULT):
        return GIVE_UP
    ceiling = min(config.backoff_max_s, config.backoff_base_s * 2.0 ** max(0, tries_without_progress - 1))
    delay = rng.uniform(0.0, ceiling)
    asked = error.retry_after_s if isinstance(error, TransferError) else None
    if asked is not None:
        asked = min(max(asked, 0.0), config.retry_after_s_max)
        delay = max(delay, asked * rng.uniform(1.0, 1.1))
    return Decision(delay)
