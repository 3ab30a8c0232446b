"""The short way of a file that is one chunk: received whole, then created, sealed and recorded in one go.

Nothing of it can be resumed, so nothing is recorded between its name (law 4) and its end: two transactions before the
publishing instead of four, its file is only created once its bytes are there, and its connection is free meanwhile.
"""

from __future__ import annotations

import os
from functools import partial

from msgspec.structs import replace

from engine.files.names import part_name
from engine.files.part_file import PartFile, create_part
from engine.files.reading import digests
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid, chunk_bytes_for
from engine.model.records import DownloadEntry, PartPhase, PartRecord, Representation
from engine.native import ChunkBuffer
from engine.net.connection import Exchange
from engine.net.head import Framing
from engine.net.response import Answer
from engine.net.url import Url
from engine.store.state_store import ChunkCommit
from engine.transfer.completion import check_expected, other_digests
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services
from engine.transfer.setup_part import claim, entry_tag, is_durable, leftovers, place, room_for
from engine.transfer.sources import Source


def is_one_chunk(services: Services, exchange: Exchange, answer: Answer) -> bool:
    """Whether the body is the whole file, of known length, and one chunk."""
    length = answer.representation.length
    if not length or answer.start != 0 or answer.end != length or exchange.framing is not Framing.LENGTH:
        return False
    return length <= chunk_bytes_for(length, services.config)


async def fetch_one_chunk(
    services: Services,
    source: Source,
    entry: DownloadEntry,
    exchange: Exchange,
    answer: Answer,
    *,
    first_generation: int = 1,
) -> tuple[PartJob, dict[str, str]]:
    """The new part, checked and recorded as FINALIZING, and its digests besides BLAKE3; ``exchange`` is given back.
    ``first_generation``: as of :func:`allocate`.

    Raises what the network, the disk and the expectations do; then the next attempt begins anew.
    """
    size = answer.representation.length or 0
    try:
        buffer = await services.sealing.acquire(size)
    except BaseException:
        source.done(exchange)
        raise
    try:
        try:
            with memoryview(buffer) as whole, whole[:size] as view:
                await exchange.fill(view)
        finally:
            source.done(exchange)
        # Twice: the sealer's share is given back when the chunk is sealed, the other when it is recorded.
        await services.committer.reserve(2 * size)
    except BaseException:
        services.sealing.release(buffer)
        raise
    try:
        return await _keep(services, entry, exchange.url, answer.representation, buffer, first_generation)
    finally:
        services.committer.unreserve(size)


async def _keep(
    services: Services,
    entry: DownloadEntry,
    url: Url,
    representation: Representation,
    buffer: ChunkBuffer,
    first_generation: int,
) -> tuple[PartJob, dict[str, str]]:
    size = representation.length or 0
    job: PartJob | None = None
    try:
        record = await _new_record(services, entry, representation, first_generation)
        record = await services.write(services.store.reset_part, entry.id, entry.epoch, record)
        create = partial(_create, services, entry, record, url)
        record, file = await services.lanes.create(record.folder, create)
        record = replace(record, final_name=claim(services, entry, record.folder, record.final_name))
        job = PartJob(
            entry.id,
            entry.epoch,
            record,
            file,
            ChunkGrid(size, record.chunk_bytes),
            Bitmap(1),
            durable=is_durable(entry),
        )
        job.unbounded = []
    except BaseException:
        services.sealing.release(buffer)
        services.committer.unreserve(size)
        raise
    try:
        services.sealing.submit(job, 0, buffer, size, sole=True)
        return job, await _record(services, entry, job)
    except BaseException:
        job.close_when_idle()
        raise


async def _new_record(
    services: Services, entry: DownloadEntry, representation: Representation, generation: int
) -> PartRecord:
    """The name that the file is about to get. Its final one is settled when its folder is looked at."""
    folder = services.library
    if entry.destination:
        folder = entry.destination if entry.destination_is_folder else os.path.dirname(entry.destination)
    tag = entry_tag(entry.id)
    return PartRecord(
        generation=generation,
        folder=folder,
        part_name=part_name(tag, generation),
        final_name="",
        length=representation.length,
        chunk_bytes=chunk_bytes_for(representation.length, services.config),
        representation=representation,
        superseded=await services.work(leftovers, services.files, folder, tag) if generation > 1 else (),
    )


def _create(services: Services, entry: DownloadEntry, record: PartRecord, url: Url) -> tuple[PartRecord, PartFile]:
    """The empty file, and the record that knows it; a final name that is still to be claimed. Blocks."""
    folder, final_name = place(services, entry, record.representation, url, None)
    services.folders.prepare(services.files, folder, root=services.root)
    length = record.length
    room = room_for(services, entry.id, record)
    file = create_part(
        services.files, folder, record.part_name, length, services.config, durable=False, reserve=False, room=room
    )
    services.reservations.made(entry.id)
    known = replace(record, final_name=final_name, device=file.device, inode=file.inode, inode_version=file.version)
    return known, file


async def _record(services: Services, entry: DownloadEntry, job: PartJob) -> dict[str, str]:
    """Wait until the chunk is on disk, check what is expected of the file, and record it. Returns its digests."""
    await job.wait_sealed()
    if job.error is not None:
        raise job.error
    services.reservations.written(entry.id)
    assert job.unbounded is not None  # noqa: S101  # set by _keep
    [(_, size, digest)] = job.unbounded
    job.unbounded = None
    wanted = other_digests(entry, job.record, resumed=False)
    found: dict[str, str] = {}
    if wanted or job.durable:
        found = await services.work(_digests_and_sync, services, job, wanted)
    if job.durable:  # its name too, before it is claimed: publishing may fail, and the power with it
        await services.lanes.publish(job.record.folder, job.file, _unchanged)
    check_expected(entry, job.record, size, {"blake3": digest.hex(), **found})
    record = replace(job.record, phase=PartPhase.FINALIZING, digest=digest.hex())
    commit = ChunkCommit(
        id=entry.id,
        epoch=entry.epoch,
        part_index=record.index,
        generation=record.generation,
        chunks=((0, digest, size),),
        bit_count=1,
        synced=job.durable,
        boot_id=services.boot_id,
    )
    job.record = await services.write(services.store.put_whole_part, record, commit)
    job.held.add(0)
    return found


def _unchanged() -> None:
    """No name in the folder changes: it is only synced, with those of others."""


def _digests_and_sync(services: Services, job: PartJob, wanted: list[str]) -> dict[str, str]:
    found = digests(services.files, job.file.fd, job.grid.length, wanted)
    if job.durable:
        services.files.sync(job.file.fd)
    return found
