"""The network of the simulator: links in memory, whose bytes come at times that the seed drew."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import Enum

import trio

from engine.errors import (
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DnsError,
    EngineClosed,
    NoRoute,
    ResolverDown,
)
from engine.net.binding import bound_interface
from engine.net.dialer import Dialer, Route
from engine.net.link import Link
from engine.net.tcp import TcpFacts
from engine.net.url import Origin
from tests.fire.sim_faults import Faults

CONNECT_TIMEOUT_S = 10.0


class End(Enum):
    """How a stream goes on behind its last byte."""

    FIN = "fin"
    RESET = "reset"


# What comes over a link: after so many seconds these bytes, or its end. One that is exhausted stays open and silent.
Wire = Iterator[tuple[float, bytes | End]]
Serve = Callable[[str, bytes], Wire]


class Net:
    """All links, the line that they share, and hosts that are clogged until some time."""

    def __init__(self, faults: Faults, serve: Serve) -> None:
        self.faults = faults
        self.serve = serve
        self.connected = True
        self.clogged: dict[str, float] = {}
        self.links: dict[SimLink, None] = {}

    def clear_until(self, host: str) -> float:
        """Until when nothing comes from the host."""
        return self.clogged.get(host, -math.inf) if self.connected else math.inf

    def changed(self) -> None:
        """The line, or a clog, is another one: who waits looks again."""
        for link in tuple(self.links):
            link.stir()

    def break_all(self) -> None:
        """Every connection is dead."""
        for link in tuple(self.links):
            link.break_off()


class SimLink(Link):
    """A link to ``host``: requests are answered by ``net.serve``."""

    def __init__(self, net: Net, host: str) -> None:
        self.proxy = None
        self.receive_calls = 0
        self.buffer_bytes = None
        self._closed = False
        self._net = net
        self._host = host
        self._asked = b""
        self._wire: Wire = iter(())
        self._head: tuple[float, bytes | End] | None = None
        self._came = bytearray()
        self._end: End | None = None
        self._low_water = 1
        self._stirred = trio.Event()
        net.links[self] = None

    @property
    def resumed(self) -> bool:
        return False

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._refuse()
        if self._end is not None:
            raise ConnectionLost("the connection broke while sending: Broken pipe")
        self._asked += data
        head, mark, rest = self._asked.partition(b"\r\n\r\n")
        if mark:
            self._asked = rest
            self._wire = self._net.serve(self._host, head)
            self._advance(trio.current_time())

    def receive_nowait(self, view: memoryview) -> int | None:
        self._refuse()
        self.receive_calls += 1
        self._pump(len(view))
        if self._came:
            count = min(len(view), len(self._came))
            view[:count] = self._came[:count]
            del self._came[:count]
            return count
        if self._end is End.RESET:
            raise ConnectionLost("the connection broke while receiving: Connection reset by peer")
        return 0 if self._end is End.FIN else None

    async def wait_ready(self) -> None:
        self._refuse()
        await trio.lowlevel.checkpoint()
        while not self._closed:
            self._pump(self._low_water)
            if len(self._came) >= self._low_water or self._end is not None:
                return
            due = math.inf if self._head is None else max(self._head[0], self._net.clear_until(self._host))
            with trio.move_on_at(due):
                await self._stirred.wait()
                self._stirred = trio.Event()
        raise EngineClosed("the connection was closed by this side")

    async def receive_into(self, view: memoryview) -> int:
        await trio.lowlevel.checkpoint_if_cancelled()
        while (count := self.receive_nowait(view)) is None:
            await self.wait_ready()
        return count

    def set_low_water(self, count: int) -> None:
        self._refuse()
        if self._end is End.RESET:
            raise ConnectionLost("the connection broke: Connection reset by peer")
        self._low_water = count

    def tcp_facts(self) -> TcpFacts | None:
        return None

    def bound_buffer(self, size: int | None) -> None:
        self._refuse()
        self.buffer_bytes = size

    def readable_now(self) -> bool:
        if self._closed:
            return True
        self._pump(1)
        return bool(self._came) or self._end is not None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._net.links.pop(self, None)
            self._stirred.set()

    def stir(self) -> None:
        """Something beside the stream changed."""
        self._stirred.set()

    def break_off(self) -> None:
        """The other side is gone."""
        self._end = self._end or End.RESET
        self._came.clear()
        self._head = None
        self._stirred.set()

    def _refuse(self) -> None:
        if self._closed:
            raise EngineClosed("the connection was closed by this side")

    def _advance(self, after: float) -> None:
        item = next(self._wire, None)
        self._head = None if item is None else (after + item[0], item[1])

    def _pump(self, wanted: int) -> None:
        """Take over what has come by now, as far as somebody wants it."""
        now = trio.current_time()
        if now < self._net.clear_until(self._host):
            return
        while self._head is not None and self._end is None and len(self._came) < wanted and self._head[0] <= now:
            due, item = self._head
            if isinstance(item, End):
                self._end = item
                self._head = None
            else:
                self._came += item
                self._advance(due)


class SimDialer(Dialer):
    """Connects to the hosts of ``net``, or fails as the seed has it."""

    def __init__(self, net: Net) -> None:
        self._net = net

    def route(self, origin: Origin, *, named: bool = False) -> Route:  # addresses are no matter here
        return Route(origin, interface=bound_interface())

    async def connect(self, route: Route) -> Link:
        await trio.lowlevel.checkpoint()
        faults, host = self._net.faults, route.origin.host
        if not self._net.connected or faults.hit("no_route"):
            raise NoRoute(f"{host}: Network is unreachable")
        if faults.hit("resolver_down"):
            raise ResolverDown(f"{host}: Temporary failure in name resolution")
        if faults.hit("dns"):
            raise DnsError(f"{host}: Name or service not known")
        if faults.hit("black_hole"):
            await trio.sleep(CONNECT_TIMEOUT_S)
            raise ConnectTimeout(f"{host} did not answer")
        await trio.sleep(faults.rng.choice((0.0, 0.001, 0.02, 0.2)))
        if faults.hit("refused"):
            raise ConnectRefused(f"{host}: Connection refused")
        return SimLink(self._net, host)
