"""Mending finished files: only the chunks that are bad are fetched again, into a copy; the published file stays
readable until the mended one takes its name.

The copy is made while the entry is COMPLETED still, under a name that its part record holds (law 4), and every chunk of
it is hashed before its bit is set (law 1). Then one transaction makes it the part of a new generation of an entry that
is PENDING, and an ordinary transfer fetches the rest, if the source still serves the same representation.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import msgspec
import trio
from msgspec.structs import replace

from engine.control.credentials import Credentials
from engine.control.moves import Moves
from engine.control.places import aimed
from engine.control.runs import Runs
from engine.control.verify import Health, Repair, Validation, validate
from engine.errors import BadRecord, InvalidRequest, PartLost, StorageError, TargetExists, TargetGone, UnknownEntry
from engine.files.filesystem import FileSystem
from engine.files.names import part_name
from engine.files.part_file import PartFile, create_part, open_finished, remove_part
from engine.model.bitmap import Bitmap
from engine.model.chunks import CV_BYTES, CVS_PER_PAGE, ChunkGrid, chunk_bytes_for
from engine.model.records import DownloadEntry, OfflineEntry, PartPhase, PartRecord
from engine.model.states import Event, Reason, State
from engine.store.state_store import ChunkCommit, StateStore
from engine.transfer.services import Services
from engine.transfer.setup_part import bad_chunks, entry_tag, room_for

COPY_BYTES = 64 * 1024 * 1024  # in one go in a worker thread: a repair can be cancelled between
CHUNKS_PER_COMMIT = 4096

Run = tuple[int, int]


class _Copy(msgspec.Struct, frozen=True):
    """A part of a new generation, and the chunks of it that are on the disk and proven."""

    record: PartRecord
    grid: ChunkGrid
    chunks: tuple[tuple[int, bytes, int], ...]


class Repairs:
    """Validates finished files and mends them."""

    def __init__(self, services: Services, runs: Runs, moves: Moves, credentials: Credentials) -> None:
        self._services = services
        self._runs = runs
        self._moves = moves
        self._credentials = credentials

    async def repair_all(self, entry_ids: Iterable[str]) -> tuple[Validation, ...]:
        """:meth:`repair` for each of them, one after another."""
        return tuple([await self.repair(entry_id) for entry_id in entry_ids])

    async def repair(self, entry_id: str) -> Validation:
        """Look at the entry's file, and begin to mend it when it is not valid; returns once that runs.

        What cannot be begun (the disk is away or full, credentials are missing, another file has its place) is told in
        the validation, and nothing was changed. Raises EngineClosed, UnknownEntry, and BadRecord for an entry whose own
        record is damaged.
        """
        services = self._services
        self._runs.check_open()
        async with self._runs.alone(entry_id):
            entry = services.store.get(entry_id)
            if entry is None:
                raise UnknownEntry(f"there is no entry {entry_id}")
            found = await services.work(validate, services.store, services.files, entry)
            if entry.state is not State.COMPLETED or found.health not in {Health.MISSING, Health.CORRUPT}:
                return found
            try:
                return replace(found, repair=await self._begin(entry, found))
            except (StorageError, InvalidRequest) as error:
                return replace(found, repair=Repair.REFUSED, message=f"{found.message}; not repaired: {error}")

    async def _begin(self, entry: DownloadEntry, found: Validation) -> Repair:
        if self._credentials.missing(entry):
            names = ", ".join(entry.secret_header_names)
            raise TargetExists(f"its credentials ({names}) are not kept: ask for it again with them, and to overwrite")
        with aimed(self._runs, self._services.targets, [entry]):
            return await self._begin_alone(entry, found)

    async def _begin_alone(self, entry: DownloadEntry, found: Validation) -> Repair:
        services = self._services
        record = await self._record(entry)
        if record is None:
            raise PartLost("nothing is on record of where its file is")
        await services.work(_check_place, services.files, entry, record)
        if found.health is Health.MISSING:
            await self._take_back(entry, _anew(entry, record, None), ())
            return Repair.WHOLE
        copy = await self._copy(entry, record, found.bad_ranges)
        await self._take_back(entry, copy.record, copy.chunks, copy.grid.count)
        return Repair.CHUNKS if copy.chunks else Repair.WHOLE

    async def _record(self, entry: DownloadEntry) -> PartRecord | None:
        """The part's record; one made from what is known of the finished file when it is damaged."""
        services = self._services
        try:
            parts = await services.work(services.store.parts, entry.id)
            return parts[0] if parts else None
        except BadRecord:
            offline = await services.work(services.store.offline, entry.id)
            return None if offline is None else _record_of(services, offline)

    async def _copy(self, entry: DownloadEntry, record: PartRecord, bad: Sequence[Run]) -> _Copy:
        """A new file with the good chunks. Raises StorageError; then nothing is left of it."""
        services = self._services
        grid = ChunkGrid(record.length or 0, record.chunk_bytes)
        good = _good(grid, bad)
        old = await services.work(open_finished, services.files, record.folder, record.final_name)
        try:
            if old.identity != record.identity and not good.held:
                raise TargetExists(
                    f"{os.path.join(old.folder, old.name)} is another file, which shares nothing with it"
                )
            anew = _anew(entry, record, old)
            if not good.held:
                return _Copy(anew, grid, ())
            await self._name(entry, record, anew.part_name)
            try:
                return await self._fill(entry, record, anew, old, grid, good)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await services.work(remove_part, services.files, anew.folder, (anew.part_name,))
                raise
        finally:
            old.close()

    async def _name(self, entry: DownloadEntry, record: PartRecord, name: str) -> None:
        """Record the name before its file is made."""
        if name not in record.superseded:
            record = replace(record, superseded=(*record.superseded, name))
            await self._services.write(self._services.store.put_part, entry.id, entry.epoch, record)

    async def _fill(
        self, entry: DownloadEntry, record: PartRecord, anew: PartRecord, old: PartFile, grid: ChunkGrid, good: Bitmap
    ) -> _Copy:
        services = self._services
        services.reservations.release(entry.id)
        room = room_for(services, entry.id, anew)
        try:
            arguments = (services.files, anew.folder, anew.part_name, anew.length, services.config)
            new = await services.work(create_part, *arguments, durable=True, room=room)
            try:
                for start, length in _stretches(grid, good):
                    await services.work(services.files.copy_range, old.fd, new.fd, start, length)
                chunks = await services.work(_proven, services, entry.id, record, new, grid, good)
                known = replace(
                    anew, phase=PartPhase.ACTIVE, device=new.device, inode=new.inode, inode_version=new.version
                )
                return _Copy(known, grid, chunks)
            finally:
                new.close()
        finally:
            services.reservations.release(entry.id)

    async def _take_back(
        self, entry: DownloadEntry, record: PartRecord, chunks: Sequence[tuple[int, bytes, int]], count: int = 0
    ) -> None:
        """Make the record the entry's part, with its chunks, and have the entry run."""
        services = self._services
        commits = [
            ChunkCommit(
                id=entry.id,
                epoch=entry.epoch + 1,
                part_index=record.index,
                generation=record.generation,
                chunks=tuple(chunks[at : at + CHUNKS_PER_COMMIT]),
                bit_count=count,
                synced=True,
                boot_id=services.boot_id,
            )
            for at in range(0, len(chunks), CHUNKS_PER_COMMIT)
        ]
        now = services.now()
        with trio.CancelScope(
            shield=True
        ):  # from the first transaction on it is PENDING, and only its place has it run
            moved = await services.write(_take_back, services.store, entry, record, commits[:1], now)
            try:
                for commit in commits[1:]:  # what they do not tell is fetched again
                    await services.write(services.store.commit_chunks, [commit])
            finally:
                self._moves.announce(moved, entry.state)
                self._runs.start(moved, self._credentials.of(entry.id))


def _take_back(
    store: StateStore, entry: DownloadEntry, record: PartRecord, commits: Sequence[ChunkCommit], now: float
) -> DownloadEntry:
    """One transaction: the entry is PENDING in a new epoch, its part of a new generation."""
    moved = store.transition(
        entry.id, Event.REPAIR, epoch=entry.epoch, now=now, reason=Reason.NONE, completed_at=None, next_retry_at=None
    )
    store.reset_part(entry.id, moved.epoch, record)
    store.commit_chunks(commits)
    return moved


def _check_place(files: FileSystem, entry: DownloadEntry, record: PartRecord) -> None:
    """Raise TargetGone for a folder of the caller's that is not there: perhaps a disk that is not mounted."""
    if not entry.destination:
        return
    folder = files.stat_path(record.folder)
    if folder is None or (record.device and folder.st_dev != record.device):
        raise TargetGone(f"{record.folder} is not there, or not on the disk that it was on")


def _anew(entry: DownloadEntry, record: PartRecord, old: PartFile | None) -> PartRecord:
    """The part's next generation, of which nothing is there yet. It may replace the ``old`` file, and no other."""
    generation = record.generation + 1
    name = part_name(entry_tag(entry.id), generation)
    return replace(
        record,
        generation=generation,
        phase=PartPhase.ALLOC,
        part_name=name,
        device=0,
        inode=0,
        inode_version=0,
        unsynced_boot="",
        superseded=tuple(other for other in record.superseded if other != name),
        replaces=0 if old is None else old.inode,
        replaces_version=0 if old is None else old.version,
    )


def _record_of(services: Services, offline: OfflineEntry) -> PartRecord:
    """What the offline record tells of a part whose own record is damaged; of no generation that a late result of it
    could name."""
    folder, name = os.path.split(offline.path)
    return PartRecord(
        generation=int(services.now()),
        phase=PartPhase.PUBLISHED,
        folder=folder,
        part_name="",
        final_name=name,
        length=offline.size,
        chunk_bytes=chunk_bytes_for(offline.size, services.config),
        device=offline.device,
        inode=offline.inode,
        inode_version=offline.inode_version,
        digest=offline.blake3,
    )


def _good(grid: ChunkGrid, bad: Sequence[Run]) -> Bitmap:
    """The chunks that no bad range of bytes touches."""
    wrong = {index for start, end in bad for index in range(start // grid.chunk_bytes, -(-end // grid.chunk_bytes))}
    good = Bitmap(grid.count)
    for index in range(grid.count):
        if index not in wrong:
            good.add(index)
    return good


def _stretches(grid: ChunkGrid, good: Bitmap) -> Iterable[Run]:
    """Byte stretches ``(start, length)`` of the good chunks, none too long to be copied in one go."""
    for first, count in good.runs():
        start, end = grid.byte_range(first, count)
        for at in range(start, end, COPY_BYTES):
            yield at, min(COPY_BYTES, end - at)


def _proven(
    services: Services, entry_id: str, record: PartRecord, new: PartFile, grid: ChunkGrid, good: Bitmap
) -> tuple[tuple[int, bytes, int], ...]:
    """``(index, CV, size)`` of the copied chunks that are on the disk with the bytes that they had. Raises OSError
    when they cannot be made durable."""
    services.files.sync_data(new.fd)
    lost = set(bad_chunks(services.store, services.files, entry_id, record, new, grid, good))
    chunks: list[tuple[int, bytes, int]] = []
    for first, count in good.runs():
        for page in range(first, first + count, CVS_PER_PAGE):
            end = min(page + CVS_PER_PAGE, first + count)
            wanted = [index for index in range(page, end) if index not in lost]
            cvs = services.store.cvs(entry_id, record.index, end - page, first=page) if wanted else b""
            for index in wanted:
                at = (index - page) * CV_BYTES
                chunks.append((index, cvs[at : at + CV_BYTES], grid.size(index)))
    return tuple(chunks)
