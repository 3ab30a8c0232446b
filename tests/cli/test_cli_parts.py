"""Pieces of the command line that no run of a verb shows in all their cases."""

from __future__ import annotations

import os
import signal

import pytest

from engine.cli.demo import KilledRun, ResumedRun, bytes_checks
from engine.cli.one_interrupt import OneInterrupt
from engine.config import MIB

KILLED = KilledRun(fetched=60 * MIB, held=50 * MIB, chunk_bytes=MIB, seconds=1.0)
RESUMED = ResumedRun(path="/x", blake3="", fetched=50 * MIB, resumed=50 * MIB, seconds=1.0)


@pytest.mark.parametrize(
    ("resumed", "fetched_in_all", "failing"),
    [
        (RESUMED, 110 * MIB, []),
        (RESUMED, 168 * MIB, []),
        (RESUMED, 168 * MIB + 1, ["lost"]),
        (ResumedRun("/x", "", 51 * MIB, 50 * MIB, 1.0), 111 * MIB, ["only"]),
        (ResumedRun("/x", "", 50 * MIB, 49 * MIB, 1.0), 110 * MIB, ["every"]),
    ],
)
def test_demo_fails_when_bytes_do_not_add_up(resumed: ResumedRun, fetched_in_all: int, failing: list[str]) -> None:
    checks = bytes_checks(100 * MIB, KILLED, resumed, fetched_in_all)

    assert [name.split()[0] for name, good in checks.items() if not good] == failing


def test_demo_fails_when_nothing_survived_the_kill() -> None:
    nothing = KilledRun(fetched=60 * MIB, held=0, chunk_bytes=MIB, seconds=1.0)
    again = ResumedRun(path="/x", blake3="", fetched=100 * MIB, resumed=0, seconds=1.0)

    assert not all(bytes_checks(100 * MIB, nothing, again, 160 * MIB).values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_held_interrupt_is_raised_at_the_end_and_only_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    steps = []

    def make(interrupts: OneInterrupt) -> None:
        with interrupts.held():
            os.kill(os.getpid(), number)
            steps.append("made")
        steps.append("not reached")

    with OneInterrupt() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            make(interrupts)
        os.kill(os.getpid(), number)
        steps.append("cleaned up")

    assert steps == ["made", "cleaned up"]
    assert signal.getsignal(number) is before


def test_an_interrupt_that_is_not_held_is_raised_at_once() -> None:
    with OneInterrupt(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
