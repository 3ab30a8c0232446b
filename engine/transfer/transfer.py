"""One attempt at one entry: continue or begin its part, fetch what is missing, finish it.

The first GET is already the first span: its answer tells length, validators and whether ranges are served, so nothing
is probed in vain. What is sealed when an attempt ends, for whatever reason, is committed before it is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from msgspec.structs import replace

from engine.errors import (
    BadRecord,
    Changed,
    ConnectionLost,
    EngineError,
    HttpStatus,
    IntegrityError,
    UnverifiableLength,
)
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.model.events import Progress
from engine.model.records import DownloadEntry, PartRecord, Representation
from engine.net.connection import Exchange
from engine.net.head import Framing
from engine.net.response import Answer, AnswerKind, judge
from engine.net.url import parse_url
from engine.transfer.fetcher import (
    FAILURES_IN_A_ROW_MAX,
    Fetcher,
    Opened,
    RangesLost,
    Source,
    hold_to_range,
    receive_known,
    receive_unknown,
)
from engine.transfer.finish import conclude, finish
from engine.transfer.first_answer import first_answer
from engine.transfer.one_chunk import fetch_one_chunk, is_one_chunk
from engine.transfer.part_job import PartJob
from engine.transfer.plan import Plan
from engine.transfer.services import Services
from engine.transfer.setup_part import allocate, check_target, chunk_digest, reopen

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
            await self._fetch_spans(job, exchange, answer)
        else:
            await self._stream(job, exchange)

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
                await self._check_same_bytes(job)
            await self._fetch_spans(job)
            return
        if not job.record.representation.comparable:
            raise Changed("without ranges and validators the bytes so far cannot be told from another version's")
        exchange = await self._source.open(None, None)
        try:
            judge(exchange.head, None, job.record.representation, exchange.redirected)
        except BaseException:
            self._source.done(exchange)
            raise
        await self._stream(job, exchange)

    async def _check_same_bytes(self, job: PartJob) -> None:
        """No validator: fetch two held chunks again, the last and a random one, and compare their CVs."""
        runs = list(job.held.runs())
        if not runs:
            return
        first, count = self._services.rng.choice(runs)
        for index in {sum(runs[-1]) - 1, first + self._services.rng.randrange(count)}:
            cv = await self._services.work(self._services.store.cvs, job.entry_id, job.record.index, 1, first=index)
            if chunk_digest(await self._fetch_again(job, index), job.grid, index) != cv:
                raise Changed(f"chunk {index} has other bytes than before")

    async def _fetch_again(self, job: PartJob, index: int) -> bytes:
        data = bytearray(job.grid.size(index))
        start, end = job.grid.byte_range(index, 1)
        exchange = await self._source.open(start, end)
        try:
            answer = judge(exchange.head, (start, end), job.record.representation, exchange.redirected)
            if answer.kind is not AnswerKind.RANGE or answer.start != start:
                raise Changed("the source does not serve the range that it served before")
            with memoryview(data) as view:
                await exchange.fill(view)
        finally:
            self._source.done(exchange)
        return bytes(data)

    async def _fetch_spans(self, job: PartJob, exchange: Exchange | None = None, answer: Answer | None = None) -> None:
        """Several fetchers over one plan; the exchange that is open already serves the first lease."""
        connections = self._connections(job)
        comparable = job.record.representation.comparable
        plan = Plan(job.grid, job.held, connections, self._services.config, in_one_piece=not comparable)
        opened = None
        if exchange is not None and answer is not None and answer.end is not None:
            lease = plan.lease(max(1, job.grid.chunks_within(0, answer.end)[1]))
            opened = None if lease is None else Opened(exchange, answer, lease)
        workers = self._workers(connections, plan, job)
        # Without a validator every failure ends the attempt: the next one compares the bytes again before it goes on.
        patience = FAILURES_IN_A_ROW_MAX if comparable else 1
        fetchers = [Fetcher(self._services, self._source, job, plan, patience) for _ in range(workers)]
        failures: list[EngineError | RangesLost] = []
        running = set(fetchers)

        async def work(fetcher: Fetcher, opened: Opened | None) -> None:
            try:
                await fetcher.run(opened)
            except (EngineError, RangesLost) as error:
                running.discard(fetcher)
                if isinstance(error, HttpStatus) and any(other.chunks_received for other in running):
                    return  # the server serves others and only refuses one connection more
                failures.append(error)
                job.scope.cancel()
            finally:
                running.discard(fetcher)

        with job.scope:
            async with trio.open_nursery() as nursery:
                for position, fetcher in enumerate(fetchers):
                    nursery.start_soon(work, fetcher, opened if position == 0 else None)
        await self._after_spans(job, plan, fetchers, failures)

    async def _after_spans(
        self, job: PartJob, plan: Plan, fetchers: list[Fetcher], failures: list[EngineError | RangesLost]
    ) -> None:
        if job.error is not None:
            raise job.error
        if failures:
            if isinstance(failures[0], RangesLost):
                await self._stream_again(job, failures[0])
                return
            raise failures[0]
        if plan.unclaimed:
            last = next((fetcher.last_error for fetcher in fetchers if fetcher.last_error is not None), None)
            raise last or ConnectionLost(f"{plan.unclaimed} chunks were given up")

    def _connections(self, job: PartJob) -> int:
        config = self._services.config
        if job.grid.length < config.parallel_bytes_min or not job.record.representation.comparable:
            return 1
        return min(self._entry.connections or config.connections_per_entry, config.connections_per_entry_max)

    def _workers(self, connections: int, plan: Plan, job: PartJob) -> int:
        spans = -(-plan.unclaimed * job.grid.chunk_bytes // self._services.config.span_bytes_min)
        return max(1, min(connections, spans + 1))

    async def _stream_again(self, job: PartJob, lost: RangesLost) -> None:
        """Ranges are not served any more: one stream from the first byte, skipping what is held if it is the same
        file."""
        known = job.record.representation
        if not known.comparable or lost.representation.length != known.length:
            raise Changed("the source serves no ranges any more, and nothing shows that its bytes are the same")
        job.scope = trio.CancelScope()
        await self._services.committer.flush(job)
        exchange = await self._source.open(None, None)
        try:
            judge(exchange.head, None, known, exchange.redirected)
        except BaseException:
            self._source.done(exchange)
            raise
        await self._stream(job, exchange)

    async def _stream(self, job: PartJob, exchange: Exchange) -> None:
        """The whole file over one exchange."""
        try:
            with job.scope:
                if job.unbounded is None:
                    await receive_known(self._services, exchange, job)
                else:
                    expected = self._entry.expected_length
                    await self._settle_length(job, await receive_unknown(self._services, exchange, job, expected))
        finally:
            self._source.done(exchange)
        if job.error is not None:
            raise job.error

    async def _settle_length(self, job: PartJob, length: int) -> None:
        """The body ended properly: now there is a grid, and its sealed chunks can be committed."""
        expected = self._entry.expected_length
        if expected is not None and length < expected:
            raise ConnectionLost(f"{length} bytes came, expected {expected}")
        await job.wait_sealed()
        chunks, job.unbounded = job.unbounded or [], None
        job.grid = ChunkGrid(length, job.record.chunk_bytes)
        job.held = Bitmap(job.grid.count)
        job.record = replace(job.record, length=length)
        await self._services.write(self._services.store.put_part, job.entry_id, job.epoch, job.record)
        for index, size, digest in chunks:
            await self._services.committer.reserve(size)
            self._services.committer.add(job, index, size, digest)

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
