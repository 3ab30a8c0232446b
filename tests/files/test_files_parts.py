"""Part files on a real disk: made exclusively, never through a trap, published without harm to others."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from engine.config import MIB, Config
from engine.errors import EngineError, InputOutput, NoSpace, PartLost, TargetExists, TargetGone
from engine.files.filesystem import FileSystem
from engine.files.part_file import (
    PartFile,
    create_part,
    cut_surplus,
    is_file,
    open_finished,
    open_part,
    open_unfinished,
    prepare_folder,
    publish,
    remove_part,
    restore_size,
)
from engine.files.reading import blocks, digest_of_path, digests
from engine.model.records import PartPhase, PartRecord
from tests.support.library import hash_of, payload_of
from tests.support.mounts import TinyTmpfs

CONFIG = Config(free_space_reserve_bytes=0)
NAME = ".oe-x-1.part"


def record_for(folder: Path, **changes: object) -> PartRecord:
    fields: dict[str, object] = {
        "folder": str(folder),
        "part_name": NAME,
        "final_name": "film.mkv",
        "chunk_bytes": 1024,
    }
    return PartRecord(**(fields | changes))  # type: ignore[arg-type]


def make(folder: Path, files: FileSystem | None = None, length: int | None = 5000, name: str = NAME) -> PartFile:
    return create_part(files or FileSystem(), str(folder), name, length, CONFIG, durable=True)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


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
        prepare_folder(FileSystem(), str(tmp_path / "a" / "b"), durable=True)
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
    _plant(tmp_path / NAME, victim, kind)
    make(tmp_path).close()
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / NAME).is_file()
    assert not (tmp_path / NAME).is_symlink()


def _plant(path: Path, victim: Path, kind: str) -> None:
    if kind == "symlink":
        path.symlink_to(victim)
    elif kind == "dangling":
        path.symlink_to(victim.with_name("nothing"))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.hardlink_to(victim)


@pytest.mark.parametrize("kind", ["symlink", "dangling", "fifo", "hard link", "folder"])
def test_a_trap_in_the_place_of_an_old_part(tmp_path: Path, kind: str) -> None:
    """M2, M3: not opened, not waited for, and no descriptor is left."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    _plant(tmp_path / NAME, victim, kind)
    before = open_descriptors()
    with pytest.raises(InputOutput if kind == "folder" else PartLost):
        open_part(FileSystem(), str(tmp_path), NAME)
    assert open_descriptors() == before


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


class Failing(FileSystem):
    """One call fails."""

    def __init__(self, name: str, number: int) -> None:
        def fail(*args: object, **kwargs: object) -> object:
            raise OSError(number, os.strerror(number))

        setattr(self, name, fail)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["create_exclusive", "allocate", "sync", "stat_fd", "free_bytes", "open_folder"])
def test_whatever_fails_leaves_nothing(tmp_path: Path, call: str, number: int) -> None:
    before = open_descriptors()
    with pytest.raises(EngineError) as raised:
        make(tmp_path, Failing(call, number))
    codes = {errno.ENOSPC: "no_space", errno.EDQUOT: "no_space", errno.EIO: "io", errno.EROFS: "read_only"}
    assert raised.value.code == codes.get(number, "permission")
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


def test_shorter_and_longer_parts_are_put_right(tmp_path: Path) -> None:
    part = make(tmp_path)
    os.truncate(tmp_path / NAME, 100)
    again = open_part(FileSystem(), str(tmp_path), NAME)
    restore_size(again, 5000, CONFIG)
    assert (again.size, os.stat(tmp_path / NAME).st_size) == (5000, 5000)
    os.truncate(tmp_path / NAME, 9000)
    cut_surplus(again, 5000)
    assert (again.size, os.stat(tmp_path / NAME).st_size) == (5000, 5000)
    again.close()
    part.close()


def test_publishing(tmp_path: Path) -> None:
    part = make(tmp_path)
    (tmp_path / "old1.part").write_bytes(b"")
    publish(part, record_for(tmp_path, superseded=("old1.part", "gone.part")), overwrite=False)
    assert os.listdir(tmp_path) == ["film.mkv"]
    assert part.name == "film.mkv"
    publish(part, record_for(tmp_path), overwrite=False)  # C10: once more after a crash
    assert os.listdir(tmp_path) == ["film.mkv"]
    part.close()


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling", "folder", "fifo"])
def test_publishing_onto_something(tmp_path: Path, kind: str) -> None:
    """D14: never, unless asked; and never onto a folder."""
    victim, target = tmp_path / "victim", tmp_path / "film.mkv"
    victim.write_bytes(b"precious")
    if kind == "file":
        target.write_bytes(b"precious")
    else:
        _plant(target, victim, kind)
    part = make(tmp_path)
    with pytest.raises(TargetExists):
        publish(part, record_for(tmp_path), overwrite=False)
    assert (tmp_path / NAME).exists()
    assert os.path.lexists(target)
    if kind in {"folder", "fifo"}:
        with pytest.raises(TargetExists, match="neither"):
            publish(part, record_for(tmp_path), overwrite=True)
    else:
        publish(part, record_for(tmp_path), overwrite=True)
        assert os.lstat(target).st_ino == part.inode
    assert victim.read_bytes() == b"precious"
    part.close()


def test_only_the_entrys_own_file_is_replaced_unasked(tmp_path: Path) -> None:
    own = make(tmp_path)
    publish(own, record_for(tmp_path), overwrite=False)
    own.close()
    newer = make(tmp_path)
    record = record_for(tmp_path, replaces=own.inode, replaces_version=own.version)
    publish(newer, record, overwrite=False)
    assert os.stat(tmp_path / "film.mkv").st_ino == newer.inode
    newer.close()
    os.unlink(tmp_path / "film.mkv")
    (tmp_path / "film.mkv").write_bytes(b"the user's")
    third = make(tmp_path)
    there = os.stat(tmp_path / "film.mkv").st_ino
    with pytest.raises(TargetExists):  # even when the user's file has the very number
        publish(third, record_for(tmp_path, replaces=there, replaces_version=newer.version), overwrite=False)
    assert (tmp_path / "film.mkv").read_bytes() == b"the user's"
    third.close()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_publishing_without_the_exclusive_rename(tmp_path: Path, number: int) -> None:
    files = Failing("rename_noreplace", number)
    part = make(tmp_path, files)
    publish(part, record_for(tmp_path), overwrite=False)
    assert os.listdir(tmp_path) == ["film.mkv"]
    other = make(tmp_path, files)
    with pytest.raises(TargetExists):
        publish(other, record_for(tmp_path), overwrite=False)
    assert os.stat(tmp_path / "film.mkv").st_ino == part.inode
    part.close()
    other.close()


def test_publishing_by_link_is_finished_after_a_crash(tmp_path: Path) -> None:
    """C10: between the link and the unlink the file has both names; opened again it is still known, and published."""
    files = FileSystem()
    part = make(tmp_path)
    part.close()
    os.link(tmp_path / NAME, tmp_path / "film.mkv")
    record = finalizing(tmp_path, part)
    part = open_unfinished(files, record)
    publish(part, record, overwrite=False)
    assert os.stat(tmp_path / "film.mkv").st_ino == record.inode
    assert os.listdir(tmp_path) == ["film.mkv"]
    part.close()
    os.link(tmp_path / "film.mkv", tmp_path / "another")
    with pytest.raises(PartLost):  # a second name that is nobody's doing here
        open_unfinished(files, record)


def finalizing(folder: Path, part: PartFile) -> PartRecord:
    device, inode, version = part.identity
    return record_for(folder, phase=PartPhase.FINALIZING, device=device, inode=inode, inode_version=version)


def test_a_race_for_one_name_has_one_winner(tmp_path: Path) -> None:
    """D14: eight threads publish under one name; one file has it, all the others are told, none is lost."""
    parts = [make(tmp_path, name=f".oe-{number}-1.part") for number in range(8)]
    start, results = threading.Barrier(8), []

    def race(part: PartFile) -> None:
        start.wait()
        try:
            publish(part, record_for(tmp_path, part_name=part.name), overwrite=False)
            results.append(part.inode)
        except TargetExists:
            results.append(0)

    threads = [threading.Thread(target=race, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [inode for inode in results if inode]
    assert os.stat(tmp_path / "film.mkv").st_ino == winner
    assert len(os.listdir(tmp_path)) == 8
    for part in parts:
        part.close()


def test_a_folder_that_goes_away_while_its_part_is_open(tmp_path: Path) -> None:
    """D22: renamed, it is still the same folder; removed, the error says so."""
    folder = tmp_path / "music"
    folder.mkdir()
    part = make(folder)
    folder.rename(tmp_path / "renamed")
    publish(part, record_for(folder), overwrite=False)
    assert (tmp_path / "renamed" / "film.mkv").exists()
    part.close()
    with pytest.raises(TargetGone):
        make(folder)
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(TargetGone):
        make(tmp_path / "plain")
    for path in (tmp_path / "plain", tmp_path / "plain" / "below"):
        with pytest.raises(TargetGone):
            prepare_folder(FileSystem(), str(path), durable=True)


def test_finishing_finds_the_file_under_either_name(tmp_path: Path) -> None:
    files = FileSystem()
    part = make(tmp_path)
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
    assert is_file(files, part.folder_fd, "film.mkv", part.inode, part.version)
    assert not is_file(files, part.folder_fd, "film.mkv", part.inode, part.version + 1)
    assert not is_file(files, part.folder_fd, "nothing", part.inode, part.version)
    part.close()


def test_an_unfinished_part_is_opened_as_its_record_knows_it(tmp_path: Path) -> None:
    """D13, D14: under the final name only the very file of the record counts, by device, inode and version."""
    files = FileSystem()
    part = make(tmp_path)
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
    part.close()


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
    _plant(tmp_path / "trap", tmp_path / "film.mkv", "symlink")
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


def test_reading_back(tmp_path: Path) -> None:
    """D7: a file that ends early is an error, never a digest of less."""
    data = payload_of(3 * MIB + 17)
    (tmp_path / "f").write_bytes(data)
    files = FileSystem()
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        assert b"".join(blocks(files, fd, len(data))) == data
        assert digests(files, fd, len(data), ["blake3"]) == {"blake3": hash_of(data)}
        assert digests(files, fd, 5, ["blake3"]) == {"blake3": hash_of(data[:5])}
        assert digests(files, fd, len(data), []) == {}
        with pytest.raises(InputOutput, match="ends at byte"):
            digests(files, fd, len(data) + 1, ["blake3"])
    finally:
        os.close(fd)
    assert digest_of_path(files, str(tmp_path / "f"), "blake3") == hash_of(data)
    with pytest.raises(TargetGone):
        digest_of_path(files, str(tmp_path / "g"), "blake3")
