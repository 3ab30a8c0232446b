"""How a part's file comes to be, and how far an unfinished one is believed after a restart.

Every name is recorded before the file gets it (DESIGN law 4): commit ALLOC, create, commit ACTIVE with device and
inode.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import partial

from blake3 import blake3
from msgspec.structs import replace

from engine import native
from engine.errors import NoSpace, PartLost, StoreCorrupt, TargetExists, TargetGone
from engine.files.filesystem import FileSystem
from engine.files.names import part_name, safe_name, with_tag
from engine.files.part_file import (
    PartFile,
    check_replaceable,
    create_part,
    cut_surplus,
    is_file,
    open_unfinished,
    remove_part,
    restore_size,
)
from engine.model.bitmap import Bitmap
from engine.model.chunks import CV_BYTES, CVS_PER_PAGE, ChunkGrid, chunk_bytes_for
from engine.model.records import DownloadEntry, Durability, PartPhase, PartRecord, Representation
from engine.net.url import Url
from engine.store.state_store import StateStore
from engine.threads import stop_if_cancelled
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services


def entry_tag(entry_id: str) -> str:
    """Sixteen hex digits that stand for the entry in names on disk."""
    return blake3(entry_id.encode()).hexdigest(8)


def is_durable(entry: DownloadEntry) -> bool:
    """Whether the entry's bytes are synced before they are believed."""
    return entry.durability is not Durability.RELAXED


async def check_target(services: Services, entry: DownloadEntry, previous: PartRecord | None) -> None:
    """Raise TargetExists before any work when the caller's own path is taken and may not be replaced."""
    if not entry.destination or entry.destination_is_folder:
        return
    folder, name = os.path.split(entry.destination)
    claim(services, entry, folder, name)
    if entry.overwrite:
        await services.work(check_replaceable, services.files, folder, name)
        return
    if await services.lanes.create(folder, partial(_is_taken, services, folder, name, previous)):
        raise TargetExists(f"{entry.destination} exists already")


def _is_taken(services: Services, folder: str, name: str, previous: PartRecord | None) -> bool:
    """Whether another file than the entry's own published one has the name."""
    if services.files.stat_path(os.path.join(folder, name), follow=False) is None:
        return False
    inode, version = _published_file(services.files, previous)
    return not (inode and _is_named(services.files, folder, name, inode, version))


def _is_named(files: FileSystem, folder: str, name: str, inode: int, version: int) -> bool:
    folder_fd = files.open_folder(folder)
    try:
        return is_file(files, folder_fd, name, inode, version)
    finally:
        files.close(folder_fd)


def _published_file(files: FileSystem, previous: PartRecord | None) -> tuple[int, int]:
    """Inode and version of the entry's newest file that has its final name; zeros when there is none.

    A part that was just being published may have it too: a power cut came in between, and took its bytes."""
    if previous is None:
        return 0, 0
    own = previous.inode, previous.inode_version
    if previous.phase is PartPhase.PUBLISHED:
        return own
    half_way = previous.phase is PartPhase.FINALIZING and files.stat_path(previous.folder) is not None
    if half_way and _is_named(files, previous.folder, previous.final_name, *own):
        return own
    return previous.replaces, previous.replaces_version


def place(
    services: Services, entry: DownloadEntry, representation: Representation, url: Url, previous: PartRecord | None
) -> tuple[str, str]:
    """Folder and final name, from the caller's wish and the server's name. A folder takes any number of files of one
    name: one that is taken gets the entry's tag, whosever the other file is, and whether it is finished or not."""
    if entry.destination and not entry.destination_is_folder:
        folder, name = os.path.split(entry.destination)
        return folder, name
    if previous is not None and _published_file(services.files, previous)[0]:
        return previous.folder, previous.final_name
    name = safe_name(representation.name or url.last_segment)
    folder = entry.destination or services.library
    if not (entry.destination and entry.overwrite) and _is_taken(services, folder, name, previous):
        return folder, with_tag(name, entry_tag(entry.id))
    return folder, name


async def allocate(
    services: Services,
    entry: DownloadEntry,
    representation: Representation,
    url: Url,
    previous: PartRecord | None,
    *,
    first_generation: int = 1,
) -> PartJob:
    """A new generation of the entry's part, empty and open, its blocks reserved. ``first_generation``: its number when
    there is no ``previous`` part; beyond 1 there was one whose record is lost, and what it left is dropped as well."""
    durable = is_durable(entry)
    folder, final_name = await services.work(place, services, entry, representation, url, previous)
    final_name = claim(services, entry, folder, final_name)
    await services.work(services.folders.prepare, services.files, folder, root=services.root)
    replaces, replaces_version = await services.work(_published_file, services.files, previous)
    generation = previous.generation + 1 if previous is not None else first_generation
    left: tuple[str, ...] = ()
    if previous is None and first_generation > 1:
        left = await services.work(leftovers, services.files, folder, entry_tag(entry.id))
    record = PartRecord(
        generation=generation,
        folder=folder,
        part_name=part_name(entry_tag(entry.id), generation),
        final_name=final_name,
        length=representation.length,
        chunk_bytes=chunk_bytes_for(representation.length, services.config),
        representation=representation,
        superseded=left or _superseded(previous, folder),
        replaces=replaces,
        replaces_version=replaces_version,
    )
    await services.write(services.store.reset_part, entry.id, entry.epoch, record)
    file, quarantined = await _create(services, entry.id, record, durable=durable)
    services.reservations.made(entry.id)
    try:
        record = replace(
            record,
            phase=PartPhase.ACTIVE,
            superseded=quarantined,
            device=file.device,
            inode=file.inode,
            inode_version=file.version,
        )
        await services.write(services.store.put_part, entry.id, entry.epoch, record)
    except BaseException:
        file.close()
        raise
    return _job(services, entry, record, file, None)


def claim(services: Services, entry: DownloadEntry, folder: str, final_name: str) -> str:
    """The name, made unique when another running entry aims at it too: servers give many files one name. The caller's
    own path is no other's: raises TargetExists."""
    path = os.path.join(folder, final_name)
    if services.targets.claim(path, entry.id):
        return final_name
    if entry.destination and not entry.destination_is_folder:
        raise TargetExists(f"{path} is the destination of {services.targets.holder(path)}, which is running")
    tagged = with_tag(final_name, entry_tag(entry.id))
    services.targets.claim(os.path.join(folder, tagged), entry.id)
    return tagged


async def _create(
    services: Services, entry_id: str, record: PartRecord, *, durable: bool
) -> tuple[PartFile, tuple[str, ...]]:
    """The new part's file, and the older unfinished ones that stay until it is complete (DESIGN law 3).

    That is the newest of them at most: a source that changes all the time must not fill the disk. When the space is
    needed it goes too; its bits are gone already.
    """
    files, config = services.files, services.config
    quarantined = record.superseded[-1:]
    await services.work(remove_part, files, record.folder, record.superseded[:-1])
    arguments = (files, record.folder, record.part_name, record.length, config)
    room = room_for(services, entry_id, record)
    try:
        return await services.work(create_part, *arguments, durable=durable, room=room), quarantined
    except NoSpace:
        if not quarantined:
            raise
    await services.work(remove_part, files, record.folder, quarantined)
    return await services.work(create_part, *arguments, durable=durable, room=room), ()


def room_for(services: Services, entry_id: str, record: PartRecord) -> Callable[[int], None]:
    """Takes the space of a new part on the file system of the folder that is open."""
    path, length = os.path.join(record.folder, record.part_name), record.length or 0
    reserve = services.config.free_space_reserve_bytes

    def take(folder_fd: int) -> None:
        services.reservations.take(entry_id, services.files, folder_fd, path, length, reserve)

    return take


def leftovers(files: FileSystem, folder: str, tag: str) -> tuple[str, ...]:
    """The entry's unfinished files in the folder, by their names; none when it is not there."""
    if files.stat_path(folder) is None:
        return ()
    return tuple(sorted(name for name in files.names(folder) if name.startswith(f".oe-{tag}-")))


def _superseded(previous: PartRecord | None, folder: str) -> tuple[str, ...]:
    if previous is None or previous.folder != folder:
        return ()
    names = previous.superseded
    return names if previous.phase is PartPhase.PUBLISHED else (*names, previous.part_name)


def _job(services: Services, entry: DownloadEntry, record: PartRecord, file: PartFile, held: Bitmap | None) -> PartJob:
    grid = ChunkGrid(record.length or 0, record.chunk_bytes)
    job = PartJob(entry.id, entry.epoch, record, file, grid, held or Bitmap(grid.count), durable=is_durable(entry))
    if record.length is None:
        job.unbounded = []
    services.jobs[entry.id] = job
    return job


async def _once_it_is_left(services: Services, entry: DownloadEntry, record: PartRecord) -> PartRecord:
    """The part as an earlier attempt leaves it that gave a slow disk up before all was in the file: until then that is
    the earlier one's, and locked. Bounded by the disk alone, as every flush is; to wait for it costs no try."""
    last = services.jobs.get(entry.id)
    if last is None or not last.lingers:
        return record
    await last.wait_left()
    now = [part for part in services.store.parts(entry.id) if part.index == record.index]
    return now[0] if now else record


async def reopen(services: Services, entry: DownloadEntry, record: PartRecord) -> PartJob | None:
    """The unfinished part of an earlier run as far as it can be believed; None when it has to begin anew.

    A lost file loses its bits; one that is shorter than it was loses those beyond its end; one that was replaced is
    hashed again, chunk by chunk, before it is believed (fault catalogue D13, C20, M27).
    """
    record = await _once_it_is_left(services, entry, record)
    if record.length is None or record.phase in {PartPhase.ALLOC, PartPhase.PUBLISHED}:
        return None
    if record.chunk_bytes > services.config.chunk_bytes:
        return None  # begun under a configuration with larger chunks, which the buffers of this one cannot hold
    try:
        file = await services.work(open_unfinished, services.files, record)
    except PartLost:
        return None
    except TargetGone:
        if entry.destination:  # perhaps a disk that is not mounted: never made again behind the caller's back
            raise
        return None
    try:
        grid = ChunkGrid(record.length, record.chunk_bytes)
        record = await _believe(services, entry, record, file, grid)
        held = await services.work(services.store.bitmap, entry.id, record.index, grid.count)
    except BaseException:
        file.close()
        raise
    path = os.path.join(record.folder, record.part_name)
    services.reservations.resume(entry.id, file.device, path, record.length or 0)
    return _job(services, entry, record, file, held)


async def _believe(
    services: Services, entry: DownloadEntry, record: PartRecord, file: PartFile, grid: ChunkGrid
) -> PartRecord:
    store, where = services.store, (entry.id, entry.epoch, record.index)
    if file.size < grid.length:
        first = file.size // grid.chunk_bytes
        record = await services.write(store.clear_chunks, *where, [(first, grid.count - first)])
        await services.work(restore_size, file, grid.length, services.config)
    if file.size > grid.length:
        await services.work(cut_surplus, file, grid.length)
    if file.identity != record.identity or record.unsynced_boot not in {"", services.boot_id}:
        held = await services.work(store.bitmap, entry.id, record.index, grid.count)
        bad = await services.work(bad_chunks, store, services.files, entry.id, record, file, grid, held)
        record = await services.write(store.clear_chunks, *where, [(index, 1) for index in bad])
        record = replace(record, device=file.device, inode=file.inode, inode_version=file.version)
        await services.write(store.put_part, entry.id, entry.epoch, record)
    return record


def bad_chunks(
    store: StateStore,
    files: FileSystem,
    entry_id: str,
    record: PartRecord,
    file: PartFile,
    grid: ChunkGrid,
    held: Bitmap,
    among: Iterable[int] | None = None,
) -> list[int]:
    """Held chunks (of those in ``among``) whose bytes on disk do not hash to what is recorded, or have no good
    record, or cannot be read (EIO). Raises OSError when none of several can be read: then the device is away, and
    nothing is known of its bytes; and Cancelled (see :func:`stop_if_cancelled`)."""
    wanted = set(among) if among is not None else None
    bad = []
    tried = 0
    unreadable: list[OSError] = []
    for first, count in held.runs():
        for page in range(first, first + count, CVS_PER_PAGE):
            end = min(page + CVS_PER_PAGE, first + count)
            try:
                cvs = store.cvs(entry_id, record.index, end - page, first=page)
            except StoreCorrupt:
                cvs = b""
            for index in range(page, end):
                if wanted is not None and index not in wanted:
                    continue
                stop_if_cancelled()
                at = (index - page) * CV_BYTES
                tried += 1
                try:
                    data = files.read_at(file.fd, grid.size(index), grid.offset(index))
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    unreadable.append(error)
                    data = b""
                if not cvs or chunk_digest(data, grid, index) != cvs[at : at + CV_BYTES]:
                    bad.append(index)
    if len(unreadable) == tried > 1:
        raise unreadable[0]
    return bad


def chunk_digest(data: bytes | memoryview, grid: ChunkGrid, index: int) -> bytes:
    """What the store keeps for a chunk with these bytes; empty when they are too few."""
    if len(data) != grid.size(index):
        return b""
    return native.root_hash(data) if grid.sole else native.subtree_cv(data, grid.leaf_counter(index))
