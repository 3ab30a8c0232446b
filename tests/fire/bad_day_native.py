"""The bad day below Python (T1, T5): the sealer's and LMDB's own system calls go wrong, one after another.

    python -m tests.fire.bad_day_native [--share 0.1 --seed 1] [--case SCENE:KIND:AT:WAY:LASTING]

``shim.c`` is compiled and preloaded into engine processes. Afterwards the judge looks, an engine without it takes up
what there is, and the judge looks again.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Final, NamedTuple

import msgspec
import trio

from engine import DownloadRequest, Durability
from tests.fire.bad_day_child import KINDS, NativeJob, NativeReport
from tests.fire.judge import Day, Journal, judge
from tests.fire.options import NOTHING_TRIED, ended, shared
from tests.support.engine_process import CRASHED, REPOSITORY, EngineProcesses
from tests.support.library import CHUNK, content, files_under, payload_of, small
from tests.support.origin import Origin, serve
from tests.support.run import run

SHIM: Final = Path(__file__).with_name("shim.c")
FAST: Final = {
    "commit_interval_s": 0.01,
    "first_span_bytes": CHUNK,
    "chunk_bytes": CHUNK,
    "parallel_bytes_min": CHUNK,
    "close_timeout_s": 0.5,
    "space_check_interval_s": 0.05,
}
MANY, SOLE = payload_of(5 * CHUNK + 9, seed=91), payload_of(CHUNK - 7, seed=92)
# The payload, and the durability.
SCENES: Final[dict[str, tuple[bytes, str]]] = {
    "strict": (MANY, "strict"),
    "relaxed": (MANY, "relaxed"),
    "one-chunk": (SOLE, "strict"),
}
_DISK: Final = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "ENXIO")
WAYS: Final[dict[str, tuple[str, ...]]] = {
    "pwrite": (*_DISK, "EFBIG", "EINTR", "short", "exits"),
    "writev": (*_DISK, "EFBIG", "EINTR", "short", "exits"),
    "fdatasync": (*_DISK, "exits"),
    "fsync": (*_DISK, "exits"),
    "ftruncate": (*_DISK, "EFBIG", "exits"),
    "fallocate": (*_DISK, "EOPNOTSUPP", "EINTR", "exits"),
    "rename": (*_DISK, "EACCES", "exits"),
    "open": ("EIO", "ENFILE", "EMFILE", "EACCES", "ENXIO", "exits"),
    "unlink": ("EIO", "EROFS", "EACCES", "exits"),
    "mkdir": ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "exits"),
}
ONCE_ONLY: Final = frozenset({"EINTR", "exits"})  # a signal for ever is no plausible day


class Case(NamedTuple):
    """Call ``at`` of the kind goes wrong in this way."""

    scene: str
    kind: str
    at: int
    way: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.scene}:{self.kind}:{self.at}:{self.way}:{int(self.lasting)}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """What ``str`` made; ValueError for what it never makes."""
        scene, kind, at, way, lasting = text.split(":")
        if scene not in SCENES or way not in WAYS.get(kind, ()) or int(at) < 1:
            raise ValueError(text)
        return cls(scene, kind, int(at), way, bool(int(lasting)))


@dataclass
class Tally:
    """What all cases came to."""

    runs: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def compiled(folder: Path) -> Path:
    """The shim, made by the system's compiler."""
    library = folder / "shim.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, SHIM, "-ldl", "-lpthread"],
        check=True,
    )
    return library


@asynccontextmanager
async def preloaded(shim: Path) -> AsyncIterator[EngineProcesses]:
    """The process that forks engines, with the shim in it."""
    command = [sys.executable, "-m", "tests.fire.bad_day_child"]
    process = await trio.lowlevel.open_process(
        command, stdin=PIPE, stdout=PIPE, cwd=REPOSITORY, env={**os.environ, "LD_PRELOAD": str(shim)}
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield EngineProcesses(process)
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(5):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdout.aclose()


def _job(case: Case, origin: Origin, here: Path) -> NativeJob:
    how = case.way if case.way in {"short", "exits"} else "fails"
    return NativeJob(
        root=str(here / "library"),
        url=origin.url(),
        report=str(here / "report"),
        config=FAST,
        connections=2,
        durability=SCENES[case.scene][1],
        kind=case.kind,
        at=case.at,
        how=how,
        number=getattr(errno, case.way) if how == "fails" else 0,
        lasting=case.lasting,
    )


async def run_case(
    processes: EngineProcesses, origin: Origin, case: Case, here: Path
) -> tuple[NativeReport | None, int, list[str]]:
    """What the process reported (None: it died), its exit status, and what the judge found."""
    payload, durability = SCENES[case.scene]
    origin.serve(payload)
    job = _job(case, origin, here)
    with trio.fail_after(60):
        status = await processes.run(job)
    report = None if status else msgspec.json.decode(Path(job.report).read_bytes(), type=NativeReport)
    findings = [] if status in {0, CRASHED} else [f"P6: the process ended with {status}"]
    journal = Journal()
    if report is not None and not report.error:
        journal.accepted.add(job.id)
        journal.completed.add(job.id)
    config = small(**FAST)
    day = Day(truths={"": (payload,)}, journal=journal, config=config)
    findings += judge(job.root, day)
    request = DownloadRequest(url=job.url, id=job.id, connections=2, durability=Durability(durability))
    outcome = await run(job.root, request, config=config)
    if outcome.offline is None or content(outcome.offline.path) != payload:
        findings.append(f"P5: it is not complete in the end: {outcome.message}")
    findings += judge(job.root, at_rest(day))
    if files_under(here / "library" / "files") != {"film.bin"}:
        findings.append("P5: there are other files than its own in the end")
    return report, status, findings


def at_rest(day: Day) -> Day:
    """The same day, at rest."""
    return Day(truths=day.truths, journal=day.journal, config=day.config, rested=True)


async def all_cases(processes: EngineProcesses, origin: Origin, folder: Path) -> list[Case]:
    """Every way of every call that a process without faults makes."""
    cases = []
    for scene in SCENES:
        here = folder / f"good-{scene}"
        here.mkdir()
        report, _, findings = await run_case(processes, origin, Case(scene, "pwrite", 0, "EIO", False), here)
        assert report is not None, f"{scene}: the process died on a good day"
        assert not findings, f"{scene} on a good day: {findings}"
        for kind in KINDS:
            cases += [
                Case(scene, kind, at, way, lasting)
                for at in range(1, report.made[kind] + 2)
                for way in WAYS[kind]
                for lasting in ((False,) if way in ONCE_ONLY else (False, True))
            ]
    return cases


async def run_cases(
    processes: EngineProcesses, origin: Origin, cases: Sequence[Case], folder: Path, tally: Tally
) -> None:
    """All of them, one after another."""
    for case in cases:
        here = Path(tempfile.mkdtemp(dir=folder))
        report, status, findings = await run_case(processes, origin, case, here)
        shutil.rmtree(here)
        tally.runs += 1
        if report is None or report.struck:
            tally.struck[f"{case.kind} {case.way}"] += 1
            tally.statuses["died" if report is None else report.error or "(none)"] += 1
        tally.findings += [f"--case {case} ({status}, {report and report.error}): {line}" for line in findings]


async def _main(options: argparse.Namespace, folder: Path) -> Tally:
    tally = Tally()
    async with preloaded(compiled(folder)) as processes, serve(MANY) as origin:
        cases = await all_cases(processes, origin, folder)
        if options.share < 1:
            cases = random.Random(options.seed).sample(cases, max(1, int(len(cases) * options.share)))
        if options.case:
            cases = [options.case]
        print(f"{len(cases)} cases, seed {options.seed}", flush=True)
        for place in range(0, len(cases), 50):
            told = len(tally.findings)
            if time.monotonic() > options.until:
                break
            await run_cases(processes, origin, cases[place : place + 50], folder, tally)
            print(*tally.findings[told:], f"… {tally.runs} runs", sep="\n", flush=True)
    return tally


def main() -> int:
    """The long tier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=shared, default=1.0, help="of all cases, by chance (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=Case.parse, help="SCENE:CALL:AT:WAY:LASTING, as a finding tells it")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    begun = time.monotonic()
    options.until = begun + options.seconds
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # nothing here depends on what a disk does
        tally = trio.run(_main, options, Path(folder))
    struck, seconds = tally.struck.total(), time.monotonic() - begun
    print(
        f"{tally.runs} runs, {struck} struck, {len(tally.findings)} findings, {seconds:.0f} s; {dict(tally.statuses)}"
    )
    return 1 if tally.findings else 0 if struck or not options.case else NOTHING_TRIED


if __name__ == "__main__":
    sys.exit(ended(main))
