"""The event loop while the disk hangs: every large write takes 40 ms and every sync 250 ms, and the host's tasks must
not notice."""

from __future__ import annotations

import os
import sys

from benchmarks import peers
from benchmarks.bench import MIB, Bench
from benchmarks.facts import Fact
from benchmarks.origin import serving
from benchmarks.report import Report
from benchmarks.turns import OUTPUT, Contender, in_turns

NAME = "slow.bin"
SLOW = {"SLOW_WRITE_MS": "40", "SLOW_SYNC_MS": "250"}


def measure(bench: Bench) -> Report:
    """Milliseconds that a task waits for its turn, with the disk as it is and with one that hangs; peak memory."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "slow_disk.c")
    shim = peers.compiled(source, os.path.join(bench.workspace.folder("shim"), "slow_disk.so"), "-shared", "-fPIC")
    with serving(bench.workspace.folder("origin")) as origin:
        origin.add(NAME, bench.scale.slow_disk_bytes)

        def command(folder: str, *prefix: str) -> list[str]:
            return [
                *(*prefix, sys.executable, "-m", "benchmarks.drive_loop", "--root", os.path.join(folder, "library")),
                *("--out", os.path.join(folder, OUTPUT), "--durability", "strict", origin.url(NAME)),
            ]

        slowly = ["env", f"LD_PRELOAD={shim}", *(f"{name}={value}" for name, value in SLOW.items())]
        racing = [
            Contender("the disk as it is", (NAME,), command),
            Contender("a disk that hangs", (NAME,), lambda folder: command(folder, *slowly), ("cc",)),
        ]
        outcome = in_turns(bench, origin, racing)
    report = Report()
    report.take(outcome)
    for label, costs in outcome.costs.items():
        told = [cost.told() for cost in costs]
        report.rows[label] = {name: Fact.of([each[name] for each in told]) for name in ("p50_ms", "p99_ms", "worst_ms")}
        report.rows[label]["work_s"] = Fact.of([each["work_s"] for each in told])
        report.rows[label]["rss_mib"] = round(max(cost.rss_kib for cost in costs) * 1024 / MIB, 1)
        if label == racing[1].label:
            report.facts["late_p99_ms"] = Fact.of([each["p99_ms"] for each in told])
    report.notes.append(
        f"a disk that hangs: {SLOW['SLOW_WRITE_MS']} ms a large write, {SLOW['SLOW_SYNC_MS']} ms a sync"
    )
    return report
