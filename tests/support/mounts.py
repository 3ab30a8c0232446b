"""File systems that run full or turn read-only, mounted for one test. They need root; without it the test fails."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.files.filesystem import FileSystem


class NoReserve(FileSystem):
    """A file system that keeps no blocks behind a file's end."""

    def reserve_behind(self, path: str, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no fallocate here")


@dataclass(frozen=True, slots=True)
class TinyTmpfs:
    """A mounted tmpfs at ``path``."""

    path: Path

    def resize(self, size: int) -> None:
        """Change its size in bytes."""
        self._remount(f"size={size}")

    def freeze(self) -> None:
        """Make it read-only."""
        self._remount("ro")

    def thaw(self) -> None:
        """Make it writable again."""
        self._remount("rw")

    def hide(self) -> None:
        """Unmount it as far as its path is concerned; what is in it stays."""
        away = self.path.with_name(self.path.name + "-away")
        away.mkdir()
        _run("mount", "--bind", str(self.path), str(away))
        _run("umount", str(self.path))

    def show(self) -> None:
        """Mount it again."""
        away = self.path.with_name(self.path.name + "-away")
        _run("mount", "--bind", str(away), str(self.path))
        _run("umount", str(away))
        away.rmdir()

    def _remount(self, option: str) -> None:
        _run("mount", "-o", f"remount,{option}", str(self.path))


@contextmanager
def mounted_tmpfs(path: Path, size: int) -> Iterator[TinyTmpfs]:
    """A tmpfs of ``size`` bytes at ``path``, made for it."""
    path.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield TinyTmpfs(path)
    finally:
        _run("umount", "-l", str(path))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} (as root?): {done.stderr}"
