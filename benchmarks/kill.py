"""kill -9 at random places of a file: what the next run fetches or reads again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import dataclass

from benchmarks.bench import MIB, Bench
from benchmarks.cost import CHECKOUT, ContenderFailed, environment
from benchmarks.facts import Fact
from benchmarks.origin import Origin, serving
from benchmarks.report import Report
from benchmarks.turns import OUTPUT, check, ours
from engine import Config

NAME = "big.bin"
CONNECTIONS = 4
POLL_S = 0.002
SEED = 2


@dataclass(frozen=True, slots=True)
class Kill:
    """Bytes: written by the killed run; trusted, fetched and read from files by the next."""

    written: int
    resumed: int
    fetched: int
    read: int

    @property
    def lost(self) -> int:
        """Written in vain. (What was written beside the file itself counts too: a bound from above.)"""
        return max(0, self.written - self.resumed)


def measure(bench: Bench) -> Report:
    """For each round one kill, then one run to the end, and the file compared."""
    rng, size = random.Random(SEED), bench.scale.whole_bytes
    with serving(bench.workspace.folder("origin")) as origin:
        origin.add(NAME, size)
        plain_read = min(_whole_read(bench, origin) for _ in range(2))
        kills = []
        for number in range(bench.scale.rounds):
            place = int(size * rng.uniform(0.2, 0.9))
            kills.append(_one(bench, origin, place))
            bench.tell(f"kill {number + 1}: at {place // MIB} MiB, {kills[-1].resumed // MIB} MiB resumed")
    bound = Config().commit_window_bytes + CONNECTIONS * Config().chunk_bytes
    lost = Fact.of([kill.lost / MIB for kill in kills])
    read_again = Fact.of([max(0, kill.read - plain_read) / MIB for kill in kills])
    report = Report(facts={"lost_over_bound_mib": Fact.of([(kill.lost - bound) / MIB for kill in kills])})
    report.facts["read_again_mib"] = read_again
    report.rows["kill -9, then a run to the end"] = {
        "kills": len(kills),
        "resumed_mib": Fact.of([kill.resumed / MIB for kill in kills]),
        "fetched_again_mib": lost,
        "bound_mib": bound // MIB,
        "read_again_mib": read_again,
        "sum_is_size": all(kill.resumed + kill.fetched == size for kill in kills),
    }
    return report


def _command(origin: Origin, folder: str) -> list[str]:
    return ours(origin, NAME, "--connections", str(CONNECTIONS))(folder)


def _whole_read(bench: Bench, origin: Origin) -> int:
    """Bytes that a run from the start reads from files: the interpreter, the modules, the store."""
    folder = _folder(bench, origin)
    _, read = _finished(_start(_command(origin, folder), folder))
    bench.workspace.retire(folder)
    return read


def _one(bench: Bench, origin: Origin, place: int) -> Kill:
    folder = _folder(bench, origin)
    written = _killed_at(_start(_command(origin, folder), folder), place)
    told, read = _finished(_start(_command(origin, folder), folder))
    check("the run after a kill", origin, (NAME,), os.path.join(folder, OUTPUT))
    bench.workspace.retire(folder)
    return Kill(written, told["bytes_resumed"], told["bytes_fetched"], read)


def _folder(bench: Bench, origin: Origin) -> str:
    folder = bench.workspace.fresh("kill", origin.sizes[NAME])
    os.mkdir(os.path.join(folder, OUTPUT))
    return folder


def _start(command: list[str], folder: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=CHECKOUT,
        env=environment(folder),
        start_new_session=True,
    )


def _account(pid: int) -> tuple[int, int]:
    """``(read, written)`` bytes on files so far, by the kernel's account; also of one that ended and is not waited for.

    What is received from a socket is in neither, but all of it is written.
    """
    with open(f"/proc/{pid}/io", encoding="ascii") as source:
        fields = dict(line.split(": ") for line in source.read().splitlines())
    return int(fields["rchar"]), int(fields["wchar"])


def _killed_at(child: subprocess.Popen[bytes], place: int) -> int:
    """Kill it once it has written ``place`` bytes; returns how many it had written by its end."""
    try:
        while _account(child.pid)[1] < place:
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                break
            time.sleep(POLL_S)
    finally:
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        written = _account(child.pid)[1]
        child.communicate()
    return written


def _finished(child: subprocess.Popen[bytes]) -> tuple[dict[str, int], int]:
    """What it printed, and how many bytes it read from files. Raises ContenderFailed."""
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        read = _account(child.pid)[0]
    except BaseException:
        child.kill()
        child.communicate()
        raise
    printed, _ = child.communicate()
    if child.returncode != 0:
        raise ContenderFailed(f"ours ended with {child.returncode}")
    told: dict[str, int] = json.loads(printed)
    return told, read
