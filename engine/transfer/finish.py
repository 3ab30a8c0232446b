"""The end of a part: its root from the CVs, the expectations, the final name, COMPLETED (fault catalogue section 3,
step 6).

Every step can be run again after a crash at any point.
"""

from __future__ import annotations

import os

from msgspec.structs import replace

from engine import native
from engine.errors import IntegrityError, PartLost, TargetExists
from engine.files.names import with_tag
from engine.files.part_file import publish
from engine.files.reading import digests
from engine.model.records import DownloadEntry, OfflineEntry, PartPhase
from engine.model.states import Event
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services
from engine.transfer.setup_part import entry_tag

# Digests a caller may expect, and the length of their hex form. BLAKE3 comes from the chunks; the others cost one read.
HEX_DIGITS: dict[str, int] = {"blake3": 64, "sha256": 64, "sha384": 96, "sha512": 128, "sha1": 40, "md5": 32}


async def finish(services: Services, entry: DownloadEntry, job: PartJob) -> OfflineEntry:
    """Check the complete part, publish it, and make the entry COMPLETED. Raises IntegrityError and StorageErrors."""
    digest = await services.work(_root, services, job)
    others = [name for name in entry.expect if name != "blake3"]
    found = await services.work(digests, services.files, job.file.fd, job.grid.length, others)
    _compare(entry, {"blake3": digest, **found})
    job.record = replace(job.record, phase=PartPhase.FINALIZING, digest=digest)
    await services.write(services.store.put_part, entry.id, entry.epoch, job.record)
    await _publish(services, entry, job)
    record = job.record = replace(job.record, phase=PartPhase.PUBLISHED, superseded=())
    now = services.now()
    offline = OfflineEntry(
        id=entry.id,
        path=os.path.join(record.folder, record.final_name),
        size=job.grid.length,
        blake3=digest,
        digests=found,
        media_type=record.representation.content_type,
        verified_at=now,
    )
    await services.write(
        services.store.transition,
        entry.id,
        Event.COMPLETE,
        epoch=entry.epoch,
        now=now,
        parts=(record,),
        offline=offline,
        bytes_total=job.grid.length,
        last_error=None,
        next_retry_at=None,
    )
    return offline


def _root(services: Services, job: PartJob) -> str:
    size = services.files.stat_fd(job.file.fd).st_size
    if size != job.grid.length:
        raise PartLost(f"{job.file.name} is {size} bytes on disk, not {job.grid.length}")
    if job.grid.count == 0:
        return native.root_hash(b"").hex()
    cvs = services.store.cvs(job.entry_id, job.record.index, job.grid.count)
    return (cvs if job.grid.sole else native.root_from_cvs(cvs)).hex()


def _compare(entry: DownloadEntry, found: dict[str, str]) -> None:
    for name, expected in entry.expect.items():
        if found[name] != expected:
            raise IntegrityError(f"{name} is {found[name]}, expected {expected}")


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
