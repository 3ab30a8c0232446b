"""What a sealer refuses, and what it reports of descriptors and disks that fail (catalogue M28, D8, D11)."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.native import BufferPool, Sealer
from tests.native.sealing import CHUNK, WAIT_SECONDS, filled, seal


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
