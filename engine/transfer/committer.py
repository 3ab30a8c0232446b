"""Group commit: make the files of a group durable, then record bits and CVs of all entries in one transaction.

The only writer of bits (DESIGN law 1). A group closes when half the window is filled, when its oldest chunk is as old
as the interval, or when somebody waits for it. The window bounds everything that is sealed and not committed, the group
in flight included, so that a crash loses at most that much.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import trio

from engine.config import Config
from engine.errors import EngineClosed, EngineError, StaleEpoch, storage_error
from engine.files.filesystem import FileSystem
from engine.store.state_store import ChunkCommit, StateStore
from engine.threads import in_thread
from engine.transfer.part_job import PartJob


class _Sealed(msgspec.Struct, frozen=True):
    job: PartJob
    index: int
    size: int
    digest: bytes


class Committer:
    """Collects sealed chunks and commits them; :meth:`run` is its task. ``write`` runs a call of the store in a
    transaction, off the loop."""

    def __init__(
        self,
        config: Config,
        store: StateStore,
        files: FileSystem,
        write: Callable[[Callable[[], Any]], Awaitable[Any]],
        boot_id: str,
    ) -> None:
        self._config = config
        self._store = store
        self._files = files
        self._write = write
        self._boot_id = boot_id
        self._syncers = trio.CapacityLimiter(4)
        self._pending: list[_Sealed] = []
        self._pending_bytes = 0
        self._reserved_bytes = 0
        self._oldest = 0.0
        self._urgent = False
        self._wake = trio.Event()
        self._room = trio.lowlevel.ParkingLot()

    @property
    def uncommitted_bytes(self) -> int:
        """Bytes reserved, sealed or in the group being committed."""
        return self._reserved_bytes

    async def reserve(self, size: int) -> None:
        """Wait until ``size`` more bytes fit into the commit window, and take them."""
        while self._reserved_bytes + size > self._config.commit_window_bytes:
            await self._room.park()
        self._reserved_bytes += size

    def unreserve(self, size: int) -> None:
        """Give back what was reserved for a chunk that will not be committed."""
        self._reserved_bytes -= size
        self._room.unpark_all()

    def sealed(self, job: PartJob, index: int, size: int, digest: bytes | None) -> None:
        """A reserved chunk came back from the sealer: with its digest when it is on disk, with None when it is not."""
        if digest is None:
            self.unreserve(size)
        elif job.unbounded is not None:
            self.unreserve(size)
            job.unbounded.append((index, size, digest))
        else:
            self.add(job, index, size, digest)

    def add(self, job: PartJob, index: int, size: int, digest: bytes) -> None:
        """A reserved chunk's bytes are in its file. ``digest``: its CV, or the root hash of a file of one chunk."""
        if not self._pending:
            self._oldest = trio.current_time()
            self._wake.set()
        if job.ledger is not None:
            job.ledger.sealed(index, digest)
        self._pending.append(_Sealed(job, index, size, digest))
        self._pending_bytes += size
        job.uncommitted += 1
        if self._due():
            self._wake.set()

    async def flush(self, job: PartJob) -> None:
        """Return when nothing sealed of this job waits for its commit any more (or the job failed)."""
        await job.wait_sealed()
        if job.uncommitted:
            self._urgent = True
            self._wake.set()
        await job.wait_committed()

    async def run(self) -> None:
        """Commit groups until cancelled; a group that was begun is finished first."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._pending:
                with trio.move_on_at(self._oldest + self._config.commit_interval_s):
                    while not self._due():
                        await self._wake.wait()
                        self._wake = trio.Event()
                with trio.CancelScope(shield=True):
                    await self.commit_pending()

    def close(self) -> None:
        """Nothing is committed any more: let go of what still waits for it (a disk that took too long), so that its
        files are closed."""
        group, self._pending = self._pending, []
        for sealed in group:
            sealed.job.dropped(1, EngineClosed("the engine was closed before the chunk was committed"))

    def _due(self) -> bool:
        return self._urgent or self._pending_bytes * 2 >= self._config.commit_window_bytes

    async def commit_pending(self) -> None:
        """Commit what is pending now, as one group."""
        group, self._pending = self._pending, []
        self._pending_bytes = 0
        self._urgent = False
        by_job: dict[PartJob, list[_Sealed]] = {}
        for sealed in group:
            by_job.setdefault(sealed.job, []).append(sealed)
        async with trio.open_nursery() as nursery:
            for job in list(by_job):
                if job.sync_error is not None:
                    job.dropped(len(by_job.pop(job)), job.sync_error)
                elif job.durable:
                    nursery.start_soon(self._sync, job, by_job)
        await self._record(by_job)
        self._reserved_bytes -= sum(sealed.size for sealed in group)
        self._room.unpark_all()

    async def _sync(self, job: PartJob, by_job: dict[PartJob, list[_Sealed]]) -> None:
        try:
            await in_thread(self._files.sync_data, job.file.fd, limiter=self._syncers)
        except OSError as error:
            # The kernel forgets a failed page: what was written since the last good sync is lost, and is fetched again.
            # A later sync that succeeds says nothing of it, so nothing more is committed through this descriptor.
            job.sync_error = storage_error(error, f"syncing {job.file.name}")
            job.dropped(len(by_job.pop(job)), job.sync_error)

    async def _record(self, by_job: dict[PartJob, list[_Sealed]]) -> None:
        if not by_job:
            return
        batch = [self._commit_of(job, chunks) for job, chunks in by_job.items()]
        try:
            records = await self._write(partial(self._store.commit_chunks, batch))
        except EngineError as error:
            for job, chunks in by_job.items():
                job.dropped(len(chunks), error)
            return
        for (job, chunks), record in zip(by_job.items(), records, strict=True):
            if record is None:
                job.dropped(len(chunks), StaleEpoch(f"{job.entry_id}: the entry began anew"))
            else:
                job.committed(record, [chunk.index for chunk in chunks])

    def _commit_of(self, job: PartJob, chunks: list[_Sealed]) -> ChunkCommit:
        return ChunkCommit(
            id=job.entry_id,
            epoch=job.epoch,
            part_index=job.record.index,
            generation=job.record.generation,
            chunks=tuple((chunk.index, chunk.digest, chunk.size) for chunk in chunks),
            bit_count=job.grid.count,
            synced=job.durable,
            boot_id=self._boot_id,
        )
