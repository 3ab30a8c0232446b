"""Removing entries: record first, then files; whatever they are doing, whatever comes at the same time (law 4)."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, EngineClosed, Reason, State, open_engine
from engine.config import MIB
from engine.control.manager import Manager
from engine.errors import NotMounted, NotPermitted, Superseded, UnknownEntry
from engine.files.filesystem import FileSystem
from engine.model.events import Removed
from engine.store.environment import Environment
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, claims, content, files_under, parts_under, payload_of, small
from tests.support.mounts import mounted_tmpfs
from tests.support.origin import Asked, Reply, plain, serve
from tests.support.steps import Steps, step_transactions, stepping_files
from tests.support.upkeep import upkeep_of
from tests.support.verbs import begin, manager_of, repair_whole, steps, told, until_state

PAYLOAD = payload_of(20 * BIG_CHUNK + 11, seed=411)
ONE_CHUNK = payload_of(CHUNK - 7, seed=412)


async def test_bug_2_removing_a_running_one_stops_it_and_deletes_its_files(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        async with told(engine, "x") as events:
            await begin(engine, origin)
            reclaimed = await manager_of(engine).remove("x")
        assert steps(events) == ["pending", "in_progress", "removed"]
        assert reclaimed >= len(PAYLOAD)
        assert not engine._services.client.pool._active
        assert files_under(library / "files") == set()
        with pytest.raises(UnknownEntry):
            await engine.get("x")
        with pytest.raises(UnknownEntry):
            await manager_of(engine).remove("x")
        assert engine._services.store.tombstones.all() == []


async def test_bug_2_removing_all_really_deletes_the_files(library: Path, tmp_path: Path) -> None:
    """Queued, running, paused, failed, cancelled and done alike; another scope's are left alone."""

    def script(asked: Asked) -> Reply:
        return Reply(status=404) if asked.target == "/bad" else Reply(rate=4e6)

    config = small(entries_at_once=2)
    async with serve(PAYLOAD, plain) as origin, open_engine(library, config=config) as engine:
        verbs = manager_of(engine)
        for name in ("done", "kept"):
            scope = "other" if name == "kept" else ""
            await (await engine.offline(DownloadRequest(url=origin.url(name), id=name, scope=scope))).wait()
        origin.script = script
        await engine.offline(DownloadRequest(url=origin.url("bad"), id="failed"))
        await until_state(engine, "failed", State.FAILED)
        names = ["paused", "cancelled", "running", "running too", "queued", "queued too"]
        for name in names:
            folder = f"{tmp_path}/elsewhere/" if name == "running" else None
            await engine.offline(DownloadRequest(url=origin.url(name.split()[0]), id=name, destination=folder))
        await verbs.pause("paused")
        await verbs.cancel("cancelled")
        await until_state(engine, "running", State.IN_PROGRESS)
        assert await verbs.remove_all("") >= len(PAYLOAD)
        assert [entry.id for entry in await engine.list()] == ["kept"]
        assert files_under(library / "files") == {"kept"}
        assert files_under(tmp_path / "elsewhere") == set()
        await verbs.remove_all()
        assert files_under(library / "files") == set()
        assert await engine.list() == []


async def test_a_file_can_be_kept_and_is_the_users_own_then(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        async with told(engine) as events:
            assert await manager_of(engine).remove("x", keep_file=True) == 0
        assert [event.kept_file for event in events if isinstance(event, Removed)] == [True]
        assert content(done.path) == PAYLOAD
        again = await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        assert again.path != done.path
        await manager_of(engine).remove("x")
    assert files_under(library / "files") == {"film.bin"}


@pytest.mark.parametrize("how", ["another file", "a link", "a folder", "nothing"])
async def test_only_the_very_file_of_the_record_is_deleted(library: Path, how: str) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        os.rename(done.path, library / "moved")
        if how == "another file":
            Path(done.path).write_bytes(PAYLOAD)
        elif how == "a link":
            os.symlink(library / "moved", done.path)
        elif how == "a folder":
            os.mkdir(done.path)
        await manager_of(engine).remove("x")
        assert os.path.lexists(done.path) == (how != "nothing")
        assert content(library / "moved") == PAYLOAD
        assert await engine.list() == []


async def test_the_file_of_a_user_who_edited_it_in_place_is_the_records_still(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        with open(done.path, "r+b") as file:
            file.write(b"tagged")
        await manager_of(engine).remove("x")
    assert files_under(library / "files") == set()


class OtherDevice(FileSystem):
    """The disk came up under another number after a reboot."""

    def stat_name(self, folder_fd: int, name: str) -> os.stat_result | None:
        info = super().stat_name(folder_fd, name)
        return info if info is None else _elsewhere(info)

    def stat_fd(self, fd: int) -> os.stat_result:
        return _elsewhere(super().stat_fd(fd))


def _elsewhere(info: os.stat_result) -> os.stat_result:
    fields = list(info)
    fields[2] = info.st_dev + 1
    names = {name: getattr(info, name) for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blocks")}
    return os.stat_result(fields, names)


async def test_a_disk_with_another_number_since_a_reboot_is_known_by_its_files(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            for name in "ab":
                await (await engine.offline(DownloadRequest(url=origin.url(name + ".bin"), id=name))).wait()
        (library / "files" / "b.bin").write_bytes(b"another")
        async with open_engine(library, config=SMALL, files=OtherDevice()) as engine:
            await manager_of(engine).remove_all()
    assert files_under(library / "files") == {"b.bin"}, "its size and time stamp are not what they were"


async def test_who_waits_for_it_is_told_that_it_was_removed(library: Path) -> None:
    """The last of opposite requests wins, and the earlier caller learns of it."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await begin(engine, origin)
        errors: list[BaseException] = []

        async def wait() -> None:
            with pytest.raises(Superseded, match="removed") as raised:
                await engine.wait("x")
            errors.append(raised.value)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.sleep(0.01)
                await manager_of(engine).remove("x")
        assert len(errors) == 1


class SlowUnlink(FileSystem):
    """Deleting takes until it is told to go on."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.armed = False

    def unlink(self, folder_fd: int, name: str) -> bool:
        if self.armed:
            self.armed = False
            self.entered.set()
            assert self.go_on.wait(10)
        return super().unlink(folder_fd, name)


@pytest.mark.parametrize("many", [False, True])
async def test_bug_19_asked_for_while_it_is_removed_it_is_a_new_entry(library: Path, many: bool) -> None:
    """Store and remove out of order: the request waits for the files to go; nothing of the old one lingers, and the
    new one's files are not deleted in its place."""
    files = SlowUnlink()
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL, files=files) as engine:
        await begin(engine, origin)
        old = await engine.get("x")
        files.armed = True

        async def ask() -> None:
            request = DownloadRequest(url=origin.url(), id="x")
            await (engine.offline_many([request]) if many else engine.offline(request))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager_of(engine).remove, "x")
            assert await trio.to_thread.run_sync(files.entered.wait, 10)
            nursery.start_soon(ask)
            await trio.sleep(0.05)
            assert await engine.list() == [], "it waits"
            origin.rate = None
            files.go_on.set()
        assert content((await engine.wait("x")).path) == PAYLOAD
        new = await engine.get("x")
        assert new.sequence > old.sequence
        assert new.epoch > old.epoch
        assert new.attempt_count == 1
    assert files_under(library / "files") == {"film.bin"}


async def test_bug_19_removed_right_after_it_was_asked_for_it_does_not_linger(library: Path) -> None:
    """Many times, at every moment of its life; the last request wins."""
    async with serve(ONE_CHUNK) as origin, open_engine(library, config=SMALL) as engine:
        for step in range(40):
            await engine.offline(DownloadRequest(url=origin.url(), id="x"))
            for _ in range(step):
                await trio.lowlevel.checkpoint()
            await trio.sleep(step * 0.0005)
            await manager_of(engine).remove("x")
            assert await engine.list() == []
            assert files_under(library / "files") == set()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(engine.offline, DownloadRequest(url=origin.url(), id="x"))
                nursery.start_soon(_remove_if_there, manager_of(engine))
        await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        assert content((await engine.wait("x")).path) == ONE_CHUNK
    assert files_under(library / "files") == {"film.bin"}


async def _remove_if_there(manager: Manager) -> None:
    try:
        await manager.remove("x")
    except UnknownEntry:
        await trio.lowlevel.checkpoint()


class CannotUnlink(FileSystem):
    """The folder may not be changed any more."""

    def unlink(self, folder_fd: int, name: str) -> bool:
        raise PermissionError(errno.EACCES, "no")


async def test_what_cannot_be_deleted_is_told_and_tried_again(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
        async with open_engine(library, config=SMALL, files=CannotUnlink()) as engine:
            with pytest.raises(NotPermitted):
                await manager_of(engine).remove("x")
            assert await engine.list() == [], "the record is gone all the same"
            with pytest.raises(NotPermitted):
                await manager_of(engine).remove("x")
            with pytest.raises(NotPermitted):
                await engine.offline(DownloadRequest(url=origin.url(), id="x"))
        async with open_engine(library, config=SMALL, files=CannotUnlink()) as engine:
            assert ["could not be deleted" in found.what for found in engine.recovered] == [True]
        assert files_under(library / "files") == {"film.bin"}
        async with open_engine(library, config=SMALL) as engine:
            assert [found.what for found in engine.recovered] == ["its removal was finished"]
            assert files_under(library / "files") == set()
            assert engine._services.store.tombstones.all() == []


async def test_a_folder_that_is_gone_counts_as_deleted(library: Path, tmp_path: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        place = tmp_path / "disk"
        done = await (await engine.offline(DownloadRequest(url=origin.url(), id="x", destination=f"{place}/"))).wait()
        os.unlink(done.path)
        place.rmdir()
        assert await manager_of(engine).remove("x") == 0
        assert engine._services.store.tombstones.all() == []


@pytest.mark.parametrize("how", ["by itself", "removed again", "at the next start"])
async def test_a_file_on_a_disk_that_is_not_mounted_waits_for_it(library: Path, tmp_path: Path, how: str) -> None:
    """A folder that is gone with its disk is told from one that was deleted; the file goes once the disk is back."""
    config = small(space_check_interval_max_s=0.05 if how == "by itself" else 600.0)
    disk = tmp_path / "disk"
    with mounted_tmpfs(disk, 8 * MIB) as tmpfs:
        async with serve(PAYLOAD) as origin, open_engine(library, config=config) as engine:
            for name, place in (("x", disk), ("deep", disk / "a" / "b")):
                request = DownloadRequest(url=origin.url(name), id=name, destination=f"{place}/{name}.bin")
                await (await engine.offline(request)).wait()
            tmpfs.hide()
            for name in ("x", "deep"):
                with pytest.raises(NotMounted, match="not mounted") as raised:
                    await engine.remove(name)
                assert "Mount its disk" in raised.value.advice
                with pytest.raises(NotMounted):  # nor is the id free
                    await engine.offline(DownloadRequest(url=origin.url(name), id=name))
            assert len(engine._services.store.tombstones.all()) == 2
            gone, tombstones = trio.Event(), engine._services.store.tombstones
            engine._manager.removal.freed = lambda _id: None if tombstones.all() else gone.set()
            if how != "at the next start":
                tmpfs.show()
            if how == "removed again":
                for name in ("x", "deep"):
                    await engine.remove(name)
            if how == "by itself":
                with trio.fail_after(20):
                    await gone.wait()
        if how == "at the next start":
            async with open_engine(library, config=SMALL) as engine:
                assert ["not mounted" in each.what for each in engine.recovered] == [True, True]
            tmpfs.show()
        async with open_engine(library, config=SMALL) as engine:
            assert engine._services.store.tombstones.all() == []
        assert files_under(disk) == set()


async def test_a_target_is_free_again_once_its_entry_is_removed_or_paused(library: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "film.bin")
    config = small(entries_at_once=1)
    async with serve(PAYLOAD) as origin, open_engine(library, config=config) as engine:
        await begin(engine, origin, "first")
        for verb in ("remove", "pause"):
            await engine.offline(DownloadRequest(url=origin.url(verb), id=verb, destination=target))
            await getattr(manager_of(engine), verb)(verb)
        origin.rate = None
        done = await (await engine.offline(DownloadRequest(url=origin.url(), id="x", destination=target))).wait()
        assert content(done.path) == PAYLOAD
        assert (await engine.get("pause")).state_reason is Reason.USER


@pytest.mark.parametrize("verb", ["remove", "cancel"])
@pytest.mark.parametrize("complete", [True, False])
async def test_a_crash_before_every_step_of_a_removal(tmp_path: Path, verb: str, complete: bool) -> None:
    """The next start finishes what had begun: no file without a record, no record of a file that is gone."""
    if complete and verb == "cancel":
        verb = "repair, then cancel"
    async with serve(PAYLOAD) as origin:
        for step in range(1, 40):
            library = tmp_path / str(step)
            struck = await _cut_off_at(library, step, verb, complete, origin)
            async with open_engine(library, config=SMALL, resume=False) as engine:
                left = await engine.list()
                names = files_under(library / "files")
                if not left:
                    assert names == set()
                elif left[0].state is State.CANCELLED:
                    assert names == ({"film.bin"} if complete else set())
                else:
                    assert names, "nothing was deleted of what is still on record"
                assert engine._services.store.tombstones.all() == []
            if not struck:
                break
        assert not struck
        assert step > 4


async def _cut_off_at(library: Path, step: int, verb: str, complete: bool, origin: object) -> bool:
    """An engine whose verb ends before that step as a crash would end it; False when it came to its end."""
    from tests.support.origin import Origin

    assert isinstance(origin, Origin)

    class Crash(BaseException):
        """Nothing goes on after it."""

    def strike() -> None:
        raise Crash

    counted = Steps(step, strike)
    origin.rate = None if complete else 4e6
    with pytest.MonkeyPatch.context() as patch:
        files = stepping_files(counted)
        async with open_engine(library, config=SMALL) as engine:
            if complete:
                await (await engine.offline(DownloadRequest(url=origin.url(), id="x"))).wait()
                if verb != "remove":
                    origin.rate = 4e6
                    await repair_whole(engine)
                    await until_state(engine, "x", State.IN_PROGRESS)
            else:
                await begin(engine, origin)
            await manager_of(engine).pause("x") if (await engine.get("x")).state is State.IN_PROGRESS else None
        counted.taken.clear()
        step_transactions(counted, Environment, patch.setattr)
        try:
            async with open_engine(library, config=SMALL, files=files, resume=False) as engine:
                counted.taken.clear()
                await getattr(manager_of(engine), "remove" if verb == "remove" else "cancel")("x")
        except (Crash, BaseExceptionGroup):
            return True
    return counted.struck


async def test_after_the_close_every_verb_says_so(library: Path) -> None:
    async with open_engine(library, config=SMALL) as engine:
        manager = manager_of(engine)
        repair = upkeep_of(engine).repairs.repair
        verbs = (manager.pause, manager.resume, manager.cancel, manager.retry, repair, manager.remove)
        for verb in verbs:
            with pytest.raises(UnknownEntry):
                await verb("nobody")
    for verb in verbs:
        with pytest.raises(EngineClosed):
            await verb("nobody")
    for for_all in (manager.remove_all, manager.retry_failed):
        with pytest.raises(EngineClosed):
            await for_all()


async def test_what_is_left_of_a_damaged_record_is_swept(library: Path) -> None:
    """The part's record is gone; its file is known by the entry's own mark."""
    from engine.store.codec import Table
    from tests.store.helpers import spoil

    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await begin(engine, origin)
            await manager_of(engine).pause("x")
        assert claims(library)
        spoil(str(library), Table.PARTS)
        async with open_engine(library, config=SMALL, resume=False) as engine:
            assert parts_under(library / "files")
            await manager_of(engine).remove("x")
    assert files_under(library / "files") == set()
