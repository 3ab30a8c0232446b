"""Which of several sources sent the wrong bytes, when only the hash of the whole file shows that some are wrong.

One source after the other is suspected, the one that gave least first: its chunks are fetched again from the others,
and the hash decides. What a suspect sent before is compared with what came in its place, so that it is only blamed when
the hash is right in the end and its own bytes were others.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from engine.errors import IntegrityError, SourcesDiffer
from engine.model.chunks import CV_BYTES
from engine.model.records import DownloadEntry
from engine.transfer.blame import blame, forget
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services
from engine.transfer.sources import Source, Sources


class Suspicion(msgspec.Struct):
    """``before``: what the suspect sent, by the chunks' CVs; None when all of the file was its own, and is fetched
    anew."""

    suspect: Source | None
    before: dict[int, bytes] | None = msgspec.field(default_factory=dict)


class Culprits:
    """The search, through one attempt. ``suspicions``: those so far; of none is it known yet who is right."""

    def __init__(self, services: Services, entry: DownloadEntry, sources: Sources) -> None:
        self._services, self._entry, self._sources = services, entry, sources
        self.suspicions: list[Suspicion] = []

    async def suspect(self, job: PartJob | None, error: IntegrityError) -> bool:
        """The file, or what came of it, is not what is expected: leave a source out, and forget its bytes. False when
        there is nobody left who could be asked in its place. ``job``: None when nothing is kept of it anyway."""
        if not self._sources.several or isinstance(error, SourcesDiffer) or error.retryable:
            return False
        self._reinstate()
        if job is None or job.ledger is None:
            return self._suspect_all()
        ledger = job.ledger
        tried = {suspicion.suspect for suspicion in self.suspicions}
        for number in sorted(ledger.sources(), key=ledger.count_of):
            source = None if number is None else self._sources.numbered(number)
            chunks = ledger.chunks_of(number)
            if source in tried or not chunks or not self._others(source):
                continue
            before = await self._cvs(job, chunks)
            self.suspicions.append(Suspicion(source, before))
            if source is not None:
                self._sources.leave_out(source, "the file was wrong with bytes of it")
                await self._drop_its_word(job, source)
            await forget(self._services, job, chunks)
            return True
        return False

    async def _drop_its_word(self, job: PartJob, source: Source) -> None:
        """What it stated of the whole file goes with it: that may be what is wrong."""
        known = job.record.representation
        said = job.record.validators.get(str(source.url))
        if said is not None and known.digests and said.digests == known.digests:
            record = replace(job.record, representation=replace(known, digests={}))
            job.record = await self._services.write(self._services.store.put_part, job.entry_id, job.epoch, record)

    async def settle(self, job: PartJob | None, completed: DownloadEntry) -> DownloadEntry:
        """The file is right now: those whose bytes were others are named. Returns the entry as it is on record."""
        for suspicion in self.suspicions:
            source, before = suspicion.suspect, suspicion.before
            if source is None:
                continue
            differing = None
            if before is not None and job is not None:
                after = await self._cvs(job, list(before))
                differing = sum(1 for index, cv in before.items() if after[index] != cv)
            if differing != 0:
                completed = await self._blame(completed, source, differing or 0)
        for source in self._sources.doubted:
            completed = await self._blame(completed, source, 1)
        return completed

    async def _blame(self, entry: DownloadEntry, source: Source, chunks: int) -> DownloadEntry:
        if source.blamed:
            return entry
        reason = "sent wrong bytes: the file has the expected hash without them"
        return await blame(self._services, entry, self._sources, source, reason, chunks)

    def _suspect_all(self) -> bool:
        source = self._sources.lead
        if any(suspicion.suspect is source for suspicion in self.suspicions) or not self._others(source):
            return False
        self.suspicions.append(Suspicion(source, None))
        self._sources.leave_out(source, "the file was wrong with bytes of it")
        return True

    def _others(self, source: Source | None) -> list[Source]:
        return [other for other in self._sources.usable if other is not source]

    def _reinstate(self) -> None:
        """Who was doubted or suspected is not who is wrong, or not alone."""
        held = {suspicion.suspect for suspicion in self.suspicions} | set(self._sources.doubted)
        for source in held:
            if source is not None and not source.blamed:
                source.out, source.trusted, source.parked_until = "", True, 0.0
        self._sources.doubted.clear()

    async def _cvs(self, job: PartJob, indexes: list[int]) -> dict[int, bytes]:
        await self._services.committer.flush(job)
        store, count = self._services.store, job.grid.count
        joined = await self._services.work(store.cvs, job.entry_id, job.record.index, count)
        return {index: joined[index * CV_BYTES : (index + 1) * CV_BYTES] for index in indexes}
