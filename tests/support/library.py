"""What whole-engine tests share: a small configuration, payloads, and an honest look at what a store claims."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from engine.config import KIB, MIB, Config
from engine.files.filesystem import FileSystem
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry, PartRecord
from engine.store.state_store import StateStore
from engine.transfer.setup_part import chunk_digest

CHUNK = 16 * KIB
BIG_CHUNK = 64 * KIB

# A few MiB make hundreds of chunks, dozens of spans and many commits; waits are short.
SMALL = Config(
    chunk_bytes=BIG_CHUNK,
    small_chunk_bytes=CHUNK,
    small_file_bytes=4 * MIB,
    buffer_count=16,
    commit_window_bytes=1 * MIB,
    commit_interval_s=0.05,
    first_span_bytes=64 * KIB,
    span_bytes_min=64 * KIB,
    span_bytes_max=512 * KIB,
    parallel_bytes_min=128 * KIB,
    connect_timeout_s=2.0,
    tls_timeout_s=2.0,
    first_byte_timeout_s=2.0,
    idle_timeout_s=2.0,
    free_space_reserve_bytes=0,
    map_bytes=4 * MIB,
    progress_interval_s=0.02,
    backoff_base_s=0.01,
    backoff_max_s=0.02,
    breaker_open_s=0.02,
    breaker_open_max_s=0.05,
)


def small(**changes: object) -> Config:
    """The small configuration with other values."""
    return dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]  # field names are checked by replace itself


def payload_of(size: int, seed: int = 1) -> bytes:
    """``size`` bytes that are the same for a seed and compress to nothing."""
    return random.Random(seed).randbytes(size)


def hash_of(data: bytes) -> str:
    """BLAKE3 by the independent package."""
    return blake3(data).hexdigest()


def content(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes."""
    with open(path, "rb") as source:
        return source.read()


def files_under(folder: str | os.PathLike[str]) -> set[str]:
    """Names of all files below a folder of downloads, unfinished ones included."""
    return {os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names}


def parts_under(folder: str | os.PathLike[str]) -> set[str]:
    """Names of unfinished files below a folder."""
    return {name for name in files_under(folder) if name.endswith(".part")}


@dataclass(frozen=True, slots=True)
class Claim:
    """What a store says of one part: its record and the runs ``(first, count)`` of chunks it claims to hold."""

    entry: DownloadEntry
    part: PartRecord
    runs: tuple[tuple[int, int], ...]

    @property
    def grid(self) -> ChunkGrid:
        """The part's chunks; of a part of unknown length, none."""
        return ChunkGrid(self.part.length or 0, self.part.chunk_bytes)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The claimed bytes as half-open ranges."""
        return tuple(self.grid.byte_range(first, count) for first, count in self.runs)

    @property
    def held_bytes(self) -> int:
        """How many bytes are claimed."""
        return sum(end - start for start, end in self.ranges)

    @property
    def path(self) -> str:
        """Where the part's bytes are, under whichever of its names it is there."""
        unfinished = os.path.join(self.part.folder, self.part.part_name)
        final = os.path.join(self.part.folder, self.part.final_name)
        return unfinished if os.path.exists(unfinished) else final


def claims(root: str | os.PathLike[str], config: Config = SMALL) -> list[Claim]:
    """All that the store in ``root`` claims, read beside or after its engine."""
    return list(_claims(os.fspath(root), config))


def _claims(root: str, config: Config) -> Iterator[Claim]:
    store = StateStore.open_readonly(root, config, FileSystem())
    try:
        for entry in store.list():
            for part in store.parts(entry.id):
                grid = ChunkGrid(part.length or 0, part.chunk_bytes)
                yield Claim(entry, part, tuple(store.held_runs(entry.id, part.index, grid.count)))
    finally:
        store.close(clean=False)


def check_claim(root: str | os.PathLike[str], claim: Claim, truth: bytes, config: Config = SMALL) -> None:
    """Law 1: every claimed byte is the origin's, every claimed chunk has the CV of those bytes, and the sums agree."""
    assert claim.part.bytes_done == claim.held_bytes
    assert claim.part.chunks_done == sum(count for _, count in claim.runs)
    if not claim.runs:
        return
    data = content(claim.path)
    for start, end in claim.ranges:
        assert data[start:end] == truth[start:end], f"bytes {start}-{end} are claimed and wrong"
    store = StateStore.open_readonly(os.fspath(root), config, FileSystem())
    try:
        for first, count in claim.runs:
            for index in range(first, first + count):
                start, end = claim.grid.byte_range(index, 1)
                cv = store.cvs(claim.entry.id, claim.part.index, 1, first=index)
                assert cv == chunk_digest(truth[start:end], claim.grid, index)
    finally:
        store.close(clean=False)
