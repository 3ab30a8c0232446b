"""Many small files at once: every one of ours is an entry of its own, durable and hashed."""

from __future__ import annotations

import os
import sys

from benchmarks.bench import Bench
from benchmarks.facts import Fact, paired, wall_ratio
from benchmarks.origin import Origin, serving
from benchmarks.report import Report, race_rows
from benchmarks.turns import OUTPUT, Contender, in_turns

OURS = "ours"


def _listed(folder: str, lines: list[str]) -> str:
    path = os.path.join(folder, "list")
    with open(path, "w", encoding="ascii") as target:
        target.write("\n".join(lines) + "\n")
    return path


def driven(folder: str, urls: list[str], settings: dict[str, int], *words: str) -> list[str]:
    """The command line of our driver for these URLs."""
    return [
        *(sys.executable, "-m", "benchmarks.drive", "--root", os.path.join(folder, "library")),
        *("--out", os.path.join(folder, OUTPUT), "--list", _listed(folder, urls), *words),
        *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
    ]


def contenders(origin: Origin, names: list[str], parallel: int) -> list[Contender]:
    """Each with ``parallel`` transfers at once."""
    urls = [origin.url(name) for name in names]
    # An entry whose bytes have come gives its connection on, and is recorded and named while others receive.
    settings = {"entries_at_once": 3 * parallel, "connections_max": parallel, "idle_connections_per_host": parallel}

    def own(folder: str) -> list[str]:
        return driven(folder, urls, settings, "--connections", "1")

    def curl(folder: str) -> list[str]:
        lines = []
        for name, url in zip(names, urls, strict=True):
            target = os.path.join(folder, OUTPUT, os.path.basename(name))
            lines += [f'url = "{url}"', f'output = "{target}"']
        return ["curl", "-sf", "-Z", "--parallel-max", str(parallel), "-K", _listed(folder, lines)]

    def aria2c(folder: str) -> list[str]:
        out = os.path.join(folder, OUTPUT)
        return ["aria2c", "-q", f"-j{parallel}", "-d", out, "-i", _listed(folder, urls)]

    def wget2(folder: str) -> list[str]:
        out = os.path.join(folder, OUTPUT)
        return ["wget2", "-q", f"--max-threads={parallel}", "-P", out, "-i", _listed(folder, urls)]

    return [
        Contender(OURS, names, own),
        Contender(f"curl -Z --parallel-max {parallel}", names, curl, ("curl",)),
        Contender(f"aria2c -j{parallel}", names, aria2c, ("aria2c",)),
        Contender(f"wget2 --max-threads={parallel}", names, wget2, ("wget2",)),
    ]


def measure(bench: Bench) -> Report:
    """Files of 256 KiB."""
    return _measure(bench, bench.scale.small_bytes)


def measure_tiny(bench: Bench) -> Report:
    """Files of 4 KiB."""
    return _measure(bench, bench.scale.tiny_bytes)


def _measure(bench: Bench, size: int) -> Report:
    report, count = Report(), bench.scale.files
    with serving(bench.workspace.folder("origin")) as origin:
        names = origin.add_many("many", count, size)
        outcome = in_turns(bench, origin, contenders(origin, names, bench.scale.parallel))
    report.take(outcome)
    report.rows = race_rows(outcome, OURS)
    for label, costs in outcome.costs.items():
        report.rows[label]["files_s"] = Fact.of([count / cost.wall_s for cost in costs])
    if own := outcome.costs.get(OURS):
        inside = [cost.told() for cost in own]
        report.rows["ours, inside the process"] = {
            "wall_s": Fact.of([told["inside_s"] for told in inside]),
            "cpu_s": Fact.of([told["work_cpu_s"] for told in inside]),
            "open_s": Fact.of([told["open_s"] for told in inside]),
            "files_s": Fact.of([count / told["inside_s"] for told in inside]),
        }
        report.facts["entries_per_s"] = Fact.of([count / cost.wall_s for cost in own])
        report.facts["entries_per_s_inside"] = Fact.of([count / told["inside_s"] for told in inside])
        for label, costs in outcome.costs.items():
            if label != OURS:
                report.facts[f"times_{label.split()[0]}"] = wall_ratio(costs, own)
                walls = [told["inside_s"] for told in inside]
                report.rows[label]["times_ours_inside"] = paired([cost.wall_s for cost in costs], walls)
    report.notes.append(
        "`inside the process` leaves out the start of the interpreter and the imports; targets are judged with them"
    )
    return report
