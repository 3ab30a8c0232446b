"""Once it went wrong: syncs that fail late or hang, descriptors closed too early or never, stingy servers.

Each test is one bug that was found and mended.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import DownloadFailed, DownloadRequest, Durability, State, open_engine
from engine.config import MIB
from engine.files.filesystem import FileSystem
from tests.support.library import BIG_CHUNK, CHUNK, check_claim, claims, hash_of, payload_of, small
from tests.support.origin import Asked, End, Reply, plain, serve
from tests.support.run import assert_complete, assert_failed, assert_nothing_published, run
from tests.transfer.test_transfer_committer import FakeFiles, rig

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=91)
NEWER = "Tue, 03 Mar 2026 11:00:00 GMT"
GATE_S = 10.0  # a hung disk must not hang the tests


class Gate:
    """Where a worker thread stops until the test lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def wait(self) -> None:
        """Called by the thread."""
        self.entered.set()
        assert self.open.wait(GATE_S), "the test never opened the gate"

    async def until_entered(self) -> None:
        """Called by the test."""
        assert await trio.to_thread.run_sync(self.entered.wait, GATE_S)


class SlowlyFailing(FakeFiles):
    """The first data sync stops at the gate and then fails; all others are good."""

    def __init__(self, journal: list[tuple[str, object]], gate: Gate) -> None:
        super().__init__(journal)
        self._gate = gate
        self._syncs = 0

    def sync_data(self, fd: int) -> None:
        self._syncs += 1
        if self._syncs == 1:
            self._gate.wait()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_data(fd)


async def test_what_waits_behind_a_failing_sync_is_not_committed() -> None:
    """D6: it was written before the failure was told, so the kernel may have dropped it with the rest; the next sync
    of the same file succeeds and says nothing of it."""
    gate = Gate()
    async with rig() as it:
        it.committer._files = SlowlyFailing(it.journal, gate)  # the seam that the rig has no argument for
        bad, good = it.job("bad", 7), it.job("good", 8)
        await it.seal(bad, 0, 1)
        await gate.until_entered()
        await it.seal(bad, 2, 3)
        await it.seal(good, 4)
        gate.open.set()
        with trio.fail_after(5):
            await it.committer.flush(bad)
            await it.committer.flush(good)
        assert it.commits == [{"good": [4]}]
        assert bad.error is not None
        assert bad.error.code == "io"
        assert (bad.held.held, bad.uncommitted, it.committer.uncommitted_bytes) == (0, 0, 0)
        await it.seal(bad, 5)
        with trio.fail_after(5):
            await it.committer.flush(bad)
        assert it.commits == [{"good": [4]}], "nothing more is committed through that descriptor"


class GatedSync(FileSystem):
    """Data syncs of unfinished files stop at the gate once ``hangs`` is set."""

    def __init__(self, *, hangs: bool) -> None:
        self.gate = Gate()
        self.hangs = hangs
        self.synced: list[str] = []

    def sync_data(self, fd: int) -> None:
        if self.hangs:
            self.gate.wait()
        self.synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        super().sync_data(fd)


def open_files(library: Path) -> set[str]:
    """Files and folders of the library that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own
        if target.startswith(str(library)):
            found.add(target)
    return found


def open_parts(library: Path) -> set[str]:
    """Unfinished files that this process has open."""
    return {path for path in open_files(library) if path.endswith(".part")}


@asynccontextmanager
async def opened_at_last(gate: Gate) -> AsyncIterator[None]:
    """The gate opens when the block ends, however it ends."""
    try:
        yield
    finally:
        gate.open.set()


async def test_a_file_stays_open_while_its_chunks_are_uncommitted(library: Path) -> None:
    """D6: the attempt gave up waiting for a hung sync. Its descriptor's number must not become another file's: the
    sync of that would commit what was never synced."""
    files = GatedSync(hangs=True)
    config = small(close_timeout_s=0.1, parallel_bytes_min=10 * MIB)

    def script(asked: Asked) -> Reply:
        return Reply(status=404) if asked.start else Reply(send=3 * CHUNK, end=End.CLOSE)

    async with serve(PAYLOAD, script) as origin:
        async with open_engine(library, config=config, files=files) as engine, opened_at_last(files.gate):
            download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            await files.gate.until_entered()
            with trio.fail_after(5), pytest.raises(DownloadFailed):
                await download.wait()
            assert len(parts := open_parts(library)) == 1
        assert set(files.synced) == parts
        assert open_files(library) == set()
        (claim,) = claims(library)
        assert claim.held_bytes == 3 * CHUNK
        check_claim(library, claim, PAYLOAD)
        origin.script = plain
        assert_complete(await run(library, DownloadRequest(url=origin.url(), id="x")), PAYLOAD)


async def test_an_attempt_waits_for_what_the_last_one_left_to_a_slow_disk(library: Path) -> None:
    """Its own lock was taken for another engine's: five tries were gone in a moment, and it had failed."""
    files = GatedSync(hangs=True)
    config = small(close_timeout_s=0.1)
    async with serve(PAYLOAD, lambda asked: Reply(rate=4e6)) as origin:
        async with open_engine(library, config=config, files=files) as engine, opened_at_last(files.gate):
            download = await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            await files.gate.until_entered()
            await engine.pause("x")
            await engine.resume("x")
            with trio.move_on_after(0.5):  # it took a tenth of that to fail
                await download.wait()
            assert (await engine.get("x")).state is State.IN_PROGRESS
            files.hangs = False
            files.gate.open.set()
            with trio.fail_after(20):
                done = await download.wait()
            entry = await engine.get("x")
            assert entry.attempts[1].bytes_fetched < len(PAYLOAD), "what the slow disk was given late counts"
        assert (done.size, done.blake3) == (len(PAYLOAD), hash_of(PAYLOAD))
        assert [attempt.error for attempt in entry.attempts] == [None, None]


async def test_no_descriptor_is_left_when_it_ends_in_the_middle_of_leaving(library: Path) -> None:
    """C18: the source changed, its old part is being committed, and right then the engine is closed."""
    files = GatedSync(hangs=False)
    config = small(commit_interval_s=5.0, commit_window_bytes=8 * MIB)

    def script(asked: Asked) -> Reply:
        files.hangs = asked.number > 5
        return Reply(etag='"new"', last_modified=NEWER) if files.hangs else Reply(rate=20e6)

    async def release() -> None:
        await trio.testing.wait_all_tasks_blocked(0.005)
        files.gate.open.set()

    async with serve(PAYLOAD, script) as origin, opened_at_last(files.gate), trio.open_nursery() as nursery:
        async with open_engine(library, config=config, files=files) as engine:
            await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            await files.gate.until_entered()
            assert open_parts(library)
            nursery.start_soon(release)
        assert open_files(library) == set()
    for claim in claims(library):
        check_claim(library, claim, PAYLOAD)


async def test_ranges_capped_below_a_chunk_do_not_stop_a_resume(library: Path) -> None:
    """Such ranges are of no use, so the whole is streamed, and what is held is skipped."""
    cut = [len(PAYLOAD) // 2]

    def script(asked: Asked) -> Reply:
        if asked.start is None:
            return Reply(send=cut.pop(), end=End.CLOSE) if cut else Reply()
        end = min(asked.start + CHUNK // 2, len(PAYLOAD))
        said = f"bytes {asked.start}-{end - 1}/{len(PAYLOAD)}"
        return Reply(content_range=said, stated=end - asked.start, send=end - asked.start)

    async with serve(PAYLOAD, script) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), id="x"))
    assert_complete(outcome, PAYLOAD)
    assert cut == []
    assert outcome.entry.attempt_count == 2
    assert len(origin.asked) <= 15


@pytest.mark.parametrize("status", [403, 429, 503])
async def test_a_server_that_serves_one_connection_only(library: Path, status: int) -> None:
    """A refusal of one connection more is not the end while another is served."""

    def script(asked: Asked) -> Reply:
        return Reply(rate=20e6) if asked.connection == 1 else Reply(status=status)

    async with serve(PAYLOAD, script) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), id="x", connections=4))
    assert_complete(outcome, PAYLOAD)
    assert {asked.connection for asked in origin.asked} > {1}
    assert outcome.stats.bytes_fetched == len(PAYLOAD)


async def test_smaller_chunks_begin_an_older_entry_anew(library: Path) -> None:
    """The buffers of this configuration cannot hold the chunks that were begun."""
    tiny = small(chunk_bytes=CHUNK, small_chunk_bytes=CHUNK)
    async with serve(PAYLOAD, lambda asked: Reply() if asked.number < 4 else Reply(status=404)) as origin:
        request = DownloadRequest(url=origin.url(), id="x")
        assert_failed(await run(library, request, config=small(small_chunk_bytes=BIG_CHUNK)), "not_found", 404)
        assert assert_nothing_published(library, PAYLOAD) > 0
        origin.script = plain
        outcome = await run(library, request, config=tiny)
    assert_complete(outcome, PAYLOAD)
    assert (outcome.stats.bytes_resumed, outcome.stats.bytes_fetched) == (0, len(PAYLOAD))
    assert claims(library)[0].part.chunk_bytes == CHUNK


async def test_beginning_anew_is_not_forgotten_by_a_failed_attempt(library: Path) -> None:
    """M22: the bytes were wrong, the source was mended, and the first answer after that is an overloaded server's."""
    wrong = payload_of(len(PAYLOAD), seed=92)
    async with serve(wrong) as origin:
        request = DownloadRequest(url=origin.url(), id="x", expect={"blake3": hash_of(PAYLOAD)})
        assert_failed(await run(library, request), "integrity")
        origin.serve(PAYLOAD)
        origin.forget()
        origin.script = lambda asked: Reply(status=503) if asked.number == 1 else Reply()
        outcome = await run(library, request)
    assert_complete(outcome, PAYLOAD)
    assert outcome.entry.attempts[-2].error is not None
    assert outcome.entry.attempts[-2].error.status == 503
    assert outcome.stats.bytes_resumed == 0


@pytest.mark.parametrize("durability", [Durability.STRICT, Durability.RELAXED])
async def test_a_strict_file_of_one_chunk_has_a_durable_name_before_it_is_claimed(
    library: Path, durability: Durability
) -> None:
    """Found by the simulation: publishing failed, the power went, and what was claimed had no name."""
    done: list[str] = []

    class Noting(FileSystem):
        def sync(self, fd: int) -> None:
            super().sync(fd)
            done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")

        def rename_noreplace(self, folder_fd: int, source: str, target: str) -> None:
            done.append("rename")
            super().rename_noreplace(folder_fd, source, target)

    data = PAYLOAD[: CHUNK // 2]
    async with serve(data) as origin:
        await run(library, DownloadRequest(url=origin.url("first"), id="first"))  # it makes the folder
        request = DownloadRequest(url=origin.url(), id="x", durability=durability)
        assert_complete(await run(library, request, files=Noting()), data)
    before = done[: done.index("rename")]
    assert before == (["file", "folder"] if durability is Durability.STRICT else [])
