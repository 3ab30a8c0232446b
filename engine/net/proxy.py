"""HTTP proxies: which one an origin is reached through, and the tunnel to an https origin (fault catalogue N18).

A proxy's credentials go to the proxy alone: in the CONNECT, or with each request that a plain proxy passes on.
"""

from __future__ import annotations

import base64
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import h11
import trio

from engine.config import Config
from engine.errors import ConnectionLost, InvalidRequest, ProtocolViolation, ProxyAuth, ProxyError
from engine.net.addresses import Network, is_special
from engine.net.fields import parse_count
from engine.net.head import Head, HeadReader
from engine.net.link import Link
from engine.net.trust import Trust, proxy_origin
from engine.net.url import Origin

PROXY_AUTHENTICATION_REQUIRED = 407
# In the order of preference. Not HTTP_PROXY: a CGI program gets that from a request's `Proxy:` field (CVE-2016-5385).
_VARIABLES = {
    "http": ("http_proxy", "all_proxy", "ALL_PROXY"),
    "https": ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
}
_EXEMPT_VARIABLES = ("no_proxy", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy; ``fields`` are its own, with its credentials."""

    origin: Origin
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, text: str, auth: tuple[str, str] | None = None) -> Proxy:
        """The proxy at ``http://host[:port]``. Raises InvalidRequest, never with the credentials in it."""
        return cls(proxy_origin(text), () if auth is None else (("Proxy-Authorization", basic(auth)),))


def basic(auth: tuple[str, str]) -> str:
    """The value of a field with Basic credentials (RFC 7617). Raises InvalidRequest, without repeating them."""
    if len(auth) != 2 or not all(isinstance(text, str) for text in auth):
        raise InvalidRequest("credentials are a user and a password, both text")
    user, password = auth
    if ":" in user or not (user + password).isprintable():
        raise InvalidRequest("a user name must hold no colon, and neither it nor its password control characters")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


class Exemptions:
    """What is asked directly although there is a proxy (``NO_PROXY``).

    A rule is ``*``, a host (its subdomains too, with or without a dot before it), an address or a network, each also
    with a port behind it. Names are not resolved for it. Raises InvalidRequest for a port or network that is none."""

    def __init__(self, rules: str | Iterable[str] = ()) -> None:
        texts = rules.split(",") if isinstance(rules, str) else list(rules)
        self._all = False
        self._hosts: dict[str, set[int | None]] = {}  # to the ports, None for any
        self._networks: list[tuple[Network, int | None]] = []
        for text in texts:
            if rule := text.strip().lower():
                self._add(rule)

    def __bool__(self) -> bool:
        return self._all or bool(self._hosts) or bool(self._networks)

    def match(self, host: str, port: int) -> bool:
        """Whether a parsed URL's host and port are exempt."""
        if self._all:
            return True
        if is_special(host) and host != "localhost":
            address = ipaddress.ip_address(host)
            return any(address in network and only in (None, port) for network, only in self._networks)
        name = host
        while name:
            ports = self._hosts.get(name, ())
            if None in ports or port in ports:
                return True
            name = name.partition(".")[2]
        return False

    def _add(self, rule: str) -> None:
        if rule == "*":
            self._all = True
            return
        name, port = _split_port(rule)
        try:
            self._networks.append((ipaddress.ip_network(name.strip("[]"), strict=False), port))
        except ValueError:
            if "/" in name or ":" in name:
                raise InvalidRequest(f"{rule!r} is no host or network that can be exempt from a proxy") from None
            self._hosts.setdefault(name.removeprefix("*").strip("."), set()).add(port)


def _split_port(rule: str) -> tuple[str, int | None]:
    """A rule without its port, and that. Of an IPv6 address only what stands behind its bracket is a port."""
    name, colon, digits = rule.rpartition(":")
    if not colon or (":" in name and not name.endswith("]")) or rule.endswith("]"):
        return rule, None
    port = parse_count(digits, digits_max=5)
    if port is None or not 1 <= port <= 65535:
        raise InvalidRequest(f"{rule!r} has no port from 1 to 65535")
    return name, port


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy of each scheme, and what needs none."""

    by_scheme: Mapping[str, Proxy]
    exempt: Exemptions = field(default_factory=Exemptions, repr=False)

    @classmethod
    def of(cls, trust: Trust, environment: Mapping[str, str]) -> Proxies:
        """What the caller gave, and else, if he asked for that, what the environment says. Raises InvalidRequest."""
        if trust.proxy is None and trust.proxy_auth is not None and not trust.environment:
            raise InvalidRequest("proxy credentials need a proxy")
        exempt: str | Iterable[str] = trust.no_proxy
        found: dict[str, Proxy] = {}
        if trust.proxy is not None:
            proxy = Proxy.of(trust.proxy, trust.proxy_auth)
            found = {"http": proxy, "https": proxy}
        elif trust.environment:
            found = _from_environment(environment, trust.proxy_auth)
        if trust.environment and not exempt:
            exempt = _first(environment, _EXEMPT_VARIABLES)
        return cls(found, Exemptions(exempt))

    def __bool__(self) -> bool:
        return bool(self.by_scheme)

    def for_(self, origin: Origin) -> Proxy | None:
        """The proxy that leads to ``origin``; None: ask it directly."""
        proxy = self.by_scheme.get(origin.scheme)
        return None if proxy is None or self.exempt.match(origin.host, origin.port) else proxy


def _first(environment: Mapping[str, str], names: Iterable[str]) -> str:
    return next((value for name in names if (value := environment.get(name, "").strip())), "")


def _from_environment(environment: Mapping[str, str], auth: tuple[str, str] | None) -> dict[str, Proxy]:
    """The variables may hold a user and password before the host: there is no other place for them there."""
    found = {}
    for scheme, names in _VARIABLES.items():
        text = _first(environment, names)
        if not text:
            continue
        prefix, mark, rest = text.rpartition("://")
        authority = rest.rstrip("/")
        userinfo, at, host = authority.rpartition("@")
        user, _, password = userinfo.partition(":")
        credentials = auth or ((unquote(user), unquote(password)) if at else None)
        try:
            found[scheme] = Proxy.of(f"{prefix}{mark}{host}", credentials)
        except InvalidRequest as error:
            raise InvalidRequest(f"the proxy that the environment names cannot be used: {error}") from None
    return found


async def open_tunnel(sock: socket.socket, proxy: Proxy, target: Origin, config: Config) -> None:
    """Have ``proxy``, to which ``sock`` is connected, pass everything on to ``target``. The socket stays the caller's.

    Raises ProxyAuth when it wants (other) credentials, ProxyError when it will not, cannot, does not answer in time, or
    says more than its answer."""
    link = Link(sock)
    codec = h11.Connection(h11.CLIENT, max_incomplete_event_size=config.head_bytes_max)
    head: Head | None = None
    try:
        with trio.move_on_after(config.first_byte_timeout_s):
            await link.send_all(_connect_bytes(codec, proxy, target))
            head, leftover = await _answer(link, HeadReader(config, codec), config)
    except (ConnectionLost, ProtocolViolation) as error:
        raise ProxyError(f"the proxy {proxy.origin} made no tunnel: {error}") from error
    if head is None:
        raise ProxyError(f"the proxy {proxy.origin} did not answer within {config.first_byte_timeout_s:g} s")
    check_proxy_status(head.status, proxy)
    if not 200 <= head.status < 300:
        raise ProxyError(f"the proxy {proxy.origin} refuses to connect with status {head.status}", status=head.status)
    if leftover or link.readable_now():  # in TLS the client speaks first: whoever this is, it is not the target
        raise ProxyError(f"the proxy {proxy.origin} speaks in the place of the host behind it")


def check_proxy_status(status: int, proxy: Proxy) -> None:
    """Raise ProxyAuth for a 407 of the proxy."""
    if status == PROXY_AUTHENTICATION_REQUIRED:
        wrong = "does not accept the credentials" if proxy.fields else "asks for credentials"
        raise ProxyAuth(f"the proxy {proxy.origin} {wrong}", status=status)


def _connect_bytes(codec: h11.Connection, proxy: Proxy, target: Origin) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    authority = f"{host}:{target.port}"
    request = h11.Request(method="CONNECT", target=authority, headers=[("Host", authority), *proxy.fields])
    return (codec.send(request) or b"") + (codec.send(h11.EndOfMessage()) or b"")


async def _answer(link: Link, reader: HeadReader, config: Config) -> tuple[Head, bytes]:
    view = memoryview(bytearray(config.head_feed_bytes))
    while True:
        count = await link.receive_into(view)
        if count == 0:
            raise ConnectionLost("it closed the connection")
        head = reader.feed(view[:count])
        if head is not None:
            return head, reader.leftover
