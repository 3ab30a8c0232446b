"""An engine with too little of everything: each end is the one that the fault catalogue names, and what may go on goes
on by itself (D1-D4, D10, D11, D19, D20, N21, C17, H10)."""

# ruff: noqa: ASYNC110  # states are polled: what is waited for may be passed through without an end

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, Engine, Reason, State, open_engine
from engine.config import KIB, MIB
from engine.files.filesystem import FileSystem
from tests.fire.judge import Day, Journal, judge
from tests.fire.limits import Limited, memory_group, mounted_ext4, run, running
from tests.fire.limits_child import Job
from tests.support.library import payload_of, small
from tests.support.mounts import NoReserve, TinyTmpfs
from tests.support.nginx import Nginx
from tests.support.origin import serve

SIZE = 3 * MIB + 11
PAYLOAD = payload_of(SIZE, seed=41)
TINY = payload_of(10_000, seed=42)
WITHIN_S = 40.0
QUICK = {"space_check_interval_s": 0.05, "space_check_interval_max_s": 0.2, "reconcile_interval_s": 0.3}
Mount = Callable[[int], TinyTmpfs]


@asynccontextmanager
async def limited(library: Path, nginx: Nginx, job: Job, *tracing: str) -> AsyncIterator[Limited]:
    """An engine that is to fetch six files and a tiny one; in the end all are complete and right."""
    urls = {f"film-{number}": f"{nginx.put('film', PAYLOAD)}?{number}" for number in range(6)}
    urls["tiny"] = nginx.put("tiny", TINY)
    with trio.fail_after(WITHIN_S):
        async with running(_with(job, root=str(library), urls=urls), *tracing) as process:
            yield process
            found = await process.end()
    assert set(found["states"].values()) == {"completed"}
    truths = {entry_id: (TINY if entry_id == "tiny" else PAYLOAD,) for entry_id in urls}
    assert judge(library, Day(truths=truths, journal=Journal(completed=set(urls)), rested=True)) == []


def _with(job: Job, **changes: object) -> Job:
    return Job(**{name: getattr(job, name) for name in job.__struct_fields__} | changes)


async def test_too_few_descriptors(library: Path, nginx: Nginx) -> None:
    """N21: it is nobody's failure, and needs no verb: what found no descriptor goes on once there are some."""
    # Waits as long as an engine's own, so that its tries outlast the shortage.
    job = Job(root="", urls={}, config={"backoff_max_s": 2.0}, limits={"NOFILE": 2}, connections=4)
    async with limited(library, nginx, job) as engine:
        await engine.until("too_many_files")
        await trio.sleep(0.3)
        engine.lift("NOFILE")
    assert not any("failed" in line for line in engine.lines)


async def test_too_large_for_the_process(library: Path, nginx: Nginx) -> None:
    """D11: the one file fails and says so, SIGXFSZ kills nobody, a smaller one goes through, a retry ends it."""
    job = Job(root="", urls={}, limits={"FSIZE": MIB}, stay=True)
    async with limited(library, nginx, job) as engine:
        for number in range(6):
            await engine.until(f"film-{number}", "failed", "too_big")
        await engine.until("tiny", "completed")
        engine.lift("FSIZE")
        await engine.go()


async def test_the_store_is_too_large_for_the_process(library: Path, nginx: Nginx) -> None:
    """D11, D4: what cannot be recorded is refused; nothing of it is half there, and the same engine goes on."""
    async with limited(library, nginx, Job(root="", urls={}, limits={"FSIZE": 32 * KIB})) as engine:
        await engine.until("refused", "store_unusable")
        engine.lift("FSIZE")


async def test_no_room_for_another_thread(library: Path, nginx: Nginx) -> None:
    """RLIMIT_AS: threads cannot be started; then the loop does the work, and the engine lives."""
    async with limited(library, nginx, Job(root="", urls={}, limits={"AS": 512 * KIB}, connections=4)):
        pass


@pytest.mark.parametrize("room", [4 * MIB, 20 * MIB])
async def test_no_room_to_open(library: Path, room: int) -> None:
    """RLIMIT_AS: refused as a limit of the host, by name; nothing is left that hinders the next start."""
    with trio.fail_after(WITHIN_S):
        async with running(Job(root=str(library), urls={}, early={"AS": room})) as engine:
            assert await engine.killed() == 1
        assert engine.lines in ([["unopened", "store_unusable"]], [["unopened", "host_exhausted"]])
    async with open_engine(library, config=small()) as opened:
        assert await opened.list() == []


async def test_little_memory(tmp_path: Path, library: Path, nginx: Nginx) -> None:
    """C17's better half: in a cgroup that is smaller than the file, page cache included, it is not killed."""
    with memory_group("little", 88 * MIB) as group:
        large = payload_of(120 * MIB, seed=43)
        job = Job(root=str(library), urls={"large": nginx.put("large", large)}, cgroup=str(group.path), defaults=True)
        with trio.fail_after(WITHIN_S):
            async with running(job) as engine:
                found = await engine.end()
        assert found["states"] == {"large": "completed"}
        assert group.number("memory.max_usage_in_bytes") <= 88 * MIB
    assert judge(library, Day(truths={"large": (large,)}, rested=True)) == []


async def test_killed_for_its_memory(library: Path, nginx: Nginx) -> None:
    """C17: the kernel kills it in the middle; the next start goes on with what was committed."""
    large = payload_of(48 * MIB, seed=44)
    url = nginx.put("large", large)
    with memory_group("killed", 3 * MIB) as group, trio.fail_after(WITHIN_S):
        job = Job(root=str(library), urls={"large": url}, cgroup=str(group.path), join_late=True, defaults=True)
        async with running(job) as engine:
            assert await engine.killed() == -9
    assert judge(library, Day(truths={"large": (large,)})) == []
    with trio.fail_after(WITHIN_S):
        async with running(Job(root=str(library), urls={"large": url}, defaults=True)) as engine:
            found = await engine.end()
    assert found["states"] == {"large": "completed"}
    assert judge(library, Day(truths={"large": (large,)}, rested=True)) == []


async def test_a_slow_disk(library: Path, nginx: Nginx) -> None:
    """D19: every sync takes 40 ms longer: the event loop does not wait for it, memory stays bounded."""
    slow = ("-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_exit=40000")
    async with limited(library, nginx, Job(root="", urls={}, traced=True, connections=4), *slow) as engine:
        pass
    found = engine.lines[-1][1]
    assert found["late_s"] < 0.25, "the event loop waited for the disk"
    assert found["peak_kib"] < 96 * KIB


async def completed(engine: Engine, ids: list[str]) -> None:
    """All are complete, by themselves."""
    with trio.fail_after(WITHIN_S):
        for entry_id in ids:
            while (entry := await engine.get(entry_id)).state is not State.COMPLETED:
                assert entry.state is not State.FAILED, entry.last_error
                await trio.sleep(0.02)


async def until_parked(engine: Engine, ids: list[str]) -> None:
    """One of them waits for space."""
    with trio.fail_after(WITHIN_S):
        while Reason.DISK not in [(await engine.get(each)).state_reason for each in ids]:
            await trio.sleep(0.01)


def sound(library: Path, ids: list[str], **more: object) -> None:
    """All are complete, and nothing is left over."""
    day = Day(truths={"": (PAYLOAD,)}, journal=Journal(completed=set(ids)), rested=True, **more)  # type: ignore[arg-type]
    assert judge(library, day) == []


async def test_a_library_on_a_tiny_disk(tiny_tmpfs: Mount) -> None:
    """D1, D2, H10: store and files share it; what fits is fetched, the rest waits and goes on when it grows."""
    disk = tiny_tmpfs(8 * MIB)
    library = disk.path / "library"
    ids = [f"{number}" for number in range(4)]
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(**QUICK)) as engine:
        for each in ids:
            await engine.offline(DownloadRequest(url=origin.url(each), id=each))
        with trio.fail_after(WITHIN_S):
            while True:
                states = sorted([(await engine.get(each)).state.value for each in ids])
                if states == ["completed", "completed", "paused", "paused"]:
                    break
                await trio.sleep(0.02)
        disk.resize(16 * MIB)
        await completed(engine, ids)
    sound(library, ids)


@pytest.mark.parametrize("reserved", [True, False])
async def test_the_disk_of_the_store_runs_full_in_the_middle(tmp_path: Path, tiny_tmpfs: Mount, reserved: bool) -> None:
    """D4: nothing can be recorded; the engine stays, claims nothing, and goes on when there is room. With blocks in
    reserve it ends what it was at."""
    files = FileSystem() if reserved else NoReserve()
    disk = tiny_tmpfs(3 * MIB)
    library, folder = disk.path / "library", tmp_path / "films"
    folder.mkdir()
    ids = ["a", "b"]
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(**QUICK), files=files) as engine:
        origin.rate = 1.5e6
        for each in ids:
            await engine.offline(DownloadRequest(url=origin.url(each), id=each, destination=f"{folder}/{each}"))
        await origin.until_sent(SIZE // 3)
        ballast = disk.path / "ballast"
        fill(ballast)
        if reserved:
            await completed(engine, ids)
        await trio.sleep(1.5)
        assert reserved or State.COMPLETED not in {(await engine.get(each)).state for each in ids}
        ballast.unlink()
        await completed(engine, ids)
    sound(library, ids, folders=[str(folder)])


def fill(path: Path) -> None:
    """Take all that is left on the disk."""
    with open(path, "wb", buffering=0) as file:
        size = 64 * KIB
        while size >= 512:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


async def test_no_inode_is_left(library: Path, tmp_path: Path, tiny_tmpfs: Mount) -> None:
    """D20: as with a full disk; it goes on when others have left."""
    disk = tiny_tmpfs(64 * MIB)
    run("mount", "-o", "remount,nr_inodes=12", str(disk.path))
    taken = [disk.path / f"other-{number}" for number in range(10)]
    for path in taken:
        path.touch()
    ids = ["a", "b"]
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(**QUICK)) as engine:
        for each in ids:
            await engine.offline(DownloadRequest(url=origin.url(each), id=each, destination=f"{disk.path}/{each}.bin"))
        await until_parked(engine, ids)
        for path in taken:
            path.unlink()
        await completed(engine, ids)
    sound(library, ids, folders=[str(disk.path)])


async def test_the_disk_of_the_files_turns_read_only_in_the_middle(library: Path, tmp_path: Path) -> None:
    """D10, D5: after an error of its own ext4 lets nobody write. What was committed before is kept and built on."""
    with mounted_ext4(tmp_path, 24 * MIB) as disk:
        request = DownloadRequest(url="", id="a", destination=f"{disk.path}/a.bin")
        async with serve(PAYLOAD) as origin, open_engine(library, config=small(**QUICK)) as engine:
            request = DownloadRequest(url=origin.url(), id="a", destination=f"{disk.path}/a.bin")
            origin.rate = 1.5e6
            await engine.offline(request)
            await origin.until_sent(SIZE // 2)
            disk.abort()
            with trio.fail_after(WITHIN_S):
                while (entry := await engine.get("a")).state not in {State.FAILED, State.PAUSED}:
                    await trio.sleep(0.02)
            assert entry.last_error is not None
            assert entry.last_error.code in {"io", "read_only"}
            disk.mend()
            origin.rate = None
            await engine.offline(request)
            await completed(engine, ["a"])
        sound(library, ["a"], folders=[str(disk.path)], others=["lost+found"])


async def test_the_disk_of_the_library_turns_read_only_in_the_middle(tmp_path: Path) -> None:
    """D10, D4, P5: nothing can be recorded any more; the engine ends in order, and on the mended disk the next one
    finishes without being asked."""
    with mounted_ext4(tmp_path, 24 * MIB) as disk:
        library = disk.path / "library"
        async with serve(PAYLOAD) as origin:
            with trio.fail_after(WITHIN_S):
                async with open_engine(library, config=small(**QUICK)) as engine:
                    origin.rate = 1.5e6
                    await engine.offline(DownloadRequest(url=origin.url(), id="a"))
                    await origin.until_sent(SIZE // 2)
                    disk.abort()
                    await trio.sleep(0.5)
            disk.mend()
            origin.rate = None
            assert judge(library, Day(truths={"": (PAYLOAD,)})) == []
            async with open_engine(library, config=small(**QUICK)) as engine:
                await completed(engine, ["a"])
        sound(library, ["a"])


def test_root() -> None:
    """All of the above needs it."""
    assert os.geteuid() == 0
