"""What NetworkManager knows beside the kernel: whether a line is metered, and whether it leads to the Internet.

Told by D-Bus signals (through jeepney); nothing is looked at while nothing changes. NetworkManager is asked only where
it runs: nothing is started by asking, and a host without it costs a look at whether there is a bus.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import trio

from engine.errors import sole_error
from engine.model.lines import Connectivity, LinkKind

log = logging.getLogger("engine")

NAME: Final = "org.freedesktop.NetworkManager"
PATH: Final = "/org/freedesktop/NetworkManager"
SOCKET: Final = "/run/dbus/system_bus_socket"
ANSWER_WITHIN_S: Final = 5.0
AGAIN_AFTER_S: Final = 60.0  # a bus that went away is restarted with the system, or in its own time

# NM_METERED_*, NM_CONNECTIVITY_* and NM_DEVICE_TYPE_*; what is not here is unknown.
_METERED: Final = {1: True, 2: False, 3: True, 4: False}
_CONNECTIVITY: Final = {
    1: Connectivity.NONE,
    2: Connectivity.PORTAL,
    3: Connectivity.LIMITED,
    4: Connectivity.FULL,
}
_KINDS: Final = {
    1: LinkKind.ETHERNET,
    2: LinkKind.WIFI,
    8: LinkKind.CELLULAR,
    16: LinkKind.VPN,
    29: LinkKind.VPN,
}


class Device(NamedTuple):
    """A network device as NetworkManager has it; None for what it does not say."""

    kind: LinkKind | None
    metered: bool | None


class Told(NamedTuple):
    """``metered``: None when it does not know. ``devices``: by interface name."""

    metered: bool | None
    connectivity: Connectivity
    devices: Mapping[str, Device]


Tell = Callable[[Told | None], None]


def has_bus() -> bool:
    """Whether there is a system bus to ask."""
    return bool(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS")) or os.path.exists(SOCKET)


async def follow(tell: Tell) -> None:
    """Tell what NetworkManager says, and again whenever that changed; None while it does not run. Until cancelled."""
    if not has_bus():
        tell(None)
        return
    while True:
        try:
            await _follow_bus(tell)
        except Exception as error:  # noqa: BLE001  # whatever a bus does, downloads go on, as on a host without it
            log.warning("NetworkManager cannot be asked, and will be again: %s", sole_error(error))
        tell(None)
        await trio.sleep(AGAIN_AFTER_S)


async def _follow_bus(tell: Tell) -> None:
    # A twentieth of a second of imports: only hosts with a bus pay it, and beside their first connections.
    jeepney = await trio.to_thread.run_sync(importlib.import_module, "jeepney")
    wire = await trio.to_thread.run_sync(importlib.import_module, "jeepney.io.trio")
    with trio.fail_after(ANSWER_WITHIN_S):
        connection = await wire.open_dbus_connection("SYSTEM")
    async with connection:
        bus = _Bus(jeepney, connection)
        for rule in _rules(jeepney):
            await bus.ask(jeepney.message_bus.AddMatch(rule))
        told = await _read(bus)
        tell(told)
        while True:
            await bus.until_signal()
            now = await _read(bus)
            if now != told:
                tell(told := now)


class _Bus:
    """A connection that one task uses: one question after another, and the signals in between noted. (jeepney's router
    answers several tasks; in 0.9 it raises when it is cancelled while one of them waits for signals.)"""

    def __init__(self, jeepney: Any, connection: Any) -> None:
        self.jeepney = jeepney
        self._connection = connection
        self._signalled = False

    async def ask(self, request: Any) -> tuple[Any, ...]:
        """The body of the answer. Raises jeepney's DBusErrorResponse, trio.TooSlowError, trio.EndOfChannel."""
        serial = next(self._connection.outgoing_serial)
        with trio.fail_after(ANSWER_WITHIN_S):
            await self._connection.send(request, serial=serial)
            while True:
                message = await self._receive()
                if message.header.fields.get(self.jeepney.HeaderFields.reply_serial) == serial:
                    return tuple(self.jeepney.wrappers.unwrap_msg(message))

    async def until_signal(self) -> None:
        """Wait until something of what is to be told has changed since this was called last."""
        while not self._signalled:
            await self._receive()
        self._signalled = False

    async def _receive(self) -> Any:
        message = await self._connection.receive()
        if message.header.message_type is self.jeepney.MessageType.signal:
            self._signalled = True
        return message


def _rules(jeepney: Any) -> Iterator[Any]:
    """What is to be told: changes of what is read, and NetworkManager coming and going. (Strengths of wireless stations
    change all the time, and are not asked for.)"""
    for interface in (NAME, f"{NAME}.Device"):
        changed = {"interface": "org.freedesktop.DBus.Properties", "member": "PropertiesChanged"}
        rule = jeepney.MatchRule(type="signal", sender=NAME, **changed)
        rule.add_arg_condition(0, interface)
        yield rule
    owner = jeepney.MatchRule(type="signal", sender="org.freedesktop.DBus", member="NameOwnerChanged")
    owner.add_arg_condition(0, NAME)
    yield owner


async def _read(bus: _Bus) -> Told | None:
    """All that is asked of it; None when it does not run."""
    if not (await bus.ask(bus.jeepney.message_bus.NameHasOwner(NAME)))[0]:
        return None
    manager = await _properties(bus, PATH, NAME)
    devices: dict[str, Device] = {}
    for path in manager.get("Devices", ()):
        found = await _properties(bus, path, f"{NAME}.Device")
        metered = _METERED.get(found.get("Metered", 0))
        devices[str(found.get("Interface", ""))] = Device(_KINDS.get(found.get("DeviceType", 0)), metered)
    connectivity = _CONNECTIVITY.get(manager.get("Connectivity", 0), Connectivity.UNKNOWN)
    return Told(_METERED.get(manager.get("Metered", 0)), connectivity, devices)


async def _properties(bus: _Bus, path: str, interface: str) -> dict[str, Any]:
    """The properties of an object; none of one that is gone by now."""
    address = bus.jeepney.DBusAddress(path, bus_name=NAME, interface=interface)
    request = bus.jeepney.Properties(address).get_all()
    request.header.flags |= bus.jeepney.MessageFlag.no_auto_start
    try:
        [found] = await bus.ask(request)
    except bus.jeepney.DBusErrorResponse:
        return {}
    return {name: value for name, (_, value) in found.items()}
