"""The crew's rules that are pure, and spans that follow the rate."""

from __future__ import annotations

import pytest

from engine.config import KIB, MIB, Config
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.transfer.crew import slow_below
from engine.transfer.plan import Plan

CONFIG = Config()


@pytest.mark.parametrize(
    ("others", "floor"),
    [
        ([], None),  # alone: nothing shows that another would do better
        ([1.0 * MIB, 1.0 * MIB, 2.0 * MIB], 0.25 * MIB),
        ([8.0 * KIB], 4.0 * KIB),  # never below the floor
        ([1.0 * KIB, 2.0 * KIB], None),  # all of them crawl: it is the line
    ],
)
def test_slow_is_what_others_do_far_better_than(others: list[float], floor: float | None) -> None:
    assert slow_below(others, CONFIG) == floor


@pytest.mark.parametrize(
    ("bytes_s", "span"),
    [
        (0.0, 64 * MIB),  # unknown: a share of what is left
        (1e9, 64 * MIB),
        (4.0 * MIB, 24 * MIB),  # six seconds of it
        (1.0 * MIB, 6 * MIB),
        (0.25 * MIB, 1 * MIB),  # the floor of 4 MiB would take a quarter of a minute
        (1000.0, 1 * MIB),
    ],
)
def test_spans_follow_the_rate(bytes_s: float, span: int) -> None:
    grid = ChunkGrid(4096 * MIB, 1 * MIB)
    plan = Plan(grid, Bitmap(grid.count), 2, CONFIG)
    plan.follow(2, bytes_s)
    lease = plan.lease()
    assert lease is not None
    assert lease.count * MIB == span


def test_what_is_left_counts_what_is_on_its_way() -> None:
    grid = ChunkGrid(64 * MIB, 1 * MIB)
    plan = Plan(grid, Bitmap(grid.count), 2, CONFIG)
    assert plan.left == 64
    lease = plan.lease()
    assert lease is not None
    assert plan.left == 64
    plan.advance(lease, 1.0)
    assert plan.left == 63
