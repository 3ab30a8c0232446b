"""What running entries were promised of each file system and have not taken yet: downloads that run at the same time
must not count on the same free bytes.

Where blocks can be reserved (fallocate) a promise is kept the moment the file is made; elsewhere, and for a small file
that is made before its bytes are written, it stands until they are. Called from worker threads too.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import msgspec

from engine.errors import NoSpace
from engine.files.filesystem import FileSystem
from engine.model.records import DownloadEntry

BLOCK_BYTES = 512  # st_blocks counts these, whatever the file system's own are

# Decides whether an entry may take so many bytes (None: nobody knows how many). Raises NoSpace.
Admission = Callable[[DownloadEntry, int | None], Awaitable[None]]
# Decides whether an entry of unknown length may keep so many bytes, which it has, and whether they are all. Raises
# NoSpace.
Growth = Callable[[DownloadEntry, int, bool], Awaitable[None]]


class _Promise(msgspec.Struct):
    """``made``: the file is there, or was: one that is gone again has its final name and all its bytes."""

    device: int
    path: str
    length: int
    made: bool = False
    kept: bool = False


class Reservations:
    """One promise an entry. ``admission`` is asked before an entry takes space, ``growth`` while one of unknown length
    does, and ``released`` is told when it takes no more; quotas and eviction hang on them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._promises: dict[str, _Promise] = {}
        self.admission: Admission | None = None
        self.growth: Growth | None = None
        self.released: Callable[[str], None] | None = None

    async def admit(self, entry: DownloadEntry, length: int | None) -> None:
        """Raise NoSpace when the entry may not take ``length`` bytes by the rules of its scope."""
        if self.admission is not None:
            await self.admission(entry, length)

    async def hold(self, entry: DownloadEntry, length: int, *, ended: bool) -> None:
        """Raise NoSpace when an entry of unknown length may not have grown to ``length`` bytes by the rules of its
        scope; ``ended``: it grows no more."""
        if self.growth is not None:
            await self.growth(entry, length, ended)

    def take(self, entry_id: str, files: FileSystem, folder_fd: int, path: str, length: int, reserve: int) -> None:
        """Promise ``length`` bytes for the file at ``path``, whose folder is open. Raises NoSpace when they, what is
        promised to others, and ``reserve`` do not fit; then the entry holds nothing."""
        with self._lock:
            self._promises.pop(entry_id, None)
            device = files.stat_fd(folder_fd).st_dev
            promised = self._outstanding(files, device)
            free = files.free_bytes(folder_fd)
            if length + promised + reserve > free:
                others = f", {promised} promised to other downloads" if promised else ""
                raise NoSpace(f"{length} bytes (and {reserve} kept in reserve{others}) do not fit: {free} are free")
            self._promises[entry_id] = _Promise(device, path, length)

    def resume(self, entry_id: str, device: int, path: str, length: int) -> None:
        """The entry goes on with a file that is there."""
        with self._lock:
            self._promises[entry_id] = _Promise(device, path, length, made=True)

    def made(self, entry_id: str) -> None:
        """The file that was promised space is there."""
        with self._lock:
            if (promise := self._promises.get(entry_id)) is not None:
                promise.made = True

    def written(self, entry_id: str) -> None:
        """All the bytes of the file are: it need not be looked at."""
        with self._lock:
            if (promise := self._promises.get(entry_id)) is not None:
                promise.kept = True

    def release(self, entry_id: str) -> None:
        """The entry does not run any more: what it took it has, and it takes no more."""
        with self._lock:
            self._promises.pop(entry_id, None)
        if self.released is not None:
            self.released(entry_id)

    def outstanding(self, files: FileSystem, device: int) -> int:
        """Bytes of a file system that are promised and not taken."""
        with self._lock:
            return self._outstanding(files, device)

    def _outstanding(self, files: FileSystem, device: int) -> int:
        return sum(_missing(files, promise) for promise in self._promises.values() if promise.device == device)


def _missing(files: FileSystem, promise: _Promise) -> int:
    if promise.kept:
        return 0
    info = files.stat_path(promise.path, follow=False) if promise.made else None
    if info is None:
        return 0 if promise.made else promise.length
    missing = max(0, promise.length - info.st_blocks * BLOCK_BYTES)
    promise.kept = missing == 0
    return missing
