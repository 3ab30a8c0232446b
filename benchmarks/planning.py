"""The plan of a 1 TiB entry: a million chunks with random holes, from the store to the first lease."""

from __future__ import annotations

import os
import random
import tempfile
import time

from benchmarks.measure import median
from engine.config import DEFAULT_CONFIG, MIB, TIB
from engine.files.filesystem import FileSystem
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.store.state_store import ChunkCommit, StateStore
from engine.transfer.plan import Plan


def _filled(root: str, grid: ChunkGrid) -> StateStore:
    store = StateStore.open(root, DEFAULT_CONFIG, FileSystem(), now=time.time())
    store.add(DownloadEntry(id="huge", sources=("http://127.0.0.1/huge",)))
    store.reset_part(
        "huge",
        1,
        PartRecord(
            folder=root, part_name="p", final_name="f", length=grid.length, chunk_bytes=MIB, phase=PartPhase.ACTIVE
        ),
    )
    rng = random.Random(1)
    held = [index for index in range(grid.count) if rng.random() < 0.5]
    for at in range(0, len(held), 20_000):
        chunks = tuple((index, bytes(32), MIB) for index in held[at : at + 20_000])
        commit = ChunkCommit(
            id="huge",
            epoch=1,
            part_index=0,
            generation=1,
            chunks=chunks,
            bit_count=grid.count,
            synced=True,
            boot_id="",
        )
        store.commit_chunks([commit])
    return store


def measure(rounds: int) -> dict[str, object]:
    """Median milliseconds to read the bitmap, count it, build the plan and take the first lease."""
    grid = ChunkGrid(1 * TIB, MIB)
    times = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as root:
        store = _filled(root, grid)
        for _ in range(max(rounds, 5)):
            began = time.perf_counter()
            bitmap = store.bitmap("huge", 0, grid.count)
            plan = Plan(grid, bitmap, 4, DEFAULT_CONFIG)
            lease = plan.lease()
            times.append((time.perf_counter() - began) * 1000)
            assert lease is not None
        store.close()
    return {"chunks": grid.count, "missing": grid.count - bitmap.held, "ready_ms": round(median(times), 2)}
