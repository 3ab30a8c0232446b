"""The way between the event loop and the native sealer: buffers out, chunks in, results back.

One task watches the sealer's eventfd. Buffers come out of one budget; when none is free a fetcher waits, its socket
fills up and TCP pushes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from engine import native
from engine.config import Config
from engine.errors import HostExhausted
from engine.transfer.buffers import Buffers
from engine.transfer.part_job import PartJob


class SealerFace(Protocol):
    """What the native sealer and its in-line twin have in common."""

    def fileno(self) -> int: ...
    def submit(
        self,
        ticket: int,
        fd: int,
        buffer: native.ChunkBuffer,
        length: int,
        offset: int,
        leaf_counter: int,
        root: bool,
        early: bool = False,
    ) -> None: ...
    def drain(self) -> list[tuple[int, int, bytes, int]]: ...
    def close(self) -> list[tuple[int, int, bytes, int]]: ...


OnSealed = Callable[[PartJob, int, int, bytes | None], None]


class Sealing:
    """Owns the buffer pool and the sealer.

    ``on_sealed(job, index, size, digest)`` is called for every chunk that comes back; ``digest`` is None when its bytes
    could not be written (then the job has failed already). Raises HostExhausted.
    """

    def __init__(self, config: Config, on_sealed: OnSealed, sealer: SealerFace | None = None) -> None:
        try:
            self._buffers = Buffers(config)
            self._sealer = sealer or native.Sealer(config.seal_threads, self._buffers.most)
        except (OSError, MemoryError) as error:
            raise HostExhausted(f"the engine cannot have its buffers and threads: {error}") from error
        self._on_sealed = on_sealed
        self._tickets: dict[int, tuple[PartJob, int, int, native.ChunkBuffer]] = {}
        self._next_ticket = 0
        self._bytes_queued = 0

    @property
    def bytes_queued(self) -> int:
        """Bytes of buffers that wait for the disk, or are being written."""
        return self._bytes_queued

    @property
    def bytes_free(self) -> int:
        """Bytes of buffers that nobody holds."""
        return self._buffers.bytes_free

    async def acquire(self, size: int) -> native.ChunkBuffer:
        """A buffer for a chunk of ``size`` bytes; waits in turn while all are out."""
        return await self._buffers.acquire(size)

    def release(self, buffer: native.ChunkBuffer) -> None:
        """Give back a buffer that was not submitted."""
        self._buffers.release(buffer)

    def submit(self, job: PartJob, index: int, buffer: native.ChunkBuffer, size: int, *, sole: bool) -> None:
        """Seal ``buffer[:size]`` as chunk ``index``; the buffer belongs to the sealer from here on.

        ``sole``: the chunk is the whole file, so its root hash is wanted instead of a CV.
        """
        offset = index * job.grid.chunk_bytes
        ticket = self._next_ticket
        self._next_ticket += 1
        leaf_counter = offset // native.LEAF_BYTES
        self._sealer.submit(ticket, job.file.fd, buffer, size, offset, leaf_counter, sole, job.durable)
        self._tickets[ticket] = (job, index, size, buffer)
        self._bytes_queued += size
        job.seals += 1

    async def run(self) -> None:
        """Hand out results until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._sealer.fileno())
            self._dispatch(self._sealer.drain())

    def close(self) -> None:
        """Finish what is being sealed; nobody may submit any more."""
        self._dispatch(self._sealer.close())

    def _dispatch(self, results: list[tuple[int, int, bytes, int]]) -> None:
        for ticket, error_number, digest, _ in results:
            job, index, size, buffer = self._tickets.pop(ticket)
            self._bytes_queued -= size
            self.release(buffer)
            on_disk = job.sealed(index, error_number)
            self._on_sealed(job, index, size, digest if on_disk else None)
            job.notify()
