"""How long a task of the host waits for its turn while the engine downloads to a disk that hangs.

    python -m benchmarks.drive_loop --root FOLDER --out FOLDER URL…

Prints one JSON object: milliseconds that a task which sleeps again and again woke up late (p50, p99, the worst), how
often it looked, and the seconds that the download took.
"""

from __future__ import annotations

import json
import time

import trio

from benchmarks.drive import config_of, parsed, requests_of
from engine import open_engine

STEP_S = 0.002


async def lateness(late_ms: list[float]) -> None:
    """Sleep and see how much later than asked for it went on."""
    while True:
        asked = trio.current_time() + STEP_S
        await trio.sleep_until(asked)
        late_ms.append((trio.current_time() - asked) * 1000)


async def drive() -> dict[str, float]:
    """Do it, and return what was seen."""
    arguments = parsed()
    late_ms: list[float] = []
    config = config_of(arguments.set)
    async with open_engine(arguments.root, config=config, resume=False) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(lateness, late_ms)
        began = time.perf_counter()
        for download in await engine.offline_many(requests_of(arguments)):
            await download.wait()
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    late_ms.sort()
    return {
        "p50_ms": late_ms[len(late_ms) // 2],
        "p99_ms": late_ms[len(late_ms) * 99 // 100],
        "worst_ms": late_ms[-1],
        "looks": len(late_ms),
        "work_s": took,
    }


if __name__ == "__main__":
    print(json.dumps(trio.run(drive)))
