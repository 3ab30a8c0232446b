"""LMDB's and the system's errors as the engine's own: the one border (DESIGN law 8)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import lmdb

from engine.errors import EngineError, NoSpace, StoreCorrupt, StoreUnusable, TooManyFiles

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
# What LMDB says of a file that is not, or not any more, what it wrote itself. The engine's own calls are always well
# formed (fixed keys, bounded values, tables opened once), so that "invalid" can only mean the file; and it speaks of a
# bad transaction when a page in it has another number than its place.
_DAMAGED: Final = (
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
    lmdb.BadTxnError,
    lmdb.BadDbiError,
    lmdb.BadValsizeError,
    lmdb.IncompatibleError,
    lmdb.InvalidParameterError,
    lmdb.KeyExistsError,
    lmdb.NotFoundError,
)


def translate(error: lmdb.Error | OSError, what: str) -> EngineError:
    """The typed error; ``what`` tells what was tried, in words."""
    number = getattr(error, "code", 0) if isinstance(error, lmdb.Error) else error.errno
    text = f"cannot {what}: {error}"
    if number in _FULL or isinstance(error, lmdb.DiskError):
        return NoSpace(text)
    if number in _NO_DESCRIPTORS:
        return TooManyFiles(text)
    if isinstance(error, _DAMAGED):
        return StoreCorrupt(text)
    return StoreUnusable(text)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise what ``lmdb.Error`` and ``OSError`` mean inside the block."""
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise translate(error, what) from error
