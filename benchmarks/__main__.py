"""``python -m benchmarks [NAME…]``: measure ours beside its peers, and print what came out.

Exit status: 0 everything was measured (also what fell short of its target), 1 a benchmark or a contender failed,
2 usage, 3 a peer is missing and the rest was measured, 129, 130, 141 or 143 ended by a signal or a reader that left.

Everything takes about 45 minutes, nearly all memory that is free (on a virtual machine), and 60 GiB of disk, less
where older results have to go. --write-results replaces the whole file; when only some benchmarks run it needs a FILE.
bad-line needs root. kill -9 of this program leaves its folder, and nothing that runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
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
from benchmarks.ballast import Ballast, NoMemory, ballast, memory_to_hold
from benchmarks.bench import Bench, Scale
from benchmarks.cost import ContenderFailed
from benchmarks.facts import PAIRS_MIN
from benchmarks.peers import PeerMissing
from benchmarks.report import Report
from benchmarks.targets import Verdict, judge
from benchmarks.turns import WrongBytes
from benchmarks.workspace import Interrupted, NoRoom, Workspace, workspace

OK, FAILED, PEER_MISSING, SIGNAL_BASE = 0, 1, 3, 128
PLAIN_PATH = re.compile(r"[A-Za-z0-9._/-]+")

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
    parser.add_argument(
        "--no-ballast",
        action="store_true",
        help="do not hold all memory but 4.5 GiB, which a run on a virtual machine does (benchmarks/ballast.py)",
    )
    options = parser.parse_args(words)
    check_places(parser, options)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]!r}: {', '.join(BENCHMARKS)} are known")
    if options.rounds < PAIRS_MIN:
        parser.error(f"--rounds must be at least {PAIRS_MIN}: no ratio is told from fewer pairs")
    return options


def check_places(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse now what could not be written, or would be regretted, when everything is measured."""
    for name in ("folder", "plot", "write_results"):
        if getattr(options, name) == "":
            parser.error(f"--{name.replace('_', '-')} is empty")
    folder = os.path.abspath(options.folder or tempfile.gettempdir())  # contenders run elsewhere
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        parser.error(f"--folder {folder} is no folder that can be written")
    if not PLAIN_PATH.fullmatch(folder):
        parser.error(f"{folder}: nginx and ld.so take letters, digits and ._/- only; --folder names another one")
    options.folder = folder
    if options.plot is not None:
        try:
            os.makedirs(options.plot, exist_ok=True)
        except OSError as error:
            parser.error(f"--plot {options.plot} is no folder, and cannot be made: {error.strerror}")
    check_results(parser, options)


def check_results(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse to lose the results of a whole run, or to have nowhere to write to."""
    written = options.write_results
    if written is None:
        return
    if written in BENCHMARKS:
        parser.error(f"--write-results would write to a file called {written}: put it behind the names")
    if not os.access(os.path.dirname(os.path.abspath(written)), os.W_OK) or os.path.isdir(written):
        parser.error(f"--write-results {written} cannot be written")
    if (options.quick or options.names) and os.path.realpath(written) == os.path.realpath(results.DEFAULT_PATH):
        what = "--quick measures nothing" if options.quick else "some benchmarks are no whole run"
        parser.error(f"{what}: --write-results needs another FILE")


def scale_of(options: argparse.Namespace) -> Scale:
    """How much to do."""
    scale = Scale(rounds=options.rounds)
    return scale.quick() if options.quick else scale


def ballast_of(options: argparse.Namespace) -> int:
    """Bytes to hold: on a virtual machine only, and not where nothing is measured."""
    return 0 if options.no_ballast or options.quick or not machine.is_virtual() else memory_to_hold()


def measured(name: str, bench: Bench) -> Report:
    """The benchmark's report; one that fails is told in it, so that the rest goes on."""
    bench.tell(f"{name} …")
    try:
        return BENCHMARKS[name](bench)
    except PeerMissing as lack:
        return Report(missing=[str(lack)])
    except (WrongBytes, ContenderFailed, NoRoom) as error:
        return Report(failed={name: str(error)})
    except Exception as error:  # noqa: BLE001  # what was measured before it must not be lost with it
        traceback.print_exc()
        return Report(failed={name: f"{type(error).__name__}: {error}"})


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


def run(options: argparse.Namespace, command: str, space: Workspace, held: Ballast) -> int:
    """Do what was asked for in this workspace; returns the exit status."""
    began, clock = datetime.now(UTC), time.monotonic()
    bench = Bench(scale_of(options), space, quiet=options.json)
    reports = {name: measured(name, bench) for name in options.names or BENCHMARKS}
    verdicts = judge(reports) if bench.scale.settled else []
    missing = list(dict.fromkeys(lack for report in reports.values() for lack in report.missing))
    if options.write_results is not None:  # before anything else that can fail
        about = results.Run(
            began=began.isoformat(timespec="seconds"),
            command=command,
            took_s=time.monotonic() - clock,
            settled=bench.scale.settled,
            machine={**machine.describe(space.path), "memory held meanwhile": held.word},
            versions=machine.versions(),
        )
        results.write(options.write_results, about, reports, verdicts)
    if options.plot is not None:
        missing += curves.lacks()
        if not curves.lacks() and (drawn := curves.draw(reports, options.plot)):
            bench.tell("drawn: " + ", ".join(drawn))
    show(reports, verdicts, as_json=options.json)
    if "lost" in held.word:
        print(f"memory held meanwhile: {held.word}", file=sys.stderr)
        return FAILED
    for lack in missing:
        print(lack, file=sys.stderr)
    return status_of(reports, missing)


def main(words: Sequence[str]) -> int:
    """Run the named benchmarks, or all."""
    options = parsed(words)
    try:
        with workspace(options.folder) as space:
            size = ballast_of(options)
            if size and not options.json:
                print(f"holding {size >> 20} MiB of memory (--no-ballast: none) …", file=sys.stderr)
            with ballast(size) as held:
                return run(options, shlex.join(["python", "-m", "benchmarks", *words]), space, held)
    except NoMemory as error:
        print(error, file=sys.stderr)
        return FAILED
    except Interrupted as ended:
        print(f"{ended}; its files are deleted", file=sys.stderr)
        return SIGNAL_BASE + ended.number


def printed(words: Sequence[str]) -> int:
    """Do it; a reader of the output that left early ends it like a signal does."""
    try:
        status = main(words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return SIGNAL_BASE + signal.SIGPIPE
    return status


if __name__ == "__main__":
    sys.exit(printed(sys.argv[1:]))
