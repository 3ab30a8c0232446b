"""New part files on a real disk: made exclusively, never through a trap, and nothing is left of one that failed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import MIB, Config
from engine.errors import EngineError, NoSpace, TargetExists
from engine.files.filesystem import FileSystem
from engine.files.folders import Folders
from engine.files.part_file import (
    create_part,
)
from tests.files.helpers import NAME, Failing, make, open_descriptors, plant
from tests.support.mounts import TinyTmpfs


def test_a_new_part(tmp_path: Path) -> None:
    part = make(tmp_path)
    info = os.stat(tmp_path / NAME)
    assert (part.device, part.inode, part.size) == (info.st_dev, info.st_ino, 5000)
    assert info.st_mode & 0o777 == 0o600
    assert info.st_blocks * 512 >= 5000, "its blocks are not reserved"
    part.close()
    part.close()


def test_a_new_part_ignores_the_umask(tmp_path: Path) -> None:
    """H13."""
    before = os.umask(0)
    try:
        make(tmp_path).close()
        Folders().prepare(FileSystem(), str(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    assert os.stat(tmp_path / NAME).st_mode & 0o777 == 0o600
    assert os.stat(tmp_path / "a").st_mode & 0o777 == 0o700


def test_a_leftover_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    """C7: recorded, perhaps made, never activated."""
    (tmp_path / NAME).write_bytes(b"leftover")
    part = make(tmp_path)
    assert os.pread(part.fd, 10, 0) == bytes(10)
    part.close()


@pytest.mark.parametrize("kind", ["symlink", "dangling", "fifo", "hard link"])
def test_a_trap_in_the_place_of_a_new_part(tmp_path: Path, kind: str) -> None:
    """M2, M3: what lies there is removed as a name; nothing is written through it."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    plant(tmp_path / NAME, victim, kind)
    make(tmp_path).close()
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / NAME).is_file()
    assert not (tmp_path / NAME).is_symlink()


class Planting(FileSystem):
    """Somebody is faster: a name appears just before it is made."""

    def __init__(self, plant: Callable[[], object]) -> None:
        self.plant = plant

    def create_exclusive(self, folder_fd: int, name: str) -> int:
        self.plant()
        return super().create_exclusive(folder_fd, name)


def test_a_trap_planted_at_the_last_moment(tmp_path: Path) -> None:
    """M2: O_EXCL decides; what was planted stays."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    before = open_descriptors()
    with pytest.raises(TargetExists):
        make(tmp_path, Planting(lambda: (tmp_path / NAME).symlink_to(victim)))
    assert open_descriptors() == before
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / NAME).is_symlink()


CODES = {
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EIO: "io",
    errno.EROFS: "read_only",
    errno.EACCES: "permission",
    errno.EMFILE: "too_many_files",
    errno.ENFILE: "too_many_files",
    errno.ENAMETOOLONG: "target_invalid",
    errno.ELOOP: "target_invalid",
    errno.ENOTDIR: "target_invalid",
}


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("call", ["create_exclusive", "allocate", "sync", "stat_fd", "free_bytes", "open_folder"])
def test_whatever_fails_leaves_nothing(tmp_path: Path, call: str, number: int) -> None:
    before = open_descriptors()
    with pytest.raises(EngineError) as raised:
        make(tmp_path, Failing(call, number))
    assert raised.value.code == CODES[number]
    assert open_descriptors() == before
    assert os.listdir(tmp_path) == []


def test_no_fallocate_is_no_hindrance(tmp_path: Path) -> None:
    part = make(tmp_path, Failing("allocate", errno.EOPNOTSUPP))
    assert os.fstat(part.fd).st_size == 5000
    part.close()


def test_the_disk_is_too_small(tmp_path: Path, tiny_tmpfs: Callable[[int], TinyTmpfs]) -> None:
    """D1, D20."""
    disk = tiny_tmpfs(1 * MIB)
    with pytest.raises(NoSpace, match="are free"):
        make(disk.path, length=2 * MIB)
    with pytest.raises(NoSpace, match="reserve"):
        create_part(FileSystem(), str(disk.path), NAME, 1, Config(free_space_reserve_bytes=1 * MIB), durable=False)
    with pytest.raises(NoSpace):  # the look at the free space was too early
        make(disk.path, Overlooking(), length=2 * MIB)
    assert os.listdir(disk.path) == []


class Overlooking(FileSystem):
    def free_bytes(self, fd: int) -> int:
        return 1 << 50
