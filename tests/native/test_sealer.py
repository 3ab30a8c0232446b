"""The sealer on real files: hashing, writing, announcing, refusing, closing."""

import errno
import gc
import os
import random
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from engine.native import BufferPool, ChunkBuffer, Sealer, root_from_cvs, subtree_cv
from tests.twin import InlineSealer

CHUNK = 256 * 1024
WAIT_SECONDS = 60.0


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool(4, CHUNK)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    yield fd
    os.close(fd)


@pytest.fixture(params=[Sealer, InlineSealer])
def either(request: pytest.FixtureRequest) -> Iterator[Sealer]:
    with request.param(2, 4) as sealer:
        yield sealer


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


@pytest.mark.parametrize(
    ("length", "offset", "leaf_counter", "root"),
    [
        (0, 0, 0, False),
        (-1, 0, 0, False),
        (CHUNK + 1, 0, 0, False),
        (2**64, 0, 0, False),
        (1, -1, 0, False),
        (1, 2**63 - 1, 0, False),
        (1, 2**63, 0, False),
        (1, 0, -1, False),
        (1, 0, 2**54, False),
        (1025, 0, 1, False),
        (1, 0, 1, True),
    ],
    ids=str,
)
def test_m28_hostile_places_are_refused(
    pool: BufferPool, file: int, length: int, offset: int, leaf_counter: int, root: bool
) -> None:
    buffer = filled(pool, b"x")
    with Sealer(1, 1) as sealer:
        with pytest.raises(ValueError, match=r"must be from|lea[fv]"):
            sealer.submit(1, file, buffer, length, offset, leaf_counter, root)

        assert (sealer.in_flight, buffer.views, os.fstat(file).st_size) == (0, 0, 0)


@pytest.mark.parametrize(("ticket", "fd"), [(2**63, 1), (-(2**63) - 1, 1), (1, -2), (1, 2**31)])
def test_impossible_tickets_and_descriptors_are_refused(pool: BufferPool, ticket: int, fd: int) -> None:
    with Sealer(1, 1) as sealer, pytest.raises(ValueError, match="must be from"):
        sealer.submit(ticket, fd, filled(pool, b"x"), 1, 0, 0, False)


def test_a_released_buffer_is_refused(pool: BufferPool) -> None:
    buffer = filled(pool, b"x")
    buffer.release()
    with Sealer(1, 1) as sealer:
        with pytest.raises(ValueError, match="given back"):
            sealer.submit(1, -1, buffer, 1, 0, 0, False)
        with pytest.raises(TypeError):
            sealer.submit(1, -1, None, 1, 0, 0, False)  # type: ignore[arg-type]

        assert sealer.in_flight == 0


@pytest.mark.parametrize(("threads", "depth"), [(0, 1), (65, 1), (1, 0), (1, 65537), (-1, 1), (2**64, 1)])
def test_impossible_sealers_are_refused(threads: int, depth: int) -> None:
    with pytest.raises(ValueError, match="must be from 1"):
        Sealer(threads, depth)


def test_a_bad_descriptor_is_reported(either: Sealer, pool: BufferPool, tmp_path: Path) -> None:
    closed = os.open(tmp_path, os.O_RDONLY)
    os.close(closed)

    assert seal(either, pool, closed) == errno.EBADF


def test_a_read_only_descriptor_is_reported(either: Sealer, pool: BufferPool, tmp_path: Path) -> None:
    (tmp_path / "read-only").touch()
    read_only = os.open(tmp_path / "read-only", os.O_RDONLY)

    assert seal(either, pool, read_only) == errno.EBADF

    os.close(read_only)


def test_a_pipe_is_reported(either: Sealer, pool: BufferPool) -> None:
    reader, writer = os.pipe()

    assert seal(either, pool, writer) == errno.ESPIPE

    os.close(reader)
    os.close(writer)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=65536", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_d8_a_full_disk_is_reported_after_a_short_write(either: Sealer, pool: BufferPool, tiny_disk: Path) -> None:
    fd = os.open(tiny_disk / "part", os.O_RDWR | os.O_CREAT)
    error = seal(either, pool, fd, b"x" * CHUNK)
    size = os.fstat(fd).st_size
    os.close(fd)

    assert (error, size) == (errno.ENOSPC, 65536)


LIMITED = """
import os, resource, select, signal, sys
from engine.native import BufferPool, Sealer
if sys.argv[2] == "deadly": signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, resource.RLIM_INFINITY))
buffer = BufferPool(1, 65536).acquire()
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
with Sealer(1, 1) as sealer:
    sealer.submit(1, fd, buffer, 65536, 0, 0, False)
    select.select([sealer], [], [], 60)
    print(sealer.drain()[0][1], os.fstat(fd).st_size)
"""


@pytest.mark.parametrize("disposition", ["ignored", "deadly"])
def test_d11_a_size_limit_is_reported_and_kills_nobody(tmp_path: Path, disposition: str) -> None:
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "part"), disposition]
    run = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)

    assert (run.returncode, run.stdout.split(), run.stderr) == (0, [str(errno.EFBIG), "10000"], "")


def test_close_finishes_what_is_in_flight(either: Sealer, pool: BufferPool, file: int) -> None:
    data = [bytes([i]) * CHUNK for i in range(4)]
    for i, chunk in enumerate(data):
        either.submit(i, file, filled(pool, chunk), CHUNK, i * CHUNK, i * (CHUNK // 1024), False)
    results = either.close()
    gc.collect()

    assert [(ticket, error) for ticket, error, _digest, _ns in sorted(results)] == [(i, 0) for i in range(4)]
    assert os.pread(file, 4 * CHUNK + 1, 0) == b"".join(data)
    assert (pool.free, either.in_flight, either.close()) == (4, 0, [])


def test_a_closed_sealer_refuses(pool: BufferPool) -> None:
    sealer = Sealer(1, 1)
    sealer.close()
    for use in (sealer.fileno, sealer.drain, sealer.__enter__):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        sealer.submit(1, -1, filled(pool, b"x"), 1, 0, 0, False)


def test_a_forgotten_sealer_finishes_its_work(pool: BufferPool, file: int) -> None:
    before = threads_named_oe_seal()
    sealer = Sealer(3, 2)

    assert threads_named_oe_seal() == before + 3

    sealer.submit(1, file, filled(pool, b"last words"), 10, 0, 0, False)
    eventfd = sealer.fileno()
    del sealer
    gc.collect()

    assert (os.pread(file, 99, 0), pool.free, threads_named_oe_seal()) == (b"last words", 4, before)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(eventfd)


def threads_named_oe_seal() -> int:
    threads = list(Path("/proc/self/task").iterdir())
    return sum((thread / "comm").read_text() == "oe-seal\n" for thread in threads)


def test_its_threads_take_no_signals() -> None:
    every_signal = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXFSZ}
    with Sealer(2, 1):
        masks = [
            int(line.split()[1], 16)
            for thread in Path("/proc/self/task").iterdir()
            if (thread / "comm").read_text() == "oe-seal\n"
            for line in (thread / "status").read_text().splitlines()
            if line.startswith("SigBlk:")
        ]

    assert len(masks) >= 2
    assert all(mask >> (number - 1) & 1 for mask in masks for number in every_signal)


FORKED = """
import os
from engine.native import BufferPool, Sealer
pool = BufferPool(1, 1 << 20)
sealer = Sealer(2, 2)
sealer.submit(1, -1, pool.acquire(), 1 << 20, 0, 0, False)
child = os.fork()
if child == 0:
    refused = 0
    for use in (sealer.fileno, sealer.drain, lambda: sealer.in_flight, sealer.__enter__):
        try:
            use()
        except ValueError:
            refused += 1
    closed = sealer.close()
    del sealer, pool
    os._exit(0 if (refused, closed) == (4, []) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), [r[0] for r in sealer.close()])
"""


def test_a_forked_child_does_nothing() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "0 [1]\n", "")


def test_many_chunks_drained_by_several_threads() -> None:
    pool = BufferPool(8, 4096)
    sealer = Sealer(3, 8)
    finished: list[int] = []
    drainers_stop = threading.Event()

    def drain_until_stopped() -> None:
        while not drainers_stop.is_set():
            if readable(sealer, 0.05):
                finished.extend(result[0] for result in sealer.drain())

    drainers = [threading.Thread(target=drain_until_stopped) for _ in range(2)]
    for drainer in drainers:
        drainer.start()
    submitted = 0
    while submitted < 2000:
        if sealer.in_flight < 8 and (buffer := pool.acquire()) is not None:
            sealer.submit(submitted, -1, buffer, 4096, 0, 4, False)
            submitted += 1
            del buffer
    drainers_stop.set()
    for drainer in drainers:
        drainer.join()
    finished.extend(result[0] for result in sealer.close())

    assert sorted(finished) == list(range(2000))
    assert pool.free == 8
