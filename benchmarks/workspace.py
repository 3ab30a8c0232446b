"""The one folder in which everything happens: fresh folders for every run, all deleted at the very end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Iterator
from types import FrameType

from engine import Config

PREFIX = "offline-engine-benchmarks-"
DISK_RESERVE_BYTES = 6 << 30
# Ours waits until there is as much beside the file, for ever if need be; and its store needs some.
ENGINE_RESERVE_BYTES = 2 * Config().free_space_reserve_bytes
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NoRoom(Exception):
    """The disk has no room for the next run."""


class Interrupted(BaseException):
    """A signal asked for the end. Not an Exception: no benchmark shall take it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class Workspace:
    """Made by :func:`workspace`. Old results stay until the end while the disk has room: ext4 makes the creation of
    files several times dearer for seconds after a mass deletion."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._retired: deque[str] = deque()
        self._count = 0

    def folder(self, name: str) -> str:
        """A new folder that stays until the end."""
        return tempfile.mkdtemp(prefix=f"{name}-", dir=self.path)

    def fresh(self, name: str, size: int) -> str:
        """A new folder for the ``size`` bytes of one run. Raises NoRoom when not even deleting older results helps."""
        while self._free() < size + DISK_RESERVE_BYTES and self._retired:
            shutil.rmtree(self._retired.popleft())
        needed = size + ENGINE_RESERVE_BYTES
        if self._free() < needed:
            raise NoRoom(f"{needed >> 20} MiB are needed and {self._free() >> 20} MiB are free (see --folder)")
        self._count += 1
        path = os.path.join(self.path, f"{self._count:05}-{name}")
        os.mkdir(path, 0o700)
        return path

    def retire(self, folder: str) -> None:
        """This run's results were looked at: they may go when the room is needed."""
        self._retired.append(folder)

    def _free(self) -> int:
        info = os.statvfs(self.path)
        return info.f_bavail * info.f_frsize


@contextlib.contextmanager
def workspace(parent: str | None) -> Iterator[Workspace]:
    """A workspace for the block, below ``parent`` (default: the system's temporary folder).

    It is deleted however the block ends, also by Ctrl-C, SIGTERM and SIGHUP, which raise Interrupted in the block and
    are not heard while it is deleted.
    """

    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup's is not

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for other in heeded:  # a second one must not disturb the end
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in heeded}
    path = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    try:
        os.chmod(path, 0o755)  # a root's nginx serves from it with another user's rights
        yield Workspace(path)
    finally:
        for number in heeded:
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(path)
        for number, handler in before.items():
            signal.signal(number, handler)
