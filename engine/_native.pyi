"""The compiled core: BLAKE3 tree hashing, chunk buffers, the sealer, bitmap kernels and three system calls.

Import it through :mod:`engine.native`, never directly. An integer outside the range that its meaning allows raises
ValueError, whatever its size; a value that is no integer raises TypeError. What is no contiguous buffer, or read-only
where it is to be written to, raises TypeError or BufferError. The GIL is released for hashing 2 KiB and more (the bytes
must not change meanwhile), for system calls and in :meth:`Sealer.close`; it is kept for bitmaps.
"""

from types import TracebackType
from typing import Final, Self, final

from typing_extensions import Buffer

LEAF_BYTES: Final = 1024
DIGEST_BYTES: Final = 32

def simd_paths() -> tuple[str, ...]:
    """The hash kernels this machine can run, fastest first: of ``avx512 avx2 sse2 portable``, or ``neon portable``."""

def simd_path() -> str:
    """The kernel in use: the fastest, or the one that the environment variable ``OFFLINE_ENGINE_SIMD`` named at import.

    A name there that this machine has no kernel for makes the import fail with ImportError.
    """

def force_simd_path(name: str) -> None:
    """Use the kernel ``name`` from now on, in all threads. Raises ValueError when this machine cannot run it."""

def subtree_cv(data: Buffer, leaf_counter: int) -> bytes:
    """The 32-byte non-root chaining value of ``data``, which begins at leaf ``leaf_counter`` of its file.

    Raises ValueError when ``data`` is empty, or longer than the largest subtree that may begin at that leaf
    (``lowest set bit of leaf_counter`` leaves; unlimited at 0), or when the counter does not fit 54 bits.
    """

def root_hash(data: Buffer) -> bytes:
    """The 32-byte BLAKE3 hash of ``data`` as a whole file; any length, also empty."""

def parent_cv(left: Buffer, right: Buffer, root: bool = False) -> bytes:
    """The chaining value (or, with ``root``, the hash) of a parent node; both children are 32 bytes."""

def root_from_cvs(cvs: Buffer) -> bytes:
    """The hash of a file from the CVs of its aligned chunks in file order, 32 bytes each, at least two.

    The chunks are equal powers of two of leaves, the last may be short. Raises ValueError for any other length.
    """

def bitmap_count(bits: Buffer, bit_count: int) -> int:
    """How many of the first ``bit_count`` bits are set. Bit i is ``bits[i >> 3] >> (i & 7) & 1``."""

def bitmap_set(bits: Buffer, first: int, count: int) -> None:
    """Set ``count`` bits from ``first`` in a writable buffer."""

def bitmap_clear(bits: Buffer, first: int, count: int) -> None:
    """Clear ``count`` bits from ``first`` in a writable buffer."""

def bitmap_next_run(bits: Buffer, bit_count: int, start: int, value: bool, limit: int) -> tuple[int, int]:
    """The first run of bits equal to ``value`` at or after ``start``: ``(first, length)``, length at most ``limit``.

    ``(bit_count, 0)`` when there is none. Bits at or past ``bit_count`` are never looked at. ``start`` is at most
    ``bit_count``, ``limit`` at least 1.
    """

def fallocate(fd: int, length: int, *, keep_size: bool = False) -> None:
    """fallocate(2) of ``[0, length)``, EINTR looped; never glibc's zero-writing emulation. With ``keep_size`` the
    file does not grow (FALLOC_FL_KEEP_SIZE): the blocks behind its end are its own when it does.

    ``length`` is in bytes and at least 1. Raises OSError.
    """

def rename_noreplace(source_dir_fd: int, source: bytes, target_dir_fd: int, target: bytes) -> None:
    """renameat2(2) with RENAME_NOREPLACE. Raises FileExistsError when the target exists; other OSErrors as they come
    (EINVAL: the file system cannot do it)."""

def sync_range_start(fd: int, offset: int, length: int) -> None:
    """Begin write-back of ``length`` >= 1 bytes without waiting for it: sync_file_range(2), SYNC_FILE_RANGE_WRITE.

    It makes nothing durable. Raises OSError.
    """

def release_mapped(start: int, length: int) -> None:
    """Unmap the resident pages of a mapping that is shared with a file, by addresses: madvise(2), MADV_DONTNEED.

    The bytes stay in the page cache and are mapped again when looked at. ``start`` is of a page's beginning. The caller
    has read in ``/proc/self/maps`` that the range is such a mapping: of a private one what was written would be lost.
    Raises OSError.
    """

@final
class ChunkBuffer:
    """One buffer of a :class:`BufferPool`; writable through the buffer protocol. Views and running seals are counted.

    One that is dropped without :meth:`release` goes back to its pool with its last view or seal.
    """

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    def release(self) -> None:
        """Give the buffer back to its pool. Raises BufferError while a view or a seal holds it, ValueError when it
        was given back already. Views of a released buffer cannot exist, so none can see another chunk's bytes."""
    @property
    def views(self) -> int:
        """Exported views and running seals."""

@final
class BufferPool:
    """``count`` page-aligned buffers of ``size`` bytes in one anonymous mapping; pages are only touched when used."""

    def __new__(cls, count: int, size: int) -> Self:
        """Raises ValueError when either is below 1, MemoryError when there is no room for the mapping."""
    def acquire(self) -> ChunkBuffer | None:
        """A free buffer (the most recently used one first, its pages are warm), or None when all are out."""
    @property
    def count(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def free(self) -> int: ...

@final
class Sealer:
    """POSIX threads that hash a chunk and ``pwrite`` it at its place, without the GIL.

    Results are announced on one eventfd (non-blocking, close-on-exec). A sealer belongs to the process that made it:
    in a forked child every method raises ValueError, but for :meth:`close`, which does nothing and returns [].
    """

    def __new__(cls, threads: int, depth: int) -> Self:
        """``threads`` workers (1-64) and room for ``depth`` chunks (1-65536) that are submitted and not yet drained.

        Raises ValueError, MemoryError, or OSError when a thread or the eventfd cannot be had.
        """
    def fileno(self) -> int:
        """The eventfd; readable exactly while results wait. Raises ValueError after :meth:`close`."""
    def submit(
        self,
        ticket: int,
        fd: int,
        buffer: ChunkBuffer,
        length: int,
        offset: int,
        leaf_counter: int,
        root: bool,
        early: bool = False,
    ) -> None:
        """Hash ``buffer[:length]`` and write it to ``fd`` at ``offset``; with ``early`` also have the kernel begin to
        bring it to the disk, without waiting, so that the sync that follows is short.

        ``fd`` -1 hashes only. ``root`` asks for the root hash (the chunk is the whole file: ``leaf_counter`` 0) instead
        of the CV. The buffer counts one view until its result is drained. The caller keeps ``fd`` open until then.
        Raises ValueError for arguments out of range (length 0 or beyond the buffer, negative offset, an overflow, an
        illegal subtree) and after close, BlockingIOError when ``depth`` chunks are under way.
        """
    def drain(self) -> list[tuple[int, int, bytes, int]]:
        """``(ticket, errno, digest, hashed_ns)`` of every finished chunk since the last call; clears the eventfd.

        errno 0: all bytes were written. Otherwise the chunk's bytes on disk are undefined. ``hashed_ns`` is the time
        spent hashing, in nanoseconds of the monotonic clock.
        """
    @property
    def in_flight(self) -> int:
        """Chunks submitted and not yet drained."""
    def close(self) -> list[tuple[int, int, bytes, int]]:
        """Finish the work in flight, join the threads, and return what was not drained. Calling it again returns []."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
