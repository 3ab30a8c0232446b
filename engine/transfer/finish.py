"""The end of a part: its root from the CVs, the expectations, the final name, COMPLETED (fault catalogue section 3,
step 6).

Every step can be run again after a crash at any point.
"""

from __future__ import annotations

from msgspec.structs import replace

from engine.errors import BadRecord, PartLost, TargetExists
from engine.files.names import with_tag
from engine.files.part_file import publish
from engine.files.reading import digests
from engine.model.chunks import CVS_PER_PAGE
from engine.model.records import DownloadEntry, OfflineEntry, PartPhase
from engine.transfer.completion import check_expected, complete, other_digests, root_of
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services
from engine.transfer.setup_part import entry_tag

# Digests a caller may expect, and the length of their hex form. BLAKE3 comes from the chunks; the others cost one read.
HEX_DIGITS: dict[str, int] = {"blake3": 64, "sha256": 64, "sha384": 96, "sha512": 128, "sha1": 40, "md5": 32}


async def finish(services: Services, entry: DownloadEntry, job: PartJob) -> OfflineEntry:
    """Check the complete part, publish it, and make the entry COMPLETED. Raises IntegrityError and StorageErrors."""
    digest = await _root(services, job)
    wanted = other_digests(entry, resumed=job.resumed)
    found = await services.work(digests, services.files, job.file.fd, job.grid.length, wanted)
    check_expected(entry, job.grid.length, {"blake3": digest, **found})
    job.record = replace(job.record, phase=PartPhase.FINALIZING, digest=digest)
    await services.write(services.store.put_part, entry.id, entry.epoch, job.record)
    await _publish(services, entry, job)
    job.record = replace(job.record, phase=PartPhase.PUBLISHED, superseded=())
    mtime_ns = (await services.work(services.files.stat_fd, job.file.fd)).st_mtime_ns
    found.pop("blake3", None)
    return await services.write(complete, services.store, entry, job.record, found, services.now(), mtime_ns)


async def _root(services: Services, job: PartJob) -> str:
    """The part's hash. Raises PartLost when its file or its CVs are not whole: the next attempt mends that."""
    info = await services.work(services.files.stat_fd, job.file.fd)
    if info.st_size != job.grid.length:
        raise PartLost(f"{job.file.name} is {info.st_size} bytes on disk, not {job.grid.length}")
    try:
        return await services.work(root_of, services.store, job.entry_id, job.record.index, job.grid)
    except BadRecord as error:
        await services.write(_clear_without_cvs, services, job)
        raise PartLost(f"{error}; those chunks are fetched again") from error


def _clear_without_cvs(services: Services, job: PartJob) -> None:
    """Unset the bits whose CVs are on pages that cannot be read: without its CV a bit proves nothing (law 1)."""
    runs: list[tuple[int, int]] = []
    for first in range(0, job.grid.count, CVS_PER_PAGE):
        count = min(CVS_PER_PAGE, job.grid.count - first)
        try:
            services.store.cvs(job.entry_id, job.record.index, count, first=first)
        except BadRecord:
            runs.append((first, count))
    services.store.clear_chunks(job.entry_id, job.epoch, job.record.index, runs)


async def _publish(services: Services, entry: DownloadEntry, job: PartJob) -> None:
    record = job.record
    try:
        await _rename(services, entry, job)
    except TargetExists:
        if entry.destination:
            raise
        # The library's folder is the engine's own: two entries with one name both have a place there.
        job.record = replace(record, final_name=with_tag(record.final_name, entry_tag(entry.id)))
        await services.write(services.store.put_part, entry.id, entry.epoch, job.record)
        await _rename(services, entry, job)


async def _rename(services: Services, entry: DownloadEntry, job: PartJob) -> None:
    await services.work(publish, job.file, job.record, overwrite=entry.overwrite)
