"""The compiled core again, in plain Python: an oracle for its hashes, and an in-line sealer for engines on fakes.

Written from the BLAKE3 paper like the C core, but with recursion where that pairs level by level, so that one mistake
is unlikely to be in both.
"""

import os
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

from engine.native import LEAF_BYTES, ChunkBuffer, root_hash, subtree_cv

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS_THEN_DIAGONALS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
BLOCK_BYTES = 64
WORD = 0xFFFFFFFF

Pwrite = Callable[[int, memoryview, int], int]


def _rotate(word: int, right: int) -> int:
    return word >> right | word << 32 - right & WORD


def _compress(cv: tuple[int, ...], block: bytes, counter: int, flags: int) -> tuple[int, ...]:
    message = struct.unpack("<16I", block.ljust(BLOCK_BYTES, b"\0"))
    v = [*cv, *IV[:4], counter & WORD, counter >> 32, len(block), flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(COLUMNS_THEN_DIAGONALS):
            for word, (first, second) in ((message[2 * i], (16, 12)), (message[2 * i + 1], (8, 7))):
                v[a] = v[a] + v[b] + word & WORD
                v[d] = _rotate(v[d] ^ v[a], first)
                v[c] = v[c] + v[d] & WORD
                v[b] = _rotate(v[b] ^ v[c], second)
        message = tuple(message[i] for i in PERMUTATION)
    return tuple(v[i] ^ v[i + 8] for i in range(8))


def _packed(cv: tuple[int, ...]) -> bytes:
    return struct.pack("<8I", *cv)


def _leaf(data: bytes, counter: int, root: int) -> bytes:
    blocks = [data[i : i + BLOCK_BYTES] for i in range(0, len(data), BLOCK_BYTES)] or [b""]
    cv: tuple[int, ...] = IV
    for i, block in enumerate(blocks):
        last = i == len(blocks) - 1
        flags = (CHUNK_START if i == 0 else 0) | (CHUNK_END | root if last else 0)
        cv = _compress(cv, block, counter, flags)
    return _packed(cv)


def _left(count: int) -> int:
    """The largest power of two below ``count`` > 1."""
    return 1 << (count - 1).bit_length() - 1


def _node(data: bytes, counter: int, root: int) -> bytes:
    leaves = -(-len(data) // LEAF_BYTES)
    if leaves <= 1:
        return _leaf(data, counter, root)
    split = _left(leaves)
    left = _node(data[: split * LEAF_BYTES], counter, 0)
    return twin_parent_cv(left, _node(data[split * LEAF_BYTES :], counter + split, 0), bool(root))


def twin_subtree_cv(data: bytes, leaf_counter: int) -> bytes:
    return _node(data, leaf_counter, 0)


def twin_root_hash(data: bytes) -> bytes:
    return _node(data, 0, ROOT)


def twin_parent_cv(left: bytes, right: bytes, root: bool = False) -> bytes:
    return _packed(_compress(IV, left + right, 0, PARENT | (ROOT if root else 0)))


def twin_root_from_cvs(cvs: list[bytes], root: bool = True) -> bytes:
    if len(cvs) == 1:
        return cvs[0]
    split = _left(len(cvs))
    return twin_parent_cv(twin_root_from_cvs(cvs[:split], False), twin_root_from_cvs(cvs[split:], False), root)


class InlineSealer:
    """The face of :class:`engine.native.Sealer`, without threads: a chunk is hashed and written inside ``submit``.

    ``pwrite`` can be replaced to fail or to write short. Results wait for ``drain`` as those of the real one do.
    """

    def __init__(self, threads: int, depth: int, pwrite: Pwrite = os.pwrite) -> None:
        if threads < 1 or depth < 1:
            raise ValueError(f"threads and depth must be at least 1, not {threads} and {depth}")
        self._depth = depth
        self._pwrite = pwrite
        self._finished: list[tuple[tuple[int, int, bytes, int], memoryview]] = []
        self._eventfd: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        if self._eventfd is None:
            raise ValueError("the sealer is closed")
        return self._eventfd

    def submit(
        self,
        ticket: int,
        fd: int,
        buffer: ChunkBuffer,
        length: int,
        offset: int,
        leaf_counter: int,
        root: bool,
        early: bool = False,  # nothing to see of it from here
    ) -> None:
        eventfd = self.fileno()
        if not 0 < length <= len(buffer) or not 0 <= offset <= (1 << 63) - 1 - length or (root and leaf_counter != 0):
            raise ValueError(f"no such chunk: {length} bytes at {offset}, leaf {leaf_counter}, root {root}")
        if len(self._finished) == self._depth:
            raise BlockingIOError("as many chunks are under way as the sealer has room for")
        view = memoryview(buffer)
        digest = root_hash(view[:length]) if root else subtree_cv(view[:length], leaf_counter)
        error = 0 if fd == -1 else self._write_all(fd, view[:length], offset)
        self._finished.append(((ticket, error, digest, 0), view))
        os.eventfd_write(eventfd, 1)

    def _write_all(self, fd: int, data: memoryview, offset: int) -> int:
        try:
            while data:
                written = self._pwrite(fd, data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            if error.errno is None:
                raise
            return error.errno
        return 0

    def drain(self) -> list[tuple[int, int, bytes, int]]:
        if self._finished:
            os.eventfd_read(self.fileno())
        results = [result for result, _view in self._finished]
        self._finished.clear()
        return results

    @property
    def in_flight(self) -> int:
        return len(self._finished)

    def close(self) -> list[tuple[int, int, bytes, int]]:
        if self._eventfd is None:
            return []
        results = self.drain()
        os.close(self._eventfd)
        self._eventfd = None
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()
