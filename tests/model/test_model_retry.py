"""What follows from an error: how often and when it is tried again, and what is not held against the source."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config
from engine.control.reach import Reach
from engine.errors import (
    Changed,
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DnsError,
    EngineError,
    HttpStatus,
    InternalError,
    InvalidRequest,
    NoRoute,
    NoSpace,
    QuotaReached,
    ResolverDown,
    Stalled,
    StoreError,
    TooManyFiles,
)
from engine.model.records import Attempt, ErrorRecord
from engine.model.retry import Tries, decide, history, not_before, policy_of
from engine.model.states import Event, Reason

ERRORS: list[EngineError] = [
    ConnectRefused("x"),
    ConnectionLost("x"),
    HttpStatus("x", status=503),
    HttpStatus("x", status=404),
    InvalidRequest("x"),
    StoreError("x"),
    InternalError("x"),
]


class InodesFull(NoSpace):
    """A class that has no policy of its own."""

    code = "inodes"


@given(st.sampled_from(ERRORS), st.integers(1, 2000), st.floats(0, 10), st.floats(0, 100), st.integers())
def test_decide_is_bounded(error: EngineError, tries: int, base: float, longest: float, seed: int) -> None:
    config = Config(backoff_base_s=base, backoff_max_s=longest)
    decision = decide(error, tries, config, random.Random(seed))
    if tries >= policy_of(error).tries:
        assert (decision.event, decision.reason, decision.delay_s) == (Event.FAIL, Reason.ERROR, None)
    else:
        assert (decision.event, decision.reason) == (Event.PREEMPT, Reason.BACKOFF)
        assert decision.delay_s is not None
        assert 0 <= decision.delay_s <= min(longest, base * 2 ** (tries - 1))


def test_the_delay_is_jittered_over_its_whole_range() -> None:
    config = Config()
    rng = random.Random(7)
    for tries, ceiling in ((1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0)):
        delays = [decide(ConnectionLost("x"), tries, config, rng).delay_s or 0.0 for _ in range(500)]
        assert min(delays) < 0.1 * ceiling
        assert 0.9 * ceiling < max(delays) <= ceiling
    late = [decide(NoRoute("x"), 1, config, rng, failed=500).delay_s or 0.0 for _ in range(500)]
    assert 54.0 < max(late) <= 60.0


@given(st.floats(allow_nan=False, allow_infinity=True), st.integers())
def test_retry_after_is_the_least_delay_and_clamped(asked: float, seed: int) -> None:
    """S35."""
    config = Config()
    error = HttpStatus("x", status=429, retry_after_s=asked)
    delay = decide(error, 1, config, random.Random(seed)).delay_s
    assert delay is not None
    wanted = min(max(asked, 0.0), config.retry_after_s_max)
    assert wanted <= delay <= max(1.1 * wanted, config.backoff_base_s)


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ConnectionLost("x"), 8),
        (HttpStatus("x", status=503), 8),
        (ResolverDown("x"), 8),
        (DnsError("x"), 4),
        (ConnectRefused("x"), 4),
        (Changed("x"), 3),
        (HttpStatus("x", status=404), 1),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_after_so_many_tries_without_progress_it_fails(error: EngineError, tries: int) -> None:
    config, rng, state = Config(), random.Random(1), Tries()
    made = 0
    while made < 20:
        made += 1
        state = state.after(error, progress=False, all_fail=False)
        if decide(error, state.count, config, rng, failed=state.failed).event is Event.FAIL:
            break
    assert made == tries


def test_progress_begins_the_count_anew() -> None:
    state = Tries()
    for _ in range(6):
        state = state.after(ConnectionLost("x"), progress=False, all_fail=False)
    assert state == Tries(failed=6, count=6)
    assert state.after(ConnectionLost("x"), progress=True, all_fail=False) == Tries(failed=1, count=1)


def test_without_a_network_no_try_counts_but_the_waits_grow() -> None:
    """N12."""
    config, rng, state = Config(), random.Random(1), Tries(failed=7, count=7)
    longest = 0.0
    for _ in range(50):
        state = state.after(NoRoute("x"), progress=False, all_fail=False)
        decision = decide(NoRoute("x"), state.count, config, rng, failed=state.failed)
        assert (decision.event, decision.reason) == (Event.PREEMPT, Reason.NETWORK)
        longest = max(longest, decision.delay_s or 0.0)
    assert state == Tries(failed=57, count=7)
    assert 50.0 < longest <= config.backoff_max_s
    after = state.after(ConnectRefused("x"), progress=False, all_fail=False)
    assert decide(ConnectRefused("x"), after.count, config, rng).event is Event.FAIL


@pytest.mark.parametrize("error", [ConnectTimeout("x"), Stalled("x"), ResolverDown("x")], ids=lambda e: e.code)
def test_what_all_hosts_do_is_the_networks_fault(error: EngineError) -> None:
    config, rng = Config(), random.Random(1)
    alone, together = Tries(), Tries()
    for _ in range(8):
        alone = alone.after(error, progress=False, all_fail=False)
        together = together.after(error, progress=False, all_fail=True)
    assert (alone.count, together.count) == (8, 0)
    assert decide(error, alone.count, config, rng, all_fail=False).event is Event.FAIL
    assert decide(error, together.count, config, rng, failed=8, all_fail=True).reason is Reason.NETWORK


def test_a_full_disk_parks_whatever_the_class_below_is_called() -> None:
    for error in (NoSpace("x"), InodesFull("x")):
        decision = decide(error, 1, Config(), random.Random(1))
        assert (decision.event, decision.reason, decision.delay_s) == (Event.PAUSE, Reason.DISK, None)
    reached = decide(QuotaReached("x"), 1, Config(), random.Random(1))
    assert (reached.event, reached.reason, reached.delay_s) == (Event.PAUSE, Reason.QUOTA, None)


def test_who_has_no_descriptors_left_waits_longer() -> None:
    delays = [decide(TooManyFiles("x"), 1, Config(), random.Random(seed)).delay_s or 0.0 for seed in range(200)]
    assert 1.5 < max(delays) <= 2.0


def reach_after(*ended: tuple[str, EngineError | None, int]) -> bool:
    reach = Reach()
    for host, error, fetched in ended:
        reach.note(host, error, fetched)
    return reach.all_fail


TWO = (("a", ConnectTimeout("x"), 0), ("b", ResolverDown("x"), 0))


@pytest.mark.parametrize(
    ("ended", "lost"),
    [
        ([("a", ConnectTimeout("x"), 0)] * 5, False),  # one host may be down alone
        (TWO, True),
        ([*TWO, ("c", None, 0), ("c", NoSpace("x"), 0), ("c", StoreError("x"), 0)], True),  # these tell nothing of it
        ([*TWO, ("c", HttpStatus("x", status=404), 0)], False),
        ([*TWO, ("c", ConnectRefused("x"), 0)], False),
        ([*TWO, ("c", None, 10)], False),
        ([*TWO, ("c", Stalled("x"), 1)], False),
        ([*TWO, ("c", None, 10), ("a", NoRoute("x"), 0)], False),
        ([*TWO, ("c", None, 10), ("a", NoRoute("x"), 0), ("b", NoRoute("x"), 0)], True),
    ],
)
def test_the_network_is_gone_when_several_hosts_fail_and_none_answers(
    ended: list[tuple[str, EngineError | None, int]], lost: bool
) -> None:
    assert reach_after(*ended) is lost


def attempt(number: int, error: EngineError | None = None, fetched: int = 0) -> Attempt:
    record = None if error is None else ErrorRecord.of(error, 1.0)
    return Attempt(number=number, started_at=0.0, bytes_fetched=fetched, error=record)


def test_the_last_attempts_are_kept_and_a_night_without_network_is_one_line() -> None:
    kept: tuple[Attempt, ...] = ()
    for number in range(30):
        kept = history(kept, attempt(number, ConnectionLost("x"), 5), 20)
    assert [each.number for each in kept] == list(range(10, 30))
    for number in range(30, 90):
        kept = history(kept, attempt(number, NoRoute("x")), 20)
    assert [each.number for each in kept] == [*range(11, 30), 89]
    kept = history(kept, attempt(90, NoRoute("x"), 7), 20)
    assert [each.number for each in kept[-2:]] == [89, 90], "what brought bytes has its own line"
    assert history((), attempt(1), 20) == (attempt(1),)


@pytest.mark.parametrize(
    ("retry_at", "now", "wait_s"),
    [
        (None, 1000.0, None),
        (990.0, 1000.0, None),
        (1060.0, 1000.0, 60.0),
        (1060.0, 1059.0, 1.0),
        (1060.0, 5000.0, None),  # the wall clock was set forward
        (1060.0, -1e9, 1.1 * 6 * 3600),  # and back, by decades: not for ever
    ],
)
def test_a_time_of_day_becomes_a_time_of_the_own_clock(
    retry_at: float | None, now: float, wait_s: float | None
) -> None:
    found = not_before(retry_at, now, 77.0, Config())
    assert found == (None if wait_s is None else pytest.approx(77.0 + wait_s))
