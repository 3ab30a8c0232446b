"""How well each host did lately, for all entries together; in memory only."""

from __future__ import annotations

import msgspec

# Rates are told by weighted means: what came in so much time counts as much as all before it.
HALF_LIFE_S = 4.0
MEASURED_S = 0.25  # of receiving; before that a rate says more of buffers than of the line
FORGIVEN_S = 60.0
HOSTS_KEPT = 1024


class Score(msgspec.Struct):
    """``rate_bytes_s``: of one connection, 0 while nothing is known; ``failed_at``: by trio's clock, of the last
    request that failed with none that succeeded since."""

    rate_bytes_s: float = 0.0
    measured_s: float = 0.0
    failed_at: float | None = None

    @property
    def measured(self) -> bool:
        """Whether the rate is known well enough to decide by it."""
        return self.measured_s >= MEASURED_S

    def note(self, size: int, seconds: float) -> None:
        """So much came over one connection in that time."""
        if seconds <= 0 or size <= 0:
            return
        share = 1.0 if self.measured_s == 0 else 1 - 0.5 ** (seconds / HALF_LIFE_S)
        self.rate_bytes_s += share * (size / seconds - self.rate_bytes_s)
        self.measured_s += seconds
        self.failed_at = None

    def failing(self, now: float) -> bool:
        """Whether it failed lately, and did nothing well since."""
        return self.failed_at is not None and now - self.failed_at < FORGIVEN_S


class Scores:
    """Scores by host, those of the last thousand."""

    def __init__(self) -> None:
        self._scores: dict[str, Score] = {}

    def of(self, host: str) -> Score:
        """The host's score, kept from now on. ``host``: name and port."""
        score = self._scores.pop(host, None) or Score()
        self._scores[host] = score
        if len(self._scores) > HOSTS_KEPT:
            del self._scores[next(iter(self._scores))]
        return score
