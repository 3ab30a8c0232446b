"""Law 1 where the start after a power cut cannot look at a finished file: it is hashed as soon as it can be."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from engine import (
    Config,
    DownloadRequest,
    Durability,
    Engine,
    Reason,
    Recovered,
    State,
    StateChanged,
    open_engine,
)
from engine.control.settle import failed_mark
from engine.errors import StoreUnusable
from engine.store.codec import Table
from engine.store.state_store import StateStore
from tests.store.helpers import spoil as spoil_records
from tests.support.library import BIG_CHUNK, CHUNK, content, payload_of, small
from tests.support.origin import Origin, serve
from tests.support.run import assert_complete, assert_failed, run
from tests.whole.test_whole_reboot import NextBoot, half, spoil
from tests.whole.test_whole_recovery import until

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=47)
CONFIG = small(settle_interval_s=0.02)
ROUNDS_S = 0.1  # several looks


class Disk:
    """The folder of a finished file, which can be away."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._away = folder, folder.with_name("away")
        self.file = folder / "film.bin"
        folder.mkdir()

    def put_another(self) -> None:
        self.folder.mkdir()
        self.file.write_bytes(b"another film")

    def take_other(self) -> None:
        self.file.unlink()
        self.folder.rmdir()

    def remove(self) -> None:
        self.folder.rename(self._away)

    def mount(self) -> None:
        self._away.rename(self.folder)


class Renumbered(NextBoot):
    """Every disk has another number, as after it was plugged in again."""

    def _moved(self, info: os.stat_result) -> os.stat_result:
        fields = list(info)
        fields[stat.ST_DEV] += 1
        return os.stat_result(fields, {"st_mtime_ns": info.st_mtime_ns, "st_blocks": info.st_blocks})

    def stat_fd(self, fd: int) -> os.stat_result:
        return self._moved(super().stat_fd(fd))

    def stat_path(self, path: str, *, follow: bool = True) -> os.stat_result | None:
        info = super().stat_path(path, follow=follow)
        return None if info is None else self._moved(info)

    def stat_name(self, folder_fd: int, name: str) -> os.stat_result | None:
        info = super().stat_name(folder_fd, name)
        return None if info is None else self._moved(info)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "usb")


Harm = Callable[[str], None]


def nothing(_path: str) -> None:
    """The power cut took nothing."""


@asynccontextmanager
async def power_cut(
    library: Path, disk: Disk, harm: Harm = nothing, headers: tuple[tuple[str, str], ...] = ()
) -> AsyncIterator[Origin]:
    """A finished file, what a power cut left of it, and its disk away."""
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(
            url=origin.url(), id="film", destination=str(disk.file), durability=Durability.RELAXED, headers=headers
        )
        assert_complete(await run(library, request, config=CONFIG), PAYLOAD)
        harm(str(disk.file))
        disk.remove()
        origin.forget()
        yield origin


@asynccontextmanager
async def started(
    library: Path, files: NextBoot | None = None, config: Config = CONFIG, *, resume: bool = True
) -> AsyncIterator[Engine]:
    """An engine that started while the disk was away, and could not look at its file."""
    async with open_engine(library, config=config, files=files or NextBoot(), resume=resume) as engine:
        assert ["could not be looked at" in found.what for found in engine.recovered] == [True]
        yield engine


@asynccontextmanager
async def after_a_power_cut(
    library: Path, disk: Disk, files: NextBoot | None = None, harm: Harm = nothing
) -> AsyncIterator[tuple[Engine, Origin]]:
    """Both."""
    async with power_cut(library, disk, harm) as origin, started(library, files) as engine:
        yield engine, origin


def doubts(engine: Engine) -> list[tuple[str, int, str]]:
    return engine._services.store.unsynced()


def is_film(fd: int) -> bool:
    return os.readlink(f"/proc/self/fd/{fd}").endswith("film.bin")


def bad(path: str) -> None:
    spoil(path, 5 * CHUNK)


async def is_mended(engine: Engine, origin: Origin, disk: Disk) -> None:
    """It was taken back and told, and is fetched again."""
    await until(lambda: origin.asked != [])
    await engine.wait("film")
    assert content(disk.file) == PAYLOAD
    await until(lambda: doubts(engine) == [])


async def test_a_bad_file_is_mended_once_its_disk_is_there(library: Path, disk: Disk) -> None:
    """A car: the engine starts before the disk is mounted."""
    async with after_a_power_cut(library, disk, harm=bad) as (engine, origin):
        await trio.sleep(ROUNDS_S)
        assert (await engine.get("film")).state is State.COMPLETED, "nothing is known of it"
        assert doubts(engine)
        with engine.events("film") as events:
            disk.mount()
            await is_mended(engine, origin, disk)
            told = [await anext(events) for _ in range(2)]
    assert isinstance(told[0], StateChanged)
    assert (told[0].previous, told[0].state) == (State.COMPLETED, State.PENDING)
    assert isinstance(told[1], Recovered)
    assert told[1].what.startswith("1 chunks had not reached the disk")


async def test_a_sound_file_is_doubted_no_longer(library: Path, disk: Disk) -> None:
    async with after_a_power_cut(library, disk) as (engine, origin):
        disk.mount()
        await until(lambda: doubts(engine) == [])
        assert (await engine.get("film")).state is State.COMPLETED
        assert origin.asked == []


async def test_a_file_that_is_not_on_its_disk_is_left_to_the_next_start(library: Path, disk: Disk) -> None:
    """Perhaps it is another disk."""
    async with after_a_power_cut(library, disk, harm=os.unlink) as (engine, origin):
        disk.mount()
        await trio.sleep(ROUNDS_S)
        assert doubts(engine)
        assert origin.asked == []


def retagged(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"another title")
    os.utime(path, ns=(1, 1))


async def test_a_file_that_somebody_changed_is_left_as_it_is(library: Path, disk: Disk) -> None:
    async with after_a_power_cut(library, disk, harm=retagged) as (engine, origin):
        disk.mount()
        await until(lambda: doubts(engine) == [])
        assert (await engine.get("film")).state is State.COMPLETED
        assert content(disk.file).startswith(b"another title")
        assert origin.asked == []


async def test_another_disk_in_its_place_does_not_clear_the_doubt(library: Path, disk: Disk) -> None:
    """Another file has its name, while the engine runs and at a start; then its own disk comes back, bad as it was."""
    async with power_cut(library, disk, bad) as origin:
        async with started(library, Renumbered()) as engine:
            disk.put_another()
            await trio.sleep(ROUNDS_S)
            assert doubts(engine)
        async with open_engine(library, config=CONFIG, files=Renumbered()) as engine:
            assert ["it is left as it is" in found.what for found in engine.recovered] == [True]
            assert doubts(engine)
            disk.take_other()
            disk.mount()
            await is_mended(engine, origin, disk)


async def test_a_file_that_is_replaced_while_it_is_hashed_stays(library: Path, disk: Disk) -> None:
    class Editor(NextBoot):
        def read_at(self, fd: int, length: int, offset: int) -> bytes:
            data = super().read_at(fd, length, offset)
            if offset == 10 * CHUNK and not saved:
                saved.append(True)
                edited = disk.folder / "edited"
                edited.write_bytes(b"USER" + PAYLOAD[4:])
                edited.rename(disk.file)
            return data

    saved: list[bool] = []
    async with after_a_power_cut(library, disk, Editor(), bad) as (engine, origin):
        disk.mount()
        await until(lambda: saved == [True])
        await trio.sleep(ROUNDS_S)
        assert content(disk.file).startswith(b"USER")
        assert (await engine.get("film")).state is State.COMPLETED
        assert origin.asked == []


async def test_a_disk_that_goes_while_it_is_hashed_is_looked_at_when_it_is_back(library: Path, disk: Disk) -> None:
    class Unplugged(NextBoot):
        plugged = True
        reads = 0

        def read_at(self, fd: int, length: int, offset: int) -> bytes:
            self.reads += 1
            if self.reads == 50:
                disk.remove()
                self.plugged = False
            if not self.plugged:
                raise OSError(errno.EIO, "unplugged")
            return super().read_at(fd, length, offset)

    files = Unplugged()
    async with after_a_power_cut(library, disk, files, bad) as (engine, origin):
        disk.mount()
        await until(lambda: files.reads > 100)
        await trio.sleep(ROUNDS_S)
        assert (await engine.get("film")).state is State.COMPLETED
        files.plugged = True
        disk.mount()
        await is_mended(engine, origin, disk)


async def test_a_disk_with_another_number_is_mended(library: Path, disk: Disk) -> None:
    async with after_a_power_cut(library, disk, Renumbered(), bad) as (engine, origin):
        disk.mount()
        await is_mended(engine, origin, disk)


async def test_d6_a_sync_that_fails_then_leaves_the_doubt_to_the_next_boot(library: Path, disk: Disk) -> None:
    class NoSync(NextBoot):
        def sync_data(self, fd: int) -> None:
            raise OSError(errno.EIO, "the pages are dropped")

    files = NoSync()
    async with after_a_power_cut(library, disk, files) as (engine, _):
        disk.mount()
        await until(lambda: doubts(engine) == [("film", 0, failed_mark(files.boot_id()))])


@pytest.mark.parametrize("trouble", ["disk", "store"])
async def test_a_file_is_not_read_again_and_again(
    library: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """What comes to nothing is tried after pauses that double."""

    class Counting(NextBoot):
        reads = 0

        def read_at(self, fd: int, length: int, offset: int) -> bytes:
            self.reads += is_film(fd) and offset == 0
            if trouble == "disk" and is_film(fd):
                raise OSError(errno.EIO, "dying")
            return super().read_at(fd, length, offset)

    def full(_store: StateStore, *_: object) -> bool:
        raise StoreUnusable("full")

    if trouble == "store":
        monkeypatch.setattr(StateStore, "mark_synced", full)
    files = Counting()
    async with after_a_power_cut(library, disk, files):
        disk.mount()
        await until(lambda: files.reads == 1)
        await trio.sleep(40 * CONFIG.settle_interval_s)
        assert 2 <= files.reads <= 10


async def test_another_file_is_synced_while_a_doubtful_one_is_hashed(library: Path, disk: Disk) -> None:
    class Stuck(NextBoot):
        def read_at(self, fd: int, length: int, offset: int) -> bytes:
            if is_film(fd):
                reads.append(offset)
                assert go_on.wait(30)
            return super().read_at(fd, length, offset)

    reads: list[int] = []
    go_on = threading.Event()
    async with after_a_power_cut(library, disk, Stuck()) as (engine, origin):
        disk.mount()
        await until(lambda: reads != [])
        other = DownloadRequest(url=origin.url(), id="other", durability=Durability.RELAXED)
        await (await engine.offline(other)).wait()
        await until(lambda: [name for name, _, _ in doubts(engine)] == ["film"])
        go_on.set()


@pytest.mark.parametrize("records_only", [True, False])
async def test_only_what_is_asked_for_runs_where_nothing_is_taken_up(
    library: Path, disk: Disk, records_only: bool
) -> None:
    """``get`` of another URL, ``gc --dry-run``: as their start does it, and with nobody else's proxy."""
    async with power_cut(library, disk, bad) as origin:
        async with started(library, config=replace(CONFIG, records_only=records_only), resume=False) as engine:
            disk.mount()
            if not records_only:
                await until(lambda: doubts(engine) == [])
            await trio.sleep(ROUNDS_S)
            assert bool(doubts(engine)) is records_only
            state = (await engine.get("film")).state
        assert state is (State.COMPLETED if records_only else State.PENDING)
        assert origin.asked == []
        assert os.listdir(disk.folder) == ["film.bin"]


async def test_one_that_needs_credentials_waits_for_them(library: Path, disk: Disk) -> None:
    headers = (("Authorization", "Bearer secret"),)
    async with power_cut(library, disk, bad, headers) as origin, started(library) as engine:
        disk.mount()
        store = engine._services.store
        await until(lambda: (entry := store.get("film")) is not None and entry.state_reason is Reason.NEEDS_CREDENTIALS)
        assert origin.asked == []
        request = DownloadRequest(url=origin.url(), id="film", destination=str(disk.file), headers=headers)
        await engine.offline(request)
        await is_mended(engine, origin, disk)


async def test_one_that_is_removed_while_it_is_hashed_stays_removed(library: Path, disk: Disk) -> None:
    """And its file, which the user kept, as it is."""

    class Stuck(NextBoot):
        def read_at(self, fd: int, length: int, offset: int) -> bytes:
            if is_film(fd) and offset == 0:
                reads.append(offset)
                assert go_on.wait(30)
            return super().read_at(fd, length, offset)

    reads: list[int] = []
    go_on = threading.Event()
    async with after_a_power_cut(library, disk, Stuck(), bad) as (engine, origin):
        disk.mount()
        await until(lambda: reads != [])
        await engine.remove("film", keep_file=True)
        go_on.set()
        await trio.sleep(ROUNDS_S)
        assert await engine.list() == []
        assert origin.asked == []
    assert disk.file.exists()


async def test_l10_without_a_good_record_of_the_finished_file_nothing_tells_an_edit_from_a_loss(
    library: Path, disk: Disk
) -> None:
    """So what differs is left as it is."""
    async with power_cut(library, disk, bad) as origin:
        assert spoil_records(str(library), Table.OFFLINE)
        async with started(library) as engine:
            disk.mount()
            await until(lambda: doubts(engine) == [])
            assert origin.asked == []
    assert content(disk.file) != PAYLOAD


async def test_an_unfinished_file_is_its_next_attempts_to_look_at(library: Path, disk: Disk) -> None:
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), destination=str(disk.file), durability=Durability.RELAXED)
        assert_failed(await run(library, request, config=CONFIG), "not_found", 404)
        disk.remove()
        async with started(library, resume=False) as engine:
            disk.mount()
            await trio.sleep(ROUNDS_S)
            assert doubts(engine)
