"""The group commit on fakes: when a group closes, in which order, what a failure drops (DESIGN law 1, section 4)."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import trio

from engine.config import KIB, MIB, Config
from engine.errors import EngineError, NoSpace, StaleEpoch
from engine.files.filesystem import FileSystem
from engine.files.part_file import PartFile
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.model.records import PartRecord
from engine.store.state_store import ChunkCommit, StateStore
from engine.transfer.committer import Committer
from engine.transfer.part_job import PartJob

CHUNK = 64 * KIB
CONFIG = Config(chunk_bytes=CHUNK, small_chunk_bytes=CHUNK, commit_window_bytes=1 * MIB, commit_interval_s=0.2)
DIGEST = bytes(32)


@dataclass
class FakeStore:
    """Records commits in ``journal``; fails or voids them when told."""

    journal: list[tuple[str, object]]
    error: EngineError | None = None
    void: set[str] = field(default_factory=set)
    delay_s: float = 0.0

    def commit_chunks(self, batch: Sequence[ChunkCommit]) -> list[PartRecord | None]:
        if self.delay_s:
            trio.from_thread.run(trio.sleep, self.delay_s)
        if self.error is not None:
            raise self.error
        self.journal.append(("commit", {commit.id: [chunk[0] for chunk in commit.chunks] for commit in batch}))
        return [None if commit.id in self.void else record(commit) for commit in batch]


def record(commit: ChunkCommit) -> PartRecord:
    done = sum(size for _, _, size in commit.chunks)
    return PartRecord(folder="/", part_name="p", final_name="f", chunk_bytes=CHUNK, bytes_done=done)


@dataclass
class FakeFiles(FileSystem):
    """Data syncs by descriptor: told to the journal, failing for some."""

    journal: list[tuple[str, object]]
    failing: set[int] = field(default_factory=set)

    def sync_data(self, fd: int) -> None:
        if fd in self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.journal.append(("sync", fd))


@dataclass
class Rig:
    committer: Committer
    store: FakeStore
    files: FakeFiles
    journal: list[tuple[str, object]]

    def job(self, name: str = "a", fd: int = 7, *, durable: bool = True, epoch: int = 1) -> PartJob:
        part = PartRecord(folder="/", part_name="p", final_name="f", chunk_bytes=CHUNK, length=100 * CHUNK)
        file = PartFile(self.files, "/", "p", -1, fd, 0, 0, 0, 0)
        return PartJob(name, epoch, part, file, ChunkGrid(100 * CHUNK, CHUNK), Bitmap(100), durable=durable)

    async def seal(self, job: PartJob, *indexes: int) -> None:
        for index in indexes:
            await self.committer.reserve(CHUNK)
            self.committer.sealed(job, index, CHUNK, DIGEST)

    @property
    def commits(self) -> list[dict[str, list[int]]]:
        return [cast("dict[str, list[int]]", what) for kind, what in self.journal if kind == "commit"]


@asynccontextmanager
async def rig(config: Config = CONFIG) -> AsyncIterator[Rig]:
    journal: list[tuple[str, object]] = []
    store, files = FakeStore(journal), FakeFiles(journal)
    committer = Committer(config, cast("StateStore", store), files, trio.to_thread.run_sync, "boot")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        yield Rig(committer, store, files, journal)
        nursery.cancel_scope.cancel()


async def test_synced_then_committed_then_told() -> None:
    async with rig() as it:
        job = it.job()
        await it.seal(job, 3, 1)
        await it.committer.flush(job)
        assert it.journal == [("sync", 7), ("commit", {"a": [3, 1]})]
        assert sorted(index for index in range(100) if index in job.held) == [1, 3]
        assert job.bytes_done == 2 * CHUNK
        assert job.uncommitted == it.committer.uncommitted_bytes == 0


async def test_relaxed_leaves_the_sync_out() -> None:
    async with rig() as it:
        job = it.job(durable=False)
        await it.seal(job, 0)
        await it.committer.flush(job)
        assert it.journal == [("commit", {"a": [0]})]


async def test_a_group_closes_by_age() -> None:
    async with rig() as it:
        job = it.job()
        began = trio.current_time()
        await it.seal(job, 0)
        await trio.sleep(CONFIG.commit_interval_s / 2)
        assert it.commits == []
        await it.seal(job, 1)
        await job.wait_committed()
        assert it.commits == [{"a": [0, 1]}], "the age is that of the oldest chunk"
        assert CONFIG.commit_interval_s <= trio.current_time() - began < CONFIG.commit_interval_s + 1


async def test_a_group_closes_by_bytes() -> None:
    async with rig(replaced(commit_interval_s=1000.0)) as it:
        job = it.job()
        half = CONFIG.commit_window_bytes // 2 // CHUNK
        await it.seal(job, *range(half))
        with trio.fail_after(5):
            await job.wait_committed()
        assert it.commits == [{"a": list(range(half))}]


async def test_a_group_closes_when_somebody_waits() -> None:
    async with rig(replaced(commit_interval_s=1000.0)) as it:
        job, other = it.job("a", 7), it.job("b", 8)
        await it.seal(job, 0)
        await it.seal(other, 5)
        with trio.fail_after(5):
            await it.committer.flush(job)
        assert it.commits == [{"a": [0], "b": [5]}]
        assert {what for kind, what in it.journal if kind == "sync"} == {7, 8}


async def test_the_window_is_never_exceeded() -> None:
    """Law 6: the group in flight counts until it is committed; who wants more waits."""
    async with rig() as it:
        job = it.job()
        it.store.delay_s = 0.1
        most = 0

        async def seal(first: int) -> None:
            nonlocal most
            for index in range(first, first + 12):
                await it.committer.reserve(CHUNK)
                most = max(most, it.committer.uncommitted_bytes)
                it.committer.sealed(job, index, CHUNK, DIGEST)

        async with trio.open_nursery() as nursery:
            for first in (0, 12, 24, 36):
                nursery.start_soon(seal, first)
        await it.committer.flush(job)
        assert most == CONFIG.commit_window_bytes
        assert job.held.held == 48
        assert it.committer.uncommitted_bytes == 0
        assert len(it.commits) >= 3


async def test_a_chunk_that_was_not_written_gives_its_room_back() -> None:
    async with rig() as it:
        job = it.job()
        await it.committer.reserve(CONFIG.commit_window_bytes)
        assert it.committer.uncommitted_bytes == CONFIG.commit_window_bytes
        it.committer.sealed(job, 0, CONFIG.commit_window_bytes, None)
        with trio.fail_after(1):
            await it.committer.reserve(CHUNK)
        assert job.uncommitted == 0
        it.committer.unreserve(CHUNK)
        assert it.committer.uncommitted_bytes == 0


async def test_a_failed_sync_drops_its_file_alone() -> None:
    """D6: its chunks are not committed, whatever comes later; the others of the group are."""
    async with rig() as it:
        bad, good = it.job("bad", 7), it.job("good", 8)
        it.files.failing.add(7)
        await it.seal(bad, 0, 1)
        await it.seal(good, 2)
        await it.committer.flush(good)
        await it.committer.flush(bad)
        assert it.commits == [{"good": [2]}]
        assert bad.error is not None
        assert bad.error.code == "io"
        assert bad.scope.cancel_called
        assert (bad.held.held, bad.uncommitted) == (0, 0)
        assert good.error is None
        assert it.committer.uncommitted_bytes == 0


async def test_a_failed_commit_drops_the_whole_group() -> None:
    """D4: nothing is claimed; the room is given back; the next group is another try."""
    async with rig() as it:
        one, two = it.job("one", 7), it.job("two", 8)
        it.store.error = NoSpace("the disk of the store is full")
        await it.seal(one, 0)
        await it.seal(two, 1)
        await it.committer.flush(one)
        await it.committer.flush(two)
        assert one.error is two.error is it.store.error
        assert one.held.held == two.held.held == it.committer.uncommitted_bytes == 0
        it.store.error = None
        fresh = it.job("one", 7)
        await it.seal(fresh, 0)
        await it.committer.flush(fresh)
        assert fresh.held.held == 1


async def test_a_late_result_of_an_earlier_epoch_is_dropped() -> None:
    """Law 5."""
    async with rig() as it:
        job = it.job()
        it.store.void.add("a")
        await it.seal(job, 0)
        await it.committer.flush(job)
        assert isinstance(job.error, StaleEpoch)
        assert job.held.held == 0


async def test_a_body_of_unknown_length_has_no_bits_yet() -> None:
    async with rig() as it:
        job = it.job()
        job.unbounded = []
        await it.seal(job, 0, 1)
        assert job.unbounded == [(0, CHUNK, DIGEST), (1, CHUNK, DIGEST)]
        assert it.committer.uncommitted_bytes == 0
        await it.committer.flush(job)
        assert it.commits == []


async def test_a_commit_that_was_begun_is_finished_before_the_end() -> None:
    """C18: cancelled in the middle of a group, the committer ends after it."""
    journal: list[tuple[str, object]] = []
    store, files = FakeStore(journal), FakeFiles(journal)
    committer = Committer(
        replaced(commit_interval_s=0.0), cast("StateStore", store), files, trio.to_thread.run_sync, "boot"
    )
    it = Rig(committer, store, files, journal)
    job = it.job()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.run)
            commit = store.commit_chunks

            def cancelling(batch: Sequence[ChunkCommit]) -> list[PartRecord | None]:
                trio.from_thread.run_sync(scope.cancel)
                return commit(batch)

            store.commit_chunks = cancelling  # type: ignore[method-assign]
            await it.seal(job, 0)
    assert scope.cancelled_caught
    assert job.held.held == 1
    assert committer.uncommitted_bytes == 0


def replaced(**changes: float) -> Config:
    return dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
