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


def doubtful(trial_s: float = 8.0) -> WaitingQueue:
    """One of the host runs, three wait; then its rest ends at 5."""
    queue = queue_of("a", each=4)
    queue.restrict("a", 1)
    assert taken(queue, 0.0) == ["a0"]
    queue.restrict("a", None, 5.0, trial_s)
    assert taken(queue, 4.0) == []
    assert queue.next_at(4.0) == 5.0
    assert taken(queue, 5.0) == ["a1"]
    return queue


def test_one_more_than_run_tries_whether_a_host_answers_again() -> None:
    queue = doubtful()
    queue.restrict("a", 0)
    assert taken(queue, 99.0) == []
    queue.restrict("a", None)
    assert taken(queue, 99.0) == ["a2", "a3"]


def test_when_the_one_that_tried_ended_without_a_question_the_next_one_tries() -> None:
    queue = doubtful()
    queue.done("a0")
    assert taken(queue, 6.0) == []
    queue.done("a1")
    assert taken(queue, 6.0) == ["a2"]
    queue.put_back("a2", 50.0)
    assert taken(queue, 6.0) == ["a3"]


def test_when_the_one_that_tried_asks_others_the_next_one_tries_after_a_while() -> None:
    queue = doubtful()
    assert queue.next_at(5.0) == 13.0
    assert taken(queue, 12.9) == []
    assert taken(queue, 13.0) == ["a2"]
    queue.done("a1")
    assert taken(queue, 20.9) == []
    assert taken(queue, 21.0) == ["a3"]


def test_behind_the_next_rest_another_one_tries_though_the_last_one_still_runs() -> None:
    queue = doubtful()
    queue.restrict("a", 0)
    queue.restrict("a", None, 7.0, 16.0)
    assert taken(queue, 6.9) == []
    assert taken(queue, 7.0) == ["a2"]
    queue.done("a1")
    assert taken(queue, 7.0) == []


def test_a_trial_that_was_cut_off_leaves_no_gap_and_no_crowd() -> None:
    queue = doubtful()
    queue.restrict("a", 0)
    queue.restrict("a", None, None, 8.0)
    assert taken(queue, 6.0) == []
    assert taken(queue, 13.0) == ["a2"]


def test_a_trial_keeps_to_what_is_configured() -> None:
    queue = WaitingQueue(per_host=1)
    queue.add("a0", 0, 0, host="a")
    queue.add("a1", 0, 1, host="a")
    assert taken(queue, 0.0) == ["a0"]
    queue.restrict("a", None, None, 8.0)
    assert taken(queue, 0.0) == []
    queue.done("a0")
    assert taken(queue, 0.0) == ["a1"]


def test_nobody_gives_way_while_another_one_tries() -> None:
    queue = doubtful()
    queue.add("urgent", 9, 9, host="a")
    assert queue.victim("urgent", 6.0, ["a0", "a1"]) is None
    queue.done("a1")
    queue.restrict("a", 0)
    assert queue.victim("urgent", 6.0, ["a0"]) is None
    queue.restrict("a", None)
    assert queue.victim("urgent", 6.0, ["a0"]) == "a0"
