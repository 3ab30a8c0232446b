"""One large file from nginx on loopback: ours beside the C floor, curl and aria2c, in one run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial

from benchmarks.measure import Cost, in_turns, median, paired_ratio, run
from benchmarks.origin import Origin, serving

GIB = 1 << 30
HERE = os.path.dirname(os.path.abspath(__file__))

Report = dict[str, object]


def compiled_floor(folder: str) -> str:
    """``floor.c``, built."""
    binary = os.path.join(folder, "floor")
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-pthread", os.path.join(HERE, "floor.c"), "-o", binary], check=True
    )
    return binary


def fresh(folder: str, name: str, command: Callable[[str], list[str]]) -> Cost:
    """Run a contender into an empty folder of its own."""
    target = os.path.join(folder, name)
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    try:
        return run(command(target))
    finally:
        shutil.rmtree(target)


def contenders(folder: str, origin: Origin, connections: int) -> dict[str, Callable[[str], list[str]]]:
    """Each contender's command line for a target folder."""
    url, floor = origin.url("big.bin"), compiled_floor(folder)

    def ours(durability: str, target: str) -> list[str]:
        return [
            *(sys.executable, "-m", "engine", "--root", target, "get", url, "--json", "--no-progress"),
            *("--connections", str(connections), "--durability", durability),
        ]

    floor_base = [floor, "127.0.0.1", str(origin.port), "/big.bin"]
    table: dict[str, Callable[[str], list[str]]] = {
        "ours, relaxed": partial(ours, "relaxed"),
        "C floor": lambda target: [*floor_base, f"{target}/out", str(connections)],
        "ours, strict": partial(ours, "strict"),
        "C floor, fdatasync": lambda target: [*floor_base, f"{target}/out", str(connections), "--fdatasync"],
    }
    if shutil.which("curl"):
        table["curl -o"] = lambda target: ["curl", "-s", "-o", f"{target}/out", url]
    if shutil.which("aria2c"):
        table["aria2c -x4 -s4"] = lambda target: ["aria2c", "-q", "-x4", "-s4", "-d", target, "-o", "out", url]
    return table


def measure(rounds: int, size: int = GIB, connections: int = 4) -> Report:
    """Medians over ``rounds`` of every contender, and how much faster ours (relaxed) was in the same round."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder, serving(folder) as origin:
        origin.add("big.bin", size)
        table = contenders(folder, origin, connections)
        runs = {name: partial(fresh, folder, "target", command) for name, command in table.items()}
        costs = in_turns(runs, rounds)
    baseline = costs["ours, relaxed"]
    return {
        name: {
            "wall_s": round(median([cost.wall_s for cost in each]), 3),
            "cpu_s": round(median([cost.cpu_s for cost in each]), 3),
            "rss_mib": round(max(cost.rss_kib for cost in each) / 1024, 1),
            "wall_over_ours": round(paired_ratio(baseline, each), 2),
        }
        for name, each in costs.items()
    }


def memory(size: int = GIB) -> Report:
    """Peak resident memory for a GiB over 16 connections."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder, serving(folder) as origin:
        origin.add("big.bin", size)
        command = contenders(folder, origin, 16)["ours, relaxed"]
        costs = [fresh(folder, "target", command) for _ in range(3)]
    return {"connections": 16, "rss_mib": round(max(cost.rss_kib for cost in costs) / 1024, 1)}


if __name__ == "__main__":
    print(json.dumps(measure(5), indent=2))
