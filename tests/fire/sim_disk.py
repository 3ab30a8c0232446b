"""A disk for the simulator: real files on a memory file system, beside them what a power cut would leave of them.

The disk model is that of the fault catalogue, section 3: unsynced bytes are old, new, zero or garbage sector by sector,
names come and go in any order until their folder is synced, and a sync that failed loses its pages for good. The
folders of media are modelled; the store's own files are LMDB's, whose commits count as atomic here (other harnesses cut
those).
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from engine.files.filesystem import FileSystem
from tests.fire.sim_faults import Faults

SECTOR = 512
GRAVES = "graves"


@dataclass
class Inode:
    """One modelled file. ``durable``: its bytes as a power cut leaves them at least; ``dirty``: sectors written since;
    ``lost``: sectors that a failed sync forgot; ``torn``: those that were under way when the power went."""

    number: int
    fd: int
    durable: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    torn: set[int] = field(default_factory=set)

    def now(self) -> bytearray:
        """What reads give."""
        return bytearray(os.pread(self.fd, os.fstat(self.fd).st_size, 0))

    def wrote(self, start: int, end: int) -> None:
        """Bytes ``[start, end)`` are in the page cache."""
        sectors = range(start // SECTOR, -(-end // SECTOR))
        self.dirty.update(sectors)
        self.lost.difference_update(sectors)

    def synced(self) -> None:
        """All but what a failed sync lost is durable."""
        after, before = self.now(), self.durable
        for sector in self.lost:
            at = slice(sector * SECTOR, min((sector + 1) * SECTOR, len(after)))
            after[at] = before[at].ljust(max(0, at.stop - at.start), b"\0")
        self.durable = after
        self.dirty.clear()

    def sync_failed(self) -> None:
        """The kernel takes the pages for clean."""
        self.lost |= self.dirty
        self.dirty.clear()


Change = tuple[tuple[str, int | None], ...]  # names and the inode that each has then


@dataclass
class Folder:
    """The names of modelled files in one folder: as they are, as they are durable, and the changes between."""

    names: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def change(self, *names: tuple[str, int | None]) -> None:
        """One atomic change of names."""
        self.changes.append(names)
        _apply(self.names, names)

    def synced(self) -> None:
        """All names are durable."""
        self.durable = dict(self.names)
        self.changes.clear()

    def after_a_cut(self, rng: random.Random) -> dict[str, int]:
        """Names as a power cut leaves them: any of the changes, those of one name in their order."""
        names, blocked, share = dict(self.durable), set[str](), rng.choice((0.0, 0.5, 1.0))
        for change in self.changes:
            touched = {name for name, _ in change}
            if touched & blocked or rng.random() >= share:
                blocked |= touched
            else:
                _apply(names, change)
        return names


def _apply(names: dict[str, int], change: Change) -> None:
    for name, number in change:
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number


class SimDisk(FileSystem):
    """``media``: the folders that are modelled, with all below. ``graves``: a folder of its own on the same memory file
    system. After :meth:`die` nothing changes any more: the process has ended, whatever its code still does."""

    def __init__(self, media: Iterable[str], graves: str, faults: Faults, on_death: Callable[[], None]) -> None:
        self.boot = 1
        self.dead = False
        self.calls = 0
        self.crash_at = 0
        self._media = tuple(media)
        self._graves = graves
        self._faults = faults
        self._rng = faults.rng
        self._on_death = on_death
        self._inodes: dict[int, Inode] = {}
        self._folders: dict[str, Folder] = {}
        self._paths: dict[int, str] = {}
        self._open: dict[int, Inode] = {}

    # The process and the power.

    def die(self) -> None:
        """The process ends here."""
        if not self.dead:
            self.dead = True
            self._on_death()

    def live(self) -> None:
        """A new process; what the old one had open is closed."""
        self.dead = False
        self.crash_at = 0

    def cut_power(self) -> None:
        """What was not synced is old, new, zero or garbage; the machine starts anew."""
        self.boot += 1
        for path, folder in self._folders.items():
            self._cut_names(path, folder)
        for inode in list(self._inodes.values()):
            self._cut_bytes(inode)
        named = {number for folder in self._folders.values() for number in folder.names.values()}
        for number in [number for number in self._inodes if number not in named]:
            os.close(self._inodes.pop(number).fd)
        shutil.rmtree(self._graves)
        os.mkdir(self._graves)

    def _cut_names(self, path: str, folder: Folder) -> None:
        after = folder.after_a_cut(self._rng)
        for name, number in folder.names.items():
            self._bury(os.path.join(path, name), number)
            os.unlink(os.path.join(path, name))
        for name, number in after.items():
            os.link(os.path.join(self._graves, str(number)), os.path.join(path, name))
        folder.names = after
        folder.synced()

    def _cut_bytes(self, inode: Inode) -> None:
        before, old = inode.now(), inode.durable
        if inode.dirty or inode.torn or before != old:
            after = self._remains(inode, before)
            if after != before:
                times = os.fstat(inode.fd)
                os.ftruncate(inode.fd, len(after))
                os.pwrite(inode.fd, after, 0)
                os.utime(inode.fd, ns=(times.st_atime_ns, times.st_mtime_ns))
        inode.synced()
        inode.durable = inode.now()
        inode.torn.clear()
        inode.lost.clear()

    def _remains(self, inode: Inode, now: bytearray) -> bytearray:
        rng, after = self._rng, bytearray(inode.durable)
        if len(now) != len(after) and rng.random() < 0.7:
            size = rng.choice((len(now), rng.randint(min(len(now), len(after)), max(len(now), len(after)))))
            after = after[:size].ljust(size, b"\0")
        kept = rng.choice((0.0, 0.3, 0.7, 1.0))
        for sector in sorted(inode.dirty):
            at = slice(sector * SECTOR, min((sector + 1) * SECTOR, len(after)))
            size = at.stop - at.start
            if size <= 0:
                continue
            if sector in inode.torn and rng.random() < 0.8:
                after[at] = rng.randbytes(size)
            elif rng.random() < kept:
                after[at] = now[at].ljust(size, b"\0")
            elif rng.random() < 0.3:
                after[at] = bytes(size)
        return after

    def rot(self, path: str, start: int, data: bytes) -> None:
        """Somebody, or the disk itself, changes bytes of a file for good; the time stamp tells of nothing."""
        times = os.stat(path)
        inode = self._inodes[times.st_ino]
        os.pwrite(inode.fd, data, start)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        inode.durable = inode.now()

    def forget(self) -> None:
        """Close what the model itself has open."""
        for inode in self._inodes.values():
            os.close(inode.fd)
        self._inodes.clear()

    # The seam.

    def _enter(self, *kinds: tuple[str, int]) -> None:
        """Count a call; it may be the last, or fail by one of these faults."""
        self.calls += 1
        if self.calls == self.crash_at:
            self.die()
        if self.dead:
            raise OSError(errno.EIO, "the process has ended")
        for kind, number in kinds:
            if self._faults.hit(kind):
                raise OSError(number, os.strerror(number))

    def _modelled(self, path: str) -> bool:
        return any(path == media or path.startswith(media + "/") for media in self._media)

    def _folder(self, folder_fd: int) -> Folder | None:
        path = self._paths.get(folder_fd, "")
        return self._folders.setdefault(path, Folder()) if self._modelled(path) else None

    def _track(self, fd: int) -> Inode:
        number = os.fstat(fd).st_ino
        if number not in self._inodes:  # through a description of its own: a lock belongs to the engine's
            self._inodes[number] = Inode(number, os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC))
        self._open[fd] = self._inodes[number]
        return self._inodes[number]

    def _bury(self, path: str, number: int) -> None:
        """Keep the file, for a power cut may bring its name back."""
        grave = os.path.join(self._graves, str(number))
        if not os.path.exists(grave):
            os.link(path, grave)

    def open_folder(self, path: str) -> int:
        self._enter(("open_emfile", errno.EMFILE))
        fd = super().open_folder(path)
        self._paths[fd] = path
        return fd

    def make_folders(self, path: str) -> list[str]:
        self._enter(("folder_eio", errno.EIO))
        return super().make_folders(path)

    def create_exclusive(self, folder_fd: int, name: str) -> int:
        self._enter(("create_eio", errno.EIO), ("open_emfile", errno.EMFILE))
        fd = super().create_exclusive(folder_fd, name)
        folder = self._folder(folder_fd)
        if folder is not None:
            folder.change((name, self._track(fd).number))
        return fd

    def open_existing(self, folder_fd: int, name: str, *, write: bool) -> int:
        self._enter(("open_emfile", errno.EMFILE))
        fd = super().open_existing(folder_fd, name, write=write)
        folder = self._folder(folder_fd)
        if folder is not None and name in folder.names:
            self._track(fd)
        return fd

    def open_lock_file(self, path: str) -> int:
        self._enter(("open_emfile", errno.EMFILE))
        return super().open_lock_file(path)

    def close(self, fd: int) -> None:
        self._paths.pop(fd, None)
        self._open.pop(fd, None)
        super().close(fd)

    def allocate(self, fd: int, length: int) -> None:
        self._enter(("allocate_enospc", errno.ENOSPC))
        super().allocate(fd, length)

    def truncate(self, fd: int, length: int) -> None:
        self._enter(("write_eio", errno.EIO))
        super().truncate(fd, length)

    def read_at(self, fd: int, length: int, offset: int) -> bytes:
        self._enter(("read_eio", errno.EIO))
        return super().read_at(fd, length, offset)

    def copy_range(self, source_fd: int, target_fd: int, offset: int, length: int) -> int:
        self._enter(("write_eio", errno.EIO), ("write_enospc", errno.ENOSPC))
        copied = self._copy_through(source_fd, target_fd, offset, length)
        self._open[target_fd].wrote(offset, offset + copied)
        return copied

    def write_all(self, fd: int, data: bytes) -> None:
        self._enter(("write_enospc", errno.ENOSPC))
        super().write_all(fd, data)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        """The sealer's. One that the power interrupts is torn."""
        inode = self._open[fd]
        try:
            self._enter(("write_eio", errno.EIO), ("write_enospc", errno.ENOSPC))
        except OSError:
            if self.calls == self.crash_at:  # somewhere in the middle of it
                data = data[: self._rng.randint(0, len(data))]
                os.pwrite(fd, data, offset)
                inode.wrote(offset, offset + len(data))
                inode.torn.update(range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)))
            raise
        if len(data) > 1 and self._faults.hit("write_short"):
            data = data[: self._rng.randint(1, len(data) - 1)]
        written = os.pwrite(fd, data, offset)
        inode.wrote(offset, offset + written)
        return written

    def sync_data(self, fd: int) -> None:
        self._sync(fd)

    def sync(self, fd: int) -> None:
        self._sync(fd)

    def _sync(self, fd: int) -> None:
        inode, folder = self._open.get(fd), self._folder(fd)
        try:
            self._enter(("sync_eio" if inode is not None else "folder_sync_eio", errno.EIO))
        except OSError:
            if inode is not None and not self.dead:
                inode.sync_failed()
            raise
        if inode is not None:
            inode.synced()
        if folder is not None:
            folder.synced()

    def rename_noreplace(self, folder_fd: int, source: str, target: str) -> None:
        self._enter(("rename_eio", errno.EIO))
        super().rename_noreplace(folder_fd, source, target)
        self._renamed(folder_fd, source, target)

    def rename_over(self, folder_fd: int, source: str, target: str) -> None:
        self._enter(("rename_eio", errno.EIO))
        folder = self._folder(folder_fd)
        if folder is not None and target in folder.names:
            self._bury(os.path.join(self._paths[folder_fd], target), folder.names[target])
        super().rename_over(folder_fd, source, target)
        self._renamed(folder_fd, source, target)

    def _renamed(self, folder_fd: int, source: str, target: str) -> None:
        folder = self._folder(folder_fd)
        if folder is not None and source in folder.names:
            folder.change((source, None), (target, folder.names[source]))

    def rename_path_noreplace(self, source: str, target: str) -> None:
        self._enter(("rename_eio", errno.EIO))
        super().rename_path_noreplace(source, target)

    def link(self, folder_fd: int, source: str, target: str) -> None:
        self._enter(("rename_eio", errno.EIO))
        super().link(folder_fd, source, target)
        folder = self._folder(folder_fd)
        if folder is not None and source in folder.names:
            folder.change((target, folder.names[source]))

    def unlink(self, folder_fd: int, name: str) -> bool:
        self._enter(("unlink_eio", errno.EIO))
        folder = self._folder(folder_fd)
        if folder is None or name not in folder.names:
            return super().unlink(folder_fd, name)
        self._bury(os.path.join(self._paths[folder_fd], name), folder.names[name])
        gone = super().unlink(folder_fd, name)
        folder.change((name, None))
        return gone

    def remove_tree(self, path: str) -> None:
        self._enter(("unlink_eio", errno.EIO))
        super().remove_tree(path)

    def free_bytes(self, fd: int) -> int:
        return 1 << 40

    def boot_id(self) -> str:
        return f"boot-{self.boot}"
