"""Publishing: a part gets its final name without harm to others, whatever lies there."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from engine.errors import PartLost, TargetExists, TargetGone
from engine.files.filesystem import FileSystem
from engine.files.folders import Folders
from engine.files.part_file import (
    PartFile,
    open_unfinished,
    publish,
)
from tests.files.helpers import NAME, Failing, finalizing, make, plant, record_for


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
        plant(target, victim, kind)
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
    """D22: renamed or replaced, the record would tell of a file that is not there; removed, the error says so."""
    folder = tmp_path / "music"
    folder.mkdir()
    part = make(folder)
    folder.rename(tmp_path / "renamed")
    for _ in range(2):
        with pytest.raises(TargetGone, match="moved"):
            publish(part, record_for(folder), overwrite=False)
        folder.mkdir(exist_ok=True)  # another one in its place
    assert os.listdir(tmp_path / "renamed") == [part.name]
    assert os.listdir(folder) == []
    folder.rmdir()
    (tmp_path / "renamed").rename(folder)
    publish(part, record_for(folder), overwrite=False)
    assert os.listdir(folder) == ["film.mkv"]
    part.close()
    (folder / "film.mkv").unlink()
    folder.rmdir()
    with pytest.raises(TargetGone):
        make(folder)
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(TargetGone):
        make(tmp_path / "plain")
    for path in (tmp_path / "plain", tmp_path / "plain" / "below"):
        with pytest.raises(TargetGone):
            Folders().prepare(FileSystem(), str(path))
