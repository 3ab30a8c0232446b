"""Which chunks to ask for next: leases over the bitmap, handed out in file order; then what slower ones still hold.

A lease becomes one Range request. Sizes are a share of what is left (guided self-scheduling): long spans while there is
much, short ones at the end, so that all connections finish together. The bitmap is scanned by the native kernel from a
cursor, never walked in Python, so a plan of a million chunks costs one copy and one count.

Where that was not enough, because a connection turned slow, an idle fetcher steals the upper half of what it has still
to fetch; and at the very end it asks for the same chunk once more: the first that has it seals it, the other is cut
off. So a chunk is never sealed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from engine import native
from engine.config import MIB, Config
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.transfer.sources import Source

# A span of a connection for which `span_bytes_min` would take far too long; still worth its round trip.
SLOW_SPAN_BYTES = 1 * MIB
# A connection that is cut short has to be made anew: what is stolen must be worth that.
STEAL_S_MIN = 1.0
# With so few chunks left, all of them on their way, the late ones are asked for a second time.
ENDGAME_CHUNKS = 8
DUPLICATE_S_MIN = 1.0


@dataclass(slots=True)
class Lease:
    """Chunks ``[first, first + count)``, held by one fetcher until they are sealed or given back.

    ``at`` is the chunk on its way, those before it are sealed; it began at ``since``, the lease at ``began``. ``cut``
    ends its exchange; ``lost``: another had its chunk first. ``holder``: the source that it is asked from; ``avoid``:
    the one that is late with it.
    """

    first: int
    count: int
    at: int = field(default=-1, compare=False)
    began: float = field(default=math.inf, compare=False)
    since: float = field(default=math.inf, compare=False)
    lost: bool = field(default=False, compare=False)
    cut: Callable[[], None] | None = field(default=None, compare=False)
    holder: Source | None = field(default=None, compare=False)
    avoid: Source | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        self.at = self.first

    @property
    def end(self) -> int:
        """One past the last chunk."""
        return self.first + self.count

    def rest_s(self, now: float) -> float:
        """How long the chunks behind the one on its way will take, by what came so far."""
        done = max(self.at - self.first, 0.5)
        return (self.end - self.at - 1) * max(0.0, now - self.began) / done


class Plan:
    """Missing chunks of one part that nobody is fetching. ``claimed`` bits are held or leased. ``changed`` wakes those
    who wait for something to do."""

    def __init__(
        self, grid: ChunkGrid, held: Bitmap, connections: int, config: Config, *, in_one_piece: bool = False
    ) -> None:
        self._grid = grid
        self._claimed = bytearray(bytes(held))
        self._unclaimed = grid.count - held.held
        self._cursor = 0
        self._share = 2 * connections
        self._chunk_bytes, self._span_s = grid.chunk_bytes, config.span_s
        self._chunks_paced = grid.count
        self._chunks_slow = max(1, SLOW_SPAN_BYTES // grid.chunk_bytes)
        self._chunks_min = max(1, config.span_bytes_min // grid.chunk_bytes)
        self._chunks_max = max(1, config.span_bytes_max // grid.chunk_bytes)
        if in_one_piece:  # as few requests as there are holes: nothing tells whether two answers are of the same bytes
            self._chunks_min = self._chunks_max = grid.count
        self._active: dict[int, Lease] = {}
        self._contested: dict[int, list[Lease]] = {}
        self._times = _Times()
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def unclaimed(self) -> int:
        """Chunks that are neither held nor leased."""
        return self._unclaimed

    @property
    def left(self) -> int:
        """Chunks that are missing, those on their way included."""
        return self._unclaimed + sum(lease.end - lease.at for lease in self._active.values())

    @property
    def finished(self) -> bool:
        """Whether nothing is missing and nothing on its way."""
        return not self._unclaimed and not self._active

    @property
    def chunks_min(self) -> int:
        """Chunks of the shortest span that is worth a request."""
        return self._chunks_min

    def follow(self, connections: int, bytes_s: float) -> None:
        """There are so many connections now, each with ``bytes_s`` (0: unknown): leases are made for a few seconds."""
        self._share = 2 * max(1, connections)
        if bytes_s:
            self._chunks_paced = int(bytes_s * self._span_s) // self._chunk_bytes

    def lease(self, limit: int | None = None) -> Lease | None:
        """The next missing run, at most a fair share of what is left (or ``limit`` chunks); None when all is
        claimed."""
        if self._unclaimed == 0:
            return None
        if limit is None:
            share = min(self._unclaimed // self._share, self._chunks_paced)
            limit = min(max(share, min(self._chunks_min, max(self._chunks_paced, self._chunks_slow))), self._chunks_max)
        first, count = native.bitmap_next_run(self._claimed, self._grid.count, self._cursor, False, limit)
        native.bitmap_set(self._claimed, first, count)
        self._unclaimed -= count
        self._cursor = first + count
        lease = Lease(first, count)
        self._active[id(lease)] = lease
        return lease

    def steal(self, now: float) -> Lease | None:
        """The upper half of what the slowest lease has still to fetch, when that is worth a new connection."""
        victim = max(self._active.values(), key=lambda lease: lease.rest_s(now), default=None)
        if victim is None or victim.rest_s(now) < STEAL_S_MIN:
            return None
        taken = (victim.end - victim.at) // 2  # of at least two chunks: never the one on its way
        victim.count -= taken
        lease = Lease(victim.end, taken)
        self._active[id(lease)] = lease
        return lease

    def duplicate(self, now: float) -> Lease | None:
        """At the end: the oldest chunk on its way, when it takes longer than chunks do, to be fetched once more."""
        waiting = [lease for lease in self._active.values() if lease.at < lease.end and lease.at not in self._contested]
        if self._unclaimed or sum(lease.end - lease.at for lease in waiting) > ENDGAME_CHUNKS:
            return None
        oldest = min(waiting, key=lambda lease: lease.since, default=None)
        if oldest is None or now - oldest.since < max(DUPLICATE_S_MIN, self._times.late_s):
            return None
        lease = Lease(oldest.at, 1, avoid=oldest.holder)
        self._contested[oldest.at] = [oldest, lease]
        self._active[id(lease)] = lease
        return lease

    def win(self, lease: Lease) -> bool:
        """Whether the chunk that is here (``lease.at``) is to be sealed: the first of two that fetched it; the other is
        cut off. Nothing may be awaited between this and the sealing."""
        if lease.lost:
            return False
        for other in self._contested.pop(lease.at, ()):
            if other is not lease:
                other.lost = True
                other.at += 1
                if other.cut is not None:
                    other.cut()
        return True

    def advance(self, lease: Lease, now: float) -> None:
        """The chunk on its way is sealed; the next begins."""
        self._times.note(now - lease.since)
        lease.at += 1
        lease.since = now

    def done(self, lease: Lease) -> None:
        """Nobody fetches for this lease any more; what is left of it can be leased again."""
        self._active.pop(id(lease), None)
        first = lease.at
        rivals = self._contested.get(first, [])
        if any(rival is lease for rival in rivals):  # the other one goes on with it, alone
            del self._contested[first]
            first += 1
        self.give_back(first, lease.end - first)
        self.changed.unpark_all()

    def give_back(self, first: int, count: int) -> None:
        """Chunks that were leased or held, and are missing, can be leased again."""
        if count <= 0:
            return
        native.bitmap_clear(self._claimed, first, count)
        self._unclaimed += count
        self._cursor = min(self._cursor, first)


class _Times:
    """How long chunks take: mean and deviation, recent ones count more."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._deviation = 0.0

    def note(self, seconds: float) -> None:
        if not math.isfinite(seconds):
            return
        error = seconds - self._mean
        self._mean += error / 8 if self._mean else error
        self._deviation += (abs(error) - self._deviation) / 4

    @property
    def late_s(self) -> float:
        """Beyond this a chunk is late."""
        return self._mean + self._deviation / 2
