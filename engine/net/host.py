"""One host: whether it wants to be left alone, whether it answers at all, and how many connections and entries it is
worth. Pure but for its crews: it is told the time.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from engine.config import Config
from engine.net.growth import Growth, Sample
from engine.net.tcp import TcpFacts

# Refusals, and losses, within this time are one: several connections learn of it at once.
BURST_S = 2.0
LOSSES_PER_BURST = 3
# A line on which this share of segments comes out of order loses some: each connection alone is slow then.
LOSSY_SHARE = 0.005
LOSSY_SEGMENTS_MIN = 200


class Limit(NamedTuple):
    """What a host's trouble allows: so many entries at once (None: any number; 0: none begins), and none begins before
    ``until``. ``trial_s``: whether it answers again is to be tried, by one entry more than run; by the next when that
    one ended, or has not made it known after so many seconds."""

    most: int | None = None
    until: float | None = None
    trial_s: float | None = None


class Crew(Protocol):
    """Who fetches from a host over several connections."""

    @property
    def received(self) -> int:
        """Body bytes so far; never fewer than before."""

    @property
    def flowing(self) -> int:
        """Connections on which bytes come."""

    @property
    def wanted(self) -> int:
        """How many connections it could use."""

    @property
    def held_up(self) -> bool:
        """Whether something else than the line holds it up: the disk, a cap."""

    def tcp_facts(self) -> TcpFacts | None:
        """Of its connections together; None while none receives."""


class Host:
    """One host. ``cap``: how many entries may run since it refused some; None for any number. ``barren``: entries in a
    row that lost a body of it with nothing gained, as far as they are counted."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.growth = Growth(config)
        self.gate_until = self.open_until = self.tried_until = -math.inf
        self.failures = self.opens = 0
        self.probing = False
        self.cap: int | None = None
        self.barren: set[str] = set()
        self._cap_at = self._halved_at = -math.inf
        self._losses: list[float] = []
        self._crews: dict[Crew, None] = {}
        self._departed = 0
        self._lossy = False
        self._config = config

    @property
    def rests_until(self) -> float:
        """By trio's clock; in the past when it does not rest."""
        return max(self.gate_until, self.open_until, self.tried_until)

    @property
    def doubtful(self) -> bool:
        """Whether its breaker is not closed: what it answers next decides."""
        return self.opens > 0

    @property
    def loses_bodies(self) -> bool:
        """Whether so many entries in a row lost their bodies that the head of an answer proves nothing any more."""
        return len(self.barren) >= self._config.breaker_failures

    @property
    def open_s(self) -> float:
        """How long its breaker stays open: doubling with each time in a row."""
        return min(self._config.breaker_open_s * 2.0 ** min(32, self.opens - 1), self._config.breaker_open_max_s)

    @property
    def limit(self) -> Limit:
        """What it allows; ``until`` may be in the past. A doubtful host limits who tries and not who runs: what runs
        may have no question left for it, for hours."""
        if not self.doubtful:
            return Limit(self.cap, self.rests_until)
        return Limit(0, self.rests_until) if self.probing else Limit(None, self.rests_until, self.open_s)

    @property
    def eases_at(self) -> float:
        """When one entry more may run at once, if nothing happens; infinite when none is to come."""
        if self.cap is None or self.doubtful:
            return math.inf
        return max(self._cap_at, self.gate_until) + self._config.growth_hold_s

    @property
    def idle(self) -> bool:
        """Whether there is nothing to remember."""
        return not (self._crews or self.failures or self.barren or self.doubtful or self.cap is not None)

    def fail(self, now: float) -> None:
        """A request brought nothing that is of use."""
        self.failures += 1
        if self.doubtful or self.failures >= self._config.breaker_failures:
            self._open(now)

    def fail_body(self, now: float, entry_id: str) -> None:
        """An entry lost a body with nothing gained. One entry alone, however often, opens no breaker: it may be its
        file."""
        if not self.loses_bodies:
            self.barren.add(entry_id)
        if self.loses_bodies:
            self._open(now)

    def answer(self, now: float, *, body: bool) -> None:
        """It answered, as far as the head tells; a ``body`` is to follow. Where bodies were lost the others wait for
        that one, but not for ever: nobody may ever read it."""
        self.failures = 0
        if not self.loses_bodies:
            self._close()
        elif body:
            self.tried_until = now + self.open_s

    def gain(self) -> None:
        """A body of it came, or enough of one."""
        lost_them = self.loses_bodies
        self.barren.clear()
        if lost_them and self.failures < self._config.breaker_failures:
            self._close()

    def forgive(self) -> None:
        """What failed proves nothing."""
        self.barren.clear()
        self.failures, self.probing = 0, False
        self._close()

    def _close(self) -> None:
        self.opens, self.open_until, self.tried_until = 0, -math.inf, -math.inf

    def _open(self, now: float) -> None:
        if self.open_until > now:
            return  # it was asked before the breaker opened
        self.opens += 1
        self.open_until = now + self.open_s

    def join(self, crew: Crew) -> None:
        """A crew begins: it gets a share from now on, one connection at least."""
        self._crews[crew] = None
        self.growth.at_least(len(self._crews))

    def leave(self, crew: Crew) -> None:
        """It ended."""
        self._crews.pop(crew, None)
        self._departed += crew.received

    def share(self, crew: Crew) -> int:
        """How many connections the crew may have: a fair part, what others cannot use included."""
        if self.growth.level <= len(self._crews):
            return 1
        left, wanting = self.growth.level, dict(self._crews)
        while wanting:
            part = max(1, left // len(wanting))
            modest = [other for other in wanting if other.wanted <= part]
            if crew in modest or not modest:
                extra = left - part * len(wanting)
                return min(crew.wanted, part + (list(wanting).index(crew) < extra))
            for other in modest:
                del wanting[other]
                left -= max(1, other.wanted)
        return 1

    @property
    def crews(self) -> int:
        """How many crews there are."""
        return len(self._crews)

    def look(self, now: float, crew: Crew) -> None:
        """Measure, and decide how many connections it is worth; the first crew does it for all."""
        if next(iter(self._crews), None) is not crew:
            return
        crews = list(self._crews)
        facts = next((told for crew in crews if (told := crew.tcp_facts()) is not None), None)
        if facts is not None and facts.segments >= LOSSY_SEGMENTS_MIN:
            self._lossy = facts.loss_share >= LOSSY_SHARE
        if self._lossy:
            self.growth.ceiling = max(self.growth.ceiling, self._config.connections_per_entry_max)
        self.growth.observe(
            Sample(
                now=now,
                received=self._departed + sum(crew.received for crew in crews),
                flowing=sum(crew.flowing for crew in crews),
                round_trip_s=0.0 if facts is None else facts.round_trip_s,
                lossy=self._lossy,
                may_grow=not any(crew.held_up for crew in crews)
                and sum(crew.wanted for crew in crews) > self.growth.level,
            )
        )

    def halve(self, now: float, in_use: int) -> bool:
        """It refused, or broke connections in a row, while ``in_use`` were in use; False when that is known already."""
        if now - self._halved_at < BURST_S:
            return False
        self._halved_at = self._cap_at = now
        self.growth.level = max(1, in_use)
        self.growth.refuse(now)
        self.cap = max(1, min(in_use, self.cap or in_use) // 2)
        return True

    def lost(self, now: float) -> bool:
        """A connection broke in the middle of a body; True when that makes a burst."""
        self._losses = [at for at in self._losses if now - at < BURST_S]
        self._losses.append(now)
        return len(self._losses) >= LOSSES_PER_BURST

    def ease(self, now: float) -> bool:
        """After a while without a refusal one entry more may run at once, asked or not; True when that changed."""
        if self.cap is None or now < self.eases_at:
            return False
        self._cap_at = now
        self.cap = None if self.cap >= self._config.entries_at_once else self.cap + 1
        return True
