"""Every file system call, store commit and socket call of an engine in this process, numbered; one of them goes wrong.

A kind of call has a list of things that may go wrong with it: an errno, a short result, or (for a commit) an error
with or without the commit having taken place. Besides, the process may die just before any call: then nothing that the
engine does from there on has any effect, which is what a dead process and a dead disk have in common.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import lmdb
import pytest

from engine import native
from engine.config import Config
from engine.files.filesystem import FileSystem
from engine.net import resolving
from engine.net.binding import open_stream
from engine.net.client import Client
from engine.net.dialer import Dialer, Route
from engine.net.link import Link
from engine.store.environment import Environment
from tests.support.steps import CHANGING_CALLS
from tests.twin import InlineSealer

DIES: Final = "dies"

# What may go wrong, by kind of call. Names of errors are errnos. What only tells how things are (a name that is taken,
# a path that leads nowhere) is no failure, and has its tests elsewhere.
_CREATE: Final = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EMFILE", "ENFILE", "ENXIO", "EEXIST")
_OPEN: Final = ("EIO", "EMFILE", "ENFILE", "ENXIO", "EACCES", "ESTALE")
_LOOK: Final = ("EIO", "EACCES", "ESTALE", "ENXIO")
_NAME: Final = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES")
_WRITE: Final = ("EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "ENXIO")
_SYNC: Final = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "ENXIO")
_UNREACHABLE: Final = ("ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT")
_STREAM: Final = ("ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOBUFS", "short")
FAULTS: Final[dict[str, tuple[str, ...]]] = {
    "open_folder": _OPEN,
    "make_folders": _CREATE,
    "create_exclusive": _CREATE,
    "open_existing": _OPEN,
    "open_lock_file": (*_CREATE[:8], "ELOOP"),
    "try_lock": ("EIO", "ENOLCK", "EINTR", "busy"),
    "close": ("EIO", "EDQUOT"),  # below the seam: see `_closing`
    "stat_fd": _LOOK[:3],
    "file_version": ("zero",),
    "stat_name": _LOOK,
    "stat_path": _LOOK,
    "names": (*_LOOK, "ENOENT", "EMFILE", "ENFILE"),
    "free_bytes": ("EIO", "ESTALE", "zero"),
    "allocate": ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EOPNOTSUPP", "EROFS", "EINTR"),
    "reserve_behind": ("ENOSPC", "EDQUOT", "EIO", "EOPNOTSUPP", "EROFS", "EMFILE", "ENFILE"),
    "truncate": _WRITE,
    "read_at": ("EIO", "ESTALE", "ENXIO", "short"),
    "copy_range": (*_WRITE, "short"),
    "write_all": _WRITE,
    "sync_data": _SYNC,
    "sync": _SYNC,
    "rename_noreplace": (*_NAME, "EINVAL", "EXDEV"),
    "rename_over": (*_NAME, "EXDEV"),
    "unlink": ("EIO", "EROFS", "EACCES", "EBUSY"),
    "remove_tree": ("EIO", "EROFS", "ENOTEMPTY"),
    "keep_from_programs": ("EIO", "EMFILE", "ENFILE"),
    "seal": (*_WRITE, "short"),
    "begin": ("EIO", "full", "readers"),
    "commit": ("EIO", "ENOSPC", "EDQUOT", "panic", "full", "EIO-landed", "ENOSPC-landed"),
    "connect": (*_UNREACHABLE, "EMFILE", "ENFILE", "EADDRNOTAVAIL", "ENOBUFS"),
    "send": ("ECONNRESET", "EPIPE", "ETIMEDOUT", "ENOBUFS", "short"),
    "recv_into": (*_STREAM, "end"),
}  # fmt: skip
_FILE_CALLS: Final = tuple(name for name in FAULTS if hasattr(FileSystem, name) and name != "close")
# A dead process still gives its descriptors and locks back, and what it reads harms nobody.
STEPS: Final = frozenset({*CHANGING_CALLS, "seal", "commit"})
_WITHOUT_EFFECT: Final = STEPS | {"begin", "send", "recv_into", "connect"}


_CLOSING: Final = threading.Lock()


@dataclass
class Numbering:
    """Counts calls from 1; call ``at`` (0: none) meets what is number ``which`` in the list of its kind (-1: the
    process dies there), with ``lasting`` every later call of that kind too. ``only``: calls of other kinds are not
    counted. ``absent``: there is no such number in the list, so nothing was struck."""

    at: int = 0
    which: int = 0
    lasting: bool = False
    only: str = ""
    calls: list[str] = field(default_factory=list)
    struck: str = ""
    fault: str = ""
    absent: bool = False
    dead: bool = False
    on_death: Callable[[], object] = field(default=lambda: None)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, kind: str) -> str:
        """One more call of this kind is about to be made: what goes wrong with it, or nothing."""
        with self._lock:
            if self.dead:
                return DIES if kind in _WITHOUT_EFFECT else ""
            if self.only in {"", kind}:
                self.calls.append(kind)
            else:
                return ""
            if len(self.calls) != self.at:
                return self.fault if self.lasting and kind == self.struck else ""
            if self.which >= len(FAULTS[kind]):
                self.absent = True
                return ""
            self.struck = kind
            self.fault = DIES if self.which < 0 else FAULTS[kind][self.which]
            if self.fault != DIES:
                return self.fault
            self.dead = True
        self.on_death()
        return DIES if kind in _WITHOUT_EFFECT else ""

    def __str__(self) -> str:
        how = "from then on" if self.lasting else "once"
        return f"call {self.at} ({self.struck}) {self.fault} {how}"


def _error(fault: str) -> OSError:
    number = errno.EIO if fault == DIES else getattr(errno, fault)
    return OSError(number, os.strerror(number))


class NumberedFiles(FileSystem):
    """A file system whose calls are numbered."""

    def __init__(self, numbering: Numbering) -> None:
        for name in _FILE_CALLS:
            setattr(self, name, _numbered(getattr(self, name), name, numbering))
        self._numbering = numbering

    def close(self, fd: int) -> None:
        if not (fault := self._numbering.meet("close")):
            super().close(fd)
            return
        with _CLOSING, pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "close", partial(_closing, os.close, fd, _error(fault)))
            super().close(fd)


def _numbered(call: Callable[..., Any], name: str, numbering: Numbering) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        fault = numbering.meet(name)
        if fault == "zero":
            return 0
        if fault == "busy":
            return False
        if fault == "short":
            return _shortened(call, name, args)
        if fault:
            raise _error(fault)
        return call(*args, **kwargs)

    return called


def _closing(close: Callable[[int], None], chosen: int, error: OSError, fd: int) -> None:
    """Linux lets go of the descriptor whatever it reports; other threads may close theirs meanwhile."""
    close(fd)
    if fd == chosen:
        raise error


def _shortened(call: Callable[..., Any], name: str, args: tuple[Any, ...]) -> Any:
    if name == "read_at":
        fd, length, offset = args
        return call(fd, length // 2, offset)
    source, target, offset, length = args
    return call(source, target, offset, length // 2)


def _pwrite(numbering: Numbering) -> Callable[[int, memoryview, int], int]:
    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        fault = numbering.meet("seal")
        if fault == "short":
            return os.pwrite(fd, data[: max(1, len(data) // 2)], offset)
        if fault:
            raise _error(fault)
        return os.pwrite(fd, data, offset)

    return pwrite


class _Commits:
    """An LMDB environment whose write transactions are numbered: where they begin and where they end."""

    def __init__(self, real: lmdb.Environment, numbering: Numbering) -> None:
        self._real = real
        self._numbering = numbering

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def begin(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("write"):
            return self._real.begin(*args, **kwargs)
        fault = self._numbering.meet("begin")
        if fault == "readers":
            raise lmdb.ReadersFullError("mdb_txn_begin: MDB_READERS_FULL")
        if fault:
            raise _store_error(fault)
        return _Transaction(self._real.begin(*args, **kwargs), self._numbering)


class _Transaction:
    def __init__(self, real: lmdb.Transaction, numbering: Numbering) -> None:
        self._real = real
        self._numbering = numbering

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __enter__(self) -> Any:
        self._real.__enter__()
        return self._real

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self._real.abort()
            return
        self.commit()

    def commit(self) -> None:
        fault = self._numbering.meet("commit")
        name, _, landed = fault.partition("-")
        if not fault or landed:
            self._real.commit()
        else:
            self._real.abort()
        if fault:
            raise _store_error(name)


def _store_error(fault: str) -> lmdb.Error:
    if fault == "panic":
        return lmdb.PanicError("mdb_txn_commit: MDB_PANIC: Update of meta page failed or environment had fatal error")
    if fault == "full":
        return lmdb.MapFullError("mdb_put: MDB_MAP_FULL: Environment mapsize limit reached")
    number = errno.EIO if fault == DIES else getattr(errno, fault)
    error = lmdb.DiskError("mdb_txn_commit: disk") if number == errno.ENOSPC else lmdb.Error(os.strerror(number))
    setattr(error, "code", number)  # noqa: B010  # as the C binding does
    return error


class _Socket:
    """A connected socket whose calls are numbered. Waiting for it is not: that changes nothing."""

    def __init__(self, real: socket.socket, numbering: Numbering) -> None:
        self._real = real
        self._numbering = numbering

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, data: memoryview) -> int:
        fault = self._numbering.meet("send")
        if fault == "short":
            return self._real.send(data[:1])
        if fault:
            raise _error(fault)
        return self._real.send(data)

    def recv_into(self, view: memoryview) -> int:
        fault = self._numbering.meet("recv_into")
        if fault == "end":
            return 0
        if fault == "short":
            return self._real.recv_into(view[:1])
        if fault:
            raise _error(fault)
        return self._real.recv_into(view)


class _NumberedDialer(Dialer):
    def __init__(self, config: Config, numbering: Numbering) -> None:
        super().__init__(config)
        self._numbering = numbering

    async def connect(self, route: Route) -> Link:
        link = await super().connect(route)
        link._sock = _Socket(link._sock, self._numbering)  # type: ignore[assignment]  # it does all that one does
        return link


def numbered_client(config: Config, numbering: Numbering) -> Client:
    """A client whose socket calls are numbered."""
    return Client(config, dialer=_NumberedDialer(config, numbering))


@contextmanager
def numbered_engine(numbering: Numbering) -> Iterator[None]:
    """Within the block the store's commits, what the sealer writes and connecting are numbered, in this process."""
    environment = Environment._environment

    def wrapped(self: Environment) -> Any:
        return _Commits(environment(self), numbering)

    async def connecting(address: str, port: int) -> Any:
        if fault := numbering.meet("connect"):
            raise _error(fault)
        return await open_stream(address, port)

    def sealer(threads: int, depth: int) -> InlineSealer:
        return InlineSealer(threads, depth, _pwrite(numbering))

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(Environment, "_environment", wrapped)
        patch.setattr(resolving, "open_stream", connecting)
        patch.setattr(native, "Sealer", sealer)
        yield
