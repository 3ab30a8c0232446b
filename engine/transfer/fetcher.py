"""From an HTTP answer into chunk buffers: spans where ranges are proven, one stream where they are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import trio
from msgspec.structs import replace

from engine.config import Config
from engine.errors import (
    BadRange,
    Changed,
    ConnectionLost,
    CorruptBody,
    HostResting,
    IntegrityError,
    Stalled,
    TooBig,
    TransferError,
)
from engine.model.records import DownloadEntry, Representation
from engine.model.retry import decide
from engine.native import ChunkBuffer
from engine.net.connection import Exchange
from engine.net.response import Answer, AnswerKind, judge
from engine.net.tcp import TcpFacts
from engine.transfer.blame import forget
from engine.transfer.part_job import PartJob
from engine.transfer.plan import Lease, Plan
from engine.transfer.same_bytes import check_total, hold_to_range
from engine.transfer.services import Services
from engine.transfer.sources import Source, Sources

# A fetcher whose spans fail this often in a row, without one chunk between, retires; the others take over its chunks.
FAILURES_IN_A_ROW_MAX = 3
# A body of unknown length grows towards the reserve of free space, which is looked at this often.
CHUNKS_PER_SPACE_CHECK = 16
# Who has nothing to do looks this often whether another became slow.
IDLE_LOOK_S = 0.25


class RangesLost(Exception):  # a signal inside this package, not an error that anyone is told
    """The source answered a Range request in the middle of the file with the whole file, or with less than a chunk."""

    def __init__(self, source: Source, representation: Representation) -> None:
        super().__init__("the source does not serve ranges any more")
        self.source = source
        self.representation = representation


class Opened(NamedTuple):
    """An exchange whose answer was judged, and the chunks that it serves."""

    source: Source
    exchange: Exchange
    answer: Answer
    lease: Lease


class Gate(Protocol):
    """What checks bytes while they come."""

    async def admit(self, source: Source) -> bool:
        """Whether bytes of the source may be used beside those of another; it may be asked for some first."""

    async def room(self, index: int) -> None:
        """Before that chunk is received: wait until the checking keeps up."""


class Fetcher:
    """One worker of a part: leases spans until nothing is missing any more, each from the source that does best.

    ``leaving``: it ends when its present chunk is there; ``resigned``: behind its present span. ``received``:
    body bytes so far.
    """

    def __init__(
        self,
        services: Services,
        sources: Sources,
        job: PartJob,
        plan: Plan,
        patience: int = FAILURES_IN_A_ROW_MAX,
        gate: Gate | None = None,
    ) -> None:
        self._patience = patience
        self._services = services
        self._sources = sources
        self._job = job
        self._plan = plan
        self._gate = gate
        self._scope: trio.CancelScope | None = None
        self._exchange: Exchange | None = None
        self._received = 0
        self.source: Source | None = None
        self.since = math.inf
        self.leaving = self.resigned = False
        self._why_cut = ""
        self.last_error: TransferError | None = None
        self.chunks_received = 0

    @property
    def received(self) -> int:
        """Body bytes of all its exchanges."""
        return self._received + (0 if self._exchange is None else self._exchange.received)

    def replace(self, why: str = "") -> None:
        """Cut the present exchange off; it goes on with a new one. ``why``: that counts as a failure, told so.
        ``since``: when the exchange began."""
        if self._scope is not None:
            self._why_cut = why
            self._scope.cancel()

    def tcp_facts(self) -> TcpFacts | None:
        """Of the connection that receives; None when none does."""
        return None if self._exchange is None else self._exchange.tcp_facts()

    async def run(self, opened: Opened | None = None) -> None:
        """Fetch until nothing is left to lease, beginning with an exchange that is open already when one is given.

        Ends quietly with ``last_error`` set when it retires. Raises what no other fetcher could do better (a changed
        source, a full disk …) and :class:`RangesLost`.
        """
        failures = 0
        while opened is not None or not (self.leaving or self.resigned):
            lease = self._next_lease() if opened is None else opened.lease
            if lease is None:
                if self._plan.finished:
                    return
                with trio.move_on_after(IDLE_LOOK_S):
                    await self._plan.changed.park()
                continue
            source = self._sources.pick(trio.current_time(), lease.avoid) if opened is None else opened.source
            before = self.chunks_received
            try:
                await self._span(lease, source, opened)
                failures = 0
            except RangesLost as lost:
                if self._sources.several and len(self._sources.usable) > 1:
                    self._sources.leave_out(source, str(lost))
                    continue
                raise
            except TransferError as error:
                if self.last_error is None or not isinstance(error, HostResting):  # a rest follows from what failed
                    self.last_error = error
                if isinstance(error, ConnectionLost):
                    self._services.client.note_loss(source.url.origin.host)
                if self._sources.failed(source, error, trio.current_time()):
                    continue
                if not error.retryable or isinstance(error, Changed):
                    raise self._sources.verdict(error) from error
                failures = 1 if self.chunks_received > before else failures + 1
                if failures >= self._patience or error.retry_after_s is not None:
                    return
                decision = decide(error, failures, self._services.config, self._services.rng)
                await trio.sleep(decision.delay_s or 0.0)
            finally:
                opened = None

    def _next_lease(self) -> Lease | None:
        """What nobody has asked for; else what another is slow with."""
        lease = self._plan.lease()
        if lease is None and self._job.record.representation.comparable:
            now = trio.current_time()
            lease = self._plan.steal(now) or self._plan.duplicate(now)
        return lease

    async def _span(self, lease: Lease, source: Source, opened: Opened | None) -> None:
        """One exchange. What it did not bring goes back to the plan."""
        self._scope, self.source = trio.CancelScope(), source
        self.since = lease.began = lease.since = trio.current_time()
        lease.cut, lease.holder = self._scope.cancel, source
        source.active += 1
        try:
            with self._scope:
                if opened is None:
                    if self._gate is not None and not await self._gate.admit(source):
                        return
                    opened = await self._open_span(lease, source)
                await self._receive_span(opened)
                self._sources.succeeded(source)
            if self._why_cut:
                why, self._why_cut = self._why_cut, ""
                raise Stalled(why)
        finally:
            source.active -= 1
            self._scope = self.source = None
            self.since = math.inf
            self._plan.done(lease)

    async def _open_span(self, lease: Lease, source: Source) -> Opened:
        start, end = self._job.grid.byte_range(lease.first, lease.count)
        exchange: Exchange | None = None
        try:
            exchange = await source.open(start, end)
            answer = judge(exchange.head, (start, end), source.known(self._job.record), exchange.redirected)
            if answer.kind is AnswerKind.WHOLE:
                raise RangesLost(source, answer.representation)
            if answer.kind is AnswerKind.UNSATISFIED:
                if answer.total is None:
                    await check_total(source, self._job)
                raise BadRange(f"the source says that bytes {start}-{end - 1} are not in the file", status=416)
            hold_to_range(exchange, answer)
            if self._sources.several:
                await introduce(self._services, self._job, source, answer.representation)
        except BaseException:
            if exchange is not None:
                source.done(exchange)
            raise
        return Opened(source, exchange, answer, lease)

    async def _receive_span(self, opened: Opened) -> None:
        """Receive the lease's whole chunks that the answer covers, as long as nobody took them over."""
        source, exchange, answer, lease = opened
        self._exchange = exchange
        try:
            start = self._job.grid.offset(lease.first)
            if answer.start < start:
                await discard(self._services, exchange, start - answer.start)
            covered = start if answer.end is None else answer.end
            _, end = self._job.grid.chunks_within(start, covered)
            if end <= lease.first:
                raise RangesLost(source, answer.representation)  # its ranges are capped below a chunk: of no use here
            while lease.at < min(end, lease.end) and not self._ends_early(source, lease):
                if self._gate is not None:
                    await self._gate.room(lease.at)
                size = self._job.grid.size(lease.at)
                if not await receive_chunk(self._services, exchange, self._job, lease.at, self._wanted(source, lease)):
                    return
                now = trio.current_time()
                source.score.note(size, now - lease.since)
                self._plan.advance(lease, now)
                self.chunks_received += 1
        except CorruptBody:  # what came of it before is as doubtful as its end
            self.chunks_received -= lease.at - lease.first
            await forget(self._services, self._job, range(lease.first, lease.at), self._plan)
            raise
        finally:
            self._exchange = None
            self._received += exchange.received
            source.done(exchange)

    def _ends_early(self, source: Source, lease: Lease) -> bool:
        """Somebody wants this fetcher to end; or the source was left out, and there is too much left to let it end."""
        return self.leaving or (bool(source.out) and lease.end - lease.at > self._plan.chunks_min)

    def _wanted(self, source: Source, lease: Lease) -> Wanted | None:
        """Whether the chunk, once it is here, is to be sealed: nobody had it first, its source is still believed."""

        def wanted() -> int | None:
            believed = self._sources.checked or not source.blamed
            return source.number if believed and self._plan.win(lease) else None

        return wanted


async def introduce(services: Services, job: PartJob, source: Source, seen: Representation) -> None:
    """Keep what a source says of itself at its first answer: its later ones are compared with that. Two mirrors have
    different validators; only the length, and hashes, hold for all."""
    url = str(source.url)
    if url in job.record.validators:
        return
    if source.representation is None:  # the part was begun with it
        seen = job.record.representation
    source.representation = replace(seen, length=job.record.length)
    job.record = replace(job.record, validators={**job.record.validators, url: source.representation})
    job.record = await services.write(services.store.put_part, job.entry_id, job.epoch, job.record)


# Called when a chunk is here: the number of its source when it is to be sealed, None when it is to be forgotten.
Wanted = Callable[[], int | None]


async def receive_chunk(
    services: Services, exchange: Exchange, job: PartJob, index: int, wanted: Wanted | None = None
) -> bool:
    """Receive the bytes of one chunk and hand them to the sealer; False when they were not ``wanted`` any more."""
    size = job.grid.size(index)
    buffer = await services.sealing.acquire(size)
    try:
        received = await _fill(exchange, buffer, 0, size)
        if received < size:
            raise ConnectionLost(f"the body ended {size - received} bytes before the end of chunk {index}")
        await services.committer.reserve(size)
    except BaseException:
        services.sealing.release(buffer)
        raise
    number = 0 if wanted is None else wanted()
    if number is None:
        services.sealing.release(buffer)
        services.committer.unreserve(size)
        return False
    if job.ledger is not None:
        job.ledger.came(index, number)
    services.sealing.submit(job, index, buffer, size, sole=job.grid.sole)
    return True


async def discard(services: Services, exchange: Exchange, count: int) -> None:
    """Receive and forget ``count`` bytes."""
    buffer = await services.sealing.acquire(min(count, services.config.chunk_bytes))
    try:
        while count > 0:
            received = await _fill(exchange, buffer, 0, min(count, len(buffer)))
            if received == 0:
                raise ConnectionLost(f"the body ended {count} bytes early")
            count -= received
    finally:
        services.sealing.release(buffer)


async def receive_unknown(services: Services, exchange: Exchange, job: PartJob, entry: DownloadEntry) -> int:
    """The whole file, length unknown until its proper end; returns the length.

    Whether the first chunk is the only one decides how it is hashed, so it is sealed only when one more byte, or the
    end, has come. Raises IntegrityError beyond the expected length, TooBig beyond ``part_bytes_max``, NoSpace when it
    grows into the configured reserve, QuotaReached when it grows beyond the quota of its scope.
    """
    chunk = job.grid.chunk_bytes
    length = index = 0
    carried = bytearray()
    while True:
        if index % CHUNKS_PER_SPACE_CHECK == 0:
            await services.work(_take_room, services, job)
            await services.reservations.hold(entry, length, ended=False)
        buffer = await services.sealing.acquire(chunk)
        try:
            received = len(carried)
            if carried:
                with memoryview(buffer) as whole:
                    whole[:received] = carried
            received += await _fill(exchange, buffer, received, chunk)
            ended = received < chunk
            carried = bytearray()
            if index == 0 and not ended:
                carried = bytearray(1)
                with memoryview(carried) as view:
                    ended = await exchange.fill(view) == 0
            length += received
            _check_growth(length if ended else length + len(carried), entry.expected_length, services.config)
            await services.committer.reserve(received)
        except BaseException:
            services.sealing.release(buffer)
            raise
        if received:
            services.sealing.submit(job, index, buffer, received, sole=index == 0 and ended)
        else:
            services.sealing.release(buffer)
        if ended:
            return length
        index += 1


def _take_room(services: Services, job: PartJob) -> None:
    """Raise NoSpace when a body of unknown length reached the reserve, or what is promised to others."""
    reserve = services.config.free_space_reserve_bytes
    services.reservations.take(job.entry_id, services.files, job.file.folder_fd, job.file.name, 0, reserve)


def _check_growth(length: int, expected: int | None, config: Config) -> None:
    """An endless body must fill neither the disk nor the time (S26)."""
    if expected is not None and length > expected:
        raise IntegrityError(f"the body is longer than the {expected} bytes expected")
    if length > config.part_bytes_max:
        raise TooBig(f"the body is longer than {config.part_bytes_max} bytes")


async def _fill(exchange: Exchange, buffer: ChunkBuffer, start: int, end: int) -> int:
    with memoryview(buffer) as whole, whole[start:end] as view:
        return await exchange.fill(view)
