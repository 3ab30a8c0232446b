"""Part and finished files opened again: never through a trap, and only the very file of the record counts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from engine.errors import InputOutput, PartBusy, PartLost, TargetGone
from engine.files.filesystem import FileSystem
from engine.files.part_file import (
    cut_surplus,
    is_file,
    open_finished,
    open_part,
    open_unfinished,
    remove_part,
    restore_size,
)
from engine.model.records import PartPhase
from tests.files.helpers import CONFIG, NAME, finalizing, make, open_descriptors, plant, record_for


@pytest.mark.parametrize("kind", ["symlink", "dangling", "fifo", "hard link", "folder"])
def test_a_trap_in_the_place_of_an_old_part(tmp_path: Path, kind: str) -> None:
    """M2, M3: not opened, not waited for, and no descriptor is left."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    plant(tmp_path / NAME, victim, kind)
    before = open_descriptors()
    with pytest.raises(InputOutput if kind == "folder" else PartLost):
        open_part(FileSystem(), str(tmp_path), NAME)
    assert open_descriptors() == before


def test_a_file_that_took_the_number_of_a_lost_one(tmp_path: Path) -> None:
    """D13: an inode's number is given again at once, so it alone proves nothing."""
    first = make(tmp_path)
    identity = first.identity
    first.close()
    seen = set()
    for _ in range(20):
        os.unlink(tmp_path / NAME)
        (tmp_path / NAME).write_bytes(b"x" * 5000)
        again = open_part(FileSystem(), str(tmp_path), NAME)
        seen.add(again.identity)
        again.close()
    assert identity not in seen
    assert len(seen) == 20


def test_a_forked_child_keeps_no_part(tmp_path: Path) -> None:
    """The host forks during a download, and its worker lives on: the part was locked for as long as that."""
    part = make(tmp_path)
    numbers = part.fd, part.folder_fd
    ready, tell = os.pipe()
    stay, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.write(tell, b"".join(b"open " if os.path.exists(f"/proc/self/fd/{fd}") else b"closed " for fd in numbers))
        os.close(tell)
        os.read(stay, 1)  # until the test ends, however it ends
        os._exit(0)
    try:
        os.close(tell)
        assert os.read(ready, 100) == b"closed closed "
        with pytest.raises(PartBusy):  # the engine's own lock is as it was
            open_part(FileSystem(), str(tmp_path), NAME)
        part.close()
        open_part(FileSystem(), str(tmp_path), NAME).close()
    finally:
        for fd in (ready, stay, end):
            os.close(fd)
        os.waitpid(child, 0)


def test_a_copy_of_its_descriptor_does_not_keep_a_closed_part(tmp_path: Path) -> None:
    """A child that is forked while a part is being opened has one, and knows nothing of it."""
    part = make(tmp_path)
    copy = os.dup(part.fd)
    try:
        part.close()
        open_part(FileSystem(), str(tmp_path), NAME).close()
    finally:
        os.close(copy)


def test_shorter_and_longer_parts_are_put_right(tmp_path: Path) -> None:
    make(tmp_path).close()
    os.truncate(tmp_path / NAME, 100)
    again = open_part(FileSystem(), str(tmp_path), NAME)
    restore_size(again, 5000, CONFIG)
    assert (again.size, os.stat(tmp_path / NAME).st_size) == (5000, 5000)
    os.truncate(tmp_path / NAME, 9000)
    cut_surplus(again, 5000)
    assert (again.size, os.stat(tmp_path / NAME).st_size) == (5000, 5000)
    again.close()


def test_finishing_finds_the_file_under_either_name(tmp_path: Path) -> None:
    files = FileSystem()
    part = make(tmp_path)
    part.close()
    folder_fd = files.open_folder(str(tmp_path))
    for name in (NAME, "film.mkv"):
        found = open_unfinished(files, finalizing(tmp_path, part))
        assert found.name == name
        found.close()
        if name == NAME:
            os.rename(tmp_path / NAME, tmp_path / "film.mkv")
    before = open_descriptors()
    with pytest.raises(PartLost):
        open_unfinished(files, replace(finalizing(tmp_path, part), inode=part.inode + 1))
    assert open_descriptors() == before
    assert is_file(files, folder_fd, "film.mkv", part.inode, part.version)
    assert not is_file(files, folder_fd, "film.mkv", part.inode, part.version + 1)
    assert not is_file(files, folder_fd, "nothing", part.inode, part.version)
    files.close(folder_fd)


def test_an_unfinished_part_is_opened_as_its_record_knows_it(tmp_path: Path) -> None:
    """D13, D14: under the final name only the very file of the record counts, by device, inode and version."""
    files = FileSystem()
    part = make(tmp_path)
    part.close()
    fields = {"device": part.device, "inode": part.inode, "inode_version": part.version}
    record = record_for(tmp_path, phase=PartPhase.FINALIZING, **fields)
    os.link(tmp_path / NAME, tmp_path / "film.mkv")
    open_unfinished(files, record).close()
    with pytest.raises(PartLost, match="another name"):  # its publishing had not begun: the second name is a stranger's
        open_unfinished(files, record_for(tmp_path, phase=PartPhase.ACTIVE, **fields))
    os.unlink(tmp_path / NAME)
    found = open_unfinished(files, record)
    assert (found.name, found.identity) == ("film.mkv", record.identity)
    found.close()
    before = open_descriptors()
    for field, value in fields.items():
        with pytest.raises(PartLost):
            open_unfinished(files, record_for(tmp_path, phase=PartPhase.FINALIZING, **(fields | {field: value + 1})))
    assert open_descriptors() == before


def test_one_part_has_one_writer(tmp_path: Path) -> None:
    """Engines with other roots may come to one folder: who is second is told, and changes nothing (L7)."""
    files = FileSystem()
    part = make(tmp_path)
    inode = os.stat(tmp_path / NAME).st_ino
    before = open_descriptors()
    with pytest.raises(PartBusy) as raised:
        open_part(files, str(tmp_path), NAME)
    with pytest.raises(PartBusy):
        make(tmp_path)
    assert raised.value.retryable
    assert os.stat(tmp_path / NAME).st_ino == inode
    assert open_descriptors() == before
    part.close()
    open_part(files, str(tmp_path), NAME).close()
    make(tmp_path).close()


def test_where_there_are_no_locks_it_goes_without(tmp_path: Path) -> None:
    class Lockless(FileSystem):
        def try_lock(self, fd: int) -> bool:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    make(tmp_path).close()
    open_part(Lockless(), str(tmp_path), NAME).close()


def test_a_lock_that_fails_otherwise_is_told(tmp_path: Path) -> None:
    class Failing(FileSystem):
        def try_lock(self, fd: int) -> bool:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    make(tmp_path).close()
    before = open_descriptors()
    with pytest.raises(InputOutput):
        open_part(Failing(), str(tmp_path), NAME)
    assert open_descriptors() == before


def test_a_finished_file_is_opened_whatever_the_user_made_of_it(tmp_path: Path) -> None:
    """A second name and missing write permission change no byte."""

    class Ordinary(FileSystem):
        def open_existing(self, folder_fd: int, name: str, *, write: bool) -> int:
            assert not write
            return super().open_existing(folder_fd, name, write=write)

    files = Ordinary()
    (tmp_path / "film.mkv").write_bytes(b"film")
    os.link(tmp_path / "film.mkv", tmp_path / "linked")
    file = open_finished(files, str(tmp_path), "film.mkv")
    assert files.read_at(file.fd, 9, 0) == b"film"
    files.sync_data(file.fd)
    file.close()
    before = open_descriptors()
    plant(tmp_path / "trap", tmp_path / "film.mkv", "symlink")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone", "trap", "folder", "pipe"):
        with pytest.raises(PartLost):
            open_finished(files, str(tmp_path), name)
    with pytest.raises(TargetGone):
        open_finished(files, str(tmp_path / "none"), "film.mkv")
    assert open_descriptors() == before


def test_removing_parts(tmp_path: Path) -> None:
    for name in ("a", "b", "keep"):
        (tmp_path / name).write_bytes(b"")
    remove_part(FileSystem(), str(tmp_path), ("a", "gone", "b"))
    assert os.listdir(tmp_path) == ["keep"]
    remove_part(FileSystem(), str(tmp_path / "no such folder"), ("a",))
