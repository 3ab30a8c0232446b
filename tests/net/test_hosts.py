"""Hosts in trouble: rests that they ask for, breakers, and how many entries they take at once."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.errors import (
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    HostResting,
    NetworkError,
    NoRoute,
    ResolverDown,
    TooManyFiles,
)
from engine.net.host import Limit
from engine.net.hosts import HOSTS_KEPT, Hosts

CONFIG = Config(breaker_failures=3, breaker_open_s=4.0, breaker_open_max_s=60.0, host_rest_wait_s=2.0)
REFUSED = ConnectRefused("refused")


class Stage:
    """Hosts under a mock clock; ``told``: what :attr:`Hosts.changed` was called with. ``in_use`` connections."""

    def __init__(self) -> None:
        self.hosts = Hosts(CONFIG)
        self.told: list[str] = []
        self.hosts.changed = self.told.append
        self.in_use = 8

    def answer(self, name: str, status: int = 206, retry_after_s: float | None = None) -> None:
        self.hosts.answered(name, status, retry_after_s, lambda _: self.in_use)

    def fail(self, name: str, error: BaseException = REFUSED, times: int = 1) -> None:
        for _ in range(times):
            self.hosts.failed(name, error, lambda _: self.in_use)

    def lose(self, name: str, *entry_ids: str) -> None:
        for entry_id in entry_ids:
            self.hosts.body_failed(name, entry_id)

    def most(self, name: str) -> int | None:
        return self.hosts.limit(name).most

    async def refuses(self, name: str) -> HostResting:
        with pytest.raises(HostResting) as raised:
            await self.hosts.enter(name)
        return raised.value


def run(script: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        await script(Stage())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_s35_retry_after_holds_the_host_and_no_other_and_halves_it() -> None:
    async def script(stage: Stage) -> None:
        stage.answer("a", 429, 30.0)
        error = await stage.refuses("a")
        assert error.retry_after_s == pytest.approx(30.0)
        assert error.retryable
        assert stage.hosts.rests_until("a") == trio.current_time() + 30
        assert stage.most("a") == 4
        why, rest_s = stage.hosts.why_resting("a")
        assert why == "a asked to be left alone for another 30 s"
        assert rest_s == pytest.approx(30.0)
        await stage.hosts.enter("b")
        assert stage.told == ["a"]
        await trio.sleep(30)
        await stage.hosts.enter("a")
        why, rest_s = stage.hosts.why_resting("a")
        assert why == "a refused some: 4 of its entries may run at once, more with time"
        assert rest_s == 0.0
        assert stage.hosts.why_resting("b") == ("", 0.0)

    run(script)


@pytest.mark.parametrize(("asked", "held"), [(1e9, 6 * 3600.0), (-5.0, None), (0.0, None)])
def test_s35_what_is_asked_for_is_clamped(asked: float, held: float | None) -> None:
    async def script(stage: Stage) -> None:
        stage.answer("a", 503, asked)
        until = stage.hosts.rests_until("a")
        assert (None if until is None else until - trio.current_time()) == held

    run(script)


def test_a_short_rest_is_waited_for_in_place() -> None:
    async def script(stage: Stage) -> None:
        stage.answer("a", 503, 1.5)
        await stage.hosts.enter("a")
        assert trio.current_time() == pytest.approx(1.5)

    run(script)


def test_a_burst_of_refusals_is_one_and_later_ones_count_again() -> None:
    async def script(stage: Stage) -> None:
        for _ in range(8):
            stage.answer("a", 429)
        assert stage.hosts.host("a").cap == 4
        await trio.sleep(5)
        stage.answer("a", 429)
        assert stage.hosts.host("a").cap == 2
        await trio.sleep(CONFIG.growth_hold_s)
        stage.answer("a")
        assert stage.hosts.host("a").cap == 3
        for _ in range(10):
            await trio.sleep(CONFIG.growth_hold_s)
            stage.answer("a")
        assert stage.hosts.host("a").cap is None

    run(script)


def test_a_breaker_opens_tries_once_and_closes_or_opens_for_longer() -> None:
    async def script(stage: Stage) -> None:
        stage.fail("a", times=2)
        await stage.hosts.enter("a")
        stage.fail("a")
        assert "failed 3 times in a row" in str(await stage.refuses("a"))
        await trio.sleep(4)
        assert stage.hosts.limit("a") == Limit(None, None, 4.0)
        await stage.hosts.enter("a")  # the one that tries
        assert stage.hosts.limit("a") == Limit(0)
        assert "being tried" in str(await stage.refuses("a"))
        stage.fail("a")
        assert stage.hosts.rests_until("a") == pytest.approx(trio.current_time() + 8)
        await trio.sleep(8)
        await stage.hosts.enter("a")
        stage.answer("a", 404)  # any answer of its own
        await stage.hosts.enter("a")
        await stage.hosts.enter("a")
        assert stage.most("a") is None

    run(script)


def test_a_try_that_was_cut_off_lets_another_one_try() -> None:
    async def script(stage: Stage) -> None:
        stage.fail("a", times=3)
        await trio.sleep(4)
        await stage.hosts.enter("a")
        stage.told.clear()
        stage.fail("a", trio.TooSlowError())
        assert stage.told == ["a"]
        assert stage.hosts.limit("a") == Limit(None, None, 4.0)
        await stage.hosts.enter("a")

    run(script)


def test_an_answer_between_begins_the_count_anew() -> None:
    async def script(stage: Stage) -> None:
        for _ in range(5):
            stage.fail("a", times=2)
            stage.answer("a")
        await stage.hosts.enter("a")
        assert stage.told == []

    run(script)


@pytest.mark.parametrize("error", [NoRoute("gone"), ResolverDown("down"), trio.TooSlowError(), ValueError("a bug")])
def test_what_says_nothing_of_the_host_opens_no_breaker(error: Exception) -> None:
    async def script(stage: Stage) -> None:
        stage.fail("a", error, times=20)
        await stage.hosts.enter("a")

    run(script)


def test_several_hosts_that_fall_silent_are_the_network() -> None:
    async def script(stage: Stage) -> None:
        stage.fail("a", ConnectTimeout("silent"), times=3)
        await stage.refuses("a")
        stage.fail("b", ConnectTimeout("silent"), times=20)
        await stage.hosts.enter("a")
        await stage.hosts.enter("b")
        stage.answer("b")
        stage.fail("a", ConnectTimeout("silent"), times=3)
        await stage.refuses("a")

    run(script)


@pytest.mark.parametrize("error", [TooManyFiles("no descriptors"), NetworkError("no ports")])
def test_n21_n22_what_this_side_runs_out_of_means_fewer_connections(error: Exception) -> None:
    async def script(stage: Stage) -> None:
        stage.fail("a", error)
        assert stage.hosts.host("a").growth.level == 4
        await stage.hosts.enter("a")

    run(script)


def test_connections_that_break_in_a_row_are_a_refusal() -> None:
    async def script(stage: Stage) -> None:
        for _ in range(10):
            stage.hosts.lost("a", 8)
            await trio.sleep(2.5)
        assert stage.most("a") is None
        for _ in range(3):
            stage.hosts.lost("a", 8)
        assert stage.most("a") == 4

    run(script)


def test_another_network_forgives_failures_and_keeps_what_was_asked_for() -> None:
    async def script(stage: Stage) -> None:
        stage.fail("a", ConnectionLost("reset"), times=3)
        stage.answer("b", 503, 100.0)
        stage.hosts.forgive()
        await stage.hosts.enter("a")
        await stage.refuses("b")

    run(script)


@pytest.mark.parametrize("asked", [True, False])
def test_who_insists_has_one_request_go_ahead(asked: bool) -> None:
    async def script(stage: Stage) -> None:
        if asked:
            stage.answer("a", 429, 3600.0)
        else:
            stage.fail("a", times=3)
        await stage.refuses("a")
        stage.told.clear()
        stage.hosts.excuse("a")
        assert stage.told == ["a"]
        assert stage.hosts.limit("a") == Limit(None, None, CONFIG.breaker_open_s)
        await stage.hosts.enter("a")
        await stage.refuses("a")  # the others wait for what it is told
        stage.answer("a")
        await stage.hosts.enter("a")
        assert stage.hosts.rests_until("a") is None
        stage.told.clear()
        stage.hosts.excuse("a")
        stage.hosts.excuse("nobody")
        assert stage.told == []

    run(script)


def test_hosts_without_trouble_are_forgotten() -> None:
    async def script(stage: Stage) -> None:
        stage.answer("kept", 503, 1000.0)
        for number in range(3 * HOSTS_KEPT):
            stage.hosts.host(f"h{number}")
        assert len(stage.hosts._hosts) <= HOSTS_KEPT
        await stage.refuses("kept")

    run(script)


@pytest.mark.parametrize(
    ("status", "asked"), [(429, None), (429, 0.0), (503, 0.0), (503, None), (408, None), (425, None), (500, None)]
)
def test_every_answer_of_a_host_in_trouble_counts_and_its_rests_double(status: int, asked: float | None) -> None:
    async def script(stage: Stage) -> None:
        for _ in range(CONFIG.breaker_failures):
            await stage.hosts.enter("a")
            stage.answer("a", status, asked)
        for rest_s in (4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
            assert stage.hosts.rests_until("a") == trio.current_time() + rest_s
            await trio.sleep(rest_s)
            await stage.hosts.enter("a")
            stage.answer("a", status, asked)
        await trio.sleep(60)
        await stage.hosts.enter("a")
        stage.answer("a")
        assert not stage.hosts.host("a").failures
        assert stage.hosts.limit("a").trial_s is None

    run(script)


def test_a_host_rests_for_what_it_asked_or_for_its_own_rest_whichever_is_longer() -> None:
    async def script(stage: Stage) -> None:
        rests = []
        for _ in range(6):
            await stage.hosts.enter("a")
            stage.answer("a", 429, 10.0)
            until = stage.hosts.rests_until("a") or 0.0
            rests.append(until - trio.current_time())
            await trio.sleep_until(until)
        assert rests == [10.0, 10.0, 10.0, 10.0, 16.0, 32.0]

    run(script)


def test_what_was_refused_is_eased_by_time_alone() -> None:
    async def script(stage: Stage) -> None:
        assert stage.hosts.eases_at() == math.inf
        stage.answer("a", 503)
        found = [stage.most("a")]
        while stage.hosts.eases_at() < math.inf:
            assert stage.hosts.eases_at() == trio.current_time() + CONFIG.growth_hold_s
            stage.told.clear()
            stage.hosts.ease()
            assert stage.told == []
            await trio.sleep_until(stage.hosts.eases_at())
            stage.hosts.ease()
            assert stage.told == ["a"]
            found.append(stage.most("a"))
        assert found == [4, 5, None]

    run(script)


def test_nothing_is_eased_while_the_host_rests_or_is_doubtful() -> None:
    async def script(stage: Stage) -> None:
        stage.answer("a", 429, 600.0)
        assert stage.hosts.eases_at() == trio.current_time() + 600 + CONFIG.growth_hold_s
        stage.fail("b", times=3)
        stage.answer("b", 503)
        await trio.sleep(600)
        stage.hosts.ease()
        assert stage.most("a") == stage.hosts.host("b").cap == 4
        await stage.hosts.enter("b")
        stage.answer("b")
        stage.hosts.ease()
        assert stage.most("b") == 5

    run(script)


def test_bodies_that_several_entries_lose_in_a_row_open_the_breaker_whatever_the_heads_say() -> None:
    async def script(stage: Stage) -> None:
        stage.answer("a")
        stage.lose("a", "x", "y")
        stage.answer("a")
        assert stage.hosts.rests_until("a") is None
        stage.lose("a", "z")
        assert "broke its answers off for 3 entries" in str(await stage.refuses("a"))
        for rest_s in (4.0, 8.0, 16.0):
            assert stage.hosts.rests_until("a") == trio.current_time() + rest_s
            await trio.sleep(rest_s)
            await stage.hosts.enter("a")
            stage.answer("a")
            assert stage.hosts.limit("a") == Limit(None, trio.current_time() + rest_s, rest_s), (
                "the head proves nothing"
            )
            assert "whole bodies" in stage.hosts.why_resting("a")[0]
            stage.lose("a", "x")
        await trio.sleep(32)
        await stage.hosts.enter("a")
        stage.answer("a")
        stage.told.clear()
        stage.hosts.body_came("a")
        assert stage.told == ["a"]
        assert stage.hosts.limit("a") == Limit()

    run(script)


def test_one_entry_whose_bodies_are_always_lost_holds_up_nobody() -> None:
    async def script(stage: Stage) -> None:
        for _ in range(50):
            stage.lose("a", "bad", "worse")
            stage.answer("a")
        assert stage.told == []
        stage.hosts.body_came("a")
        stage.lose("a", "x", "y")
        assert stage.told == []

    run(script)


def test_a_body_that_comes_does_not_close_what_other_failures_opened() -> None:
    async def script(stage: Stage) -> None:
        stage.lose("a", "x")
        stage.fail("a", times=3)
        stage.hosts.body_came("a")
        stage.hosts.body_came("nobody")
        await stage.refuses("a")
        stage.lose("a", "x", "y", "z")
        stage.hosts.body_came("a")
        await stage.refuses("a")
        stage.lose("a", "x", "y", "z")
        stage.hosts.forgive()
        await stage.hosts.enter("a")

    run(script)


def test_what_is_said_of_a_doubtful_host() -> None:
    async def script(stage: Stage) -> None:
        stage.fail("a", times=3)
        await trio.sleep(4)
        assert stage.hosts.why_resting("a") == ("whether a answers again is tried by one of its entries", 0.0)

    run(script)
