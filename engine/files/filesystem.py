"""Every file system call the engine makes, as methods of one object: the seam for fault injection (DESIGN section 8).

Methods are thin: bounded arguments in, OSError out. Nothing here decides anything. Writes of media bytes are the
sealer's (native); everything else that touches a file or folder goes through here. All descriptors are close-on-exec.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from typing import Final

from engine import native

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_GET_VERSION: Final = 0x80087601  # FS_IOC_GETVERSION
_READ_BYTES: Final = 1024 * 1024
# Where the kernel does not copy between two files itself.
_NO_COPY: Final = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ETXTBSY})


class FileSystem:
    """The real one. Tests replace methods or the whole object."""

    def open_folder(self, path: str) -> int:
        """A descriptor of a folder (a symbolic link to one is followed: the host chose the path)."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def make_folders(self, path: str) -> list[str]:
        """Create ``path`` and what is missing above it, mode 0700. Returns the folders in which a name was created."""
        changed: list[str] = []
        missing: list[str] = []
        at = path
        while not os.path.isdir(at):
            missing.append(at)
            at = os.path.dirname(at)
        for folder in reversed(missing):
            try:
                os.mkdir(folder, FOLDER_MODE)
            except FileExistsError:
                if not os.path.isdir(folder):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from None
            else:
                changed.append(os.path.dirname(folder))
        return changed

    def create_exclusive(self, folder_fd: int, name: str) -> int:
        """Create a new regular file for reading and writing; an existing name of any kind is FileExistsError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, FILE_MODE, dir_fd=folder_fd)

    def open_existing(self, folder_fd: int, name: str, *, write: bool) -> int:
        """Open a file that is there; never through a symbolic link, never blocking on a FIFO."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=folder_fd)

    def open_lock_file(self, path: str) -> int:
        """Open or create a small file that a lock is taken on."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)

    def try_lock(self, fd: int) -> bool:
        """Take an exclusive flock without waiting; False when another open file holds it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int) -> None:
        """Give the flock of an open file back, whoever else has a copy of its descriptor."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    def close(self, fd: int) -> None:
        """Close a descriptor. What else the system reports here (EIO, EDQUOT of a late write-back) is not raised: the
        descriptor is given back all the same, and bytes that count were synced before."""
        try:
            os.close(fd)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise

    def stat_fd(self, fd: int) -> os.stat_result:
        """fstat."""
        return os.fstat(fd)

    def file_version(self, fd: int) -> int:
        """The inode's generation, which tells a file from a later one that got its number; 0 where there is none."""
        answer = bytearray(8)
        try:
            fcntl.ioctl(fd, _GET_VERSION, answer)
        except OSError:
            return 0  # tmpfs and others, which do not give a number twice
        return int.from_bytes(answer[:4], sys.byteorder)

    def stat_name(self, folder_fd: int, name: str) -> os.stat_result | None:
        """lstat of a name in a folder; None when there is none."""
        try:
            return os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def stat_path(self, path: str, *, follow: bool = True) -> os.stat_result | None:
        """stat of a path; None when there is nothing."""
        try:
            return os.stat(path, follow_symlinks=follow)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, path: str) -> list[str]:
        """Names in a folder, in no order."""
        return os.listdir(path)

    def free_bytes(self, fd: int) -> int:
        """Bytes that an ordinary user may still write on the descriptor's file system."""
        info = os.fstatvfs(fd)
        return info.f_bavail * info.f_frsize

    def allocate(self, fd: int, length: int) -> None:
        """fallocate: reserve the blocks of ``[0, length)`` and set the size. OSError EOPNOTSUPP where there is none."""
        native.fallocate(fd, length)

    def reserve_behind(self, path: str, length: int) -> None:
        """Make the blocks of ``[0, length)`` an existing file's own; its size stays. OSError as of :meth:`allocate`."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            native.fallocate(fd, length, keep_size=True)
        finally:
            os.close(fd)

    def truncate(self, fd: int, length: int) -> None:
        """Set the file's size."""
        os.ftruncate(fd, length)

    def read_at(self, fd: int, length: int, offset: int) -> bytes:
        """Exactly the bytes ``[offset, offset + length)``, or fewer at the end of the file; short reads and EINTR
        looped."""
        pieces: list[bytes] = []
        while length > 0:
            piece = os.pread(fd, min(length, _READ_BYTES), offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def copy_range(self, source_fd: int, target_fd: int, offset: int, length: int) -> int:
        """Copy ``[offset, offset + length)`` to the same place of another file, by sharing the blocks where the file
        system can; returns how many bytes were copied, fewer at the source's end."""
        done = 0
        while done < length:
            at = offset + done
            try:
                copied = os.copy_file_range(source_fd, target_fd, length - done, at, at)
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
                copied = self._copy_through(source_fd, target_fd, at, min(length - done, _READ_BYTES))
            if copied == 0:
                break
            done += copied
        return done

    def _copy_through(self, source_fd: int, target_fd: int, at: int, length: int) -> int:
        data = self.read_at(source_fd, length, at)
        written = 0
        while written < len(data):
            written += os.pwrite(target_fd, data[written:], at + written)
        return written

    def write_all(self, fd: int, data: bytes) -> None:
        """Write a small file's bytes at its start; for lock and lease files, never for media."""
        at = 0
        while at < len(data):
            at += os.pwrite(fd, data[at:], at)

    def sync_data(self, fd: int) -> None:
        """fdatasync. After a failure the file's unsynced bytes must be taken as lost: never retried and trusted."""
        os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """fsync of a file or folder."""
        os.fsync(fd)

    def rename_noreplace(self, folder_fd: int, source: str, target: str) -> None:
        """Give ``source`` the name ``target`` in the same folder; FileExistsError when that is taken."""
        native.rename_noreplace(folder_fd, os.fsencode(source), folder_fd, os.fsencode(target))

    def rename_path_noreplace(self, source: str, target: str) -> None:
        """Rename by absolute paths on one file system; FileExistsError (or ENOTEMPTY) when the target is there."""
        here = self.open_folder("/")
        try:
            native.rename_noreplace(here, os.fsencode(source), here, os.fsencode(target))
        finally:
            os.close(here)

    def rename_over(self, folder_fd: int, source: str, target: str) -> None:
        """Give ``source`` the name ``target`` in the same folder, replacing what has it."""
        os.rename(source, target, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)

    def link(self, folder_fd: int, source: str, target: str) -> None:
        """A second name for a file: publishing without RENAME_NOREPLACE, where the file system lacks it."""
        os.link(source, target, src_dir_fd=folder_fd, dst_dir_fd=folder_fd, follow_symlinks=False)

    def unlink(self, folder_fd: int, name: str) -> bool:
        """Remove a name; False when it was not there."""
        try:
            os.unlink(name, dir_fd=folder_fd)
        except FileNotFoundError:
            return False
        return True

    def remove_tree(self, path: str) -> None:
        """Remove a folder of the engine's own making (a store that was never finished), with the files in it."""
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)

    def keep_from_programs(self, path: str) -> None:
        """Mark every descriptor of this process for the file at ``path`` close-on-exec: for libraries that do not."""
        wanted = os.stat(path)
        for name in os.listdir("/proc/self/fd"):
            try:
                info = os.fstat(int(name))
            except OSError:
                continue  # closed since the listing, as the listing's own descriptor is
            if (info.st_dev, info.st_ino) == (wanted.st_dev, wanted.st_ino):
                os.set_inheritable(int(name), False)

    def release_mapped(self, path: str) -> int:
        """Give up the memory that shared mappings of the file at ``path`` keep resident in this process: the bytes stay
        in the page cache and are mapped again when looked at. Returns the bytes of address space that were gone over.
        """
        wanted = os.stat(path)
        file = f"{os.major(wanted.st_dev):02x}:{os.minor(wanted.st_dev):02x} {wanted.st_ino}"
        released = 0
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as source:
            for line in source:
                addresses, permissions, _, device, inode = line.split(maxsplit=5)[:5]
                if f"{device} {inode}" == file and permissions.endswith("s"):
                    start, end = (int(address, 16) for address in addresses.split("-"))
                    native.release_mapped(start, end - start)
                    released += end - start
        return released

    def mount_table(self) -> str:
        """The kernel's table of what is mounted where for this process, as text."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as source:
            return source.read()

    def boot_id(self) -> str:
        """The kernel's id of this boot: another one means that the page cache did not survive."""
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
            return source.read().strip()
