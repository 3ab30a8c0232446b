"""Power cuts: another boot id, and bytes that did not reach the disk (fault catalogue C14, D23; DESIGN law 1)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, Durability, Progress, State, StateChanged, open_engine
from engine.files.filesystem import FileSystem
from engine.store.state_store import ChunkCommit, StateStore
from tests.support.engine_process import EngineProcesses, Job
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, claims, content, payload_of
from tests.support.origin import Asked, Reply, plain, serve
from tests.support.run import Outcome, assert_complete, assert_failed, run

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=41)


class NextBoot(FileSystem):
    """The machine after its next start."""

    def boot_id(self) -> str:
        return "the-boot-after"


def half(asked: Asked) -> Reply:
    return Reply() if asked.number <= 6 else Reply(status=404)


def spoil(path: str, *offsets: int) -> None:
    """What a power cut leaves of pages that were not written back; the time stamp tells of nothing."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(bytes(512))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def held_chunks(library: Path) -> list[int]:
    (claim,) = claims(library)
    return [index for first, count in claim.runs for index in range(first, first + count)]


async def until_held(library: Path, count: int) -> None:
    """Wait until so many chunks are committed by the engine of another process, which has begun to receive."""
    with trio.fail_after(30):
        while sum(claim.part.chunks_done for claim in claims(library)) < count:  # noqa: ASYNC110  # of another process
            await trio.sleep(0.02)


async def after_power_cut(
    library: Path, processes: EngineProcesses, durability: Durability, harm: Callable[[str, list[int]], None]
) -> tuple[Outcome, int]:
    """Half a download, killed; then harm to its part; then another boot."""
    async with serve(PAYLOAD) as origin:
        origin.rate = 1e6
        job = Job(
            root=str(library), url=origin.url(), report=str(library.parent / "report"), durability=durability.value
        )
        pid = await processes.start(job)
        await origin.until_sent(4 * BIG_CHUNK)
        await until_held(library, 12)
        assert await processes.kill(pid) == -9
        held = held_chunks(library)
        assert len(held) > 8
        harm(claims(library)[0].path, held)
        origin.rate = None
        return await run(library, DownloadRequest(url=origin.url(), id="film"), files=NextBoot()), len(held) * CHUNK


@pytest.mark.parametrize("durability", list(Durability))
async def test_what_is_not_on_the_disk_is_fetched_again(
    library: Path, processes: EngineProcesses, durability: Durability
) -> None:
    """Relaxed: every chunk is hashed again. Strict: those of the last commits are, for disks that lie about a sync."""
    lost = []

    def harm(path: str, held: list[int]) -> None:
        lost.extend([held[0], held[len(held) // 2], held[-1]])
        spoil(path, *(index * CHUNK + 100 for index in lost))

    outcome, held_bytes = await after_power_cut(library, processes, durability, harm)
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == held_bytes - 3 * CHUNK
    assert any("3 chunks had not reached the disk" in what for what in outcome.recovered)


@pytest.mark.parametrize("durability", list(Durability))
async def test_all_is_believed_when_all_is_there(
    library: Path, processes: EngineProcesses, durability: Durability
) -> None:
    outcome, held_bytes = await after_power_cut(library, processes, durability, lambda path, held: None)
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == held_bytes


@pytest.mark.parametrize("durability", list(Durability))
async def test_the_part_itself_is_gone(library: Path, processes: EngineProcesses, durability: Durability) -> None:
    """C14: a name whose folder was not synced."""
    outcome, _ = await after_power_cut(library, processes, durability, lambda path, held: os.unlink(path))
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == 0


async def test_the_part_lost_its_tail(library: Path, processes: EngineProcesses) -> None:
    outcome, held_bytes = await after_power_cut(
        library, processes, Durability.RELAXED, lambda path, held: os.truncate(path, held[3] * CHUNK + 5)
    )
    assert_complete(outcome, PAYLOAD)
    assert 0 < outcome.stats.bytes_resumed < held_bytes


async def test_a_finished_relaxed_file_that_was_not_written_back(library: Path) -> None:
    """Law 1, 2: COMPLETED before the power cut does not count for more than the bytes; afterwards it is synced."""
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=Durability.RELAXED)
        done = await run(library, request)
        assert done.offline is not None
        spoil(done.offline.path, 12345, 700_000)
        async with open_engine(library, config=SMALL, files=NextBoot(), resume=False) as engine:
            assert (await engine.get("film")).state is State.PENDING
            assert len(engine.recovered) == 1
        again = await run(library, request, files=NextBoot())
    assert_complete(again, PAYLOAD)


async def test_a_finished_relaxed_file_that_is_sound(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=Durability.RELAXED)
        assert_complete(await run(library, request), PAYLOAD)
        assert claims(library)[0].part.unsynced_boot
        again = await run(library, request, files=NextBoot())
        assert_complete(again, PAYLOAD)
        assert again.stats.bytes_fetched == 0
        assert again.recovered == ()
        assert not claims(library)[0].part.unsynced_boot


@pytest.mark.parametrize("durability", list(Durability))
async def test_the_recovery_after_a_power_cut_ends_early(
    library: Path, processes: EngineProcesses, durability: Durability
) -> None:
    """C16: an unclean start between does not make anything of the first boot believed."""
    lost = []

    def harm(path: str, held: list[int]) -> None:
        lost.append(held[1])
        spoil(path, held[1] * CHUNK)

    class DyingRecovery(NextBoot):
        def read_at(self, fd: int, length: int, offset: int) -> bytes:
            raise RuntimeError("the recovery ends here")

    async with serve(PAYLOAD) as origin:
        origin.rate = 1e6
        job = Job(
            root=str(library), url=origin.url(), report=str(library.parent / "report"), durability=durability.value
        )
        pid = await processes.start(job)
        await origin.until_sent(4 * BIG_CHUNK)
        await until_held(library, 12)
        assert await processes.kill(pid) == -9
        held = held_chunks(library)
        harm(claims(library)[0].path, held)
        request = DownloadRequest(url=origin.url(), id="film")
        with pytest.raises(RuntimeError, match="ends here"):
            await run(library, request, files=DyingRecovery())
        origin.rate = None
        outcome = await run(library, request, files=NextBoot())
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == (len(held) - 1) * CHUNK


async def test_the_part_of_a_strict_entry_after_a_clean_end(library: Path) -> None:
    """Nothing is hashed again when all was synced and the end was in order."""

    class NoReading(NextBoot):
        def read_at(self, fd: int, length: int, offset: int) -> bytes:
            assert length < CHUNK, "a chunk is hashed again"
            return super().read_at(fd, length, offset)

    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), id="film")
        assert_failed(await run(library, request), "not_found", 404)
        (claim,) = claims(library)
        origin.script = plain
        outcome = await run(library, request, files=NoReading())
    assert outcome.stats.bytes_resumed == claim.held_bytes
    assert outcome.offline is not None
    assert content(outcome.offline.path) == PAYLOAD


class Journal(FileSystem):
    """Writes down when a data sync of a file began, with what the file held at that moment."""

    def __init__(self) -> None:
        self.synced: dict[int, bytes] = {}

    def sync_data(self, fd: int) -> None:
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            held = file.read()
        super().sync_data(fd)
        self.synced[os.fstat(fd).st_ino] = held

    def truth_of(self, inode: int) -> bytes:
        """What the last completed sync of the file made durable."""
        return self.synced.get(inode, b"")


async def test_no_bit_before_its_bytes_are_synced(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 1 in its order: at the moment of each commit, the bytes of its chunks are in the last sync of their file."""
    journal = Journal()
    commit_chunks = StateStore.commit_chunks
    commits = []

    def watched(store: StateStore, batch: list[ChunkCommit]) -> object:
        for commit in batch:
            (part,) = store.parts(commit.id)
            durable = journal.truth_of(part.inode)
            for index, _, size in commit.chunks:
                start = index * part.chunk_bytes
                assert durable[start : start + size] == PAYLOAD[start : start + size], f"chunk {index} is not synced"
            assert commit.synced
            commits.append(len(commit.chunks))
        return commit_chunks(store, batch)

    monkeypatch.setattr(StateStore, "commit_chunks", watched)
    async with serve(PAYLOAD, lambda _: Reply(rate=5e6)) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()), files=journal)
    assert_complete(outcome, PAYLOAD)
    assert len(commits) > 2
    assert sum(commits) == claims(library)[0].grid.count


async def test_progress_is_told_after_its_commit(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 1: committed, then told; what an event calls done is on record at that moment."""
    async with serve(PAYLOAD, lambda _: Reply(rate=5e6)) as origin, open_engine(library, config=SMALL) as engine:
        download = await engine.offline(DownloadRequest(url=origin.url()))
        told = 0
        with download.events() as events:
            async for event in events:
                if isinstance(event, Progress):
                    (part,) = await engine.parts(download.id)
                    assert event.bytes_done <= part.bytes_done
                    told += 1
                elif isinstance(event, StateChanged) and event.state is State.COMPLETED:
                    break
        assert told > 3
