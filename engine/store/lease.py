"""The owner's lease: a flock on ``owner.lock`` in the root says that one engine writes the store (L7)."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Final

import msgspec

from engine.errors import StoreBusy
from engine.files.filesystem import FileSystem
from engine.store.codec import DECODE_ERRORS

LOCK_NAME: Final = "owner.lock"
_TEXT_BYTES_MAX: Final = 4096
# What is left of the text when a lease is given back. Its block stays, so that the next one can be taken on a full
# disk: what would free space there needs the lease.
_RELEASED_BYTES: Final = 1


class Owner(msgspec.Struct, frozen=True):
    """What the lock file tells about its holder: process id, and when it took the lease (seconds since the epoch)."""

    pid: int
    started: float


class Lease:
    """Held from :meth:`acquire` to :meth:`release`, or until the process ends in whatever way. ``inherited``: its last
    holder did not release it, so it was killed or the machine went down."""

    def __init__(self, files: FileSystem, fd: int, *, inherited: bool) -> None:
        self.inherited = inherited
        self._files = files
        self._fd = fd
        _HELD.add(self)

    @classmethod
    def acquire(cls, root: str, files: FileSystem, *, now: float) -> Lease:
        """Take the lease of ``root``. Raises StoreBusy when another engine has it, OSError for a failed file call."""
        fd = files.open_lock_file(os.path.join(root, LOCK_NAME))
        try:
            if not files.try_lock(fd):
                owner = _read_owner(files, fd)
                pid = None if owner is None else owner.pid
                raise StoreBusy(f"the store in {root} is in use by {_named(pid)}", pid)
            size = files.stat_fd(fd).st_size
            text = msgspec.json.encode(Owner(os.getpid(), now))
            files.write_all(fd, text)
            if size > len(text):
                files.truncate(fd, len(text))
        except BaseException:
            files.close(fd)
            raise
        return cls(files, fd, inherited=size > _RELEASED_BYTES)

    def release(self) -> None:
        """Give the lease back; again: nothing. The file stays, because removing it would race with a new owner."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            self._files.truncate(fd, _RELEASED_BYTES)
        finally:
            self._files.close(fd)

    def forget(self) -> None:
        """Let go without a word: the file goes on telling of an end that was not in order.

        For a store that could not be opened; and in a forked child, whose copy of the descriptor would keep the lease
        alive (L4, L23).
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # nobody could act on it, and the lock goes with the descriptor
                os.close(fd)


def read_owner(root: str, files: FileSystem) -> Owner | None:
    """Who holds the lease of ``root``, as far as the file tells; None when nobody does."""
    path = os.path.join(root, LOCK_NAME)
    if files.stat_path(path) is None:
        return None
    fd = files.open_lock_file(path)
    try:
        return None if files.try_lock(fd) else _read_owner(files, fd)
    finally:
        files.close(fd)


def _read_owner(files: FileSystem, fd: int) -> Owner | None:
    try:
        return msgspec.json.decode(files.read_at(fd, _TEXT_BYTES_MAX, 0), type=Owner)
    except DECODE_ERRORS:
        return None  # between the lock and the text of its holder


def _named(pid: int | None) -> str:
    return "another process" if pid is None else f"process {pid}"


_HELD: Final[weakref.WeakSet[Lease]] = weakref.WeakSet()


def _forget_all() -> None:
    for lease in list(_HELD):
        lease.forget()


os.register_at_fork(after_in_child=_forget_all)
