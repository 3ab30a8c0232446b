"""One attempt at one entry: continue or begin its part, fetch what is missing, finish it.

The first GET is already the first span: its answer tells length, validators and whether ranges are served, so nothing
is probed in vain. What is sealed when an attempt ends, for whatever reason, is committed before it is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from engine.errors import (
    BadRecord,
    Changed,
    ConnectionLost,
    HttpStatus,
    Incomparable,
    IntegrityError,
    PerhapsChanged,
    TooBig,
    TransferError,
    UnverifiableLength,
)
from engine.model.events import Progress
from engine.model.records import DownloadEntry, PartRecord, Representation
from engine.net.connection import Exchange
from engine.net.head import Framing
from engine.net.response import AnswerKind
from engine.transfer.culprit import Culprits
from engine.transfer.fetcher import introduce
from engine.transfer.finish import conclude, finish
from engine.transfer.first_answer import first_answer
from engine.transfer.identity import refuse_if_asked, settle
from engine.transfer.one_chunk import fetch_one_chunk, is_one_chunk
from engine.transfer.part_job import PartJob
from engine.transfer.piece_check import check_pieces
from engine.transfer.same_bytes import check_same_bytes, hold_to_range
from engine.transfer.services import Services
from engine.transfer.setup_part import allocate, check_target, reopen
from engine.transfer.sources import Source, Sources
from engine.transfer.spans import Begun, fetch_spans
from engine.transfer.stream import stream

# A source that shows other bytes this often within one attempt changes faster than it can be fetched.
GENERATIONS_PER_ATTEMPT = 3
# One that raises doubts this often gets no more of them settled: then it counts as changed.
DOUBTS_PER_ATTEMPT = 10


class Transfer:
    """``fields``: the entry's header fields, credentials included. ``fresh``: do not build on an earlier part; it stays
    set until there is a new one.

    ``bytes_resumed`` were trusted from before, ``bytes_committed`` became durable in this attempt; of the generation
    that it ended with.
    """

    def __init__(
        self,
        services: Services,
        entry: DownloadEntry,
        fields: tuple[tuple[str, str], ...],
        ending: Callable[[Transfer], dict[str, Any]],
        *,
        fresh: bool = False,
    ) -> None:
        self._services = services
        self._entry = entry
        self.fresh = fresh
        self._sources = Sources.of(services, entry, fields, trio.current_time())
        self._culprits = Culprits(services, entry, self._sources)
        self._ending = partial(ending, self)
        self._whole: dict[str, str] | None = None
        self._told = (-1, -1)
        self.completed: DownloadEntry | None = None
        self._job: PartJob | None = None
        self._previous: PartRecord | None = None
        self._first_generation = 1
        self._again = False
        self._alone: Source | None = None  # whom the whole body comes from
        self.bytes_resumed = 0
        self.bytes_committed = 0

    @property
    def bytes_fetched(self) -> int:
        """Body bytes off the wire in this attempt."""
        return self._sources.bytes_so_far

    async def run(self, cut_off: Callable[[], Awaitable[None]] | None = None) -> None:
        """Bring the entry to COMPLETED, and keep it so in ``completed``. Raises a TransferError (or another
        EngineError) when this attempt cannot. ``cut_off`` is called when somebody ends it: its connections are closed
        then, what it received last is still to be committed."""
        try:
            with self._services.pacing.running(self._entry.id, self._entry.rate_limit_bytes_s):
                self.completed = await self._run_to_the_right_end()
        except BaseException as end:
            if cut_off is not None and not isinstance(end, Exception):
                await cut_off()
            raise
        finally:
            if self._job is not None and not self._let_go():
                with trio.CancelScope(shield=True):
                    await self._leave()
            self._services.reservations.release(self._entry.id)

    async def _run_to_the_right_end(self) -> DownloadEntry:
        """Where there are several sources, wrong bytes of one are no end: those of another may be right."""
        while True:
            try:
                completed = await self._run()
            except IntegrityError as error:
                if not await self._culprits.suspect(self._job, error):
                    raise
                self._again, self.fresh = True, self._job is None or self._job.ledger is None
                await self._leave()
                continue
            return await self._culprits.settle(self._job, completed)

    async def _run(self) -> DownloadEntry:
        for generation in range(1, GENERATIONS_PER_ATTEMPT + 1):
            try:
                await self._fetch()
                break
            except Changed as change:
                await self._disown(change)
                self.bytes_resumed = self.bytes_committed = 0
                if generation == GENERATIONS_PER_ATTEMPT:
                    raise
        job = self._held_job()
        if self._whole is not None:
            return await conclude(self._services, self._entry, job, self._whole, self._ending)
        await self._services.committer.flush(job)
        if job.error is not None:
            raise job.error
        if not job.held.complete:
            missing = job.grid.count - job.held.held
            raise ConnectionLost(f"{missing} of {job.grid.count} chunks are still missing")
        return await finish(self._services, self._entry, job, self._ending)

    async def _disown(self, change: Changed) -> None:
        """What is held is of another version. That is recorded at once: this attempt may end before there is a new
        part, and the next could find two chunks that are the same in both."""
        job, services = self._job, self._services
        with trio.CancelScope(shield=True):
            await self._leave()
            refuse_if_asked(self._entry, change)
            self.fresh = True
            if job is not None and job.grid.count:
                place = job.entry_id, job.epoch, job.record.index
                await services.write(services.store.clear_chunks, *place, [(0, job.grid.count)])
                services.emit(self._progress(0, 0, job.record.length))  # it has fewer durable bytes than it was told

    async def _fetch(self) -> None:
        """Fetch what is missing. One source of several that alone gives the body gives way to another when it fails,
        once."""
        failed: set[Source] = set()
        while True:
            try:
                return await self._fetch_from_one_or_all()
            except (Changed, IntegrityError):
                raise
            except TransferError as error:
                source = self._alone
                if source is None or source in failed:
                    raise
                if not self._sources.failed(source, error, trio.current_time()):
                    raise self._sources.verdict(error) from error
                failed.add(source)
            await self._leave()
            self._again = True

    async def _fetch_from_one_or_all(self) -> None:
        """Settles doubts about the source on the way. Raises Changed when it has other bytes."""
        self._alone = None
        job = await self._reopen()
        try:
            for _ in range(DOUBTS_PER_ATTEMPT):
                try:
                    return await (self._begin() if job is None else self._continue(job))
                except PerhapsChanged as doubt:
                    job = self._job
                    if job is None:
                        raise
                    job.scope = trio.CancelScope()
                    await self._services.committer.flush(job)
                    await settle(self._services, self._sources, job, doubt)
        except HttpStatus as error:
            where = self._sources.lead.where
            if where.is_spent(error, begun=self._job is not None):
                raise where.needs_url(error) from error
            raise
        raise Changed("the source raises doubts about its bytes again and again")

    def _held_job(self) -> PartJob:
        assert self._job is not None  # noqa: S101  # _begin and _continue end with a job or raise
        return self._job

    def _let_go(self) -> bool:
        """Close the file when nothing is on its way into it any more."""
        job = self._job
        if job is None or job.seals or job.uncommitted:
            return False
        self._job = None
        self.bytes_committed += max(0, job.bytes_done - self.bytes_resumed)
        job.close_when_idle()
        return True

    async def _leave(self) -> None:
        """Commit what is sealed and close the file; the chunks stay for the next attempt."""
        job, self._job = self._job, None
        if job is None:
            return
        try:
            with trio.move_on_after(self._services.config.close_timeout_s):
                await self._services.committer.flush(job)
        finally:
            self.bytes_committed += max(0, job.bytes_done - self.bytes_resumed)
            job.close_when_idle()

    async def _reopen(self) -> PartJob | None:
        parts: tuple[PartRecord, ...] = ()
        try:
            if self._entry.attempt_count > 1 or self.fresh or self._again:  # before the first attempt there is none
                parts = self._services.store.parts(self._entry.id)
        except BadRecord:  # nothing is known of it any more: a new part takes its place
            self._first_generation = int(self._services.now())  # none that a late commit of the old one could name
        self._previous = parts[0] if parts else None
        if self._previous is not None:
            self._sources.expect_like(self._previous.representation)
        if self._previous is None or self.fresh:
            return None
        job = await reopen(self._services, self._entry, self._previous)
        if job is not None:
            self._job = job
            self.bytes_resumed = max(0, job.bytes_done - self.bytes_committed)
            self.bytes_committed = 0
            known = job.record.representation
            if not self._sources.several and not known.other_etags:  # which of several a server has is not known
                self._sources.lead.where.if_range = known.etag or None
        return job

    async def _begin(self) -> None:
        """No part to build on: ask for the first span, and let the answer decide how to go on."""
        await check_target(self._services, self._entry, self._previous)
        source, exchange, answer = await first_answer(self._services, self._sources)
        self._sources.expect_like(answer.representation)
        try:
            self._check_length(exchange, answer.representation)
            await self._services.reservations.admit(self._entry, answer.representation.length)
            plain = self._previous is None and self._entry.pieces is None
            short = plain and is_one_chunk(self._services, exchange, answer)
        except BaseException:
            source.done(exchange)
            raise
        if short:
            self._alone = source
            self._job, self._whole = await fetch_one_chunk(
                self._services, source, self._entry, exchange, answer, first_generation=self._first_generation
            )
            self.fresh = False
            return
        try:
            job = self._job = await allocate(
                self._services,
                self._entry,
                answer.representation,
                exchange.url,
                self._previous,
                first_generation=self._first_generation,
            )
            self.fresh = False
        except BaseException:
            source.done(exchange)
            raise
        await self._fetch_rest(job, Begun(source, exchange, answer))

    async def _fetch_rest(self, job: PartJob, begun: Begun) -> None:
        """All of a new part; the exchange that is open already brings the first of it."""
        source, exchange, answer = begun
        if self._sources.several:
            try:
                self._sources.begin_with(source)
                await introduce(self._services, job, source, answer.representation)
            except BaseException:
                source.done(exchange)
                raise
        if answer.kind is AnswerKind.RANGE:
            hold_to_range(exchange, answer)
            await fetch_spans(self._services, self._sources, self._entry, job, begun)
        else:
            self._alone = source
            await stream(self._services, source, self._entry, job, exchange)
            await check_pieces(self._services, self._entry, job, self._sources)

    def _check_length(self, exchange: Exchange, representation: Representation) -> None:
        expected = self._entry.expected_length
        length = representation.length
        if length is not None and length > self._services.config.part_bytes_max:  # before any space is looked for (S27)
            raise TooBig(f"the source has {length} bytes, more than {self._services.config.part_bytes_max}")
        if length is not None and expected is not None and length != expected:
            raise IntegrityError(f"the source has {length} bytes, expected {expected}")
        known = expected is not None or self._entry.expect or representation.digests
        if exchange.head.framing is Framing.EOF and length is None and not known:
            raise UnverifiableLength("the source tells neither a length nor where the body ends")

    async def _continue(self, job: PartJob) -> None:
        if job.held.complete and self._entry.pieces is None:
            return
        if job.record.representation.ranges:
            if not job.record.representation.comparable:
                await check_same_bytes(self._services, self._sources.lead, job)
            await fetch_spans(self._services, self._sources, self._entry, job)
            return
        if not job.record.representation.comparable:
            raise Incomparable("without ranges and validators the bytes so far cannot be told from another version's")
        if not job.held.complete:
            self._sources.bind(job.record)
            self._alone = self._sources.pick(trio.current_time())
            await stream(self._services, self._alone, self._entry, job)
        await check_pieces(self._services, self._entry, job, self._sources)

    def progress(self) -> Progress | None:
        """How far it is, when something moved since the last call."""
        job = self._job
        if job is None:
            return None
        done = job.bytes_done
        received = max(done, min(self.bytes_resumed + self.bytes_fetched, job.record.length or 2**63))
        if (done, received) == self._told:
            return None
        self._told = (done, received)
        return self._progress(done, received, job.record.length)

    def _progress(self, done: int, received: int, total: int | None) -> Progress:
        return Progress(
            id=self._entry.id,
            epoch=self._entry.epoch,
            attempt=self._entry.attempt_count,
            bytes_done=done,
            bytes_received=received,
            bytes_total=total,
        )
