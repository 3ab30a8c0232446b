"""All arithmetic of chunks: where they lie, how long they are, in which page of the store their bits and CVs are."""

from __future__ import annotations

import msgspec

from engine.config import Config

LEAF_BYTES = 1024
CV_BYTES = 32
BITS_PER_PAGE = 8192  # 1 KiB: small enough that LMDB keeps a page inside its leaf, so a commit rewrites little
CVS_PER_PAGE = 32  # 1 KiB, for the same reason


class ChunkGrid(msgspec.Struct, frozen=True):
    """A file of ``length`` bytes cut into chunks of ``chunk_bytes`` (a power of two of at least one leaf)."""

    length: int
    chunk_bytes: int

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ValueError(f"length must not be negative: {self.length}")
        if self.chunk_bytes < LEAF_BYTES or self.chunk_bytes & (self.chunk_bytes - 1):
            raise ValueError(f"chunk_bytes must be a power of two of at least {LEAF_BYTES}: {self.chunk_bytes}")

    @property
    def count(self) -> int:
        """Number of chunks; 0 for an empty file."""
        return -(-self.length // self.chunk_bytes)

    def offset(self, index: int) -> int:
        """First byte of chunk ``index`` in the file."""
        if not 0 <= index < self.count:
            raise IndexError(f"chunk {index} of {self.count}")
        return index * self.chunk_bytes

    def size(self, index: int) -> int:
        """Bytes of chunk ``index``; the last may be short."""
        return min(self.chunk_bytes, self.length - self.offset(index))

    def leaf_counter(self, index: int) -> int:
        """BLAKE3's counter of the chunk's first leaf."""
        return self.offset(index) // LEAF_BYTES

    @property
    def sole(self) -> bool:
        """Whether the file is one chunk: then its root hash is kept in place of a CV, for one cannot be made of the
        other."""
        return self.count == 1

    def byte_range(self, first: int, count: int) -> tuple[int, int]:
        """``[start, end)`` in bytes of ``count`` chunks from ``first``."""
        start = self.offset(first)
        return start, min(self.length, start + count * self.chunk_bytes)

    def chunks_within(self, start: int, end: int) -> tuple[int, int]:
        """``[first, end)`` of the chunks that lie wholly inside the bytes ``[start, end)``."""
        first = -(-start // self.chunk_bytes)
        last = self.count if end >= self.length else end // self.chunk_bytes
        return first, max(first, last)

    def bytes_of(self, chunk_count: int, last_held: bool) -> int:
        """Bytes in ``chunk_count`` chunks of which one is the file's last when ``last_held``."""
        if chunk_count == 0:
            return 0
        short = self.count * self.chunk_bytes - self.length if last_held else 0
        return chunk_count * self.chunk_bytes - short


def chunk_bytes_for(length: int | None, config: Config) -> int:
    """The chunk size of a new part: small for small files, the full size otherwise and when the length is unknown."""
    if length is not None and length < config.small_file_bytes:
        return config.small_chunk_bytes
    return config.chunk_bytes
