"""What NetworkManager tells, from python-dbusmock's on a private bus: real D-Bus, real signals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from engine.model.lines import Connectivity, Interface, Line, LinkKind
from engine.network import network_manager
from engine.network.auto import together
from engine.network.network_manager import Device, Told
from tests.support.nm_mock import METERED_GUESS_YES, METERED_NO, METERED_YES, PORTAL, private_bus


class Heard:
    """What was told so far."""

    def __init__(self) -> None:
        self.told: list[Told | None] = []
        self._more = trio.Event()

    def put(self, told: Told | None) -> None:
        self.told.append(told)
        self._more.set()
        self._more = trio.Event()

    async def until(self, is_so: Callable[[Told | None], bool]) -> Told | None:
        while not self.told or not is_so(self.told[-1]):
            await self._more.wait()
        return self.told[-1]


def metered(wanted: bool | None) -> Callable[[Told | None], bool]:
    return lambda told: told is not None and told.metered is wanted


async def test_every_change_is_told_and_also_that_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    async with private_bus(tmp_path, monkeypatch) as bus, trio.open_nursery() as nursery:
        nursery.start_soon(network_manager.follow, heard.put)
        await heard.until(lambda told: told is None)  # a bus, and nobody there
        await bus.start()
        await heard.until(metered(None))
        for number, wanted in ((METERED_YES, True), (METERED_NO, False), (METERED_GUESS_YES, True)):
            await bus.metered(number)
            await heard.until(metered(wanted))
        await bus.say(Connectivity=("u", PORTAL))
        await heard.until(lambda told: told is not None and told.connectivity is Connectivity.PORTAL)
        await bus.add_wifi("wlan7")
        await bus.metered(METERED_NO)  # the template adds devices and their cost without a signal of its own
        wifi = Device(LinkKind.WIFI, True)
        await heard.until(lambda told: told is not None and told.devices.get("wlan7") == wifi)
        bus.stop()
        await heard.until(lambda told: told is None)
        nursery.cancel_scope.cancel()


async def test_without_a_bus_there_is_nothing_to_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    monkeypatch.setattr(network_manager, "SOCKET", str(tmp_path / "nothing"))
    heard = Heard()

    await network_manager.follow(heard.put)

    assert heard.told == [None]


async def test_a_bus_that_does_not_work_is_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")
    heard = Heard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network_manager.follow, heard.put)
        await heard.until(lambda _: len(heard.told) == 3)  # it is tried again
        nursery.cancel_scope.cancel()
    assert set(heard.told) == {None}


ETHERNET = Interface(name="eth0", kind=LinkKind.ETHERNET, up=True, routed=True, default_route=True)
KERNEL = Line(connected=True, interfaces=(ETHERNET,))


@pytest.mark.parametrize(
    ("told", "is_metered", "connectivity"),
    [
        (None, False, Connectivity.UNKNOWN),
        (Told(None, Connectivity.UNKNOWN, {}), False, Connectivity.UNKNOWN),
        (Told(True, Connectivity.FULL, {}), True, Connectivity.FULL),
        (Told(False, Connectivity.PORTAL, {}), False, Connectivity.PORTAL),
        # Its interfaces have no link, but the kernel has one that it does not manage.
        (Told(None, Connectivity.NONE, {}), False, Connectivity.UNKNOWN),
    ],
)
def test_the_kernel_says_whether_there_is_a_link_and_networkmanager_what_it_costs(
    told: Told | None, is_metered: bool, connectivity: Connectivity
) -> None:
    line = together(KERNEL, told)

    assert (line.connected, line.metered, line.connectivity) == (True, is_metered, connectivity)


def test_what_is_known_of_a_device_goes_to_its_interface() -> None:
    devices = {"eth0": Device(LinkKind.CELLULAR, True), "other": Device(None, None)}

    [interface] = together(KERNEL, Told(None, Connectivity.FULL, devices)).interfaces

    assert (interface.kind, interface.metered) == (LinkKind.CELLULAR, True)
