"""Connections by goodput, decided: simulated hosts answer with a rate for each number of connections."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from engine.config import MIB, Config
from engine.net.growth import Growth, Sample

CONFIG = Config()
LOOK_S = 0.05

Rate = Callable[[int], float]


class Line:
    """A host whose goodput is a function of the number of connections, under a clock of its own."""

    def __init__(
        self, rate: Rate, *, round_trip_s: float = 0.01, lossy: bool = False, noise: float = 0.0, burst: float = 0.0
    ) -> None:
        self.growth = Growth(CONFIG)
        self.now = 0.0
        self.levels: list[int] = []
        self._rate, self._round_trip_s, self._lossy = rate, round_trip_s, lossy
        self._noise = random.Random(7), noise
        self._received = burst * self.growth.level
        self._burst = burst
        self.may_grow = True

    def run(self, seconds: float) -> int:
        """Let so much time pass; returns the level then."""
        until = self.now + seconds
        rng, noise = self._noise
        while self.now < until:
            self.now += LOOK_S
            before = self.growth.level
            self._received += LOOK_S * self._rate(before) * (1 + rng.uniform(-noise, noise))
            self.levels.append(
                self.growth.observe(
                    Sample(
                        now=self.now,
                        received=int(self._received),
                        flowing=self.growth.level,
                        round_trip_s=self._round_trip_s,
                        lossy=self._lossy,
                        may_grow=self.may_grow,
                    )
                )
            )
            self._received += self._burst * max(0, self.growth.level - before)
        return self.growth.level


def throttled(each: float, most: float = float("inf")) -> Rate:
    """Each connection gets so much, all together no more than ``most``."""
    return lambda count: min(count * each, most)


def collapsing(beyond: int, total: float) -> Rate:
    """A host that gives ``total`` / ``beyond`` to each, and far less in all to more than ``beyond``."""
    return lambda count: count * total / beyond if count <= beyond else total / 3


@pytest.mark.parametrize("best", range(2, 9))
def test_a_host_that_throttles_each_connection_gets_as_many_as_pay(best: int) -> None:
    each = 5 * MIB
    line = Line(throttled(each, best * each))
    line.run(20)
    rate = min(line.growth.level * each, best * each)
    assert rate >= 0.97 * best * each, f"{line.growth.level} connections, the best number is {best}"
    assert line.growth.level <= 8


def test_a_fast_line_is_full_within_a_second() -> None:
    line = Line(throttled(50 * MIB), round_trip_s=0.0001)
    assert line.run(1.0) == 8


def test_a_host_that_slows_down_above_four_settles_at_four() -> None:
    """Stays there, too: each later try of a fifth is taken back, and they are half a minute apart."""
    line = Line(collapsing(4, 40 * MIB), noise=0.02)
    line.run(10)
    line.levels.clear()
    line.run(300)
    assert line.levels.count(4) >= 0.9 * len(line.levels)
    assert set(line.levels) <= {4, 5}


def test_a_host_that_begins_each_connection_with_a_burst_is_seen_through() -> None:
    """As nginx does under `limit_rate`: a second's worth at once."""
    line = Line(throttled(4 * MIB), round_trip_s=0.0001, burst=4 * MIB)
    assert line.run(8.0) == 8
    assert line.run(30.0) == 8


def test_one_connection_more_that_pays_too_little_is_taken_back() -> None:
    line = Line(throttled(20 * MIB, 41 * MIB), noise=0.01)
    line.run(60)
    assert line.growth.level <= 3


def test_never_beyond_the_ceiling() -> None:
    line = Line(throttled(1 * MIB))
    line.run(120)
    assert max(line.levels) == CONFIG.connections_per_host_grown


def test_a_lossy_line_may_have_sixteen_and_has_them_soon() -> None:
    line = Line(throttled(340_000), round_trip_s=0.05, lossy=True, noise=0.2)
    line.growth.ceiling = CONFIG.connections_per_entry_max
    assert line.run(3.0) == 16
    assert line.run(60.0) == 16


def test_it_never_grows_while_something_else_holds_it_up() -> None:
    line = Line(throttled(5 * MIB))
    line.may_grow = False
    assert line.run(30) == CONFIG.connections_start


def test_a_refusal_halves_and_holds() -> None:
    line = Line(throttled(5 * MIB))
    assert line.run(10) == 8
    line.growth.refuse(line.now)
    assert line.growth.level == 4
    assert line.run(CONFIG.growth_hold_s - 1) == 4
    assert line.run(10) > 4
    for _ in range(5):
        line.growth.refuse(line.now)
    assert line.growth.level == 1


def test_a_line_slower_than_any_window_is_judged_all_the_same() -> None:
    line = Line(throttled(20_000))
    assert line.run(120) == 8
