"""What is known of each host, for all entries together: whether it wants to be left alone, whether it answers at all,
and how many connections it is worth.

A host rests while its Retry-After runs, and while its breaker is open because it failed several times in a row without
an answer between, or lost the bodies of several entries; behind that one request goes ahead, and its answer (then: its
body) decides for the others. Nothing is kept of a host that was never in trouble and has nobody fetching from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
from engine.errors.transfer import RETRYABLE_STATUSES
from engine.model.retry import Loss, policy_of
from engine.net.host import Host, Limit

# What speaks against the host, and neither against the network nor against this machine.
_HOST_FAILURES = (ConnectRefused, ConnectTimeout, ConnectionLost, DnsError, ProtocolViolation, Stalled, TlsError)
REFUSALS = frozenset({429, 503})
# Of a whole host in trouble, rather than of one file.
_FAILING = RETRYABLE_STATUSES | REFUSALS

# One host may fall silent alone; two that have nothing to do with each other seldom do.
SILENT_HOSTS_MIN = 2
# Beyond this many hosts, those that nobody uses and that do not rest are forgotten.
HOSTS_KEPT = 1024


class Hosts:
    """All hosts. ``changed`` is called with a host's name when its :meth:`limit` did."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._hosts: dict[str, Host] = {}
        self._silent: set[str] = set()
        self._capped: dict[str, Host] = {}
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

    def limit(self, name: str) -> Limit:
        """What entries of the host may do now."""
        host = self._hosts.get(name)
        return Limit() if host is None else host.limit._replace(until=self.rests_until(name))

    def eases_at(self) -> float:
        """When :meth:`ease` is to be called; infinite for never."""
        return min((host.eases_at for host in self._capped.values()), default=math.inf)

    def ease(self) -> None:
        """Time alone lets hosts that refused some take more entries again: who runs may ask them nothing for hours."""
        now = trio.current_time()
        for host in [host for host in self._capped.values() if host.eases_at <= now]:
            before = host.limit
            host.ease(now)
            self._tell(host, before)

    def why_resting(self, name: str) -> tuple[str, float]:
        """Why nothing is asked of the host, or only by a few, in words, and for how many seconds yet if it rests;
        ``("", 0.0)`` when there is nothing to say."""
        host, now = self._hosts.get(name), trio.current_time()
        if host is None:
            return "", 0.0
        if host.rests_until > now:
            return _words(host, host.rests_until - now), host.rests_until - now
        if host.doubtful:
            return f"whether {name} answers again is tried by one of its entries", 0.0
        if host.cap is not None:
            return f"{name} refused some: {host.cap} of its entries may run at once, more with time", 0.0
        return "", 0.0

    async def enter(self, name: str) -> None:
        """Before a request. Waits for a host that rests only for a moment; raises HostResting for a longer rest, or
        while another request tries whether it answers again."""
        while (host := self._hosts.get(name)) is not None:
            left = host.rests_until - trio.current_time()
            if left <= 0 and not (host.doubtful and host.probing):
                before, host.probing = host.limit, host.doubtful
                self._tell(host, before)
                return
            if left > self._config.host_rest_wait_s:
                raise HostResting(_words(host, left), retry_after_s=left)
            if left <= 0:
                raise HostResting(f"whether {name} answers again is being tried", retry_after_s=host.open_s)
            await trio.sleep(left)

    def answered(self, name: str, status: int, retry_after_s: float | None, in_use: Callable[[str], int]) -> None:
        """It answered a request with this status; ``in_use`` tells how many of its connections are."""
        if self._silent:
            self._silent.clear()
        host = self._hosts.get(name)
        failing = status >= 500 or status in _FAILING
        if host is None and not failing:
            return
        host, now = host or self.host(name), trio.current_time()
        before = host.limit
        host.probing = False
        if failing:
            if status in REFUSALS:
                host.halve(now, in_use(name))
            if retry_after_s is not None:
                asked = min(max(retry_after_s, 0.0), self._config.retry_after_s_max)
                host.gate_until = max(host.gate_until, now + asked)
            host.fail(now)  # also behind a Retry-After: one of no time, or of too little, must not be the only bound
        else:
            host.answer(now, body=status < 400)
            host.ease(now)
        self._tell(host, before)

    def body_failed(self, name: str, entry_id: str) -> None:
        """An entry lost a body with nothing gained: its head was no answer worth the name."""
        host = self.host(name)
        before = host.limit
        host.fail_body(trio.current_time(), entry_id)
        self._tell(host, before)

    def body_came(self, name: str) -> None:
        """An entry gained something."""
        host = self._hosts.get(name)
        if host is not None and host.barren:
            before = host.limit
            host.gain()
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
        before = host.limit
        host.probing = False
        if too_many:
            host.halve(trio.current_time(), in_use(name) + 1)
        if counts and not self._is_the_network(name, error):
            host.fail(trio.current_time())
        self._tell(host, before)

    def lost(self, name: str, in_use: int) -> None:
        """A connection broke in the middle of a body; several in a row are a refusal."""
        host, now = self.host(name), trio.current_time()
        before = host.limit
        if host.lost(now):
            host.halve(now, in_use)
        self._tell(host, before)

    def forgive(self) -> None:
        """The network is another: what failed over the old one proves nothing. What a host asked for stays."""
        for host in list(self._hosts.values()):
            before = host.limit
            host.forgive()
            self._tell(host, before)

    def excuse(self, name: str) -> None:
        """Somebody wants it asked now, resting or not: one request goes ahead, and its answer decides."""
        host = self._hosts.get(name)
        if host is None or host.rests_until <= trio.current_time():
            return
        before = host.limit
        host.gate_until = host.open_until = host.tried_until = -math.inf
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

    def _tell(self, host: Host, before: Limit) -> None:
        if host.cap is None:
            self._capped.pop(host.name, None)
        else:
            self._capped[host.name] = host
        if host.limit != before:
            self.changed(host.name)

    def _forget(self, now: float) -> None:
        for name in [name for name, host in self._hosts.items() if host.idle and host.rests_until <= now]:
            del self._hosts[name]


def _words(host: Host, left: float) -> str:
    if host.tried_until >= host.rests_until:
        return f"whether {host.name} sends whole bodies again is being tried"
    if host.gate_until >= host.open_until:
        return f"{host.name} asked to be left alone for another {left:.0f} s"
    if host.loses_bodies:
        return f"{host.name} broke its answers off for {len(host.barren)} entries in a row; it is tried in {left:.0f} s"
    return f"{host.name} failed {host.failures} times in a row; it is tried again in {left:.0f} s"
