"""A part fetched in spans: several fetchers over one plan."""

from __future__ import annotations

from typing import NamedTuple

import trio

from engine.errors import Changed, ConnectionLost, EngineError, HttpStatus
from engine.model.records import DownloadEntry
from engine.net.connection import Exchange
from engine.net.response import Answer
from engine.transfer.fetcher import FAILURES_IN_A_ROW_MAX, Fetcher, Opened, RangesLost, Source
from engine.transfer.part_job import PartJob
from engine.transfer.plan import Plan
from engine.transfer.services import Services
from engine.transfer.stream import stream


class Begun(NamedTuple):
    """An exchange that is open, and its answer: a range from byte 0."""

    exchange: Exchange
    answer: Answer


async def fetch_spans(
    services: Services, source: Source, entry: DownloadEntry, job: PartJob, begun: Begun | None = None
) -> None:
    """Fetch what is missing; the exchange that is open already serves the first lease."""
    connections = _connections(services, entry, job)
    comparable = job.record.representation.comparable
    plan = Plan(job.grid, job.held, connections, services.config, in_one_piece=not comparable)
    opened = None
    if begun is not None and begun.answer.end is not None:
        lease = plan.lease(max(1, job.grid.chunks_within(0, begun.answer.end)[1]))
        opened = None if lease is None else Opened(begun.exchange, begun.answer, lease)
    workers = _workers(services, connections, plan, job)
    # Without a validator every failure ends the attempt: the next one compares the bytes again before it goes on.
    patience = FAILURES_IN_A_ROW_MAX if comparable else 1
    fetchers = [Fetcher(services, source, job, plan, patience) for _ in range(workers)]
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
    if job.error is not None:
        raise job.error
    if failures and isinstance(failures[0], RangesLost):
        await _stream_again(services, source, entry, job, failures[0])
    elif failures:
        raise failures[0]
    elif plan.unclaimed:
        last = next((fetcher.last_error for fetcher in fetchers if fetcher.last_error is not None), None)
        raise last or ConnectionLost(f"{plan.unclaimed} chunks were given up")


def _connections(services: Services, entry: DownloadEntry, job: PartJob) -> int:
    config = services.config
    if job.grid.length < config.parallel_bytes_min or not job.record.representation.comparable:
        return 1
    return min(entry.connections or config.connections_per_entry, config.connections_per_entry_max)


def _workers(services: Services, connections: int, plan: Plan, job: PartJob) -> int:
    spans = -(-plan.unclaimed * job.grid.chunk_bytes // services.config.span_bytes_min)
    return max(1, min(connections, spans + 1))


async def _stream_again(
    services: Services, source: Source, entry: DownloadEntry, job: PartJob, lost: RangesLost
) -> None:
    """Ranges are not served any more: one stream from the first byte, skipping what is held if it is the same file."""
    known = job.record.representation
    if not known.comparable or lost.representation.length != known.length:
        raise Changed("the source serves no ranges any more, and nothing shows that its bytes are the same")
    job.scope = trio.CancelScope()
    await services.committer.flush(job)
    await stream(services, source, entry, job)
