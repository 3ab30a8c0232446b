"""What is known of each host, for all entries together: whether it wants to be left alone, whether it answers at all,
and how many connections it is worth.

A host rests while its Retry-After runs, and while its breaker is open because it failed several times in a row without
an answer between; behind that one request goes ahead, and its answer decides for the others. Nothing is kept of a host
that was never in trouble and has nobody fetching from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import trio

from engine.config import Config
from engine.errors import (
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DnsError,
    EngineError,
    HostResting,
    NetworkError,
    ProtocolViolation,
    ResolverDown,
    Stalled,
    TlsError,
    TooManyFiles,
)
from engine.model.retry import Loss, policy_of
from engine.net.growth import Growth, Sample
from engine.net.tcp import TcpFacts

# What speaks against the host, and neither against the network nor against this machine.
_HOST_FAILURES = (ConnectRefused, ConnectTimeout, ConnectionLost, DnsError, ProtocolViolation, Stalled, TlsError)
REFUSALS = frozenset({429, 503})

# Refusals, and losses, within this time are one: several connections learn of it at once.
BURST_S = 2.0
LOSSES_PER_BURST = 3
# A line on which this share of segments comes out of order loses some: each connection alone is slow then.
LOSSY_SHARE = 0.005
LOSSY_SEGMENTS_MIN = 200
# One host may fall silent alone; two that have nothing to do with each other seldom do.
SILENT_HOSTS_MIN = 2
# Beyond this many hosts, those that nobody uses and that do not rest are forgotten.
HOSTS_KEPT = 1024


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
    """One host. ``cap``: how many entries may run since it refused some; None for any number."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.growth = Growth(config)
        self.gate_until = self.open_until = -math.inf
        self.failures = self.opens = 0
        self.probing = False
        self.cap: int | None = None
        self._cap_at = self._halved_at = -math.inf
        self._losses: list[float] = []
        self._crews: dict[Crew, None] = {}
        self._departed = 0
        self._lossy = False
        self._config = config

    @property
    def rests_until(self) -> float:
        """By trio's clock; in the past when it does not rest."""
        return max(self.gate_until, self.open_until)

    @property
    def doubtful(self) -> bool:
        """Whether its breaker is not closed: what it answers next decides."""
        return self.opens > 0

    @property
    def entries_max(self) -> int | None:
        """How many entries may begin; None for any number."""
        return 1 if self.doubtful else self.cap

    @property
    def idle(self) -> bool:
        """Whether there is nothing to remember."""
        return not (self._crews or self.failures or self.doubtful or self.cap is not None)

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
        """It answers: after a while without a refusal one entry more may run at once; True when that changed."""
        if self.cap is None or now - self._cap_at < self._config.growth_hold_s:
            return False
        self._cap_at = now
        self.cap = None if self.cap >= self._config.entries_at_once else self.cap + 1
        return True


class Hosts:
    """All hosts. ``changed`` is called with a host's name when :meth:`rests_until` or :meth:`entries_max` did."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._hosts: dict[str, Host] = {}
        self._silent: set[str] = set()
        self.changed: Callable[[str], None] = lambda _: None

    def host(self, name: str) -> Host:
        """What is known of a host, from now on."""
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= HOSTS_KEPT:
                self._forget(trio.current_time())
            host = self._hosts[name] = Host(name, self._config)
        return host

    def rests_until(self, name: str) -> float | None:
        """Until when, by trio's clock, nothing is asked of the host; None when it does not rest."""
        host = self._hosts.get(name)
        return None if host is None or host.rests_until <= trio.current_time() else host.rests_until

    def entries_max(self, name: str) -> int | None:
        """How many entries of the host may run at once; None for any number."""
        host = self._hosts.get(name)
        return None if host is None else host.entries_max

    def why_resting(self, name: str) -> tuple[str, float]:
        """Why nothing is asked of the host, in words, and for how many seconds yet; ``("", 0.0)`` when it does not
        rest."""
        until = self.rests_until(name)
        if until is None:
            return "", 0.0
        left = until - trio.current_time()
        return _words(self._hosts[name], left), left

    async def enter(self, name: str) -> None:
        """Before a request. Waits for a host that rests only for a moment; raises HostResting for a longer rest, or
        while another request tries whether it answers again."""
        while (host := self._hosts.get(name)) is not None:
            left = host.rests_until - trio.current_time()
            if left <= 0 and not (host.doubtful and host.probing):
                host.probing = host.doubtful
                return
            if left > self._config.host_rest_wait_s:
                raise HostResting(_words(host, left), retry_after_s=left)
            if left <= 0:
                raise HostResting(f"whether {name} answers again is being tried", retry_after_s=self._open_s(host))
            await trio.sleep(left)

    def answered(self, name: str, status: int, retry_after_s: float | None, in_use: Callable[[str], int]) -> None:
        """It answered a request with this status; ``in_use`` tells how many of its connections are."""
        if self._silent:
            self._silent.clear()
        host = self._hosts.get(name)
        if host is None and status < 500 and status not in REFUSALS:
            return
        host, now = host or self.host(name), trio.current_time()
        before = host.rests_until, host.entries_max
        host.probing = False
        if status in REFUSALS or status >= 500:
            if status in REFUSALS:
                host.halve(now, in_use(name))
            if retry_after_s is not None:
                asked = min(max(retry_after_s, 0.0), self._config.retry_after_s_max)
                host.gate_until = max(host.gate_until, now + asked)
            elif status != 429:
                self._fail(host, now)
        else:
            host.failures = host.opens = 0
            host.open_until = -math.inf
            host.ease(now)
        self._tell(host, before)

    def failed(self, name: str, error: BaseException, in_use: Callable[[str], int]) -> None:
        """A request ended before its answer: what speaks against the host counts. Where this side ran out of something
        (N21, N22), fewer connections are the answer."""
        host = self._hosts.get(name)
        counts = isinstance(error, _HOST_FAILURES) and not isinstance(error, ResolverDown)
        too_many = isinstance(error, TooManyFiles) or type(error) is NetworkError
        if host is None and not (counts or too_many):
            return
        host = host or self.host(name)
        before = host.rests_until, host.entries_max
        host.probing = False
        if too_many:
            host.halve(trio.current_time(), in_use(name) + 1)
        if counts and not self._is_the_network(name, error):
            self._fail(host, trio.current_time())
        self._tell(host, before)

    def lost(self, name: str, in_use: int) -> None:
        """A connection broke in the middle of a body; several in a row are a refusal."""
        host, now = self.host(name), trio.current_time()
        before = host.rests_until, host.entries_max
        if host.lost(now):
            host.halve(now, in_use)
        self._tell(host, before)

    def forgive(self) -> None:
        """The network is another: what failed over the old one proves nothing. What a host asked for stays."""
        for host in list(self._hosts.values()):
            before = host.rests_until, host.entries_max
            host.failures = host.opens = 0
            host.open_until, host.probing = -math.inf, False
            self._tell(host, before)

    def excuse(self, name: str) -> None:
        """Somebody wants it asked now, resting or not: one request goes ahead, and its answer decides."""
        host = self._hosts.get(name)
        if host is None or host.rests_until <= trio.current_time():
            return
        before = host.rests_until, host.entries_max
        host.gate_until = host.open_until = -math.inf
        host.opens = max(1, host.opens)
        self._tell(host, before)

    def _is_the_network(self, name: str, error: BaseException) -> bool:
        """Whether several hosts fell silent, and none has answered since: that speaks against none of them."""
        if not isinstance(error, EngineError) or policy_of(error).loss is Loss.NONE:
            return False
        self._silent.add(name)
        if len(self._silent) < SILENT_HOSTS_MIN:
            return False
        self.forgive()
        return True

    def _fail(self, host: Host, now: float) -> None:
        host.failures += 1
        if host.doubtful or host.failures >= self._config.breaker_failures:
            if host.open_until > now:
                return  # it was asked before the breaker opened
            host.opens += 1
            host.open_until = now + self._open_s(host)

    def _open_s(self, host: Host) -> float:
        return min(self._config.breaker_open_s * 2.0 ** min(32, host.opens - 1), self._config.breaker_open_max_s)

    def _tell(self, host: Host, before: tuple[float, int | None]) -> None:
        if (host.rests_until, host.entries_max) != before:
            self.changed(host.name)

    def _forget(self, now: float) -> None:
        for name in [name for name, host in self._hosts.items() if host.idle and host.rests_until <= now]:
            del self._hosts[name]


def _words(host: Host, left: float) -> str:
    if host.gate_until >= host.open_until:
        return f"{host.name} asked to be left alone for another {left:.0f} s"
    return f"{host.name} failed {host.failures} times in a row; it is tried again in {left:.0f} s"
