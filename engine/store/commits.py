"""Recording chunks: bits, CVs, counters, the unsynced mark and the suspect log of a whole group in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import msgspec

from engine.errors import BadRecord, StaleEpoch
from engine.model.chunks import CV_BYTES, CVS_PER_PAGE, ChunkGrid
from engine.model.records import PartRecord
from engine.store import entries, pages, parts, suspects
from engine.store.txn import Txn


class ChunkCommit(msgspec.Struct, frozen=True, kw_only=True):
    """Chunks of one part whose bytes are written, and synced when ``synced``.

    ``chunks``: ``(index, 32-byte CV, size in bytes)``. ``bit_count``: how many chunks the part has, as far as is known.
    ``boot_id``: the boot under which they were written; kept when they are not synced.
    """

    id: str
    epoch: int
    part_index: int = 0
    generation: int
    chunks: tuple[tuple[int, bytes, int], ...]
    bit_count: int
    synced: bool
    boot_id: str

    def __post_init__(self) -> None:
        for index, digest, size in self.chunks:
            if not 0 <= index < self.bit_count or len(digest) != CV_BYTES or size <= 0:
                raise ValueError(f"chunk {index} of {self.bit_count}: {size} bytes, a digest of {len(digest)}")
        if not self.synced and not self.boot_id:
            raise ValueError("chunks that are not synced need the id of their boot")


def commit_group(txn: Txn, batch: Sequence[ChunkCommit]) -> list[PartRecord | None]:
    """The part records after the commit, in the batch's order; None where a newer epoch or generation made it void."""
    done: list[PartRecord | None] = []
    lines: list[suspects.SuspectLine] = []
    size = 0
    for commit in batch:
        part = _current_part(txn, commit)
        if part is not None and commit.chunks:
            part = _apply(txn, part, commit)
            runs = suspects.runs_of(sorted({index for index, _, _ in commit.chunks}))
            lines.append(suspects.SuspectLine(commit.id, commit.part_index, commit.generation, runs))
            size += sum(chunk[2] for chunk in commit.chunks)
        done.append(part)
    if lines:
        suspects.collect(txn, lines, size)
    return done


def commit_whole(txn: Txn, part: PartRecord, commit: ChunkCommit) -> PartRecord:
    """The part record, and the one chunk that the part consists of; nothing is known of it but its reset. Raises
    UnknownEntry, StaleEpoch."""
    entries.require(txn, commit.id, commit.epoch)
    kept = parts.require(txn, commit.id, commit.part_index)
    [(index, digest, size)] = commit.chunks
    if kept.generation != commit.generation or kept.chunks_done or index:
        raise StaleEpoch(f"part {commit.part_index} of '{commit.id}' began anew")
    stored = msgspec.structs.replace(
        part, chunks_done=1, bytes_done=size, unsynced_boot="" if commit.synced else commit.boot_id
    )
    pages.put_sole(txn, commit.id, commit.part_index, digest)
    parts.store(txn, commit.id, stored, was_unsynced=kept.unsynced_boot)
    suspects.collect(txn, [suspects.SuspectLine(commit.id, commit.part_index, commit.generation, ((0, 1),))], size)
    return stored


def clear(txn: Txn, entry_id: str, part_index: int, runs: Sequence[tuple[int, int]]) -> PartRecord:
    """Unset the bits of the runs ``(first, count)`` and count anew. Raises UnknownEntry, BadRecord."""
    part = parts.require(txn, entry_id, part_index)
    bits = pages.PartPages(txn, entry_id, part_index)
    for first, count in runs:
        bits.clear(first, count)
    bits.flush()
    recounted = _recounted(txn, entry_id, part, bits)
    parts.store(txn, entry_id, recounted)
    return recounted


def _current_part(txn: Txn, commit: ChunkCommit) -> PartRecord | None:
    """The part as it is now, or None when the commit is void; also for a damaged record, which was noted."""
    try:
        entry = entries.find(txn, commit.id)
        part = parts.find(txn, commit.id, commit.part_index)
    except BadRecord:
        return None
    if entry is None or part is None:
        return None
    if entry.epoch != commit.epoch or part.generation != commit.generation:
        return None
    return part


def _apply(txn: Txn, part: PartRecord, commit: ChunkCommit) -> PartRecord:
    bits = pages.PartPages(txn, commit.id, commit.part_index)
    chunks = sorted(commit.chunks, key=lambda chunk: chunk[0])
    for page, group in groupby(chunks, key=lambda chunk: chunk[0] // CVS_PER_PAGE):
        digests = {index: digest for index, digest, _ in group}
        bits.put_cvs(page, digests)
    fresh_chunks = 0
    fresh_bytes = 0
    for index, _, size in chunks:
        if bits.add(index):
            fresh_chunks += 1
            fresh_bytes += size
    bits.flush()
    if bits.damaged:
        counted = _recounted(txn, commit.id, part, bits)
    else:
        counted = msgspec.structs.replace(
            part, chunks_done=part.chunks_done + fresh_chunks, bytes_done=part.bytes_done + fresh_bytes
        )
    if not commit.synced and not part.unsynced_boot:
        counted = msgspec.structs.replace(counted, unsynced_boot=commit.boot_id)
    parts.store(txn, commit.id, counted, was_unsynced=part.unsynced_boot)
    return counted


def _recounted(txn: Txn, entry_id: str, part: PartRecord, bits: pages.PartPages) -> PartRecord:
    """The record with counters made from the bits. Without a known length every chunk counts as a full one."""
    held = pages.held_count(txn, entry_id, part.index)
    size = held * part.chunk_bytes
    if part.length:
        grid = ChunkGrid(part.length, part.chunk_bytes)
        size = grid.bytes_of(held, bits.test(grid.count - 1))
    return msgspec.structs.replace(part, chunks_done=held, bytes_done=size)
