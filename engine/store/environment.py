"""The LMDB environment: opened with every switch spelled out, read and written by whole functions only.

Readers may come from any thread, writers are let in one at a time. Growing the map or opening the environment anew
takes away what transactions of this process stand on, so both wait until no transaction is open (``_Gate``). So does
aborting: py-lmdb waits inside it until no other thread is reading, which with busy readers is never.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import lmdb

from engine.errors import BadRecord, EngineClosed, EngineError, ForkedProcess, NoSpace, StoreGone, StoreUnusable
from engine.files.filesystem import FileSystem
from engine.store.codec import Table
from engine.store.damage import DamageLog
from engine.store.headroom import Headroom
from engine.store.opening import DATA_NAME, open_handles, open_raw, used_bytes
from engine.store.translate import translate, translated
from engine.store.txn import REMEMBERED_MAX, Handles, Recent, Txn, WriteTxn

Result = TypeVar("Result")

MAP_BYTES_MAX: Final = 1 << 40
FULL_BELOW_BYTES: Final = 64 * 1024  # a commit that needs more than what is left is one that failed for that
_REPAIRABLE: Final = (lmdb.MapFullError, lmdb.MapResizedError, lmdb.PanicError, lmdb.ReadersFullError)
_REPAIRS_MAX: Final = 64  # doubling from the smallest map to the largest takes fewer
_CONFIRMED: Final = b"confirmed"
GUESTS_KEY: Final = b"\xff" * 8  # in the inbox: the numbers of the last transactions of guests
_GUESTS_KEPT: Final = 64
_NUMBER_BYTES: Final = 8


class _Gate:
    """Many may pass together (``with gate``), or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._inside -= 1
            if self._closed:
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._closed = True
            while self._inside:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class _Refused(Exception):  # a signal inside this module
    """A call of a group refused; its transaction is undone."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Environment:
    """One open store folder of one process. Methods raise EngineClosed after ``close``, ForkedProcess in a child."""

    def __init__(self, path: str, map_bytes: int, files: FileSystem, *, readonly: bool, guest: bool = False) -> None:
        """Open what is there; nothing is created. Raises StoreCorrupt, StoreBusy, StoreUnusable.

        ``guest``: this process writes beside the owner, and signs its transactions, so that nobody takes one for his.
        """
        self.path = path
        self._data = os.path.join(path, DATA_NAME)
        self._place: tuple[int, int] | None = None
        self._headroom = Headroom(self._data, files) if not (readonly or guest) else None
        self.damages = DamageLog()
        self._files = files
        self._map_bytes = map_bytes
        self._readonly = readonly
        self._guest = guest
        self._pid = os.getpid()
        self._gate = _Gate()
        self._writing = threading.RLock()
        self._group: tuple[int, Txn] | None = None
        self._recent: Recent = {}
        self._opened = 0
        self._closed = False
        self._raw: lmdb.Environment | None = None
        self._handles: Handles = {}
        self._open()

    def read(self, work: Callable[[Txn], Result], *, buffers: bool = False) -> Result:
        """Run ``work`` in one read transaction; with ``buffers`` its ``walk`` gives views into the map. Inside
        :meth:`write_together` it reads what the group has written so far."""
        if not buffers and (group := self._open_group()) is not None:
            return work(group)
        return self._repeated(lambda: self._read_once(work, buffers), f"read the store {self.path}")

    def release_pages(self) -> None:
        """After a long walk: keep none of the map's pages resident in this process; the page cache keeps them."""
        # It is only about memory that the kernel could take back by itself; without /proc all else works.
        with contextlib.suppress(OSError), self._gate:
            self._files.release_mapped(self._data)

    def recall(self, table: Table, key: bytes) -> bytes | None:
        """The payload, when it is known without reading: it was written lately, and is committed."""
        self._check()
        return None if self._open_group() is not None else self._recent.get((table, key))

    def write(self, work: Callable[[Txn], Result]) -> Result:
        """Run ``work`` in one write transaction and commit it durably. ``work`` runs again when the map had to grow.

        When ``work`` raises, nothing is changed. Raises NoSpace when the disk is full. Inside :meth:`write_together` it
        is part of that transaction.
        """
        if (group := self._open_group()) is not None:
            return work(group)
        self._check()
        with self._writing:
            return self._repeated(lambda: self._write_once(work), f"write the store {self.path}")

    def write_together(self, calls: Sequence[Callable[[], Result]]) -> list[Result | Exception]:
        """Run all ``calls``, whose reads and writes of this environment share one transaction and its one sync.

        Returns each one's result, or the error by which it refused; that one changed nothing, the others did. When one
        refuses, all that was done is undone and each call runs again alone: refusals are rare, nested transactions cost
        every time. Raises, for all of them, what the transaction itself ran into.
        """

        def run(txn: Txn) -> list[Result | Exception]:
            self._group = (threading.get_ident(), txn)
            try:
                return [self._call_in_group(call) for call in calls]
            finally:
                self._group = None

        try:
            return self.write(run)
        except _Refused as refused:
            if len(calls) == 1:
                return [refused.reason]
        return [self._write_alone(call) for call in calls]

    def _write_alone(self, call: Callable[[], Result]) -> Result | Exception:
        try:
            return self.write_together([call])[0]
        except EngineError as error:
            return error

    def _call_in_group(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except (lmdb.Error, OSError):
            raise  # the transaction's own trouble, or a map that has to grow: not this call's
        except Exception as error:
            raise _Refused(error) from error

    def _open_group(self) -> Txn | None:
        """The transaction of :meth:`write_together` that is open on this very thread."""
        group = self._group
        return group[1] if group is not None and group[0] == threading.get_ident() else None

    @property
    def map_bytes(self) -> int:
        """The size of the memory map now."""
        with self._gate:
            return int(self._environment().info()["map_size"])

    def reader_check(self) -> int:
        """Free the reader slots of dead processes (L2); returns how many there were."""
        with self._gate, translated(f"check the readers of {self.path}"):
            return self._environment().reader_check()

    def close(self) -> None:
        """Wait for running transactions and close; again: nothing. A forked child leaves all as it is."""
        if os.getpid() != self._pid:
            return
        with self._writing, self._gate.alone():
            self._closed = True
            self._shut()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcess(f"the store {self.path} was opened by process {self._pid}, not by this child of it")

    def _check_place(self) -> None:
        """Raise StoreGone when the data file is not where it was opened: a commit would go to a file that the next
        start does not find (H14)."""
        if self._identity() != self._place:
            raise StoreGone(f"the store {self.path} was moved, replaced or deleted while it was open")

    def _identity(self) -> tuple[int, int] | None:
        info = self._files.stat_path(self._data)
        return None if info is None else (info.st_dev, info.st_ino)

    def _environment(self) -> lmdb.Environment:
        if self._closed:
            raise EngineClosed("the store is closed")
        if self._raw is None:
            raise StoreUnusable(f"the store {self.path} could not be opened again after an error of its disk")
        return self._raw

    def _open(self) -> None:
        with translated(f"open the store {self.path}"):
            self._raw = open_raw(self.path, self._map_bytes, self._files, readonly=self._readonly)
            try:
                self._place = self._place or self._identity()  # not anew for another file
                self._handles = open_handles(self._raw, create=False)
                self._keep_headroom(self._raw)
            except BaseException:
                self._shut()
                raise
        self._opened += 1

    def _shut(self) -> None:
        raw, self._raw = self._raw, None
        self._handles = {}
        self._recent = {}
        if raw is not None:
            raw.close()

    def _repeated(self, attempt: Callable[[], Result], what: str) -> Result:
        """Run ``attempt``; after an error that can be repaired here, repair and run it again. Panic: once (L8)."""
        self._check()
        reopened = False
        for _ in range(_REPAIRS_MAX):
            seen = self._opened
            if self._raw is None and not self._closed:
                self._reopen(seen)  # its disk had an error, and may be back
            try:
                return attempt()
            except lmdb.MapFullError as error:
                self._grow(error)
            except lmdb.MapResizedError:
                with self._gate.alone(), translated("adopt the grown map of the store"):
                    self._environment().set_mapsize(0)
            except lmdb.ReadersFullError as error:
                if self.reader_check() == 0:
                    raise translate(error, what) from error
            except lmdb.PanicError as error:
                if reopened:
                    raise translate(error, what) from error
                reopened = True
                self._reopen(seen)
            except (lmdb.Error, OSError) as error:
                told = translate(error, what)
                if isinstance(told, StoreUnusable) and self._disk_is_full():
                    told = NoSpace(str(told))  # LMDB tells of a write that was cut short as of an I/O error
                raise told from error
        raise NoSpace(f"cannot {what}: its map is still full at {self.map_bytes} bytes")

    def _disk_is_full(self) -> bool:
        with translated(f"look at the disk of the store {self.path}"):
            folder = self._files.open_folder(self.path)
            try:
                return self._files.free_bytes(folder) < FULL_BELOW_BYTES
            finally:
                self._files.close(folder)

    def _read_once(self, work: Callable[[Txn], Result], buffers: bool) -> Result:
        with self._gate:
            environment = self._environment()
            raw = environment.begin(buffers=True) if buffers else environment.begin()
            try:
                return work(Txn(raw, self._handles, self.damages))
            finally:
                raw.commit()  # ends a reading one like an abort does, without its wait

    def _write_once(self, work: Callable[[Txn], Result]) -> Result:
        self._check_place()
        seen = self._opened
        raw = self._environment().begin(write=True)
        try:
            number = raw.id()
            txn = WriteTxn(raw, self._handles, self.damages, self._recent)
            result = work(txn)
            for finish in txn.at_end.values():
                finish()
            if self._guest:
                _sign(txn, number)
            txn.settle_all()
        except BaseException:
            with self._gate.alone():
                raw.abort()
            raise
        recent, self._recent = self._recent, {}  # nothing is remembered of a commit that fails
        try:
            raw.commit()
        except _REPAIRABLE:
            raise
        except lmdb.Error:
            self._reopen(seen)
            if not self._landed(number):
                raise
            return result
        if not self._guest:
            self._recent = _remembered({} if txn.forgets else recent, txn.written)
        with self._gate:
            self._keep_headroom(self._environment())
        return result

    def _keep_headroom(self, raw: lmdb.Environment) -> None:
        if self._headroom is not None:
            self._headroom.keep(used_bytes(raw))

    def _landed(self, number: int) -> bool:
        """Whether the commit of transaction ``number`` took place although it reported an error (L9).

        If it did, only the page cache may know of it: a further commit, which is synced, makes it durable or raises.
        If it did not, the next one that did has its number, which may be a guest's: those are signed.
        """
        environment = self._environment()
        if environment.info()["last_txnid"] < number:
            return False
        with environment.begin(write=True) as raw:
            txn = Txn(raw, self._handles, self.damages)
            if (number in _signed(txn)) is not self._guest:
                return False
            if self._guest:
                _sign(txn, raw.id())
            else:
                txn.put(Table.META, _CONFIRMED, number.to_bytes(_NUMBER_BYTES, "big"))
        return True

    def _grow(self, error: lmdb.MapFullError) -> None:
        with self._gate.alone():
            environment = self._environment()
            size = int(environment.info()["map_size"])
            if size * 2 > MAP_BYTES_MAX:
                raise NoSpace(f"the store {self.path} has reached its largest size, {size} bytes") from error
            with translated(f"grow the map of the store {self.path}"):
                environment.set_mapsize(size * 2)
            self._map_bytes = size * 2

    def _reopen(self, seen: int) -> None:
        """Close and open again, unless another thread did since ``seen``."""
        with self._writing, self._gate.alone():
            if self._closed:
                raise EngineClosed("the store is closed")
            if self._opened == seen:
                self._shut()
                self._open()


def _remembered(recent: Recent, written: Recent) -> Recent:
    """The newest of both."""
    for place, payload in written.items():
        recent.pop(place, None)
        recent[place] = payload
    for place in list(islice(recent, max(0, len(recent) - REMEMBERED_MAX))):
        del recent[place]
    return recent


def _signed(txn: Txn) -> list[int]:
    """The numbers of the last transactions that guests committed; none when their list is damaged."""
    try:
        kept = txn.get(Table.INBOX, GUESTS_KEY) or b""
    except BadRecord as error:
        txn.note(Table.INBOX, GUESTS_KEY, "", str(error))
        return []
    return [int.from_bytes(kept[at : at + _NUMBER_BYTES], "big") for at in range(0, len(kept), _NUMBER_BYTES)]


def _sign(txn: Txn, number: int) -> None:
    numbers = [*_signed(txn), number][-_GUESTS_KEPT:]
    txn.put(Table.INBOX, GUESTS_KEY, b"".join(number.to_bytes(_NUMBER_BYTES, "big") for number in numbers))
