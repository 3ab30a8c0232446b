"""Which addresses may be connected to (fault catalogue N2, S32): what a stranger names must not lead into this network.

Judged is the address that is connected to, never a name: a name is resolved once, and only what passed is dialed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from engine.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOCALHOST = "localhost"
_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}", re.ASCII)


class AddressKind(StrEnum):
    """What an address is for. All but PUBLIC lead somewhere that a stranger has no business to send anyone to."""

    PUBLIC = "public"
    PRIVATE = "private"  # also shared, documentation and benchmark networks: whatever is not routed globally
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "a cloud's metadata service"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"
    RESERVED = "reserved"


# What a caller allows by naming it in a URL of his own. The others need an allowed network.
NAMEABLE = frozenset({AddressKind.LOOPBACK, AddressKind.PRIVATE})

# Amazon, Google and most others; Amazon's containers; Alibaba; Azure; Oracle; Amazon and Google over IPv6.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        *("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
    )
)
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")  # Linux takes 0.0.0.0 for this machine
# Not routed globally, and not (or not in every Python) known as private to `ipaddress`: site-local, NAT64 of a
# network's own, documentation, segment routing, the anycast of 6to4, protocol assignments.
_ALSO_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("fec0::/10", "64:ff9b:1::/48", "3fff::/20", "5f00::/16", "192.88.99.0/24", "192.0.0.0/24")
)
# IPv6 networks whose addresses stand for an IPv4 address, and how many bits stand behind it: mapped, SIIT, NAT64,
# 6to4, compatible.
_EMBEDDING = tuple(
    (ipaddress.IPv6Network(text), bits)
    for text, bits in (
        ("::ffff:0:0/96", 0),
        ("::ffff:0:0:0/96", 0),
        ("64:ff9b::/96", 0),
        ("2002::/16", 80),
        ("::/96", 0),
    )
)


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """``allow``: networks (or single addresses) that may be connected to whatever they are. ``named``: a loopback or
    private address that the caller himself put into a request's URL, or the host ``localhost``, is his word and
    allowed for that origin; False refuses that too. Raises InvalidRequest for what is no network."""

    allow: tuple[str, ...] = ()
    named: bool = True
    _networks: tuple[Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_networks", tuple(map(_network, _texts(self.allow))))

    def refusal(self, address: str, *, named: bool = False) -> str | None:
        """Why ``address`` may not be connected to; None when it may. ``named``: the caller wrote it himself."""
        kind = kind_of(address)
        if kind is AddressKind.PUBLIC or (named and self.named and kind in NAMEABLE):
            return None
        if self._networks and self._allows(_parsed(address)):
            return None
        return f"{address} is {kind.value}"

    def _allows(self, address: Address) -> bool:
        forms = (address, embedded(address) or address)
        return any(form in network for form in forms for network in self._networks)


@lru_cache(maxsize=4096)
def kind_of(text: str) -> AddressKind:
    """The kind of an address; that of the IPv4 address for one that stands for it. Raises ValueError for a name."""
    return _kind(_parsed(text))


def embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        for network, bits in _EMBEDDING:
            if address in network:
                return ipaddress.IPv4Address(int(address) >> bits & 0xFFFF_FFFF)
    return None


def is_special(host: str) -> bool:
    """Whether a parsed URL's host is an address literal, or ``localhost``: then it can be somebody's word."""
    return ":" in host or host == LOCALHOST or host.rpartition(".")[2].isdigit()


@lru_cache(maxsize=1024)
def is_here(host: str) -> bool:
    """Whether a host, or an address, is this very machine, so that no line is needed. A host by its name alone: that an
    address of a network is this machine's own is not looked up."""
    return (
        host == LOCALHOST or host.endswith(".localhost") or host in {"::1", "[::1]"} or bool(_LOOPBACK.fullmatch(host))
    )


def _parsed(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])  # an interface's name makes no other address of it


def _kind(address: Address) -> AddressKind:
    inner = None if address.is_unspecified or address.is_loopback else embedded(address)
    if inner is not None:
        return _kind(inner)
    rules: tuple[tuple[bool, AddressKind], ...] = (
        (address in _METADATA, AddressKind.METADATA),
        (address.is_unspecified or address in _THIS_NETWORK, AddressKind.UNSPECIFIED),
        (address.is_loopback, AddressKind.LOOPBACK),
        (address.is_link_local, AddressKind.LINK_LOCAL),
        (address.is_multicast, AddressKind.MULTICAST),
        (address.is_private and not address.is_reserved, AddressKind.PRIVATE),
        (any(address in network for network in _ALSO_PRIVATE), AddressKind.PRIVATE),
        (address.is_reserved, AddressKind.RESERVED),
        (not address.is_global, AddressKind.PRIVATE),
    )
    return next((kind for applies, kind in rules if applies), AddressKind.PUBLIC)


def _texts(given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidRequest("allowed addresses must be a tuple of networks, such as ('192.168.0.0/16',)")
    return tuple(given)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"{text!r} is not a network or address that can be allowed: {error}") from None
