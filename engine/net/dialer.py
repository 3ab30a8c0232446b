"""From a route to a connected :class:`Link`: address policy, TCP, the proxy on the way, TLS; each with its error."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import NamedTuple

from engine.config import Config
from engine.errors import (
    AddressRefused,
    ConnectionLost,
    ConnectRefused,
    DnsError,
    NetworkError,
    ProxyError,
    ResolverDown,
)
from engine.net.addresses import LOCALHOST, is_here, is_special
from engine.net.binding import bound_interface, leave_machine
from engine.net.link import Link
from engine.net.proxy import Proxies, Proxy, open_tunnel
from engine.net.resolving import connect_tcp
from engine.net.tls import Tls
from engine.net.trust import DEFAULT_TRUST, Trust
from engine.net.url import Origin


class Route(NamedTuple):
    """How an origin is reached: the full security context of a connection (S41). Two exchanges share one only when all
    of it is equal. ``named``: the origin is an address (or ``localhost``) that the caller himself wrote.
    ``interface``: the one that it is bound to."""

    origin: Origin
    tls: str = ""
    proxy: Proxy | None = None
    named: bool = False
    interface: str = ""


class Dialer:
    """Connects to origins, as ``trust`` has it. Raises InvalidRequest for a proxy that cannot be used."""

    def __init__(self, config: Config, trust: Trust = DEFAULT_TRUST) -> None:
        self._config = config
        self._policy = trust.addresses
        self._tls = Tls(trust, config.tls_timeout_s)
        self._proxies = Proxies.of(trust, os.environ)
        self._direct = not self._proxies

    def route(self, origin: Origin, *, named: bool = False) -> Route:
        """The way to ``origin``. ``named``: the caller put it into a request's URL himself. Raises NoRoute or
        MeteredLine when it leads beyond this machine, and the work that it is for may not."""
        tls = self._tls.label(origin) if origin.scheme == "https" else ""
        proxy = None if self._direct else self._proxies.for_(origin)
        if not is_here(origin.host if proxy is None else proxy.origin.host):
            leave_machine()
        return Route(origin, tls, proxy, named and is_special(origin.host), bound_interface())

    async def connect(self, route: Route) -> Link:
        """A link along ``route``. Raises AddressRefused, DnsError, ConnectRefused, ConnectTimeout, ConnectionLost,
        TlsError, ProxyError, TooManyFiles or NetworkError when this side is out of descriptors or ports, and
        InvalidRequest for an unusable CA file or client certificate."""
        origin, proxy = route.origin, route.proxy
        secure = origin.scheme == "https"
        if secure:
            self._tls.context(origin)  # what is wrong with it is wrong before anyone is asked
        sock = await self._reach(route) if proxy is None else await self._reach_proxy(route, proxy)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not secure:
                return Link(sock, proxy=proxy)
            if proxy is not None:
                await open_tunnel(sock, proxy, origin, self._config)
            secured = await self._tls.start(sock, origin, route)
        except OSError as error:
            sock.close()
            raise ConnectionLost(f"the connection broke at once: {error.strerror}") from error
        except BaseException:
            sock.close()
            raise
        return Link(secured, partial(self._tls.keep_session, route))

    async def _reach(self, route: Route) -> socket.socket:
        judge = partial(self._policy.refusal, named=route.named)
        return await connect_tcp(route.origin.host, route.origin.port, judge, self._config.connect_timeout_s)

    async def _reach_proxy(self, route: Route, proxy: Proxy) -> socket.socket:
        """The proxy was chosen by who configured the engine, and resolves names: what can be judged here is an address
        that stands in the URL itself."""
        host = route.origin.host
        if is_special(host):
            refusal = self._policy.refusal("127.0.0.1" if host == LOCALHOST else host, named=route.named)
            if refusal is not None:
                raise AddressRefused(f"{host} is not asked for: {refusal}")
        try:
            at = proxy.origin
            return await connect_tcp(at.host, at.port, lambda _: None, self._config.connect_timeout_s)
        except (ConnectRefused, DnsError) as error:
            if isinstance(error, ResolverDown):
                raise
            raise ProxyError(f"the proxy {proxy.origin} cannot be reached: {error}") from error
        except NetworkError as error:
            raise type(error)(f"on the way to the proxy {proxy.origin}: {error}") from error
