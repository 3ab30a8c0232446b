"""``python -m benchmarks [NAME…] [--rounds N] [--json]``: measure, and print what came out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from benchmarks import in_process, kernel, kill, planning, whole_file

BENCHMARKS: dict[str, Callable[[int], dict[str, object]]] = {
    "whole-file": whole_file.measure,
    "in-process": in_process.measure,
    "memory": lambda _rounds: whole_file.memory(),
    "kernel": kernel.measure,
    "plan": planning.measure,
    "kill": kill.measure,
}


def main() -> int:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all without one")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds after the warm-up (default 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}: {', '.join(BENCHMARKS)} are known")
    report = {name: BENCHMARKS[name](options.rounds) for name in options.names or BENCHMARKS}
    if options.json:
        print(json.dumps(report))
        return 0
    for name, rows in report.items():
        print(name)
        for label, value in rows.items():
            print(f"  {label:24} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
