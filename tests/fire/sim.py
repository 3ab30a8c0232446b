"""The whole engine in one process on fakes: a network, a disk, threads and clocks that one seed decides (T7).

``python -m tests.fire.sim --seeds 1000 --from 0`` plays so many days. Of a day: an engine is opened again and again,
users ask it for things, links and disks fail, and it is killed, or the power goes. After each end the store and the
folders are judged; in the end the faults are off, and everything has to finish. A seed that fails is played the same
way again by ``--from SEED --seeds 1 --trace``.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from types import FrameType

import trio

from engine import Durability, Engine, open_engine
from engine.errors import EngineError, sole_error
from engine.model.events import EngineEvent
from engine.model.lines import Line
from engine.net.client import Client
from engine.network.monitor import StaticMonitor
from tests.fire.judge import Day, judge
from tests.fire.options import counted, ended, interrupted_between
from tests.fire.sim_disk import GRAVES, SimDisk
from tests.fire.sim_faults import Faults
from tests.fire.sim_net import Net, SimDialer
from tests.fire.sim_origin import Servers
from tests.fire.sim_process import halting_clock, memory_folder, one_process, random_of, seeded_scheduler
from tests.fire.sim_user import HOSTS, SIZES, User, Wish
from tests.support.library import small

REAL_TIME_MAX_S = 60
NEVER_S = 1e9
# Faults behind which an entry may be without a task until it is found again: its store could not be told, or asked,
# or who asked for many at once went away in the middle.
UNRECORDED = {"commit_fails", "commit_lands_and_fails", "open_emfile", "impatient"}
CONFIG = small(
    chunk_bytes=8192,
    small_chunk_bytes=4096,
    small_file_bytes=65_536,
    buffer_count=8,
    commit_window_bytes=65_536,
    commit_interval_s=0.5,
    first_span_bytes=16_384,
    span_bytes_min=16_384,
    span_bytes_max=65_536,
    parallel_bytes_min=32_768,
    connect_timeout_s=10.0,
    first_byte_timeout_s=30.0,
    idle_timeout_s=30.0,
    backoff_base_s=0.5,
    backoff_max_s=60.0,
    retry_after_s_max=600.0,
    progress_interval_s=1.0,
    settle_interval_s=5.0,
    growth_look_interval_s=1.0,
    maintenance_delay_s=20.0,
    maintenance_interval_s=300.0,
    orphan_grace_s=5.0,
    inbox_look_interval_s=NEVER_S,
    map_bytes=1024 * 1024,
)


class Crash(BaseException):
    """The process ends here."""


class SeedHangsError(BaseException):
    """The simulated day takes no end in real time."""


@dataclass
class Outcome:
    """How a day went. ``digest``: of everything that happened in it."""

    seed: int
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)
    engines: int = 0
    crashes: int = 0
    cuts: int = 0

    @property
    def digest(self) -> str:
        """The same for the same day."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:16]


class Simulation:
    """One day in the folder ``home``."""

    def __init__(self, seed: int, home: str) -> None:
        self.outcome = Outcome(seed)
        self._home = home
        self._rng = random_of(seed, "day")
        self._root = os.path.join(home, "library")
        self._out = os.path.join(home, "out")
        graves = os.path.join(home, GRAVES)
        for folder in (self._out, graves):
            os.mkdir(folder)
        self._faults = Faults.drawn(random_of(seed, "faults"))
        media = (os.path.join(self._root, "files"), self._out)
        self._disk = SimDisk(media, graves, self._faults, self._died)
        self._servers = Servers(self._faults, self._note)
        self._net = Net(self._faults, self._servers.serve)
        self._monitor = StaticMonitor(Line(connected=True))
        self._user = User(self._wishes(), self._servers, self._disk, self._faults, self._note)
        self.clock = halting_clock(self._faults, random_of(seed, "clock"))
        self._death = trio.Event()
        self._power_cut = False
        self._living = False

    def _wishes(self) -> Iterator[Wish]:
        rng = self._rng
        for entry_id in ("a", "b", "c", "d", "s1", "s2"):
            media = self._servers.add(f"{entry_id}.bin", rng.choice(SIZES))
            host, other = rng.sample(HOSTS, 2)
            mirrors = (f"http://{other}/{media.name}",) if media.fixed and rng.random() < 0.5 else ()
            place = os.path.join(self._out, media.name) if entry_id in {"d", "s2"} else None
            durability = rng.choice((Durability.STRICT, Durability.STRICT, Durability.RELAXED))
            yield Wish(entry_id, "s" if entry_id.startswith("s") else "", media, host, mirrors, place, durability)

    async def run(self) -> None:
        """The whole day; what was wrong is in the outcome."""
        with one_process(self._disk, self._faults, self._told, self._user.memory.begins_anew):
            for _ in range(self._rng.randint(1, 5)):
                await self._session()
            self._faults.calm = True
            self._net.connected = True
            self._net.clogged.clear()
            self._net.changed()
            self._monitor.set(Line(connected=True))
            await self._good_end()
        self.outcome.struck = self._faults.struck
        self._disk.forget()

    def _note(self, line: str) -> None:
        self.outcome.trace.append(f"{trio.current_time():.6f} {line.replace(self._home, '')}")

    def logged(self, line: str) -> None:
        """The engine warns of something."""
        self._note(f"log: {line}")
        if "was on record as" in line and self._living and not self._faults.struck.keys() & UNRECORDED:
            self.outcome.violations.append(f"law 7: reconciling had to mend: {line}")

    def _told(self, event: EngineEvent) -> None:
        self._note(("too late: " if self._disk.dead else "") + self._user.describe(event))
        if not self._disk.dead:
            self._user.memory.told(event)

    def _died(self) -> None:
        self._note("the process dies")
        self._death.set()

    async def _session(self) -> None:
        """One engine, to its end: an orderly one, or a crash."""
        if self._faults.hit("crash"):
            self._disk.crash_at = self._disk.calls + self._rng.randint(1, self._rng.choice((50, 300, 1500)))
        try:
            async with self._engine() as engine:
                self._begun()
                await self._live(engine)
        except* Crash:
            self._note("the process died")
        except* EngineError as group:
            self._note(f"the engine could not: {sole_error(group)!r}")
        self._disk.crash_at = 0
        if self._disk.dead:
            self._ended()
        else:
            self._judge(rested=False)

    def _engine(self) -> AbstractAsyncContextManager[Engine]:
        self._death = trio.Event()
        self.outcome.engines += 1
        self._note("an engine begins")
        return open_engine(
            self._root,
            config=CONFIG,
            files=self._disk,
            client=Client(CONFIG, dialer=SimDialer(self._net)),
            network=self._monitor,
            seed=self._rng.randrange(1 << 30),
        )

    def _begun(self) -> None:
        """An engine has come up: what was begun before is done or undone, and what a power cut took is known."""
        self._power_cut = False
        self._user.memory.settled()

    async def _live(self, engine: Engine) -> None:
        self._living = True
        try:
            await self._live_on(engine)
        finally:
            self._living = False  # what an engine that closes has stopped is nobody's loss

    async def _live_on(self, engine: Engine) -> None:
        with trio.move_on_after(self._rng.choice((0.5, 4.0, 20.0, 90.0))):
            async with trio.open_nursery() as nursery:
                for _ in range(self._rng.randint(1, 2)):
                    nursery.start_soon(self._user.act_until_cancelled, engine)
                nursery.start_soon(self._weather)
                await self._death.wait()
                raise Crash

    async def _weather(self) -> None:
        """The line, and hosts that are clogged for a while."""
        faults, rng = self._faults, self._faults.rng
        while True:
            await trio.sleep(rng.choice((1.0, 5.0, 20.0)))
            if faults.hit("clog"):
                self._net.clogged[rng.choice(HOSTS)] = trio.current_time() + rng.choice((0.5, 10.0, 45.0, 300.0))
            if faults.hit("line"):
                await self._line_changes()

    async def _line_changes(self) -> None:
        rng = self._faults.rng
        known = rng.random() < 0.7
        if rng.random() < 0.5:
            self._monitor.set(Line(connected=True, metered=rng.choice((False, True, None))))
            return
        self._net.connected = False
        if rng.random() < 0.5:
            self._net.break_all()
        if known:
            self._monitor.set(Line(connected=False))
        try:
            await trio.sleep(rng.choice((0.1, 5.0, 60.0)))
        finally:
            self._net.connected = True
            self._net.changed()
            self._monitor.set(Line(connected=True))

    def _ended(self) -> None:
        """The process died: what it left is judged, after a power cut or without one."""
        disk, cut = self._disk, self._faults.hit("power")
        self.outcome.crashes += 1
        self._net.break_all()
        disk.live()
        if cut:
            self.outcome.cuts += 1
            disk.cut_power()
            self._power_cut = True
        self._note(f"it died; the power {'was cut' if cut else 'stayed'}")
        self._judge(rested=False)

    def _judge(self, *, rested: bool) -> None:
        memory = self._user.memory
        truths = {wish.id: wish.media.versions for wish in self._user.wishes.values()}
        day = Day(
            truths=truths,
            journal=memory.certain(),
            config=CONFIG,
            power_cut=self._power_cut,
            boot_id=self._disk.boot_id(),
            rested=rested,
            harmed=memory.harmed,
            folders=[self._out],
        )
        corrupted = [wish.id for wish in self._user.wishes.values() if wish.media.corrupted]
        # Wrong bytes of the server are believed until the piece, or the file, that has a hash is there.
        excused = tuple(f"{promise}: {one} " for one in corrupted for promise in ("P1", "P5"))
        for line in judge(self._root, day):
            if line.startswith((*excused, "\0")) or (self._power_cut and self._is_short(line)):
                continue
            self.outcome.violations.append(f"engine {self.outcome.engines}: {line}")

    def _is_short(self, line: str) -> bool:
        """A file of one chunk is synced before its folder is: a power cut between may take its name from a part that
        is on record, and then it is fetched anew."""
        short = [
            wish.id
            for wish in self._user.wishes.values()
            if min(map(len, wish.media.versions)) <= CONFIG.small_chunk_bytes
        ]
        return line.endswith("which is not there") and line.startswith(tuple(f"P1: {one} " for one in short))

    async def _good_end(self) -> None:
        """No faults any more: everything finishes, and is right."""
        left: list[str] = []
        async with self._engine() as engine:
            self._begun()
            left = await self._user.have_all(engine)
            if not left:
                await trio.sleep(2 * CONFIG.settle_interval_s)
                await engine.gc(everywhere=True)
        self.outcome.violations += [f"liveness: {line}" for line in left]
        self._judge(rested=not left)


class _Log(logging.Handler):
    """What the engine's log says goes into the trace."""

    def __init__(self, day: Simulation) -> None:
        super().__init__(logging.WARNING)
        self._day = day

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        self._day.logged(record.getMessage())


def play(seed: int) -> Outcome:
    """The day of a seed."""
    home = tempfile.mkdtemp(prefix="sim-", dir=memory_folder())
    day = Simulation(seed, home)
    gc.collect()  # what another test left open is not this day's
    fds = len(os.listdir("/proc/self/fd"))
    log, handler = logging.getLogger("engine"), _Log(day)
    log.addHandler(handler)
    log.propagate = False
    try:
        with _bounded(), seeded_scheduler(seed):
            trio.run(day.run, clock=day.clock)
        if (now := len(os.listdir("/proc/self/fd"))) != fds:
            day.outcome.violations.append(f"P5: {now - fds} descriptors are left open")
    except BaseException as error:
        day.outcome.violations.append("the day ended with " + _in_short(error))
    finally:
        log.removeHandler(handler)
        log.propagate = True
        shutil.rmtree(home)
    return day.outcome


def _in_short(error: BaseException) -> str:
    """The error and where in the engine or here it was, the innermost place first."""
    error = sole_error(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in frame.filename]
    places = [f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in reversed(frames[-12:])]
    return f"{error!r} at {' < '.join(places)}"


@contextmanager
def _bounded() -> Iterator[None]:
    """A loop that takes no virtual time would go on for ever."""

    def hangs(_signal: int, _frame: FrameType | None) -> None:
        raise SeedHangsError(f"{REAL_TIME_MAX_S} s of real time")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, REAL_TIME_MAX_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _same_sets() -> None:
    """Sets of names are walked in the same order by every process from here on: a seed is the same everywhere."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        command = [sys.executable, "-m", "tests.fire.sim", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})


def main() -> int:
    """Play days, tell of those that went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fire.sim", description=__doc__)
    parser.add_argument("--seeds", type=counted, default=200, help="how many days")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--trace", action="store_true", help="print all that happened")
    options = parser.parse_args()
    _same_sets()
    began = time.monotonic()
    struck, sums = Counter[str](), Counter[str]()
    check = interrupted_between()
    for seed in range(options.first, options.first + options.seeds):
        check()
        outcome = play(seed)
        struck += outcome.struck
        sums += Counter(engines=outcome.engines, crashes=outcome.crashes, cuts=outcome.cuts)
        if options.trace:
            print(*outcome.trace, sep="\n")
        if outcome.violations:
            sums["bad"] += 1
            print(f"seed {seed}: {outcome.digest}", *outcome.violations, sep="\n  ", flush=True)
    seconds, cpu_s = time.monotonic() - began, time.process_time()
    print(f"{options.seeds} seeds in {seconds:.1f} s: {options.seeds / seconds * 60:.0f} a minute")
    print(f"{cpu_s:.1f} s of CPU: {options.seeds / cpu_s * 60:.0f} a minute of it")
    print(f"{sums['engines']} engines, {sums['crashes']} crashes, {sums['cuts']} of them power cuts")
    print(f"{sum(struck.values())} faults of {len(struck)} kinds")
    print(f"{sums['bad']} bad")
    return 1 if sums["bad"] else 0


if __name__ == "__main__":
    sys.exit(ended(main))
