"""Each piece of a part against its known hash, as soon as all its bytes are in the file.

Pieces and chunks have nothing to do with each other: a piece may be longer or shorter. A bad piece's chunks are fetched
again, from elsewhere, and what its bytes were then tells who sent the wrong ones.
"""

from __future__ import annotations

import hashlib
from collections import deque

import trio

from engine.config import MIB
from engine.errors import IntegrityError
from engine.model.chunks import CV_BYTES
from engine.model.records import DownloadEntry, Pieces
from engine.transfer.blame import blame, forget
from engine.transfer.ledger import Ledger
from engine.transfer.part_job import PartJob
from engine.transfer.plan import Plan
from engine.transfer.services import Services
from engine.transfer.sources import Source, Sources

READ_BYTES = 1 * MIB
BATCH_BYTES = 4 * MIB  # for one thread, so that changing threads costs little
QUEUE_BYTES = 8 * MIB  # more than this does not wait to be checked: the sources wait instead


class PieceCheck:
    """``run`` is its task."""

    def __init__(self, services: Services, entry: DownloadEntry, job: PartJob, sources: Sources, plan: Plan) -> None:
        assert entry.pieces is not None  # noqa: S101  # who makes one looked
        assert job.ledger is not None  # noqa: S101
        self._services, self._entry, self._job = services, entry, job
        self._sources, self._plan, self._ledger = sources, plan, job.ledger
        self._pieces: Pieces = entry.pieces
        self._size, self._length = entry.pieces.piece_bytes, job.grid.length
        self._digest_bytes = hashlib.new(entry.pieces.algorithm).digest_size
        self._count = len(entry.pieces.digests) // self._digest_bytes
        self._missing = [sum(1 for index in self._chunks_of(piece) if index not in job.held) for piece in self._all]
        self._ready = deque(piece for piece, missing in enumerate(self._missing) if not missing)
        self._tries: dict[int, int] = {}
        self._before: dict[int, list[tuple[int, bytes]]] = {}  # chunk: who sent which bytes, by their CVs
        self._busy = False
        self._changed = trio.Event()
        self._ledger.listeners.append(self._sealed)

    @property
    def _all(self) -> range:
        return range(min(self._count, -(-self._length // self._size)))

    async def run(self) -> None:
        """Check pieces until cancelled. Raises IntegrityError when no source has a piece right."""
        self._check_count()
        while True:
            batch = self._take()
            self._tell()
            if not batch:
                self._busy = False
                self._tell()
                await self._changed.wait()
                continue
            self._busy = True
            for piece, good in zip(batch, await self._services.work(self._compare, batch), strict=True):
                await (self._good(piece) if good else self._bad(piece))

    async def compare_all(self) -> None:
        """Look at all pieces of a part that is here. Raises IntegrityError for the first one that is wrong."""
        self._check_count()
        for piece in self._all:
            if not all(await self._services.work(self._compare, [piece])):
                start, end = self._range(piece)
                raise IntegrityError(f"bytes {start}-{end - 1} have not the hash that is known of them")

    def _check_count(self) -> None:
        if self._count != -(-self._length // self._size):
            raise IntegrityError(f"{self._count} hashes of pieces do not describe a file of {self._length} bytes")

    async def room(self) -> None:
        """Until what waits to be checked is little: so little comes of a bad source before it is known."""
        while len(self._ready) * self._size > QUEUE_BYTES:
            await self._changed.wait()

    async def idle(self) -> None:
        """Until there is nothing to check."""
        while self._busy or self._ready:
            await self._changed.wait()

    def _sealed(self, index: int, _digest: bytes) -> None:
        for piece in self._pieces_of(index):
            self._missing[piece] -= 1
            if not self._missing[piece]:
                self._ready.append(piece)
                self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _take(self) -> list[int]:
        batch: list[int] = []
        while self._ready and (not batch or len(batch) * self._size < BATCH_BYTES):
            piece = self._ready.popleft()
            if not self._missing[piece]:  # a chunk of it may be forgotten again, with a neighbour
                batch.append(piece)
        return batch

    def _range(self, piece: int) -> tuple[int, int]:
        return piece * self._size, min(self._length, (piece + 1) * self._size)

    def _chunks_of(self, piece: int) -> range:
        start, end = self._range(piece)
        return range(start // self._job.grid.chunk_bytes, -(-end // self._job.grid.chunk_bytes))

    def _pieces_of(self, index: int) -> range:
        start, end = self._job.grid.byte_range(index, 1)
        return range(start // self._size, -(-end // self._size))

    def _compare(self, batch: list[int]) -> list[bool]:
        """In a worker thread: whether each piece's bytes in the file have its hash."""
        files, fd = self._services.files, self._job.file.fd
        good = []
        for piece in batch:
            start, end = self._range(piece)
            hasher = hashlib.new(self._pieces.algorithm, usedforsecurity=False)
            for at in range(start, end, READ_BYTES):
                hasher.update(files.read_at(fd, min(READ_BYTES, end - at), at))
            wanted = self._pieces.digests[piece * self._digest_bytes : (piece + 1) * self._digest_bytes]
            good.append(hasher.digest() == wanted)
        return good

    async def _good(self, piece: int) -> None:
        """Who sent other bytes for it before is known now."""
        known = [index for index in self._chunks_of(piece) if index in self._before]
        if not known:
            return
        cvs = await self._cvs(known)
        for index in known:
            for number, cv in self._before.pop(index):
                source = self._sources.numbered(number)
                if cv != cvs[index] and not source.blamed and self._another_than(source):
                    await self._blame(source, piece, 1)

    async def _bad(self, piece: int) -> None:
        """Its chunks are missing again. A source that sent all of it is known to be bad."""
        tries = self._tries[piece] = self._tries.get(piece, 0) + 1
        chunks = list(self._chunks_of(piece))
        senders = {self._ledger.source_of(index) for index in chunks}
        cvs = await self._cvs(chunks)
        for index in chunks:
            number = self._ledger.source_of(index)
            if number is not None:
                self._before.setdefault(index, []).append((number, cvs[index]))
        sole = self._sole(senders)
        if sole is not None and self._another_than(sole):
            await self._blame(sole, piece, len(chunks))
        elif tries > len(self._sources.usable):
            start, end = self._range(piece)
            names = ", ".join(source.name for source in self._sources.all)
            raise IntegrityError(f"bytes {start}-{end - 1} have not the hash that is known of them, from {names}")
        for index in await forget(self._services, self._job, chunks, self._plan):
            for other in self._pieces_of(index):
                self._missing[other] += 1

    def _sole(self, senders: set[int | None]) -> Source | None:
        numbers = list(senders)
        return self._sources.numbered(numbers[0]) if len(numbers) == 1 and numbers[0] is not None else None

    def _another_than(self, source: Source) -> bool:
        """Whether somebody else can be asked."""
        return any(other is not source for other in self._sources.usable)

    async def _blame(self, source: Source, piece: int, chunks: int) -> None:
        if not source.blamed:
            start, end = self._range(piece)
            reason = f"sent wrong bytes: {start}-{end - 1} have not the hash that is known of them"
            await blame(self._services, self._entry, self._sources, source, reason, chunks)

    async def _cvs(self, indexes: list[int]) -> dict[int, bytes]:
        """CVs of chunks that are all here; of one run of them."""
        await self._services.committer.flush(self._job)
        first, job = indexes[0], self._job
        joined = await self._services.work(
            self._services.store.cvs, job.entry_id, job.record.index, indexes[-1] + 1 - first, first=first
        )
        return {index: joined[(index - first) * CV_BYTES :][:CV_BYTES] for index in indexes}


async def check_pieces(services: Services, entry: DownloadEntry, job: PartJob, sources: Sources) -> None:
    """All pieces of a part that is here as a whole, where a single one cannot be fetched again. Raises
    IntegrityError."""
    if entry.pieces is None:
        return
    job.ledger = Ledger(job.grid.count)
    await job.wait_sealed()
    check = PieceCheck(services, entry, job, sources, Plan(job.grid, job.held, 1, services.config))
    await check.compare_all()
    job.ledger = None
