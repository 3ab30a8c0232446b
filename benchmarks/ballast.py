"""Memory held while a virtual machine is measured, so that files are written over other files' pages.

A guest may hand memory that is free back to its host, here half a second after it became free; whoever writes next pays
3 s a GiB for faults in the host. Who that is depends on who freed memory when, and not on how good he is: a GiB took
the C floor 0.5 to 3.8 s, and ours, which starts 0.4 s later, 3.2 to 5.8 s. With next to nothing free the kernel takes
the pages of files written earlier, as on any machine that has been up for a while: 1.1 to 1.7 s, and 1.7 to 2.2 s.
(Tried before: touching as much free memory as a run needs right before it. It is cold again when a run is 0.4 s late.)
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

GIB = 1 << 30
# What is left: the file that is served, two that are written, the page cache's turnover, and the processes.
LEFT_BYTES = 9 * GIB // 2
HOLD = """
import mmap, sys
held = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
print("held", flush=True)
sys.stdin.read()
"""


def ballast_bytes(meminfo: str) -> int:
    """How much to hold by this ``/proc/meminfo``: all that is available but for :data:`LEFT_BYTES`."""
    [available] = [line for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    return max(0, int(available.split()[1]) * 1024 - LEFT_BYTES)


@contextlib.contextmanager
def ballast(size: int) -> Iterator[None]:
    """Hold ``size`` bytes for the block, in a process that ends with this one whatever happens. Where memory has to
    come from the host first, that takes a minute for 18 GiB. Raises RuntimeError when they cannot be had."""
    if not size:
        yield
        return
    holder = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HOLD, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the harness, which lets go of it at the end
    )
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        if not holder.stdout.readline():
            raise RuntimeError(f"{size >> 20} MiB of memory cannot be held: use --no-ballast")
        yield
    finally:
        holder.kill()
        holder.communicate()
