"""The same file inside one running process, as a library's user sees it: no interpreter start, no imports."""

from __future__ import annotations

import os
import shutil
import tempfile
import time

import trio

from benchmarks.measure import median
from benchmarks.origin import serving
from engine import DownloadRequest, Durability, open_engine

GIB = 1 << 30


async def _once(root: str, url: str, durability: Durability) -> tuple[float, float]:
    async with open_engine(root, resume=False) as engine:
        wall, cpu = time.perf_counter(), time.process_time()
        download = await engine.offline(DownloadRequest(url=url, durability=durability, connections=4))
        await download.wait()
        return time.perf_counter() - wall, time.process_time() - cpu


def measure(rounds: int, size: int = GIB) -> dict[str, object]:
    """Median wall and CPU seconds of ``offline`` to ``wait``, after one warm-up."""
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder, serving(folder) as origin:
        origin.add("big.bin", size)
        root = os.path.join(folder, "library")
        for durability in (Durability.RELAXED, Durability.STRICT):
            costs = []
            for _ in range(rounds + 1):
                shutil.rmtree(root, ignore_errors=True)
                costs.append(trio.run(_once, root, origin.url("big.bin"), durability))
            report[durability.value] = {
                "wall_s": round(median([wall for wall, _ in costs[1:]]), 3),
                "cpu_s": round(median([cpu for _, cpu in costs[1:]]), 3),
            }
    return report
