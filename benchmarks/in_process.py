"""The same file inside one running process, as a library's user sees it: no interpreter start, no imports."""

from __future__ import annotations

import os
import sys

from benchmarks.bench import Bench
from benchmarks.facts import Fact, paired
from benchmarks.origin import serving
from benchmarks.report import Report
from benchmarks.turns import OUTPUT, Contender, in_turns
from benchmarks.whole_file import FLOOR, NAME, SYNCED_FLOOR, floors

MODES = {"relaxed": FLOOR, "strict": SYNCED_FLOOR}  # and what each is measured by


def measure(bench: Bench) -> Report:
    """Wall and CPU seconds from ``offline`` to the end of ``wait``, and the wall time over that of the whole floor."""
    report, connections = Report(), bench.scale.connections
    with serving(bench.workspace.folder("origin")) as origin:
        origin.add(NAME, bench.scale.whole_bytes)

        def command(durability: str, folder: str) -> list[str]:
            return [
                *(sys.executable, "-m", "benchmarks.drive", "--root", os.path.join(folder, "library")),
                *("--out", os.path.join(folder, OUTPUT), "--durability", durability),
                *("--connections", str(connections), origin.url(NAME)),
            ]

        own = [
            Contender(mode, (NAME,), lambda folder, mode=mode: command(mode, folder))  # type: ignore[misc]
            for mode in MODES
        ]
        racing = [each for pair in zip(own, floors(bench, origin, connections), strict=True) for each in pair]
        outcome = in_turns(bench, origin, racing)
    report.take(outcome)
    for mode, floor in MODES.items():
        if mode in outcome.costs:
            told = [cost.told() for cost in outcome.costs[mode]]
            walls = [each["work_s"] for each in told]
            report.rows[mode] = {
                "wall_s": Fact.of(walls),
                "cpu_s": Fact.of([each["work_cpu_s"] for each in told]),
                "open_s": Fact.of([each["open_s"] for each in told]),
            }
            if floor in outcome.costs:
                report.rows[mode]["times_floor"] = paired(walls, [cost.wall_s for cost in outcome.costs[floor]])
    return report
