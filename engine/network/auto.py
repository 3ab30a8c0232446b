"""The line as the system tells it: the kernel's links and routes, with what NetworkManager knows of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio
from msgspec.structs import replace

from engine.model.lines import Connectivity, Interface, Line
from engine.network import network_manager
from engine.network.kernel import KernelMonitor
from engine.network.monitor import Tell
from engine.network.network_manager import Told


class AutoMonitor:
    """See :class:`~engine.network.monitor.NetworkMonitor`: the default, which works wherever it is started. Whether the
    line is metered is not known (None) until NetworkManager has answered, or is known not to be there."""

    async def follow(self, tell: Tell, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See :class:`~engine.network.monitor.NetworkMonitor`."""
        both = _Both(tell)
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(KernelMonitor().follow, both.kernel_says))
            nursery.start_soon(network_manager.follow, both.manager_says)
            task_status.started()


class _Both:
    """Puts together what both said last, and tells it when it is something new."""

    def __init__(self, tell: Callable[[Line], None]) -> None:
        self._tell = tell
        self._kernel: Line | None = None
        self._manager: Told | None = None
        self._heard = not network_manager.has_bus()
        self._told: Line | None = None

    def kernel_says(self, line: Line) -> None:
        self._kernel = line
        self._say()

    def manager_says(self, told: Told | None) -> None:
        self._manager, self._heard = told, True
        self._say()

    def _say(self) -> None:
        assert self._kernel is not None  # noqa: S101  # it is heard first
        line = together(self._kernel, self._manager)
        if not self._heard:
            line = replace(line, metered=None)
        if line != self._told:
            self._told = line
            self._tell(line)


def together(kernel: Line, told: Told | None) -> Line:
    """The kernel's line with what NetworkManager knows. Whether there is a link at all is the kernel's to say:
    NetworkManager may leave interfaces to others, and knows nothing of those."""
    if told is None:
        return kernel
    lost = told.connectivity is Connectivity.NONE and kernel.connected
    return replace(
        kernel,
        metered=bool(told.metered),
        connectivity=Connectivity.UNKNOWN if lost else told.connectivity,
        interfaces=tuple(_with(each, told) for each in kernel.interfaces),
    )


def _with(interface: Interface, told: Told) -> Interface:
    device = told.devices.get(interface.name)
    if device is None:
        return interface
    return replace(interface, metered=device.metered, kind=device.kind or interface.kind)
