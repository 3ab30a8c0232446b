"""CPU seconds per GiB over the size of a chunk, with the same memory for buffers."""

from __future__ import annotations

import os
import sys

from benchmarks.bench import GIB, KIB, MIB, Bench
from benchmarks.facts import Fact
from benchmarks.origin import serving
from benchmarks.report import Curve, Report
from benchmarks.turns import OUTPUT, Contender, in_turns
from benchmarks.whole_file import NAME
from engine import Config

BUFFER_BUDGET_BYTES = Config().buffer_count * Config().chunk_bytes
BUFFERS_MIN = 8  # two for each connection: one is filled while the other is sealed


def _label(chunk_bytes: int) -> str:
    return f"{chunk_bytes // MIB} MiB" if chunk_bytes >= MIB else f"{chunk_bytes // KIB} KiB"


def _settings(chunk_bytes: int) -> list[str]:
    settings = {
        "chunk_bytes": chunk_bytes,
        "small_chunk_bytes": min(chunk_bytes, Config().small_chunk_bytes),
        "buffer_count": max(BUFFERS_MIN, BUFFER_BUDGET_BYTES // chunk_bytes),
    }
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def measure(bench: Bench) -> Report:
    """CPU inside the engine, from asking for the file to having it."""
    report, scale = Report(), bench.scale
    with serving(bench.workspace.folder("origin")) as origin:
        origin.add(NAME, scale.whole_bytes)

        def contender(chunk_bytes: int) -> Contender:
            def command(folder: str) -> list[str]:
                return [
                    *(sys.executable, "-m", "benchmarks.drive", "--root", os.path.join(folder, "library")),
                    *("--out", os.path.join(folder, OUTPUT), "--connections", str(scale.connections)),
                    *(*_settings(chunk_bytes), origin.url(NAME)),
                ]

            return Contender(_label(chunk_bytes), (NAME,), command)

        outcome = in_turns(bench, origin, [contender(chunk_bytes) for chunk_bytes in scale.chunk_sizes])
    report.take(outcome)
    points = []
    for chunk_bytes in scale.chunk_sizes:
        costs = outcome.costs.get(_label(chunk_bytes))
        if costs:
            told = [cost.told() for cost in costs]
            cpu = Fact.of([each["work_cpu_s"] * GIB / scale.whole_bytes for each in told])
            report.rows[_label(chunk_bytes)] = {
                "cpu_s_per_gib": cpu,
                "wall_s": Fact.of([each["work_s"] for each in told]),
                "rss_mib": round(max(cost.rss_kib for cost in costs) / 1024, 1),
            }
            points.append((chunk_bytes / KIB, cpu.median))
    report.curve = Curve("CPU over the size of a chunk", "KiB a chunk", "CPU seconds per GiB", {"ours": points})
    return report
