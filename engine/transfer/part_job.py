"""The mutable state of one part while it is fetched: one object, owned by its transfer, shared by its fetchers."""

from __future__ import annotations

import os

import trio

from engine.errors import EngineError, storage_error
from engine.files.part_file import PartFile
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.model.records import PartRecord
from engine.transfer.ledger import Ledger


class PartJob:
    """A part with an open file, its committed bitmap, and the chunks that are on their way into it.

    ``seals`` are chunks inside the sealer, ``uncommitted`` chunks sealed and not yet in the store. ``unbounded``
    collects the sealed chunks ``(index, size, digest)`` of a body whose length is not known: there are no bits for them
    until it is. ``ledger``: which source each chunk came from, where that matters. The first storage error ends the
    job: ``error`` is set and the fetchers' scope cancelled. After ``sync_error`` nothing more is committed.
    """

    def __init__(
        self,
        entry_id: str,
        epoch: int,
        record: PartRecord,
        file: PartFile,
        grid: ChunkGrid,
        held: Bitmap,
        *,
        durable: bool,
    ) -> None:
        self.entry_id = entry_id
        self.epoch = epoch
        self.record = record
        self.file = file
        self.grid = grid
        self.held = held
        self.durable = durable
        self.resumed = held.held > 0
        self.seals = 0
        self.uncommitted = 0
        self.unbounded: list[tuple[int, int, bytes]] | None = None
        self.ledger: Ledger | None = None
        self.error: EngineError | None = None
        self.sync_error: EngineError | None = None
        self._leaving = False
        self.scope = trio.CancelScope()
        self._changed = trio.Event()
        self._waiters = 0

    @property
    def bytes_done(self) -> int:
        """Durable bytes."""
        return self.record.bytes_done

    def fail(self, error: EngineError) -> None:
        """End the job with ``error``; the first one counts."""
        if self.error is None:
            self.error = error
            self.scope.cancel()
        self.notify()

    def sealed(self, index: int, error_number: int) -> bool:
        """A chunk came back from the sealer; False (and the job failed) when its bytes are not on disk."""
        self.seals -= 1
        if error_number:
            error = OSError(error_number, os.strerror(error_number))
            self.fail(storage_error(error, f"writing chunk {index} of {self.file.name}"))
            return False
        return True

    def committed(self, record: PartRecord, indexes: list[int]) -> None:
        """These chunks are durable now."""
        self.record = record
        for index in indexes:
            self.held.add(index)
        self.uncommitted -= len(indexes)
        self.notify()

    def dropped(self, count: int, error: EngineError) -> None:
        """These sealed chunks could not be made durable; they count as missing."""
        self.uncommitted -= count
        self.fail(error)

    def close_when_idle(self) -> None:
        """Close the file once no chunk is on its way into it: a number that is closed may become another file's, and
        the sealer and the committer use it until they are done."""
        self._leaving = True
        self.notify()

    def notify(self) -> None:
        """Wake whoever waits for a change."""
        if self._leaving and not self.seals and not self.uncommitted:
            self.file.close()
        if self._waiters:
            self._changed.set()
            self._changed = trio.Event()

    @property
    def lingers(self) -> bool:
        """Whether its attempt is over and the file still open: the disk is slow."""
        return self._leaving and (self.seals > 0 or self.uncommitted > 0)

    async def wait_left(self) -> None:
        """Until it lingers no more: what is on its way into the file is recorded, or dropped."""
        while self.lingers:
            await self._change()

    async def wait_sealed(self) -> None:
        """Until no chunk is inside the sealer. The sealer always finishes, so this is bounded by the disk."""
        while self.seals:
            await self._change()

    async def wait_committed(self) -> None:
        """Until no sealed chunk waits for its commit."""
        while self.uncommitted:
            await self._change()

    async def _change(self) -> None:
        self._waiters += 1
        try:
            await self._changed.wait()
        finally:
            self._waiters -= 1
