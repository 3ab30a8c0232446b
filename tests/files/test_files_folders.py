"""Folders that files go to: whoever makes one, nobody uses it before its name is durable."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import InputOutput, NotPermitted
from engine.files.filesystem import FileSystem
from engine.files.folders import Folders


class Recording(FileSystem):
    """Notes which folders were synced. ``before_sync`` is called before each; what it raises is the sync's error."""

    def __init__(self, before_sync: Callable[[str], None] = lambda _: None) -> None:
        self.synced: list[str] = []
        self.before_sync = before_sync

    def sync(self, fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        self.before_sync(path)
        super().sync(fd)
        self.synced.append(path)


def test_every_folder_in_which_a_name_was_made_is_synced_from_the_top_and_only_once(tmp_path: Path) -> None:
    files, folders = Recording(), Folders()
    folders.prepare(files, str(tmp_path / "album" / "disc"))
    assert files.synced == [str(tmp_path), str(tmp_path / "album")]
    for name in ("disc", "disc"):
        folders.prepare(files, str(tmp_path / "album" / name))
    assert len(files.synced) == 2, "a file in a folder that is there costs no sync of those above"
    folders.prepare(files, str(tmp_path / "album" / "other"))
    assert files.synced[2:] == [str(tmp_path / "album")]


def test_who_finds_a_folder_whose_maker_failed_syncs_it(tmp_path: Path) -> None:
    def fail(path: str) -> None:
        if path == str(tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    files, folders = Recording(fail), Folders()
    for _ in range(2):
        with pytest.raises(InputOutput):
            folders.prepare(files, str(tmp_path / "album" / "disc"))
    assert files.synced == []
    files.before_sync = lambda _: None
    folders.prepare(files, str(tmp_path / "album" / "another"))
    assert files.synced == [str(tmp_path), str(tmp_path / "album")]


def test_who_finds_a_folder_whose_maker_is_not_done_syncs_it_too(tmp_path: Path) -> None:
    """Two entries at once: the second must not complete before the name of the first's folder is durable."""
    folders, second = Folders(), Recording()

    def overtake(path: str) -> None:
        first.before_sync = lambda _: None
        folders.prepare(second, str(tmp_path / "album" / "two"))

    first = Recording(overtake)
    folders.prepare(first, str(tmp_path / "album" / "one"))
    assert second.synced == [str(tmp_path), str(tmp_path / "album")]


def test_a_name_that_is_made_while_the_folder_is_synced_is_not_taken_for_synced(tmp_path: Path) -> None:
    folders, third = Folders(), Recording()

    class Overtaken(Recording):
        def sync(self, fd: int) -> None:
            super().sync(fd)  # what is made from here on, this sync did not see
            if len(self.synced) == 1:
                with pytest.raises(InputOutput):
                    folders.prepare(Recording(fail), str(tmp_path / "other"))

    def fail(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    folders.prepare(Overtaken(), str(tmp_path / "album"))
    folders.prepare(third, str(tmp_path / "other"))
    assert third.synced == [str(tmp_path)]


def test_a_folder_that_cannot_be_made_is_not_remembered(tmp_path: Path) -> None:
    class Refusing(Recording):
        def make_folders(self, path: str) -> list[str]:
            os.mkdir(tmp_path / "album")
            raise PermissionError(errno.EACCES, "refused half-way")

    folders, files = Folders(), Recording()
    with pytest.raises(NotPermitted):
        folders.prepare(Refusing(), str(tmp_path / "album" / "disc"))
    assert set(folders._unsynced) == {str(tmp_path)}, "one name was made, the other was not"
    folders.prepare(files, str(tmp_path / "album"))
    assert files.synced == [str(tmp_path)]
    assert folders._unsynced == {}
