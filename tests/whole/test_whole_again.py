"""Asking again: idempotent, resumable, strict about what is expected (DESIGN sections 6, 7; fault catalogue H2, H3)."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from engine import (
    DownloadFailed,
    DownloadRequest,
    EngineClosed,
    Health,
    IntegrityError,
    InvalidRequest,
    Progress,
    Reason,
    State,
    StateChanged,
    UnknownEntry,
    open_engine,
)
from tests.support.library import BIG_CHUNK, SMALL, claims, content, files_under, payload_of
from tests.support.origin import End, Reply, plain, serve
from tests.support.run import assert_complete, assert_failed, assert_nothing_published, run

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=31)
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


async def test_a_complete_entry_is_not_fetched_again(library: Path) -> None:
    """H2."""
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url())
        assert_complete(await run(library, request), PAYLOAD)
        origin.forget()
        again = await run(library, request)
        assert_complete(again, PAYLOAD)
        assert again.stats.bytes_fetched == 0
        assert origin.asked == []


async def test_the_same_thing_asked_for_many_times_at_once(library: Path) -> None:
    """H2: one entry, one transfer, everybody gets the file."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        request = DownloadRequest(url=origin.url())
        paths = []

        async def ask() -> None:
            paths.append((await (await engine.offline(request)).wait()).path)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
        assert len(paths) == 10
        assert len(set(paths)) == 1
        assert origin.sent == len(PAYLOAD)
        assert len(await engine.list()) == 1


async def test_a_finished_file_that_was_deleted_is_fetched_again(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url())
        done = await run(library, request)
        assert done.offline is not None
        os.unlink(done.offline.path)
        again = await run(library, request)
    assert_complete(again, PAYLOAD)
    assert again.stats.bytes_fetched == len(PAYLOAD)
    assert again.offline is not None
    assert again.offline.path == done.offline.path


@pytest.mark.parametrize("algorithm", ["sha256", "blake3", "md5", "sha1", "sha512"])
async def test_a_wrong_digest_publishes_nothing(library: Path, algorithm: str) -> None:
    """M22; asked again with the right one the bytes are taken as they are, with the same wrong one fetched anew."""
    size = {"sha256": 64, "blake3": 64, "md5": 32, "sha1": 40, "sha512": 128}[algorithm]
    async with serve(PAYLOAD) as origin:
        wrong = DownloadRequest(url=origin.url(), id="x", expect={algorithm: "0" * size})
        outcome = await run(library, wrong)
        assert_failed(outcome, "integrity")
        assert assert_nothing_published(library, PAYLOAD) == len(PAYLOAD)
        again = await run(library, wrong)
        assert_failed(again, "integrity")
        assert again.stats.bytes_fetched == len(PAYLOAD)
        right = await run(library, DownloadRequest(url=origin.url(), id="x", expect={"sha256": SHA256}))
    assert_complete(right, PAYLOAD)
    assert right.stats.bytes_fetched == 0
    assert right.stats.bytes_resumed == len(PAYLOAD)


async def test_a_wrong_length_publishes_nothing(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), id="x", expected_length=5))
        assert_failed(outcome, "integrity")
        assert outcome.stats.bytes_fetched < len(PAYLOAD)
        assert_nothing_published(library, PAYLOAD)
        right = await run(library, DownloadRequest(url=origin.url(), id="x", expected_length=len(PAYLOAD)))
    assert_complete(right, PAYLOAD)


async def test_a_complete_file_that_contradicts_a_new_expectation(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        assert_complete(await run(library, DownloadRequest(url=origin.url(), id="x")), PAYLOAD)
        for expect, length in (({"sha256": "0" * 64}, None), ({"blake3": "0" * 64}, None), ({}, 7)):
            with pytest.raises(IntegrityError):
                await run(library, DownloadRequest(url=origin.url(), id="x", expect=expect, expected_length=length))
        agreed = await run(library, DownloadRequest(url=origin.url(), id="x", expect={"sha256": SHA256}))
    assert_complete(agreed, PAYLOAD)
    assert agreed.stats.bytes_fetched == 0


async def test_two_entries_with_one_target(library: Path, tmp_path: Path) -> None:
    """H3: while one runs the other is refused at once; afterwards it fails without touching the file."""
    target = str(tmp_path / "film.mkv")
    async with serve(PAYLOAD) as one, serve(PAYLOAD) as two, open_engine(library, config=SMALL) as engine:
        first = await engine.offline(DownloadRequest(url=one.url(), destination=target))
        with pytest.raises(InvalidRequest, match=re.escape(target)):
            await engine.offline(DownloadRequest(url=two.url(), destination=target))
        await first.wait()
        second = await engine.offline(DownloadRequest(url=two.url(), destination=target))
        with pytest.raises(DownloadFailed) as failed:
            await second.wait()
    assert failed.value.cause_code == "target_exists"
    assert content(target) == PAYLOAD


async def test_an_entry_cannot_move(library: Path, tmp_path: Path) -> None:
    """H11."""
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="x", destination=str(tmp_path / "a.mkv"))
        assert_complete(await run(library, request), PAYLOAD)
        with pytest.raises(InvalidRequest, match="goes to"):
            await run(library, DownloadRequest(url=origin.url(), id="x", destination=str(tmp_path / "b.mkv")))
    assert files_under(library / "files") == set()


async def test_closed_in_the_middle_and_taken_up_by_itself(library: Path) -> None:
    """Law 6: the next engine goes on without being asked; every byte is accounted for."""
    async with serve(PAYLOAD, lambda _: Reply(rate=4e6)) as origin:
        async with open_engine(library, config=SMALL) as engine:
            download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            await origin.until_sent(12 * BIG_CHUNK)
        held = assert_nothing_published(library, PAYLOAD)
        (claim,) = claims(library)
        assert (claim.entry.state, claim.entry.state_reason) == (State.PENDING, Reason.SHUTDOWN)
        assert held == download.stats.bytes_resumed + held > 0
        origin.script = plain
        async with open_engine(library, config=SMALL) as engine:
            offline = await engine.wait("x")
            stats = engine.run_stats("x")
            entry = await engine.get("x")
    assert content(offline.path) == PAYLOAD
    assert stats.bytes_resumed == held
    assert stats.bytes_fetched == len(PAYLOAD) - held
    assert [attempt.number for attempt in entry.attempts] == [1, 2]


async def test_not_taken_up_when_told_so(library: Path) -> None:
    async with serve(PAYLOAD, lambda _: Reply(send=3 * BIG_CHUNK, end=End.HANG)) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            await origin.until_sent(BIG_CHUNK)
        origin.forget()
        async with open_engine(library, config=SMALL, resume=False) as engine:
            assert (await engine.get("x")).state is State.PENDING
        assert origin.asked == []


async def test_an_entry_that_needs_credentials_waits_for_them(library: Path) -> None:
    """M24, S36: they are never kept, so the next engine cannot begin by itself."""
    async with serve(PAYLOAD, lambda _: Reply(send=3 * BIG_CHUNK, end=End.HANG)) as origin:
        request = DownloadRequest(url=origin.url(), id="x", secret_headers=(("X-Key", "k" * 20),))
        async with open_engine(library, config=SMALL) as engine:
            await engine.offline(request)
            await origin.until_sent(BIG_CHUNK)
        origin.forget()
        origin.script = plain
        async with open_engine(library, config=SMALL) as engine:
            waiting = await engine.get("x")
            assert (waiting.state, waiting.state_reason) == (State.PENDING, Reason.NEEDS_CREDENTIALS)
            assert origin.asked == []
            offline = await (await engine.offline(request)).wait()
    assert content(offline.path) == PAYLOAD
    assert {asked.fields["x-key"] for asked in origin.asked} == {"k" * 20}


async def test_events_tell_the_whole_story(library: Path) -> None:
    """States in order and none missing; progress never goes back, and what is done never exceeds what came."""
    async with serve(PAYLOAD, lambda _: Reply(rate=6e6)) as origin, open_engine(library, config=SMALL) as engine:
        with engine.events() as subscription:
            download = await engine.offline(DownloadRequest(url=origin.url()))
            states, progress = [], []
            async for event in subscription:
                if isinstance(event, StateChanged):
                    states.append((event.previous, event.state))
                elif isinstance(event, Progress):
                    progress.append(event)
                if states and states[-1][1] is State.COMPLETED:
                    break
        await download.wait()
    assert states == [
        (None, State.PENDING),
        (State.PENDING, State.IN_PROGRESS),
        (State.IN_PROGRESS, State.COMPLETED),
    ]
    assert len(progress) > 3
    done = [event.bytes_done for event in progress]
    received = [event.bytes_received for event in progress]
    assert done == sorted(done)
    assert received == sorted(received)
    assert all(event.bytes_done <= event.bytes_received <= len(PAYLOAD) == event.bytes_total for event in progress)


async def test_verify_finds_what_was_harmed(library: Path) -> None:
    """D18."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        healths = {}
        for name in ("fine", "bit", "short", "long", "gone", "link"):
            offline = await (await engine.offline(DownloadRequest(url=origin.url(name), id=name))).wait()
            path = Path(offline.path)
            if name == "bit":
                with open(path, "r+b") as file:
                    file.seek(100_000)
                    file.write(bytes([PAYLOAD[100_000] ^ 1]))
            elif name in {"short", "long"}:
                os.truncate(path, len(PAYLOAD) + (1 if name == "long" else -1))
            elif name == "gone":
                path.unlink()
            elif name == "link":
                path.rename(tmp := path.with_suffix(".other"))
                path.symlink_to(tmp)
            healths[name] = Health.VALID if name == "fine" else Health.CORRUPT
        healths["gone"] = healths["link"] = Health.MISSING
        verdicts = {verdict.id: verdict for verdict in await engine.validate_downloads()}
    assert {name: verdict.health for name, verdict in verdicts.items()} == healths
    (bad,) = verdicts["bit"].bad_ranges
    assert bad[0] <= 100_000 < bad[1]
    assert bad[1] - bad[0] <= BIG_CHUNK
    assert verdicts["short"].bad_ranges[-1][1] == len(PAYLOAD)


async def test_calls_after_the_end_are_refused(library: Path) -> None:
    """H1."""
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            download = await engine.offline(DownloadRequest(url=origin.url()))
            await download.wait()
            with pytest.raises(UnknownEntry):
                await engine.get("nobody")
            with pytest.raises(UnknownEntry):
                await engine.wait("nobody")
            assert await engine.offline_entry("nobody") is None
        for call in (
            lambda: engine.offline(DownloadRequest(url=origin.url())),
            lambda: engine.get(download.id),
            engine.list,
            engine.validate_downloads,
            lambda: engine.parts(download.id),
            lambda: engine.wait(download.id),
        ):
            with pytest.raises(EngineClosed):
                await call()
        for subscribe in (engine.events, download.events):
            with pytest.raises(EngineClosed):
                subscribe()


async def test_a_waiter_is_told_when_the_engine_closes(library: Path) -> None:
    async with serve(PAYLOAD, lambda _: Reply(send=10, end=End.HANG)) as origin:
        told: list[bool] = []

        async def wait() -> None:
            with pytest.raises(EngineClosed):
                await download.wait()
            told.append(True)

        async with trio.open_nursery() as nursery, open_engine(library, config=SMALL) as engine:
            download = await engine.offline(DownloadRequest(url=origin.url()))
            nursery.start_soon(wait)
            await origin.until_asked(1)
        assert told == [True]


async def test_an_error_of_the_host_comes_out_as_it_is(library: Path) -> None:
    """H6: not wrapped in groups, and what ran is parked."""

    class HostError(Exception):
        pass

    async with serve(PAYLOAD, lambda _: Reply(rate=3e6)) as origin:
        with pytest.raises(HostError, match="mine"):
            async with open_engine(library, config=SMALL) as engine:
                await engine.offline(DownloadRequest(url=origin.url()))
                await origin.until_sent(8 * BIG_CHUNK)
                raise HostError("mine")
        held = assert_nothing_published(library, PAYLOAD)
        assert held > 0
        origin.script = plain
        again = await run(library, DownloadRequest(url=origin.url()))
    assert_complete(again, PAYLOAD)
    assert again.stats.bytes_resumed == held


async def test_an_entry_with_the_id_of_an_older_version_is_found_again(library: Path) -> None:
    """0.1.0 made another id of a URL with a fragment; asking again takes that entry up, one by one and many at once."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        url = f"{origin.url()}#chapter"
        older = blake3(f"\x00{url}\x00\x00True".encode()).hexdigest(16)
        await (await engine.offline(DownloadRequest(url=url, id=older))).wait()
        origin.forget()
        assert (await engine.offline(DownloadRequest(url=url))).id == older
        assert [each.id for each in await engine.offline_many([DownloadRequest(url=url)])] == [older]
        assert origin.asked == []
        assert len(await engine.list()) == 1
        other = await engine.offline(DownloadRequest(url=f"{origin.url('b')}#x"))
        assert other.id == (await engine.offline(DownloadRequest(url=origin.url("b")))).id
