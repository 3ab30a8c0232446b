"""The folders that files go to: made where they are missing, and their names durable before any file's is.

A folder's name is only durable once the folder above it is synced. Whoever finds a folder there cannot see whether that
was done: another entry may have made it a moment ago, or failed before its sync. So what is still to be synced is
remembered, and who needs the folder next does it himself; a folder that was there before costs nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

from engine.errors import TargetGone, storage_error
from engine.files.filesystem import FileSystem


class Folders:
    """Makes folders. Its methods block and may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Folders in which a name may have been made that is not durable yet, each with a mark of its newest one.
        self._unsynced: dict[str, object] = {}

    def prepare(self, files: FileSystem, folder: str, *, root: str = "") -> None:
        """Make sure that the folder is there, and durably so if this engine made it, whatever the durability of what
        goes there: a strict entry may be the next. ``root``: the library's own, which is not made again when it is gone
        (H14): TargetGone. Raises StorageError."""
        try:
            if root and os.path.commonpath((root, folder)) == root and files.stat_path(root) is None:
                raise TargetGone(f"the root {root} is gone")
            self._make(files, folder)
            for above, mark in self._marks_above(folder):
                self._sync(files, above, mark)
        except OSError as error:
            raise storage_error(error, f"folder {folder}") from error

    def _make(self, files: FileSystem, folder: str) -> None:
        """Make what is missing. The folders in which a name is about to be made are marked before it is, so that nobody
        finds it unmarked."""
        expected: list[tuple[str, str, object]] = []
        for path in (folder, *_above(folder)):
            if files.stat_path(path) is not None:
                break
            expected.append((os.path.dirname(path), path, object()))
        with self._lock:
            self._unsynced.update((above, mark) for above, _, mark in expected)
        try:
            files.make_folders(folder)
        except OSError:
            for above, path, mark in expected:
                if files.stat_path(path, follow=False) is None:
                    self._drop(above, mark)
            raise

    def _marks_above(self, folder: str) -> list[tuple[str, object]]:
        """The marked folders among those above, from the top."""
        with self._lock:
            if not self._unsynced:
                return []
            found = [(above, self._unsynced[above]) for above in _above(folder) if above in self._unsynced]
        return found[::-1]

    def _sync(self, files: FileSystem, folder: str, mark: object) -> None:
        fd = files.open_folder(folder)
        try:
            files.sync(fd)
        finally:
            files.close(fd)
        self._drop(folder, mark)

    def _drop(self, folder: str, mark: object) -> None:
        with self._lock:
            if self._unsynced.get(folder) is mark:  # no other name was made since
                del self._unsynced[folder]


def _above(folder: str) -> Iterator[str]:
    while (above := os.path.dirname(folder)) != folder:
        yield above
        folder = above
