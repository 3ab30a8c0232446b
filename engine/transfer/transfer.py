"""One attempt at one entry: continue or begin its part, fetch what is missing, finish it.

The first GET is already the first span: its answer tells length, validators and whether ranges are served, so nothing
is probed in vain. What is sealed when an attempt ends, for whatever reason, is committed before it is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from engine.errors import BadRecord, Changed, ConnectionLost, IntegrityError, UnverifiableLength
from engine.model.events import Progress
from engine.model.records import DownloadEntry, PartRecord, Representation
from engine.net.connection import Exchange
from engine.net.head import Framing
from engine.net.response import AnswerKind
from engine.net.url import parse_url
from engine.transfer.fetcher import Source, hold_to_range
from engine.transfer.finish import conclude, finish
from engine.transfer.first_answer import first_answer
from engine.transfer.one_chunk import fetch_one_chunk, is_one_chunk
from engine.transfer.part_job import PartJob
from engine.transfer.same_bytes import check_same_bytes
from engine.transfer.services import Services
from engine.transfer.setup_part import allocate, check_target, reopen
from engine.transfer.spans import Begun, fetch_spans
from engine.transfer.stream import stream

# A source that shows other bytes this often within one attempt changes faster than it can be fetched.
GENERATIONS_PER_ATTEMPT = 3


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
        self._source = Source(services.client, parse_url(entry.url), fields)
        self._ending = partial(ending, self)
        self._whole: dict[str, str] | None = None
        self._told = (-1, -1)
        self.completed: DownloadEntry | None = None
        self._job: PartJob | None = None
        self._previous: PartRecord | None = None
        self._first_generation = 1
        self.bytes_resumed = 0
        self.bytes_committed = 0

    @property
    def bytes_fetched(self) -> int:
        """Body bytes off the wire in this attempt."""
        return self._source.bytes_so_far

    async def run(self, cut_off: Callable[[], Awaitable[None]] | None = None) -> None:
        """Bring the entry to COMPLETED, and keep it so in ``completed``. Raises a TransferError (or another
        EngineError) when this attempt cannot. ``cut_off`` is called when somebody ends it: its connections are closed
        then, what it received last is still to be committed."""
        try:
            self.completed = await self._run()
        except BaseException as end:
            if cut_off is not None and not isinstance(end, Exception):
                await cut_off()
            raise
        finally:
            if self._job is not None:
                with trio.CancelScope(shield=True):
                    await self._leave()
            self._services.reservations.release(self._entry.id)

    async def _run(self) -> DownloadEntry:
        for generation in range(1, GENERATIONS_PER_ATTEMPT + 1):
            try:
                job = await self._reopen()
                await (self._begin() if job is None else self._continue(job))
                break
            except Changed:
                await self._leave()
                self.fresh = True
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

    def _held_job(self) -> PartJob:
        assert self._job is not None  # noqa: S101  # _begin and _continue end with a job or raise
        return self._job

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
            if self._entry.attempt_count > 1 or self.fresh:  # before the first attempt there is none
                parts = self._services.store.parts(self._entry.id)
        except BadRecord:  # nothing is known of it any more: a new part takes its place
            self._first_generation = int(self._services.now())  # none that a late commit of the old one could name
        self._previous = parts[0] if parts else None
        if self._previous is None or self.fresh:
            return None
        job = await reopen(self._services, self._entry, self._previous)
        if job is not None:
            self._job = job
            self.bytes_resumed = job.bytes_done
        return job

    async def _begin(self) -> None:
        """No part to build on: ask for the first span, and let the answer decide how to go on."""
        await check_target(self._services, self._entry, self._previous)
        exchange, answer = await first_answer(self._services, self._source)
        try:
            self._check_length(exchange, answer.representation)
            await self._services.reservations.admit(self._entry, answer.representation.length)
            short = self._previous is None and is_one_chunk(self._services, exchange, answer)
        except BaseException:
            self._source.done(exchange)
            raise
        if short:
            self._job, self._whole = await fetch_one_chunk(self._services, self._source, self._entry, exchange, answer)
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
            self._source.done(exchange)
            raise
        if answer.kind is AnswerKind.RANGE:
            hold_to_range(exchange, answer)
            await fetch_spans(self._services, self._source, self._entry, job, Begun(exchange, answer))
        else:
            await stream(self._services, self._source, self._entry, job, exchange)

    def _check_length(self, exchange: Exchange, representation: Representation) -> None:
        expected = self._entry.expected_length
        length = representation.length
        if length is not None and expected is not None and length != expected:
            raise IntegrityError(f"the source has {length} bytes, expected {expected}")
        if exchange.head.framing is Framing.EOF and expected is None and not self._entry.expect:
            raise UnverifiableLength("the source tells neither a length nor where the body ends")

    async def _continue(self, job: PartJob) -> None:
        if job.held.complete:
            return
        if job.record.representation.ranges:
            if not job.record.representation.comparable:
                await check_same_bytes(self._services, self._source, job)
            await fetch_spans(self._services, self._source, self._entry, job)
            return
        if not job.record.representation.comparable:
            raise Changed("without ranges and validators the bytes so far cannot be told from another version's")
        await stream(self._services, self._source, self._entry, job)

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
        return Progress(
            id=self._entry.id,
            epoch=self._entry.epoch,
            attempt=self._entry.attempt_count,
            bytes_done=done,
            bytes_received=received,
            bytes_total=job.record.length,
        )
