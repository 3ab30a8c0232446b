"""More regressions of the system that this one grew out of (see test_whole_bugs): identities, answers, lost wake-ups,
lost records, what is told, and what users of other downloaders reported."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from engine import (
    DownloadFailed,
    DownloadRequest,
    Event,
    EventsLost,
    Health,
    Progress,
    State,
    open_engine,
)
from engine.control import hub
from engine.errors import StoreUnusable
from engine.model.records import DownloadEntry
from engine.store.state_store import StateStore
from tests.support.library import (
    BIG_CHUNK,
    CHUNK,
    SMALL,
    content,
    files_under,
    payload_of,
    small,
)
from tests.support.origin import Asked, End, Reply, serve
from tests.support.verbs import begin, manager_of, told

PAYLOAD = payload_of(20 * BIG_CHUNK + 11, seed=405)
PAGE = b"<html>sign in</html>"


async def test_bug_3_a_track_and_a_video_of_one_product_id_are_two_entries(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        downloads = [
            await engine.offline(DownloadRequest(url=origin.url(name), product_id="42", product_type=name))
            for name in ("track", "video")
        ]
        paths = {(await download.wait()).path for download in downloads}
        assert len({download.id for download in downloads}) == len(paths) == 2
        assert {entry.product_type for entry in await engine.list()} == {"track", "video"}


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(status=403), "auth"),
        (Reply(body=PAGE, fields=(("Content-Type", "text/html"),), etag='"page"'), "wrong_type"),
        (Reply(body=PAGE, etag='"page"'), "integrity"),
        (Reply(send=5 * BIG_CHUNK, end=End.CLOSE, ranges=False), "connection_lost"),
    ],
    ids=["status", "page", "hash", "length"],
)
async def test_bug_7_an_error_page_or_half_a_file_is_never_stored_as_media(
    library: Path, reply: Reply, code: str
) -> None:
    request: dict[str, Any] = {"expect": {"blake3": "00" * 32}} if code == "integrity" else {}
    async with serve(PAYLOAD, lambda asked: reply) as origin, open_engine(library, config=SMALL) as engine:
        with pytest.raises(DownloadFailed) as failed:
            await (await engine.offline(DownloadRequest(url=origin.url(), id="x", **request))).wait()
        assert failed.value.cause_code == code
        assert await engine.offline_entry("x") is None
    assert not [name for name in files_under(library / "files") if not name.endswith(".part")]


async def test_bug_10_a_missing_file_is_told_as_missing_and_its_record_stays(library: Path) -> None:
    """It was told as a missing licence, and a stale path took the record away while the file stayed."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        os.rename(done.path, done.path + ".moved")
        [found] = await engine.validate_downloads()
        assert (found.health, found.path) == (Health.MISSING, done.path)
        assert (await engine.get("x")).state is State.COMPLETED
        os.rename(done.path + ".moved", done.path)
        assert [one.health for one in await engine.validate_downloads()] == [Health.VALID]


@pytest.mark.parametrize(("status", "code"), [(418, "http_4xx"), (410, "gone"), (503, "http_5xx"), (507, "http_5xx")])
async def test_bug_11_errors_keep_their_status_and_the_servers_word(library: Path, status: int, code: str) -> None:
    """Statuses were flattened, and Retry-After was never read; progress of an unknown length was not a number."""
    reply = Reply(status=status, fields=(("Retry-After", "1000"),))
    async with serve(PAYLOAD, lambda asked: reply) as origin, open_engine(library, config=SMALL) as engine:
        await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        with engine.events("x") as events, trio.fail_after(10):
            while (await engine.get("x")).last_error is None:
                await anext(events)
        entry = await engine.get("x")
    assert entry.last_error is not None
    assert (entry.last_error.code, entry.last_error.status) == (code, status)
    if entry.state is State.PENDING:
        assert entry.next_retry_at is not None
        assert entry.next_retry_at - entry.updated_at >= 999


async def test_bug_11_progress_of_an_unknown_length_is_a_number(library: Path) -> None:
    reply = Reply(framing="chunked", rate=4e6)
    async with serve(PAYLOAD, lambda asked: reply) as origin, open_engine(library, config=SMALL) as engine:
        async with told(engine) as events:
            await (await engine.offline(DownloadRequest(url=origin.url(), id="x", expected_length=len(PAYLOAD)))).wait()
        seen = [event for event in events if isinstance(event, Progress)]
    assert seen
    assert all(0 <= event.bytes_done <= event.bytes_received <= len(PAYLOAD) for event in seen)


async def test_bug_18_what_is_added_while_the_queue_drains_is_run_once_and_not_forgotten(library: Path) -> None:
    """A cursor over a draining queue skipped tasks, the last completion stranded new ones, and two workers got one."""
    payload = payload_of(CHUNK, seed=406)
    async with serve(payload) as origin, open_engine(library, config=small(entries_at_once=3)) as engine:
        waits: list[str] = []

        async def add_more(start: int) -> None:
            for number in range(start, start + 20):
                await engine.offline(DownloadRequest(url=origin.url(f"{number}"), id=f"{number}"))
                waits.append(f"{number}")
                if number % 5 == 0:
                    await engine.wait(f"{number}")  # the queue may be empty by now

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for start in range(0, 60, 20):
                    nursery.start_soon(add_more, start)
            for entry_id in waits:
                await engine.wait(entry_id)
        attempts = {entry.id: entry.attempt_count for entry in await engine.list()}
    assert attempts == {f"{number}": 1 for number in range(60)}
    assert set(Counter(asked.target for asked in origin.asked).values()) == {1}


async def test_bug_20_one_blip_is_no_failure(library: Path) -> None:
    def blip(asked: Asked) -> Reply:
        return Reply(send=BIG_CHUNK, end=End.RESET) if asked.number == 1 else Reply()

    async with serve(PAYLOAD, blip) as origin, open_engine(library, config=SMALL) as engine:
        await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        assert (await engine.get("x")).state is State.COMPLETED


async def test_bug_20_a_completion_that_could_not_be_recorded_is_no_second_download(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transition = StateStore.transition
    lost_from: list[Event] = []

    def lost(store: StateStore, entry_id: str, event: Event, **rest: Any) -> DownloadEntry:
        if event is Event.COMPLETE or lost_from:
            lost_from.append(event)
            raise StoreUnusable("the record is lost on its way")
        return transition(store, entry_id, event, **rest)

    async with serve(PAYLOAD) as origin:
        with monkeypatch.context() as patch:
            patch.setattr(StateStore, "transition", lost)
            async with open_engine(library, config=SMALL) as engine:
                with pytest.raises(DownloadFailed, match="lost on its way"):
                    await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        origin.forget()
        async with open_engine(library, config=SMALL) as engine:
            assert content((await engine.wait("x")).path) == PAYLOAD
            assert (await engine.get("x")).attempt_count == 1
    assert origin.asked == []


async def test_bug_22_what_came_before_the_kill_belongs_to_its_entry_afterwards(library: Path) -> None:
    """The mapping from transfer to task was gone, and the file was thrown away."""
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await begin(engine, origin)
            await manager_of(engine).pause("x")
            async with manager_of(engine).runs.alone("x"):
                [part] = await engine.parts("x")
        origin.rate = None
        origin.forget()
        async with open_engine(library, config=SMALL) as engine:
            await engine.resume("x")
            assert content((await engine.wait("x")).path) == PAYLOAD
    assert part.bytes_done > 0
    assert origin.sent == len(PAYLOAD) - part.bytes_done


async def test_bug_26_a_failure_has_a_reason_a_history_and_any_number_of_listeners(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAILBOX_EVENTS_MAX", 2)
    async with serve(PAYLOAD, lambda asked: Reply(status=404)) as origin, open_engine(library, config=SMALL) as engine:
        with engine.events("x") as first, engine.events("x") as second:
            with pytest.raises(DownloadFailed):
                await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
            for events in (first, second):
                with pytest.raises(EventsLost):  # bounded: three changes came, and nobody read
                    while True:
                        await anext(events)
        entry = await engine.get("x")
        assert entry.last_error is not None
        assert (entry.last_error.code, entry.last_error.status) == ("not_found", 404)
        assert [attempt.error.code for attempt in entry.attempts if attempt.error] == ["not_found"]
        assert "not_found" in (await engine.explain("x")).text


async def test_other_downloaders_never_skip_by_existence_and_never_take_a_partial_file_for_done(
    library: Path, tmp_path: Path
) -> None:
    """'Already exists, skipping' after an interrupted run; partials moved to the library as a success."""
    target = tmp_path / "album" / "track.flac"
    target.parent.mkdir()
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await begin(engine, origin, destination=str(target))
        assert not target.exists(), "what is not whole has another name"
        target.write_bytes(PAYLOAD[:1000])  # as another program would have left it
        origin.rate = None
        async with open_engine(library, config=SMALL) as engine:
            with pytest.raises(DownloadFailed) as failed:
                await engine.wait("x")
            assert failed.value.cause_code == "target_exists"
            target.unlink()
            await engine.retry("x")
            assert content((await engine.wait("x")).path) == PAYLOAD
