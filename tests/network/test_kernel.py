"""The line as the kernel tells it: real tables of private namespaces, and messages that are not as they should be."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest
import trio

from engine.model.lines import UNKNOWN_LINE, Interface, Line, LinkKind
from engine.network import kernel, netlink
from engine.network.auto import AutoMonitor
from engine.network.kernel import KernelMonitor, line_of
from engine.network.monitor import NetworkMonitor, StaticMonitor
from engine.network.netlink import Address, Link, Route
from tests.support.netns import Cable, cable


class Seen:
    """The lines that were told."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._more = trio.Event()

    def put(self, line: Line) -> None:
        self.lines.append(line)
        self._more.set()
        self._more = trio.Event()

    async def until(self, is_so: Callable[[Line], bool]) -> Line:
        with trio.fail_after(10.0):
            while not self.lines or not is_so(self.lines[-1]):
                await self._more.wait()
        return self.lines[-1]


def interface(line: Line, name: str) -> Interface:
    return next(each for each in line.interfaces if each.name == name)


async def followed(monitor: NetworkMonitor, nursery: trio.Nursery) -> Seen:
    seen = Seen()

    async def follow(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await monitor.follow(seen.put, task_status=task_status)

    await nursery.start(follow)
    assert len(seen.lines) == 1, "told before it has started"
    return seen


STEPS: list[tuple[str, Callable[[Cable], object], Callable[[Line], bool]]] = [
    ("switched off", Cable.down, lambda line: not line.connected),
    ("and on", Cable.up, lambda line: line.connected),
    ("no carrier", Cable.pull, lambda line: not line.connected and interface(line, "cable").routed),
    ("a carrier", Cable.plug, lambda line: line.connected),
    (
        "a way to everywhere",
        lambda pair: pair.ip("route", "add", "default", "via", "10.9.0.2"),
        lambda line: line.default_interfaces == {"cable"},
    ),
    (
        "over two at once",
        lambda pair: pair.ip("route", "replace", "default", "nexthop", "via", "10.9.0.2", "nexthop", "via", "10.9.0.3"),
        lambda line: line.default_interfaces == {"cable"},
    ),
    (
        "to nowhere",
        lambda pair: pair.ip("route", "replace", "blackhole", "default"),
        lambda line: line.default_interfaces == frozenset(),
    ),
    (
        "another address",
        lambda pair: pair.ip("addr", "add", "fd00:9::1/64", "dev", "cable", "nodad"),
        lambda line: line.addresses == {"10.9.0.1", "fd00:9::1"},
    ),
    (
        "a tunnel",
        lambda pair: pair.ip("tuntap", "add", "dev", "tun7", "mode", "tun"),
        lambda line: ("tun7", LinkKind.VPN) in [(each.name, each.kind) for each in line.interfaces],
    ),
    (
        "no address",
        lambda pair: pair.ip("addr", "flush", "dev", "cable"),
        lambda line: not line.connected and not line.addresses,
    ),
    (
        "no interface",
        lambda pair: pair.ip("link", "del", "cable"),
        lambda line: "cable" not in {each.name for each in line.interfaces},
    ),
]


async def test_every_change_of_links_addresses_and_routes_is_told() -> None:
    with cable() as pair:
        async with trio.open_nursery() as nursery:
            seen = await followed(KernelMonitor(), nursery)
            first = interface(await seen.until(lambda line: line.connected), "cable")
            assert (first.kind, first.addresses, first.default_route) == (LinkKind.ETHERNET, ("10.9.0.1",), False)
            for name, change, is_so in STEPS:
                change(pair)
                await seen.until(is_so)
                assert seen.lines[-1] != seen.lines[-2], f"told twice: {name}"
            nursery.cancel_scope.cancel()


async def test_notifications_that_are_lost_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of changes overruns the socket; what is told in the end is how it is."""
    before = kernel._open

    def tiny(groups: int) -> socket.socket:
        sock = before(groups)
        if groups:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        return sock

    monkeypatch.setattr(kernel, "_open", tiny)
    with cable() as pair:
        async with trio.open_nursery() as nursery:
            seen = await followed(KernelMonitor(), nursery)
            lines = "".join(f"addr add 10.9.7.{number}/32 dev cable\n" for number in range(1, 200))
            pair.batch(lines)
            await seen.until(lambda line: len(line.addresses) == 200)
            nursery.cancel_scope.cancel()


async def test_a_machine_of_its_own_has_no_line() -> None:
    with cable() as pair:
        pair.ip("link", "del", "cable")
        async with trio.open_nursery() as nursery:
            seen = await followed(AutoMonitor(), nursery)
            assert not seen.lines[0].connected
            nursery.cancel_scope.cancel()


async def test_without_netlink_nothing_is_known_and_trying_is_the_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> socket.socket:
        raise OSError(1, "not here")

    monkeypatch.setattr(kernel, "_open", refused)
    async with trio.open_nursery() as nursery:
        seen = await followed(KernelMonitor(), nursery)
        assert seen.lines == [UNKNOWN_LINE]
        nursery.cancel_scope.cancel()
    assert "does not tell of its network" in caplog.text


async def test_netlink_that_fails_later_leaves_the_line_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with cable() as pair:
        async with trio.open_nursery() as nursery:
            seen = await followed(KernelMonitor(), nursery)

            def broken(*_: object) -> netlink.Piece:
                raise OSError(12, "no memory for that")

            monkeypatch.setattr(netlink, "read_dump", broken)
            pair.down()
            await seen.until(lambda line: line == UNKNOWN_LINE)
            nursery.cancel_scope.cancel()


async def test_a_static_line_is_told_to_all_who_follow_and_when_it_is_set() -> None:
    monitor = StaticMonitor(UNKNOWN_LINE)
    async with trio.open_nursery() as nursery:
        one, other = await followed(monitor, nursery), await followed(monitor, nursery)
        monitor.set(Line(connected=False))
        assert one.lines == other.lines == [UNKNOWN_LINE, Line(connected=False)]
        nursery.cancel_scope.cancel()
    monitor.set(UNKNOWN_LINE)
    assert len(one.lines) == 2, "nobody follows any more"
    assert monitor.line == UNKNOWN_LINE


def link(name: str, device: int, *, up: bool = True, loopback: bool = False) -> Link:
    return Link(device, name, up, loopback, LinkKind.VPN)


def test_the_line_is_what_the_tables_amount_to() -> None:
    facts: list[netlink.Fact] = [
        Route(2, False), Route(2, True), Route(3, False), Address(2, "10.0.0.2"), Address(2, "10.0.0.1"),
        link("lo", 1, loopback=True), Route(1, True), link("a", 2), link("b", 3, up=False), link("c", 4),
    ]  # fmt: skip
    line = line_of(facts)

    assert line.connected
    assert [(each.name, each.usable, each.default_route, each.addresses) for each in line.interfaces] == [
        ("a", True, True, ("10.0.0.1", "10.0.0.2")),
        ("b", False, False, ()),
        ("c", False, False, ()),
    ]
    assert not line_of([link("lo", 1, loopback=True), Route(1, True)]).connected


def message(kind: int, body: bytes, *, flags: int = 0, sequence: int = 7) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


DONE = message(netlink.NLMSG_DONE, bytes(4))


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\x01",
        message(netlink.RTM_NEWLINK, b"short"),
        message(netlink.RTM_NEWADDR, b""),
        message(netlink.RTM_NEWADDR, bytes(8)),
        message(netlink.RTM_NEWROUTE, bytes(11)),
        message(netlink.RTM_NEWADDR, bytes(8) + struct.pack("=HH", 1, 1)),
        message(netlink.RTM_NEWADDR, bytes(8) + struct.pack("=HH", 6, 2) + b"ab"),
        message(99, b"something else"),
        message(netlink.RTM_NEWADDR, bytes(8), sequence=6),
        message(netlink.NLMSG_DONE, bytes(4), sequence=6),
    ],
)
def test_what_is_not_understood_is_left_out(junk: bytes) -> None:
    assert netlink.read_dump(junk, 7) == ([], False, False)
    assert netlink.read_dump(junk + DONE, 7).done or len(junk) % 4


UNICAST, LOCAL, MAIN_TABLE, LOCAL_TABLE = 1, 2, 254, 255


@pytest.mark.parametrize(
    ("bits", "table", "kind", "target", "found"),
    [
        (0, MAIN_TABLE, UNICAST, "", [Route(3, True)]),
        (24, MAIN_TABLE, UNICAST, "10.0.0.0", [Route(3, False)]),
        (24, MAIN_TABLE, LOCAL, "10.0.0.0", []),
        (32, LOCAL_TABLE, UNICAST, "10.0.0.1", []),
        (16, MAIN_TABLE, UNICAST, "169.254.0.0", []),
        (4, MAIN_TABLE, UNICAST, "224.0.0.0", []),
        (24, 100, UNICAST, "10.0.0.0", [Route(3, False)]),  # a table of a VPN's own
    ],
)
def test_only_routes_that_lead_somewhere_count(
    bits: int, table: int, kind: int, target: str, found: list[Route]
) -> None:
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, bits, 0, 0, table, 0, 0, kind, 0)
    if target:
        body += struct.pack("=HH", 8, 1) + socket.inet_aton(target)
    body += struct.pack("=HHi", 8, 4, 3)
    assert netlink.read_dump(message(netlink.RTM_NEWROUTE, body), 7).facts == found


def test_a_torn_answer_and_a_refusal_are_noticed() -> None:
    torn = message(netlink.RTM_NEWADDR, bytes(8), flags=netlink.NLM_F_DUMP_INTR)
    assert netlink.read_dump(torn + DONE, 7) == ([], True, True)
    with pytest.raises(OSError, match="does not tell") as raised:
        netlink.read_dump(message(netlink.NLMSG_ERROR, struct.pack("=i", -13) + bytes(16)), 7)
    assert raised.value.errno == 13


@pytest.mark.parametrize("table", netlink.TABLES)
def test_the_kernel_understands_the_requests(table: int) -> None:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with sock:
        sock.send(netlink.dump_request(table, 7))
        while not netlink.read_dump(sock.recv(kernel.RECEIVE_BYTES), 7).done:
            pass
