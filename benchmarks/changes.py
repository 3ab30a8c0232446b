"""State changes a second: verbs for all entries at once, and for one entry called by 64 tasks at the same time."""

from __future__ import annotations

import os
import shutil
import sys
import time

from benchmarks import entries
from benchmarks.bench import Bench
from benchmarks.cost import run
from benchmarks.facts import Fact
from benchmarks.report import Report
from engine import Config, State
from engine.files.filesystem import FileSystem
from engine.store.state_store import StateStore

TASKS = 64
# Half of them wait, half have failed: what can be paused and resumed, and what can be retried.
KINDS = (State.PENDING, State.FAILED)


def build(root: str, count: int) -> None:
    """A store with ``count`` entries of each kind."""
    store = StateStore.open(root, Config(), FileSystem(), now=time.time())
    try:
        for kind, state in enumerate(KINDS):
            store.add_many(entries.entry_of(kind * count + number, state) for number in range(count))
        entries.forget_place(store)
    finally:
        store.close()


def measure(bench: Bench) -> Report:
    """Each round on a fresh copy of the same store."""
    count = bench.scale.changed_entries
    template = os.path.join(bench.workspace.folder("store-changes"), "library")
    build(template, count)
    told: list[dict[str, float]] = []
    for number in range(bench.scale.rounds + 1):
        folder = bench.workspace.fresh("store", len(KINDS) * count * entries.STORE_BYTES_PER_ENTRY)
        root = os.path.join(folder, "library")
        shutil.copytree(template, root)
        cost = run([sys.executable, "-m", "benchmarks.drive_changes", root, str(TASKS)], folder)
        bench.workspace.retire(folder)
        if number > 0:
            told.append(cost.told())
            bench.tell(f"paused {told[-1]['pause_all_per_s']:.0f} a second")
    report = Report()
    report.facts = {name: Fact.of([one[name] for one in told]) for name in told[0]}
    for name, fact in report.facts.items():
        report.rows[name.removesuffix("_per_s")] = {"per_s": fact}
    report.notes.append(
        f"{count} entries waiting and {count} failed; nothing runs meanwhile. Every change is durable when its call "
        f"returns; those without 'all' are single calls by {TASKS} tasks at once"
    )
    return report
