"""A forked child has none of the engine's part files: its copies of their descriptors would keep them locked, and their
space taken, when the engine is long done with them (as the lease's would, :mod:`engine.store.lease`)."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Final, Protocol


class Opened(Protocol):
    """Somebody's open file and its folder; -1 for one that is closed."""

    fd: int
    folder_fd: int


def close_in_children(opened: Opened) -> None:
    """Close both in every child that is forked while they are open. The parent's locks stay."""
    _OPEN.add(opened)


_OPEN: Final[weakref.WeakSet[Opened]] = weakref.WeakSet()


def _close_all() -> None:
    for opened in list(_OPEN):
        fds, opened.fd, opened.folder_fd = (opened.fd, opened.folder_fd), -1, -1
        for fd in fds:
            if fd >= 0:
                with contextlib.suppress(OSError):  # nobody could act on it
                    os.close(fd)


os.register_at_fork(after_in_child=_close_all)
