"""Pages of a state, and moves of many entries in one transaction."""

from __future__ import annotations

import pytest

from engine.model.states import Event, Reason, State
from engine.store.bulk import Move
from engine.store.codec import Table, entry_key
from engine.store.state_store import StateStore
from tests.store.helpers import entry, open_store, part, spoil


@pytest.fixture
def five(store: StateStore) -> StateStore:
    """``a`` to ``e`` wait, ``b`` and ``d`` in the scope ``x``; ``c`` is paused."""
    store.add_many(entry(name, scope="x" if name in "bd" else "") for name in "abcde")
    store.transition("c", Event.PAUSE, epoch=1, now=2.0, reason=Reason.NETWORK)
    return store


@pytest.mark.parametrize(("scope", "found"), [(None, "abde"), ("x", "bd"), ("", "ae"), ("nobody's", "")])
@pytest.mark.parametrize("limit", [1, 2, 100])
def test_pages_go_through_a_state_in_order(five: StateStore, scope: str | None, found: str, limit: int) -> None:
    ids: list[str] = []
    after: int | None = 0
    while after is not None:
        page, after = five.bulk.listed(State.PENDING, scope, after, limit)
        assert len(page) <= limit
        ids += [one.id for one in page]
    assert "".join(ids) == found
    assert five.bulk.newest() == 5


def test_a_damaged_record_is_left_out_and_noted(root: str) -> None:
    store = open_store(root)
    store.add_many(entry(name) for name in "abc")
    store.close()
    spoil(root, Table.ENTRIES, lambda key: key == entry_key("b"))
    store = open_store(root)
    assert [one.id for one in store.bulk.listed(State.PENDING, None, 0, 10).entries] == ["a", "c"]
    assert store.take_damages()
    store.close()


def test_each_move_is_made_or_changes_nothing(five: StateStore) -> None:
    seen = {one.id: one for one in five.list()}
    five.transition("b", Event.PAUSE, epoch=1, now=3.0)
    five.remove("d")
    five.drop_parts("e", 1)  # a new epoch
    before = {one.id: one for one in five.list()}
    moves = [Move(seen[name], Event.PAUSE, Reason.USER) for name in "abde"]
    moves.append(Move(seen["c"], None, Reason.USER))
    a, b, d, e, c = five.bulk.move(moves, now=9.0)
    assert (b, d, e) == (None, None, None), "it changed state, is gone, is of a newer epoch"
    assert a is not None
    assert c is not None
    assert (a.previous, a.entry.state, a.entry.paused_at, a.leftover) == (State.PENDING, State.PAUSED, 9.0, False)
    assert (c.previous, c.entry.state, c.entry.state_reason) == (State.PAUSED, State.PAUSED, Reason.USER)
    assert c.entry.paused_at == 2.0, "it is paused since then, whoever did it"
    after = {one.id: one for one in five.list()}
    assert after == {**before, "a": a.entry, "c": c.entry}
    assert five.indexes_sound()
    assert five.counts()[State.PAUSED] == 3


def test_an_event_that_the_table_does_not_allow_moves_nothing(five: StateStore) -> None:
    [resumed, retried] = five.bulk.move([Move(one, Event.RETRY) for one in five.list()[1:3]], now=9.0)
    assert (resumed, retried) == (None, None)


def test_what_is_cancelled_leaves_its_files_to_be_deleted(five: StateStore) -> None:
    five.put_part("a", 1, part())
    wanted = [one for one in five.list() if one.id in "ab"]
    [a, b] = five.bulk.move([Move(one, Event.CANCEL, Reason.USER) for one in wanted], now=9.0)
    assert a is not None
    assert b is not None
    assert (a.leftover, b.leftover) == (True, False)
    assert [one.id for one in five.tombstones.all()] == ["a"]
    assert five.parts("a") == ()
