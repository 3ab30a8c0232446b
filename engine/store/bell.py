"""The doorbell: how an engine learns at once that another process left it a command.

A datagram socket named in the root, only its owner may write to it (0600). A ring carries nothing: what is asked is in
the inbox, durably, before anyone rings. A socket rather than a FIFO, because who rings is told when nobody listens: the
name that a killed engine left refuses, while a FIFO would take the ring, or block. A full mailbox is one more ring that
waits already. The name is bound and reached through a descriptor of the root, for a socket's path may only have 107
bytes.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

from engine.files.filesystem import FILE_MODE, FileSystem

BELL_NAME: Final = "engine.sock"
_RINGS_AT_ONCE: Final = 1024  # more than a mailbox holds


class Bell:
    """The engine's end. The caller holds the lease: so a bell that hangs there already is a dead engine's."""

    def __init__(self, root: str, files: FileSystem) -> None:
        """Hang it. Raises OSError, where the file system has no sockets."""
        self._files = files
        self._folder = files.open_folder(root)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            if files.stat_name(self._folder, BELL_NAME) is not None:
                files.unlink(self._folder, BELL_NAME)
            os.fchmod(self.socket.fileno(), FILE_MODE)  # before it has a name: at no time may others reach it
            self.socket.bind(_path(self._folder))
        except BaseException:
            self.socket.close()
            files.close(self._folder)
            raise

    def clear(self) -> None:
        """Take the rings that have come."""
        with suppress(BlockingIOError):
            for _ in range(_RINGS_AT_ONCE):
                self.socket.recv(1)

    def take_down(self) -> None:
        """Close it, and take its name away as far as that can be done: a name alone calls nobody."""
        self.socket.close()
        with suppress(OSError):
            self._files.unlink(self._folder, BELL_NAME)
        self._files.close(self._folder)


def ring(root: str, files: FileSystem) -> bool:
    """Tell the engine on ``root`` to look into its inbox; False when none listens."""
    try:
        folder = files.open_folder(root)
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(b"!", _path(folder))
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        files.close(folder)
    return True


def _path(folder: int) -> str:
    return f"/proc/self/fd/{folder}/{BELL_NAME}"
