"""A store with up to 100,000 entries: the time and memory to open it, and what adding one more costs."""

from __future__ import annotations

import os
import shutil
import sys
import time

from benchmarks.bench import Bench
from benchmarks.cost import run
from benchmarks.facts import Fact, paired
from benchmarks.report import Curve, Report
from engine import Config, DownloadEntry, State
from engine.files.filesystem import FileSystem
from engine.store.codec import Table
from engine.store.state_store import StateStore

ADDED = 200
BATCH = 5_000
STORE_BYTES_PER_ENTRY = 4096  # more than it takes; to know whether the disk has room
# Finished files: a library as it is. Waiting ones: the worst to open, for each of them is taken up at once.
KINDS = {"complete": State.COMPLETED, "waiting": State.PENDING}


def build(root: str, count: int, state: State) -> None:
    """A store with ``count`` entries in this state."""
    store = StateStore.open(root, Config(), FileSystem(), now=time.time())
    try:
        for at in range(0, count, BATCH):
            store.add_many(entry_of(number, state) for number in range(at, min(at + BATCH, count)))
        forget_place(store)
    finally:
        store.close()


def forget_place(store: StateStore) -> None:
    """Copies of it are opened, one a round: they are not to be taken for copies, or for moved."""
    store._environment.write(lambda txn: txn.delete(Table.META, b"home"))


def entry_of(number: int, state: State) -> DownloadEntry:
    """An entry with about what a real one holds. Nobody listens on its port; and it is only due in a day."""
    return DownloadEntry(
        id=f"album-{number // 12:06}/track-{number % 12:02}",
        title=f"A track with a title of usual length, number {number}",
        product_type="track",
        sources=(f"http://127.0.0.1:9/media/album-{number // 12:06}/track-{number % 12:02}.flac",),
        destination=f"/library/album-{number // 12:06}/track-{number % 12:02}.flac",
        destination_is_folder=False,
        state=state,
        bytes_total=40_000_000,
        attempt_count=1,
        next_retry_at=time.time() + 86_400 if state is State.PENDING else None,
        created_at=1.7e9,
        updated_at=1.7e9,
        completed_at=1.7e9 if state is State.COMPLETED else None,
    )


def measure(bench: Bench) -> Report:
    """Every size in turn, each round on a fresh copy of its store."""
    report = Report()
    templates = {}
    for count in bench.scale.entry_counts:
        for kind, state in KINDS.items():
            template = os.path.join(bench.workspace.folder(f"store-{count}-{kind}"), "library")
            build(template, count, state)
            templates[kind, count] = template
    costs: dict[tuple[str, int], list[dict[str, float]]] = {key: [] for key in templates}
    for number in range(bench.scale.rounds + 1):
        for (kind, count), template in templates.items():
            told = _one(bench, template, count)
            bench.tell(f"{count} {kind}: opened in {told['open_s']:.3f} s")
            if number > 0:
                costs[kind, count].append(told)
    _fill(report, costs)
    return report


def _one(bench: Bench, template: str, count: int) -> dict[str, float]:
    """Opened twice: a copy does not fit the mark of its last close, so that at first all its pages are walked, as after
    a crash."""
    folder = bench.workspace.fresh("store", (count + ADDED) * STORE_BYTES_PER_ENTRY)
    root = os.path.join(folder, "library")
    shutil.copytree(template, root)
    after_crash, in_order = (
        run([sys.executable, "-m", "benchmarks.drive_store", root, str(added)], folder).told() for added in (1, ADDED)
    )
    bench.workspace.retire(folder)
    return {**in_order, "open_after_crash_s": after_crash["open_s"]}


def _fill(report: Report, told: dict[tuple[str, int], list[dict[str, float]]]) -> None:
    for (kind, count), each in told.items():
        report.rows[f"{count} {kind}"] = {
            name: Fact.of([one[name] for one in each]) for name in ("open_s", "open_after_crash_s", "rss_mib", "add_ms")
        }
    counts = [count for kind, count in told if kind == "complete"]
    for name in ("open_s", "rss_mib"):
        of_most = [Fact.of([one[name] for one in told[kind, max(counts)]]) for kind in KINDS]
        report.facts[name] = max(of_most, key=lambda fact: fact.median)
    least, most = (told["complete", count] for count in (min(counts), max(counts)))
    report.facts["add_ratio"] = paired([one["add_ms"] for one in most], [one["add_ms"] for one in least])
    report.notes.append(
        "adding: one synced transaction, the median of 200; opening is judged by the worse of the two kinds, after an "
        "orderly close (after a crash the store's pages are walked first)"
    )
    report.curve = Curve(
        "Time to open over entries in the store",
        "entries",
        "seconds",
        {
            kind: [(count, Fact.of([one["open_s"] for one in told[kind, count]]).median) for count in counts]
            for kind in KINDS
        },
        logarithmic_y=True,
    )
