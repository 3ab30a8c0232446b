"""Power cuts at every request that reached the disk (fault catalogue T2, C14, C15; contract P1-P6). Needs root.

``python -m tests.fire.power --images 20000`` records runs of the engine and judges so many crash images of them.
``--mutant NAME`` breaks the engine on purpose: then images that are judged wrong are what is wanted. A recording with
a wrong image is kept; ``--replay FILE --case COUNT:MODE:SEED`` judges that image again.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.fire.options import counted, ended
from tests.fire.power_images import MODES, Case, Images, cases
from tests.fire.power_judge import Judge
from tests.fire.power_mounts import die_with_parent, drop_cache, loop_device, mount, own_namespace, unmount
from tests.fire.power_mutants import MUTANTS, Mutant
from tests.fire.power_origin import origin_process
from tests.fire.power_record import Recording, mount_point, record
from tests.fire.power_scenarios import SCENARIOS
from tests.fire.power_world import DISK_BYTES

LIVE_SHARE = 0.04  # of the images, the engine runs until everything is complete
ROUND_IMAGES = 400  # of one recording at most: the next one has another timing
BATCH_IMAGES = 20  # judged by a process before it looks at the clock
SHOWN_MAX = 12

Verdict = tuple[Case, list[str]]


def judge_cases(folder: Path, recording: Recording, chosen: Sequence[Case], name: str) -> Iterator[Verdict]:
    """Make each image, mount it, and judge it."""
    image = folder / f"image-{name}"
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES)
    point = mount_point(folder)
    images = Images(recording.base, recording.log)
    judge = Judge(point / "library", recording.acks)
    backing = os.open(image, os.O_RDWR)
    try:
        with loop_device(str(image)) as (device, fd):
            for case in chosen:
                images.write(backing, case)
                drop_cache(fd)
                live = random.Random(f"live {case}").random() < LIVE_SHARE
                yield case, _judged(device, point, judge, case.place, live)
    finally:
        os.close(backing)


def _judged(device: str, point: Path, judge: Judge, count: int, live: bool) -> list[str]:
    try:
        mount(device, str(point), "ext4")
    except OSError as error:
        return [f"the file system cannot be mounted: {error}"]
    try:
        return judge.judge(count, live=live)
    except BaseException as error:  # whatever it is, it is what a host would have seen
        return [f"the engine did not open: {error!r}", *traceback.format_exception(error)[-3:]]
    finally:
        unmount(str(point))


class Task:
    """Images of one recording to be judged by several processes, until ``ends`` (or the first wrong one of a
    mutant)."""

    def __init__(self, folder: Path, recording: Recording, mutant: Mutant | None, ends: float) -> None:
        self.folder = folder
        self.recording = recording
        self.mutant = mutant
        self.ends = ends

    def judged(self, chosen: Sequence[Case], workers: int) -> list[Verdict]:
        """The verdicts of the cases, in any order; at least a batch of each process. The caller has no threads."""
        mixed = random.Random(self.recording.seed).sample(chosen, len(chosen))
        started = [self._start(mixed[number::workers], str(number)) for number in range(workers)]
        verdicts: list[Verdict] = []
        for pid, ours in started:
            with os.fdopen(ours, "rb") as pipe:
                raw = pipe.read()
            _, status = os.waitpid(pid, 0)
            if status:
                raise RuntimeError("a judging process ended early")
            verdicts += pickle.loads(raw)
        return verdicts

    def _start(self, chosen: Sequence[Case], name: str) -> tuple[int, int]:
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid:
            os.close(theirs)
            return pid, ours
        status = 1
        try:
            die_with_parent()
            os.close(ours)
            verdicts = self._work(chosen, name)
            with os.fdopen(theirs, "wb") as pipe:
                pickle.dump(verdicts, pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _work(self, chosen: Sequence[Case], name: str) -> list[Verdict]:
        own_namespace()
        if self.mutant is not None and self.mutant.judging is not None:
            self.mutant.judging()
        verdicts: list[Verdict] = []
        for at in range(0, len(chosen), BATCH_IMAGES):
            batch = sorted(chosen[at : at + BATCH_IMAGES])
            verdicts += judge_cases(self.folder, self.recording, batch, name)
            if time.monotonic() > self.ends or (self.mutant is not None and any(wrong for _, wrong in verdicts)):
                break
        return verdicts


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder in memory that nobody else sees, always under the same path: records hold it. The caller has no
    threads."""
    own_namespace()
    place = Path(tempfile.gettempdir()) / "offline-engine-power"
    place.mkdir(exist_ok=True)
    mount("tmpfs", str(place), "tmpfs", "size=1g,mode=700")
    try:
        yield place
    finally:
        unmount(str(place), detach=True)


class Run:
    """One call of the harness: what was judged and what was wrong."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.mutant = MUTANTS[arguments.mutant] if arguments.mutant else None
        self.by_scenario: Counter[str] = Counter()
        self.by_mode: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.recordings = 0
        self.judging_s = 0.0

    @property
    def images(self) -> int:
        """Judged so far."""
        return sum(self.by_scenario.values())

    def run(self) -> None:
        """Round after round over the scenarios, until there are as many images as wanted, the time is over, or a
        mutant is caught."""
        names = self.arguments.scenario or (self.mutant.scenarios if self.mutant else tuple(SCENARIOS))
        wanted = self.arguments.images
        ends = time.monotonic() + self.arguments.seconds
        with workshop() as folder, origin_process() as origin:
            number = 0
            while self.images < wanted and not (self.mutant and self.wrong):
                if number >= len(names) and time.monotonic() > ends:
                    break
                left = len(names) - number % len(names)
                share = min(ROUND_IMAGES, -(-(wanted - self.images) // left))
                own_end = time.monotonic() + (ends - time.monotonic()) / left
                self._round(folder, origin, names[number % len(names)], self.arguments.seed + number, share, own_end)
                number += 1

    def _round(self, folder: Path, origin: str, scenario: str, seed: int, wanted: int, ends: float) -> None:
        recording = record(folder, scenario, seed, origin, self.mutant.recorded if self.mutant else None)
        self.recordings += 1
        chosen = cases(recording.log, recording.first, wanted, random.Random(f"{scenario} {seed}"))
        started = time.monotonic()
        verdicts = Task(folder, recording, self.mutant, ends).judged(chosen, self.arguments.workers)
        took = time.monotonic() - started
        self.judging_s += took
        self.by_scenario[scenario] += len(verdicts)
        self.by_mode.update(case.mode for case, _ in verdicts)
        wrong = [(case, problems) for case, problems in sorted(verdicts) if problems]
        if wrong and self.mutant is None:
            kept = Path(tempfile.gettempdir()) / f"power-{scenario}-{seed}.recording"
            recording.keep(kept)
            print(f"kept: {kept}", file=sys.stderr)
        for case, problems in wrong:
            self.wrong.append(f"{scenario} (seed {seed}) {case}: {'; '.join(problems)}")
        if self.arguments.verbose:
            what = f"requests {recording.first}-{len(recording.log)}, {len(verdicts)} images in {took:.1f} s"
            print(f"{scenario} (seed {seed}): {what}, {len(wrong)} wrong", file=sys.stderr, flush=True)

    def report(self) -> dict[str, object]:
        """The figures."""
        return {
            "images": self.images,
            "wrong": len(self.wrong),
            "recordings": self.recordings,
            "seed": self.arguments.seed,
            "ms_an_image": round(1000 * self.judging_s / max(1, self.images), 1),
            "by_scenario": dict(self.by_scenario),
            "by_mode": {mode: self.by_mode[mode] for mode in MODES},
            "shown": self.wrong[:SHOWN_MAX],
        }


def replay(recording: Recording, case: Case) -> list[str]:
    """Judge one image of a kept recording again. Its paths lead to where it was recorded."""
    with workshop() as folder, origin_process():
        return [problem for _, problems in judge_cases(folder, recording, [case], "again") for problem in problems]


def _parsed(line: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fire.power", description=__doc__)
    parser.add_argument("--images", type=counted, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=7200.0, help="judge no more after about so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=counted, default=2, help="processes that judge (default: %(default)s)")
    parser.add_argument("--scenario", action="append", choices=tuple(SCENARIOS))
    parser.add_argument("--mutant", choices=tuple(MUTANTS), help="a wrong engine: 0 when it is caught, else 1")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--replay", type=Recording.kept, metavar="FILE", help="a recording that was kept; with --case")
    parser.add_argument("--case", type=Case.parse, metavar="COUNT:MODE:SEED", help="as a finding tells it")
    arguments = parser.parse_args(line)
    if (arguments.replay is None) is not (arguments.case is None):
        parser.error("--replay and --case go together")
    if arguments.replay is not None and arguments.replay.place != tempfile.gettempdir():
        parser.error(f"it was recorded with TMPDIR={arguments.replay.place}, and is replayed with the same only")
    return arguments


def main(line: Sequence[str] | None = None) -> int:
    """0 when nothing was wrong, or a mutant was."""
    arguments = _parsed(line)
    if arguments.replay is not None:
        problems = replay(arguments.replay, arguments.case)
        print("\n".join(problems) or "nothing is wrong")
        return bool(problems)
    run = Run(arguments)
    run.run()
    print(json.dumps(run.report(), indent=1))
    return bool(run.wrong) is (arguments.mutant is None)


if __name__ == "__main__":
    sys.exit(ended(main))
