"""Power cuts of a whole engine under load by ext4's own emergency stop (FS_IOC_SHUTDOWN, T3). Needs root.

``python -m tests.fire.shutdown --cycles 100``: in each cycle an engine of a process of its own takes the library up as
the last power cut left it, asks for files, strict and relaxed, large and small, pauses, resumes, cancels and removes;
at a random moment the file system is shut down without flushing its journal and the process is killed. A copy of the
disk is judged as ``tests.fire.power`` does it. Every few cycles it begins on an empty disk.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from engine import Durability, Engine, IllegalTransition, State, UnknownEntry
from engine.config import KIB
from tests.fire.options import counted, ended
from tests.fire.power import workshop
from tests.fire.power_judge import GONE, Judge
from tests.fire.power_mounts import cut_power, die_with_parent, loop_device, mount, own_namespace, unmount
from tests.fire.power_mutants import MUTANTS
from tests.fire.power_origin import RECORDED_RATE, origin_process, tell
from tests.fire.power_record import empty_disk, mount_point
from tests.fire.power_scenarios import Stage
from tests.fire.power_world import Ack, Journal, OneDisk, read_journal

DISK_BYTES: Final = 48 * 1024 * KIB
CYCLES_A_DISK: Final = 6
LIVE_EVERY: Final = 10
_ALIVE_S: Final = (0.05, 1.0)
_VERBS: Final = {
    "pause": State.PAUSED.value,
    "resume": State.PENDING.value,
    "cancel": State.CANCELLED.value,
    "remove": GONE,
}
_Found = tuple[list[str], list[Ack]]


async def load(stage: Stage, cycle: int, rng: random.Random) -> None:
    """Until the power fails: ever more entries, and verbs on those that there are."""
    async with stage.engine() as engine, trio.open_nursery() as nursery:
        ids = [entry.id for entry in await engine.list()]
        nursery.start_soon(_verbs, stage, engine, ids, rng)
        for number in range(1000):
            name = f"c{cycle}-{number}"
            size = rng.choice((9 * KIB, 15 * KIB, 200 * KIB + 7, 600 * KIB + 1))
            durability = rng.choice((Durability.STRICT, Durability.STRICT, Durability.RELAXED))
            await stage.ask(engine, stage.request(name, size, durability=durability))
            ids.append(name)
            await trio.sleep(rng.uniform(0, 0.06))


async def _verbs(stage: Stage, engine: Engine, ids: list[str], rng: random.Random) -> None:
    while True:
        await trio.sleep(rng.uniform(0, 0.08))
        if ids:
            verb, name = rng.choice(tuple(_VERBS)), rng.choice(ids)
            stage.journal.ack("will", id=name, state=_VERBS[verb])
            with suppress(IllegalTransition, UnknownEntry):  # it is in another state, or gone
                await getattr(engine, verb)(name)
            stage.journal.ack("did", id=name, state=_VERBS[verb])


def _forked(work: Callable[[], None]) -> int:
    """Run ``work`` in a process of its own; its id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_with_parent()
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


class Cycles:
    """One call of the harness."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, origin: str) -> None:
        self.arguments = arguments
        self.folder = folder
        self.origin = origin
        self.point = mount_point(folder)
        self.disk = folder / "disk"
        self.rng = random.Random(arguments.seed)
        self.mutant = MUTANTS[arguments.mutant] if arguments.mutant else None
        self.known: list[Ack] = []
        self.states: Counter[str] = Counter()
        self.acks = 0
        self.wrong: list[str] = []

    def run(self, cycle: int) -> None:
        """One power cut."""
        if cycle % CYCLES_A_DISK == 0 or self.wrong:
            self.disk.write_bytes(empty_disk(self.folder, DISK_BYTES))
            self.known = []
        told = self._until_cut(cycle)
        self.acks += len(told)
        problems, found = self._judged(cycle, [*self.known, *told])
        self.states.update(ack.state for ack in found if ack.kind == "state")
        self.known = found
        for problem in problems:
            self.wrong.append(f"cycle {cycle} (seed {self.arguments.seed}): {problem}")

    def _until_cut(self, cycle: int) -> list[Ack]:
        """Mount the disk, let an engine work on it, and cut the power. Returns what it told."""
        journal = self.folder / "journal"
        journal.unlink(missing_ok=True)
        tell(self.origin, f"rate/{RECORDED_RATE}")
        seed, alive_s = self.rng.getrandbits(16), self.rng.uniform(*_ALIVE_S)

        def live() -> None:
            with open(os.devnull, "w") as nowhere:  # an engine without its disk says so, at length
                os.dup2(nowhere.fileno(), 2)
            if self.mutant is not None and self.mutant.recorded is not None:
                self.mutant.recorded()
            stage = Stage(self.point / "library", self.origin, Journal(journal, None), OneDisk(f"boot-{cycle}"), seed)
            trio.run(load, stage, cycle, random.Random(seed))

        with loop_device(str(self.disk)) as (device, _):
            mount(device, str(self.point), "ext4")
            child = _forked(live)
            time.sleep(alive_s)  # the moment of the power cut
            cut_power(self.point)
            time.sleep(0.005)  # what is told without a disk is told falsely, and judged
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            unmount(str(self.point))
        return read_journal(journal) if journal.exists() else []

    def _judged(self, cycle: int, acks: Sequence[Ack]) -> _Found:
        """Judge a copy of the disk, in another process: this one keeps without threads."""
        copy, answer = self.folder / "copy", self.folder / "answer"
        shutil.copyfile(self.disk, copy)
        tell(self.origin, "rate/0")
        answer.unlink(missing_ok=True)

        def work() -> None:
            own_namespace()
            if self.mutant is not None and self.mutant.judging is not None:
                self.mutant.judging()
            judge = Judge(self.point / "library", acks, f"after-boot-{cycle}")
            with loop_device(str(copy)) as (device, _):
                mount(device, str(self.point), "ext4")
                problems = judge.judge(0, live=cycle % LIVE_EVERY == LIVE_EVERY - 1)
                unmount(str(self.point))
            answer.write_bytes(msgspec.json.encode((problems, judge.found)))

        os.waitpid(_forked(work), 0)
        if not answer.exists():
            return ["the engine did not open, see above"], []
        judged: _Found = msgspec.json.decode(answer.read_bytes(), type=_Found)
        return judged


def main(line: Sequence[str] | None = None) -> int:
    """0 when nothing was wrong, or a mutant was."""
    parser = argparse.ArgumentParser(prog="python -m tests.fire.shutdown", description=__doc__)
    parser.add_argument("--cycles", type=counted, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutant", choices=tuple(MUTANTS), help="a wrong engine: 0 when it is caught, else 1")
    arguments = parser.parse_args(line)
    started = time.monotonic()
    with workshop() as folder, origin_process() as origin:
        cycles = Cycles(arguments, folder, origin)
        for cycle in range(arguments.cycles):
            cycles.run(cycle)
    report = {
        "cycles": arguments.cycles,
        "wrong": len(cycles.wrong),
        "seed": arguments.seed,
        "acks": cycles.acks,
        "entries_found": dict(cycles.states),
        "ms_a_cycle": round(1000 * (time.monotonic() - started) / max(1, arguments.cycles)),
        "shown": cycles.wrong[:12],
    }
    print(json.dumps(report, indent=1))
    return bool(cycles.wrong) is (arguments.mutant is None)


if __name__ == "__main__":
    sys.exit(ended(main))
