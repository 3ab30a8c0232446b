"""Work that was let begin as this machine's own affair: what is asked before a connection of it leads elsewhere."""

from __future__ import annotations

import pytest

from engine.config import Config
from engine.errors import NoRoute
from engine.net import resolving
from engine.net.addresses import AddressPolicy
from engine.net.binding import bound_interface, bound_to
from engine.net.client import Client
from engine.net.dialer import Dialer
from engine.net.trust import Trust
from engine.net.url import Origin, parse_url
from tests.net.script_server import answer, serve

QUICK = Config(connect_timeout_s=2.0, first_byte_timeout_s=2.0, idle_timeout_s=2.0)
AWAY = "10.9.9.9"  # never connected to: asking comes first


class Border:
    """Lets nobody out, and counts who asked."""

    def __init__(self) -> None:
        self.asked = 0

    def leave(self) -> str:
        self.asked += 1
        raise NoRoute("it waits for a line")


async def test_this_machine_itself_is_reached_without_asking() -> None:
    border = Border()
    client = Client(QUICK)
    async with serve(lambda _: [answer(b"x")]) as server:
        with bound_to("", border.leave):
            for host in ("127.0.0.1", "localhost"):
                async with client.get(parse_url(f"http://{host}:{server.url().port}/")) as exchange:
                    assert exchange.head.status == 200
    assert border.asked == 0
    await client.aclose()


@pytest.mark.parametrize("trust", [Trust(), Trust(proxy=f"http://{AWAY}:3128")], ids=["direct", "proxy"])
async def test_another_machine_is_not_reached_without_asking(trust: Trust) -> None:
    border = Border()
    client = Client(QUICK, trust=trust)
    url = f"http://{AWAY if trust.proxy is None else 'localhost'}:9/"
    with bound_to("", border.leave), pytest.raises(NoRoute, match="waits for a line"):
        await client.open(parse_url(url))
    assert border.asked == 1
    await client.aclose()


async def test_a_name_of_this_machine_that_is_another_ones_address_is_not_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``media.localhost`` is this machine by its name; where a resolver knows better, its address decides."""

    async def resolve(_host: str, _port: int) -> list[str]:
        return [AWAY]

    monkeypatch.setattr(resolving, "_resolve", resolve)
    border = Border()
    client = Client(QUICK, trust=Trust(addresses=AddressPolicy(allow=("10.0.0.0/8",))))
    with bound_to("", border.leave), pytest.raises(NoRoute, match="waits for a line"):
        await client.open(parse_url("http://media.localhost:9/"))
    assert border.asked == 1
    await client.aclose()


def test_who_may_leave_goes_through_the_interface_that_it_is_given() -> None:
    """Its connections are no others', either: the interface is part of the route."""
    dialer = Dialer(QUICK)
    away, here = Origin("http", AWAY, 80), Origin("http", "127.0.0.1", 80)
    with bound_to("", lambda: "wg0"):
        assert dialer.route(here).interface == ""
        assert dialer.route(away).interface == "wg0"
        assert bound_interface() == "wg0"
    assert bound_interface() == ""
    assert dialer.route(away).interface == ""
    with bound_to("eth7"):
        assert dialer.route(away).interface == "eth7"
