"""Between the loop and the sealer: a fixed pool, fair waiting, and every chunk answered for (DESIGN section 4)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import native
from engine.config import KIB, Config
from engine.files.filesystem import FileSystem
from engine.files.part_file import PartFile, create_part
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.model.records import PartRecord
from engine.transfer.part_job import PartJob
from engine.transfer.sealing import Sealing
from tests.support.library import hash_of, payload_of
from tests.twin import InlineSealer

CHUNK = 16 * KIB
CONFIG = Config(chunk_bytes=CHUNK, small_chunk_bytes=CHUNK, buffer_count=4, free_space_reserve_bytes=0)
Result = tuple[int, int, bytes | None]


class Rig:
    """A sealing with what it reported."""

    def __init__(self, folder: Path, length: int, sealer: InlineSealer | None = None) -> None:
        self.results: list[Result] = []
        self.sealing = Sealing(CONFIG, lambda job, *result: self.results.append(result), sealer)
        self.file: PartFile = create_part(FileSystem(), str(folder), "part", length, CONFIG, durable=False)
        record = PartRecord(folder=str(folder), part_name="part", final_name="f", chunk_bytes=CHUNK, length=length)
        grid = ChunkGrid(length, CHUNK)
        self.job = PartJob("a", 1, record, self.file, grid, Bitmap(grid.count), durable=False)

    async def put(self, index: int, data: bytes) -> None:
        buffer = await self.sealing.acquire(CHUNK)
        with memoryview(buffer) as view:
            view[: len(data)] = data
        self.sealing.submit(self.job, index, buffer, len(data), sole=self.job.grid.sole)


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[list[Rig]]:
    made: list[Rig] = []
    yield made
    for rig in made:
        rig.sealing.close()
        rig.file.close()


@pytest.mark.parametrize("inline", [False, True], ids=["native", "twin"])
@pytest.mark.parametrize("length", [1, CHUNK, CHUNK + 1, 20 * CHUNK + 7])
async def test_what_is_put_is_on_disk_and_hashed(tmp_path: Path, rigs: list[Rig], length: int, inline: bool) -> None:
    payload = payload_of(length)
    rig = Rig(tmp_path, length, InlineSealer(2, CONFIG.buffer_count) if inline else None)
    rigs.append(rig)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.sealing.run)
        for index in reversed(range(rig.job.grid.count)):
            start, end = rig.job.grid.byte_range(index, 1)
            await rig.put(index, payload[start:end])
        await rig.job.wait_sealed()
        nursery.cancel_scope.cancel()
    assert (tmp_path / "part").read_bytes() == payload
    digests = [digest or b"" for _, _, digest in sorted(rig.results)]
    root = digests[0] if rig.job.grid.sole else native.root_from_cvs(b"".join(digests))
    assert root.hex() == hash_of(payload)
    assert sum(size for _, size, _ in rig.results) == length
    assert rig.sealing.bytes_free == CONFIG.buffer_count * CHUNK


async def test_no_more_buffers_than_the_pool_has(tmp_path: Path, rigs: list[Rig]) -> None:
    """The bound on memory: the fifth waits, in turn, until one comes back; a waiter that is cancelled takes none."""
    rig = Rig(tmp_path, CHUNK)
    rigs.append(rig)
    sealing = rig.sealing
    held = [await sealing.acquire(CHUNK) for _ in range(CONFIG.buffer_count)]
    served: list[str] = []

    async def wait(name: str) -> None:
        held.append(await sealing.acquire(CHUNK))
        served.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "first")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as gone:
            await sealing.acquire(CHUNK)
        assert gone.cancelled_caught
        nursery.start_soon(wait, "second")
        await trio.testing.wait_all_tasks_blocked()
        assert served == []
        sealing.release(held.pop())
        await trio.testing.wait_all_tasks_blocked()
        assert served == ["first"]
        sealing.release(held.pop())
        await trio.testing.wait_all_tasks_blocked()
        assert served == ["first", "second"]
    for buffer in held:
        sealing.release(buffer)
    assert sealing.bytes_free == CONFIG.buffer_count * CHUNK


async def test_a_write_that_fails_ends_the_job(tmp_path: Path, rigs: list[Rig]) -> None:
    """D2, D5: no digest, the typed error, the buffer back."""

    def full(fd: int, data: memoryview, offset: int) -> int:
        if offset:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(fd, data, offset)

    rig = Rig(tmp_path, 3 * CHUNK, InlineSealer(1, CONFIG.buffer_count, full))
    rigs.append(rig)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.sealing.run)
        for index in range(3):
            await rig.put(index, payload_of(CHUNK))
        await rig.job.wait_sealed()
        nursery.cancel_scope.cancel()
    assert [(index, digest is None) for index, _, digest in rig.results] == [(0, False), (1, True), (2, True)]
    assert rig.job.error is not None
    assert rig.job.error.code == "no_space"
    assert rig.job.scope.cancel_called
    assert rig.sealing.bytes_free == CONFIG.buffer_count * CHUNK


async def test_closing_answers_for_all_that_is_under_way(tmp_path: Path, rigs: list[Rig]) -> None:
    """C19: nobody watches the sealer any more, and still every chunk is reported."""
    payload = payload_of(4 * CHUNK)
    rig = Rig(tmp_path, len(payload))
    rigs.append(rig)
    for index in range(4):
        await rig.put(index, payload[index * CHUNK : (index + 1) * CHUNK])
    rig.sealing.close()
    assert sorted(index for index, _, _ in rig.results) == [0, 1, 2, 3]
    assert rig.job.seals == 0
    assert (tmp_path / "part").read_bytes() == payload
