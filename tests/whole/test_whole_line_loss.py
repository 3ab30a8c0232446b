"""A line that goes and comes back, in private network namespaces: rtnetlink, TCP and the whole engine (N11, N12)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import Download, DownloadRequest, Engine, Reason, State, StateChanged, open_engine
from engine.config import MIB
from engine.model.events import LineChanged
from engine.model.line_policy import LinePolicy
from engine.network.kernel import KernelMonitor
from tests.support.library import content, payload_of, small
from tests.support.netns import SERVER_ADDRESS, Cable, cable, inside
from tests.support.origin import Origin, serve

PAYLOAD = payload_of(8 * MIB)
PARK = (State.PAUSED, Reason.NETWORK)
Play = Callable[["World"], Awaitable[None]]


@dataclass
class World:
    """An engine at one end of a cable and an origin at the other."""

    cable: Cable
    origin: Origin
    engine: Engine
    download: Download
    seen: list[StateChanged] = field(default_factory=list)
    _more: trio.Event = field(default_factory=trio.Event)

    async def watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Write down every change of the entry's state."""
        with self.engine.events(self.download.id) as events:
            task_status.started()
            async for event in events:
                if isinstance(event, StateChanged):
                    self.seen.append(event)
                    self._more.set()
                    self._more = trio.Event()

    async def until(self, state: State, reason: Reason) -> None:
        """Wait until the entry came to be so."""
        while (state, reason) not in [(event.state, event.reason) for event in self.seen]:
            await self._more.wait()

    def count(self, state: State, reason: Reason = Reason.NONE) -> int:
        """How often it came to be so."""
        return [(event.state, event.reason) for event in self.seen].count((state, reason))


@asynccontextmanager
async def _opened(root: Path, settle_s: float, line: LinePolicy | None = None) -> AsyncIterator[World]:
    config = small(network_settle_s=settle_s, idle_timeout_s=60.0, first_byte_timeout_s=60.0, connect_timeout_s=60.0)
    async with AsyncExitStack() as stack:
        pair = stack.enter_context(cable())
        with inside(pair.server):
            origin = await stack.enter_async_context(serve(PAYLOAD, host=SERVER_ADDRESS, address="0.0.0.0"))
        origin.rate = 1.0 * MIB
        engine = await stack.enter_async_context(open_engine(root, config=config, seed=1, network=KernelMonitor()))
        if line is not None and line.interfaces:
            pair.second()
        request = DownloadRequest(url=origin.url(), id="film", line=line or LinePolicy(), connections=2)
        download = await engine.offline(request)
        nursery = await stack.enter_async_context(trio.open_nursery())
        world = World(pair, origin, engine, download)
        await nursery.start(world.watch)
        yield world
        nursery.cancel_scope.cancel()


async def _play(root: Path, play: Play, *, settle_s: float = 0.2, line: LinePolicy | None = None) -> World:
    """Let the play disturb the download once it is under way; it has to complete by itself, and no try be burnt."""
    async with _opened(root, settle_s, line) as world:
        await world.origin.until_sent(1 * MIB)
        await play(world)
        world.origin.rate = None
        offline = await world.download.wait()
        entry = await world.engine.get("film")
        assert content(offline.path) == PAYLOAD
        assert entry.state is State.COMPLETED
        assert [attempt.error for attempt in entry.attempts] == [None] * len(entry.attempts)
        assert {event.tries for event in world.seen} == {0}
        return world


@pytest.mark.parametrize("off_s", [10.0, pytest.param(60.0, marks=pytest.mark.long)])
async def test_a_link_that_is_off_for_a_while(tmp_path: Path, off_s: float) -> None:
    """N11."""

    async def play(world: World) -> None:
        world.cable.down()
        await world.until(*PARK)
        assert not world.engine.line().connected
        told = await world.engine.explain("film")
        assert "waits for a link to the network" in told.text
        sent = world.origin.sent
        await trio.sleep(off_s)  # nothing goes on so long, and nothing is tried
        assert world.seen[-1].state is State.PAUSED
        assert world.origin.sent <= sent + 2 * MIB  # what fits into the server's own buffers
        world.cable.up()

    world = await _play(tmp_path, play)

    assert world.count(*PARK) == 1
    assert world.count(State.IN_PROGRESS) == 2


async def test_a_cable_that_is_pulled_at_the_other_end(tmp_path: Path) -> None:
    """Routes and addresses stay, and lead nowhere: without a carrier there is no link."""

    async def play(world: World) -> None:
        world.cable.pull()
        await world.until(*PARK)
        world.cable.plug()

    assert (await _play(tmp_path, play)).count(*PARK) == 1


async def test_another_address_after_a_moment_without(tmp_path: Path) -> None:
    """N12, as a lease that ended: the old connections are of an address that nobody has."""

    async def play(world: World) -> None:
        world.cable.ip("addr", "del", "10.9.0.1/24", "dev", "cable")
        await world.until(*PARK)
        world.cable.ip("addr", "add", "10.9.0.7/24", "dev", "cable")

    assert (await _play(tmp_path, play)).count(*PARK) == 1


async def test_another_address_with_a_line_all_the_time(tmp_path: Path) -> None:
    """N12: there never is no line, but the connections are dead; they are not waited for."""

    async def play(world: World) -> None:
        world.cable.ip("addr", "add", "10.9.0.7/24", "dev", "cable")
        world.cable.ip("route", "change", "10.9.0.0/24", "dev", "cable", "src", "10.9.0.7")
        before = world.origin.connections
        world.cable.ip("addr", "del", "10.9.0.1/24", "dev", "cable")
        world.cable.ip("addr", "replace", "10.9.0.7/24", "dev", "cable")
        with trio.fail_after(20.0):  # a minute before the connections time out
            while world.origin.connections == before:
                await world.origin.until_asked(len(world.origin.asked) + 1)

    world = await _play(tmp_path, play)

    assert world.count(State.PENDING, Reason.NETWORK) + world.count(*PARK) >= 1


async def test_a_hundred_flaps_in_ten_seconds(tmp_path: Path) -> None:
    async def play(world: World) -> None:
        for _ in range(100):
            await trio.to_thread.run_sync(world.cable.down)
            await trio.sleep(0.05)
            await trio.to_thread.run_sync(world.cable.up)
            await trio.sleep(0.03)

    world = await _play(tmp_path, play, settle_s=1.0)

    assert world.count(*PARK) <= 3, "it is not started and stopped each time"
    assert world.count(State.IN_PROGRESS) <= 4


async def test_traffic_goes_through_the_interface_that_the_policy_names(tmp_path: Path) -> None:
    """The other one is the shorter way, and is not taken; without the named one the entry waits."""
    before: list[int] = []

    async def play(world: World) -> None:
        before.append(world.cable.received("cable"))
        world.cable.ip("link", "set", "spare", "down")
        await world.until(*PARK)
        assert world.engine.line().connected
        assert "one of the interfaces" in (await world.engine.explain("film")).text
        world.cable.ip("link", "set", "spare", "up")
        world.cable.ip("route", "add", "default", "via", "10.9.1.2", "dev", "spare", "metric", "200")

    async def measured(world: World) -> None:
        await play(world)
        await world.until(State.COMPLETED, Reason.NONE)
        assert world.cable.received("cable") - before[0] < MIB // 4
        assert world.cable.received("spare") > len(PAYLOAD) // 2

    await _play(tmp_path, measured, line=LinePolicy(interfaces=("spare",)))


async def test_a_users_pause_in_between_stays_the_users(tmp_path: Path) -> None:
    async with _opened(tmp_path, 0.1) as world:
        await world.origin.until_sent(1 * MIB)
        world.cable.down()
        await world.until(*PARK)
        await world.engine.pause("film")
        world.cable.up()
        with world.engine.events() as events:
            async for event in events:
                if isinstance(event, LineChanged) and event.line.connected:
                    break
        await trio.testing.wait_all_tasks_blocked(0.3)  # the line has settled
        entry = await world.engine.get("film")
        assert (entry.state, entry.state_reason) == (State.PAUSED, Reason.USER)


async def test_what_the_line_paused_goes_on_in_the_next_engine(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        pair = stack.enter_context(cable())
        with inside(pair.server):
            origin = await stack.enter_async_context(serve(PAYLOAD, host=SERVER_ADDRESS, address="0.0.0.0"))
        origin.rate = 1.0 * MIB
        config = small(network_settle_s=0.1)
        async with open_engine(tmp_path, config=config, network=KernelMonitor()) as engine:
            with engine.events() as events:
                await engine.offline(DownloadRequest(url=origin.url(), id="film"))
                await origin.until_sent(MIB)
                pair.down()
                async for event in events:
                    if isinstance(event, StateChanged) and (event.state, event.reason) == PARK:
                        break
        origin.rate = None
        async with open_engine(tmp_path, config=config, network=KernelMonitor()) as engine:
            assert (await engine.get("film")).state is State.PAUSED
            pair.up()
            offline = await engine.wait("film")
            assert content(offline.path) == PAYLOAD


async def test_without_any_link_this_machine_itself_is_reached(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        pair = stack.enter_context(cable())
        pair.down()
        origin = await stack.enter_async_context(serve(PAYLOAD))
        engine = await stack.enter_async_context(open_engine(tmp_path, config=small()))
        assert not engine.line().connected
        offline = await (await engine.offline(DownloadRequest(url=origin.url()))).wait()
        assert content(offline.path) == PAYLOAD
