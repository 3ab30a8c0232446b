"""Entries: order, paging, transitions, compare-and-set by epoch."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.errors import EntryExists, IllegalTransition, InvalidRequest, StaleEpoch, UnknownEntry
from engine.model.records import Durability
from engine.model.states import Event, Reason, State
from engine.store.state_store import StateStore
from tests.store.helpers import add_running, dump, entry, offline, open_store, part


def test_an_entry_comes_back_as_it_was_given_with_its_sequence(store: StateStore) -> None:
    given = entry("a", title="Ünïcode", headers=(("A", "b"),), expect={"sha256": "00"}, created_at=3.5)
    assert store.add(given) == msgspec.structs.replace(given, sequence=1)
    assert store.get("a") == msgspec.structs.replace(given, sequence=1)
    assert store.get("b") is None


def test_l18_an_id_longer_than_an_lmdb_key_is_kept(store: StateStore) -> None:
    long = "x" * 5000
    store.add(entry(long))
    assert store.get(long) is not None
    assert store.get("x" * 4999) is None


def test_h2_adding_an_id_twice_is_refused_and_changes_nothing(root: str) -> None:
    store = open_store(root)
    store.add(entry("a", title="first"))
    store.close()
    before = dump(root)
    store = open_store(root)
    with pytest.raises(EntryExists):
        store.add(entry("a", title="second"))
    with pytest.raises(EntryExists):
        store.add_many([entry("b"), entry("a")])
    store.close()
    assert dump(root) == before


def test_listing_follows_the_order_of_adding_in_pages(store: StateStore) -> None:
    names = [f"e{number}" for number in range(25)]
    store.add_many(entry(name) for name in reversed(names))
    seen: list[str] = []
    after = None
    while page := store.list(after=after, limit=7):
        seen += [found.id for found in page]
        after = seen[-1]
    assert seen == list(reversed(names))


def test_listing_by_state_follows_transitions(store: StateStore) -> None:
    store.add_many(entry(name) for name in "abcd")
    store.transition("b", Event.START, epoch=1, now=1.0)
    store.transition("c", Event.PAUSE, epoch=1, now=1.0, reason=Reason.USER)
    assert [found.id for found in store.list(State.PENDING)] == ["a", "d"]
    assert [found.id for found in store.list(State.PENDING, after="a")] == ["d"]
    assert [found.id for found in store.list(State.PENDING, after="b")] == ["d"]
    assert [found.id for found in store.list(State.IN_PROGRESS)] == ["b"]
    counts = store.counts()
    assert (counts[State.PENDING], counts[State.IN_PROGRESS], counts[State.PAUSED], counts[State.FAILED]) == (
        2,
        1,
        1,
        0,
    )


def test_paging_refuses_what_cannot_work(store: StateStore) -> None:
    with pytest.raises(InvalidRequest):
        store.list(limit=0)
    with pytest.raises(UnknownEntry):
        store.list(after="nobody")


def test_a_sequence_is_never_used_again(root: str) -> None:
    store = open_store(root)
    store.add_many([entry("a"), entry("b")])
    store.remove("b")
    store.close()
    store = open_store(root)
    assert store.add(entry("c")).sequence == 3
    store.close()


def test_update_changes_fields_and_keeps_the_rest(store: StateStore) -> None:
    store.add(entry("a", title="t"))
    store.update("a", 1, bytes_total=7, updated_at=9.0)
    found = store.get("a")
    assert found is not None
    assert (found.title, found.bytes_total, found.updated_at) == ("t", 7, 9.0)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"epoch": 2, "fields": {"title": "x"}}, StaleEpoch),
        ({"entry_id": "nobody", "fields": {"title": "x"}}, UnknownEntry),
        ({"fields": {"state": State.COMPLETED}}, ValueError),
        ({"fields": {"sequence": 9}}, ValueError),
        ({"fields": {"title": 7}}, ValueError),
        ({"fields": {"no_such_field": 7}}, (TypeError, AttributeError)),
    ],
)
def test_an_update_that_cannot_be_changes_nothing(root: str, change: dict[str, Any], error: type[Exception]) -> None:
    store = open_store(root)
    store.add(entry("a"))
    store.close()
    before = dump(root)
    store = open_store(root)
    with pytest.raises(error):
        store.update(change.get("entry_id", "a"), change.get("epoch", 1), **change["fields"])
    store.close()
    assert dump(root) == before


def test_transitions_set_their_times_and_reason(store: StateStore) -> None:
    store.add(entry("a"))
    paused = store.transition("a", Event.PAUSE, epoch=1, now=5.0, reason=Reason.USER)
    assert (paused.state, paused.state_reason, paused.paused_at, paused.updated_at) == (State.PAUSED, "user", 5.0, 5.0)
    resumed = store.transition("a", Event.RESUME, epoch=1, now=6.0, attempt_count=3)
    assert (resumed.paused_at, resumed.state_reason, resumed.attempt_count) == (None, Reason.NONE, 3)
    assert store.get("a") == resumed


def test_law_5_completing_is_one_transaction_with_parts_and_offline_record(store: StateStore) -> None:
    record = add_running(store)
    finished = msgspec.structs.replace(record, digest="ab")
    done = store.transition("a", Event.COMPLETE, epoch=1, now=8.0, parts=[finished], offline=offline())
    assert (done.state, done.completed_at, done.epoch) == (State.COMPLETED, 8.0, 1)
    assert store.offline("a") == offline()
    assert store.parts("a") == (finished,)
    again = store.transition("a", Event.REPAIR, epoch=1, now=9.0)
    assert (again.epoch, again.completed_at) == (2, None)
    assert store.offline("a") == offline(), "the old file stays readable until a new one is published"
    store.transition("a", Event.START, epoch=2, now=9.5)
    assert store.transition("a", Event.COMPLETE, epoch=2, now=10.0).state is State.COMPLETED


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"event": Event.RESUME}, IllegalTransition),
        ({"event": Event.RETRY}, IllegalTransition),
        ({"event": Event.PAUSE, "epoch": 2}, StaleEpoch),
        ({"event": Event.PAUSE, "entry_id": "nobody"}, UnknownEntry),
        ({"event": Event.COMPLETE}, ValueError),
        ({"event": Event.COMPLETE, "offline": offline("b")}, ValueError),
        ({"event": Event.PAUSE, "offline": offline("a")}, ValueError),
        ({"event": Event.FAIL, "parts": [part(generation=7)]}, ValueError),
        ({"event": Event.FAIL, "sequence": 7}, ValueError),
        ({"event": Event.FAIL, "title": 7}, ValueError),
    ],
)
def test_law_5_a_transition_that_cannot_be_raises_and_changes_nothing(
    root: str, call: dict[str, Any], error: type[Exception]
) -> None:
    store = open_store(root)
    add_running(store)
    store.close()
    before = dump(root)
    store = open_store(root)
    arguments = {"epoch": 1, "now": 50.0, **call}
    with pytest.raises(error):
        store.transition(arguments.pop("entry_id", "a"), arguments.pop("event"), **arguments)
    store.close()
    assert dump(root) == before


def test_a_new_epoch_drops_what_belongs_to_the_old_one(store: StateStore) -> None:
    store.add(entry("a"))
    store.transition("a", Event.CANCEL, epoch=1, now=1.0)
    assert store.transition("a", Event.REQUEST, epoch=1, now=2.0).epoch == 2
    with pytest.raises(StaleEpoch):
        store.transition("a", Event.FAIL, epoch=1, now=3.0)
    with pytest.raises(StaleEpoch):
        store.put_part("a", 1, part())


def test_values_that_only_a_newer_version_knows_survive(root: str) -> None:
    store = open_store(root)
    store.add(entry("a", state=State("hibernating"), state_reason=Reason("full_moon"), durability=Durability("triple")))
    store.close()
    store = open_store(root)
    store.update("a", 1, title="touched")
    found = store.get("a")
    assert found is not None
    assert (found.state.value, found.state_reason.value, found.durability.value) == (
        "hibernating",
        "full_moon",
        "triple",
    )
    assert not found.state.known
    assert store.counts()[State("hibernating")] == 1
    assert [one.id for one in store.list(State("hibernating"))] == ["a"]
    store.close()


def test_removing_leaves_nothing_behind(root: str) -> None:
    store = open_store(root)
    store.add(entry("keep"))
    store.close()
    before = dump(root)
    store = open_store(root)
    add_running(store)
    store.transition("a", Event.COMPLETE, epoch=1, now=8.0, offline=offline())
    store.remove("a")
    assert store.get("a") is None
    assert (store.offline("a"), store.parts("a")) == (None, ())
    with pytest.raises(UnknownEntry):
        store.remove("a")
    store.close()
    changed = {place for place, value in dump(root).items() if before.get(place) != value}
    assert {key for _, key in changed} == {b"next_sequence", b"epoch_floor"}
    assert dump(root).keys() == before.keys() | {("META", b"epoch_floor")}
