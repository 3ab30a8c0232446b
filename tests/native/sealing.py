"""What the sealer tests share: filling a buffer, waiting for the eventfd, sealing one chunk."""

import select

from engine.native import BufferPool, ChunkBuffer, Sealer, subtree_cv

CHUNK = 256 * 1024
WAIT_SECONDS = 60.0


def filled(pool: BufferPool, data: bytes) -> ChunkBuffer:
    buffer = pool.acquire()
    assert buffer is not None
    with memoryview(buffer) as view:
        view[: len(data)] = data
    return buffer


def readable(sealer: Sealer, timeout_seconds: float) -> bool:
    return bool(select.select([sealer], [], [], timeout_seconds)[0])


def drained(sealer: Sealer, count: int) -> list[tuple[int, int, bytes, int]]:
    results: list[tuple[int, int, bytes, int]] = []
    while len(results) < count:
        assert readable(sealer, WAIT_SECONDS)
        results += sealer.drain()
    return results


def seal(sealer: Sealer, pool: BufferPool, fd: int, data: bytes = b"data", offset: int = 0) -> int:
    """Seals one chunk and returns the errno it came back with."""
    buffer = filled(pool, data)
    sealer.submit(1, fd, buffer, len(data), offset, 0, False)
    ((ticket, error, digest, _hashed_ns),) = drained(sealer, 1)
    buffer.release()
    assert (ticket, digest) == (1, subtree_cv(data, 0))
    return error
