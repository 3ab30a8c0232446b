"""The file of a part while it is unfinished: created, preallocated, reopened after a restart, examined, published.

All functions block and run in worker threads. The order of durable steps around them (fault catalogue section 3) is the
caller's: it records every name before the file gets it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

import msgspec

from engine.config import Config
from engine.errors import NoSpace, PartBusy, PartLost, TargetExists, TargetGone, storage_error
from engine.files.filesystem import FileSystem
from engine.files.forks import close_in_children
from engine.model.records import PartPhase, PartRecord

# Device, inode and the inode's version: no other file has the same, not even one made after this is gone.
Identity = tuple[int, int, int]

# File systems without fallocate: the size is set and blocks come as they are written.
_NO_ALLOCATE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
# File systems without locks: who has only one library there needs none.
_NO_LOCKS = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK})
# File systems without RENAME_NOREPLACE: a hard link is as exclusive.
_NO_NOREPLACE = frozenset({errno.EINVAL, errno.ENOSYS})


class PartFile(msgspec.Struct, eq=False, weakref=True):
    """Descriptors of an open part and of its folder; :meth:`close` gives both back."""

    files: FileSystem
    folder: str
    name: str
    folder_fd: int
    fd: int
    device: int
    inode: int
    version: int
    size: int

    @property
    def identity(self) -> Identity:
        """What tells this file from every other."""
        return self.device, self.inode, self.version

    def __post_init__(self) -> None:
        close_in_children(self)

    def close(self) -> None:
        """Close both descriptors; calling it again does nothing."""
        fds, self.fd, self.folder_fd = (self.fd, self.folder_fd), -1, -1
        if fds[0] >= 0:
            with contextlib.suppress(OSError):  # where there are no locks
                self.files.unlock(fds[0])  # a child that was forked while this was being opened has a copy
        for fd in fds:
            if fd >= 0:
                self.files.close(fd)


def _opened(files: FileSystem, folder: str, name: str, folder_fd: int, fd: int) -> PartFile:
    info = files.stat_fd(fd)
    if not stat.S_ISREG(info.st_mode):
        raise PartLost(f"{name} in {folder} is not a plain file")
    version = files.file_version(fd)
    return PartFile(files, folder, name, folder_fd, fd, info.st_dev, info.st_ino, version, info.st_size)


def _check_alone(part: PartFile, twin: str | None) -> None:
    """Raise PartLost for a file that has another name than its own and ``twin``: who knows it may write to it."""
    links = part.files.stat_fd(part.fd).st_nlink
    if links == 1 or (links == 2 and twin is not None and _has_name(part.files, part.folder_fd, twin, part.identity)):
        return
    raise PartLost(f"{part.name} in {part.folder} is not the engine's own: it has another name too")


def check_free_space(files: FileSystem, folder_fd: int, length: int, config: Config) -> None:
    """Raise NoSpace unless ``length`` bytes and the configured reserve fit on the folder's file system."""
    free = files.free_bytes(folder_fd)
    if length + config.free_space_reserve_bytes > free:
        reserve = config.free_space_reserve_bytes
        raise NoSpace(f"{length} bytes (and {reserve} kept in reserve) do not fit: {free} bytes are free")


def create_part(
    files: FileSystem,
    folder: str,
    name: str,
    length: int | None,
    config: Config,
    *,
    durable: bool,
    reserve: bool = True,
    room: Callable[[int], None] | None = None,
) -> PartFile:
    """A new empty part, with its blocks reserved when ``length`` is known (and ``reserve`` set) and its name durable
    when asked.

    A leftover of the same name (recorded but never activated) is removed first, unless an engine holds it: PartBusy.
    What is made is held until it is closed. ``room`` checks the free space of the
    folder that is open as its argument, in place of :func:`check_free_space`. Raises NoSpace before any byte is
    allocated, or another StorageError; then nothing is left behind.
    """
    try:
        folder_fd = files.open_folder(folder)
    except OSError as error:
        raise storage_error(error, f"folder {folder}") from error
    fd = -1
    try:
        if room is not None:
            room(folder_fd)
        else:
            check_free_space(files, folder_fd, length or 0, config)
        try:
            fd = files.create_exclusive(folder_fd, name)
        except FileExistsError:
            check_not_held(files, folder_fd, name)
            files.unlink(folder_fd, name)
            fd = files.create_exclusive(folder_fd, name)
        _hold(files, fd, name)
        if length and reserve:
            _allocate(files, fd, length)
        if durable:
            files.sync(fd)
            files.sync(folder_fd)
        return _opened(files, folder, name, folder_fd, fd)
    except BaseException as error:
        if fd >= 0:
            files.close(fd)
            with contextlib.suppress(
                OSError
            ):  # the first error is the one to tell; the name is on record for a later try
                files.unlink(folder_fd, name)
        files.close(folder_fd)
        if isinstance(error, OSError):
            raise storage_error(error, f"new file in {folder}") from error
        raise


def _hold(files: FileSystem, fd: int, name: str) -> None:
    """Be the one that writes the open part until it is closed. Raises PartBusy: engines with other roots may come to
    one folder, and a copied root to its original's."""
    try:
        free = files.try_lock(fd)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return
    if not free:
        raise PartBusy(f"{name} is being written by another engine")


def check_not_held(files: FileSystem, folder_fd: int, name: str) -> None:
    """Raise PartBusy when an engine writes that unfinished file."""
    try:
        fd = files.open_existing(folder_fd, name, write=False)
    except OSError:
        return  # gone by now, or nothing that an engine writes
    try:
        _hold(files, fd, name)
    finally:
        files.close(fd)


def _allocate(files: FileSystem, fd: int, length: int) -> None:
    try:
        files.allocate(fd, length)
    except OSError as error:
        if error.errno not in _NO_ALLOCATE:
            raise
        files.truncate(fd, length)


def open_part(files: FileSystem, folder: str, name: str, *, twin: str | None = None) -> PartFile:
    """Open an unfinished part again, and hold it until it is closed. Raises PartLost when it is gone, not a plain file,
    or has a second name (other than ``twin``), PartBusy when another engine holds it."""
    part = _open(files, folder, name, write=True)
    try:
        _hold(files, part.fd, name)
        _check_alone(part, twin)
    except OSError as error:
        part.close()
        raise storage_error(error, f"{name} in {folder}") from error
    except BaseException:
        part.close()
        raise
    return part


def open_finished(files: FileSystem, folder: str, name: str) -> PartFile:
    """Open a published file to read and sync it. The user may have linked it elsewhere or made it read-only: that
    changes no byte. Raises PartLost when it is gone or not a plain file."""
    return _open(files, folder, name, write=False)


def _open(files: FileSystem, folder: str, name: str, *, write: bool) -> PartFile:
    try:
        folder_fd = files.open_folder(folder)
    except OSError as error:
        raise storage_error(error, f"folder {folder}") from error
    fd = -1
    try:
        fd = files.open_existing(folder_fd, name, write=write)
        return _opened(files, folder, name, folder_fd, fd)
    except BaseException as error:
        gone = isinstance(error, OSError) and _is_gone(files, folder_fd, name, error)
        if fd >= 0:
            files.close(fd)
        files.close(folder_fd)
        if gone:
            raise PartLost(f"{name} in {folder} is gone") from error
        if isinstance(error, OSError):
            raise storage_error(error, f"{name} in {folder}") from error
        raise


def _is_gone(files: FileSystem, folder_fd: int, name: str, error: OSError) -> bool:
    """Whether the name could not be opened because no plain file has it. ENXIO says so of a FIFO or a socket; of a
    plain file it says that the device is away."""
    if error.errno != errno.ENXIO:
        return error.errno in {errno.ENOENT, errno.ELOOP}
    try:
        info = files.stat_name(folder_fd, name)
    except OSError:
        return False
    return info is None or not stat.S_ISREG(info.st_mode)


def restore_size(part: PartFile, length: int, config: Config) -> None:
    """Reserve a part's blocks again after it was found shorter than ``length``."""
    try:
        check_free_space(part.files, part.folder_fd, length - part.size, config)
        _allocate(part.files, part.fd, length)
    except OSError as error:
        raise storage_error(error, f"{part.name} in {part.folder}") from error
    part.size = length


def cut_surplus(part: PartFile, length: int) -> None:
    """Cut off what was put behind the ``length`` bytes of a part from outside."""
    try:
        part.files.truncate(part.fd, length)
    except OSError as error:
        raise storage_error(error, f"{part.name} in {part.folder}") from error
    part.size = length


def publish(part: PartFile, record: PartRecord, *, overwrite: bool) -> None:
    """:func:`give_name`, made durable."""
    give_name(part, record, overwrite=overwrite)
    sync_folder(part.files, part.folder, part.folder_fd)


def sync_folder(files: FileSystem, folder: str, folder_fd: int) -> None:
    """Make the names in the folder durable. Raises StorageError."""
    try:
        files.sync(folder_fd)
    except OSError as error:
        raise storage_error(error, f"syncing the folder {folder}") from error


def give_name(part: PartFile, record: PartRecord, *, overwrite: bool) -> int:
    """Give the part its final name, and drop the unfinished files of older generations; durable once the folder is
    synced. Returns the file's time stamp in nanoseconds.

    Safe to run again after a crash at any step: a final name that already is this very file counts as done. Raises
    TargetExists when another file has the name and ``overwrite`` is not asked for; the entry's own older file (the
    inode that the record names) is replaced unasked. Raises TargetGone when the folder is not where it was: the record
    would tell of a file that is not there.
    """
    files, final_name, superseded = part.files, record.final_name, record.superseded
    try:
        _check_place(part)
        if _has_name(files, part.folder_fd, final_name, part.identity):
            if part.name != final_name:  # published by a link, and a crash came before the other name was gone
                files.unlink(part.folder_fd, part.name)
        else:
            # Of a file in the same folder, which is on the same device.
            older = (part.device, record.replaces, record.replaces_version)
            own = record.replaces != 0 and _has_name(files, part.folder_fd, final_name, older)
            _rename(part, final_name, overwrite=overwrite or own)
        for name in superseded:
            files.unlink(part.folder_fd, name)
        part.name = final_name
        return files.stat_fd(part.fd).st_mtime_ns
    except FileExistsError as error:
        raise TargetExists(f"{os.path.join(part.folder, final_name)} exists already") from error
    except OSError as error:
        raise storage_error(error, f"publishing {os.path.join(part.folder, final_name)}") from error


def _check_place(part: PartFile) -> None:
    """Raise TargetGone when the part's folder was moved away, or another one put in its place (D22)."""
    there, own = part.files.stat_path(part.folder), part.files.stat_fd(part.folder_fd)
    if there is None or (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
        raise TargetGone(f"the folder {part.folder} was moved or removed while its file was fetched")


def is_file(files: FileSystem, folder_fd: int, name: str, inode: int, version: int) -> bool:
    """Whether the name is that of the file with this inode and version, on the device of what is there: the record
    of a replaced file knows no device. Raises OSError when that cannot be told."""
    info = files.stat_name(folder_fd, name)
    return info is not None and _has_name(files, folder_fd, name, (info.st_dev, inode, version))


def _has_name(files: FileSystem, folder_fd: int, name: str, identity: Identity) -> bool:
    """Whether the name is that of the very file. Another file there is only looked at, never opened."""
    info = files.stat_name(folder_fd, name)
    if info is None or not stat.S_ISREG(info.st_mode) or (info.st_dev, info.st_ino) != identity[:2]:
        return False
    fd = files.open_existing(folder_fd, name, write=False)
    try:
        now = files.stat_fd(fd)
        return (now.st_dev, now.st_ino, files.file_version(fd)) == identity
    finally:
        files.close(fd)


def check_replaceable(files: FileSystem, folder: str, name: str) -> None:
    """Raise TargetExists for a device, a FIFO, a socket or a folder: overwriting means plain files (and links)."""
    path = os.path.join(folder, name)
    there = files.stat_path(path, follow=False)
    if there is not None and not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
        raise TargetExists(f"{path} is neither a plain file nor a link")


def _rename(part: PartFile, final_name: str, *, overwrite: bool) -> None:
    files = part.files
    if overwrite:
        check_replaceable(files, part.folder, final_name)
        files.rename_over(part.folder_fd, part.name, final_name)
        return
    try:
        files.rename_noreplace(part.folder_fd, part.name, final_name)
    except OSError as error:
        if error.errno not in _NO_NOREPLACE:
            raise
        files.link(part.folder_fd, part.name, final_name)
        files.unlink(part.folder_fd, part.name)


def open_unfinished(files: FileSystem, record: PartRecord) -> PartFile:
    """Open a part that is not published as far as its record knows.

    One whose publishing had begun may have its final name already, alone or beside its own; under that it counts only
    when it is the very file of the record. Raises PartLost when it is gone or not the engine's own.
    """
    if record.phase is not PartPhase.FINALIZING:
        return open_part(files, record.folder, record.part_name)
    try:
        return open_part(files, record.folder, record.part_name, twin=record.final_name)
    except PartLost:
        final = open_part(files, record.folder, record.final_name)
        if final.identity != record.identity:
            final.close()
            raise
        return final


def remove_part(files: FileSystem, folder: str, names: tuple[str, ...]) -> None:
    """Remove unfinished files, durably; those already gone are fine, and so is a folder that is gone."""
    try:
        folder_fd = files.open_folder(folder)
    except OSError as error:
        typed = storage_error(error, f"folder {folder}")
        if isinstance(typed, TargetGone):
            return
        raise typed from error
    try:
        gone = [files.unlink(folder_fd, name) for name in names]
        if any(gone):
            files.sync(folder_fd)  # their record goes: a power cut must not bring back what nobody knows
    except OSError as error:
        raise storage_error(error, f"removing parts in {folder}") from error
    finally:
        files.close(folder_fd)
