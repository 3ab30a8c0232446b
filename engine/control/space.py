"""Who may take space: quotas of scopes, eviction of finished files, and entries that wait until there is some.

What running entries were promised is kept by :mod:`engine.transfer.reservations`, which asks :meth:`Space.admit` first.
An entry that found no space is parked (PAUSED, reason disk or quota); it is looked at again every few seconds, then
more seldom, and at once when something was removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import trio

from engine.control.group_requests import checked_scope
from engine.control.orphans import Action, Finding, What
from engine.control.readers import Readers
from engine.errors import EngineError, InvalidRequest, QuotaReached
from engine.files.filesystem import FileSystem
from engine.model.records import DownloadEntry, PartPhase
from engine.model.states import Reason, State
from engine.store.state_store import StateStore
from engine.store.usage import Held
from engine.transfer.reservations import BLOCK_BYTES
from engine.transfer.services import Services

log = logging.getLogger("engine")

# Why an entry waits for space, and goes on by itself when there is some.
PARKED_FOR = (Reason.DISK, Reason.QUOTA)
QUOTA_BYTES_MAX = 2**63 - 1  # what a record holds

# Removes an entry if the rule says, when nobody else can change it any more, that it may go; whether it did.
RemoveIf = Callable[[str, Callable[[DownloadEntry], bool]], Awaitable[bool]]
Resume = Callable[[str, Reason], Awaitable[DownloadEntry]]


class Evictable(msgspec.Struct, frozen=True):
    """A finished file that may go: not pinned, and nobody reads it."""

    id: str
    scope: str
    path: str
    size: int
    last_used_at: float
    expires_at: float | None


class Space:
    """``remove_if`` takes an entry away with its file, ``resume`` lifts a pause of that reason. :meth:`watch` is its
    task."""

    def __init__(self, services: Services, remove_if: RemoveIf, resume: Resume) -> None:
        self.readers = Readers(services.now)
        self._services = services
        self._remove_if = remove_if
        self._resume = resume
        self._quotas: dict[str, int] = services.store.groups.quotas()
        self._taken: dict[str, dict[str, int]] = {}
        self._doubtful: set[str] = set()  # counted entries that run no more: what they took is on record
        self._refused: dict[str, int] = {}  # how long the files of entries are for which their quota had no room
        self._counting = trio.Lock()
        self._setting = trio.Lock()
        self._freed = trio.Event()
        services.reservations.admission = self.admit
        services.reservations.growth = self.hold
        services.reservations.released = self._released

    async def set_quota(self, scope: str, quota_bytes: int | None) -> None:
        """Bound the bytes of a scope's files from now on, durably; 0 for no bound, None for the configured one. What is
        there stays. Raises InvalidRequest, StoreError."""
        checked_scope(scope)
        if quota_bytes is not None and (
            isinstance(quota_bytes, bool) or not isinstance(quota_bytes, int) or not 0 <= quota_bytes <= QUOTA_BYTES_MAX
        ):
            raise InvalidRequest(f"a quota is a number of bytes, not {quota_bytes}")
        async with self._setting:  # of two at once the later one is both on record and what counts
            await self._services.write(self._services.store.groups.set_quota, scope, quota_bytes)
            if quota_bytes is None:
                self._quotas.pop(scope, None)
            else:
                self._quotas[scope] = quota_bytes
        self.freed()

    def quota(self, scope: str) -> int:
        """The bytes that the scope's files may take; 0 for no bound."""
        return self._quotas.get(scope, self._services.config.scope_quota_bytes)

    def freed(self, entry_id: str | None = None) -> None:
        """Something was removed (this entry; None: who knows what): entries that wait for space are looked at."""
        if entry_id is None:
            self._taken.clear()
        self._doubtful.discard(entry_id or "")
        self._refused.pop(entry_id or "", None)
        for taken in self._taken.values():
            taken.pop(entry_id or "", None)
        self._freed.set()

    async def admit(self, entry: DownloadEntry, length: int | None) -> None:
        """Make room by the rules. Raises QuotaReached when the entry would take its scope beyond its quota."""
        quota = self.quota(entry.scope)
        if quota:
            async with self._counting:  # two entries must not count on the same rest of the quota
                await self._admit_to_scope(entry, length or 0, quota, length or 0)
        if self._services.config.evict_least_recent and length:
            await self._make_room(entry, length)

    async def hold(self, entry: DownloadEntry, length: int, ended: bool) -> None:
        """Let an entry of unknown length keep the ``length`` bytes that came, and make room for it in its scope once it
        ``ended``. Raises QuotaReached."""
        quota = self.quota(entry.scope)
        if not quota or (not ended and length <= quota and self._services.config.evict_least_recent):
            return
        async with self._counting:
            await self._admit_to_scope(entry, length, quota, 0)

    def _released(self, entry_id: str) -> None:
        if any(entry_id in taken for taken in self._taken.values()):
            self._doubtful.add(entry_id)

    async def evict(self, *, dry_run: bool = False) -> list[Finding]:
        """Remove finished files that are beyond their time; where the host lets them make room, also those read least
        recently in scopes beyond their quota."""
        await self.flush()
        now, services = self._services.now(), self._services
        evictable = await services.work(list_evictable, services.store, self.readers)
        expired = [item for item in evictable if item.expires_at is not None and item.expires_at <= now]
        found = [await self._evict(item, What.EXPIRED, "its time is over", dry_run) for item in expired]
        if not services.config.evict_least_recent:
            return found
        rest = [item for item in evictable if item not in expired]
        for scope in sorted({item.scope for item in rest}):
            quota = self.quota(scope)
            used = sum((await services.work(services.store.usage.of_scope, scope)).values()) if quota else 0
            for item in by_age(item for item in rest if item.scope == scope):
                if used <= quota:
                    break
                found.append(await self._evict(item, What.LEAST_RECENT, "its scope is beyond its quota", dry_run))
                used -= item.size
        return found

    async def flush(self) -> None:
        """Record when files were read last."""
        read = self.readers.take_read()
        if read:
            await self._services.write(self._services.store.usage.touch, read)

    async def watch(self) -> None:
        """Take up entries that wait for space once there is some, until cancelled."""
        config = self._services.config
        pause = config.space_check_interval_s
        while True:
            with trio.move_on_after(pause):
                await self._freed.wait()
            woken, self._freed = self._freed.is_set(), trio.Event()
            try:
                await self.flush()
                resumed, waiting = await self.resume_parked()
            except EngineError as error:  # the disk or store cannot be used now: it is looked at again
                log.warning("looking for space: %s", error)
                resumed, waiting = 0, 1
            again = woken or resumed or not waiting
            pause = config.space_check_interval_s if again else min(pause * 2, config.space_check_interval_max_s)

    async def resume_parked(self) -> tuple[int, int]:
        """Take up, in order of priority and adding, the parked entries that fit by now. Returns how many were taken up
        and how many still wait."""
        services = self._services
        parked = [held for why in PARKED_FOR for held in await services.work(services.store.usage.parked, why)]
        left: dict[int, int] = {}
        granted: dict[str, int] = {}
        resumed = 0
        for held in sorted(parked, key=lambda held: (-held.entry.priority, held.entry.sequence)):
            if not await self._fits_quota(held, granted):
                continue
            # Its disk is away, its record damaged, its destination another's, or it is gone: the others are not.
            with contextlib.suppress(EngineError):
                if await services.work(_take, services, held, left):
                    entry = await self._resume(held.entry.id, held.entry.state_reason)
                    resumed += entry.state is not State.PAUSED
        return resumed, len(parked) - resumed

    async def _fits_quota(self, held: Held, granted: dict[str, int]) -> bool:
        """Whether the entry fits beside what its scope has, and what others of it are ``granted`` in this look."""
        entry = held.entry
        quota = self.quota(entry.scope)
        if not quota:
            return True
        async with self._counting:
            taken = await self._of_scope(entry.scope)
        length = max(_length(held), self._refused.get(entry.id, 0), 1)
        others = sum(taken.values()) - taken.get(entry.id, 0) + granted.get(entry.scope, 0)
        if others + length > quota:
            return False
        granted[entry.scope] = granted.get(entry.scope, 0) + length
        return True

    async def _admit_to_scope(self, entry: DownloadEntry, length: int, quota: int, unwritten: int) -> None:
        """``unwritten``: how many of the bytes the disk has still to take."""
        taken = await self._of_scope(entry.scope)
        others = sum(taken.values()) - taken.get(entry.id, 0)
        needed = max(length, 1)  # of an unknown length nothing is known but that there is something
        if others + needed > quota and self._services.config.evict_least_recent:
            await self._evict_of_scope(entry, unwritten, others + needed - quota)
            taken = await self._of_scope(entry.scope)
            others = sum(taken.values()) - taken.get(entry.id, 0)
        if others + needed > quota:
            self._refused[entry.id] = length
            raise QuotaReached(
                f"{length} bytes do not fit the quota of the scope {entry.scope!r}: {others} of {quota} taken"
            )
        self._refused.pop(entry.id, None)
        taken[entry.id] = length
        self._doubtful.discard(entry.id)

    async def _evict_of_scope(self, entry: DownloadEntry, length: int, excess: int) -> None:
        """Evict what was read least recently in the entry's scope until that is smaller by ``excess`` bytes. Nothing
        goes when all of it would not be enough, or the disk would not take ``length`` bytes even then."""
        services = self._services
        items = by_age(await self._evictable(entry))
        mine = [item for item in items if item.scope == entry.scope]
        if sum(item.size for item in mine) < excess:
            return
        folder = _folder(services, entry.destination, entry.destination_is_folder)
        free, gains = await services.work(_room_without, services, folder, items)
        if free + sum(gains.values()) < length:
            return
        for item in mine:
            if excess <= 0:
                return
            found = await self._evict(item, What.LEAST_RECENT, "its scope is beyond its quota")
            excess -= item.size if found.action is Action.REMOVED else 0

    async def _of_scope(self, scope: str) -> dict[str, int]:
        """Bytes taken by each entry of the scope, promised ones included; counted once, then kept up to date. For one
        caller at a time."""
        usage, work = self._services.store.usage, self._services.work
        while True:
            taken = self._taken.get(scope)
            if taken is None:
                self._taken[scope] = await work(usage.of_scope, scope)
            elif doubtful := self._doubtful & taken.keys():
                self._doubtful -= doubtful
                known = await work(usage.of_entries, doubtful)
                taken.update({entry_id: known.get(entry_id, 0) for entry_id in doubtful if entry_id in taken})
            else:
                return taken

    async def _make_room(self, entry: DownloadEntry, length: int) -> None:
        """Evict what was read least recently on the entry's file system until ``length`` bytes fit; nothing when they
        would not fit without all of it either."""
        services = self._services
        folder = _folder(services, entry.destination, entry.destination_is_folder)
        _, free = await services.work(_room, services, folder)
        if free >= length:
            return
        items = by_age(await self._evictable(entry))
        free, gains = await services.work(_room_without, services, folder, items)
        if free + sum(gains.values()) < length:
            return
        for item in items:
            if free >= length:
                return
            if gains.get(item.id):
                await self._evict(item, What.LEAST_RECENT, "it made room for another download")
                _, free = await services.work(_room, services, folder)

    async def _evictable(self, entry: DownloadEntry) -> list[Evictable]:
        services = self._services
        found = await services.work(list_evictable, services.store, self.readers)
        return [item for item in found if item.id != entry.id]

    async def _evict(self, item: Evictable, what: What, why: str, dry_run: bool = False) -> Finding:
        def still(entry: DownloadEntry) -> bool:
            if entry.state is not State.COMPLETED or entry.pinned or self.readers.held(entry.id):
                return False
            if what is What.EXPIRED and not self._expired(entry.id):
                return False
            if not dry_run:
                self.readers.refuse(entry.id)
                refused.append(entry.id)
            return True

        refused: list[str] = []
        action = Action.KEPT
        try:
            if dry_run:
                entry = self._services.store.get(item.id)
                action = Action.WOULD_REMOVE if entry is not None and still(entry) else action
            elif await self._remove_if(item.id, still):
                action = Action.REMOVED
        except EngineError as error:  # its disk is away
            why = str(error)
        finally:
            for entry_id in refused:
                self.readers.allow(entry_id)
        if not dry_run:
            self.freed(item.id)
        return Finding(what=what, path=item.path, why=why, size=item.size, action=action, entry_id=item.id)

    def _expired(self, entry_id: str) -> bool:
        offline = self._services.store.offline(entry_id)
        return offline is not None and offline.expires_at is not None and offline.expires_at <= self._services.now()


def list_evictable(store: StateStore, readers: Readers) -> list[Evictable]:
    """Finished files that are not pinned and that nobody reads. Blocking: one pass over all records."""
    found: list[Evictable] = []
    for entry, _, offline in store.usage.pages(offline=True):
        if entry.state is not State.COMPLETED or offline is None or entry.pinned or readers.held(entry.id):
            continue
        used = max(entry.last_read_at or 0.0, entry.completed_at or 0.0, readers.read_at(entry.id))
        found.append(Evictable(entry.id, entry.scope, offline.path, offline.size, used, offline.expires_at))
    return found


def by_age(items: Iterable[Evictable]) -> list[Evictable]:
    """Those first that were used least recently."""
    return sorted(items, key=lambda item: (item.last_used_at, item.id))


def _length(held: Held) -> int:
    """How long the entry's file is going to be, as far as is known."""
    known = [part.length for part in held.parts if part.length is not None]
    return sum(known) if known else held.entry.bytes_total or held.entry.expected_length or 0


def _folder(services: Services, destination: str, is_folder: bool) -> str:
    if not destination:
        return services.library
    return destination if is_folder else os.path.dirname(destination)


def _room(services: Services, folder: str) -> tuple[int, int]:
    """The device of a folder (or of what there is of its path), and the bytes on it that nobody was promised."""
    files = services.files
    while files.stat_path(folder) is None and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    fd = files.open_folder(folder)
    try:
        device = files.stat_fd(fd).st_dev
        free = files.free_bytes(fd) - services.config.free_space_reserve_bytes
        return device, free - services.reservations.outstanding(files, device)
    finally:
        files.close(fd)


def _room_without(services: Services, folder: str, items: Iterable[Evictable]) -> tuple[int, dict[str, int]]:
    """The bytes that nobody was promised on the device of a folder, and what each of these files would give back there:
    one that has another name too, gives nothing."""
    device, free = _room(services, folder)
    gains: dict[str, int] = {}
    for item in items:
        info = services.files.stat_path(item.path, follow=False)
        if info is not None and info.st_dev == device and info.st_nlink == 1:
            gains[item.id] = info.st_blocks * BLOCK_BYTES
    return free, gains


def _take(services: Services, held: Held, left: dict[int, int]) -> bool:
    """Whether the entry fits; then what it needs is taken from what is ``left`` on its device."""
    entry = held.entry
    there = next((part for part in held.parts if part.phase is PartPhase.ACTIVE), None)
    folder = there.folder if there is not None else _folder(services, entry.destination, entry.destination_is_folder)
    device, free = _room(services, folder)
    free = left.setdefault(device, free)
    # The blocks of a file that is there were reserved for it; where that cannot be, what is missing counts.
    needed = _length(held) if there is None else max(0, _length(held) - _on_disk(services.files, held))
    needed = max(needed, services.config.small_chunk_bytes)
    if needed > free:
        return False
    left[device] = free - needed
    return True


def _on_disk(files: FileSystem, held: Held) -> int:
    found = (files.stat_path(os.path.join(part.folder, part.part_name), follow=False) for part in held.parts)
    return sum(info.st_blocks * BLOCK_BYTES for info in found if info is not None)
