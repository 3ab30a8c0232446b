"""Pause, resume, cancel and retry on a whole engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trio

from engine import (
    DownloadFailed,
    DownloadRequest,
    Durability,
    Event,
    InvalidRequest,
    Reason,
    State,
    open_engine,
)
from tests.support.library import (
    BIG_CHUNK,
    SMALL,
    check_claim,
    claims,
    content,
    payload_of,
    small,
)
from tests.support.origin import Asked, Reply, plain, serve
from tests.support.verbs import begin, manager_of, steps, told, until_state

PAYLOAD = payload_of(20 * BIG_CHUNK + 11, seed=401)
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


@pytest.mark.parametrize("durability", list(Durability))
async def test_a_pause_keeps_the_bytes_and_lets_the_connections_go(library: Path, durability: Durability) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        async with told(engine, "x") as events:
            await begin(engine, origin, durability=durability)
            pool = engine._services.client.pool
            assert pool._active
            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(manager_of(engine).pause, "x")
                    began = trio.current_time()
                    while pool._active:  # noqa: ASYNC110  # a pool tells nobody
                        await trio.sleep(0.002)
                    assert trio.current_time() - began < 0.2
            paused = await engine.get("x")
        assert steps(events) == ["pending", "in_progress", "paused"], "one transition, nothing in between"
        assert (paused.state, paused.state_reason) == (State.PAUSED, Reason.USER)
        assert paused.paused_at is not None
        assert paused.attempts[-1].error is None
        async with manager_of(engine).runs.alone("x"):
            (part,) = await engine.parts("x")
        assert part.bytes_done > 0
        sent = origin.sent
        await trio.sleep(0.1)
        assert origin.sent - sent <= 4 * BIG_CHUNK, "what was in the sockets' buffers"
        assert (await manager_of(engine).pause("x")).epoch == paused.epoch
        origin.rate = None
        origin.forget()
        await manager_of(engine).resume("x")
        assert content((await engine.wait("x")).path) == PAYLOAD
        entry = await engine.get("x")
    assert entry.attempts[1].bytes_fetched == len(PAYLOAD) - part.bytes_done, "nothing twice"
    assert entry.attempt_count == 2


async def test_a_users_pause_survives_the_restart_and_only_a_user_lifts_it(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await begin(engine, origin)
            await manager_of(engine).pause("x")
        check_claim(library, claims(library)[0], PAYLOAD)
        origin.forget()
        async with open_engine(library, config=SMALL) as engine:
            assert engine.recovered == ()
            for by in (Reason.NETWORK, Reason.METERED, Reason.DISK):
                entry = await manager_of(engine).resume("x", by)
                assert (entry.state, entry.state_reason) == (State.PAUSED, Reason.USER)
            await manager_of(engine).pause("x", Reason.NETWORK)
            assert (await engine.get("x")).state_reason is Reason.USER
            await trio.sleep(0.05)
            assert origin.asked == []
        origin.rate = None
        async with open_engine(library, config=SMALL) as engine:
            await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            assert content((await engine.wait("x")).path) == PAYLOAD


async def test_the_networks_pause_is_lifted_by_the_network_and_overridden_by_a_user(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        verbs = manager_of(engine)
        await begin(engine, origin)
        assert (await verbs.pause("x", Reason.NETWORK)).state_reason is Reason.NETWORK
        assert (await verbs.resume("x", Reason.DISK)).state is State.PAUSED
        assert (await verbs.resume("x", Reason.NETWORK)).state is State.PENDING
        await until_state(engine, "x", State.IN_PROGRESS)
        await verbs.pause("x", Reason.NETWORK)
        async with told(engine, "x") as events:
            entry = await verbs.pause("x")
        assert (entry.state_reason, [event.id for event in events]) == (Reason.USER, ["x"])
        assert (await verbs.resume("x", Reason.NETWORK)).state is State.PAUSED
        with pytest.raises(InvalidRequest, match="backoff"):
            await verbs.pause("x", Reason.BACKOFF)


async def test_secrets_are_kept_over_a_pause_and_missed_after_a_restart(library: Path) -> None:
    secret = (("X-Key", "k" * 20),)
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await begin(engine, origin, secret_headers=secret)
            await manager_of(engine).pause("x")
            origin.forget()
            await manager_of(engine).resume("x")
            await origin.until_asked(1)
            assert {asked.fields.get("x-key") for asked in origin.asked} == {"k" * 20}
            await manager_of(engine).pause("x")
        async with open_engine(library, config=SMALL) as engine:
            entry = await manager_of(engine).resume("x")
            assert (entry.state, entry.state_reason) == (State.PENDING, Reason.NEEDS_CREDENTIALS)
            with pytest.raises(DownloadFailed) as failed:
                await engine.wait("x")
            assert failed.value.cause_code == "needs_credentials"


async def test_a_wrong_file_is_fetched_from_the_beginning_when_it_is_retried(library: Path) -> None:
    """The same bytes cannot pass the same expectation."""
    other = payload_of(len(PAYLOAD), seed=402)
    async with serve(other) as origin, open_engine(library, config=SMALL) as engine:
        request = DownloadRequest(url=origin.url(), id="x", expect={"sha256": SHA256})
        with pytest.raises(DownloadFailed):
            await (await engine.offline(request)).wait()
        origin.payload = PAYLOAD  # under the same ETag
        await manager_of(engine).retry("x")
        assert content((await engine.wait("x")).path) == PAYLOAD


async def test_retrying_an_entry_in_backoff_tries_at_once(library: Path) -> None:
    busy = Reply(status=503, fields=(("Retry-After", "3600"),))
    async with serve(PAYLOAD, lambda asked: busy) as origin, open_engine(library, config=SMALL) as engine:
        download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        await origin.until_asked(1)
        await until_state(engine, "x", State.PENDING, Reason.BACKOFF)
        origin.script = plain
        entry = await manager_of(engine).retry("x")
        assert (entry.state, entry.next_retry_at) == (State.PENDING, None)
        with trio.fail_after(5):
            assert content((await download.wait()).path) == PAYLOAD


async def test_all_failed_ones_are_retried_and_one_that_cannot_stops_no_other(library: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "film.bin")

    def script(asked: Asked) -> Reply:
        return Reply(status=404) if asked.target.startswith("/bad") else Reply(rate=4e6)

    async with serve(PAYLOAD, script) as origin, open_engine(library, config=SMALL) as engine:
        for name in ("a", "b", "c"):
            request = DownloadRequest(
                url=origin.url(f"bad-{name}"), id=name, destination=target if name == "b" else None
            )
            with pytest.raises(DownloadFailed):
                await (await engine.offline(request)).wait()
        await engine.offline(DownloadRequest(url=origin.url(), id="holder", destination=target))
        origin.script = lambda asked: Reply(rate=4e6)
        retried = await manager_of(engine).retry_failed()
        assert {entry.id for entry in retried} == {"a", "c"}
        assert (await engine.get("b")).state is State.FAILED
        for name in ("a", "c", "holder"):
            assert content((await engine.wait(name)).path) == PAYLOAD


async def test_all_are_paused_and_resumed(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(entries_at_once=2)) as engine:
        origin.rate = 2e6
        names = [f"e{number}" for number in range(6)]
        await engine.offline_many([DownloadRequest(url=origin.url(name), id=name) for name in names])
        await origin.until_asked(2)
        paused = await manager_of(engine).for_all(Event.PAUSE)
        assert {entry.id for entry in paused} == set(names)
        assert {entry.state for entry in await engine.list()} == {State.PAUSED}
        assert await manager_of(engine).for_all(Event.RESUME, "another scope") == []
        origin.rate = None
        assert len(await manager_of(engine).for_all(Event.RESUME)) == 6
        for name in names:
            assert content((await engine.wait(name)).path) == PAYLOAD
