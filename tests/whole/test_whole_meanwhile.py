"""What a user does while clean-up is on its way to the same entry: whoever is first counts, and is told the truth."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from engine import DownloadRequest, Engine, State, UnknownEntry, open_engine
from engine.control.maintenance import DAY_S, MaintenanceReport
from engine.control.orphans import Action, What
from engine.store.tombstones import Tombstone
from tests.support.library import CHUNK, content, files_under, payload_of, small
from tests.support.origin import Origin, Reply, serve
from tests.support.upkeep import spoil

PAYLOAD = payload_of(20 * CHUNK + 5, seed=83)
LATER = 2.0**40


@asynccontextmanager
async def library_with_an_expired_file(library: Path, **changes: object) -> AsyncIterator[tuple[Engine, Origin]]:
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(**changes)) as engine:
        await (await engine.offline(DownloadRequest(url=origin.url("a.bin"), id="a"))).wait()
        await engine.expire("a", 1000.0)
        yield engine, origin


async def until_queued(engine: Engine, count: int) -> None:
    """Wait until so many wait for the entry that somebody has alone."""
    with trio.fail_after(20):
        while engine._manager.runs._locks["a"].statistics().tasks_waiting < count:  # noqa: ASYNC110  # a lock tells nobody
            await trio.sleep(0.001)


async def in_turn(engine: Engine, *steps: Callable[[], Awaitable[object]]) -> list[Any]:
    """All of them want the entry, in this order, and then get it; what each returned."""
    results: list[Any] = [None] * len(steps)

    async def take(number: int) -> None:
        results[number] = await steps[number]()

    async with trio.open_nursery() as nursery, engine._manager.runs.alone("a"):
        for number in range(len(steps)):
            nursery.start_soon(take, number)
            await until_queued(engine, number + 1)
    return results


def about(report: MaintenanceReport, what: What) -> list[Action]:
    return [one.action for one in report.findings if one.what is what]


async def test_a_file_that_is_renewed_while_it_is_to_go_stays(library: Path) -> None:
    async with library_with_an_expired_file(library) as (engine, _):
        renewed, report = await in_turn(engine, lambda: engine.expire("a", LATER), engine.gc)
        assert renewed.expires_at == LATER
        assert about(report, What.EXPIRED) == [Action.KEPT]
        assert files_under(library / "files") == {"a.bin"}


async def test_a_file_that_is_pinned_while_it_is_to_go_stays(library: Path) -> None:
    async with library_with_an_expired_file(library) as (engine, _):
        pinned, report = await in_turn(engine, lambda: engine.pin("a"), engine.gc)
        assert pinned.pinned
        assert about(report, What.EXPIRED) == [Action.KEPT]
        assert files_under(library / "files") == {"a.bin"}


async def test_a_file_that_is_being_mended_while_it_is_to_go_stays(library: Path) -> None:
    async with library_with_an_expired_file(library) as (engine, _):
        offline = await engine.offline_entry("a")
        assert offline is not None
        spoil(offline.path, [5 * CHUNK])
        _, report = await in_turn(engine, lambda: engine.repair("a"), engine.gc)
        assert about(report, What.EXPIRED) == [Action.KEPT]
        with trio.fail_after(20):
            assert (await engine._manager.wait("a")).state is State.COMPLETED
        assert content(offline.path) == PAYLOAD


async def test_a_file_that_is_opened_while_it_is_to_go_stays(library: Path) -> None:
    async with library_with_an_expired_file(library) as (engine, _), trio.open_nursery() as nursery:
        reports: list[MaintenanceReport] = []

        async def clean() -> None:
            reports.append(await engine.gc())

        async with engine._manager.runs.alone("a"):
            nursery.start_soon(clean)
            await until_queued(engine, 1)
            reading = engine.reading("a")
            path = reading.__enter__()
        with trio.fail_after(20):
            while not reports:  # noqa: ASYNC110  # it needs nothing of ours any more
                await trio.sleep(0.001)
        assert about(reports[0], What.EXPIRED) == [Action.KEPT]
        assert content(path) == PAYLOAD
        reading.__exit__(None, None, None)


async def test_who_comes_after_a_file_began_to_go_is_told(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last look at it on nobody gets the path of what is about to be deleted."""
    async with library_with_an_expired_file(library) as (engine, _):
        tombstones = engine._services.store.tombstones
        bury, refusals = tombstones.bury, []

        def watched(entry_id: str, *, keep_file: bool = False) -> Tombstone:
            try:
                with engine._upkeep.space.readers.hold(entry_id):
                    pass
            except UnknownEntry as error:
                refusals.append(str(error))
            return bury(entry_id, keep_file=keep_file)

        monkeypatch.setattr(tombstones, "bury", watched)
        assert about(await engine.gc(), What.EXPIRED) == [Action.REMOVED]
        assert refusals == ["the finished file of a is being evicted"]
        with pytest.raises(UnknownEntry), engine.reading("a"):
            pass


async def test_a_file_that_stays_after_all_can_be_read_again(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with library_with_an_expired_file(library) as (engine, _):

        def refused(entry_id: str, *, keep_file: bool = False) -> Tombstone:
            raise UnknownEntry("not now")

        with monkeypatch.context() as patch:
            patch.setattr(engine._services.store.tombstones, "bury", refused)
            assert about(await engine.gc(), What.EXPIRED) == [Action.KEPT]
        with engine.reading("a") as path:
            assert content(path) == PAYLOAD


async def test_a_stale_entry_that_is_tried_again_while_it_is_to_be_forgotten_stays(library: Path) -> None:
    config = small(stale_entry_days=1)
    async with serve(PAYLOAD, lambda _: Reply(status=404)) as origin, open_engine(library, config=config) as engine:
        await engine.offline(DownloadRequest(url=origin.url("a.bin"), id="a"))
        entry = await engine._manager.wait("a")
        assert entry.state is State.FAILED
        services = engine._services
        await services.write(services.store.update, "a", entry.epoch, updated_at=entry.updated_at - 2 * DAY_S)
        origin.script = lambda _: Reply()
        report, retried = await in_turn(engine, lambda: engine.gc(remove_stale=True), lambda: engine.retry("a"))
        assert retried.state is State.PENDING
        assert about(report, What.STALE_ENTRY) == [Action.KEPT]
        with trio.fail_after(20):
            assert (await engine._manager.wait("a")).state is State.COMPLETED
