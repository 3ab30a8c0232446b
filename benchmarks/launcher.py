"""Run one contender and say what it cost. A program of its own, so that the harness's memory is not counted.

    python -I -S launcher.py TIMEOUT_S LOG COMMAND…

Linux carries a process's peak memory over from the one it was forked from, so a contender started by the harness would
report the harness's peak; this small process is what it inherits from instead (about 9 MiB: less is never told).
Before the clock starts, all dirty pages are written back. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def main(words: list[str]) -> None:
    """See the module."""
    timeout_s, log, *command = words
    while os.open(os.devnull, os.O_RDWR) <= 2:  # a standard stream that was closed would get the next descriptor
        pass
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.sync()
    moves = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in ((nothing, 0), (output, 1), (output, 2))]
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=moves)
    for early in (signal.SIGALRM, signal.SIGTERM):  # too late, or the harness is gone
        signal.signal(early, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, float(timeout_s))
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    signal.setitimer(signal.ITIMER_REAL, 0)
    report = {
        "status": os.waitstatus_to_exitcode(status),
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "rss_kib": usage.ru_maxrss,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
