"""The few rtnetlink messages that tell of links, addresses and routes. Pure: bytes in, facts out.

pyroute2 knows them all, and takes a third of a second to import (four times of what the whole command takes to start);
a downloader needs three messages and seven attributes.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import NamedTuple

from engine.model.lines import LinkKind

# From linux/netlink.h, linux/rtnetlink.h, linux/if.h, linux/if_arp.h, linux/if_link.h and linux/if_addr.h.
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 16, 18, 20, 22, 24, 26
TABLES = (RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE)
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x10, 0x300
GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links, and the addresses and routes of IPv4 and IPv6
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 18, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_MULTIPATH = 1, 4, 9
_RT_TABLE_LOCAL, _RTN_UNICAST, _RT_SCOPE_LINK = 255, 1, 253
_NESTED = 0x3FFF  # the type without the flags for nested and byte order

_HEAD = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_HOP = struct.Struct("=HBBi")

# By the kind that a virtual device was made with, then by hardware type; the rest is for sysfs to say.
_MADE_AS = {
    **dict.fromkeys(("wireguard", "tun", "ipip", "sit", "gre", "ip6tnl", "vti", "xfrm", "ppp"), LinkKind.VPN),
    **dict.fromkeys(("veth", "bond", "team", "vlan", "macvlan", "ipvlan", "bridge"), LinkKind.ETHERNET),
    "wwan": LinkKind.CELLULAR,
}
_HARDWARE = {1: LinkKind.ETHERNET, 512: LinkKind.VPN, 519: LinkKind.CELLULAR, 65534: LinkKind.VPN}
_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))


class Link(NamedTuple):
    """A network device. ``kind`` as the kernel's numbers suggest."""

    device: int
    name: str
    up: bool
    loopback: bool
    kind: LinkKind


class Address(NamedTuple):
    """An address, beyond link-local ones, of the ``device`` of this index."""

    device: int
    text: str


class Route(NamedTuple):
    """A unicast route beyond link-local addresses, over the ``device`` of this index."""

    device: int
    default: bool


Fact = Link | Address | Route


class Piece(NamedTuple):
    """What a datagram of an answer holds. ``torn``: the tables changed while they were read, and are to be read again
    once this answer is ``done``."""

    facts: list[Fact]
    done: bool
    torn: bool


def dump_request(kind: int, sequence: int) -> bytes:
    """A request for all of a table: ``kind`` is one of RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE."""
    body = bytes(16)  # rtgenmsg of any family, padded to the longest of the three headers
    return _HEAD.pack(_HEAD.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + body


def read_dump(data: bytes, sequence: int) -> Piece:
    """One datagram of the answer to the request of this number. Raises OSError for what the kernel refuses."""
    facts: list[Fact] = []
    torn = False
    for kind, flags, number, body in _messages(data):
        if number != sequence:
            continue  # of an earlier request
        torn = torn or bool(flags & NLM_F_DUMP_INTR)
        if kind == NLMSG_ERROR:
            error = -struct.unpack_from("=i", body)[0]
            raise OSError(error, "the kernel does not tell of its network")
        if kind == NLMSG_DONE:
            return Piece(facts, True, torn)
        facts += _facts(kind, body)
    return Piece(facts, False, torn)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        length, kind, flags, sequence, _ = _HEAD.unpack_from(data, at)
        if length < _HEAD.size:
            return
        yield kind, flags, sequence, data[at + _HEAD.size : at + length]
        at += _aligned(length)


def _facts(kind: int, body: bytes) -> Iterator[Fact]:
    if kind == RTM_NEWLINK and len(body) >= _LINK.size:
        yield _link(body)
    elif kind == RTM_NEWADDR and len(body) >= _ADDRESS.size:
        attributes = _attributes(body[_ADDRESS.size :])
        raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        _, _, _, scope, device = _ADDRESS.unpack_from(body)
        if raw is not None and len(raw) in {4, 16} and scope < _RT_SCOPE_LINK:
            yield Address(device, str(ipaddress.ip_address(raw)))
    elif kind == RTM_NEWROUTE and len(body) >= _ROUTE.size:
        yield from _routes(body)


def _link(body: bytes) -> Link:
    _, hardware, index, flags, _ = _LINK.unpack_from(body)
    attributes = _attributes(body[_LINK.size :])
    made_as = _attributes(attributes.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b"")
    kind = _MADE_AS.get(_text(made_as)) or _HARDWARE.get(hardware, LinkKind.OTHER)
    up = flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING
    return Link(index, _text(attributes.get(_IFLA_IFNAME, b"")), up, bool(flags & _IFF_LOOPBACK), kind)


def _routes(body: bytes) -> Iterator[Route]:
    _, bits, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    attributes = _attributes(body[_ROUTE.size :])
    target = attributes.get(_RTA_DST, b"")
    if kind != _RTN_UNICAST or table == _RT_TABLE_LOCAL or (bits and _is_near(target)):
        return
    if _RTA_OIF in attributes:
        yield Route(struct.unpack("=i", attributes[_RTA_OIF])[0], bits == 0)
    hops, at = attributes.get(_RTA_MULTIPATH, b""), 0
    while at + _HOP.size <= len(hops):
        length, _, _, index = _HOP.unpack_from(hops, at)
        yield Route(index, bits == 0)
        at += max(_aligned(length), _HOP.size)


def _is_near(target: bytes) -> bool:
    """Whether a route leads to link-local addresses only, which every device has."""
    if len(target) not in {4, 16}:
        return False
    address = ipaddress.ip_address(target)
    return address.is_multicast or any(
        address in network for network in _LINK_LOCAL if network.version == address.version
    )


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _NESTED] = data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
