"""Open an engine on a store that is there, then add entries to the store: ``python -m benchmarks.drive_store ROOT N``.

Prints one JSON object: seconds to open, peak memory in MiB by then, and median milliseconds to add one entry (a
transaction of its own, durable when it returns).
"""

from __future__ import annotations

import json
import sys
import time

import trio

from engine import Config, DownloadEntry, open_engine
from engine.config import KIB
from engine.files.filesystem import FileSystem
from engine.store.state_store import StateStore


async def opening(root: str) -> tuple[float, float]:
    """Seconds, and MiB at the highest."""
    began = time.perf_counter()
    async with open_engine(root):
        opened = time.perf_counter() - began
        return opened, peak_mib()


def peak_mib() -> float:
    """Of this process, from the kernel's account of its own memory (that of the process it came from left out)."""
    with open("/proc/self/status", encoding="ascii") as source:
        fields = dict(line.split(":", 1) for line in source)
    return int(fields["VmHWM"].split()[0]) / KIB


def adding(root: str, count: int) -> list[float]:
    """Milliseconds for each of ``count`` new entries."""
    store = StateStore.open(root, Config(), FileSystem(), now=time.time())
    took = []
    try:
        for number in range(count):
            entry = DownloadEntry(id=f"added-{count}-{number}", sources=(f"http://127.0.0.1/added/{count}/{number}",))
            began = time.perf_counter()
            store.add(entry)
            took.append((time.perf_counter() - began) * 1000)
    finally:
        store.close()
    return took


def main(root: str, count: int) -> None:
    """See the module."""
    open_s, rss_mib = trio.run(opening, root)
    took = sorted(adding(root, count))
    print(json.dumps({"open_s": open_s, "rss_mib": rss_mib, "add_ms": took[len(took) // 2]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
