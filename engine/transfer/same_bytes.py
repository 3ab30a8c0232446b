"""Whether a source that gives no validator still has the bytes that are held."""

from __future__ import annotations

from engine.errors import Changed
from engine.net.response import AnswerKind, judge
from engine.transfer.fetcher import Source
from engine.transfer.part_job import PartJob
from engine.transfer.services import Services
from engine.transfer.setup_part import chunk_digest


async def check_same_bytes(services: Services, source: Source, job: PartJob) -> None:
    """Fetch two held chunks again, the last and a random one, and compare their CVs. Raises Changed."""
    runs = list(job.held.runs())
    if not runs:
        return
    first, count = services.rng.choice(runs)
    for index in {sum(runs[-1]) - 1, first + services.rng.randrange(count)}:
        cv = await services.work(services.store.cvs, job.entry_id, job.record.index, 1, first=index)
        if chunk_digest(await _fetch_again(source, job, index), job.grid, index) != cv:
            raise Changed(f"chunk {index} has other bytes than before")


async def _fetch_again(source: Source, job: PartJob, index: int) -> bytes:
    data = bytearray(job.grid.size(index))
    start, end = job.grid.byte_range(index, 1)
    exchange = await source.open(start, end)
    try:
        answer = judge(exchange.head, (start, end), job.record.representation, exchange.redirected)
        if answer.kind is not AnswerKind.RANGE or answer.start != start:
            raise Changed("the source does not serve the range that it served before")
        with memoryview(data) as view:
            await exchange.fill(view)
    finally:
        source.done(exchange)
    return bytes(data)
