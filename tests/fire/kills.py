"""kill -9, again and again (fault catalogue C1-C13, C16, C17): an engine under load is killed at random moments and at
chosen system calls, looked at, started again and killed again; in the end everything completes and is right.

``python -m tests.fire.kills --kills 1000`` is the long tier. Each round begins with an empty library and ends with a
life that finishes all of it. A violation names its seed; ``--seed`` and ``--from-round`` play that round again (as far
as the moments of kills can be repeated).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE

import msgspec
import trio

from tests.fire.kills_child import MUTANTS
from tests.fire.kills_judge import ENTRIES, Look, Told, judge_life, look, read_journal, received_but_lost
from tests.fire.kills_world import LOSS_BYTES_MAX, SENT_LOSS_BYTES_MAX, Life, id_of_target, payload
from tests.fire.options import counted, ended
from tests.support.engine_process import REPOSITORY
from tests.support.origin import Asked, Origin, Reply, etag_of, serve

KILLS_A_ROUND = 25
TRACED = 0.4  # of the lives; the others are killed at a random moment
LIFE_S_MAX = 3.0  # a chosen call that does not come is not waited for any longer
RATES = (0.2e6, 0.5e6, 1.5e6)  # bytes a second and connection

# System calls to be killed at, and how many of them a thread may make before.
STRIKES = {
    "pwrite64": 30, "fdatasync": 12, "fsync": 8, "openat": 40, "renameat2": 4, "unlinkat": 3, "unlink": 2,
    "fallocate": 4, "sync_file_range": 12, "recvfrom": 150, "sendto": 20, "close": 60, "connect": 8, "write": 60,
    "futex": 200, "epoll_wait": 200, "pread64": 40, "mkdir": 3, "ftruncate": 3, "ioctl": 20, "newfstatat": 80,
    "mmap": 40,
}  # fmt: skip


@dataclass
class Score:
    """What the loop saw."""

    kills: int = 0
    at_calls: Counter[str] = field(default_factory=Counter)
    before_open: int = 0
    met: Counter[str] = field(default_factory=Counter)
    lives_with_loss: int = 0
    loss_max: int = 0
    unsent_max: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        at = sum(self.at_calls.values())
        calls, met = dict(sorted(self.at_calls.items())), dict(sorted(self.met.items()))
        return (
            f"{self.kills} kills ({at} at chosen calls: {calls}; {self.before_open} before the engine was open); "
            f"met {met}; {self.lives_with_loss} lives lost bytes that were received, {self.loss_max} at most "
            f"({self.unsent_max} as the origin counts, of {LOSS_BYTES_MAX}); {len(self.violations)} violations"
        )


class Lives:
    """The process that forks engines, from outside."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._line = bytearray()

    async def start(self, life: Life) -> int:
        """Begin a life; returns its process id."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(msgspec.json.encode(life) + b"\n")
        return int((await self._read())["pid"])

    async def wait(self) -> int:
        """How it ended."""
        return int((await self._read())["exit"])

    async def _read(self) -> dict[str, int]:
        assert self._process.stdout is not None
        while b"\n" not in self._line:
            data = await self._process.stdout.receive_some(4096)
            assert data, "the process that forks engines has ended"
            self._line += data
        line, _, rest = bytes(self._line).partition(b"\n")
        self._line = bytearray(rest)
        decoded: dict[str, int] = json.loads(line)
        return decoded


@asynccontextmanager
async def lives() -> AsyncIterator[Lives]:
    """The forking process, until the block ends."""
    command = [sys.executable, "-m", "tests.fire.kills_child"]
    process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, cwd=REPOSITORY)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Lives(process)
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(5):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdout.aclose()


@dataclass
class Round:
    """One library, from its making to the end of all downloads."""

    folder: Path
    seed: str
    origin: Origin
    engines: Lives
    score: Score
    mutant: str = ""
    number: int = 0

    @property
    def root(self) -> Path:
        """The library."""
        return self.folder / "library"

    async def play(self, kills: int) -> None:
        """So many kills, and the end."""
        before = Look()
        for _ in range(kills):
            before = await self._one(before)
        self.origin.rate = None
        told, status = await self._finale()
        after = look(self.root)
        found = judge_life(self.root, before, told, after, rested=True)
        if (status, told.done) != (0, True):
            found.append(f"P5: the last life ended with {status}, told {told.done}")
        found += [f"P5: {each} is not complete in the end" for each in ENTRIES if after.state(each) is None]
        self._note(found, "finale")

    async def _one(self, before: Look) -> Look:
        self.number += 1
        rng = random.Random(f"{self.seed}/{self.number}")
        life = self._life(calm=rng.random() < 0.5, traced=rng.random() < TRACED)
        self.origin.rate = rng.choice(RATES)
        self.origin.forget()
        pid = await self.engines.start(life)
        struck = await (
            _strike(pid, rng, self.engines) if life.traced else _kill(pid, rng, self.engines, Path(life.journal))
        )
        told, after = read_journal(Path(life.journal)), look(self.root)
        found = judge_life(self.root, before, told, after)
        if struck.status != -signal.SIGKILL:
            found.append(f"P5: the engine ended by itself: {struck.status}")
        self._count(struck, told, after)
        if life.calm:
            found += self._judge_window(before, told, after)
        self._note(found, f"{'calm' if life.calm else 'storm'}, {struck}")
        return after

    async def _finale(self) -> tuple[Told, int]:
        self.number += 1
        life = self._life(finale=True)
        await self.engines.start(life)
        status = await self.engines.wait()
        return read_journal(Path(life.journal)), status

    def _life(self, *, calm: bool = False, traced: bool = False, finale: bool = False) -> Life:
        journal = self.folder / f"journal-{self.number}"
        journal.unlink(missing_ok=True)
        return Life(
            root=str(self.root), base=self.origin.base, journal=str(journal), seed=f"{self.seed}/{self.number}/life",
            calm=calm, traced=traced, finale=finale, mutant=self.mutant,
        )  # fmt: skip

    def _judge_window(self, before: Look, told: Told, after: Look) -> list[str]:
        """Law 6: of what was received at most a window is lost, by the engine's own count and by the origin's."""
        lost = received_but_lost(told, after)
        unsent = self.origin.sent - (after.all_bytes - before.all_bytes)
        self.score.lives_with_loss += lost > 0
        self.score.loss_max = max(self.score.loss_max, lost)
        self.score.unsent_max = max(self.score.unsent_max, unsent)
        if lost > LOSS_BYTES_MAX or unsent > SENT_LOSS_BYTES_MAX:
            return [f"P5: {lost} bytes were received and not held (of {LOSS_BYTES_MAX}), {unsent} were sent"]
        return []

    def _count(self, struck: Struck, told: Told, after: Look) -> None:
        score = self.score
        score.kills += 1
        score.before_open += not told.opened
        if struck.call:
            score.at_calls[struck.call] += 1
        score.met.update(one.entry.state.value for one in after.found.values())

    def _note(self, found: list[str], what: str) -> None:
        self.score.violations += [f"[{self.seed}/{self.number}: {what}] {line}" for line in found]


@dataclass(frozen=True, slots=True)
class Struck:
    """How a life ended; ``call``: the system call that it was killed at, empty for a moment."""

    status: int
    call: str = ""

    def __str__(self) -> str:
        return f"killed at {self.call}" if self.call else "killed"


async def _kill(pid: int, rng: random.Random, engines: Lives, journal: Path) -> Struck:
    early = rng.random() < 0.2
    if not early:  # from when it is open: how long that takes depends on the machine
        with trio.move_on_after(LIFE_S_MAX):
            while not journal.exists() or not journal.stat().st_size:  # noqa: ASYNC110  # it is another process
                await trio.sleep(0.005)
    await trio.sleep(rng.uniform(0.0, 0.15) if early else rng.uniform(0.0, 0.5))
    with contextlib.suppress(ProcessLookupError):  # it ended by itself, which its status tells
        os.kill(pid, signal.SIGKILL)
    return Struck(await engines.wait())


async def _strike(pid: int, rng: random.Random, engines: Lives) -> Struck:
    call = rng.choice(sorted(STRIKES))
    when = rng.randint(1, STRIKES[call])
    command = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={call}", "-e", "signal=none"]
    command += ["-e", f"inject={call}:signal=KILL:when={when}", "-p", str(pid)]
    tracer = await trio.lowlevel.open_process(command, stdin=DEVNULL, stderr=DEVNULL)
    in_time = False
    status = 0
    with trio.move_on_after(rng.uniform(1.0, LIFE_S_MAX)):
        status = await engines.wait()
        in_time = True
    if not in_time:
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(pid, signal.SIGKILL)
        status = await engines.wait()
    with trio.move_on_after(5):
        await tracer.wait()
    if tracer.returncode is None:
        tracer.kill()
        await tracer.wait()
    return Struck(status, call if in_time else "")


def answer(asked: Asked) -> Reply:
    """The truth of the entry that is asked for."""
    body = payload(id_of_target(asked.target))
    return Reply(body=body, etag=etag_of(body))


async def run(
    kills: int, seed: str, folder: Path, *, first: int = 0, minutes: float | None = None, mutant: str = ""
) -> Score:
    """So many kills in rounds; stops early after ``minutes``, or at the first round with a violation. ``mutant``: the
    engines are wrong in this way (:data:`tests.fire.kills_child.MUTANTS`)."""
    assert shutil.which("strace"), "strace is not installed; .ci/run installs it"
    score = Score()
    deadline = trio.current_time() + (minutes or 1e6) * 60
    async with serve(b"", answer) as origin, lives() as engines:
        number = first
        while score.kills < kills and trio.current_time() < deadline and not score.violations:
            here = folder / f"round-{number}"
            here.mkdir()
            game = Round(here, f"{seed}-{number}", origin, engines, score, mutant)
            await game.play(min(KILLS_A_ROUND, kills - score.kills))
            if not score.violations:
                shutil.rmtree(here)
            number += 1
            if number % 4 == 0:
                print(f"{time.strftime('%H:%M:%S')} {score}", flush=True)  # the long tier's report
    return score


def main() -> int:
    """The long tier."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=counted, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", default="fire")
    parser.add_argument("--from-round", type=int, default=0)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="", help="a wrong engine: the loop must find it")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))

    async def play() -> Score:
        return await run(
            options.kills,
            options.seed,
            folder,
            first=options.from_round,
            minutes=options.minutes,
            mutant=options.mutant,
        )

    try:
        score = trio.run(play)
    except BaseException:
        shutil.rmtree(folder)
        raise
    print(score)
    for line in score.violations:
        print(line)
    if score.violations:
        print(f"kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
