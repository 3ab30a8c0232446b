"""Naming a source that sent wrong bytes, and forgetting chunks that are not what they should be."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio

from engine.model.events import SourceBlamed
from engine.model.records import BlamedSource, DownloadEntry
from engine.store.suspects import runs_of
from engine.transfer.part_job import PartJob
from engine.transfer.plan import Plan
from engine.transfer.services import Services
from engine.transfer.sources import Source, Sources

log = logging.getLogger("engine")


async def blame(
    services: Services, entry: DownloadEntry, sources: Sources, source: Source, reason: str, chunks: int
) -> DownloadEntry:
    """Name the source in the entry's record and in an event, and ask it no more. ``reason`` follows its name,
    ``chunks`` is in how many it was seen. Returns the entry as it is on record."""
    source.blamed = True
    sources.leave_out(source, reason)
    url = entry.sources[source.number]
    log.warning("entry %s: %s %s", entry.id, source.name, reason)
    services.emit(
        SourceBlamed(
            id=entry.id, epoch=entry.epoch, attempt=entry.attempt_count, url=source.name, reason=reason, chunks=chunks
        )
    )
    named = BlamedSource(url=url, reason=reason, chunks=chunks, at=services.now())
    kept = services.store.get(entry.id) or entry
    others = tuple(other for other in kept.blamed if other.url != url)
    return await services.write(services.store.update, entry.id, entry.epoch, blamed=(*others, named))


async def forget(services: Services, job: PartJob, indexes: Iterable[int], plan: Plan | None = None) -> list[int]:
    """Chunks of these that are held are missing from now on; returns them. What is on its way to the store comes there
    first. Who ends the attempt meanwhile waits: what is known to be wrong must not be built on by the next one."""
    wanted = set(indexes)
    with trio.CancelScope(shield=True):
        await services.committer.flush(job)
        gone = sorted(index for index in wanted if index in job.held)
        runs = runs_of(gone)
        job.record = await services.write(services.store.clear_chunks, job.entry_id, job.epoch, job.record.index, runs)
    gone = [index for index in gone if index in job.held]  # somebody else may have forgotten some meanwhile
    for first, count in runs_of(gone):
        job.held.remove(first, count)
        if plan is not None:
            plan.give_back(first, count)
    if plan is not None:
        plan.changed.unpark_all()
    return gone
