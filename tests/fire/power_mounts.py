"""System calls that the power tests need and Python lacks: mounts, loop devices, a mount namespace of one's own.

All of them need root. What is mounted here is seen by nobody else and vanishes with the last process of the namespace.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_MNT_DETACH: Final = 2
_CLONE_NEWNS: Final = 0x20000
_PR_SET_PDEATHSIG: Final = 1
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _BLKFLSBUF = 0x4C82, 0x4C0A, 0x1261
_AUTOCLEAR: Final = 4
_LOOP_CONFIG: Final = struct.Struct("<II 5Q 4I 64s 64s 32s 2Q 8Q")
_EXT4_IOC_SHUTDOWN: Final = 0x8004587D
_NOLOGFLUSH: Final = 2
_TRIES: Final = 50


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)} (as root?)")


def mount(source: str, target: str, kind: str, options: str = "", flags: int = 0) -> None:
    """mount(2). Raises OSError."""
    arguments = [text.encode() for text in (source, target, kind)]
    _check(_LIBC.mount(*arguments, ctypes.c_ulong(flags), options.encode()), f"mount {kind} on {target}")


def unmount(target: str, *, detach: bool = False) -> None:
    """umount2(2); ``detach`` also while it is in use. Raises OSError."""
    _check(_LIBC.umount2(target.encode(), _MNT_DETACH if detach else 0), f"unmount {target}")


def own_namespace() -> None:
    """From now on this process and its children see mounts of their own. Call it before there are threads."""
    _check(_LIBC.unshare(_CLONE_NEWNS), "a mount namespace")
    mount("none", "/", "none", flags=_MS_REC | _MS_PRIVATE)


def die_with_parent() -> None:
    """For a process that was just forked: it ends with whoever forked it, however that ends."""
    _check(_LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "the parent's death")


@contextmanager
def loop_device(path: str) -> Iterator[tuple[str, int]]:
    """A loop device on the file ``path``: its own path and a descriptor. It is gone with the last user."""
    backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        name, device = _attached(backing)
    finally:
        os.close(backing)
    try:
        yield name, device
    finally:
        os.close(device)


def _attached(backing: int) -> tuple[str, int]:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            name = f"/dev/loop{number}"
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            config = _LOOP_CONFIG.pack(
                backing, 512, 0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR, b"", b"", b"", 0, 0, *([0] * 8)
            )
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody else was faster
                    raise
            else:
                return name, device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "there is no free loop device")


def drop_cache(device: int) -> None:
    """Forget what is cached of a block device: the file below it was changed."""
    fcntl.ioctl(device, _BLKFLSBUF)


def cut_power(folder: Path) -> None:
    """Shut the file system of ``folder`` down as a power cut does: its journal is not flushed, nothing more is
    written."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("<I", _NOLOGFLUSH))
    finally:
        os.close(fd)
