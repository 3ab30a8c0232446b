"""The bitmap of a million chunks: scanned, counted, planned."""

from __future__ import annotations

import random

import pytest

from benchmarks.micro.timing import Timing
from engine import native
from engine.config import DEFAULT_CONFIG, MIB
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.transfer.plan import Plan

BITS = 1 << 20


@pytest.fixture(scope="module")
def holed() -> Bitmap:
    """A million bits, each set by a coin's toss."""
    return Bitmap(BITS, random.Random(1).randbytes(BITS // 8))


def test_scan_to_the_only_hole(benchmark: Timing) -> None:
    bits = bytearray(b"\xff" * (BITS // 8))
    native.bitmap_clear(bits, BITS - 1, 1)

    assert benchmark(native.bitmap_next_run, bits, BITS, 0, False, BITS) == (BITS - 1, 1)


def test_count(benchmark: Timing, holed: Bitmap) -> None:
    bits = bytes(holed)

    assert benchmark(native.bitmap_count, bits, BITS) == holed.held


def test_plan_and_first_lease(benchmark: Timing, holed: Bitmap) -> None:
    grid = ChunkGrid(BITS * MIB, MIB)

    lease = benchmark(lambda: Plan(grid, holed, 4, DEFAULT_CONFIG).lease())

    assert lease.count >= 1


def test_a_thousand_leases(benchmark: Timing, holed: Bitmap) -> None:
    grid = ChunkGrid(BITS * MIB, MIB)

    def prepared() -> tuple[tuple[Plan], dict[str, object]]:
        return (Plan(grid, holed, 4, DEFAULT_CONFIG),), {}

    def thousand(plan: Plan) -> int:
        return sum(plan.lease() is not None for _ in range(1000))

    assert benchmark.pedantic(thousand, setup=prepared, rounds=20) == 1000
