"""Which connection carries the next exchange. One list of idle connections, one pure decision; all effects around it.

A slot is a borrowed connection. Slots are trio semaphores: FIFO, and no wake-up is lost to a cancellation. Who waits
for a slot of its host holds none of the slots of all: nobody waits behind a host that has no more. Idle connections
hold no slot; the oldest makes room when the total would be exceeded.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from engine.config import Config
from engine.errors import EngineClosed
from engine.net.connection import Connection
from engine.net.dialer import Dialer, Route
from engine.net.url import Origin


class _HostSlots:
    """The slots of one host, whatever its ports and schemes. ``users``: who has one or waits for one."""

    __slots__ = ("slots", "users")

    def __init__(self, most: int) -> None:
        self.slots = trio.Semaphore(most, max_value=most)
        self.users = 0


class Pool:
    """Connections by route, at most ``connections_max`` open at once, ``connections_per_host`` borrowed of a host."""

    def __init__(self, config: Config, dialer: Dialer) -> None:
        self._config = config
        self._dialer = dialer
        self._slots = trio.Semaphore(config.connections_max, max_value=config.connections_max)
        self._hosts: dict[str, _HostSlots] = {}
        self._idle: list[tuple[Route, Connection]] = []  # the longest idle first
        self._active: dict[Connection, Route] = {}
        self._connecting = 0
        self._closed = False
        self.opened = 0

    def __repr__(self) -> str:
        counts = f"active={len(self._active)} connecting={self._connecting} idle={len(self._idle)}"
        return f"<Pool {counts} opened={self.opened}>"

    async def acquire(self, origin: Origin, *, fresh: bool = False, named: bool = False) -> Connection:
        """An idle connection to ``origin``, or a new one (always with ``fresh``). Waits in line while all are borrowed.
        ``named``: the caller put the origin into a request himself. Give it back with :meth:`release`. Raises
        EngineClosed and what the dialer raises."""
        await self._take_slots(origin.host)
        try:
            self._refuse_closed()
            route = self._dialer.route(origin, named=named)
            connection = None if fresh else self._take_idle(route)
            if connection is None:
                connection = await self._open(route)
            self._active[connection] = route
        except BaseException:
            self._give_slots(origin.host)
            raise
        return connection

    def release(self, connection: Connection, reusable: bool) -> None:
        """Take a borrowed connection back. One that is not ``reusable`` has been closed."""
        route = self._active.pop(connection)
        self._give_slots(route.origin.host)
        if not reusable:
            return
        self._idle.append((route, connection))
        self._close(surplus_of([other for other, _ in self._idle], route, self._config.idle_connections_per_host))
        if self._closed:
            self._close(range(len(self._idle)))

    def drop_idle(self) -> None:
        """The line is another one: what is idle may lead nowhere, and would only be found out by waiting."""
        self._close(range(len(self._idle)))

    def borrowed(self, host: str) -> int:
        """How many connections to a host are in use."""
        return sum(1 for route in self._active.values() if route.origin.host == host)

    async def aclose(self) -> None:
        """Close every connection; who uses one gets EngineClosed."""
        self._closed = True
        self._close(range(len(self._idle)))
        for connection in list(self._active):
            connection.close()
        await trio.lowlevel.checkpoint()

    async def _take_slots(self, host: str) -> None:
        if self._config.connections_per_host == 0:
            await self._slots.acquire()
            return
        own = self._hosts.setdefault(host, _HostSlots(self._config.connections_per_host))
        own.users += 1
        try:
            await own.slots.acquire()
            try:
                await self._slots.acquire()
            except BaseException:
                own.slots.release()
                raise
        except BaseException:
            self._leave(host, own)
            raise

    def _give_slots(self, host: str) -> None:
        self._slots.release()
        own = self._hosts.get(host)
        if own is not None:
            own.slots.release()
            self._leave(host, own)

    def _leave(self, host: str, own: _HostSlots) -> None:
        own.users -= 1
        if own.users == 0:
            del self._hosts[host]

    async def _open(self, route: Route) -> Connection:
        room = self._config.connections_max - len(self._active) - self._connecting - 1
        self._close(range(max(0, len(self._idle) - room)))
        self._connecting += 1
        try:
            link = await self._dialer.connect(route)
        finally:
            self._connecting -= 1
        connection = Connection(link, self._config)
        if self._closed:
            connection.close()
            self._refuse_closed()
        self.opened += 1
        return connection

    def _take_idle(self, route: Route) -> Connection | None:
        """The most recently used usable one; what is expired or not silent is closed on the way."""
        ages = [connection.idle_since for _, connection in self._idle]
        self._close(expired(ages, trio.current_time(), self._config.idle_connection_s))
        for index in candidates([other for other, _ in self._idle], route):
            connection = self._idle[index][1]
            if connection.usable():
                del self._idle[index]
                return connection
            self._close([index])
        return None

    def _close(self, indexes: Sequence[int]) -> None:
        for index in sorted(indexes, reverse=True):
            self._idle.pop(index)[1].close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise EngineClosed("the client was closed")


def expired(idle_since: Sequence[float], now: float, limit_s: float) -> list[int]:
    """Which idle connections are too old to be trusted."""
    return [index for index, since in enumerate(idle_since) if now - since > limit_s]


def candidates(routes: Sequence[Route], route: Route) -> list[int]:
    """Which idle connections could carry an exchange along ``route``, the most recently used first."""
    return [index for index in reversed(range(len(routes))) if routes[index] == route]


def surplus_of(routes: Sequence[Route], route: Route, limit: int) -> list[int]:
    """Which idle connections along ``route`` are beyond ``limit``, the longest idle first."""
    mine = [index for index, other in enumerate(routes) if other == route]
    return mine[: max(0, len(mine) - limit)]
