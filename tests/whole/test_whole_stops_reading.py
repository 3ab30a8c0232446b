"""Who closes the engine, pauses an entry or gives a verification up need not wait until gigabytes are read."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, Durability, State, open_engine
from engine.files import reading
from engine.files.filesystem import FileSystem
from tests.support.library import BIG_CHUNK, CHUNK, hash_of, payload_of, small
from tests.support.origin import plain, serve
from tests.support.run import assert_complete, assert_failed, run
from tests.whole.test_whole_reboot import NextBoot, half

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=53)
CONFIG = small(settle_interval_s=0.02)
AT = 3  # the reading that takes its time


class SlowDisk(FileSystem):
    """From the third block on reading waits until :meth:`go_on`."""

    def __init__(self) -> None:
        self.reads = 0
        self.reached, self._free = trio.Event(), threading.Event()

    def read_at(self, fd: int, length: int, offset: int) -> bytes:
        self.reads += 1
        if self.reads == AT:
            trio.from_thread.run_sync(self.reached.set)
            assert self._free.wait(10)
        return super().read_at(fd, length, offset)

    def go_on(self) -> None:
        self._free.set()


class SlowNextBoot(SlowDisk, NextBoot):
    """The machine after its next start, whose folders cannot be opened at first."""

    away = True

    def open_existing(self, folder_fd: int, name: str, *, write: bool) -> int:
        if self.away:
            self.away = False
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().open_existing(folder_fd, name, write=write)


async def test_a_verification_that_is_given_up_stops_reading(library: Path) -> None:
    disk = SlowDisk()
    async with serve(PAYLOAD) as origin:
        assert_complete(await run(library, DownloadRequest(url=origin.url(), id="film"), config=CONFIG), PAYLOAD)
    async with open_engine(library, config=CONFIG, files=disk) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.validate_downloads)
        await disk.reached.wait()
        nursery.cancel_scope.cancel()
        disk.go_on()
    assert disk.reads == AT


async def test_an_engine_that_closes_stops_looking_at_what_is_doubtful(library: Path) -> None:
    disk = SlowNextBoot()
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=Durability.RELAXED)
        assert_complete(await run(library, request, config=CONFIG), PAYLOAD)
    async with trio.open_nursery() as nursery, open_engine(library, config=CONFIG, files=disk):
        await disk.reached.wait()
        nursery.start_soon(_go_on_later, disk)
    assert disk.reads == AT
    async with open_engine(library, config=CONFIG, files=NextBoot()) as engine:
        assert (await engine.get("film")).state is State.COMPLETED


async def _go_on_later(disk: SlowDisk) -> None:
    await trio.sleep(0.1)  # who waits for the reading is cancelled by then
    disk.go_on()


async def test_a_pause_does_not_wait_until_a_resumed_file_is_hashed(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sha256 needs the whole file, as parts of it were there before."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", CHUNK)
    disk = SlowDisk()
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), id="film", expect={"sha256": hashlib.sha256(PAYLOAD).hexdigest()})
        assert_failed(await run(library, request, config=CONFIG), "not_found", 404)
        origin.script = plain
        async with open_engine(library, config=CONFIG, files=disk) as engine, trio.open_nursery() as nursery:
            download = await engine.offline(request)
            await disk.reached.wait()
            nursery.start_soon(_go_on_later, disk)
            assert (await engine.pause("film")).state is State.PAUSED
            assert disk.reads == AT
            await engine.resume("film")
            done = await download.wait()
    assert done.blake3 == hash_of(PAYLOAD)
