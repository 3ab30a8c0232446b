"""Rot inside the store (L10): found by checksum, told, and never believed; the rest of the store goes on working."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.config import Config
from engine.errors import BadRecord, EntryExists, StaleEpoch, StoreCorrupt
from engine.files.filesystem import FileSystem
from engine.model.chunks import BITS_PER_PAGE, CVS_PER_PAGE
from engine.model.states import Event, State
from engine.store.codec import Table, entry_key, page_key, part_key, seal, unseal
from engine.store.state_store import StateStore
from tests.store.helpers import CHUNK, add_running, commit, cv, entry, offline, open_store, part, raw_store, spoil

COUNT = 3 * BITS_PER_PAGE


def bits_page(page: int) -> bytes:
    return page_key(part_key(entry_key("a"), 0), page)


def filled(root: str) -> None:
    """A store with one entry that holds chunks in all three pages of bits, closed."""
    store = open_store(root)
    add_running(store, chunks=COUNT)
    store.commit_chunks([commit("a", [0, 1, 40, BITS_PER_PAGE, BITS_PER_PAGE + 1, COUNT - 1], COUNT)])
    store.close()


def test_l10_a_value_under_another_key_or_table_is_found() -> None:
    value = seal(Table.BITS, b"k" * 22, b"payload")
    assert unseal(Table.BITS, b"k" * 22, value) == b"payload"
    with pytest.raises(BadRecord):
        unseal(Table.BITS, b"k" * 21 + b"j", value)
    with pytest.raises(BadRecord):
        unseal(Table.CVS, b"k" * 22, value)
    for length in range(len(value)):
        with pytest.raises(BadRecord):
            unseal(Table.BITS, b"k" * 22, value[:length])


@pytest.mark.parametrize("bit", range(0, 8 * 12, 5))
def test_l10_every_flipped_bit_is_found(bit: int) -> None:
    value = bytearray(seal(Table.ENTRIES, b"k", b"payload"))
    value[bit >> 3] ^= 1 << (bit & 7)
    with pytest.raises(BadRecord):
        unseal(Table.ENTRIES, b"k", bytes(value))


def test_l10_a_damaged_page_of_bits_reads_as_missing_and_is_told(root: str) -> None:
    filled(root)
    assert spoil(root, Table.BITS, lambda key: key == bits_page(1))
    store = open_store(root)
    assert list(store.bitmap("a", 0, COUNT).runs()) == [(0, 2), (40, 1), (COUNT - 1, 1)]
    assert store.held_runs("a", 0, COUNT) == [(0, 2), (40, 1), (COUNT - 1, 1)]
    (damage,) = store.take_damages()
    assert (damage.table, damage.entry_id, damage.key) == ("bits", "a", bits_page(1).hex())
    assert store.take_damages() == ()
    record = store.clear_chunks("a", 1, 0, [])
    assert (record.chunks_done, record.bytes_done) == (4, 4 * CHUNK)
    store.take_damages()
    store.bitmap("a", 0, COUNT)
    assert store.take_damages() == (), "counting anew dropped the page"
    store.close()


def test_l10_a_commit_onto_a_damaged_page_of_bits_counts_anew(root: str) -> None:
    filled(root)
    spoil(root, Table.BITS, lambda key: key == bits_page(1))
    store = open_store(root)
    (record,) = store.commit_chunks([commit("a", [BITS_PER_PAGE + 9], COUNT)])
    assert record is not None
    assert (record.chunks_done, record.bytes_done) == (5, 5 * CHUNK)
    assert store.held_runs("a", 0, COUNT) == [(0, 2), (40, 1), (BITS_PER_PAGE + 9, 1), (COUNT - 1, 1)]
    assert [damage.table for damage in store.take_damages()] == ["bits"]
    store.close()


@pytest.mark.parametrize("lost", [False, True], ids=["damaged", "missing"])
def test_law_1_no_bit_stays_without_its_cv(root: str, lost: bool) -> None:
    filled(root)
    if lost:
        with raw_store(root) as environment, environment.begin(write=True) as txn:
            txn.delete(bits_page(0), db=environment.open_db(b"cvs", txn=txn, create=False))
    else:
        spoil(root, Table.CVS, lambda key: key == bits_page(0))
    store = open_store(root)
    with pytest.raises(BadRecord, match="'a'"):
        store.cvs("a", 0, 2)
    assert store.cvs("a", 0, 1, first=40) == cv(40)
    (record,) = store.commit_chunks([commit("a", [CVS_PER_PAGE - 1], COUNT)])
    assert record is not None
    assert record.chunks_done == 5
    assert store.held_runs("a", 0, COUNT)[:2] == [(CVS_PER_PAGE - 1, 1), (40, 1)]
    assert "cvs" in {damage.table for damage in store.take_damages()}
    store.close()


@pytest.mark.parametrize("at", [0, 2, -1], ids=["format", "checksum", "payload"])
def test_l10_a_damaged_entry_is_named_left_out_and_can_be_removed(root: str, at: int) -> None:
    store = open_store(root)
    add_running(store, "a")
    store.add_many([entry("b"), entry("c")])
    store.close()
    spoil(root, Table.ENTRIES, lambda key: key == entry_key("a"), at)
    store = open_store(root)
    with pytest.raises(BadRecord, match="'a'"):
        store.get("a")
    with pytest.raises(BadRecord):
        store.transition("a", Event.FAIL, epoch=1, now=1.0)
    assert store.commit_chunks([commit("a", [1])]) == [None]
    assert [found.id for found in store.list()] == ["b", "c"]
    assert {damage.entry_id for damage in store.take_damages()} == {"a"}
    store.remove("a")
    store.take_damages()
    assert store.get("a") is None
    assert store.counts()[State.IN_PROGRESS] == 0
    assert [found.id for found in store.list()] == ["b", "c"]
    assert store.take_damages() == ()
    assert store.add(entry("a")).sequence == 4
    store.close()


@pytest.mark.parametrize("add", ["add", "add_missing"])
def test_l10_a_new_entry_takes_the_place_of_a_damaged_one(root: str, add: str) -> None:
    """It is noted, nothing of it stays, and its late results, of whatever epoch, are not the new one's."""
    store = open_store(root)
    add_running(store, "a")
    store.add(entry("b"))
    store.close()
    spoil(root, Table.ENTRIES, lambda key: key == entry_key("a"))
    store = open_store(root)
    placed = store.add(entry("a")) if add == "add" else store.add_missing([entry("a")])[0]
    assert placed is not None
    assert [(damage.table, damage.entry_id) for damage in store.take_damages()] == [("entries", "a")]
    assert store.get("a") == placed
    assert [found.id for found in store.list()] == ["b", "a"]
    assert store.parts("a") == ()
    assert store.counts()[State.PENDING] == 2
    store.put_part("a", placed.epoch, part())
    for epoch in range(1, 100):
        assert store.commit_chunks([commit("a", [1], epoch=epoch)]) == [None]
    with pytest.raises(EntryExists):
        store.add(entry("a"))
    assert store.add_missing([entry("a")]) == [None]
    store.close()


@pytest.mark.parametrize("table", [Table.BY_SEQUENCE, Table.BY_STATE])
def test_l10_damaged_indexes_are_told_and_can_be_made_anew(root: str, table: Table) -> None:
    store = open_store(root)
    store.add_many([entry("a"), entry("b"), entry("c")])
    store.close()
    keys = spoil(root, table)
    store = open_store(root)
    state = State.PENDING if table is Table.BY_STATE else None
    assert store.list(state) == []
    assert not store.indexes_sound()
    assert len(store.take_damages()) == len(keys) == 3
    assert store.rebuild_indexes() == 3
    assert store.indexes_sound()
    assert [found.id for found in store.list(state)] == ["a", "b", "c"]
    assert store.take_damages() == ()
    store.close()


def test_an_index_that_names_the_wrong_entry_is_not_believed(root: str) -> None:
    store = open_store(root)
    store.add_many([entry("a"), entry("b")])
    store.close()
    with raw_store(root) as environment, environment.begin(write=True) as txn:
        handle = environment.open_db(b"by_sequence", txn=txn, create=False)
        for number in (1, 5):
            key = number.to_bytes(8, "big")
            txn.put(key, seal(Table.BY_SEQUENCE, key, entry_key("b" if number == 1 else "nobody")), db=handle)
    store = open_store(root)
    assert [found.id for found in store.list()] == ["b"]
    assert len(store.take_damages()) == 2
    store.close()


def test_l10_damaged_parts_and_offline_records_are_named(root: str) -> None:
    store = open_store(root)
    record = add_running(store)
    store.transition("a", Event.COMPLETE, epoch=1, now=8.0, offline=offline())
    store.close()
    spoil(root, Table.PARTS)
    spoil(root, Table.OFFLINE)
    store = open_store(root)
    for read in (store.parts, store.offline):
        with pytest.raises(BadRecord, match="'a'"):
            read("a")
    with pytest.raises(BadRecord):
        store.put_part("a", 1, record)
    assert store.commit_chunks([commit("a", [1])]) == [None]
    assert store.reset_part("a", 1, part(generation=2)).generation == 2
    assert len(store.parts("a")) == 1
    store.close()


def test_l10_damaged_parts_are_found_and_dropped(root: str) -> None:
    store = open_store(root)
    for entry_id in "abc":
        add_running(store, entry_id)
        store.commit_chunks([commit(entry_id, [1], synced=False)])
    store.close()
    spoil(root, Table.PARTS, lambda key: key[:16] in {entry_key("a"), entry_key("b")})
    spoil(root, Table.ENTRIES, lambda key: key == entry_key("b"))
    store = open_store(root)
    assert [found.id for found in store.damaged_parts()] == ["a"]
    with pytest.raises(StaleEpoch):
        store.drop_parts("a", 2)
    assert store.drop_parts("a", 1).epoch == 2
    assert store.damaged_parts() == []
    assert store.parts("a") == ()
    assert store.bitmap("a", 0, 100).held == 0
    assert {entry_id for entry_id, _, _ in store.unsynced()} == {"b", "c"}
    with pytest.raises(StaleEpoch):
        store.put_part("a", 1, part())
    assert store.put_part("a", 2, part()).chunks_done == 0
    assert store.commit_chunks([commit("a", [1])]) == [None], "a late commit of the dropped part"
    (record,) = store.commit_chunks([commit("a", [1], epoch=2)])
    assert record is not None
    assert record.chunks_done == 1
    assert store.parts("c")[0].chunks_done == 1
    store.close()


def test_law_1_a_damaged_line_of_unsynced_parts_is_made_good_from_the_records(root: str) -> None:
    store = open_store(root)
    add_running(store)
    store.commit_chunks([commit("a", [1], synced=False)])
    store.close()
    spoil(root, Table.UNSYNCED)
    store = open_store(root)
    assert store.unsynced() == [("a", 0, "boot-of-the-tests")]
    assert [damage.table for damage in store.take_damages()] == ["unsynced"]
    store.close()


def test_a_damaged_session_suspect_log_and_counter_do_not_stop_the_start(root: str) -> None:
    filled(root)
    cut_off = open_store(root)
    assert cut_off.commit_chunks([commit("a", [1])]) != [None]
    cut_off.close(clean=False)
    spoil(root, Table.META, lambda key: key in {b"session", b"next_sequence"})
    spoil(root, Table.SUSPECTS)
    store = open_store(root)
    assert not store.session.previous_clean
    assert not store.session.same_boot
    assert store.suspects() == []
    assert {damage.table for damage in store.take_damages()} == {"meta", "suspects"}
    assert store.add(entry("b")).sequence == 2
    store.close()


def test_l11_l12_a_truncated_data_file_is_refused_before_it_is_read(root: str) -> None:
    filled(root)
    data = Path(root) / "store" / "data.mdb"
    whole = data.read_bytes()
    for size in (1, 100, 4096, 5000, 8192, len(whole) // 2 & ~4095, len(whole) - 4096):
        data.write_bytes(whole[:size])
        for opening in (open_store, lambda path: StateStore.open_readonly(path, Config(), FileSystem())):
            with pytest.raises(StoreCorrupt):
                opening(root)
        assert data.read_bytes() == whole[:size], "it is left untouched"
    data.write_bytes(whole)
    open_store(root).close()


def test_l12_a_file_that_ends_early_where_no_page_was_ever_used_is_sound(root: str) -> None:
    """LMDB never writes a page that was taken and freed in one transaction, although it counts it."""
    filled(root)
    with raw_store(root) as environment:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(write=True) as txn:
            for number in range(20):
                txn.put(b"big%d" % number, bytes(40000), db=meta)
            for number in range(20):
                txn.delete(b"big%d" % number, db=meta)
            txn.put(b"small", b"kept", db=meta)
        counted = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    assert os.path.getsize(root + "/store/data.mdb") < counted
    store = open_store(root)
    assert store.bitmap("a", 0, COUNT).held == 6
    store.close()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8192, b"\0" * 100, b"not a database " * 1000], ids=["empty", "zeros", "few", "text"]
)
def test_c15_l14_a_foreign_data_file_is_refused_and_left_untouched(root: str, content: bytes) -> None:
    os.makedirs(root + "/store")
    data = Path(root) / "store" / "data.mdb"
    data.write_bytes(content)
    with pytest.raises(StoreCorrupt):
        open_store(root)
    assert data.read_bytes() == content


def test_c15_a_store_folder_without_a_data_file_is_not_filled(root: str) -> None:
    os.makedirs(root + "/store")
    with pytest.raises(StoreCorrupt, match=r"data\.mdb"):
        open_store(root)
    assert os.listdir(root + "/store") == []
