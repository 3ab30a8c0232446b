"""Playing inputs through a target: what it must never raise, and how long it may take."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fire.fuzz_mutate import Mutator, corpus

Target = Callable[[bytes], None]

STRETCHES = (16 * 1024, 64 * 1024)
# Four times the bytes may take four times as long, and as much again for noise; below this nothing is measured.
GROWTH_MAX = 8.0
MEASURED_S = 0.02
TRIES = 3


class Finding(Exception):
    """An input that a target did not stand; ``data`` plays it again."""

    def __init__(self, name: str, data: bytes, what: str) -> None:
        super().__init__(f"{name}: {what}\n  input: {data[:4096]!r}")
        self.data = data


@dataclass(slots=True)
class Tally:
    """What was played."""

    inputs: int = 0
    stretched: int = 0
    slowest_s: float = 0.0


def play(name: str, target: Target, data: bytes) -> float:
    """One input; the seconds of CPU it took. Raises Finding."""
    began = time.thread_time()
    try:
        target(data)
    except Exception as error:
        raise Finding(name, data, f"{type(error).__name__}: {error}") from error
    return time.thread_time() - began


def check_growth(name: str, target: Target, mutator: Mutator, tally: Tally, rng: random.Random) -> None:
    """One long input and one four times as long. Raises Finding when the time grows faster than the bytes."""
    state = rng.getstate()
    ratio = 0.0
    for _ in range(TRIES):
        times = []
        for size in STRETCHES:
            rng.setstate(state)
            data = mutator.stretched(size)
            times.append(play(name, target, data))
        tally.stretched += 1
        if times[1] < MEASURED_S:
            return
        ratio = times[1] / max(times[0], 1e-4)
        if ratio <= GROWTH_MAX:
            return
    raise Finding(name, data[:200], f"four times as many bytes took {ratio:.1f} times as long ({times[1]:.2f} s)")


def fuzz(
    name: str,
    target: Target,
    *,
    seed: int,
    inputs: int | None = None,
    seconds: float | None = None,
    stretch_every: int = 50,
) -> Tally:
    """All committed inputs, then changed ones until ``inputs`` or ``seconds`` are over. Raises Finding."""
    rng = random.Random(seed)
    seeds = corpus(name)
    mutator = Mutator(rng, seeds)
    tally = Tally()
    ends = None if seconds is None else time.monotonic() + seconds
    for data in seeds:
        tally.slowest_s = max(tally.slowest_s, play(name, target, data))
        tally.inputs += 1
    while (inputs is None or tally.inputs < inputs) and (ends is None or time.monotonic() < ends):
        tally.slowest_s = max(tally.slowest_s, play(name, target, mutator.make()))
        tally.inputs += 1
        if stretch_every and tally.inputs % stretch_every == 0:
            check_growth(name, target, mutator, tally, rng)
    return tally
