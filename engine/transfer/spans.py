"""A part fetched in spans: several fetchers over one plan, from one source or several."""

from __future__ import annotations

from typing import NamedTuple

import trio

from engine.errors import Changed, ConnectionLost, EngineError, HttpStatus, TransferError
from engine.model.records import DownloadEntry
from engine.net.connection import Exchange
from engine.net.response import Answer
from engine.transfer.checks import Checks
from engine.transfer.crew import Crew
from engine.transfer.fetcher import FAILURES_IN_A_ROW_MAX, Fetcher, Opened, RangesLost
from engine.transfer.part_job import PartJob
from engine.transfer.plan import Plan
from engine.transfer.services import Services
from engine.transfer.slow import replace_slow
from engine.transfer.sources import Source, Sources
from engine.transfer.stream import stream


class Begun(NamedTuple):
    """An exchange that is open, and its answer: a range from byte 0."""

    source: Source
    exchange: Exchange
    answer: Answer


async def fetch_spans(
    services: Services, sources: Sources, entry: DownloadEntry, job: PartJob, begun: Begun | None = None
) -> None:
    """Fetch what is missing; the exchange that is open already serves the first lease. Bytes that turn out wrong while
    others are fetched are missing again."""
    sources.bind(job.record)
    connections = _connections(services, entry, job)
    comparable = job.record.representation.comparable
    few = connections or services.config.connections_start
    plan = Plan(job.grid, job.held, few, services.config, in_one_piece=not comparable)
    opened = None
    if begun is not None and begun.answer.end is not None:
        lease = plan.lease(max(1, job.grid.chunks_within(0, begun.answer.end)[1]))
        opened = None if lease is None else Opened(begun.source, begun.exchange, begun.answer, lease)
    checks = Checks(services, entry, job, sources, plan)
    ended: EngineError | RangesLost | None = None
    with job.scope:
        async with trio.open_nursery() as beside:
            checks.begin(beside)
            try:
                await _fetch_all(services, sources, job, plan, connections, checks, opened)
            except (EngineError, RangesLost) as error:
                ended = error
            beside.cancel_scope.cancel()
    if job.error is not None:
        raise job.error
    if checks.failure is not None:
        raise checks.failure
    if isinstance(ended, RangesLost):
        try:
            await _stream_again(services, ended.source, entry, job, ended)
        except TransferError as error:
            sources.failed(ended.source, error, trio.current_time())
            raise
    elif ended is not None:
        raise ended


async def _fetch_all(
    services: Services,
    sources: Sources,
    job: PartJob,
    plan: Plan,
    connections: int,
    checks: Checks,
    opened: Opened | None,
) -> None:
    """Until nothing is missing and all of it is checked."""
    if opened is None and not plan.unclaimed:
        await checks.settle()
    while opened is not None or plan.unclaimed:
        await _fetch_once(services, sources, job, plan, connections, checks, opened)
        opened = None
        await checks.settle()


async def _fetch_once(
    services: Services,
    sources: Sources,
    job: PartJob,
    plan: Plan,
    connections: int,
    checks: Checks,
    opened: Opened | None,
) -> None:
    """Until the plan is finished, or nobody is left who could go on. Raises what ended the last one."""
    # Without a validator every failure ends the attempt: the next one compares the bytes again before it goes on.
    patience = FAILURES_IN_A_ROW_MAX if job.record.representation.comparable else 1
    failures: list[EngineError | RangesLost] = []

    async def work(fetcher: Fetcher, opened: Opened | None) -> None:
        try:
            await fetcher.run(opened)
        except (EngineError, RangesLost) as error:
            others = [other for other in crew.fetchers if other is not fetcher]
            if isinstance(error, HttpStatus) and any(other.chunks_received for other in others):
                return  # the server serves others and only refuses one connection more
            failures.append(error)
            nursery.cancel_scope.cancel()
        finally:
            plan.changed.unpark_all()

    crew = Crew(
        services,
        services.client.hosts.host(sources.lead.url.origin.host),
        plan,
        services.pacing.of(job.entry_id),
        grid=job.grid,
        connections=connections,
        hire=lambda: Fetcher(services, sources, job, plan, patience, checks.gate),
        work=work,
    )
    async with trio.open_nursery() as nursery:
        if sources.several:
            nursery.start_soon(replace_slow, services.config, sources, lambda: crew.fetchers)
        await crew.run(opened)
        nursery.cancel_scope.cancel()
    if job.error is not None:
        raise job.error
    if failures:
        raise failures[0]
    if plan.unclaimed:
        raise crew.last_error or ConnectionLost(f"{plan.unclaimed} chunks were given up")


def _connections(services: Services, entry: DownloadEntry, job: PartJob) -> int:
    """How many at most; 0: as many as pay."""
    config = services.config
    asked = entry.connections or config.connections_per_entry
    if not job.record.representation.comparable or (asked and job.grid.length < config.parallel_bytes_min):
        return 1
    return min(entry.connections or config.connections_per_entry, config.connections_per_entry_max)


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
