"""Whether the tree of pages in a data file is whole, found out before LMDB maps the file.

LMDB trusts its file: a page that is not what its parent says it is makes it abort the whole process, and one beyond
the end of the file kills it with SIGBUS. So the file is walked by plain reads first, which takes 5 ms a MiB; what rots
inside the values is found by their checksums later.

An owner that closes the store in order leaves a mark beside it, of what the file was then. While that fits, nobody has
written to the file since, and it is not walked again; but once a week it is, for disks rot also what nobody writes.
"""

from __future__ import annotations

import os
from typing import Final

import lmdb.verify
import msgspec
from blake3 import blake3

from engine.config import KIB, MIB
from engine.errors import StoreCorrupt
from engine.files.filesystem import FileSystem
from engine.store.codec import DECODE_ERRORS

# What looks beside an owner walks no larger file: that owner has walked it.
ALWAYS_CHECKED_BYTES: Final = 64 * MIB
MARK_NAME: Final = "closed"
_MARK_BYTES_MAX: Final = 4096
_BELIEVED_S: Final = 7 * 86_400.0
_META_PAGES_BYTES: Final = 128 * KIB  # two pages of the largest size
_TRIES: Final = 8
_LEAKED: Final = "neither reachable nor in the freeDB"  # lost space: harms nobody


class Mark(msgspec.Struct, frozen=True):
    """A data file as it was when its owner closed it. ``walked_at``: when it was walked last, in seconds since the
    epoch."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    meta_pages: str
    walked_at: float


def check_structure(data: str, files: FileSystem, *, thorough: bool) -> None:
    """Raise StoreCorrupt when following the pages of the file ``data`` could harm this process; OSError when it cannot
    be read. It is not walked when the mark of its last close fits, nor a large one unless ``thorough``.

    Another process may commit meanwhile: what was found then counts only if the meta pages stayed as they were. One
    that commits all the time has walked the file itself when it opened it.
    """
    info = files.stat_path(data)
    if info is None or (info.st_size > ALWAYS_CHECKED_BYTES and not thorough):
        return
    if thorough or _fitting_mark(data, files) is None:
        _walk(data)


def check_as_owner(data: str, files: FileSystem, *, thorough: bool, now: float) -> float:
    """:meth:`check_structure` of whatever size, for who is about to write; ``thorough``: whatever the mark says.
    Returns when the file was walked, for :func:`leave_mark`."""
    mark = None if thorough else _fitting_mark(data, files)
    if mark is not None and 0 <= now - mark.walked_at < _BELIEVED_S:
        return mark.walked_at
    if files.stat_path(data) is not None:
        _walk(data)
    return now


def leave_mark(data: str, files: FileSystem, walked_at: float) -> None:
    """Note what the file, closed in order just now, is like. Raises OSError; without a mark, or with half of one, the
    file is walked."""
    fd = files.open_lock_file(_mark_path(data))
    try:
        files.truncate(fd, 0)
        files.write_all(fd, msgspec.json.encode(_mark_of(data, files, walked_at)))
    finally:
        files.close(fd)


def _walk(data: str) -> None:
    for _ in range(_TRIES):
        before = _meta_pages(data)
        problem = first_problem(data)
        if problem is None:
            return
        if _meta_pages(data) == before:
            raise StoreCorrupt(f"{data} is damaged: {problem}")


def _fitting_mark(data: str, files: FileSystem) -> Mark | None:
    path = _mark_path(data)
    if files.stat_path(path) is None:
        return None
    fd = files.open_lock_file(path)
    try:
        mark = msgspec.json.decode(files.read_at(fd, _MARK_BYTES_MAX, 0), type=Mark)
    except DECODE_ERRORS:
        return None  # cut short, or another version's
    finally:
        files.close(fd)
    return mark if mark == _mark_of(data, files, mark.walked_at) else None


def _mark_of(data: str, files: FileSystem, walked_at: float) -> Mark | None:
    info = files.stat_path(data)
    if info is None:
        return None
    pages = blake3(_meta_pages(data)).hexdigest()
    return Mark(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, pages, walked_at)


def _mark_path(data: str) -> str:
    return os.path.join(os.path.dirname(data), MARK_NAME)


def first_problem(data: str) -> str | None:
    """What is wrong with the tree of pages, in words; None when it is whole."""
    try:
        problems: list[str] = lmdb.verify.verify(data)  # type: ignore[no-untyped-call]  # py-lmdb ships no types for it
    except lmdb.verify.VerifyError as error:
        return str(error)
    return next((problem for problem in problems if _LEAKED not in problem), None)


def _meta_pages(data: str) -> bytes:
    with open(data, "rb") as source:
        return source.read(_META_PAGES_BYTES)
