"""Count the bad day (T1): the first, second, third … call goes wrong in each way it can, then everything is mended.

    python -m tests.fire.bad_day [--scene NAME]… [--seed N --share 0.1] [--part 1/2] [--dies]
    python -m tests.fire.bad_day --case SCENE:KIND:AT:WHICH:LASTING

Without ``--share`` every call of every scene meets everything that may go wrong with it, once and from then on, and the
process dies before every call; until a run passes untouched. Each time the judge looks at what is left, an engine
without faults is opened, and the judge looks again. A finding is told with its case, which can be run alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import trio

from engine import EngineError, State
from tests.fire.bad_day_faults import FAULTS, Numbering
from tests.fire.bad_day_scenes import BY_NAME, SCENES, Scene, rest
from tests.fire.bad_day_world import CONFIG, World, bad_day, files_of
from tests.fire.judge import Day, Journal, judge, read_store
from tests.fire.options import NOTHING_TRIED, ended, parted, shared
from tests.support.origin import serve
from tests.whole.test_whole_faults import open_descriptors

DEATH = -1
MEMORY = "/dev/shm"  # nothing here depends on what a disk does


class Case(NamedTuple):
    """The ``at``-th call of a kind in the scene meets fault ``which`` of that kind; -1: the process dies. Counted by
    kinds, because threads and sockets make the order of all calls a little different in every run."""

    scene: str
    kind: str
    at: int
    which: int
    lasting: bool

    def __str__(self) -> str:
        return f"{self.scene}:{self.kind}:{self.at}:{self.which}:{int(self.lasting)}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case that was told; ValueError for what never is."""
        scene, kind, at, which, lasting = text.split(":")
        if scene not in BY_NAME or not DEATH <= int(which) < len(FAULTS.get(kind, ())) or int(at) < 1:
            raise ValueError(text)
        return cls(scene, kind, int(at), int(which), bool(int(lasting)))


@dataclass
class Tally:
    """What a whole day's counting came to."""

    runs: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


class Outcome(NamedTuple):
    """One case: what it met, the code of what the work ended with, and what the judge found."""

    numbering: Numbering
    code: str
    findings: list[str]


async def run_case(case: Case, folder: Path) -> Outcome:
    """One bad day and the days after it, in the empty folder."""
    scene = BY_NAME[case.scene]
    numbering = Numbering(case.at, case.which, case.lasting, case.kind)
    async with serve(next(iter(scene.truths.values()))[-1]) as origin:
        world = World(folder / "library", origin)
        await scene.prepare(world)
        world = replace(world, boot="another boot" if scene.reboot else "")
        journal = Journal()
        before = open_descriptors()
        code = await bad_day(world, numbering, journal, scene.work)
        findings = [f"P6: {code}"] if code.startswith("untyped") else []
        leaked = open_descriptors() - before
        if leaked and not numbering.dead:
            findings.append(f"P6: {len(leaked)} descriptors are left open")
        if not numbering.struck:
            return Outcome(numbering, code, findings + _judge(scene, world, journal, rested=False))
        findings += _judge(scene, world, journal, rested=False)
        findings += await _days_after(scene, world, journal, dead=numbering.dead)
    return Outcome(numbering, code, findings)


def _judge(scene: Scene, world: World, journal: Journal, *, rested: bool) -> list[str]:
    day = Day(
        truths=scene.truths,
        journal=journal,
        config=CONFIG,
        rested=rested,
        harmed=scene.harmed,
        folders=(str(world.own),),
        others=[Path(name).name for name in scene.before or ()],
    )
    findings = judge(world.root, day)
    there = files_of(world)
    for name, before in (scene.before or {}).items():
        if there.get(name) not in {before, scene.files[name]}:
            findings.append(f"P2: {name} is neither the old file nor the new one")
    return findings


async def _days_after(scene: Scene, world: World, journal: Journal, *, dead: bool) -> list[str]:
    """An engine without faults, that nobody asks for anything; then a user who asks again."""
    try:
        async with world.open() as engine:
            await rest(engine)
            states = {entry.id: entry.state for entry in await engine.list()}
    except (EngineError, trio.TooSlowError) as error:
        return [f"P5: the next start does not come to rest by itself: {type(error).__name__}: {error}"]
    findings = [
        f"P5: {entry_id} needs its user after the process died: it is {states[entry_id]}"
        for entry_id in sorted(journal.accepted & states.keys())
        if dead and states[entry_id] is not State.COMPLETED
    ]
    findings += _judge(scene, world, journal, rested=True)
    async with world.open() as engine:
        await (scene.again or scene.work)(world, engine, journal)
        await rest(engine)
    findings += _judge(scene, world, journal, rested=True)
    return findings + _in_the_end(scene, world, dead=dead)


def _in_the_end(scene: Scene, world: World, *, dead: bool) -> list[str]:
    findings, there = [], files_of(world)
    if there != scene.files:
        wrong = sorted(name for name in there.keys() | scene.files.keys() if there.get(name) != scene.files.get(name))
        findings.append(f"P2: in the end these files are wrong, missing or left over: {wrong}")
    found, _ = read_store(str(world.root), CONFIG)
    findings += [f"P4: {name} is still on record" for name in sorted(found.keys() & set(scene.gone))]
    findings += [
        f"P2: {one.entry.id} is {one.entry.state} in the end ({one.entry.last_error and one.entry.last_error.message})"
        for one in found.values()
        if one.entry.state is not State.COMPLETED
    ]
    for name, epoch in scene.epochs.items():
        if dead and found[name].entry.epoch != epoch:
            findings.append(f"P4: {name} is in epoch {found[name].entry.epoch}: a command was not done exactly once")
    return findings


def all_cases(calls: dict[str, Counter[str]]) -> list[Case]:
    """Every case, by the calls that a run of each scene without faults made; the numbers of runs differ a little, so
    a few more are tried: those pass untouched."""
    return [
        Case(name, kind, at, which, lasting)
        for name, made in calls.items()
        for kind, count in made.items()
        for at in range(1, count + 3)
        for which in range(DEATH, len(FAULTS[kind]))
        for lasting in ((False, True) if which != DEATH else (False,))
    ]


def one_of_each(calls: dict[str, Counter[str]], rng: random.Random, deaths: int) -> list[Case]:
    """For everything that may go wrong a call that it happens to, in any scene; and some deaths."""
    cases = []
    for kind, faults in sorted(FAULTS.items()):
        places = [(name, at) for name, made in sorted(calls.items()) for at in range(1, made[kind] + 1)]
        for which in range(len(faults)):
            name, at = rng.choice(places)
            cases.append(Case(name, kind, at, which, rng.random() < 0.5))
    dying = [case for case in all_cases(calls) if case.which == DEATH]
    return cases + rng.sample(dying, deaths)


async def count_calls(names: list[str], folder: Path) -> dict[str, Counter[str]]:
    """The calls of each scene on a good day."""
    calls = {}
    for name in names:
        outcome = await _in_a_folder(Case(name, "", 0, 0, False), folder)
        assert not outcome.findings, f"{name} on a good day: {outcome.findings}"
        assert not outcome.code, f"{name} on a good day ended with {outcome.code}"
        calls[name] = Counter(outcome.numbering.calls)
    return calls


async def _in_a_folder(case: Case, folder: Path) -> Outcome:
    here = Path(tempfile.mkdtemp(dir=folder))
    try:
        return await run_case(case, here)
    finally:
        shutil.rmtree(here)


async def run_cases(cases: list[Case], folder: Path, tally: Tally, *, until: float = float("inf")) -> None:
    """All of them, one after another, as long as there is time."""
    for case in cases:
        if time.monotonic() > until:
            break
        outcome = await _in_a_folder(case, folder)
        tally.runs += 1
        if outcome.numbering.struck:
            tally.struck[f"{outcome.numbering.struck} {outcome.numbering.fault}"] += 1
            tally.codes[outcome.code or "(none)"] += 1
        tally.findings += [f"--case {case}  {outcome.numbering}, {outcome.code}: {line}" for line in outcome.findings]


async def _main(options: argparse.Namespace, folder: Path) -> Tally:
    tally = Tally()
    if options.case:
        await run_cases(options.case, folder, tally)
        return tally
    calls = await count_calls(options.scene or [scene.name for scene in SCENES], folder)
    print({name: made.total() for name, made in calls.items()}, "calls", flush=True)
    cases = all_cases(calls)
    part, of = options.part
    cases = [case for place, case in enumerate(cases) if place % of == part - 1]
    if options.dies:
        cases = [case for case in cases if case.which == DEATH]
    if options.kind:
        cases = [case for case in cases if case.kind in options.kind]
    if options.share < 1:
        cases = random.Random(options.seed).sample(cases, max(1, int(len(cases) * options.share)))
    print(f"{len(cases)} cases, seed {options.seed}", flush=True)
    until = time.monotonic() + options.seconds
    for at in range(0, len(cases), 100):
        done = len(tally.findings)
        await run_cases(cases[at : at + 100], folder, tally, until=until)
        for finding in tally.findings[done:]:
            print(finding, flush=True)
        print(f"… {tally.runs} runs, {len(tally.findings)} findings", file=sys.stderr, flush=True)
    return tally


def main() -> int:
    """The long tier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", action="append", choices=sorted(BY_NAME))
    parser.add_argument("--case", action="append", type=Case.parse, help="as a finding tells it")
    parser.add_argument("--share", type=shared, default=1.0, help="of all cases, by chance (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", type=parted, default=(1, 1), help="1/2: the first half of them")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--kind", action="append", default=[], choices=sorted(FAULTS), help="only calls of this kind")
    parser.add_argument("--dies", action="store_true", help="only: the process dies")
    options = parser.parse_args()
    begun = time.monotonic()
    logging.getLogger("engine").setLevel(logging.CRITICAL)  # it tells of every fault
    with tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else None) as folder:
        tally = trio.run(_main, options, Path(folder))
    if options.case:
        print(*tally.findings, sep="\n")
    print(
        f"{tally.runs} runs, {sum(tally.struck.values())} struck, {len(tally.findings)} findings, "
        f"{time.monotonic() - begun:.0f} s; ended with {dict(tally.codes.most_common())}"
    )
    return 1 if tally.findings else 0 if tally.struck or not options.case else NOTHING_TRIED


if __name__ == "__main__":
    sys.exit(ended(main))
