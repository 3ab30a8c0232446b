"""Whether a source that gives no validator still has the bytes that are held."""

from __future__ import annotations

from engine.errors import Changed, ConnectionLost, Incomparable
from engine.model.records import Representation
from engine.net.connection import Exchange
from engine.net.head import Framing
from engine.net.response import Answer, AnswerKind, judge
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services
from engine.transfer.setup_part import chunk_digest
from engine.transfer.sources import Source


async def check_same_bytes(
    services: Services, source: Source, job: PartJob, known: Representation | None = None
) -> None:
    """Fetch two held chunks again, the last and a random one, and compare their CVs. ``known``: what the answers must
    agree with, when that is not what is on record.

    Raises Changed; Incomparable when the source does not serve what would have to be compared.
    """
    runs = list(job.held.runs())
    if not runs:
        return
    first, count = services.rng.choice(runs)
    for index in {sum(runs[-1]) - 1, first + services.rng.randrange(count)}:
        cv = await services.work(services.store.cvs, job.entry_id, job.record.index, 1, first=index)
        data = await _fetch_again(source, job, index, job.record.representation if known is None else known)
        if chunk_digest(data, job.grid, index) != cv:
            raise Changed(f"chunk {index} has other bytes than before")


async def check_total(source: Source, job: PartJob) -> None:
    """Ask for everything, only for what the head tells of it: the source has no byte of a range, and does not say how
    many there are. Raises Changed when they are not as many as before."""
    exchange = await source.open(None, None)
    try:
        judge(exchange.head, None, source.known(job.record), exchange.redirected)
    finally:
        source.done(exchange)


def hold_to_range(exchange: Exchange, answer: Answer) -> None:
    """A range whose body states no length of its own (chunked) must still be as long as it says."""
    if answer.end is not None and exchange.framing is not Framing.LENGTH:
        exchange.expect(answer.end - answer.start)


async def _fetch_again(source: Source, job: PartJob, index: int, known: Representation) -> bytes:
    data = bytearray(job.grid.size(index))
    start, end = job.grid.byte_range(index, 1)
    exchange = await source.open(start, end)
    try:
        answer = judge(exchange.head, (start, end), known, exchange.redirected)
        if answer.kind is not AnswerKind.RANGE or (answer.start, answer.end) != (start, end):
            raise Incomparable("the source does not serve the range that it served before")
        hold_to_range(exchange, answer)
        with memoryview(data) as view:
            if (came := await exchange.fill(view)) < len(data):
                raise ConnectionLost(f"the body ended {len(data) - came} bytes early")
    finally:
        source.done(exchange)
    return bytes(data)
