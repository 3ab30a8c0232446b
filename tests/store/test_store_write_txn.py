"""A write transaction gives LMDB its values in one go: nobody may tell the difference from writing them one by one."""

from __future__ import annotations

import tempfile
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.store.codec import Table
from engine.store.txn import REMEMBERED, REMEMBERED_MAX, Txn
from tests.store.helpers import open_store

KEYS = [bytes([number]) * 16 for number in range(5)]
TABLES = [Table.ENTRIES, Table.TOMBSTONES]  # the first is remembered from one transaction to the next
Model = dict[tuple[Table, bytes], bytes]

STEPS = st.tuples(
    st.sampled_from(["put", "put", "delete", "discard", "below", "clear", "commit", "abort"]),
    st.sampled_from(TABLES),
    st.sampled_from(KEYS),
    st.binary(max_size=3),
)


def _put(keys: list[bytes], txn: Txn) -> None:
    for key in keys:
        txn.put(Table.ENTRIES, key, b"x")


class _Stop(Exception):
    pass


def _seen(txn: Txn) -> Model:
    return {(table, key): bytes(payload or b"") for table in TABLES for key, payload in txn.walk(table)}


def _step(txn: Txn, model: Model, what: str, table: Table, key: bytes, payload: bytes) -> None:
    if what == "put":
        txn.put(table, key, payload)
        model[table, key] = payload
    elif what == "delete":
        assert txn.delete(table, key) == ((table, key) in model)
        model.pop((table, key), None)
    elif what == "discard":
        txn.discard(table, key)
        model.pop((table, key), None)
    elif what == "below":
        txn.delete_below(table, key[:1])
        model.pop((table, key), None)
    elif what == "clear":
        txn.clear(table)
        for place in [place for place in model if place[0] is table]:
            del model[place]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(STEPS, max_size=8), max_size=6), st.booleans())
def test_it_is_like_writing_one_by_one(transactions: list[list[tuple[str, Table, bytes, bytes]]], look: bool) -> None:
    assert Table.ENTRIES in REMEMBERED
    assert Table.TOMBSTONES not in REMEMBERED
    with tempfile.TemporaryDirectory() as root:
        store = open_store(root)
        environment = store._environment
        committed: Model = {}
        for steps in transactions:
            model = dict(committed)

            def work(txn: Txn, steps: list[tuple[str, Table, bytes, bytes]] = steps, model: Model = model) -> None:
                for what, table, key, payload in steps:
                    if what == "abort":
                        raise _Stop
                    _step(txn, model, what, table, key, payload)
                    assert txn.get(table, key) == model.get((table, key))
                    assert txn.has(table, key) == ((table, key) in model)
                    if look:  # which has LMDB know everything; without it values stay in the transaction
                        assert _seen(txn) == model

            try:
                environment.write(work)
                committed = model
            except _Stop:
                assert "abort" in [step[0] for step in steps]
            assert environment.read(_seen) == committed
            for table in TABLES:
                for key in KEYS:
                    assert environment.recall(table, key) in {None, committed.get((table, key))}
        store.close()


def test_what_is_remembered_is_bounded_and_gone_after_the_end() -> None:
    with tempfile.TemporaryDirectory() as root:
        store = open_store(root)
        environment = store._environment
        keys = [number.to_bytes(16, "big") for number in range(REMEMBERED_MAX + 10)]
        for at in range(0, len(keys), 500):
            environment.write(partial(_put, keys[at : at + 500]))
        assert environment.recall(Table.ENTRIES, keys[-1]) == b"x"
        assert environment.recall(Table.ENTRIES, keys[0]) is None
        assert sum(environment.recall(Table.ENTRIES, key) is not None for key in keys) == REMEMBERED_MAX
        store.close()
        assert environment.recall(Table.ENTRIES, keys[-1]) is None


@pytest.mark.parametrize("table", sorted(REMEMBERED, key=str))
def test_an_undone_transaction_leaves_nothing_behind(table: Table) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = open_store(root)
        environment = store._environment
        environment.write(lambda txn: txn.put(table, KEYS[0], b"old"))

        def undone(txn: Txn) -> None:
            txn.put(table, KEYS[0], b"new")
            txn.put(table, KEYS[1], b"new")
            raise _Stop

        with pytest.raises(_Stop):
            environment.write(undone)
        assert environment.read(lambda txn: txn.get(table, KEYS[0])) == b"old"
        assert environment.recall(table, KEYS[0]) in {None, b"old"}
        assert environment.recall(table, KEYS[1]) is None
        store.close()
