"""Blocks that the store's file owns behind its end: what frees space is recorded on a full disk (D4)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, Engine, State, open_engine
from engine.config import KIB, MIB, Config
from engine.errors import NoSpace
from engine.files.filesystem import FileSystem
from engine.store.headroom import HEADROOM_BYTES, Headroom
from engine.store.state_store import StateStore
from tests.store.helpers import entry
from tests.support.library import CHUNK, files_under, payload_of, small
from tests.support.mounts import NoReserve, TinyTmpfs
from tests.support.origin import serve

Mount = Callable[[int], TinyTmpfs]
PAYLOAD = payload_of(5 * CHUNK, seed=17)


class Reserves(FileSystem):
    """Tells what it is asked for; ``error`` is raised while there is one."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.error: OSError | None = None

    def reserve_behind(self, path: str, length: int) -> None:
        self.asked.append(length)
        if self.error is not None:
            raise self.error


def fill(folder: Path) -> Path:
    """Leave not one byte free; returns the file that did it."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as target:
        for size in (MIB, 4 * KIB, 1):
            try:
                while target.write(bytes(size)) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017  # it is how one finds out
    assert os.statvfs(folder).f_bavail == 0
    return filler


def test_it_is_asked_for_half_way_and_again_after_a_failure() -> None:
    files = Reserves()
    headroom = Headroom("data", files)
    half = HEADROOM_BYTES // 2
    for used in (0, half, half + 1, half + 2):
        headroom.keep(used)
    files.error = OSError(errno.ENOSPC, "full")
    headroom.keep(2 * half + 2)
    headroom.keep(2 * half + 2)
    files.error = None
    headroom.keep(2 * half + 2)
    headroom.keep(2 * half + 2)

    assert files.asked == [HEADROOM_BYTES, half + 1 + HEADROOM_BYTES, *[2 * half + 2 + HEADROOM_BYTES] * 3]


def test_the_blocks_are_the_files_own_and_its_size_stays(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(5))
    FileSystem().reserve_behind(str(path), MIB)

    assert (path.stat().st_size, path.stat().st_blocks * 512 >= MIB) == (5, True)
    with pytest.raises(FileNotFoundError):
        FileSystem().reserve_behind(str(tmp_path / "none"), MIB)
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("reserved", [True, False])
def test_entries_are_removed_from_a_store_on_a_full_disk(tiny_tmpfs: Mount, reserved: bool) -> None:
    disk = tiny_tmpfs(4 * MIB)
    files = FileSystem() if reserved else NoReserve()
    with closing(StateStore.open(str(disk.path / "lib"), Config(), files, now=1.0)) as store:
        store.add_many(entry(f"{number}") for number in range(500))
        filler = fill(disk.path)
        if not reserved:
            with pytest.raises(NoSpace):
                remove_all(store)
            filler.unlink()
        remove_all(store)
        assert store.list() == []
        filler.unlink(missing_ok=True)  # a mark of a clean end has its own file


def remove_all(store: StateStore) -> None:
    for number in range(500):
        if store.get(f"{number}") is not None:
            store.remove(f"{number}")


async def test_an_engine_starts_and_removes_on_a_full_disk(tiny_tmpfs: Mount) -> None:
    """And then there is room for the next one."""
    disk = tiny_tmpfs(len(PAYLOAD) + 2 * MIB)
    root = disk.path / "lib"
    async with serve(PAYLOAD) as origin:
        async with open_engine(root, config=small()) as engine:
            await (await engine.offline(DownloadRequest(url=origin.url("a.bin"), id="a"))).wait()
        filler = fill(disk.path)
        with trio.fail_after(30):
            async with open_engine(root, config=small()) as engine:
                await engine.offline(DownloadRequest(url=origin.url("b.bin"), id="b"))
                await until(engine, "b", State.PAUSED)
                await engine.remove("a")
                assert files_under(root / "files") <= {"b.bin"}
                await until(engine, "b", State.COMPLETED)
    assert filler.exists()


async def until(engine: Engine, entry_id: str, state: State) -> None:
    """Look until it is in that state."""
    while (await engine.get(entry_id)).state is not state:  # noqa: ASYNC110  # a state may be passed through
        await trio.sleep(0.02)
