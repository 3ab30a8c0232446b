"""The end of a part: its root from the CVs, the expectations, the final name, COMPLETED (fault catalogue section 3,
step 6).

Every step can be run again after a crash at any point.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio
from msgspec.structs import replace

from engine.errors import BadRecord, Changed, PartLost, TargetExists
from engine.files.names import with_tag
from engine.files.part_file import give_name
from engine.files.reading import digests
from engine.model.chunks import CVS_PER_PAGE
from engine.model.records import DownloadEntry, PartPhase
from engine.transfer.completion import check_expected, complete, other_digests, root_of
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services
from engine.transfer.setup_part import entry_tag

# Digests a caller may expect, and the length of their hex form. BLAKE3 comes from the chunks; the others cost one read.
HEX_DIGITS: dict[str, int] = {"blake3": 64, "sha256": 64, "sha384": 96, "sha512": 128, "sha1": 40, "md5": 32}

# What else changes in the entry's record when it completes (its attempts), told as late as possible.
Ending = Callable[[], dict[str, Any]]


async def finish(services: Services, entry: DownloadEntry, job: PartJob, ending: Ending) -> DownloadEntry:
    """Check the complete part, publish it, and make the entry COMPLETED. Raises IntegrityError and StorageErrors, and
    Changed when the part was complete before, with another hash: generations are not mixed (law 3)."""
    try:
        digest, found = await services.work(_examine, services, entry, job)
    except BadRecord as error:
        await services.write(_clear_without_cvs, services, job)
        raise PartLost(f"{error}; those chunks are fetched again") from error
    if job.record.digest not in {"", digest}:
        await services.write(_clear_all, services, job)
        raise Changed("the chunks that were fetched again are not those of before")
    check_expected(entry, job.record, job.grid.length, {"blake3": digest, **found})
    job.record = replace(job.record, phase=PartPhase.FINALIZING, digest=digest)
    await services.write(services.store.put_part, entry.id, entry.epoch, job.record)
    return await conclude(services, entry, job, found, ending)


async def conclude(
    services: Services, entry: DownloadEntry, job: PartJob, found: dict[str, str], ending: Ending
) -> DownloadEntry:
    """Publish a part that is recorded as FINALIZING, and make the entry COMPLETED. ``found``: its other digests.

    Once begun it is not left half-way: who pauses or cancels the entry meanwhile finds it complete, and never a file
    under its final name that no record knows, or that took the place of one that is still on record.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.CancelScope(shield=True):
        mtime_ns = await _publish(services, entry, job)
        job.record = replace(job.record, phase=PartPhase.PUBLISHED, superseded=())
        found.pop("blake3", None)
        completed = await services.write(
            complete, services.store, entry, job.record, found, services.now(), mtime_ns, ending()
        )
    return completed  # noqa: RET504  # to mypy a scope may swallow what is inside it


def _examine(services: Services, entry: DownloadEntry, job: PartJob) -> tuple[str, dict[str, str]]:
    """The part's hash, and the other digests that are expected. Raises PartLost when its file is not whole, BadRecord
    when its CVs are not: the next attempt mends either."""
    files, size = services.files, job.grid.length
    found_size = files.stat_fd(job.file.fd).st_size
    if found_size != size:
        raise PartLost(f"{job.file.name} is {found_size} bytes on disk, not {size}")
    digest = root_of(services.store, job.entry_id, job.record.index, job.grid)
    return digest, digests(files, job.file.fd, size, other_digests(entry, job.record, resumed=job.resumed))


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


def _clear_all(services: Services, job: PartJob) -> None:
    services.store.put_part(job.entry_id, job.epoch, replace(job.record, digest=""))
    services.store.clear_chunks(job.entry_id, job.epoch, job.record.index, [(0, job.grid.count)])


async def _publish(services: Services, entry: DownloadEntry, job: PartJob) -> int:
    record = job.record
    try:
        return await _rename(services, entry, job)
    except TargetExists:
        if not entry.destination_is_folder or entry.overwrite:
            raise
    # The name is the server's, and was taken since it was chosen: in a folder every file has a place.
    job.record = replace(record, final_name=with_tag(record.final_name, entry_tag(entry.id)))
    await services.write(services.store.put_part, entry.id, entry.epoch, job.record)
    return await _rename(services, entry, job)


async def _rename(services: Services, entry: DownloadEntry, job: PartJob) -> int:
    naming = partial(give_name, job.file, job.record, overwrite=entry.overwrite)
    return await services.lanes.publish(job.record.folder, job.file, naming)
