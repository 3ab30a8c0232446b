"""The hash kernel on one thread, every SIMD path that this machine runs, beside the ``blake3`` package."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from blake3 import blake3

from benchmarks.bench import GIB, KIB, MIB, Bench
from benchmarks.facts import Fact, paired
from benchmarks.report import Report
from engine import native

SIZES = {"1 MiB": MIB, "256 KiB": 256 * KIB}
SLICE_BYTES = 64 * MIB  # some 30 ms: long against the clock, short against the neighbours' noise
PACKAGE = "blake3 package"


def _rate(work: Callable[[], object], size: int) -> float:
    """GiB/s of one slice."""
    count = SLICE_BYTES // size
    began = time.perf_counter()
    for _ in range(count):
        work()
    return count * size / GIB / (time.perf_counter() - began)


def measure(bench: Bench) -> Report:
    """Median GiB/s over slices taken in turn, and the ratio to the package in the same turn."""
    report = Report()
    chosen = native.simd_path()
    shares: dict[str, list[Fact]] = {name: [] for name in native.simd_paths()}
    try:
        for label, size in SIZES.items():
            rates = _rates(os.urandom(size), max(bench.scale.rounds, 5))
            for name, each in rates.items():
                share = paired(each, rates[PACKAGE])
                report.rows[f"{name}, {label}"] = {"gib_s": Fact.of(each), "of_package": share}
                if name in shares:
                    shares[name].append(share)
    finally:
        native.force_simd_path(chosen)
    for name, found in shares.items():
        report.facts[f"{name}_of_package"] = min(found, key=lambda share: share.median)
    report.notes.append("the package takes the widest path of the machine; a path that is not told does not run here")
    return report


def _rates(data: bytes, rounds: int) -> dict[str, list[float]]:
    """Rounds of every path and the package in turn, after one that warms up."""
    rates: dict[str, list[float]] = {name: [] for name in (*native.simd_paths(), PACKAGE)}
    for number in range(rounds + 1):
        for name, each in rates.items():
            if name == PACKAGE:
                rate = _rate(lambda: blake3(data).digest(), len(data))
            else:
                native.force_simd_path(name)
                rate = _rate(lambda: native.subtree_cv(data, 0), len(data))
            if number > 0:
                each.append(rate)
    return rates
