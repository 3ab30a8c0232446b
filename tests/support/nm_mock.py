"""NetworkManager as python-dbusmock plays it, on a bus of the test's own."""

from __future__ import annotations

import importlib
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.network.network_manager import NAME, PATH

# dbusmock needs the bindings of GLib and libdbus, which are compiled against the system's: so it is the system's, too.
SYSTEM_PYTHON = "/usr/bin/python3"
MOCK = "org.freedesktop.DBus.Mock"

METERED_YES, METERED_NO, METERED_GUESS_YES = 1, 2, 3
PORTAL, FULL = 2, 4


def require_mock() -> None:
    """Fail where it is not installed (Debian: dbus, python3-dbusmock)."""
    found = subprocess.run([SYSTEM_PYTHON, "-c", "import dbusmock"], capture_output=True, check=False)
    if found.returncode or not shutil.which("dbus-daemon"):
        pytest.fail("dbus-daemon and python3-dbusmock are needed: apt install dbus python3-dbusmock")


@dataclass
class Bus:
    """A private bus that stands in for the system's; ``mock`` is NetworkManager, once it runs."""

    address: str
    router: Any
    jeepney: Any
    mock: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Have NetworkManager run: connected, and nothing known of its cost."""
        command = [SYSTEM_PYTHON, "-m", "dbusmock", "--template", "networkmanager"]
        self.mock = _begin(command, {"DBUS_SYSTEM_BUS_ADDRESS": self.address}, subprocess.DEVNULL)
        with self.router.filter(self._owner_rule(), bufsize=8) as signals:
            await self._ask(self.jeepney.message_bus.AddMatch(self._owner_rule()))
            while not (await self._ask(self.jeepney.message_bus.NameHasOwner(NAME)))[0]:
                await signals.receive()
        await self._call(PATH, "AddProperty", "ssv", (NAME, "Metered", ("u", 0)))  # the template knows none

    def stop(self) -> None:
        """NetworkManager is no more."""
        if self.mock is not None:
            self.mock.send_signal(signal.SIGTERM)
            self.mock.wait(10)
            self.mock = None

    async def say(self, **values: tuple[str, Any]) -> None:
        """Change properties, as NetworkManager would; each value with its D-Bus type."""
        await self._call(PATH, "UpdateProperties", "sa{sv}", (NAME, values))

    async def metered(self, metered: int) -> None:
        """The primary line is metered (NM_METERED_…)."""
        await self.say(Metered=("u", metered))

    async def add_wifi(self, name: str) -> str:
        """A wireless device that is metered; returns its path."""
        path = str((await self._call(PATH, "AddWiFiDevice", "ssu", (name, name, 100)))[0])
        await self._call(path, "AddProperty", "ssv", (f"{NAME}.Device", "Metered", ("u", METERED_YES)))
        return path

    async def _call(self, path: str, member: str, signature: str, body: tuple[Any, ...]) -> Any:
        address = self.jeepney.DBusAddress(path, bus_name=NAME, interface=MOCK)
        return await self._ask(self.jeepney.new_method_call(address, member, signature, body))

    async def _ask(self, request: Any) -> Any:
        return self.jeepney.wrappers.unwrap_msg(await self.router.send_and_get_reply(request))

    def _owner_rule(self) -> Any:
        return self.jeepney.MatchRule(type="signal", interface="org.freedesktop.DBus", member="NameOwnerChanged")


def _begin(command: list[str], env: dict[str, str] | None, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=env, stdout=stdout)


@asynccontextmanager
async def private_bus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bus]:
    """A bus in the place of the system's, with nobody on it."""
    require_mock()
    address = f"unix:path={folder}/bus"
    command = ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}", "--print-address"]
    daemon = _begin(command, None, subprocess.PIPE)
    assert daemon.stdout is not None
    try:
        await trio.to_thread.run_sync(daemon.stdout.readline)  # it listens
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        wire = importlib.import_module("jeepney.io.trio")
        async with wire.open_dbus_router(bus="SYSTEM") as router:
            bus = Bus(address, router, importlib.import_module("jeepney"))
            try:
                yield bus
            finally:
                bus.stop()
    finally:
        daemon.terminate()
        daemon.wait(10)
        daemon.stdout.close()
