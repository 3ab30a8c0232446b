"""Clean-up: what nothing needs any more goes from the disk, on demand and every few hours.

Whoever removes looks again under the entry's own lock (or inside the transaction) just before: what runs, or was asked
for meanwhile, keeps all it has. The record always changes before the file goes (DESIGN law 4).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable

import msgspec
import trio
from msgspec.structs import replace

from engine.control.orphans import Action, Finding, What, remove_orphan, scan, size_on_disk
from engine.control.runs import Runs
from engine.control.space import RemoveIf, Space
from engine.errors import EngineError, StorageError, StoreError
from engine.files.names import part_name
from engine.files.part_file import remove_part
from engine.model.events import MaintenanceDone
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.model.states import State
from engine.store.creation import UNFINISHED
from engine.store.usage import needed_names
from engine.transfer.reservations import BLOCK_BYTES
from engine.transfer.services import Services
from engine.transfer.setup_part import entry_tag

log = logging.getLogger("engine")

DAY_S = 86_400.0
FINDINGS_MAX = 1000  # in a report that goes through the store to another process
JITTER = 0.1  # of the interval, so that many engines of one host do not clean up at once


class MaintenanceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a clean-up found and did. ``bytes_reclaimed``: of the disk; in a dry run, what could be.
    ``findings_left_out``: how many more there were, in a report to another process."""

    dry_run: bool
    findings: tuple[Finding, ...]
    files_removed: int
    entries_removed: int
    bytes_reclaimed: int
    seconds: float
    findings_left_out: int = 0


class Maintenance:
    """``remove_if`` takes an entry away with its file."""

    def __init__(self, services: Services, runs: Runs, space: Space, remove_if: RemoveIf) -> None:
        self._services = services
        self._runs = runs
        self._space = space
        self._remove_if = remove_if
        self._one = trio.Lock()

    async def clean(
        self, *, dry_run: bool = False, remove_stale: bool = False, everywhere: bool = False, evict: bool = False
    ) -> MaintenanceReport:
        """Remove orphans, left-over and stale unfinished files, and temporary folders; with ``remove_stale`` the
        records of stale entries too, with ``evict`` what is beyond its time or has to make room. One at a time.

        ``everywhere``: no other library has unfinished files in the folders of this one's files, so that orphans go
        there too, and not only in the library's own folder.
        What cannot be removed now is told as KEPT. Raises StoreError, StorageError when nothing can be looked at.
        """
        async with self._one:
            began = trio.current_time()
            found = [*await self._orphans(dry_run, everywhere), *await self._stale(dry_run, remove_stale)]
            found += await self._services.work(self._temporary, dry_run)
            if evict:
                found += await self._space.evict(dry_run=dry_run)
            report = _report(found, dry_run, trio.current_time() - began)
            if not dry_run:
                await self._settle(report)
            return report

    async def gc(
        self, *, dry_run: bool = False, remove_stale: bool = False, everywhere: bool = False
    ) -> MaintenanceReport:
        """:meth:`clean` with eviction."""
        return await self.clean(dry_run=dry_run, remove_stale=remove_stale, everywhere=everywhere, evict=True)

    async def maintain(self) -> None:
        """:meth:`gc` some minutes after the start and every few hours, until cancelled."""
        config, rng = self._services.config, self._services.rng
        await trio.sleep(config.maintenance_delay_s)
        while True:
            try:
                await self.gc()
            except EngineError as error:  # the disk or store cannot be used now: it is tried again in some hours
                log.warning("maintenance: %s", error)
            await trio.sleep(config.maintenance_interval_s * rng.uniform(1 - JITTER, 1 + JITTER))

    async def _settle(self, report: MaintenanceReport) -> None:
        if report.files_removed:
            count = self._services.store.usage.count
            await self._services.write(
                count, bytes_reclaimed=report.bytes_reclaimed, files_removed=report.files_removed
            )
            self._space.freed()
        self._services.emit(
            MaintenanceDone(
                files_removed=report.files_removed,
                entries_removed=report.entries_removed,
                bytes_reclaimed=report.bytes_reclaimed,
                findings=len(report.findings),
            )
        )

    async def _orphans(self, dry_run: bool, everywhere: bool) -> list[Finding]:
        services = self._services
        grace_s = services.config.orphan_grace_s
        arguments = (services.store, services.files, services.library, services.now(), grace_s)
        found = await services.work(scan, *arguments, everywhere=everywhere)
        if dry_run:
            return found
        return [await self._act(finding) for finding in found]

    async def _act(self, finding: Finding) -> Finding:
        if finding.action is not Action.WOULD_REMOVE:
            return finding
        if finding.what is What.ORPHAN_PART:
            return await remove_orphan(self._services, finding)
        return await self._drop_leftover(finding)

    async def _drop_leftover(self, finding: Finding) -> Finding:
        """An unfinished file that a completed entry's record still names, from a repair that did not come to its
        end."""
        services, (folder, name) = self._services, os.path.split(finding.path)
        async with self._runs.alone(finding.entry_id):
            with contextlib.suppress(StoreError, StorageError):  # damaged, or gone by now: told as kept
                entry = services.store.get(finding.entry_id)
                parts = services.store.parts(finding.entry_id)
                record = next((part for part in parts if name in part.superseded), None)
                if entry is not None and entry.state is State.COMPLETED and record is not None:
                    names = tuple(other for other in record.superseded if other != name)
                    await services.write(
                        services.store.put_part, entry.id, entry.epoch, replace(record, superseded=names)
                    )
                    await services.work(remove_part, services.files, folder, (name,))
                    return replace(finding, action=Action.REMOVED)
        return replace(finding, action=Action.KEPT)

    async def _stale(self, dry_run: bool, remove_stale: bool) -> list[Finding]:
        services, days = self._services, self._services.config.stale_entry_days
        if not days:
            return []
        before = services.now() - days * DAY_S
        found: list[Finding] = []
        for line in await services.work(services.store.usage.stale, before):
            async with self._runs.alone(line.id):
                # One entry's trouble (a damaged record, a disk that is away) is not the others'.
                with contextlib.suppress(StoreError, StorageError):
                    found += await self._sweep(line.id, before, dry_run)
            if remove_stale:
                found.append(await self._forget(line.id, before, dry_run))
        return found

    async def _sweep(self, entry_id: str, before: float, dry_run: bool) -> list[Finding]:
        """Remove what a stale entry holds unfinished. It stays, and begins anew when it is asked for."""
        services = self._services
        entry = self._stale_still(entry_id, before)
        if entry is None:
            return []
        found: list[Finding] = []
        for record in services.store.parts(entry_id):
            names = needed_names(record)
            size = await services.work(size_on_disk, services.files, record.folder, names)
            if record.phase in {PartPhase.FINALIZING, PartPhase.PUBLISHED} or (not size and not record.chunks_done):
                continue
            if not dry_run:
                await services.write(services.store.reset_part, entry.id, entry.epoch, _emptied(entry, record))
                await services.work(remove_part, services.files, record.folder, names)
            found.append(
                Finding(
                    what=What.STALE_PART,
                    path=os.path.join(record.folder, record.part_name),
                    why=f"its entry is {entry.state.value} for a long time",
                    size=size,
                    action=Action.WOULD_REMOVE if dry_run else Action.REMOVED,
                    entry_id=entry_id,
                )
            )
        return found

    async def _forget(self, entry_id: str, before: float, dry_run: bool) -> Finding:
        action, why = Action.KEPT, "it was asked for again"
        entry = self._stale_still(entry_id, before)
        if entry is not None:
            stale = f"it is {entry.state.value} for a long time"
            try:
                if dry_run:
                    action, why = Action.WOULD_REMOVE, stale
                elif await self._remove_if(entry_id, lambda entry: self._is_stale(entry, before)):
                    action, why = Action.REMOVED, stale
            except EngineError as error:  # its disk is away
                why = str(error)
        return Finding(what=What.STALE_ENTRY, path="", why=why, action=action, entry_id=entry_id)

    def _stale_still(self, entry_id: str, before: float) -> DownloadEntry | None:
        try:
            entry = self._services.store.get(entry_id)
        except StoreError:
            return None
        return entry if entry is not None and self._is_stale(entry, before) else None

    def _is_stale(self, entry: DownloadEntry, before: float) -> bool:
        if self._runs.kept(entry.id) is not None or entry.updated_at >= before:
            return False
        return entry.state in {State.FAILED, State.CANCELLED}

    def _temporary(self, dry_run: bool) -> list[Finding]:
        """Stores that were never finished: whoever holds the lease of the root is not making one any more."""
        services, root = self._services, os.path.dirname(self._services.library)
        before = services.now() - services.config.orphan_grace_s
        found: list[Finding] = []
        for name in sorted(services.files.names(root)):
            path = os.path.join(root, name)
            info = services.files.stat_path(path, follow=False) if name.startswith(UNFINISHED) else None
            if info is None or info.st_mtime > before:
                continue
            action = Action.WOULD_REMOVE
            if not dry_run:
                services.files.remove_tree(path)
                action = Action.REMOVED
            size = info.st_blocks * BLOCK_BYTES
            found.append(Finding(what=What.TEMPORARY, path=path, why="it was never finished", size=size, action=action))
        return found


def _emptied(entry: DownloadEntry, record: PartRecord) -> PartRecord:
    """A part of which nothing is left but its place in the order of generations, and what it may replace."""
    generation = record.generation + 1
    return replace(
        record,
        generation=generation,
        phase=PartPhase.ALLOC,
        part_name=part_name(entry_tag(entry.id), generation),
        device=0,
        inode=0,
        inode_version=0,
        superseded=(),
        digest="",
    )


def _report(found: Iterable[Finding], dry_run: bool, seconds: float) -> MaintenanceReport:
    findings = tuple(found)
    done = [finding for finding in findings if finding.action in {Action.REMOVED, Action.WOULD_REMOVE}]
    entries = [finding for finding in done if finding.what in {What.STALE_ENTRY, What.EXPIRED, What.LEAST_RECENT}]
    return MaintenanceReport(
        dry_run=dry_run,
        findings=findings,
        files_removed=0 if dry_run else sum(finding.what is not What.STALE_ENTRY for finding in done),
        entries_removed=0 if dry_run else len(entries),
        bytes_reclaimed=sum(finding.size for finding in done),
        seconds=seconds,
    )
