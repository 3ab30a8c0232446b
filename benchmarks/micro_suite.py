"""The micro-benchmarks of ``benchmarks/micro``, run by pytest-benchmark."""

from __future__ import annotations

import json
import os
import sys

from benchmarks import peers
from benchmarks.bench import GIB, Bench
from benchmarks.cost import run
from benchmarks.report import Report, Value

TIMEOUT_S = 600.0
MICROSECONDS = 1e6


def measure(bench: Bench) -> Report:
    """Median microseconds of a call by the test's name, and GiB/s where it goes through bytes."""
    report = Report()
    report.missing = [tool.lack for tool in peers.TOOLS if tool.name == "pytest_benchmark" and not tool.present]
    if report.missing:
        return report
    folder = bench.workspace.folder("micro")
    found = os.path.join(folder, "found.json")
    command = [
        *(sys.executable, "-m", "pytest", "benchmarks/micro", "-q", "-p", "no:cacheprovider", "--benchmark-only"),
        *(f"--benchmark-json={found}", f"--basetemp={os.path.join(folder, 'tests')}"),
    ]
    if not bench.scale.settled:
        command += ["--benchmark-max-time=0.01", "--benchmark-min-rounds=1", "--benchmark-warmup=off"]
    run(command, folder, timeout_s=TIMEOUT_S)
    with open(found, encoding="utf-8") as source:
        told = json.load(source)
    for each in told["benchmarks"]:
        median = float(each["stats"]["median"])
        row: dict[str, Value] = {"median_us": round(median * MICROSECONDS, 2), "rounds": int(each["stats"]["rounds"])}
        if size := each["extra_info"].get("bytes"):
            row["gib_s"] = round(size / GIB / median, 2)
        report.rows[each["name"].removeprefix("test_")] = row
    return report
