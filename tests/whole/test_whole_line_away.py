"""A source on this machine that leads to another one (by a redirect, or by the proxy that is asked for it) uses the
line, and so has to be allowed to. The other machine is one: a network namespace behind a cable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine import (
    AddressPolicy,
    DownloadRequest,
    Engine,
    Interface,
    Line,
    LinePolicy,
    Reason,
    State,
    StaticMonitor,
    Subscription,
    Trust,
    open_engine,
)
from engine.config import KIB
from tests.support.library import content, payload_of
from tests.support.lines import FREE, GONE, METERED, MINDS, QUICK, until
from tests.support.netns import SERVER_ADDRESS, Cable, cable, inside
from tests.support.origin import Asked, Origin, Reply, serve

PAYLOAD = payload_of(200 * KIB)


@dataclass
class World:
    """``here`` redirects everything to ``far``, which serves it on the other machine."""

    pair: Cable
    here: Origin
    far: Origin

    @property
    def trust(self) -> Trust:
        return Trust(addresses=AddressPolicy(allow=(SERVER_ADDRESS,)))


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        pair = stack.enter_context(cable())
        with inside(pair.server):
            far = await stack.enter_async_context(serve(PAYLOAD, host=SERVER_ADDRESS, address="0.0.0.0"))

        def elsewhere(asked: Asked) -> Reply:
            return Reply(status=302, fields=(("Location", far.base + asked.target),))

        here = await stack.enter_async_context(serve(PAYLOAD, elsewhere))
        yield World(pair, here, far)


@asynccontextmanager
async def opened(root: Path, line: Line, trust: Trust) -> AsyncIterator[tuple[Engine, StaticMonitor, Subscription]]:
    monitor = StaticMonitor(line)
    async with open_engine(root, config=QUICK, network=monitor, trust=trust, seed=1) as engine:
        with engine.events() as events:
            yield engine, monitor, events


@pytest.mark.parametrize(
    ("line", "reason", "words"),
    [(METERED, Reason.METERED, "an unmetered line"), (GONE, Reason.NETWORK, "a link to the network")],
)
async def test_a_redirect_off_this_machine_waits_for_the_line_as_its_target_would(
    tmp_path: Path, line: Line, reason: Reason, words: str
) -> None:
    async with world() as at, opened(tmp_path, line, at.trust) as (engine, monitor, events):
        download = await engine.offline(DownloadRequest(url=at.here.url(), id="film", line=MINDS))
        await until(events, State.PAUSED, reason)
        entry = await engine.get("film")
        assert entry.last_error is not None
        assert f"leads beyond this machine, and waits for {words}" in entry.last_error.message
        assert f"waits for {words}" in (await engine.explain("film")).text
        assert (at.far.connections, len(at.here.asked)) == (0, 1)
        await engine.resume("film")  # even so: it waits for its turn, and is not asked again to be told the same
        monitor.set(Line(connected=line.connected, metered=line.metered, interfaces=(Interface(name="odd0"),)))
        assert f"waits for {words}" in (await engine.explain("film")).text
        assert (at.far.connections, len(at.here.asked)) == (0, 1)
        monitor.set(FREE)
        assert content((await download.wait()).path) == PAYLOAD


async def test_a_redirect_off_this_machine_works_as_ever_where_the_line_may_be_used(tmp_path: Path) -> None:
    """In one attempt. What stays on this machine works without any line."""
    async with world() as at, opened(tmp_path, FREE, at.trust) as (engine, monitor, _):
        await (await engine.offline(DownloadRequest(url=at.here.url(), id="film", line=MINDS))).wait()
        assert (await engine.get("film")).attempt_count == 1
        monitor.set(GONE)
        at.here.script = lambda _: Reply()
        await (await engine.offline(DownloadRequest(url=at.here.url("own"), line=MINDS))).wait()


async def test_what_was_led_away_is_paused_when_the_line_becomes_metered(tmp_path: Path) -> None:
    async with world() as at, opened(tmp_path, FREE, at.trust) as (engine, monitor, events):
        at.far.rate = 50 * KIB
        download = await engine.offline(DownloadRequest(url=at.here.url(), id="film", line=MINDS))
        await at.far.until_sent(20 * KIB)
        monitor.set(METERED)
        await until(events, State.PAUSED, Reason.METERED)
        at.far.rate = None
        monitor.set(FREE)
        assert content((await download.wait()).path) == PAYLOAD


async def test_what_is_led_away_and_too_big_for_the_metered_line_waits_for_another(tmp_path: Path) -> None:
    policy = LinePolicy(metered_bytes_max=len(PAYLOAD) - 1)
    async with world() as at, opened(tmp_path, METERED, at.trust) as (engine, monitor, events):
        download = await engine.offline(DownloadRequest(url=at.here.url(), id="film", line=policy))
        await until(events, State.PAUSED, Reason.METERED)
        assert len(at.far.asked) == 1
        monitor.set(FREE)
        assert content((await download.wait()).path) == PAYLOAD


async def test_a_connection_that_another_entry_made_is_no_way_around(tmp_path: Path) -> None:
    """The pool has an idle one to the other machine, of an entry that may use any line."""
    async with world() as at, opened(tmp_path, METERED, at.trust) as (engine, _, events):
        await (await engine.offline(DownloadRequest(url=at.far.url("other"), id="other"))).wait()
        asked = len(at.far.asked)
        await engine.offline(DownloadRequest(url=at.here.url(), id="film", line=MINDS))
        await until(events, State.PAUSED, Reason.METERED)
        assert len(at.far.asked) == asked


async def test_it_goes_through_the_interface_that_it_is_bound_to(tmp_path: Path) -> None:
    """Two cables lead to the other machine; the redirect is followed over the one that the policy names."""
    async with world() as at:
        at.pair.second()
        interfaces = tuple(Interface(name=name, up=True, routed=True) for name in ("cable", "spare"))
        line = Line(connected=True, metered=False, interfaces=interfaces)
        async with opened(tmp_path, line, at.trust) as (engine, _, _):
            before = at.pair.received("spare")
            request = DownloadRequest(url=at.here.url(), line=LinePolicy(interfaces=("spare",)))
            await (await engine.offline(request)).wait()
        assert at.pair.received("spare") - before > len(PAYLOAD)


@pytest.mark.parametrize(
    "url_of", [lambda at: at.here.url(), lambda at: at.here.url().replace("127.0.0.1", "localhost")], ids=["IP", "name"]
)
async def test_a_proxy_on_another_machine_needs_the_line_too(tmp_path: Path, url_of: Callable[[World], str]) -> None:
    """It is asked for a URL of this machine, and answers it: what counts is who is dialed."""
    async with world() as at:
        trust = Trust(addresses=at.trust.addresses, proxy=at.far.base)
        async with opened(tmp_path, METERED, trust) as (engine, monitor, events):
            download = await engine.offline(DownloadRequest(url=url_of(at), id="film", line=MINDS))
            await until(events, State.PAUSED, Reason.METERED)
            assert (at.far.connections, at.here.connections) == (0, 0)
            monitor.set(FREE)
            assert content((await download.wait()).path) == PAYLOAD
            assert at.here.connections == 0


async def test_a_proxy_on_this_machine_needs_none(tmp_path: Path) -> None:
    async with world() as at:
        at.here.script = lambda _: Reply()
        trust = Trust(addresses=at.trust.addresses, proxy=at.here.base)
        async with opened(tmp_path, GONE, trust) as (engine, _, _):
            await (await engine.offline(DownloadRequest(url="http://localhost:9/x", line=MINDS))).wait()
