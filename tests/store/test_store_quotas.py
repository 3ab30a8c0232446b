"""Quotas of scopes on record."""

from __future__ import annotations

from engine.store.codec import Table
from engine.store.state_store import StateStore
from tests.store.helpers import open_store, spoil


def test_the_last_one_counts_until_it_is_taken_back(store: StateStore) -> None:
    store.groups.set_quota("", 5)
    store.groups.set_quota("me" * 500, 0)
    store.groups.set_quota("", 6)
    assert store.groups.quotas() == {"": 6, "me" * 500: 0}
    store.groups.set_quota("", None)
    store.groups.set_quota("nobody", None)
    assert store.groups.quotas() == {"me" * 500: 0}


def test_a_damaged_one_is_left_out_and_noted(root: str) -> None:
    store = open_store(root)
    for scope in ("a", "b"):
        store.groups.set_quota(scope, 1)
    store.close()
    bad = spoil(root, Table.META, lambda key: key.startswith(b"quota:"))
    assert len(bad) == 2
    store = open_store(root)
    assert store.groups.quotas() == {}
    assert len(store.take_damages()) == 2
    store.groups.set_quota("a", 2)
    assert store.groups.quotas() == {"a": 2}
    store.close()
