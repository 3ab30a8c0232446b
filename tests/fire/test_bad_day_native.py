"""The bad day below Python, the short tier. The long one is ``python -m tests.fire.bad_day_native``."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest

from tests.fire.bad_day_native import MANY, Tally, all_cases, compiled, preloaded, run_cases
from tests.support.origin import serve

SEED = int(os.environ.get("FIRE_SEED", "6"))
CASES = 30


@pytest.mark.timeout(300)
async def test_system_calls_of_the_sealer_and_of_lmdb_go_wrong() -> None:
    """D2-D6, D8-D12, C2-C6, L8, L9: where no seam reaches; chosen by a seed."""
    tally = Tally()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        async with preloaded(compiled(Path(folder))) as processes, serve(MANY) as origin:
            cases = await all_cases(processes, origin, Path(folder))
            assert {case.kind for case in cases if case.at > 1} >= {"pwrite", "fdatasync", "fsync", "rename", "open"}
            await run_cases(processes, origin, random.Random(SEED).sample(cases, CASES), Path(folder), tally)
    assert not tally.findings, "\n".join([f"FIRE_SEED={SEED}", *tally.findings])
    assert tally.struck.total() > 0.6 * CASES
