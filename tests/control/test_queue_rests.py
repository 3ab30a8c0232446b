"""Hosts that rest, or take fewer entries at once, in the queue: others go on, and nobody is forgotten."""

from __future__ import annotations

from engine.control.queue import WaitingQueue


def queue_of(*hosts: str, each: int = 3) -> WaitingQueue:
    queue = WaitingQueue()
    for number in range(each):
        for place, host in enumerate(hosts):
            queue.add(f"{host}{number}", 0, number * len(hosts) + place, host=host)
    return queue


def taken(queue: WaitingQueue, now: float) -> list[str]:
    found = []
    while (entry_id := queue.take(now)) is not None:
        found.append(entry_id)
    return found


def test_nothing_of_a_resting_host_begins_before_its_time() -> None:
    queue = queue_of("a", "b")
    queue.restrict("a", None, 10.0)
    assert taken(queue, 0.0) == ["b0", "b1", "b2"]
    assert queue.next_at(0.0) == 10.0
    assert taken(queue, 9.9) == []
    assert taken(queue, 10.0) == ["a0", "a1", "a2"]
    assert queue.next_at(10.0) is None


def test_a_rest_before_the_host_is_known_holds_too_and_a_later_one_counts() -> None:
    queue = WaitingQueue()
    queue.restrict("a", None, 10.0)
    queue.restrict("a", None, 20.0)
    queue.add("a0", 0, 1, host="a")
    assert taken(queue, 15.0) == []
    assert taken(queue, 20.0) == ["a0"]


def test_fewer_at_once_counts_those_that_run() -> None:
    queue = queue_of("a")
    queue.restrict("a", 1)
    assert taken(queue, 0.0) == ["a0"]
    queue.done("a0")
    assert taken(queue, 0.0) == ["a1"]
    queue.restrict("a", None)
    assert taken(queue, 0.0) == ["a2"]


def test_behind_a_rest_one_tries() -> None:
    queue = queue_of("a")
    queue.restrict("a", 1, 5.0)
    assert taken(queue, 5.0) == ["a0"]
    queue.restrict("a", 1, 15.0)
    queue.put_back("a0")
    assert taken(queue, 14.0) == []
    assert taken(queue, 15.0) == ["a0"]


def test_lifted_early_it_goes_on_at_once_and_the_old_time_means_nothing() -> None:
    queue = queue_of("a")
    queue.restrict("a", None, 10.0)
    queue.restrict("a", None)
    assert taken(queue, 0.0) == ["a0", "a1", "a2"]


def test_nobody_gives_way_to_an_entry_of_a_resting_host() -> None:
    queue = queue_of("b", each=1)
    assert taken(queue, 0.0) == ["b0"]
    queue.add("urgent", 9, 9, host="a")
    assert queue.victim("urgent", 0.0, ["b0"]) == "b0"
    queue.restrict("a", None, 10.0)
    assert queue.victim("urgent", 0.0, ["b0"]) is None
