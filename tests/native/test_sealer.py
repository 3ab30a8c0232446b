"""The sealer and its in-line twin at work on real files: hashing, writing, announcing, holding buffers."""

import gc
import os
import random

import pytest
from blake3 import blake3

from engine.native import BufferPool, ChunkBuffer, Sealer, root_from_cvs
from tests.native.sealing import CHUNK, WAIT_SECONDS, drained, filled, readable, seal


def test_a_file_sealed_in_any_order_is_whole(either: Sealer, pool: BufferPool, file: int) -> None:
    data = random.Random(1).randbytes(13 * CHUNK + 777)
    places = list(range(0, len(data), CHUNK))
    random.Random(2).shuffle(places)
    cvs: dict[int, bytes] = {}
    held: dict[int, ChunkBuffer] = {}
    while places or held:
        while places and (buffer := pool.acquire()) is not None:
            place = places.pop()
            chunk = data[place : place + CHUNK]
            memoryview(buffer)[: len(chunk)] = chunk
            held[place] = buffer
            either.submit(place, file, buffer, len(chunk), place, place // 1024, False)
        for ticket, error, digest, hashed_ns in drained(either, 1):
            assert (error, hashed_ns >= 0) == (0, True)
            cvs[ticket] = digest
            held.pop(ticket).release()

    assert os.pread(file, len(data) + 1, 0) == data
    assert root_from_cvs(b"".join(cvs[place] for place in sorted(cvs))) == blake3(data).digest()
    assert (pool.free, either.in_flight) == (4, 0)


def test_a_whole_file_in_one_chunk_asks_for_its_root(either: Sealer, pool: BufferPool, file: int) -> None:
    either.submit(-5, file, filled(pool, b"whole"), 5, 0, 0, True)
    ((ticket, error, digest, _hashed_ns),) = drained(either, 1)

    assert (ticket, error, digest) == (-5, 0, blake3(b"whole").digest())


def test_without_a_descriptor_it_only_hashes(either: Sealer, pool: BufferPool) -> None:
    assert seal(either, pool, -1, b"x" * 3000) == 0


def test_the_eventfd_is_readable_exactly_while_results_wait(either: Sealer, pool: BufferPool) -> None:
    for _ in range(50):
        assert not readable(either, 0)
        assert either.drain() == []

        for ticket in range(4):
            either.submit(ticket, -1, filled(pool, b"x"), 1, 0, 0, False)

        assert either.in_flight == 4
        assert {result[0] for result in drained(either, 4)} == {0, 1, 2, 3}
        assert either.in_flight == 0


def test_the_eventfd_is_inherited_by_nobody(either: Sealer) -> None:
    assert not os.get_inheritable(either.fileno())
    assert not os.get_blocking(either.fileno())


def test_no_more_than_depth_chunks(either: Sealer) -> None:
    pool = BufferPool(5, 64)
    for ticket in range(4):
        either.submit(ticket, -1, filled(pool, b"x"), 1, 0, 0, False)
    extra = filled(pool, b"x")
    with pytest.raises(BlockingIOError):
        either.submit(4, -1, extra, 1, 0, 0, False)

    assert extra.views == 0
    assert len(drained(either, 4)) == 4

    either.submit(4, -1, extra, 1, 0, 0, False)

    assert drained(either, 1)[0][0] == 4


def test_a_buffer_is_held_until_its_result_is_drained(either: Sealer, pool: BufferPool) -> None:
    buffer = filled(pool, b"x")
    either.submit(1, -1, buffer, 1, 0, 0, False)
    assert readable(either, WAIT_SECONDS)
    with pytest.raises(BufferError, match="held by 1"):
        buffer.release()
    either.drain()
    buffer.release()

    assert pool.free == 4


def test_a_forgotten_buffer_lives_until_its_result_is_drained(either: Sealer, pool: BufferPool, file: int) -> None:
    either.submit(1, file, filled(pool, b"kept"), 4, 0, 0, False)
    gc.collect()

    assert pool.free == 3

    drained(either, 1)
    gc.collect()

    assert (os.pread(file, 9, 0), pool.free) == (b"kept", 4)
