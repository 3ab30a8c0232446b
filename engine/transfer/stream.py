"""The whole file over one exchange, where ranges are not served."""

from __future__ import annotations

from msgspec.structs import replace

from engine.errors import Changed, ConnectionLost, QuotaReached
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry
from engine.native import ChunkBuffer
from engine.net.connection import Exchange
from engine.net.response import judge
from engine.transfer.fetcher import introduce, receive_chunk, receive_unknown
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services
from engine.transfer.setup_part import chunk_digest
from engine.transfer.sources import Source


async def stream(
    services: Services, source: Source, entry: DownloadEntry, job: PartJob, exchange: Exchange | None = None
) -> None:
    """Receive everything; ``exchange`` is asked for when there is none, and given back in the end. Raises Changed when
    a chunk that is held comes with other bytes."""
    if exchange is None:
        exchange = await source.open(None, None)
    try:
        answer = judge(exchange.head, None, source.known(job.record), exchange.redirected)
        with job.scope:
            if job.unbounded is None:
                if len(entry.sources) > 1:
                    await introduce(services, job, source, answer.representation)
                await _receive_known(services, exchange, job, source)
            else:
                await _receive_unknown(services, exchange, entry, job)
    finally:
        source.done(exchange)
    if job.error is not None:
        raise job.error


async def _receive_known(services: Services, exchange: Exchange, job: PartJob, source: Source) -> None:
    """The whole file from its first byte, length known. Chunks that are held already are compared with what comes:
    another mirror may send it, and not all versions differ in their validators."""

    def wanted() -> int:
        return source.number

    for index in range(job.grid.count):
        if index in job.held:
            await _compare_chunk(services, exchange, job, index)
        else:
            await receive_chunk(services, exchange, job, index, wanted)


async def _compare_chunk(services: Services, exchange: Exchange, job: PartJob, index: int) -> None:
    size = job.grid.size(index)
    buffer = await services.sealing.acquire(size)
    try:
        with memoryview(buffer) as whole, whole[:size] as view:
            if (came := await exchange.fill(view)) < size:
                raise ConnectionLost(f"the body ended {size - came} bytes before the end of chunk {index}")
        same = await services.work(_is_held, services, job, index, buffer)
    finally:
        services.sealing.release(buffer)
    if not same:
        raise Changed(f"chunk {index} has other bytes than before")


def _is_held(services: Services, job: PartJob, index: int, buffer: ChunkBuffer) -> bool:
    cv = services.store.cvs(job.entry_id, job.record.index, 1, first=index)
    with memoryview(buffer) as whole, whole[: job.grid.size(index)] as view:
        return chunk_digest(view, job.grid, index) == cv


async def _receive_unknown(services: Services, exchange: Exchange, entry: DownloadEntry, job: PartJob) -> None:
    try:
        length = await receive_unknown(services, exchange, job, entry)
        await services.reservations.hold(entry, length, ended=True)
    except QuotaReached:
        # Without its length nothing can be built on the part: it would only take what its scope may not have.
        await job.wait_sealed()
        await services.work(services.files.truncate, job.file.fd, 0)
        raise
    await _settle_length(services, entry, job, length)


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
