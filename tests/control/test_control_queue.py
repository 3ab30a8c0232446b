"""The order of waiting entries: priority, fair to hosts and groups, order of adding, and not before their time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.control import queue as queue_module
from engine.control.queue import WaitingQueue, host_of


def taken(queue: WaitingQueue, now: float = 0.0) -> list[str]:
    """All whose turn comes, each done before the next one."""
    found = []
    while (entry_id := queue.take(now)) is not None:
        queue.done(entry_id)
        found.append(entry_id)
    return found


def held(queue: WaitingQueue, now: float = 0.0) -> list[str]:
    """All that may have their turn at once."""
    found = []
    while (entry_id := queue.take(now)) is not None:
        found.append(entry_id)
    return found


def test_the_highest_priority_first_and_the_oldest_of_equals() -> None:
    queue = WaitingQueue()
    for name, priority, sequence in (("low", -1, 1), ("second", 0, 3), ("first", 0, 2), ("high", 5, 4)):
        queue.add(name, priority, sequence)
    assert taken(queue) == ["high", "first", "second", "low"]
    assert len(queue) == 0


def test_a_delayed_one_waits_for_its_time_and_then_for_its_turn() -> None:
    queue = WaitingQueue()
    queue.add("late", 9, 1, not_before=10.0)
    queue.add("now", 0, 2)
    assert queue.next_at(9.0) == 10.0
    assert taken(queue, 9.9) == ["now"]
    queue.add("other", 0, 3)
    assert taken(queue, 10.0) == ["late", "other"]
    assert queue.next_at(10.0) is None


def test_adding_again_moves_it_and_discarding_takes_it_out() -> None:
    queue = WaitingQueue()
    queue.add("a", 0, 1, not_before=5.0)
    queue.add("b", 0, 2)
    queue.add("a", 0, 1)
    assert "a" in queue
    assert queue.next_at(0.0) is None, "its delay is void"
    assert queue.discard("b")
    assert not queue.discard("b")
    assert taken(queue) == ["a"]
    assert taken(queue, 99.0) == []


def test_who_stands_behind_one_that_goes_away_is_not_forgotten() -> None:
    queue = WaitingQueue()
    for number in range(3):
        queue.add(f"e{number}", 0, number, host="h", group="g")
    queue.discard("e0")
    queue.prioritise("e1", -1)
    assert taken(queue) == ["e2", "e1"]


def test_hosts_take_turns_and_then_groups() -> None:
    queue = WaitingQueue()
    for number in range(3):
        queue.add(f"big{number}", 0, number, host="big", group="album")
    queue.add("single", 0, 10, host="big", group="other")
    queue.add("small", 0, 11, host="small")
    assert held(queue) == ["big0", "small", "single", "big1", "big2"]


def test_a_host_at_its_limit_keeps_nobody_else_waiting() -> None:
    queue = WaitingQueue(per_host=1)
    for number in range(5):
        queue.add(f"slow{number}", 9, number, host="slow")
    queue.add("fast", 0, 99, host="fast")
    queue.add("free", -1, 100)
    queue.add("free too", -1, 101)
    assert held(queue) == ["slow0", "fast", "free", "free too"]
    queue.done("slow0")
    assert held(queue) == ["slow1"]


def test_what_is_put_back_stands_where_it_stood_under_the_priority_it_has_by_now() -> None:
    queue = WaitingQueue()
    for number in range(3):
        queue.add(f"e{number}", 0, number)
    assert [queue.take(0.0), queue.take(0.0)] == ["e0", "e1"]
    assert queue.prioritise("e1", 7), "it has its turn"
    assert queue.prioritise("e2", 3), "it waits"
    assert not queue.prioritise("e9", 3)
    queue.put_back("e0")
    queue.put_back("e1")
    assert taken(queue) == ["e1", "e2", "e0"]


def test_a_kind_that_is_held_back_keeps_its_place_and_nobody_waiting() -> None:
    queue = WaitingQueue()
    for number in range(6):
        queue.add(f"e{number}", 0, number, host="h", kind=number % 3)
    queue.hold_back(frozenset({0, 2}))
    assert queue.victim("e0", 0.0, []) is None
    assert held(queue) == ["e1", "e4"]
    queue.hold_back(frozenset({2}))
    assert held(queue) == ["e0", "e3"]
    queue.hold_back(frozenset())
    assert held(queue) == ["e2", "e5"]


def test_the_least_urgent_and_newest_gives_way_to_a_more_urgent_one() -> None:
    queue = WaitingQueue(per_host=2)
    for name, priority, host in (("a", 1, "x"), ("b", 0, "y"), ("c", 0, "y"), ("d", 2, "x")):
        queue.add(name, priority, ord(name), host=host)
    running = held(queue)
    queue.add("urgent", 9, 99, host="z")
    assert queue.victim("urgent", 0.0, running) == "c"
    assert queue.victim("urgent", 0.0, ["a", "b"]) == "b"
    queue.prioritise("urgent", 0)
    assert queue.victim("urgent", 0.0, running) is None, "nobody has a lower priority"
    queue.add("late", 9, 98, 5.0, host="z")
    assert queue.victim("late", 4.0, running) is None
    assert queue.victim("late", 5.0, running) == "c"
    queue.add("same host", 9, 97, host="x")
    assert queue.victim("same host", 0.0, running) == "a", "the limit of its host is what it waits for"
    assert queue.victim("unknown", 0.0, running) is None


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://cdn.example/a/b?c=://x@y/", "cdn.example"),
        ("http://127.0.0.1:8080/x", "127.0.0.1"),
        ("http://[::1]:80/x", "[::1]"),
        ("http://[::1]/x", "[::1]"),
        ("https://h.example?q=1:2", "h.example"),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host


class Line(NamedTuple):
    """One that waits in the model."""

    priority: int
    sequence: int
    host: str
    group: str
    kind: int
    not_before: float | None


@dataclass
class Model:
    """The rules, read from the top of the module, with no thought of the cost."""

    per_host: int
    waiting: dict[str, Line] = field(default_factory=dict)
    running: dict[str, Line] = field(default_factory=dict)
    held_back: frozenset[int] = frozenset()

    def count(self, name: str, value: str) -> int:
        return sum(bool(value) and getattr(line, name) == value for line in self.running.values())

    def take(self, now: float) -> str | None:
        ready = {
            entry_id: (-line.priority, self.count("host", line.host), self.count("group", line.group), line.sequence)
            for entry_id, line in self.waiting.items()
            if (line.not_before is None or line.not_before <= now)
            and line.kind not in self.held_back
            and (not self.per_host or self.count("host", line.host) < self.per_host)
        }
        return min(ready, key=lambda entry_id: ready[entry_id]) if ready else None


IDS = [f"e{number}" for number in range(12)]
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"), st.sampled_from(IDS), st.integers(-1, 1), st.sampled_from(["", "x", "y", "z"]),
            st.sampled_from(["", "g", "h"]), st.integers(0, 2), st.none() | st.integers(0, 5).map(float),
        ),
        st.tuples(st.just("hold_back"), st.frozensets(st.integers(0, 2))),
        st.tuples(st.just("take"), st.integers(0, 5).map(float)),
        st.tuples(st.sampled_from(["discard", "done", "put_back", "hurry"]), st.sampled_from(IDS)),
        st.tuples(st.just("prioritise"), st.sampled_from(IDS), st.integers(-1, 1)),
    ),
    min_size=10,
    max_size=80,
)  # fmt: skip


@pytest.fixture(params=[True, False], ids=["made anew all the time", "as it is"])
def heaps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        monkeypatch.setattr(queue_module, "_PUSHES_MIN", 0)
        monkeypatch.setattr(queue_module, "_PUSHES_PER_PLACE", 1)
    return bool(request.param)


def test_every_turn_goes_where_the_rules_say(heaps: bool) -> None:
    @settings(max_examples=400, deadline=None)
    @given(st.integers(0, 2), STEPS)
    def holds(per_host: int, steps: list[tuple[object, ...]]) -> None:
        queue, model = WaitingQueue(per_host), Model(per_host)
        now = 0.0
        for step in [*steps, *[("take", 5.0)] * len(IDS)]:
            now = _step(queue, model, step, now)
            assert len(queue) == len(model.waiting)
            assert {entry_id for entry_id in IDS if entry_id in queue} == set(model.waiting)
            delays = [line.not_before for line in model.waiting.values() if line.not_before is not None]
            late = [at for at in delays if at > now]
            assert queue.next_at(now) == min(late, default=None)

    holds()


def _step(queue: WaitingQueue, model: Model, step: tuple[object, ...], now: float) -> float:
    match step:
        case ("add", str(name), int(priority), str(host), str(group), int(kind), at):
            assert at is None or isinstance(at, float)
            if name not in model.running:
                sequence = IDS.index(name)
                queue.add(name, priority, sequence, at, host=host, group=group, kind=kind)
                model.waiting[name] = Line(priority, sequence, host, group, kind, at)
        case ("hold_back", frozenset() as kinds):
            queue.hold_back(kinds)
            model.held_back = kinds
        case ("hurry", str(name)):
            queue.hurry(name)
            if name in model.waiting:
                model.waiting[name] = model.waiting[name]._replace(not_before=None)
        case ("take", float(later)):
            now = max(now, later)
            expected = model.take(now)
            assert queue.take(now) == expected
            if expected is not None:
                model.running[expected] = model.waiting.pop(expected)
        case ("discard", str(name)):
            assert queue.discard(name) == (model.waiting.pop(name, None) is not None)
        case ("prioritise", str(name), int(priority)):
            held_in = next((place for place in (model.waiting, model.running) if name in place), None)
            assert queue.prioritise(name, priority) == (held_in is not None)
            if held_in is not None:
                held_in[name] = held_in[name]._replace(priority=priority)
        case ("done", str(name)):
            queue.done(name)
            model.running.pop(name, None)
        case ("put_back", str(name)) if name in model.running:
            queue.put_back(name)
            model.waiting[name] = model.running.pop(name)._replace(not_before=None)
    return now


def test_a_turn_stays_cheap_with_a_hundred_thousand_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in heap operations, not in time: of one host in ten thousand albums, and of a thousand hosts."""
    operations = 0

    def counted(call: object) -> object:
        def run(*args: object) -> object:
            nonlocal operations
            operations += 1
            return call(*args)  # type: ignore[operator]

        return run

    queue = WaitingQueue(per_host=2)
    for number in range(50_000):
        queue.add(f"a{number}", 0, number, host="music", group=f"album{number % 10_000}")
        queue.add(f"b{number}", 0, 100_000 + number, host=f"host{number % 1000}")
    monkeypatch.setattr(heapq, "heappush", counted(heapq.heappush))
    monkeypatch.setattr(heapq, "heappop", counted(heapq.heappop))
    turns, running = 3000, []
    for _ in range(turns):
        running.append(queue.take(0.0))
        if len(running) > 8:
            queue.done(str(running.pop(0)))
    assert None not in running
    assert operations <= 12 * turns
