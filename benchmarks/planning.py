"""The plan of a 1 TiB entry: a million chunks with random holes, from the store to the first lease."""

from __future__ import annotations

import os
import random
import time

from benchmarks.bench import Bench
from benchmarks.facts import Fact
from benchmarks.report import Report, Value
from engine.config import DEFAULT_CONFIG, MIB
from engine.files.filesystem import FileSystem
from engine.model.chunks import ChunkGrid
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.store.state_store import ChunkCommit, StateStore
from engine.transfer.plan import Plan

ID = "huge"
ROUNDS_MIN = 5
CHUNKS_PER_COMMIT = 20_000


def filled_store(root: str, grid: ChunkGrid) -> StateStore:
    """A store with one entry of which every chunk is held by a coin's toss."""
    store = StateStore.open(root, DEFAULT_CONFIG, FileSystem(), now=time.time())
    store.add(DownloadEntry(id=ID, sources=("http://127.0.0.1/huge",)))
    part = PartRecord(
        folder=root, part_name="p", final_name="f", length=grid.length, chunk_bytes=MIB, phase=PartPhase.ACTIVE
    )
    store.reset_part(ID, 1, part)
    rng = random.Random(1)
    held = [index for index in range(grid.count) if rng.random() < 0.5]
    for at in range(0, len(held), CHUNKS_PER_COMMIT):
        chunks = tuple((index, bytes(32), MIB) for index in held[at : at + CHUNKS_PER_COMMIT])
        commit = ChunkCommit(
            id=ID, epoch=1, part_index=0, generation=1, chunks=chunks, bit_count=grid.count, synced=True, boot_id=""
        )
        store.commit_chunks([commit])
    return store


def planned(store: StateStore, grid: ChunkGrid) -> Plan:
    """The bitmap read and counted, the plan made, and the first lease taken."""
    plan = Plan(grid, store.bitmap(ID, 0, grid.count), 4, DEFAULT_CONFIG)
    lease = plan.lease()
    if lease is None:
        raise AssertionError("a plan with holes has something to lease")
    return plan


def measure(bench: Bench) -> Report:
    """Milliseconds until the first lease."""
    grid = ChunkGrid(bench.scale.plan_bytes, MIB)
    took = []
    store = filled_store(os.path.join(bench.workspace.folder("plan"), "library"), grid)
    try:
        for _ in range(max(bench.scale.rounds, ROUNDS_MIN)):
            began = time.perf_counter()
            plan = planned(store, grid)
            took.append((time.perf_counter() - began) * 1000)
    finally:
        store.close()
    ready = Fact.of(took)
    row: dict[str, Value] = {"chunks": grid.count, "missing": plan.unclaimed, "ready_ms": ready}
    return Report(rows={f"{grid.length >> 40} TiB": row}, facts={"ready_ms": ready})
