"""The kill loop's short tier, and that the loop finds what it looks for (C1-C13, C16, C17; laws 1, 2, 4, 6)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fire.kills import run
from tests.fire.kills_child import MUTANTS

KILLS = 25


@pytest.mark.timeout(300)
async def test_killed_under_load(tmp_path: Path) -> None:
    """C1-C13, C16: at random moments and chosen system calls; 1,000 in ``python -m tests.fire.kills``."""
    seed = f"{random.SystemRandom().randrange(10**6):06}"
    score = await run(KILLS, seed, tmp_path)
    print(f"seed {seed}: {score}")
    assert score.violations == []
    assert score.kills == KILLS
    assert sum(score.at_calls.values()) >= 2, "no chosen system call was met"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", sorted(set(MUTANTS) - {""}))
async def test_the_loop_finds_a_wrong_engine(tmp_path: Path, mutant: str) -> None:
    """An engine without tombstones, without a window, or that answers too early is caught within 150 kills."""
    assert (await run(150, "mutant", tmp_path, mutant=mutant)).violations != []
