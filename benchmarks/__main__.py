"""``python -m benchmarks [NAME…]``: measure ours beside its peers, and print what came out.

Exit status: 0 everything was measured (also what fell short of its target), 1 a benchmark or a contender failed,
2 usage, 3 a peer is missing and the rest was measured, 130 or 143 ended by a signal.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from benchmarks import (
    bad_line,
    changes,
    chunk_size,
    connections,
    curves,
    entries,
    in_process,
    kernel,
    kill,
    machine,
    many,
    micro_suite,
    planning,
    responsive,
    results,
    whole_file,
)
from benchmarks.ballast import ballast, ballast_bytes
from benchmarks.bench import Bench, Scale
from benchmarks.cost import ContenderFailed
from benchmarks.facts import PAIRS_MIN
from benchmarks.report import Report
from benchmarks.targets import Verdict, judge
from benchmarks.turns import WrongBytes
from benchmarks.workspace import Interrupted, NoRoom, Workspace, workspace

OK, FAILED, PEER_MISSING, SIGNAL_BASE = 0, 1, 3, 128

# In the order of a full run: first what makes many small files, before the disk is full enough that old ones must go.
BENCHMARKS: dict[str, Callable[[Bench], Report]] = {
    "kernel": kernel.measure,
    "plan": planning.measure,
    "micro": micro_suite.measure,
    "tiny": many.measure_tiny,
    "many": many.measure,
    "entries": entries.measure,
    "changes": changes.measure,
    "connections": connections.measure,
    "whole-file": whole_file.measure,
    "https": whole_file.measure_https,
    "in-process": in_process.measure,
    "chunk-size": chunk_size.measure,
    "responsive": responsive.measure,
    "memory": whole_file.measure_memory,
    "kill": kill.measure,
    "bad-line": bad_line.measure,
}


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all without one")
    parser.add_argument("--rounds", type=int, default=5, help="after the warm-up; at least 3 (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--plot", metavar="DIR", help="draw the curves as SVG files in this folder")
    parser.add_argument(
        "--write-results",
        nargs="?",
        const=results.DEFAULT_PATH,
        metavar="FILE",
        help="write all that was found as Markdown (default: RESULTS.md beside the benchmarks)",
    )
    parser.add_argument("--folder", metavar="DIR", help="where to download to (default: the temporary folder)")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it works, measures nothing")
    parser.add_argument("--no-ballast", action="store_true", help="hold no memory, also on a virtual machine")
    options = parser.parse_args(words)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]!r}: {', '.join(BENCHMARKS)} are known")
    if options.rounds < PAIRS_MIN:
        parser.error(f"--rounds must be at least {PAIRS_MIN}: no ratio is told from fewer pairs")
    if options.quick and options.write_results == results.DEFAULT_PATH:
        parser.error("--quick measures nothing: --write-results needs another FILE")
    return options


def scale_of(options: argparse.Namespace) -> Scale:
    """How much to do."""
    scale = Scale(rounds=options.rounds)
    return scale.quick() if options.quick else scale


def memory_to_hold(options: argparse.Namespace) -> int:
    """Bytes of ballast: on a virtual machine only, and not where nothing is measured."""
    if options.no_ballast or options.quick or not machine.is_virtual():
        return 0
    with open("/proc/meminfo", encoding="ascii") as source:
        return ballast_bytes(source.read())


def measured(name: str, bench: Bench) -> Report:
    """The benchmark's report; one that fails is told in it, so that the rest goes on."""
    bench.tell(f"{name} …")
    try:
        return BENCHMARKS[name](bench)
    except (WrongBytes, ContenderFailed, NoRoom) as error:
        return Report(failed={name: str(error)})


def show(reports: Mapping[str, Report], verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    """Print what was found."""
    if as_json:
        found = {name: report.as_json() for name, report in reports.items()}
        print(json.dumps({"benchmarks": found, "targets": [verdict.as_json() for verdict in verdicts]}))
        return
    for name, report in reports.items():
        print(name)
        print("\n".join(report.lines()))
    print("targets")
    for verdict in verdicts:
        if verdict.target.benchmark in reports:
            target = verdict.target
            print(f"  {verdict.word:12} {target.what}: {verdict.reached or '-'} (target: {target.bounds})")


def status_of(reports: Mapping[str, Report], missing: Sequence[str]) -> int:
    """The exit status."""
    if any(report.failed for report in reports.values()):
        return FAILED
    return PEER_MISSING if missing else OK


def run(options: argparse.Namespace, command: str, space: Workspace) -> int:
    """Do what was asked for in this workspace; returns the exit status."""
    began, clock = datetime.now(UTC), time.monotonic()
    bench = Bench(scale_of(options), space, quiet=options.json)
    reports = {name: measured(name, bench) for name in options.names or BENCHMARKS}
    verdicts = judge(reports) if bench.scale.settled else []
    missing = list(dict.fromkeys(lack for report in reports.values() for lack in report.missing))
    show(reports, verdicts, as_json=options.json)
    if options.plot is not None:
        missing += curves.lacks()
        if not curves.lacks():
            bench.tell("drawn: " + ", ".join(curves.draw(reports, options.plot)))
    if options.write_results is not None:
        about = results.Run(
            began=began.isoformat(timespec="seconds"),
            command=command,
            took_s=time.monotonic() - clock,
            settled=bench.scale.settled,
            machine=machine.describe(space.path),
            versions=machine.versions(),
        )
        results.write(options.write_results, about, reports, verdicts)
    for lack in missing:
        print(lack, file=sys.stderr)
    return status_of(reports, missing)


def main(words: Sequence[str]) -> int:
    """Run the named benchmarks, or all."""
    options = parsed(words)
    try:
        with workspace(options.folder) as space, ballast(memory_to_hold(options)):
            return run(options, shlex.join(["python", "-m", "benchmarks", *words]), space)
    except Interrupted as ended:
        print(f"{ended}; its files are deleted", file=sys.stderr)
        return SIGNAL_BASE + ended.number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
