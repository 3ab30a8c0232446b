"""The order of waiting entries: priority, then order of adding, and not before their time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.control.queue import WaitingQueue


def taken(queue: WaitingQueue, now: float = 0.0) -> list[str]:
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
    assert queue.next_at() == 10.0
    assert taken(queue, 9.9) == ["now"]
    queue.add("other", 0, 3)
    assert taken(queue, 10.0) == ["late", "other"]
    assert queue.next_at() is None


def test_adding_again_moves_it_and_discarding_takes_it_out() -> None:
    queue = WaitingQueue()
    queue.add("a", 0, 1, not_before=5.0)
    queue.add("b", 0, 2)
    queue.add("a", 0, 1)
    assert "a" in queue
    assert queue.next_at() is None, "its delay is void"
    assert queue.discard("b")
    assert not queue.discard("b")
    assert taken(queue) == ["a"]
    assert taken(queue, 99.0) == []


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-2, 2), st.integers(0, 9), st.booleans())))
def test_whatever_is_added_and_discarded_each_comes_once_in_its_last_place(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    queue = WaitingQueue()
    model: dict[str, tuple[int, int, str]] = {}
    for name, priority, sequence, away in steps:
        if away:
            queue.discard(name)
            model.pop(name, None)
        else:
            queue.add(name, priority, sequence)
            model[name] = (-priority, sequence, name)
    assert len(queue) == len(model)
    assert taken(queue) == sorted(model, key=lambda name: model[name])
