"""The hash kernel on one thread, every SIMD path that this machine runs, beside the ``blake3`` package."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from blake3 import blake3

from benchmarks.measure import median
from engine import native

SIZES = {"1 MiB": 1 << 20, "256 KiB": 1 << 18}


def _rate(work: Callable[[], object], size: int) -> float:
    """GiB/s of one slice of about 30 ms."""
    count = max(1, (64 << 20) // size)
    began = time.perf_counter()
    for _ in range(count):
        work()
    return count * size / (1 << 30) / (time.perf_counter() - began)


def measure(rounds: int) -> dict[str, object]:
    """Median GiB/s over ``rounds`` slices taken in turn, and the ratio to the package."""
    report: dict[str, object] = {}
    chosen = native.simd_path()
    try:
        for label, size in SIZES.items():
            data = os.urandom(size)
            rates: dict[str, list[float]] = {name: [] for name in (*native.simd_paths(), "blake3 package")}
            for _ in range(max(rounds, 5)):
                for name in native.simd_paths():
                    native.force_simd_path(name)
                    rates[name].append(_rate(lambda: native.subtree_cv(data, size), size))  # noqa: B023  # called at once
                rates["blake3 package"].append(_rate(lambda: blake3(data).digest(), size))  # noqa: B023
            package = median(rates["blake3 package"])
            report[label] = {
                name: {"gib_s": round(median(each), 2), "of_package": round(median(each) / package, 2)}
                for name, each in rates.items()
            }
    finally:
        native.force_simd_path(chosen)
    return report
