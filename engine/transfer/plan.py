"""Which chunks to ask for next: leases over the bitmap, handed out in file order.

A lease becomes one Range request. Sizes are a share of what is left (guided self-scheduling): long spans while there is
much, short ones at the end, so that all connections finish together. The bitmap is scanned by the native kernel from a
cursor, never walked in Python, so a plan of a million chunks costs one copy and one count.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine import native
from engine.config import Config
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid


@dataclass(frozen=True, slots=True)
class Lease:
    """Chunks ``[first, first + count)``, held by one fetcher until they are sealed or given back."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """One past the last chunk."""
        return self.first + self.count


class Plan:
    """Missing chunks of one part that nobody is fetching. ``claimed`` bits are held or leased."""

    def __init__(
        self, grid: ChunkGrid, held: Bitmap, connections: int, config: Config, *, in_one_piece: bool = False
    ) -> None:
        self._grid = grid
        self._claimed = bytearray(bytes(held))
        self._unclaimed = grid.count - held.held
        self._cursor = 0
        self._share = 2 * connections
        self._chunks_min = max(1, config.span_bytes_min // grid.chunk_bytes)
        self._chunks_max = max(1, config.span_bytes_max // grid.chunk_bytes)
        if in_one_piece:  # as few requests as there are holes: nothing tells whether two answers are of the same bytes
            self._chunks_min = self._chunks_max = grid.count

    @property
    def unclaimed(self) -> int:
        """Chunks that are neither held nor leased."""
        return self._unclaimed

    def lease(self, limit: int | None = None) -> Lease | None:
        """The next missing run, at most a fair share of what is left (or ``limit`` chunks); None when all is
        claimed."""
        if self._unclaimed == 0:
            return None
        if limit is None:
            limit = min(max(self._unclaimed // self._share, self._chunks_min), self._chunks_max)
        first, count = native.bitmap_next_run(self._claimed, self._grid.count, self._cursor, False, limit)
        native.bitmap_set(self._claimed, first, count)
        self._unclaimed -= count
        self._cursor = first + count
        return Lease(first, count)

    def give_back(self, first: int, count: int) -> None:
        """Chunks of a lease that were not sealed can be leased again."""
        if count == 0:
            return
        native.bitmap_clear(self._claimed, first, count)
        self._unclaimed += count
        self._cursor = min(self._cursor, first)
