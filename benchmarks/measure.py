"""Run a command and say what it cost: wall, CPU and peak memory of the process and its children."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds, seconds of user and system time, and peak resident KiB."""

    wall_s: float
    cpu_s: float
    rss_kib: int


def run(command: Sequence[str]) -> Cost:
    """Run to the end. Raises CalledProcessError with what it printed when it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    assert child.stdout is not None
    printed = child.stdout.read()
    child.stdout.close()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, command, printed)
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def in_turns(contenders: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, list[Cost]]:
    """One warm-up each, then ``rounds`` times A B C … A B C …, so that noise falls on all alike."""
    for contender in contenders.values():
        contender()
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            costs[name].append(contender())
    return costs


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def paired_ratio(ours: Sequence[Cost], theirs: Sequence[Cost]) -> float:
    """Median over the rounds of their wall time to ours in the same round: above 1, we were faster."""
    return statistics.median(their.wall_s / our.wall_s for our, their in zip(ours, theirs, strict=True))
