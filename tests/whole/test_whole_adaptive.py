"""Connections, refusals and caps through the whole engine, against real sockets."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from engine.config import KIB, MIB
from engine.engine import Engine
from engine.errors import ConnectRefused
from engine.model.records import DownloadRequest
from engine.model.states import Reason, State
from engine.net.client import Client
from engine.net.dialer import Dialer, Route
from engine.net.link import Link
from engine.net.pacing import BODY_SHARE
from engine.opening import open_engine
from tests.support.library import SMALL, content, payload_of, small
from tests.support.origin import Asked, Reply, serve

PAYLOAD = payload_of(2 * MIB)
HOST = "127.0.0.1"
BUSY = Reply(status=429, fields=(("Retry-After", "3600"),))


@asynccontextmanager
async def shared_bucket(payload: bytes, bytes_s: int, best: int) -> AsyncIterator[str]:
    """A host that gives ``bytes_s`` / ``best`` to each connection, and a third of ``bytes_s`` to all of more than
    ``best``."""
    sending: set[int] = set()

    async def talk(stream: trio.SocketStream) -> None:
        while request := await stream.receive_some(4096):
            first, last = request.decode().partition("bytes=")[2].partition("\r\n")[0].split("-")
            start, end = int(first), min(int(last) + 1, len(payload))
            head = f'HTTP/1.1 206 Partial Content\r\nContent-Length: {end - start}\r\nETag: "x"\r\n'
            await stream.send_all(f"{head}Content-Range: bytes {start}-{end - 1}/{len(payload)}\r\n\r\n".encode())
            sending.add(id(stream))
            try:
                due = trio.current_time()
                while start < end:
                    piece = payload[start : min(start + 16 * KIB, end)]
                    each = bytes_s / best if len(sending) <= best else bytes_s / 3 / len(sending)
                    due = max(due, trio.current_time() - 0.1) + len(piece) / each
                    await trio.sleep_until(due)
                    await stream.send_all(piece)
                    start += len(piece)
            finally:
                sending.discard(id(stream))

    async def serve_one(stream: trio.SocketStream) -> None:
        try:
            await talk(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # a client that has enough of a connection is no trouble of the host's

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, serve_one, 0, host=HOST))
        yield f"http://{HOST}:{listener.socket.getsockname()[1]}/film.bin"
        nursery.cancel_scope.cancel()


async def test_a_host_that_slows_down_above_four_connections_settles_at_four(library: Path) -> None:
    payload = payload_of(48 * MIB)
    config = small(span_bytes_max=4 * MIB, small_file_bytes=1 * MIB, commit_window_bytes=8 * MIB)
    levels: list[int] = []
    async with shared_bucket(payload, 12 * MIB, 4) as url, open_engine(library, config=config) as engine:
        growth = engine._services.client.hosts.host(HOST).growth
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                while True:
                    levels.append(growth.level)
                    await trio.sleep(0.02)

            nursery.start_soon(watch)
            download = await engine.offline(DownloadRequest(url=url, id="x"))
            assert content((await download.wait()).path) == payload
            nursery.cancel_scope.cancel()
    assert levels[-1] == 4
    assert levels.count(4) >= len(levels) // 2, levels


@pytest.mark.parametrize(("asked", "expected"), [(None, 2), (1, 1), (3, 3)])
async def test_an_explicit_number_of_connections_is_had_at_once_and_never_more(
    library: Path, asked: int | None, expected: int
) -> None:
    """Without one there are two at first."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        origin.rate = 1 * MIB
        download = await engine.offline(DownloadRequest(url=origin.url(), id="x", connections=asked))
        with trio.fail_after(5):
            while len({one.connection for one in origin.asked}) < expected:
                await origin.until_asked(len(origin.asked) + 1)
        assert len({one.connection for one in origin.asked}) == expected
        origin.rate = None
        await download.wait()
        assert asked is None or origin.connections <= expected


async def test_many_small_files_of_one_host_come_as_many_at_once_as_configured(library: Path) -> None:
    """Each over one connection: a host is only held to fewer after it refused."""
    payload = payload_of(48 * KIB)
    config = small(entries_at_once=6)
    async with serve(payload) as origin, open_engine(library, config=config) as engine:
        origin.rate = 16 * KIB
        requests = [DownloadRequest(url=origin.url(f"{number}.bin"), id=str(number)) for number in range(6)]
        downloads = await engine.offline_many(requests)
        with trio.fail_after(5):
            await origin.until_asked(6)
        assert origin.connections == 6
        origin.rate = None
        for download in downloads:
            await download.wait()


async def test_retry_after_holds_all_entries_of_the_host_and_no_others(library: Path) -> None:
    """S35: two are asked for at once and refused; the others of the host are not asked for at all."""
    config = small(entries_at_once=2)
    async with (
        serve(PAYLOAD, lambda _: BUSY) as busy,
        serve(PAYLOAD, address="127.0.0.2", host="127.0.0.2") as other,
        open_engine(library, config=config) as engine,
    ):
        requests = [DownloadRequest(url=busy.url(f"{number}.bin"), id=f"busy{number}") for number in range(20)]
        await engine.offline_many(requests)
        good = await engine.offline(DownloadRequest(url=other.url(), id="good"))
        assert content((await good.wait()).path) == PAYLOAD
        assert len(busy.asked) <= 2
        states = {(await engine.get(request.id or "")).state for request in requests}
        assert states == {State.PENDING}
        refused = [entry for entry in await engine.list() if entry.state_reason is Reason.BACKOFF]
        assert 1 <= len(refused) <= 2
        for explained in [await engine.explain(request.id or "") for request in requests]:
            assert f"{HOST} asked to be left alone" in explained.text
            assert explained.next_try_at is not None


async def test_a_rest_that_ends_lets_the_entries_go_on(library: Path) -> None:
    replies = iter([dataclasses.replace(BUSY, fields=(("Retry-After", "1"),))])
    config = small(entries_at_once=2, host_rest_wait_s=0.0)
    async with (
        serve(PAYLOAD, lambda _: next(replies, Reply())) as origin,
        open_engine(library, config=config) as engine,
    ):
        requests = [DownloadRequest(url=origin.url(f"{number}.bin"), id=str(number)) for number in range(4)]
        for download in await engine.offline_many(requests):
            assert content((await download.wait()).path) == PAYLOAD
        tries = [len((await engine.get(str(number))).attempts) for number in range(4)]
    assert sum(tries) <= 4 + 2


class Closed(Dialer):
    """Refuses every connection to one address while ``closed``; counts them."""

    closed = True
    refused = 0

    async def connect(self, route: Route) -> Link:
        if self.closed and route.origin.host == HOST:
            self.refused += 1
            await trio.lowlevel.checkpoint()
            raise ConnectRefused("refused")
        return await super().connect(route)


async def test_a_host_that_is_down_is_left_alone_and_others_go_on(library: Path) -> None:
    """The breaker: a hundred entries of a dead host cost a few connections; over another network, all complete."""
    config = small(entries_at_once=4, breaker_failures=3, breaker_open_s=600.0, breaker_open_max_s=600.0)
    dialer = Closed(config)
    payload = payload_of(4 * KIB)
    async with (
        serve(payload) as down,
        serve(payload, address="127.0.0.2", host="127.0.0.2") as up,
        open_engine(library, config=config, client=Client(config, dialer=dialer)) as engine,
    ):
        waiting = await engine.offline_many(
            DownloadRequest(url=down.url(f"{number}.bin"), id=f"down{number}") for number in range(100)
        )
        others = await engine.offline_many(
            DownloadRequest(url=up.url(f"{number}.bin"), id=f"up{number}") for number in range(50)
        )
        for download in others:
            await download.wait()
        assert dialer.refused <= 3 + 4
        assert "failed" in (await engine.explain("down99")).text
        dialer.closed = False
        engine._services.client.hosts.forgive()
        for download in waiting:
            assert content((await download.wait()).path) == payload


async def test_n10_a_connection_that_crawls_alone_is_made_anew(library: Path) -> None:
    """S: 1 byte a second is no progress: cut off, counted, asked for again."""
    asked: list[Asked] = []

    def script(one: Asked) -> Reply:
        asked.append(one)
        return Reply(rate=5.0) if len(asked) == 2 else Reply()

    config = small(crawl_s=0.2, idle_timeout_s=30.0)
    async with serve(PAYLOAD, script) as origin, open_engine(library, config=config) as engine:
        with trio.fail_after(20):
            download = await engine.offline(DownloadRequest(url=origin.url(), id="x", connections=1))
            assert content((await download.wait()).path) == PAYLOAD
    assert len(asked) >= 3


async def receive_at(engine: Engine, url: str, entry_id: str, **fields: int) -> None:
    download = await engine.offline(DownloadRequest(url=url, id=entry_id, **fields))  # type: ignore[arg-type]
    await download.wait()


async def test_a_cap_is_set_lifted_and_kept_on_record(library: Path) -> None:
    """A cap far too low to finish under; lifted while it runs, it is done. The entry's own is on record."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(rate_limit_bytes_s=16 * KIB)) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_at, engine, origin.url("a"), "a")
            nursery.start_soon(receive_at, engine, origin.url("b"), "b")
            await origin.until_sent(64 * KIB)
            await trio.sleep(0.5)
            assert origin.sent < len(PAYLOAD), "what the kernel buffers is bounded, too"
            assert sum(engine.run_stats(name).bytes_fetched for name in "ab") <= 256 * KIB
            assert (await engine.set_entry_rate_limit("b", 8 * MIB)).rate_limit_bytes_s == 8 * MIB
            engine.set_rate_limit(0)
        assert (await engine.get("b")).rate_limit_bytes_s == 8 * MIB
        assert content((await engine.offline_entry("a") or pytest.fail("no file")).path) == PAYLOAD


async def test_asked_anew_with_another_cap_it_runs_under_that_one(library: Path) -> None:
    """Found: the cap of before went on, while what was left of the earlier attempt was not collected yet. The last one
    lifts it: under any other it would take minutes."""
    gc.disable()  # what is left stays
    try:
        async with serve(PAYLOAD) as origin, open_engine(library, config=small()) as engine:
            pacing = engine._services.pacing
            asked = DownloadRequest(url=origin.url(), id="x", rate_limit_bytes_s=8 * KIB)
            for rate in (8 * KIB, 4 * KIB, 16 * KIB):
                before = len(origin.asked)
                await engine.offline(msgspec.structs.replace(asked, rate_limit_bytes_s=rate))
                with trio.fail_after(10):
                    await origin.until_asked(before + 1)  # under its cap the one before asked once
                assert pacing.of("x").own.rate == rate * BODY_SHARE
                assert pacing.entries == 1
            download = await engine.offline(msgspec.structs.replace(asked, rate_limit_bytes_s=0))
            with trio.fail_after(30):
                assert content((await download.wait()).path) == PAYLOAD
            assert pacing.entries == 0
    finally:
        gc.enable()
