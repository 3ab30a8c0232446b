"""Space: promises, quotas, eviction, and entries that wait until there is some."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from engine import (
    DownloadEntry,
    DownloadRequest,
    Engine,
    OfflineEntry,
    Reason,
    State,
    StateChanged,
    UnknownEntry,
    open_engine,
)
from engine.config import MIB
from engine.control.orphans import Action
from engine.errors import InvalidRequest
from engine.files.filesystem import FileSystem
from tests.support.library import CHUNK, content, files_under, payload_of, small
from tests.support.mounts import TinyTmpfs
from tests.support.origin import Origin, Reply, serve
from tests.support.upkeep import upkeep_of

PAYLOAD = payload_of(64 * CHUNK, seed=91)
SIZE = len(PAYLOAD)
QUICK = {"space_check_interval_s": 0.05, "space_check_interval_max_s": 0.2}
Disk = Callable[[int], TinyTmpfs]


async def offlined(engine: Engine, origin: Origin, entry_id: str, scope: str = "") -> OfflineEntry:
    return await (
        await engine.offline(DownloadRequest(url=origin.url(f"{entry_id}.bin"), id=entry_id, scope=scope))
    ).wait()


async def until(engine: Engine, entry_id: str, state: State, reason: Reason = Reason.NONE) -> None:
    """Wait until the entry is in the state for that reason."""
    with engine.events(entry_id) as events:
        entry = await engine.get(entry_id)
        if (entry.state, entry.state_reason) == (state, reason):
            return
        async for event in events:
            if isinstance(event, StateChanged) and (event.state, event.reason) == (state, reason):
                return


def went_on(entries: list[DownloadEntry]) -> str:
    """The first of those entries that are neither done nor parked, or done last."""
    on = [entry.id for entry in entries if entry.state in {State.PENDING, State.IN_PROGRESS}]
    return on[0] if on else max(entries, key=lambda entry: entry.completed_at or 0.0).id


async def present(engine: Engine) -> set[str]:
    return {entry.id for entry in await engine.list()}


@pytest.mark.parametrize("reserved", [True, False])
async def test_downloads_at_once_do_not_count_on_the_same_space(
    library: Path, tiny_tmpfs: Disk, reserved: bool
) -> None:
    """Also where blocks cannot be reserved: the one that does not fit waits, and none ever meets a full disk."""
    disk = tiny_tmpfs(2 * SIZE + MIB // 2)
    files = FileSystem()

    def unsupported(fd: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no fallocate here")

    if not reserved:
        files.allocate = unsupported  # type: ignore[method-assign]
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(**QUICK), files=files) as engine:
        origin.rate = 2_000_000.0
        for number in range(3):
            request = DownloadRequest(
                url=origin.url(f"{number}.bin"), id=f"{number}", destination=str(disk.path / f"{number}.bin")
            )
            await engine.offline(request)
        with trio.fail_after(20):
            while True:
                entries = await engine.list()
                parked = [entry for entry in entries if entry.state is State.PAUSED]
                if parked and all(entry.state is State.COMPLETED for entry in entries if entry not in parked):
                    break
                await trio.sleep(0.02)
        [waiting] = parked
        assert waiting.state_reason is Reason.DISK
        assert waiting.last_error is not None
        assert waiting.last_error.code == "no_space"
        assert waiting.bytes_total is None or waiting.attempts[-1].bytes_fetched < SIZE // 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upkeep_of(engine).space.watch)
            disk.resize(4 * SIZE)
            with trio.fail_after(20):
                await until(engine, waiting.id, State.COMPLETED)
            nursery.cancel_scope.cancel()
        assert content(disk.path / f"{waiting.id}.bin") == PAYLOAD


async def test_a_parked_entry_goes_on_at_once_when_something_is_removed(library: Path, tiny_tmpfs: Disk) -> None:
    disk = tiny_tmpfs(SIZE + MIB // 2)
    slow = small(space_check_interval_s=3600.0, space_check_interval_max_s=3600.0)
    async with serve(PAYLOAD) as origin, open_engine(library, config=slow) as engine:
        folder = f"{disk.path}/"
        first = DownloadRequest(url=origin.url("a.bin"), id="a", destination=folder)
        await (await engine.offline(first)).wait()
        await engine.offline(DownloadRequest(url=origin.url("b.bin"), id="b", destination=folder))
        await until(engine, "b", State.PAUSED, Reason.DISK)
        upkeep = upkeep_of(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upkeep.space.watch)
            await engine._manager.remove("a")
            with trio.fail_after(20):
                await until(engine, "b", State.COMPLETED)
            nursery.cancel_scope.cancel()
        assert files_under(disk.path) == {"b.bin"}


async def test_a_users_pause_is_not_lifted_by_space(library: Path, tiny_tmpfs: Disk) -> None:
    disk = tiny_tmpfs(SIZE // 2)
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(**QUICK)) as engine:
        await engine.offline(DownloadRequest(url=origin.url("a.bin"), id="a", destination=f"{disk.path}/"))
        await until(engine, "a", State.PAUSED, Reason.DISK)
        await engine._manager.pause("a")
        disk.resize(4 * SIZE)
        assert await upkeep_of(engine).space.resume_parked() == (0, 0)
        assert (await engine.get("a")).state is State.PAUSED


async def test_a_quota_holds_for_all_downloads_of_a_scope(library: Path) -> None:
    config = small(scope_quota_bytes=2 * SIZE + 100, **QUICK)
    async with serve(PAYLOAD) as origin, open_engine(library, config=config) as engine:
        space = upkeep_of(engine).space
        origin.rate = 4_000_000.0
        for number in range(4):
            await engine.offline(DownloadRequest(url=origin.url(f"{number}"), id=f"{number}", scope="me"))
        await offlined(engine, origin, "other", scope="you")
        with trio.fail_after(20):
            while True:
                states = sorted(entry.state.value for entry in await engine.list() if entry.scope == "me")
                if states == ["completed", "completed", "paused", "paused"]:
                    break
                assert states.count("completed") <= 2
                await trio.sleep(0.02)
        assert await space.resume_parked() == (0, 2)
        parked = [entry for entry in await engine.list() if entry.state is State.PAUSED]
        assert {entry.state_reason for entry in parked} == {Reason.QUOTA}
        assert {entry.last_error.code for entry in parked if entry.last_error} == {"quota"}
        explained = await engine.explain(parked[0].id)
        assert "its scope may not take as much" in explained.text
        assert "a larger quota" in explained.what_would_move_it
        await space.set_quota("me", 3 * SIZE)
        await space.resume_parked()
        with trio.fail_after(20):
            await until(engine, went_on(await engine.list()), State.COMPLETED)
        health = await upkeep_of(engine).health()
        assert health.disk_bytes["me"] == 3 * SIZE
        assert (health.counts["completed"], health.counts["paused"]) == (4, 1)


async def test_a_quota_survives_the_restart_and_holds_what_waits_for_it(library: Path) -> None:
    """It was set in an engine that is gone; the one behind it may not take more either, and is told the quota."""
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=small()) as engine:
            await engine.set_quota("me", SIZE + 100)
            await engine.set_quota("you", 0)
            await engine.set_quota("them", 7)
            await engine.set_quota("them", None)
            await offlined(engine, origin, "a", scope="me")
        async with open_engine(library, config=small(scope_quota_bytes=5, **QUICK)) as engine:
            assert [engine.quota(scope) for scope in ("me", "you", "them")] == [SIZE + 100, 0, 5]
            await offlined(engine, origin, "free", scope="you")
            await engine.offline(DownloadRequest(url=origin.url("b"), id="b", scope="me"))
            await until(engine, "b", State.PAUSED, Reason.QUOTA)
            assert (await engine.get_download_health()).quota_bytes == {"me": SIZE + 100, "you": 0}
        async with open_engine(library, config=small(**QUICK)) as engine:
            await engine.set_quota("me", 2 * SIZE)
            await until(engine, "b", State.COMPLETED)


@pytest.mark.parametrize("quota", [-1, 1.5, "much", True, 2**63])
async def test_a_quota_is_a_number_of_bytes(library: Path, quota: object) -> None:
    async with open_engine(library, config=small()) as engine:
        with pytest.raises(InvalidRequest):
            await upkeep_of(engine).space.set_quota("", quota)  # type: ignore[arg-type]


async def test_what_is_beyond_its_time_goes_unless_pinned_or_read(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=small()) as engine:
        upkeep = upkeep_of(engine)
        for name in ("old", "pinned", "read", "later", "never"):
            await offlined(engine, origin, name)
        for name in ("old", "pinned", "read"):
            await upkeep.expire(name, 1000.0)
        await upkeep.expire("later", 1e12)
        await upkeep.pin("pinned")
        with upkeep.space.readers.hold("read"):
            dry = await upkeep.maintenance.gc(dry_run=True)
            assert [one.entry_id for one in dry.findings] == ["old"]
            assert await present(engine) == {"old", "pinned", "read", "later", "never"}
            report = await upkeep.maintenance.gc()
            assert [(one.entry_id, one.action) for one in report.findings] == [("old", Action.REMOVED)]
            assert await present(engine) == {"pinned", "read", "later", "never"}
        await upkeep.pin("pinned", False)
        await upkeep.maintenance.gc()
        assert await present(engine) == {"later", "never"}
        assert files_under(library / "files") == {"later.bin", "never.bin"}
        with pytest.raises(UnknownEntry):
            await upkeep.pin("old")
        with pytest.raises(UnknownEntry):
            await upkeep.expire("old", None)


async def test_downloads_never_make_room_unasked(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=small()) as engine:
        upkeep = upkeep_of(engine)
        await offlined(engine, origin, "a")
        await upkeep.space.set_quota("", 10)
        assert (await upkeep.maintenance.gc()).findings == ()
        assert await present(engine) == {"a"}


async def test_what_was_read_least_recently_makes_room(library: Path) -> None:
    config = small(evict_least_recent=True, scope_quota_bytes=3 * SIZE)
    async with serve(PAYLOAD) as origin, open_engine(library, config=config) as engine:
        upkeep = upkeep_of(engine)
        for name in ("a", "b", "c"):
            await offlined(engine, origin, name)
        with upkeep.space.readers.hold("a"):
            pass
        await offlined(engine, origin, "d")
        assert await present(engine) == {"a", "c", "d"}
        await upkeep.pin("c")
        await offlined(engine, origin, "e")
        assert await present(engine) == {"c", "d", "e"}


async def test_when_a_file_was_read_is_known_after_a_restart(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=small()) as engine:
            upkeep = upkeep_of(engine)
            await offlined(engine, origin, "a")
            with upkeep.space.readers.hold("a"):
                assert upkeep.space.readers.held("a")
            assert not upkeep.space.readers.held("a")
            await upkeep.space.flush()
        async with open_engine(library, config=small()) as engine:
            read_at = (await engine.get("a")).last_read_at
            assert read_at is not None
            assert abs(read_at - os.stat(library / "files" / "a.bin").st_mtime) < 60


async def test_a_full_disk_evicts_what_the_host_lets_go(library: Path, tiny_tmpfs: Disk) -> None:
    disk = tiny_tmpfs(2 * SIZE + MIB // 2)
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(evict_least_recent=True)) as engine:
        upkeep_of(engine)
        for name in ("a", "b", "c", "d"):
            request = DownloadRequest(url=origin.url(f"{name}.bin"), id=name, destination=f"{disk.path}/")
            await (await engine.offline(request)).wait()
        assert files_under(disk.path) == {"c.bin", "d.bin"}
        assert await present(engine) == {"c", "d"}


@pytest.mark.parametrize("stated", [50 * SIZE, 16 * 10**12], ids=["over the quota", "over the disk"])
async def test_a_length_that_cannot_fit_evicts_nothing(library: Path, stated: int) -> None:
    """Not even all that may go would make room: the source says whatever it likes."""
    config = small(evict_least_recent=True, scope_quota_bytes=5 * SIZE + 100)
    async with serve(PAYLOAD) as origin, open_engine(library, config=config) as engine:
        if stated > 10**12:
            await engine.set_quota("", 0)
        for number in range(5):
            await offlined(engine, origin, f"{number}")
        origin.script = lambda _: Reply(stated=stated, ranges=False)
        await engine.offline(DownloadRequest(url=origin.url("big"), id="big"))
        with trio.fail_after(20):
            await until(engine, "big", State.PAUSED, Reason.DISK if stated > 10**12 else Reason.QUOTA)
        assert await present(engine) == {"0", "1", "2", "3", "4", "big"}


async def test_a_quota_evicts_nothing_for_what_the_disk_cannot_take(library: Path, tiny_tmpfs: Disk) -> None:
    """What is on another disk gives none of this one's space back."""
    disk = tiny_tmpfs(SIZE)
    config = small(evict_least_recent=True, scope_quota_bytes=5 * SIZE + 100)
    async with serve(PAYLOAD) as origin, open_engine(library, config=config) as engine:
        for number in range(4):
            await offlined(engine, origin, f"{number}")
        origin.script = lambda _: Reply(stated=2 * SIZE, ranges=False)
        await engine.offline(DownloadRequest(url=origin.url("big"), id="big", destination=f"{disk.path}/"))
        with trio.fail_after(20):
            await until(engine, "big", State.PAUSED, Reason.QUOTA)
        assert await present(engine) == {"0", "1", "2", "3", "big"}


async def test_only_files_that_give_space_back_make_room(library: Path, tiny_tmpfs: Disk) -> None:
    """One that has a second name stays on the disk whatever becomes of the first."""
    disk = tiny_tmpfs(3 * SIZE + MIB // 2)
    async with serve(PAYLOAD) as origin, open_engine(library, config=small(evict_least_recent=True)) as engine:
        for name in ("linked", "plain", "later", "new"):
            request = DownloadRequest(url=origin.url(f"{name}.bin"), id=name, destination=f"{disk.path}/")
            await (await engine.offline(request)).wait()
            if name == "linked":
                os.link(disk.path / "linked.bin", disk.path / "second")
        assert await present(engine) == {"linked", "later", "new"}
