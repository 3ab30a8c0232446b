"""``RESULTS.md``: written by the harness, never by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report import Report, shown
from benchmarks.targets import Verdict

DEFAULT_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "RESULTS.md")
SETTLED = """\
Measured against a private nginx on loopback. Contenders take turns, A B C A B C, after one warm-up each; every file is
hashed after every run. A cell is a median with the least and the greatest value behind it. A ratio is the median of the
ratios within the same round. `wall_s` and `cpu_s` are seconds of the process and its children, its start included;
`rss_mib` is the greatest peak memory of all rounds (less than 9 MiB is told as 9); `times_ours` is the wall time over
ours in the same round: above 1, ours was faster."""
QUICK = "A smoke run with small sizes: it shows that everything works, and its numbers mean nothing."


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the harness: when it began (ISO 8601, UTC), how it was called, how many seconds it took, on what."""

    began: str
    command: str
    took_s: float
    settled: bool
    machine: Mapping[str, str]
    versions: Mapping[str, str]


def text(run: Run, reports: Mapping[str, Report], verdicts: Sequence[Verdict]) -> str:
    """The whole file."""
    parts = [
        "# Results\n",
        "<!-- Written by `python -m benchmarks --write-results`. Do not edit: run it again. -->\n",
        f"`{run.command}`, {run.began}, {run.took_s / 60:.0f} min.\n",
        f"{SETTLED if run.settled else QUICK}\n",
        "## Machine\n",
        _pairs(run.machine),
        "## Targets\n",
        _table(
            ["", "target", "reached (min..max)", ""],
            [[each.target.what, each.target.bounds, each.reached, each.word] for each in verdicts],
        ),
    ]
    parts += [_section(name, report) for name, report in reports.items()]
    parts += ["## Versions\n", _pairs(run.versions)]
    return "\n".join(parts)


def write(path: str, run: Run, reports: Mapping[str, Report], verdicts: Sequence[Verdict]) -> None:
    """Replace the file at ``path``."""
    unfinished = f"{path}.new"
    with open(unfinished, "w", encoding="utf-8") as target:
        target.write(text(run, reports, verdicts))
    os.replace(unfinished, path)


def _section(name: str, report: Report) -> str:
    columns = list(dict.fromkeys(column for row in report.rows.values() for column in row))
    lines = [
        [label, *(shown(row[column]) if column in row else "" for column in columns)]
        for label, row in report.rows.items()
    ]
    told = [f"## {name}\n"]
    if lines:
        told.append(_table(["", *columns], lines))
    told += [f"- **failed**, {label}: {_one_line(what)}" for label, what in report.failed.items()]
    told += [f"- not measured: {lack}" for lack in report.missing]
    told += [f"- {note}" for note in report.notes]
    ended = report.failed or report.missing or report.notes
    return "\n".join(told) + ("\n" if ended else "")


def _pairs(pairs: Mapping[str, str]) -> str:
    return _table(["", ""], [[name, value] for name, value in pairs.items()])


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(_one_line(cell) for cell in row)} |\n" for row in rows)


def _one_line(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")
