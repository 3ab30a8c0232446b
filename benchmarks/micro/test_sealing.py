"""The sealer: chunks hashed and written by its threads, told through the eventfd."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from benchmarks.micro.timing import Timing
from engine import native

CHUNK_BYTES = 1 << 20
CHUNKS = 16


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("writes", [False, True], ids=["hash", "hash-and-write"])
def test_seal_16_mib(benchmark: Timing, tmp_path: Path, threads: int, writes: bool) -> None:
    benchmark.extra_info |= {"bytes": CHUNKS * CHUNK_BYTES}
    pool = native.BufferPool(CHUNKS, CHUNK_BYTES)
    buffers = [pool.acquire() for _ in range(CHUNKS)]
    target = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT, 0o600)
    native.fallocate(target, CHUNKS * CHUNK_BYTES)
    fd = target if writes else -1

    with native.Sealer(threads, CHUNKS) as sealer:

        def seal_all() -> int:
            for index, buffer in enumerate(buffers):
                assert buffer is not None
                offset = index * CHUNK_BYTES
                sealer.submit(index, fd, buffer, CHUNK_BYTES, offset, offset // native.LEAF_BYTES, False)
            sealed = 0
            while sealed < CHUNKS:
                select.select([sealer.fileno()], [], [])
                results = sealer.drain()
                assert all(error == 0 for _, error, _, _ in results)
                sealed += len(results)
            return sealed

        assert benchmark(seal_all) == CHUNKS
    os.close(target)


def test_acquire_and_release_a_buffer(benchmark: Timing) -> None:
    pool = native.BufferPool(2, CHUNK_BYTES)

    def turn() -> None:
        buffer = pool.acquire()
        assert buffer is not None
        buffer.release()

    benchmark(turn)

    assert pool.free == 2
