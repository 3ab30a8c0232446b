"""Once it went wrong: a poisoned name, a bug in an attempt, a source that changes for ever, a disk too small for two.

Each test is one bug that was found and mended; together with those of ``transfer`` and ``control``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from engine import DownloadFailed, DownloadRequest, Health, InvalidRequest, State, open_engine
from engine.config import KIB, MIB, ZERO_ALLOWED, Config
from engine.files.filesystem import FileSystem
from engine.transfer.setup_part import entry_tag
from tests.support.library import BIG_CHUNK, SMALL, claims, content, files_under, parts_under, payload_of, small
from tests.support.mounts import TinyTmpfs
from tests.support.origin import Asked, Reply, Script, plain, serve
from tests.support.run import assert_complete, assert_failed, assert_nothing_published, run

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=81)
NEW = payload_of(len(PAYLOAD), seed=82)
Mount = Callable[[int], TinyTmpfs]

# Charsets that Python knows and nobody may use there: they raise errors of their own, or make half characters.
NAMES = ["idna''a..mp4", "utf-7''+2AA-.mp4", "unicode_escape''%5Cud800.mp4", "UTF-16''%D8%00.mp4", "hex''a.mp4"]


def cut_after(count: int) -> Script:
    """The truth for so many requests, then an error that ends the entry."""
    return lambda asked: Reply() if asked.number <= count else Reply(status=404)


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_in_a_strange_charset_harms_nobody(library: Path, name: str) -> None:
    """C16: neither the download itself, nor another that runs, nor the next start."""
    evil = Reply(fields=(("Content-Disposition", f"attachment; filename*={name}"),))
    good = Reply(rate=20e6)
    async with serve(PAYLOAD, lambda asked: evil if asked.target == "/evil.bin" else good) as origin:
        async with open_engine(library, config=SMALL) as engine:
            one = await engine.offline(DownloadRequest(url=origin.url("good.bin"), id="good"))
            await origin.until_sent(BIG_CHUNK)
            two = await engine.offline(DownloadRequest(url=origin.url("evil.bin"), id="evil"))
            paths = [(await download.wait()).path for download in (one, two)]
        assert [content(path) for path in paths] == [PAYLOAD, PAYLOAD]
        assert files_under(library / "files") == {"good.bin", "evil.bin"}
        async with open_engine(library, config=SMALL) as engine:
            assert [verdict.health for verdict in await engine.validate_downloads()] == [Health.VALID] * 2


class BrokenFor(FileSystem):
    """Has a bug when the unfinished file of one entry is made."""

    def __init__(self, entry_id: str) -> None:
        self._tag = entry_tag(entry_id)

    def create_exclusive(self, folder_fd: int, name: str) -> int:
        if self._tag in name:
            raise RuntimeError("nobody expected this")
        return super().create_exclusive(folder_fd, name)


async def test_a_bug_in_an_attempt_ends_one_entry_only(library: Path, caplog: pytest.LogCaptureFixture) -> None:
    """C16: FAILED as internal, told in the log; another entry completes; the next start is as any other."""
    async with serve(PAYLOAD, lambda _: Reply(rate=20e6)) as origin:
        async with open_engine(library, config=SMALL, files=BrokenFor("bad")) as engine:
            good = await engine.offline(DownloadRequest(url=origin.url(), id="good"))
            await origin.until_sent(BIG_CHUNK)
            with pytest.raises(DownloadFailed) as failed:
                await (await engine.offline(DownloadRequest(url=origin.url(), id="bad"))).wait()
            assert failed.value.cause_code == "internal"
            assert content((await good.wait()).path) == PAYLOAD
        (told,) = [record for record in caplog.records if record.name == "engine"]
        assert "entry bad" in told.getMessage()
        assert "nobody expected this" in caplog.text
        origin.forget()
        async with open_engine(library, config=SMALL) as engine:
            bad = await engine.get("bad")
            assert bad.state is State.FAILED
            assert bad.last_error is not None
            assert (bad.last_error.code, bad.last_error.retryable) == ("internal", False)
            assert origin.asked == [], "it was begun again by itself"
            offline = await (await engine.offline(DownloadRequest(url=origin.url(), id="bad"))).wait()
        assert content(offline.path) == PAYLOAD


def _new_versions(asked: Asked) -> Reply:
    """The same bytes under another ETag and date after every fifth request: each version lives long enough to commit
    some."""
    version = asked.number // 5
    return Reply(etag=f'"{version}"', last_modified=f"Tue, 03 Mar 2026 10:{version:02}:00 GMT")


@pytest.mark.parametrize("script", [_new_versions])
async def test_a_source_that_always_changes_comes_to_an_end(library: Path, script: Script) -> None:
    """S9: progress with a version that is given up is no progress, so the tries are bounded; so is the space."""
    window = small(commit_window_bytes=2 * BIG_CHUNK)
    async with serve(PAYLOAD, script) as origin:
        with trio.fail_after(10):
            outcome = await run(library, DownloadRequest(url=origin.url(), id="x"), config=window)
        assert_failed(outcome, "changed")
        assert outcome.stats.bytes_resumed == 0
        assert outcome.stats.bytes_fetched > 2 * window.commit_window_bytes, "no version lived long enough"
        assert assert_nothing_published(library, PAYLOAD) == 0, "what is of another version is not claimed any more"
        assert outcome.entry.attempt_count <= 4
        assert len(origin.asked) <= 150
        assert 1 <= len(parts_under(library)) <= 2
        origin.script = plain
        assert_complete(await run(library, DownloadRequest(url=origin.url(), id="x")), PAYLOAD)


async def test_one_older_version_is_kept_and_no_more(library: Path) -> None:
    """S9, D1: a source that changed between four runs leaves the newest two files, and in the end one."""
    async with serve(PAYLOAD) as origin:
        for version in range(4):
            origin.forget()
            origin.serve(payload_of(len(PAYLOAD), seed=version))
            origin.script = cut_after(6)
            assert_failed(await run(library, DownloadRequest(url=origin.url(), id="x")), "not_found", 404)
            assert len(parts_under(library)) == min(2, version + 1)
        origin.script = plain
        outcome = await run(library, DownloadRequest(url=origin.url(), id="x"))
    assert_complete(outcome, origin.payload)
    assert files_under(library / "files") == {"film.bin"}


async def test_a_changed_source_needs_no_room_for_two_files(library: Path, tiny_tmpfs: Mount) -> None:
    """D1, S9: the given-up bytes go when the disk has room for one file and a half."""
    disk = tiny_tmpfs(len(PAYLOAD) // (128 * KIB) * 192 * KIB)
    async with serve(PAYLOAD, cut_after(7)) as origin:
        request = DownloadRequest(url=origin.url(), id="x", destination=f"{disk.path}/")
        assert_failed(await run(library, request), "not_found", 404)
        assert len(parts_under(disk.path)) == 1
        origin.serve(NEW)
        origin.script = plain
        outcome = await run(library, request)
    assert_complete(outcome, NEW)
    assert files_under(disk.path) == {"film.bin"}


async def test_nothing_counts_as_resumed_when_the_source_changed(library: Path) -> None:
    """S9: every byte of the file came from the new version."""
    async with serve(PAYLOAD, cut_after(7)) as origin:
        assert_failed(await run(library, DownloadRequest(url=origin.url(), id="x")), "not_found", 404)
        assert claims(library)[0].held_bytes > 0
        origin.serve(NEW)
        origin.script = plain
        outcome = await run(library, DownloadRequest(url=origin.url(), id="x"))
    assert_complete(outcome, NEW)
    assert outcome.stats.bytes_resumed == 0
    assert outcome.stats.bytes_fetched >= len(NEW)


NUMBERS = [name for name in Config.__slots__ if name not in {"chunk_bytes", "small_chunk_bytes"}]


@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in ZERO_ALLOWED])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_would_stop_everything_is_refused(name: str, value: float) -> None:
    """H12: no slot, no connection, no room in a buffer: it would wait for ever or fail far from the cause."""
    with pytest.raises(InvalidRequest, match=name):
        small(**{name: value})


@pytest.mark.parametrize("name", sorted(ZERO_ALLOWED))
def test_a_negative_limit_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        small(**{name: -1})


async def test_what_may_be_nothing_works_as_nothing(library: Path) -> None:
    """All such limits at once: slower or stricter, but a download still completes, cut and resumed."""
    nothing = small(**dict.fromkeys(ZERO_ALLOWED, 0))
    async with serve(PAYLOAD, cut_after(6)) as origin:
        assert_failed(await run(library, DownloadRequest(url=origin.url()), config=nothing), "not_found", 404)
        origin.script = lambda asked: Reply(status=503) if asked.number == 9 else Reply()
        outcome = await run(library, DownloadRequest(url=origin.url()), config=nothing)
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed > 0


def test_the_smallest_limits_are_taken() -> None:
    """The table of least values refuses nothing that works."""
    least = Config(chunk_bytes=1 * KIB, small_chunk_bytes=1 * KIB, commit_window_bytes=2 * KIB, buffer_count=2)
    assert least.small_file_bytes == 256 * MIB
    assert small(entries_at_once=1, connections_max=1, attempts_kept=1, head_feed_bytes=1).attempts_kept == 1
