"""kill -9 at random moments: what the next run has to fetch again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks.origin import serving

SIZE = 1 << 30
CONNECTIONS = 4
CHUNK = 1 << 20
WINDOW = 64 << 20


def measure(rounds: int) -> dict[str, object]:
    """For each round: one kill at a random moment, then one run to the end.

    Lost is what the killed run had written less what the next one trusted. It may be at most the bound, and what was
    trusted and what was fetched must add up to the file.
    """
    rng = random.Random(2)
    results = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder, serving(folder) as origin:
        origin.add("big.bin", SIZE)
        for number in range(rounds):
            root = os.path.join(folder, f"library-{number}")
            command = [sys.executable, "-m", "engine", "--root", root, "get", origin.url("big.bin"), "--json"]
            command += ["--connections", str(CONNECTIONS), "--no-progress"]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.45, 1.2))
            sent_before = _bytes_received(child.pid)
            child.send_signal(signal.SIGKILL)
            child.wait()
            done = subprocess.run(command, capture_output=True, check=True)
            report = json.loads(done.stdout)
            lost = max(0, sent_before - report["bytes_resumed"])
            results.append((report["bytes_resumed"], report["bytes_fetched"], lost))
    return {
        "kills": rounds,
        "resumed_mib": [resumed >> 20 for resumed, _, _ in results],
        "fetched_twice_mib_max": max(lost for _, _, lost in results) >> 20,
        "bound_mib": (WINDOW + CONNECTIONS * CHUNK) >> 20,
        "sum_is_size": all(resumed + fetched == SIZE for resumed, fetched, _ in results),
    }


def _bytes_received(pid: int) -> int:
    """Bytes that the process wrote to its files so far, from the kernel's account: all of them came off the wire."""
    with open(f"/proc/{pid}/io", encoding="ascii") as source:
        fields = dict(line.split(": ") for line in source.read().splitlines())
    return int(fields["wchar"])
