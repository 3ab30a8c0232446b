"""The line as the kernel sees it. Told by rtnetlink: nothing is looked at while nothing changes.

A notification only says that something changed; what there is now is read anew. So one that was lost (a full socket)
costs nothing, and what is told is always one whole state.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
from collections.abc import Iterable
from typing import Final

import trio

from engine.model.lines import UNKNOWN_LINE, Interface, Line, LinkKind
from engine.network import netlink
from engine.network.monitor import Tell

log = logging.getLogger("engine")

RECEIVE_BYTES: Final = 1 << 18
LOOKS_MAX: Final = 4  # while the tables change under the reading
NOTIFICATIONS_PER_LOOK: Final = 4096
# A router with a million routes that change all the time must not keep the loop busy: looks take a tenth at most.
REST_PER_LOOK: Final = 9.0

# DEVTYPE in sysfs, where the kernel's numbers only say that it is like Ethernet.
_DEVICE_TYPES: Final = {"wlan": LinkKind.WIFI, "wwan": LinkKind.CELLULAR, "wireguard": LinkKind.VPN}


class KernelMonitor:
    """See :class:`~engine.network.monitor.NetworkMonitor`."""

    async def follow(self, tell: Tell, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See :class:`~engine.network.monitor.NetworkMonitor`. Without netlink the line stays unknown, and taken for
        one that works."""
        first = trio.Event()

        def tell_first(line: Line) -> None:
            tell(line)
            if not first.is_set():
                first.set()
                task_status.started()

        try:
            await _follow(tell_first)
        except OSError as error:
            log.warning("the kernel does not tell of its network, which is taken for connected: %s", error)
        tell_first(UNKNOWN_LINE)
        await trio.sleep_forever()


async def _follow(tell: Tell) -> None:
    with _open(netlink.GROUPS) as changes, _open(0) as questions:
        told = await _look(questions)
        tell(told)
        while True:
            await _until_changed(changes)
            began = trio.current_time()
            line = await _look(questions)
            if line != told:
                tell(told := line)
            await trio.sleep(REST_PER_LOOK * (trio.current_time() - began))


def _open(groups: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        sock.bind((0, groups))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


async def _until_changed(changes: socket.socket) -> None:
    """Wait for notifications, and take all that there are."""
    await trio.lowlevel.wait_readable(changes)
    for _ in range(NOTIFICATIONS_PER_LOOK):
        try:
            changes.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more came than fit: what is lost is a change as well
                raise


async def _look(questions: socket.socket) -> Line:
    for _ in range(LOOKS_MAX):
        facts: list[netlink.Fact] = []
        torn = [await _dump(questions, table, facts) for table in netlink.TABLES]
        if not any(torn):
            break
    return line_of(facts)  # torn again and again: each change of it is notified, and looked at


async def _dump(questions: socket.socket, table: int, facts: list[netlink.Fact]) -> bool:
    """Read one of the kernel's tables into ``facts``; whether it changed meanwhile."""
    sequence = next(_sequences) & 0xFFFFFFFF
    questions.send(netlink.dump_request(table, sequence))
    torn = False
    while True:
        await trio.lowlevel.wait_readable(questions)
        piece = netlink.read_dump(questions.recv(RECEIVE_BYTES), sequence)
        facts += piece.facts
        torn = torn or piece.torn
        if piece.done:
            return torn


_sequences = itertools.count(1)


def line_of(facts: Iterable[netlink.Fact]) -> Line:
    """The line that the kernel's tables amount to."""
    links: list[netlink.Link] = []
    addresses: dict[int, list[str]] = {}
    routed: dict[int, bool] = {}
    for fact in facts:
        if isinstance(fact, netlink.Link):
            links.append(fact)
        elif isinstance(fact, netlink.Address):
            addresses.setdefault(fact.device, []).append(fact.text)
        else:
            routed[fact.device] = routed.get(fact.device, False) or fact.default
    interfaces = tuple(
        Interface(
            name=link.name,
            kind=_kind(link),
            up=link.up,
            routed=link.device in routed,
            default_route=routed.get(link.device, False),
            addresses=tuple(sorted(addresses.get(link.device, ()))),
        )
        for link in sorted(links)
        if not link.loopback
    )
    return Line(connected=any(each.usable for each in interfaces), interfaces=interfaces)


def _kind(link: netlink.Link) -> LinkKind:
    if link.kind is not LinkKind.ETHERNET:
        return link.kind
    try:
        fd = os.open(f"/sys/class/net/{link.name}/uevent", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # gone since, or no sysfs here
        return link.kind
    try:
        lines = os.read(fd, 4096).decode(errors="replace").splitlines()
    except OSError:
        return link.kind
    finally:
        os.close(fd)
    named = [line.removeprefix("DEVTYPE=") for line in lines if line.startswith("DEVTYPE=")]
    return _DEVICE_TYPES.get(named[0], link.kind) if named else link.kind
