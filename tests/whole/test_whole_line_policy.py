"""Which line may be used, by the whole engine: metered lines as NetworkManager tells them, sizes, hours, the engine's
and an entry's own policy, changed while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from engine import (
    DownloadEntry,
    DownloadRequest,
    Engine,
    InvalidRequest,
    Line,
    LineChanged,
    LinePolicy,
    Reason,
    State,
    StateChanged,
    StaticMonitor,
    Subscription,
    open_engine,
)
from engine.config import MIB, Config
from engine.control import line_gate
from tests.support.library import content, payload_of, small
from tests.support.lines import FREE, GONE, METERED, MINDS, QUICK, until
from tests.support.netns import SERVER_ADDRESS, cable, inside
from tests.support.nm_mock import METERED_GUESS_YES, METERED_NO, METERED_YES, private_bus
from tests.support.origin import Asked, Origin, Reply, serve

PAYLOAD = payload_of(2 * MIB)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The origins of these tests count as other machines, although they are not."""
    monkeypatch.setattr(line_gate, "is_here", lambda _: False)


@asynccontextmanager
async def opened(
    root: Path, origin: Origin, line: Line, *, config: Config = QUICK, policy: LinePolicy | None = None
) -> AsyncIterator[tuple[Engine, StaticMonitor, Subscription]]:
    monitor = StaticMonitor(line)
    async with open_engine(root, config=config, network=monitor, line_policy=policy or LinePolicy(), seed=1) as engine:
        with engine.events() as events:
            yield engine, monitor, events


def request(origin: Origin, entry_id: str = "film", **policy: object) -> DownloadRequest:
    line = LinePolicy(**policy)  # type: ignore[arg-type]  # by name
    return DownloadRequest(url=origin.url(entry_id), id=entry_id, line=line)


async def test_a_line_that_becomes_metered_pauses_what_runs_and_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With NetworkManager as python-dbusmock plays it, and a real link: each flip pauses at once, by itself."""
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(private_bus(tmp_path, monkeypatch))
        await bus.start()
        pair = stack.enter_context(cable())
        with inside(pair.server):
            origin = await stack.enter_async_context(serve(PAYLOAD, host=SERVER_ADDRESS, address="0.0.0.0"))
        origin.rate = MIB / 2
        engine = await stack.enter_async_context(open_engine(tmp_path / "library", config=QUICK, seed=1))
        events = stack.enter_context(engine.events())
        minding = await engine.offline(request(origin, allow_metered=False))
        careless = await engine.offline(request(origin, "other"))
        for metered in (METERED_YES, METERED_GUESS_YES):
            await until(events, State.IN_PROGRESS)
            await origin.until_sent(origin.sent + MIB // 8)
            await bus.metered(metered)
            await until(events, State.PAUSED, Reason.METERED)
            assert engine.line().metered
            assert "unmetered line" in (await engine.explain("film")).text
            assert (await engine.get("other")).state is State.IN_PROGRESS
            await bus.metered(METERED_NO)
        origin.rate = None
        for download in (minding, careless):
            assert content((await download.wait()).path) == PAYLOAD
        entry = await engine.get("film")
        assert [attempt.error for attempt in entry.attempts] == [None, None, None]


@pytest.mark.usefixtures("elsewhere")
async def test_what_waits_is_held_back_without_a_change_of_its_record_and_others_pass(tmp_path: Path) -> None:
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, METERED) as (engine, monitor, _):
        waiting = [await engine.offline(request(origin, f"w{number}", allow_metered=False)) for number in range(20)]
        passing = await engine.offline(request(origin, "passes"))
        await passing.wait()
        for download in waiting:
            entry = await engine.get(download.id)
            assert (entry.state, entry.attempt_count) == (State.PENDING, 0)
        assert "waits for an unmetered line" in (await engine.explain("w0")).text
        monitor.set(FREE)
        for download in waiting:
            await download.wait()


@pytest.mark.usefixtures("elsewhere")
async def test_nothing_is_begun_without_a_link_and_all_of_it_once_there_is_one(tmp_path: Path) -> None:
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, GONE) as (engine, monitor, events):
        download = await engine.offline(request(origin))
        monitor.set(METERED)
        await until(events, State.IN_PROGRESS)
        await download.wait()
        assert len(origin.asked) >= 1
        assert (await engine.get("film")).attempt_count == 1


@pytest.mark.usefixtures("elsewhere")
async def test_too_big_for_a_metered_line_is_known_from_the_answer_and_remembered(tmp_path: Path) -> None:
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, METERED) as (engine, monitor, events):
        small_enough = await engine.offline(request(origin, "fits", metered_bytes_max=len(PAYLOAD)))
        await small_enough.wait()
        origin.forget()
        await engine.offline(request(origin, metered_bytes_max=len(PAYLOAD) - 1))
        await until(events, State.PAUSED, Reason.METERED)
        entry = await engine.get("film")
        assert entry.last_error is not None
        assert entry.last_error.code == "metered"
        assert len(origin.asked) == 1
        await engine.resume("film")  # even so: it waits for its turn
        monitor.set(METERED)
        assert "waits for an unmetered line" in (await engine.explain("film")).text
        assert len(origin.asked) == 1, "nothing is asked to be told the same again"
        monitor.set(FREE)
        assert content((await engine.wait("film")).path) == PAYLOAD


@pytest.mark.usefixtures("elsewhere")
async def test_what_is_too_big_is_paused_when_the_line_becomes_metered_and_stays_so_in_the_next_engine(
    tmp_path: Path,
) -> None:
    """Its record tells no size before it is complete; its part does."""
    async with serve(PAYLOAD) as origin:
        origin.rate = MIB / 2
        async with opened(tmp_path, origin, FREE) as (engine, monitor, events):
            await engine.offline(request(origin, metered_bytes_max=1000))
            await origin.until_sent(MIB // 2)
            monitor.set(METERED)
            await until(events, State.PAUSED, Reason.METERED)
            await engine.resume("film")
            assert (await engine.get("film")).state is State.PENDING
        asked = len(origin.asked)
        async with opened(tmp_path, origin, METERED) as (engine, monitor, events):
            await (await engine.offline(request(origin, "other"))).wait()
            assert (await engine.get("film")).state is State.PENDING
            assert [one.target for one in origin.asked[asked:] if "film" in one.target] == []
            origin.rate = None
            monitor.set(FREE)
            assert content((await engine.wait("film")).path) == PAYLOAD


@pytest.mark.usefixtures("elsewhere")
async def test_a_length_that_nobody_tells_may_be_too_much(tmp_path: Path) -> None:
    def chunked(asked: Asked) -> Reply:
        return Reply(framing="chunked", ranges=False)

    async with serve(PAYLOAD, chunked) as origin, opened(tmp_path, origin, METERED) as (engine, monitor, events):
        await engine.offline(request(origin, metered_bytes_max=10 * MIB))
        await until(events, State.PAUSED, Reason.METERED)
        assert len(origin.asked) == 1
        monitor.set(FREE)
        assert content((await engine.wait("film")).path) == PAYLOAD


@pytest.mark.usefixtures("elsewhere")
async def test_the_engines_policy_is_changed_while_it_runs(tmp_path: Path) -> None:
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, METERED) as (engine, _, events):
        origin.rate = MIB / 2
        running = await engine.offline(request(origin))
        own = await engine.offline(request(origin, "own", allow_metered=True))
        await until(events, State.IN_PROGRESS)
        await engine.set_line_policy(MINDS)
        await until(events, State.PAUSED, Reason.METERED)
        late = await engine.offline(request(origin, "late"))
        origin.rate = None
        await own.wait()
        assert (await engine.get("late")).attempt_count == 0
        with pytest.raises(InvalidRequest):
            await engine.set_line_policy(LinePolicy(hours="noon"))
        await engine.set_line_policy(LinePolicy())
        for download in (running, late):
            await download.wait()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(("config", "policy"), [(small(allow_metered=False), LinePolicy()), (QUICK, MINDS)])
async def test_the_engines_policy_as_it_was_opened(tmp_path: Path, config: Config, policy: LinePolicy) -> None:
    async with (
        serve(PAYLOAD) as origin,
        opened(tmp_path, origin, METERED, config=config, policy=policy) as (engine, _, _),
    ):
        await engine.offline(request(origin))
        await (await engine.offline(request(origin, "own", allow_metered=True))).wait()
        assert (await engine.get("film")).attempt_count == 0


@pytest.mark.usefixtures("elsewhere")
async def test_the_configured_cap_counts_for_who_says_nothing(tmp_path: Path) -> None:
    config = small(metered_bytes_max=1000)
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, METERED, config=config) as (engine, _, events):
        await engine.offline(request(origin))
        await until(events, State.PAUSED, Reason.METERED)
        await (await engine.offline(request(origin, "own", metered_bytes_max=0))).wait()


@pytest.mark.usefixtures("elsewhere")
async def test_asking_again_with_another_policy_counts_at_once(tmp_path: Path) -> None:
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, METERED) as (engine, _, events):
        await engine.offline(request(origin, allow_metered=False))
        await (await engine.offline(request(origin, allow_metered=True))).wait()
        entry = await engine.get("film")
        assert entry.line == LinePolicy(allow_metered=True)
        await until(events, State.COMPLETED)


@pytest.mark.usefixtures("elsewhere")
async def test_hours_pause_what_runs_and_let_it_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the verdicts is set by hand; that they are looked at again is the gate's own test."""
    from engine.model import line_policy

    is_open = True
    monkeypatch.setattr(line_policy, "within", lambda windows, now: (is_open or not windows, None))
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, FREE) as (engine, monitor, events):
        origin.rate = MIB / 2
        download = await engine.offline(request(origin, hours="22:00-06:00"))
        await until(events, State.IN_PROGRESS)
        is_open = False
        monitor.set(METERED)  # any change has it look
        await until(events, State.PAUSED, Reason.HOURS)
        assert "its hours, 22:00-06:00" in (await engine.explain("film")).text
        is_open = True
        origin.rate = None
        monitor.set(FREE)
        await download.wait()


@pytest.mark.usefixtures("elsewhere")
async def test_connections_of_a_line_that_is_gone_are_not_used_again(tmp_path: Path) -> None:
    """N20: they may be dead without knowing it."""
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, FREE) as (engine, monitor, _):
        await (await engine.offline(request(origin, "first"))).wait()
        monitor.set(GONE)
        before = {asked.connection for asked in origin.asked}
        monitor.set(FREE)
        await (await engine.offline(request(origin, "second"))).wait()
        later = {asked.connection for asked in origin.asked if "second" in asked.target}
        assert later
        assert not later & before


@pytest.mark.usefixtures("elsewhere")
async def test_changes_of_the_line_are_told(tmp_path: Path) -> None:
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, FREE) as (engine, monitor, events):
        assert engine.line() == FREE
        for line in (METERED, METERED, GONE):
            monitor.set(line)
        told = [await anext(events), await anext(events)]
        assert [event.line for event in told if isinstance(event, LineChanged)] == [METERED, GONE]


@pytest.mark.usefixtures("elsewhere")
async def test_an_error_without_a_link_is_the_links_and_no_try(tmp_path: Path) -> None:
    """The connection breaks in the same moment as the line, and may be noticed first."""

    def hang(asked: Asked) -> Reply:
        return Reply(send=1000, rate=10.0)

    config = small(network_settle_s=0.05, idle_timeout_s=0.2)
    async with serve(PAYLOAD, hang) as origin, opened(tmp_path, origin, FREE, config=config) as (engine, _, events):
        gate = engine._manager.runs.gate
        await engine.offline(request(origin))
        await origin.until_asked(1)
        gate.update(GONE)  # and nobody is told: as if the task that pauses had not had its turn yet
        entry: DownloadEntry | None = None
        async for event in events:
            if isinstance(event, StateChanged) and event.state is not State.IN_PROGRESS and event.previous:
                entry = await engine.get("film")
                break
        assert entry is not None
        assert (entry.state, entry.state_reason) == (State.PAUSED, Reason.NETWORK)


async def test_a_policy_that_cannot_be_met_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        async with open_engine(tmp_path / "none", line_policy=LinePolicy(interfaces=("",))):
            raise AssertionError("it was opened")
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, FREE) as (engine, _, _):
        with pytest.raises(InvalidRequest):
            await engine.offline(request(origin, hours="noon"))
        with pytest.raises(InvalidRequest):
            await engine.offline(DownloadRequest(url=origin.url(), line="wifi"))  # type: ignore[arg-type]
        await trio.lowlevel.checkpoint()
