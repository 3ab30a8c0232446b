"""Limits, turns and priorities of a whole engine, read from its event log and from what the servers saw."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import DownloadRequest, Reason, State, StateChanged, open_engine
from engine.control.hub import Subscription
from tests.support.library import BIG_CHUNK, CHUNK, content, payload_of, small
from tests.support.origin import Asked, End, Reply, serve

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
PAYLOAD = payload_of(CHUNK - 5, seed=40)


class Log:
    """Who runs, from the events alone: ``hosts`` by entry id; ``most`` ran at once of each host, and of all ("")."""

    def __init__(self, hosts: dict[str, str]) -> None:
        self.hosts = hosts
        self.running: set[str] = set()
        self.most: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.begun: list[str] = []

    async def read(self, events: Subscription) -> None:
        async for event in events:
            if not isinstance(event, StateChanged):
                continue
            if event.state is State.IN_PROGRESS:
                assert event.id not in self.running, "two tasks for one entry"
                self.running.add(event.id)
                self.begun.append(event.id)
            else:
                self.running.discard(event.id)
            if event.state is State.COMPLETED:
                self.ended[event.id] += 1
            counts = Counter(self.hosts[entry_id] for entry_id in self.running)
            counts[""] = len(self.running)
            self.most |= counts


async def test_no_limit_is_exceeded_and_no_entry_is_forgotten(library: Path) -> None:
    """300 entries over three hosts, a few of which fail at first."""
    config = small(entries_at_once=7, entries_per_host=3, connections_max=6, connections_per_host=2)
    failed_once: set[str] = set()

    def shaky(asked: Asked) -> Reply:
        if asked.target.endswith("7") and asked.target not in failed_once:
            failed_once.add(asked.target)
            return Reply(send=10, end=End.CLOSE)
        return Reply()

    async with AsyncExitStack() as stack:
        origins = [await stack.enter_async_context(serve(PAYLOAD, shaky, host=at, address=at)) for at in HOSTS]
        requests = [
            DownloadRequest(url=f"{origins[number % 3].base}/file{number}", id=f"e{number}") for number in range(300)
        ]
        log = Log({request.id or "": HOSTS[number % 3] for number, request in enumerate(requests)})
        async with open_engine(library, config=config) as engine, trio.open_nursery() as nursery:
            nursery.start_soon(log.read, engine.events())
            for download in await engine.offline_many(requests):
                assert content((await download.wait()).path) == PAYLOAD
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert log.most == Counter({"": 7, **dict.fromkeys(HOSTS, 3)}), "the limits are reached, and never exceeded"
    assert set(log.ended) == set(log.hosts)
    assert set(log.ended.values()) == {1}
    assert len(failed_once) == 30
    assert log.running == set()


@pytest.mark.parametrize(("per_host", "allowed"), [(2, {2}), (0, {3, 4, 5})])
async def test_a_server_sees_no_more_connections_than_it_may(library: Path, per_host: int, allowed: set[int]) -> None:
    """They are kept alive: as many as were ever opened were open at once."""
    config = small(entries_at_once=5, connections_per_host=per_host)
    async with serve(PAYLOAD) as origin:
        requests = [DownloadRequest(url=origin.url(f"f{number}"), id=f"e{number}") for number in range(40)]
        async with open_engine(library, config=config) as engine:
            for download in await engine.offline_many(requests):
                await download.wait()
        assert origin.connections in allowed


async def test_a_running_one_gives_way_keeps_its_bytes_and_goes_on_later(library: Path) -> None:
    payload = payload_of(40 * BIG_CHUNK, seed=41)
    async with serve(payload) as origin, open_engine(library, config=small(entries_at_once=2)) as engine:
        origin.rate = 2e6
        log = Log(dict.fromkeys("abcd", "h"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.read, engine.events())
            downloads = [await engine.offline(DownloadRequest(url=origin.url(name), id=name)) for name in "abcd"]
            await origin.until_sent(10 * BIG_CHUNK)
            with engine.events("b") as events:
                await engine._manager.runs.prioritise("d", 5, preempt=True)
                while (waiting := await engine.get("b")).state_reason is not Reason.PREEMPTED:
                    await anext(events)
            assert waiting.state is State.PENDING
            origin.rate = None
            for download in downloads:
                assert content((await download.wait()).path) == payload
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        assert log.begun[:3] == ["a", "b", "d"]
        assert sorted(log.begun[3:]) == ["b", "c"]
        assert log.most[""] == 2
        entry = await engine.get("b")
    assert [attempt.error for attempt in entry.attempts] == [None, None]
    assert sum(attempt.bytes_fetched for attempt in entry.attempts) < len(payload) + 8 * BIG_CHUNK
    assert entry.attempts[0].bytes_fetched > 0


async def test_a_new_priority_outlives_the_engine(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=small(records_only=True)) as engine:
            for name in "abc":
                await engine.offline(DownloadRequest(url=origin.url(name), id=name))
            await engine._manager.runs.prioritise("c", 1)
        async with open_engine(library, config=small(entries_at_once=1)) as engine:
            for name in "abc":
                await engine.wait(name)
    assert [asked.target for asked in origin.asked] == ["/c", "/a", "/b"]


async def test_what_no_task_has_is_taken_up_by_the_running_engine(library: Path) -> None:
    """Bug 17, without a restart: on record as running, and nobody runs it."""
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=small(records_only=True)) as engine:
            await engine.offline(DownloadRequest(url=origin.url(), id="a"))
        async with open_engine(library, config=small(reconcile_interval_s=0.05), resume=False) as engine:
            await trio.sleep(0.2)
            assert origin.asked == [], "it was not to be resumed, and nobody asked for it"
            assert engine._manager.runs.active("a") is False
            with engine.events("a") as events:
                await engine._manager.resume_all()
                await engine._manager.runs.stop("a")  # a wake-up is lost
                async for event in events:
                    if isinstance(event, StateChanged) and event.state is State.COMPLETED:
                        break
            assert (await engine.get("a")).state is State.COMPLETED
