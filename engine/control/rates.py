"""Bandwidth caps, changed while entries run: that of all is the process's own, that of an entry is on record."""

from __future__ import annotations

from engine.control.runs import Runs
from engine.errors import UnknownEntry
from engine.model.records import DownloadEntry
from engine.net.pacing import checked_rate
from engine.transfer.services import Services


class Rates:
    """Sets caps in bytes a second; 0 lifts one."""

    def __init__(self, services: Services, runs: Runs) -> None:
        self._services = services
        self._runs = runs

    def set_all(self, bytes_s: int) -> None:
        """What all entries together may receive. Raises InvalidRequest."""
        self._services.pacing.set_rate(bytes_s)

    async def set_entry(self, entry_id: str, bytes_s: int) -> DownloadEntry:
        """What one entry may receive, now and whenever it runs. Raises InvalidRequest, UnknownEntry."""
        checked_rate(bytes_s)
        services = self._services
        async with self._runs.alone(entry_id):
            entry = services.store.get(entry_id) if isinstance(entry_id, str) else None
            if entry is None:
                raise UnknownEntry(f"there is no entry {entry_id}")
            entry = await services.write(services.store.update, entry_id, entry.epoch, rate_limit_bytes_s=bytes_s)
            services.pacing.set_entry_rate(entry_id, bytes_s)
        return entry
