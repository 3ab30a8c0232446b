"""The tests are tested: every wrong variant of the engine is noticed by the test that is named for it (T14)."""

from __future__ import annotations

import os
import random

import pytest

from tests.fire.mutants import MUTANTS, run, verdicts

SEED = int(os.environ.get("FIRE_SEED", "6"))
SHARE = float(os.environ.get("FIRE_SHARE", "0.25"))


@pytest.mark.timeout(300)
def test_every_mutant_is_killed() -> None:
    """A quarter of them, by a seed; all with FIRE_SHARE=1 or ``python -m tests.fire.mutants``."""
    assert len(MUTANTS) >= 15
    names = random.Random(SEED).sample(list(MUTANTS), round(SHARE * len(MUTANTS)))
    lines = verdicts(names)
    assert not lines, "\n".join([f"FIRE_SEED={SEED}", *lines])


def test_the_runner_kills_no_engine_that_is_sound() -> None:
    """The same way of running a test passes without a mutant: what kills is the mutant."""
    status, output = run(None, MUTANTS["epoch-ignored"].killer)
    assert status == 0, output
