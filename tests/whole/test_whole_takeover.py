"""What is known to be wrong is never built on, whoever ends the attempt; and mirrors that take over from each other in
the middle of a body mix nothing."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path

import pytest

from engine import DownloadRequest, OnChange, SourceBlamed, State, StateChanged, open_engine
from engine.files.filesystem import FileSystem
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, content, payload_of, small
from tests.support.origin import Asked, End, Origin, Reply, Script, serve
from tests.support.run import Outcome, assert_complete, run
from tests.whole.test_whole_mirrors import flipped, mirrors, request_of

SIZE = 40 * BIG_CHUNK + 77
CONFIG = small(connections_per_entry=4, backoff_max_s=0.1)
LAST_MODIFIED = "Sat, 01 Jan 2000 00:00:00 GMT"


class SlowSync(FileSystem):
    """Syncs take a while, so that forgetting what is wrong does: what is on its way comes to the store first."""

    def sync_data(self, fd: int) -> None:
        time.sleep(0.15)
        super().sync_data(fd)


async def test_wrong_bytes_go_also_when_the_attempt_is_ended_as_they_are_named(library: Path) -> None:
    """Two mirrors agree against the leading one, and right then the entry is paused."""
    payload = payload_of(SIZE, seed=3)
    served = (flipped(payload, every=2 * CHUNK), rated), (payload, rated), (payload, rated)
    async with mirrors(*served) as origins, open_engine(library, config=CONFIG, files=SlowSync(), seed=1) as engine:
        with engine.events() as events:
            download = await engine.offline(request_of(origins, id="x"))
            async for event in events:
                if isinstance(event, SourceBlamed):
                    break
        await engine.pause("x")
        await engine.resume("x")
        path = (await download.wait()).path
        assert (await engine.get("x")).blamed[0].url == origins[0].url()
    assert content(path) == payload


def rated(asked: Asked) -> Reply:
    return Reply(rate=2e6)


async def test_a_rival_that_wins_does_not_keep_wrong_bytes(library: Path) -> None:
    """The digest of a range is wrong, and while its chunks are forgotten another request brings its last one."""
    payload = payload_of(SIZE, seed=4)
    wrong = bytes([payload[0] ^ 1]) + payload[1:]

    def script(asked: Asked) -> Reply:
        body = wrong if asked.number == 1 else payload
        part = payload[asked.start or 0 : asked.end or len(payload)]
        stated = base64.b64encode(hashlib.sha256(part).digest()).decode()
        return Reply(body=body, fields=(("Content-Digest", f"sha-256=:{stated}:"),), rate=3e6)

    async with serve(payload, script) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), id="x"), config=CONFIG, files=SlowSync())
    assert_complete(outcome, payload)


async def test_that_the_source_changed_is_on_record_at_once(library: Path) -> None:
    """Nothing but bytes tells of it, and the attempt ends before there is a new part: the next one does not build on
    what it holds, though two chunks might be the same."""
    old, new = payload_of(SIZE, seed=5), payload_of(SIZE, seed=6)
    changed: list[Asked] = []

    def script(asked: Asked) -> Reply:
        if asked.number < 3:
            return Reply(etag="", last_modified="", send=len(old) // 2, end=End.CLOSE)
        if asked.start:
            changed.append(asked)
            return Reply(body=new, etag="", last_modified="")
        return Reply(status=503)

    async with serve(old, script) as origin, open_engine(library, config=SMALL, seed=1) as engine:
        with engine.events() as events:
            await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            async for event in events:
                if changed and isinstance(event, StateChanged) and event.state is State.PENDING:
                    break
        held = sum(part.bytes_done for part in await engine.parts("x"))
    assert (len(changed), held) == (1, 0)


def stream_only(fails_behind: int, **more: object) -> Script:
    """No ranges; a body that is cut behind so many bytes."""

    def script(asked: Asked) -> Reply:
        return Reply(ranges=False, send=fails_behind, end=End.CLOSE, last_modified=LAST_MODIFIED, etag="", **more)  # type: ignore[arg-type]  # fields by name

    return script


def whole(asked: Asked) -> Reply:
    return Reply(ranges=False, last_modified=LAST_MODIFIED, etag="")


@pytest.mark.parametrize("size", [SIZE, CHUNK // 2], ids=["stream", "one chunk"])
async def test_another_mirror_takes_over_where_the_body_breaks(library: Path, size: int) -> None:
    """Within the same attempt, also where ranges are not served and the whole comes from one."""
    payload = payload_of(size)
    async with mirrors((payload, stream_only(size * 2 // 3)), (payload, whole)) as origins:
        outcome = await run(library, request_of(origins), config=CONFIG)
    assert_complete(outcome, payload)
    assert (outcome.entry.attempt_count, len(origins[0].asked)) == (1, len(origins[1].asked) and 1)


async def test_a_mirror_that_takes_over_a_stream_is_compared_with_what_is_held(library: Path) -> None:
    """Same length and date, other bytes: the file is one version or the other, never both."""
    first, second = payload_of(SIZE, seed=7), payload_of(SIZE, seed=8)
    async with mirrors((first, stream_only(SIZE * 2 // 3)), (second, whole)) as origins:
        outcome = await run(library, request_of(origins), config=CONFIG)
    assert_complete(outcome, second)


@pytest.mark.parametrize("mirrored", [False, True])
async def test_all_mirrors_that_break_are_asked_once_an_attempt(library: Path, mirrored: bool) -> None:
    payload = payload_of(CHUNK // 2)
    breaking = (payload, stream_only(100))
    async with mirrors(*([breaking] * (1 + mirrored))) as origins:
        outcome = await run(library, request_of(origins), config=small(backoff_max_s=0.01))
    assert outcome.code == "connection_lost"
    assert all(len(origin.asked) <= 2 * outcome.entry.attempt_count for origin in origins)


async def test_a_comparison_that_is_cut_short_is_a_lost_connection(library: Path) -> None:
    """A range of no stated length that ends early is no sign of other bytes."""
    payload = payload_of(SIZE, seed=9)
    bare = {"etag": "", "last_modified": ""}

    def script(asked: Asked) -> Reply:
        if asked.start:
            short = origin.sent < 2 * len(payload)
            return Reply(framing="eof", send=100 if short and asked.number < 6 else None, **bare)  # type: ignore[arg-type]  # fields by name
        broken = asked.number < 3
        return Reply(send=len(payload) // 2 if broken else None, end=End.CLOSE if broken else End.KEEP, **bare)  # type: ignore[arg-type]

    async with serve(payload, script) as origin:
        asked = DownloadRequest(url=origin.url(), id="x", on_change=OnChange.FAIL)
        outcome = await run(library, asked, config=CONFIG)
    assert_complete(outcome, payload)


async def test_a_whole_range_without_a_length_is_as_long_as_it_says(library: Path) -> None:
    payload = payload_of(CHUNK // 2)
    async with serve(payload, lambda _: Reply(framing="eof")) as origin:
        assert_complete(await run(library, DownloadRequest(url=origin.url(), id="x"), config=CONFIG), payload)


def lying(origin_says: str) -> Script:
    def script(asked: Asked) -> Reply:
        return Reply(fields=(("Repr-Digest", f"sha-512=:{origin_says}:"),))

    return script


ZEROS = base64.b64encode(bytes(64)).decode()


async def test_a_digest_of_the_callers_outweighs_what_the_source_says(library: Path) -> None:
    payload = payload_of(SIZE)
    expect = {"sha256": hashlib.sha256(payload).hexdigest()}
    async with serve(payload, lying(ZEROS)) as origin:
        assert_complete(await run(library, request_with(origin, expect=expect), config=CONFIG), payload)
        refused = await run(library, request_with(origin, id="y"), config=CONFIG)
    assert refused.code == "integrity"


def request_with(origin: Origin, **more: object) -> DownloadRequest:
    return DownloadRequest(**({"url": origin.url(), "id": "x"} | more))  # type: ignore[arg-type]  # fields by name


async def test_a_mirrors_word_on_the_whole_goes_with_it(library: Path) -> None:
    """The first states a digest that its own right bytes do not have; those of the other are taken without it."""
    payload = payload_of(SIZE)
    async with mirrors((payload, lying(ZEROS)), (payload, lambda _: Reply())) as origins:
        outcome: Outcome = await run(library, request_of(origins), config=CONFIG)
    assert_complete(outcome, payload)
    assert outcome.entry.blamed == ()
