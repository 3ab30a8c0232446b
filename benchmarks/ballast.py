"""Memory held while a virtual machine is measured, so that files are written over other files' pages.

A guest may hand memory that is free back to its host, here half a second after it became free; whoever writes next pays
3 s a GiB for faults in the host. Who that is depends on who freed memory when, and not on how good he is: a GiB took
the C floor 0.5 to 3.8 s, and ours, which starts 0.4 s later, 3.2 to 5.8 s. With next to nothing free the kernel takes
the pages of files written earlier, as on any machine that has been up for a while: 1.1 to 1.7 s, and 1.7 to 2.2 s.
(Tried before: touching as much free memory as a run needs right before it. It is cold again when a run is 0.4 s late.)
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.children import end_with_parent

GIB = 1 << 30
# What is left: the file that is served, two that are written, the page cache's turnover, and the processes.
LEFT_BYTES = 9 * GIB // 2
# Where a control group's limit stands, in its versions 2 and 1.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Where memory runs out all the same, the holder is what the kernel should kill.
HOLD = """
import mmap, sys
with open("/proc/self/oom_score_adj", "w") as score:
    score.write("1000")
held = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
print("held", flush=True)
sys.stdin.read()
"""


class NoMemory(Exception):
    """The memory cannot be had."""


class Ballast:
    """``size`` bytes that are held, or were."""

    def __init__(self, size: int, holder: subprocess.Popen[str] | None) -> None:
        self.size = size
        self._holder = holder

    @property
    def word(self) -> str:
        """For the results: how much, and whether it is still held."""
        if self._holder is None:
            return "none"
        lost = "" if self._holder.poll() is None else ", lost during the run: its numbers are not of one machine"
        return f"{self.size / GIB:.1f} GiB{lost}"


def ballast_bytes(meminfo: str) -> int:
    """How much to hold by this ``/proc/meminfo``: all that is available but for :data:`LEFT_BYTES`."""
    [available] = [line for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    return max(0, int(available.split()[1]) * 1024 - LEFT_BYTES)


def memory_to_hold() -> int:
    """The same for this machine; nothing in a control group with a limit below what the machine has."""
    with open("/proc/meminfo", encoding="ascii") as source:
        meminfo = source.read()
    total = int(meminfo.split()[1]) * 1024
    for path in LIMITS:
        with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as source:
            limit = source.read().strip()
            if limit.isdecimal() and int(limit) < total:
                return 0
    return ballast_bytes(meminfo)


@contextlib.contextmanager
def ballast(size: int) -> Iterator[Ballast]:
    """Hold ``size`` bytes for the block, in a process that ends with this one whatever happens. Where memory has to
    come from the host first, that takes a minute for 18 GiB. Raises NoMemory."""
    if not size:
        yield Ballast(0, None)
        return
    holder = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HOLD, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the harness, which lets go of it at the end
        preexec_fn=end_with_parent,  # noqa: PLW1509  # the harness has one thread
        cwd=os.sep,
    )
    try:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            raise NoMemory(f"{size >> 20} MiB of memory cannot be held: use --no-ballast")
        yield Ballast(size, holder)
    finally:
        holder.kill()
        holder.communicate()
