"""What keeps a library in order beside its downloads: space, clean-up, repair and health, wired in one place."""

from __future__ import annotations

import math

import trio

from engine.control.doubts import Doubts
from engine.control.groups import Groups
from engine.control.health import DownloadHealth, download_health
from engine.control.hub import EventHub
from engine.control.maintenance import Maintenance
from engine.control.manager import Manager
from engine.control.moves import Moves
from engine.control.repair import Repairs
from engine.control.settle import settle
from engine.control.space import Space
from engine.errors import InvalidRequest, UnknownEntry
from engine.model.records import DownloadEntry, OfflineEntry
from engine.transfer.services import Services


class Upkeep:
    """``run`` is its task."""

    def __init__(self, services: Services, hub: EventHub, manager: Manager, groups: Groups) -> None:
        self._services = services
        self._runs = manager.runs
        self.space = Space(services, manager.removal.remove_if, manager.resume)
        self._removal = manager.removal
        self._groups = groups
        self._removal.freed = self.space.freed
        self.maintenance = Maintenance(services, manager.runs, self.space, manager.removal.remove_if)
        moves = Moves(services, hub)
        self.repairs = Repairs(services, manager.runs, moves, manager._credentials)
        self._doubts = Doubts(services, manager.runs, moves, manager._needs_credentials)

    async def run(self) -> None:
        """Watch the space and clean up from time to time, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(settle, self._services)
            if not self._services.config.records_only:
                nursery.start_soon(self._doubts.run)
            nursery.start_soon(self.space.watch)
            nursery.start_soon(self._removal.finish_left)
            nursery.start_soon(self._groups.finish_left)
            nursery.start_soon(self.maintenance.maintain)

    async def health(self) -> DownloadHealth:
        """How the downloads are doing; see :class:`DownloadHealth`."""
        self._runs.check_open()
        services = self._services
        return await services.work(download_health, services.store, services.now())

    async def pin(self, entry_id: str, pinned: bool = True) -> DownloadEntry:
        """Never evict the entry's file, or do again. Raises UnknownEntry, InvalidRequest."""
        self._runs.check_open()
        if not isinstance(pinned, bool):
            raise InvalidRequest(f"pinned is True or False, not {pinned!r}")
        services = self._services
        async with self._runs.alone(entry_id):
            entry = services.store.get(entry_id)
            if entry is None:
                raise UnknownEntry(f"there is no entry {entry_id}")
            return await services.write(services.store.update, entry_id, entry.epoch, pinned=pinned)

    async def expire(self, entry_id: str, at: float | None) -> OfflineEntry:
        """Let the finished file go at that time (seconds since the epoch) unless the entry is pinned; None for never.
        Raises UnknownEntry when there is no finished file, InvalidRequest for what is no time."""
        self._runs.check_open()
        if at is not None and (isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at)):
            raise InvalidRequest(f"a time is seconds since the epoch, not {at!r}")
        services = self._services
        async with self._runs.alone(entry_id):
            return await services.write(services.store.usage.update_offline, entry_id, expires_at=at)
