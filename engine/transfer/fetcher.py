"""From an HTTP answer into chunk buffers: spans where ranges are proven, one stream where they are not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from engine.config import Config
from engine.errors import BadRange, Changed, ConnectionLost, IntegrityError, TooBig, TransferError
from engine.model.records import Representation
from engine.model.retry import decide
from engine.native import ChunkBuffer
from engine.net.client import Client
from engine.net.connection import Exchange
from engine.net.head import Framing
from engine.net.response import Answer, AnswerKind, judge
from engine.net.url import Url
from engine.transfer.part_job import PartJob
from engine.transfer.plan import Lease, Plan
from engine.transfer.services import Services

# A fetcher whose spans fail this often in a row, without one chunk between, retires; the others take over its chunks.
FAILURES_IN_A_ROW_MAX = 3
# A body of unknown length grows towards the reserve of free space, which is looked at this often.
CHUNKS_PER_SPACE_CHECK = 16


class RangesLost(Exception):  # a signal inside this package, not an error that anyone is told
    """The source answered a Range request in the middle of the file with the whole file, or with less than a chunk."""

    def __init__(self, representation: Representation) -> None:
        super().__init__("the source does not serve ranges any more")
        self.representation = representation


@dataclass(slots=True)
class Source:
    """Where a part comes from: the URL, and the header fields that belong to its origin. Counts what came off the
    wire."""

    client: Client
    url: Url
    fields: tuple[tuple[str, str], ...]
    bytes_received: int = 0
    _open: set[Exchange] = field(default_factory=set)

    async def open(self, start: int | None, end: int | None) -> Exchange:
        """Ask for ``[start, end)``, or for the whole with ``start`` None."""
        exchange = await self.client.open(self.url, range=None if start is None else (start, end), fields=self.fields)
        self._open.add(exchange)
        return exchange

    def done(self, exchange: Exchange) -> None:
        """Give the exchange back, to the pool if it ended well."""
        self._open.discard(exchange)
        self.bytes_received += exchange.received
        exchange.release()

    @property
    def bytes_so_far(self) -> int:
        """Body bytes received, those of running exchanges included."""
        return self.bytes_received + sum(exchange.received for exchange in self._open)


class Opened(NamedTuple):
    """An exchange whose answer was judged, and the chunks that it serves."""

    exchange: Exchange
    answer: Answer
    lease: Lease


class Fetcher:
    """One worker of a part: leases spans until the plan has none left."""

    def __init__(
        self, services: Services, source: Source, job: PartJob, plan: Plan, patience: int = FAILURES_IN_A_ROW_MAX
    ) -> None:
        self._patience = patience
        self._services = services
        self._source = source
        self._job = job
        self._plan = plan
        self.last_error: TransferError | None = None
        self.chunks_received = 0

    async def run(self, opened: Opened | None = None) -> None:
        """Fetch until nothing is left to lease, beginning with an exchange that is open already when one is given.

        Ends quietly with ``last_error`` set when it retires. Raises what no other fetcher could do better (a changed
        source, a full disk …) and :class:`RangesLost`.
        """
        failures = 0
        while opened is not None or self._plan.unclaimed:
            before = self.chunks_received
            try:
                await self._receive_span(opened or await self._open_span())
                failures = 0
            except TransferError as error:
                self.last_error = error
                if not error.retryable or isinstance(error, Changed):
                    raise
                failures = 1 if self.chunks_received > before else failures + 1
                if failures >= self._patience or error.retry_after_s is not None:
                    return
                decision = decide(error, failures, self._services.config, self._services.rng)
                await trio.sleep(decision.delay_s or 0.0)
            opened = None

    async def _open_span(self) -> Opened:
        lease = self._plan.lease()
        assert lease is not None  # noqa: S101  # run() looked, without a checkpoint between
        start, end = self._job.grid.byte_range(lease.first, lease.count)
        exchange: Exchange | None = None
        try:
            exchange = await self._source.open(start, end)
            answer = judge(exchange.head, (start, end), self._job.record.representation, exchange.redirected)
            if answer.kind is AnswerKind.WHOLE:
                raise RangesLost(answer.representation)
            if answer.kind is AnswerKind.UNSATISFIED:
                raise BadRange(f"the source says that bytes {start}-{end - 1} are not in the file", status=416)
            hold_to_range(exchange, answer)
        except BaseException:
            self._plan.give_back(lease.first, lease.count)
            if exchange is not None:
                self._source.done(exchange)
            raise
        return Opened(exchange, answer, lease)

    async def _receive_span(self, opened: Opened) -> None:
        """Receive the lease's whole chunks that the answer covers; what is left of the lease goes back to the plan."""
        exchange, answer, lease = opened
        at = lease.first
        try:
            start = self._job.grid.offset(lease.first)
            if answer.start < start:
                await discard(self._services, exchange, start - answer.start)
            covered = start if answer.end is None else answer.end
            _, end = self._job.grid.chunks_within(start, covered)
            end = min(end, lease.end)
            if end <= lease.first:
                raise RangesLost(answer.representation)  # its ranges are capped below a chunk: of no use here
            while at < end:
                await receive_chunk(self._services, exchange, self._job, at)
                self.chunks_received += 1
                at += 1
        finally:
            self._plan.give_back(at, lease.end - at)
            self._source.done(exchange)


def hold_to_range(exchange: Exchange, answer: Answer) -> None:
    """A range whose body states no length of its own (chunked) must still be as long as it says."""
    if answer.end is not None and exchange.framing is not Framing.LENGTH:
        exchange.expect(answer.end - answer.start)


async def receive_chunk(services: Services, exchange: Exchange, job: PartJob, index: int) -> None:
    """Receive the bytes of one chunk and hand them to the sealer."""
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
    services.sealing.submit(job, index, buffer, size, sole=job.grid.sole)


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


async def receive_known(services: Services, exchange: Exchange, job: PartJob) -> None:
    """The whole file from its first byte, length known; chunks that are held already are received and forgotten."""
    for index in range(job.grid.count):
        if index in job.held:
            await discard(services, exchange, job.grid.size(index))
        else:
            await receive_chunk(services, exchange, job, index)


async def receive_unknown(services: Services, exchange: Exchange, job: PartJob, expected: int | None) -> int:
    """The whole file, length unknown until its proper end; returns the length.

    Whether the first chunk is the only one decides how it is hashed, so it is sealed only when one more byte, or the
    end, has come. Raises IntegrityError beyond the ``expected`` length, TooBig beyond ``part_bytes_max``, NoSpace when
    it grows into the configured reserve.
    """
    chunk = job.grid.chunk_bytes
    length = index = 0
    carried = bytearray()
    while True:
        if index % CHUNKS_PER_SPACE_CHECK == 0:
            await services.work(_take_room, services, job)
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
            _check_growth(length if ended else length + len(carried), expected, services.config)
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
