"""Blocks that the store's file owns behind its end: what frees space can be recorded on a full disk (D4)."""

from __future__ import annotations

import contextlib
from typing import Final

from engine.files.filesystem import FileSystem

# LMDB copies each page that it changes: a transaction that removes an entry needs about twenty new ones of 4 KiB, and
# the one after the next uses again what they replaced.
HEADROOM_BYTES: Final = 1024 * 1024


class Headroom:
    """Keeps between a half and the whole of HEADROOM_BYTES behind what is in use of the file at ``data``."""

    def __init__(self, data: str, files: FileSystem) -> None:
        self._data = data
        self._files = files
        self._owned = 0

    def keep(self, used: int) -> None:
        """``used``: bytes of the file that the last commit left in use. Asks the disk when too few are left behind."""
        if self._owned >= used + HEADROOM_BYTES // 2:
            return
        # Where there is no room, or no such call, it is asked for again after the next commit: nothing is promised.
        with contextlib.suppress(OSError):
            self._files.reserve_behind(self._data, used + HEADROOM_BYTES)
            self._owned = used + HEADROOM_BYTES
