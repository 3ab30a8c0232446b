"""The soak's short tier: 800 entries in and out of one engine, and nothing grows with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fire.soak import Measure, judge, soak
from tests.support.nginx import Nginx

ENTRIES = 100


@pytest.mark.timeout(300)
async def test_nothing_grows(library: Path, nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of it: ``python -m tests.fire.soak``. Bytes need more rounds than these to fill what is bounded."""
    monkeypatch.setattr("engine.transfer.memories.ENTRIES_REMEMBERED_MAX", 64)
    measures = await soak(nginx, library, 1.0, ENTRIES, 2 * ENTRIES, print)
    bytes_used = ("blocks", "malloc_kib", "anonymous_kib")
    assert [line for line in judge(measures, ENTRIES, 2 * ENTRIES) if not line.startswith(bytes_used)] == []


@pytest.mark.parametrize("name", ["descriptors", "objects", "map_mib", "blocks", "malloc_kib", "anonymous_kib"])
def test_the_judge_sees_growth(name: str) -> None:
    """Of one number, by one and a half of what is let pass, with noise upon it."""
    still = {"descriptors": 30, "threads": 12, "readers": 3, "map_mib": 64, "store_kib": 2000, "objects": 50_000}
    still |= {"blocks": 400_000, "malloc_kib": 30_000, "anonymous_kib": 60_000}
    grows = {"descriptors": 4, "map_mib": 4, "malloc_kib": 50, "objects": 450, "anonymous_kib": 400, "blocks": 600}[
        name
    ]
    rounds = [dict(still) for _ in range(15)]
    assert judge([Measure(**each) for each in rounds], 1000) == []
    for number, each in enumerate(rounds):
        each[name] += number * grows + (number % 3) * grows
    assert [line.split()[0] for line in judge([Measure(**each) for each in rounds], 1000)] == [name]
