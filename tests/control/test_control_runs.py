"""What runs and what waits: limits, priorities while it runs, giving way, and nothing forgotten."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import Config
from engine.control.runs import Runs
from engine.errors import (
    EngineClosed,
    EngineError,
    HttpStatus,
    InvalidRequest,
    NoRoute,
    NoSpace,
    StoreUnusable,
    TooManyFiles,
    UnknownEntry,
)
from engine.model.events import Recovered
from engine.model.records import DownloadEntry
from engine.model.states import Event, Reason, State
from tests.support.runs import Stage, lost

WHOLE_DAY_S = 86400.0
NEVER_MENDED: dict[str, Any] = {"reconcile_interval_s": 1e9}


def two_at_once(**changes: Any) -> Config:
    return Config(entries_at_once=2, **changes)


def test_a_new_priority_counts_for_what_waits_at_once_and_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stage: Stage) -> None:
        for name in ("a", "b", "c", "d", "e"):
            stage.start(name)
        await trio.sleep(0.5)
        changed = await stage.runs.prioritise("e", 5)
        assert changed.priority == stage.records.entries["e"].priority == 5
        await stage.runs.prioritise("c", -1)
        await trio.sleep(9)

    stage = Stage(two_at_once(**NEVER_MENDED))
    stage.act(monkeypatch, script)
    assert [set(stage.begun[:2]), set(stage.begun[2:4]), stage.begun[4]] == [{"a", "b"}, {"e", "d"}, "c"]


def test_a_less_urgent_one_gives_way_when_asked_and_gets_its_turn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stage: Stage) -> None:
        for name, priority in (("a", 1), ("b", 0), ("c", 0), ("d", 0)):
            stage.start(name, priority)
        await trio.sleep(0.5)
        await stage.runs.prioritise("d", 2)
        await trio.sleep(0.1)
        assert {entry.id for entry in stage.running} == {"a", "b"}, "nobody asked for it"
        await stage.runs.prioritise("d", 2, preempt=True)
        await trio.sleep(0.1)
        assert {entry.id for entry in stage.running} == {"a", "d"}
        assert stage.state("b") == (State.PENDING, Reason.PREEMPTED)
        assert stage.runs.active("b")
        await trio.sleep(9)

    stage = Stage(two_at_once(**NEVER_MENDED))
    stage.act(monkeypatch, script)
    assert stage.begun[2:] == ["d", "b", "c"], "b is before c: it was added first"
    assert {entry.state for entry in stage.records.entries.values()} == {State.COMPLETED}


def test_what_becomes_due_just_after_a_look_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was stopped, or had no CPU, between giving turns and looking when the next one is due."""
    fill = Runs._fill

    def late(runs: Runs) -> None:
        fill(runs)
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        if sys._getframe(1).f_code is Runs.run.__code__:  # who looks next, and not an attempt that ended
            clock.jump(60.0)  # later than any wait before another try

    async def script(stage: Stage) -> None:
        monkeypatch.setattr(Runs, "_fill", late)
        stage.start("a")
        await trio.sleep(WHOLE_DAY_S)

    stage = Stage(Config(**NEVER_MENDED), play=lambda entry: (1.0, lost(entry) if entry.attempt_count < 3 else None))
    stage.act(monkeypatch, script)
    assert stage.state("a") == (State.COMPLETED, Reason.NONE)
    assert stage.begun == ["a"] * 3


def test_nobody_gives_way_to_an_equal_or_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stage: Stage) -> None:
        stage.start("a")
        stage.start("b")
        stage.start("c")
        await trio.sleep(0.5)
        await stage.runs.prioritise("c", 0, preempt=True)
        await stage.runs.prioritise("a", 9, preempt=True)
        await trio.sleep(9)

    stage = Stage(two_at_once(**NEVER_MENDED))
    stage.act(monkeypatch, script)
    assert stage.begun[2:] == ["c"]


def test_what_gave_way_and_is_stopped_then_stays_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stage: Stage) -> None:
        stage.start("a")
        stage.start("b")
        stage.start("c", -1)
        await trio.sleep(0.5)
        await stage.runs.prioritise("c", 2, preempt=True)
        await stage.runs.stop("b", (Event.PAUSE, Reason.USER))
        assert stage.state("b") == (State.PAUSED, Reason.USER)
        await trio.sleep(9)
        assert not stage.runs.active("b")

    stage = Stage(two_at_once(**NEVER_MENDED))
    stage.act(monkeypatch, script)
    assert stage.begun[2:] == ["c"]


def test_priorities_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stage: Stage) -> None:
        stage.start("a")
        for wrong in (2**31, float("nan"), True, "9"):
            with pytest.raises(InvalidRequest, match="priority"):
                await stage.runs.prioritise("a", wrong)  # type: ignore[arg-type]
        with pytest.raises(UnknownEntry):
            await stage.runs.prioritise("nobody", 1)
        stage.runs.close()
        with pytest.raises(EngineClosed):
            await stage.runs.prioritise("a", 1)

    Stage(Config()).act(monkeypatch, script)


def test_a_slow_host_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def play(entry: DownloadEntry) -> tuple[float, None]:
        return (1000.0 if "slow" in entry.url else 1.0), None

    async def script(stage: Stage) -> None:
        for number in range(6):
            stage.start(f"slow{number}", 9, "slow")
        for number in range(4):
            stage.start(f"fast{number}", 0, "fast")
        await trio.sleep(10)
        assert {entry.id for entry in stage.running} == {"slow0", "slow1"}

    stage = Stage(Config(entries_at_once=3, entries_per_host=2, **NEVER_MENDED), play)
    stage.act(monkeypatch, script)
    assert stage.most_of_host == {"slow": 2, "fast": 1}
    assert all(stage.state(f"fast{number}")[0] is State.COMPLETED for number in range(4))


def test_who_is_due_and_has_no_room_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for room, not for its time: nothing turns round and round until then."""

    def play(entry: DownloadEntry) -> tuple[float, Any]:
        return (0.0, lost(entry)) if entry.attempt_count == 1 and entry.id == "again" else (1000.0, None)

    async def script(stage: Stage) -> None:
        stage.start("again")
        await trio.lowlevel.checkpoint()
        stage.start("long")
        looks = 0
        fill = stage.runs._fill

        def counted() -> None:
            nonlocal looks
            looks += 1
            assert looks < 10
            fill()

        monkeypatch.setattr(stage.runs, "_fill", counted)
        with trio.fail_after(500):
            await trio.sleep(400)
        assert [entry.id for entry in stage.running] == ["long"]
        assert looks

    Stage(Config(entries_at_once=1, progress_interval_s=10.0, **NEVER_MENDED), play).act(monkeypatch, script)


def test_reconcile_finds_what_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bugs 17, 18: an entry that is IN_PROGRESS and has no task, or PENDING and no place, is taken up again."""

    async def script(stage: Stage) -> None:
        stage.start("runs")
        await trio.sleep(0.1)
        stage.add("waits")
        stage.add("later", next_retry_at=trio.current_time() + 500.0)
        stage.add("secret", secret_header_names=("cookie",))
        stage.add("paused", state=State.PAUSED, state_reason=Reason.USER)
        stage.add("stray", state=State.IN_PROGRESS)
        stage.add("stray secret", state=State.IN_PROGRESS, secret_header_names=("cookie",))
        assert {each.id for each in await stage.runs.reconcile()} == {"stray", "stray secret"}, (
            "nobody asked for others"
        )
        stage.runs.takes_all = True
        mended = await stage.runs.reconcile()
        assert {each.id for each in mended} == {"waits", "later"}
        assert [event for event in stage.events if isinstance(event, Recovered)][-2:] == mended
        assert await stage.runs.reconcile() == []
        await trio.sleep(10)
        for name in ("runs", "waits", "stray"):
            assert stage.state(name)[0] is State.COMPLETED
        assert stage.state("later")[0] is State.PENDING
        assert stage.state("secret") == (State.PENDING, Reason.NONE)
        assert stage.state("stray secret") == (State.PENDING, Reason.NEEDS_CREDENTIALS)
        assert stage.state("paused") == (State.PAUSED, Reason.USER)
        await trio.sleep(500)

    stage = Stage(Config(**NEVER_MENDED))
    stage.act(monkeypatch, script)
    assert stage.begun.count("later") == 1


def test_reconcile_comes_by_itself_and_survives_a_store_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(stage: Stage) -> None:
        stage.runs.takes_all = True
        stage.add("waits")
        pending, answers = stage.records.pending, iter([False, True, True, True])

        def shaky(first: int = 0, limit: int | None = None) -> object:
            if not next(answers):
                raise StoreUnusable("the disk is away")
            return pending(first, limit)

        monkeypatch.setattr(stage.records, "pending", shaky)
        await trio.sleep(45)
        assert stage.begun == []
        await trio.sleep(30)
        assert stage.state("waits")[0] is State.COMPLETED

    Stage(Config()).act(monkeypatch, script)


@pytest.mark.parametrize("error", [StoreUnusable, NoSpace, TooManyFiles])
def test_what_cannot_be_read_at_its_turn_is_taken_up_later(
    monkeypatch: pytest.MonkeyPatch, error: type[EngineError]
) -> None:
    """Whatever the store that cannot be opened again raises: of ENOSPC and EMFILE it makes errors of storage."""

    async def script(stage: Stage) -> None:
        get, away = stage.records.get, True

        def shaky(entry_id: str) -> DownloadEntry | None:
            if away:
                raise error("the disk is away")
            return get(entry_id)

        monkeypatch.setattr(stage.records, "get", shaky)
        stage.start("a")
        await trio.sleep(1)
        assert isinstance(stage.runs.unrecorded("a"), error)
        away = False
        await trio.sleep(40)
        assert stage.state("a")[0] is State.COMPLETED
        assert stage.runs.unrecorded("a") is None

    Stage(Config()).act(monkeypatch, script)


@pytest.mark.parametrize("comes_back_at_s", [2.0, 7.0], ids=["while it is tried", "while it waits"])
def test_a_network_that_comes_back_is_not_missed_by_an_attempt_that_ends_a_moment_later(
    monkeypatch: pytest.MonkeyPatch, comes_back_at_s: float
) -> None:
    """It looked for a way before there was one again: it must not wait for its next try as if there were none."""

    def play(entry: DownloadEntry) -> tuple[float, EngineError | None]:
        return (5.0, NoRoute("there is no way")) if entry.attempt_count == 1 else (1.0, None)

    async def script(stage: Stage) -> None:
        stage.start("a")
        await trio.sleep(comes_back_at_s)
        stage.runs.hurry_lost()
        await trio.sleep(max(5.0, comes_back_at_s) + 1.5 - comes_back_at_s)
        assert stage.state("a")[0] is State.COMPLETED
        assert stage.begun == ["a", "a"]

    Stage(Config(backoff_base_s=5000.0, backoff_max_s=5000.0, **NEVER_MENDED), play).act(monkeypatch, script)


NAMES = [f"e{number}" for number in range(8)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(NAMES), st.integers(-1, 1), st.sampled_from("xyz")),
        st.tuples(st.just("prioritise"), st.sampled_from(NAMES), st.integers(-2, 2), st.booleans()),
        st.tuples(st.sampled_from(["pause", "interrupt", "resume"]), st.sampled_from(NAMES)),
        st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.1, 0.7, 3.0])),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(0, 2), st.integers())
def test_no_wake_up_is_lost(steps: list[tuple[Any, ...]], per_host: int, seed: int) -> None:
    """Bug 18, 21: whatever is started, moved, stopped and resumed, in whatever order: what is to run has its turn,
    without the reconciling's help, and the limits hold all the time."""
    rng = random.Random(seed)

    def play(entry: DownloadEntry) -> tuple[float, Any]:
        return rng.choice([0.0, 0.3, 2.0]), rng.choice([None, lost(entry), HttpStatus("x", status=404)])

    async def script(stage: Stage) -> None:
        for step in steps:
            await _step(stage, step)
        await trio.sleep(WHOLE_DAY_S)
        for entry in stage.records.entries.values():
            assert entry.state in {State.COMPLETED, State.FAILED, State.PAUSED}, f"{entry.id} was forgotten"
            assert not stage.runs.active(entry.id)

    stage = Stage(two_at_once(entries_per_host=per_host, **NEVER_MENDED), play)
    with pytest.MonkeyPatch.context() as monkeypatch:
        stage.act(monkeypatch, script)
    assert stage.most <= 2
    assert max(stage.most_of_host.values(), default=0) <= (per_host or 2)


async def _step(stage: Stage, step: tuple[Any, ...]) -> None:
    name = step[1]
    entry = stage.records.entries.get(name)
    match step[0]:
        case "start" if entry is None:
            stage.start(name, step[2], step[3])
        case "prioritise" if entry is not None:
            await stage.runs.prioritise(name, step[2], preempt=step[3])
        case "pause" | "interrupt" if entry is not None:
            async with stage.runs.alone(name):
                end = stage.runs.stop if step[0] == "pause" else stage.runs.interrupt
                await end(name, (Event.PAUSE, Reason.USER))
                if stage.state(name)[0] is State.PENDING:
                    stage.records.transition(name, Event.PAUSE, epoch=1, now=0.0, reason=Reason.USER)
        case "resume" if entry is not None:
            async with stage.runs.alone(name):
                if stage.state(name)[0] is State.PAUSED:
                    stage.runs.start(stage.records.transition(name, Event.RESUME, epoch=1, now=0.0))
        case "sleep":
            await trio.sleep(step[1])
