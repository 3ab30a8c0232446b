"""Law 1 where the start after a power cut cannot look at a finished file: it is hashed as soon as it can be."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, Durability, Engine, State, open_engine
from engine.control.repair import Repairs
from engine.control.settle import failed_mark
from engine.control.verify import Validation
from engine.errors import DownloadFailed
from tests.support.library import BIG_CHUNK, CHUNK, claims, content, payload_of, small
from tests.support.origin import Asked, Origin, Reply, serve
from tests.support.run import assert_complete, run
from tests.whole.test_whole_reboot import NextBoot, spoil
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

    def remove(self) -> None:
        self.folder.rename(self._away)

    def mount(self) -> None:
        self._away.rename(self.folder)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "usb")


@asynccontextmanager
async def after_a_power_cut(
    library: Path, disk: Disk, files: NextBoot | None = None, harm: Callable[[str], None] = lambda path: None
) -> AsyncIterator[tuple[Engine, Origin]]:
    """An engine that started while the disk of its finished file was away, and could not look at it."""
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(
            url=origin.url(), id="film", destination=str(disk.file), durability=Durability.RELAXED
        )
        assert_complete(await run(library, request, config=CONFIG), PAYLOAD)
        harm(str(disk.file))
        disk.remove()
        origin.forget()
        async with open_engine(library, config=CONFIG, files=files or NextBoot()) as engine:
            assert ["could not be looked at" in found.what for found in engine.recovered] == [True]
            yield engine, origin


def doubts(engine: Engine) -> list[tuple[str, int, str]]:
    return engine._services.store.unsynced()


async def test_a_bad_file_is_mended_once_its_disk_is_there(library: Path, disk: Disk) -> None:
    """A car: the engine starts before the disk is mounted."""
    async with after_a_power_cut(library, disk, harm=lambda path: spoil(path, 5 * CHUNK)) as (engine, origin):
        await trio.sleep(ROUNDS_S)
        assert (await engine.get("film")).state is State.COMPLETED, "nothing is known of it"
        assert doubts(engine)
        disk.mount()
        await until(lambda: origin.asked != [])
        await engine.wait("film")
        assert content(disk.file) == PAYLOAD
        await until(lambda: doubts(engine) == [])
        assert [(asked.start, asked.end) for asked in origin.asked] == [(5 * CHUNK, 6 * CHUNK)]


async def test_a_sound_file_is_doubted_no_longer(library: Path, disk: Disk) -> None:
    async with after_a_power_cut(library, disk) as (engine, origin):
        disk.mount()
        await until(lambda: doubts(engine) == [])
        assert (await engine.get("film")).state is State.COMPLETED
        assert origin.asked == []


async def test_a_file_that_is_not_on_its_disk_is_fetched_again(library: Path, disk: Disk) -> None:
    async with after_a_power_cut(library, disk, harm=os.unlink) as (engine, origin):
        disk.mount()
        await until(lambda: origin.asked != [])
        await engine.wait("film")
        assert content(disk.file) == PAYLOAD


async def test_a_file_that_somebody_changed_is_left_as_it_is(library: Path, disk: Disk) -> None:
    def retag(path: str) -> None:
        with open(path, "r+b") as file:
            file.write(b"another title")
        os.utime(path, ns=(1, 1))

    async with after_a_power_cut(library, disk, harm=retag) as (engine, origin):
        disk.mount()
        await until(lambda: doubts(engine) == [])
        assert (await engine.get("film")).state is State.COMPLETED
        assert content(disk.file).startswith(b"another title")
        assert origin.asked == []


async def test_d6_a_sync_that_fails_then_leaves_the_doubt_to_the_next_boot(library: Path, disk: Disk) -> None:
    class NoSync(NextBoot):
        def sync_data(self, fd: int) -> None:
            raise OSError(errno.EIO, "the pages are dropped")

    files = NoSync()
    async with after_a_power_cut(library, disk, files) as (engine, _):
        disk.mount()
        await until(lambda: doubts(engine) == [("film", 0, failed_mark(files.boot_id()))])


async def test_a_file_that_cannot_be_mended_is_not_read_again_and_again(
    library: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks are hashed once more by the repair that is refused, and then by the next start."""
    validations: list[Validation] = []
    repair = Repairs.repair

    async def counted(repairs: Repairs, entry_id: str) -> Validation:
        validations.append(await repair(repairs, entry_id))
        return validations[-1]

    monkeypatch.setattr(Repairs, "repair", counted)
    full = type("Full", (NextBoot,), {"free_bytes": lambda _self, _fd: 0})()
    async with after_a_power_cut(library, disk, full, lambda path: spoil(path, 5 * CHUNK)) as (engine, _):
        disk.mount()
        await until(lambda: validations != [])
        await trio.sleep(ROUNDS_S)
        assert ["not repaired" in found.message for found in validations] == [True]
        assert doubts(engine), "the next start looks again"


async def test_one_that_cannot_be_fetched_again_fails_and_keeps_its_good_chunks(library: Path, disk: Disk) -> None:
    def gone(_asked: Asked) -> Reply:
        return Reply(status=404)

    async with after_a_power_cut(library, disk, harm=lambda path: spoil(path, 5 * CHUNK)) as (engine, origin):
        origin.script = gone
        disk.mount()
        await until(lambda: origin.asked != [])
        with pytest.raises(DownloadFailed):
            await engine.wait("film")
        assert (await engine.get("film")).state is State.FAILED
    (claim,) = claims(library)
    assert claim.held_bytes == len(PAYLOAD) - CHUNK
