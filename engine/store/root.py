"""The root folder: made when it is missing, refused where LMDB cannot be trusted (fault catalogue D17)."""

from __future__ import annotations

import os
import re
from typing import Final

from engine.errors import InvalidRequest, StoreUnusable
from engine.files.filesystem import FileSystem
from engine.store.translate import translated

# Memory maps and locks do not hold across machines, nor in these user-space file systems; exFAT has no safe rename.
REFUSED_FILE_SYSTEMS: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "exfat",
    "fuse.sshfs", "fuse.rclone", "fuse.glusterfs", "fuse.s3fs", "fuse.davfs", "fuse.curlftpfs",
})  # fmt: skip

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def prepare_root(root: str, files: FileSystem) -> str:
    """The absolute path of ``root``, which exists from now on (mode 0700 where this made it).

    Raises StoreUnusable when it cannot be made, is no folder, or lies on a refused file system, and InvalidRequest when
    it is not UTF-8.
    """
    path = os.path.abspath(root)
    check_file_system(path, files)
    with translated(f"make the folder {path}"):
        for changed in files.make_folders(path):
            sync_folder(changed, files)
    return path


def check_file_system(path: str, files: FileSystem) -> None:
    """Raise StoreUnusable when ``path`` lies, or would be made, on a file system that cannot carry the store, and
    InvalidRequest when LMDB and the records cannot hold the path itself."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"the path of the root, {path!r}, is not UTF-8, and the store cannot hold it: rename the folder, or give "
            "the path of a symbolic link to it that is"
        ) from error
    with translated("read the table of mounts"):
        kind = mounted_kind(os.path.realpath(path), files.mount_table())
    if kind in REFUSED_FILE_SYSTEMS:
        raise StoreUnusable(f"{path} is on a '{kind}' file system: the store needs a local one")


def mounted_kind(path: str, mount_table: str) -> str:
    """The file system type at ``path`` by the text of ``/proc/self/mountinfo``; empty when none covers it.

    The longest mount point above the path counts, and of equal ones the last: it lies on top.
    """
    kind = ""
    longest = -1
    for line in mount_table.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        covers = path == point or path.startswith(point.rstrip("/") + "/")
        if covers and len(point) >= longest:
            kind, longest = after.split(" ")[0], len(point)
    return kind


def sync_folder(path: str, files: FileSystem) -> None:
    """Make the names in a folder durable."""
    fd = files.open_folder(path)
    try:
        files.sync(fd)
    finally:
        files.close(fd)
