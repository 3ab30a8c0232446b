"""Pool and chunk buffers: counted views, refusals, and what happens when a buffer is forgotten."""

import ctypes
import gc
import itertools
import mmap
import threading

import pytest

from engine.native import BufferPool, ChunkBuffer


def taken(pool: BufferPool) -> ChunkBuffer:
    buffer = pool.acquire()
    assert buffer is not None
    return buffer


def address(buffer: ChunkBuffer) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def test_buffers_are_page_aligned_and_apart() -> None:
    pool = BufferPool(3, 5000)
    places = sorted(address(buffer) for buffer in [taken(pool) for _ in range(3)])

    assert [place % mmap.PAGESIZE for place in places] == [0, 0, 0]
    assert all(b - a >= 5000 for a, b in itertools.pairwise(places))


def test_the_pool_runs_out_and_hands_the_warmest_out_first() -> None:
    pool = BufferPool(2, 4096)
    first, second = taken(pool), taken(pool)
    warm = address(first)

    assert (pool.count, pool.size, pool.free, pool.acquire()) == (2, 4096, 0, None)

    second.release()
    first.release()

    assert pool.free == 2
    assert address(taken(pool)) == warm


def test_a_view_is_a_writable_row_of_bytes() -> None:
    buffer = taken(BufferPool(1, 10))
    view = memoryview(buffer)
    view[:] = b"0123456789"

    assert (view.format, view.ndim, view.itemsize, view.readonly, len(buffer)) == ("B", 1, 1, False, 10)
    assert bytes(buffer) == b"0123456789"


def test_a_viewed_buffer_is_not_released() -> None:
    pool = BufferPool(1, 10)
    buffer = taken(pool)
    with memoryview(buffer) as view, view[3:], memoryview(buffer):
        assert buffer.views == 2
        with pytest.raises(BufferError, match="held by 2"):
            buffer.release()
    buffer.release()

    assert (buffer.views, pool.free) == (0, 1)


def test_a_released_buffer_refuses_everything() -> None:
    pool = BufferPool(1, 10)
    buffer = taken(pool)
    buffer.release()
    with pytest.raises(BufferError, match="given back"):
        memoryview(buffer)
    with pytest.raises(ValueError, match="given back already"):
        buffer.release()

    assert pool.free == 1


def test_a_released_buffer_cannot_reach_its_next_owner() -> None:
    pool = BufferPool(1, 10)
    old = taken(pool)
    old.release()
    new = taken(pool)
    with pytest.raises(BufferError, match="given back"):
        memoryview(old)
    with pytest.raises(ValueError, match="given back already"):
        old.release()

    assert (pool.free, new.views) == (0, 0)


def test_a_forgotten_buffer_goes_back() -> None:
    pool = BufferPool(1, 10)
    view = memoryview(taken(pool))

    assert pool.free == 0

    del view
    gc.collect()

    assert pool.free == 1


def test_a_buffer_outlives_its_pool() -> None:
    buffer = taken(BufferPool(1, 1 << 16))
    gc.collect()
    memoryview(buffer)[:] = b"z" * (1 << 16)

    assert bytes(buffer) == b"z" * (1 << 16)


def test_buffers_come_only_from_a_pool() -> None:
    with pytest.raises(TypeError, match="acquire"):
        ChunkBuffer()
    bare = ChunkBuffer.__new__(ChunkBuffer)
    with pytest.raises(BufferError, match="given back"):
        memoryview(bare)
    with pytest.raises(ValueError, match="given back"):
        bare.release()


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 0), (-1, 1), (1, -1), (2**64, 1), (1, -(2**64))])
def test_impossible_pools_are_refused(count: int, size: int) -> None:
    with pytest.raises(ValueError, match="must be from 1"):
        BufferPool(count, size)


@pytest.mark.parametrize(("count", "size"), [(2**62, 1), (1, 2**63 - 1), (2**32, 2**32), (2, 2**62)])
def test_a_pool_beyond_memory_is_a_memory_error(count: int, size: int) -> None:
    with pytest.raises(MemoryError, match="no room"):
        BufferPool(count, size)


def test_threads_never_share_a_buffer() -> None:
    pool = BufferPool(4, 64)
    clashes: list[bytes] = []

    def use(mark: bytes) -> None:
        for _ in range(300):
            buffer = pool.acquire()
            if buffer is not None:
                with memoryview(buffer) as view:
                    view[:] = mark * 64
                    if bytes(view) != mark * 64:
                        clashes.append(mark)
                buffer.release()

    threads = [threading.Thread(target=use, args=(bytes([i]),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (clashes, pool.free) == ([], 4)
