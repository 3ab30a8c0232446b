"""The whole file over one exchange, where ranges are not served."""

from __future__ import annotations

from msgspec.structs import replace

from engine.errors import ConnectionLost
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry
from engine.net.connection import Exchange
from engine.net.response import judge
from engine.transfer.fetcher import receive_known, receive_unknown
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services
from engine.transfer.sources import Source


async def stream(
    services: Services, source: Source, entry: DownloadEntry, job: PartJob, exchange: Exchange | None = None
) -> None:
    """Receive everything; ``exchange`` is asked for when there is none, and given back in the end."""
    if exchange is None:
        exchange = await source.open(None, None)
    try:
        judge(exchange.head, None, job.record.representation, exchange.redirected)
        with job.scope:
            if job.unbounded is None:
                await receive_known(services, exchange, job)
            else:
                length = await receive_unknown(services, exchange, job, entry.expected_length)
                await _settle_length(services, entry, job, length)
    finally:
        source.done(exchange)
    if job.error is not None:
        raise job.error


async def _settle_length(services: Services, entry: DownloadEntry, job: PartJob, length: int) -> None:
    """The body ended properly: now there is a grid, and its sealed chunks can be committed."""
    expected = entry.expected_length
    if expected is not None and length < expected:
        raise ConnectionLost(f"{length} bytes came, expected {expected}")
    await job.wait_sealed()
    chunks, job.unbounded = job.unbounded or [], None
    job.grid = ChunkGrid(length, job.record.chunk_bytes)
    job.held = Bitmap(job.grid.count)
    job.record = replace(job.record, length=length)
    await services.write(services.store.put_part, job.entry_id, job.epoch, job.record)
    for index, size, digest in chunks:
        await services.committer.reserve(size)
        services.committer.add(job, index, size, digest)
