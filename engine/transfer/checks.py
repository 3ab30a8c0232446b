"""What is known of bytes before the whole file is there: by piece hashes, or by comparing sources with each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from engine.errors import EngineError
from engine.model.records import DownloadEntry
from engine.transfer.cross_check import GRACE_S, CrossCheck
from engine.transfer.fetcher import Gate
from engine.transfer.part_job import PartJob
from engine.transfer.piece_check import PieceCheck
from engine.transfer.plan import Plan
from engine.transfer.services import Services
from engine.transfer.sources import Source, Sources


class Checks:
    """The checks of a part while it is fetched; none for a plain file from one source. ``failure``: what one of them
    ended the job with."""

    def __init__(self, services: Services, entry: DownloadEntry, job: PartJob, sources: Sources, plan: Plan) -> None:
        self.failure: EngineError | None = None
        self._job = job
        self._pieces: PieceCheck | None = None
        self._cross: CrossCheck | None = None
        if entry.pieces is None and not sources.several:
            return
        job.ledger = sources.ledger_of(job.record.generation, job.grid.count)
        job.ledger.listeners.clear()
        if entry.pieces is not None:
            self._pieces = PieceCheck(services, entry, job, sources, plan)
        else:
            self._cross = CrossCheck(services, entry, job, sources, plan)

    @property
    def gate(self) -> Gate | None:
        """What fetchers have to pass; nothing for a plain file from one source."""
        return self if self._pieces is not None or self._cross is not None else None

    def begin(self, nursery: trio.Nursery) -> None:
        """Let them run beside the fetchers."""
        for check in (self._pieces, self._cross):
            if check is not None:
                nursery.start_soon(self._run, check.run)

    async def admit(self, source: Source) -> bool:
        """Whether bytes of the source may be used beside those of others."""
        return self._cross is None or await self._cross.admit(source)

    async def room(self, index: int) -> None:
        """Before a chunk is received: until the checking keeps up."""
        if self._pieces is not None:
            await self._pieces.room()
        if self._cross is not None:
            await self._cross.room(index)

    async def settle(self) -> None:
        """Until everything that is here is checked; what is wrong is missing again, then."""
        if self._pieces is not None:
            await self._job.wait_sealed()
            await self._pieces.idle()
        if self._cross is not None:
            with trio.move_on_after(GRACE_S):  # naming a source that was not needed is not worth more
                await self._cross.done.wait()

    async def _run(self, check: Callable[[], Awaitable[None]]) -> None:
        try:
            await check()
        except EngineError as error:
            self.failure = error
            self._job.scope.cancel()
