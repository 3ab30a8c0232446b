"""Whether the tree of pages in a data file is whole, found out before LMDB maps the file.

LMDB trusts its file: a page that is not what its parent says it is makes it abort the whole process, and one beyond
the end of the file kills it with SIGBUS. So the file is walked by plain reads first; what rots inside the values is
found by their checksums later.
"""

from __future__ import annotations

from typing import Final

import lmdb.verify

from engine.config import KIB, MIB
from engine.errors import StoreCorrupt
from engine.files.filesystem import FileSystem

# Walked at every opening: 5 ms a MiB. A larger file only when its last owner did not end in order.
ALWAYS_CHECKED_BYTES: Final = 64 * MIB
_META_PAGES_BYTES: Final = 128 * KIB  # two pages of the largest size
_TRIES: Final = 8
_LEAKED: Final = "neither reachable nor in the freeDB"  # lost space: harms nobody


def check_structure(data: str, files: FileSystem, *, thorough: bool) -> None:
    """Raise StoreCorrupt when following the pages of the file ``data`` could harm this process; OSError when it cannot
    be read. A large file is only walked when ``thorough``.

    Another process may commit meanwhile: what was found then counts only if the meta pages stayed as they were. One
    that commits all the time has walked the file itself when it opened it.
    """
    info = files.stat_path(data)
    if info is None or (info.st_size > ALWAYS_CHECKED_BYTES and not thorough):
        return
    for _ in range(_TRIES):
        before = _meta_pages(data)
        problem = first_problem(data)
        if problem is None:
            return
        if _meta_pages(data) == before:
            raise StoreCorrupt(f"{data} is damaged: {problem}")


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
