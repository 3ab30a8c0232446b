"""A disk in user space that writes down every write and every flush: /dev/fuse spoken by hand, one file as its root.

A loop device on that file is what a machine's disk is to the engine. The log has each request when it was carried out.
A flush covers what had been answered before it was read, and nothing that was still on its way (``covers``): a real
disk promises no more.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.fire.power_mounts import die_with_parent, mount

_REQUEST_BYTES: Final = 1024 * 1024 + 4096
_MAX_WRITE: Final = 1024 * 1024
_HEADER: Final = struct.Struct("<IIQQIIII")  # len, opcode, unique, nodeid, uid, gid, pid, padding
_REPLY: Final = struct.Struct("<IiQ")
_ATTR: Final = struct.Struct("<QQQQQQIIIIIIIIII")
_INIT: Final = struct.Struct("<IIIIHHIIHHI7I")
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_DIRECT_IO: Final = 1
_GETATTR, _SETATTR, _OPEN, _READ, _WRITE = 3, 4, 14, 15, 16
_STATFS, _RELEASE, _FSYNC, _FLUSH, _INIT_OP = 17, 18, 20, 25, 26
_FORGET, _INTERRUPT, _BATCH_FORGET = 2, 36, 42  # wanting no reply

_RECORD: Final = struct.Struct("<BQII")  # kind, offset (or the number of records a flush covers), length, spare
WRITE: Final = 1
FLUSH: Final = 2


class Record(NamedTuple):
    """One request as it was carried out. ``covers``: of a flush, how many records before it are durable by it."""

    kind: int
    offset: int
    data: bytes
    covers: int


def read_log(path: Path) -> list[Record]:
    """The whole log, in the order in which requests were carried out."""
    return list(_records(path.read_bytes()))


def _records(raw: bytes) -> Iterator[Record]:
    at = 0
    while at < len(raw):
        kind, number, length, _ = _RECORD.unpack_from(raw, at)
        at += _RECORD.size
        if kind == WRITE:
            yield Record(WRITE, number, raw[at : at + length], 0)
            at += length
        else:
            yield Record(FLUSH, 0, b"", number)


class Position:
    """How many records the log has: shared by the disk's process and whoever holds the file."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, mmap.PAGESIZE)
            self._map = mmap.mmap(fd, mmap.PAGESIZE)
        finally:
            os.close(fd)

    def set(self, count: int) -> None:
        """Say that the log has so many records."""
        self._map[:8] = count.to_bytes(8, "little")

    def get(self) -> int:
        """The number of records."""
        return int.from_bytes(self._map[:8], "little")


class FuseDisk:
    """The disk's own process: :meth:`serve` returns when the file is unmounted."""

    def __init__(self, fd: int, image: bytearray, log_path: Path, position: Position) -> None:
        self._fd = fd
        self._image = image
        self._log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._position = position
        self._count = 0
        self._replied = 0

    def serve(self) -> None:
        """Answer requests. Whatever waits is read before anything is answered, so that a flush never covers a write
        whose answer its sender had not seen."""
        os.set_blocking(self._fd, False)
        waiting = self._read_all()
        while waiting is not None:
            replies = [reply for raw, replied in waiting if (reply := self._carry_out(raw, replied)) is not None]
            done = self._count
            waiting = self._read_all(wait=not replies)
            for reply in replies:
                self._send(reply)
            self._replied = done
            if waiting == []:
                waiting = self._read_all()

    def _read_all(self, *, wait: bool = True) -> list[tuple[bytes, int]] | None:
        """Requests that wait, each with the number of records that had been answered; None when unmounted."""
        found: list[tuple[bytes, int]] = []
        while True:
            try:
                found.append((os.read(self._fd, _REQUEST_BYTES), self._replied))
            except BlockingIOError:
                if found or not wait:
                    return found
                select.select([self._fd], [], [])
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return None
                if error.errno not in {errno.ENOENT, errno.EINTR}:  # a request that was taken back
                    raise

    def _send(self, reply: bytes) -> None:
        try:
            os.write(self._fd, reply)
        except FileNotFoundError:
            return  # who asked was killed meanwhile

    def _carry_out(self, raw: bytes, replied: int) -> bytes | None:
        _, opcode, unique, *_ = _HEADER.unpack_from(raw)
        if opcode in {_FORGET, _INTERRUPT, _BATCH_FORGET}:
            return None
        answer = self._answer(opcode, raw[_HEADER.size :], replied)
        if isinstance(answer, int):
            return _REPLY.pack(_REPLY.size, -answer, unique)
        return _REPLY.pack(_REPLY.size + len(answer), 0, unique) + answer

    def _answer(self, opcode: int, body: bytes, replied: int) -> bytes | int:
        if opcode == _WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            self._write(offset, body[40 : 40 + size])
            return struct.pack("<II", size, 0)
        if opcode == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return bytes(self._image[offset : offset + size])
        if opcode == _FSYNC:
            self._append(_RECORD.pack(FLUSH, replied, 0, 0))
            return b""
        if opcode in {_GETATTR, _SETATTR}:
            return struct.pack("<QII", 3600, 0, 0) + self._attributes()
        if opcode == _OPEN:
            return struct.pack("<QII", 1, _DIRECT_IO, 0)
        if opcode == _INIT_OP:
            flags = _BIG_WRITES | _MAX_PAGES
            return _INIT.pack(7, 31, 65536, flags, 16, 12, _MAX_WRITE, 1, _MAX_WRITE // 4096, 0, 0, *([0] * 7))
        if opcode == _STATFS:
            return struct.pack("<QQQQQIII7I", 0, 0, 0, 1, 0, 4096, 255, 4096, *([0] * 7))
        return b"" if opcode in {_RELEASE, _FLUSH} else errno.ENOSYS

    def _attributes(self) -> bytes:
        size = len(self._image)
        mode = stat.S_IFREG | 0o600
        return _ATTR.pack(1, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _write(self, offset: int, data: bytes) -> None:
        self._image[offset : offset + len(data)] = data
        self._append(_RECORD.pack(WRITE, offset, len(data), 0) + data)

    def _append(self, record: bytes) -> None:
        at = 0
        while at < len(record):
            at += os.write(self._log, record[at:])
        self._count += 1
        self._position.set(self._count)


def start_disk(place: Path, image: bytearray, log_path: Path, position: Position) -> int:
    """Mount the file ``place`` as a disk of these bytes and serve it in a process of its own: its id. That ends when
    ``place`` is unmounted."""
    place.touch()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    mount("fuse", str(place), "fuse", f"fd={fd},rootmode=100600,user_id=0,group_id=0,max_read={_MAX_WRITE}")
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    status = 1
    try:
        die_with_parent()
        FuseDisk(fd, image, log_path, position).serve()
        status = 0
    finally:
        os._exit(status)
