"""What line there is to the network: interfaces, whether it costs by the byte, and how far it leads. Values only."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class LinkKind(StrEnum):
    """What an interface is made of, as far as the system tells."""

    ETHERNET = "ethernet"
    WIFI = "wifi"
    CELLULAR = "cellular"
    VPN = "vpn"
    OTHER = "other"


class Connectivity(StrEnum):
    """How far the line leads, as far as somebody tried it (NetworkManager does, where it is told to)."""

    UNKNOWN = "unknown"
    NONE = "none"
    PORTAL = "portal"  # a captive portal answers in the place of every server
    LIMITED = "limited"
    FULL = "full"


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """One interface beside loopback. ``up``: switched on, and with a carrier. ``routed``: something beyond link-local
    addresses is reached over it. ``metered``: None when nobody says so of this very interface."""

    name: str
    kind: LinkKind = LinkKind.OTHER
    up: bool = False
    routed: bool = False
    default_route: bool = False
    addresses: tuple[str, ...] = ()
    metered: bool | None = None

    @property
    def usable(self) -> bool:
        """Whether something can be reached over it."""
        return self.up and self.routed


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The line as it is. ``connected``: something beyond this machine can be reached. ``metered``: it costs by the
    byte; None while that is not known yet, which whoever minds it waits for."""

    connected: bool
    metered: bool | None = False
    connectivity: Connectivity = Connectivity.UNKNOWN
    interfaces: tuple[Interface, ...] = ()

    @property
    def default_interfaces(self) -> frozenset[str]:
        """The names of usable interfaces with a default route."""
        return frozenset(each.name for each in self.interfaces if each.usable and each.default_route)

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses of usable interfaces: connections from any other are dead."""
        return frozenset(address for each in self.interfaces if each.usable for address in each.addresses)


# Where nothing can be learned of links (a sandbox without netlink): trying is the only way to know.
UNKNOWN_LINE = Line(connected=True)


def moved(before: Line, now: Line) -> bool:
    """Whether connections made over the line ``before`` may be dead although it is connected ``now``: an address that
    they may have been made from is gone, or the default route leads elsewhere."""
    if not before.connected or not now.connected:
        return False
    lost_default = bool(before.default_interfaces) and not before.default_interfaces & now.default_interfaces
    return lost_default or bool(before.addresses - now.addresses)
