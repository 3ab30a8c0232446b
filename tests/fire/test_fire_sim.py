"""The simulator's short tier: some days and lives, and that a day is played the same way twice."""

from __future__ import annotations

import pytest

from tests.fire import sim_model
from tests.fire.sim import play

FIRST, SEEDS, BATCH = 7000, 60, 10
LIVES = 20


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BATCH))
def test_days_that_end_well(first: int) -> None:
    for seed in range(first, first + BATCH):
        violations = play(seed).violations
        assert not violations, f"python -m tests.fire.sim --from {seed} --seeds 1 --trace\n" + "\n".join(violations)


def test_lives_that_are_as_their_model_says() -> None:
    for seed in range(FIRST, FIRST + LIVES):
        assert not (wrong := sim_model.play(seed)), f"python -m tests.fire.sim_model --from {seed} --seeds 1\n{wrong}"


def test_faults_strike_and_engines_crash() -> None:
    days = [play(seed) for seed in range(FIRST, FIRST + 20)]
    assert sum(day.crashes for day in days) >= 5
    assert sum(day.cuts for day in days) >= 1
    assert len({kind for day in days for kind in day.struck}) >= 30


@pytest.mark.parametrize("seed", [FIRST + 3, FIRST + 8])
def test_a_day_is_played_the_same_way_twice(seed: int) -> None:
    first, again = play(seed), play(seed)
    assert first.trace
    assert first.trace == again.trace
    assert first.digest == again.digest
