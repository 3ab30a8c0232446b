"""Ways through the store that no other test takes: strange rows, ends of files, locks, guests."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest
from msgspec.structs import replace

from engine.errors import EngineError, InvalidRequest, StaleEpoch, StoreBusy, StoreCorrupt, StoreUnusable, UnknownEntry
from engine.files.filesystem import FileSystem
from engine.model.groups import GroupRecord, MemberRecord, MemberSort
from engine.model.records import PartPhase, PartRecord
from engine.model.states import Event, Reason
from engine.store import creation, entries, groups, lease, opening, structure
from engine.store.bell import Bell, ring
from engine.store.codec import Table, encode, entry_key, number_key, scope_key
from engine.store.damage import KEPT_MAX, Damage, DamageLog
from engine.store.environment import Environment
from engine.store.guest import open_guest
from engine.store.lease import Lease, read_owner
from engine.store.root import check_file_system
from engine.store.state_store import StateStore
from engine.store.tombstones import LIBRARY
from engine.store.txn import Txn
from tests.fire.support_damage import fill
from tests.store.helpers import CHUNK, add_running, commit, entry, offline, open_store, part, raw_store, spoil

FILES = FileSystem()


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The root's path; nothing is there yet."""
    return str(tmp_path / "library")


def change(store: StateStore, work: Callable[[Txn], Any]) -> Any:
    return store._environment.write(work)


def test_an_entry_under_the_key_of_another_is_corruption(root: str) -> None:
    store = open_store(root)
    change(store, lambda txn: txn.put(Table.ENTRIES, entry_key("a"), encode(entry("b"))))

    with pytest.raises(StoreCorrupt, match="the same key"):
        store.get("a")
    store.close()


def test_an_id_that_utf8_cannot_hold_is_nobodys(root: str) -> None:
    store = open_store(root)

    with pytest.raises(UnknownEntry):
        store.get("\ud800")
    store.close()


def test_a_row_of_a_scope_that_names_anothers_entry_is_told(root: str) -> None:
    store = open_store(root)
    fill(store)
    change(store, lambda txn: txn.put(Table.BY_SCOPE, scope_key("") + number_key(77), entry_key("f")))
    page = store.groups.of_scope("", None, None, 99)

    assert "f" not in [found.id for found in page.items]
    assert len(page.damaged) == 1
    assert "f" not in {found.id for found in change(store, lambda txn: list(entries.of_scope(txn, "")))}
    store.close()


def test_a_chunk_for_a_part_that_began_anew_is_refused(root: str) -> None:
    store = open_store(root)
    add_running(store, chunks=1)
    record = part(1, phase=PartPhase.FINALIZING)
    stored = store.put_whole_part(record, commit("a", [0], bit_count=1))
    with pytest.raises(StaleEpoch, match="began anew"):
        store.put_whole_part(record, commit("a", [0], bit_count=1))

    assert (stored.chunks_done, stored.bytes_done) == (1, CHUNK)
    assert store.held_runs("a", 0, 1) == [(0, 1)]
    store.close()


def test_without_a_length_every_held_chunk_counts_as_a_full_one(root: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    store.transition("a", Event.START, epoch=1, now=2.0)
    store.put_part("a", 1, part(100, length=None))
    store.commit_chunks([commit("a", range(5))])
    store.close()
    spoil(root, Table.BITS)
    store = open_store(root)
    [record] = store.commit_chunks([commit("a", [7])])

    assert record is not None
    assert (record.chunks_done, record.bytes_done) == (1, CHUNK)
    store.close()


def test_a_new_store_gets_the_map_that_it_needs(tmp_path: Path) -> None:
    environment = lmdb.open(str(tmp_path / "tiny"), map_size=3 * 4096, max_dbs=32, lib_version=0)
    creation._fill(environment, "some-identity")

    assert int(environment.info()["map_size"]) > 3 * 4096
    environment.close()


def test_so_many_damages_are_kept_and_no_more() -> None:
    log = DamageLog()
    for number in range(KEPT_MAX + 5):
        log.note(Damage("entries", str(number), "", "x"))

    assert len(log.take()) == KEPT_MAX
    assert log.take() == ()


def test_an_order_that_names_another_place_is_told(root: str) -> None:
    store = open_store(root)
    store.groups.put(GroupRecord(id="g"), [MemberRecord(entry_id="a", volume=1, title="old")], replace=True)
    key = groups.group_key("", "g")
    moved = MemberRecord(entry_id="a", volume=1, title="new")
    change(store, lambda txn: txn.put(Table.MEMBERS, key + groups._pack(moved), encode(moved)))

    page = store.groups.members("", "g", MemberSort.TITLE, None, 9)

    assert page.items == ()
    assert len(page.damaged) == 1
    store.close()


def test_a_group_whose_order_is_lost_is_found_all_the_same(root: str) -> None:
    store = open_store(root)
    for name in ("g", "h"):
        store.groups.put(GroupRecord(id=name), [MemberRecord(entry_id="a")], replace=True)
    store.close()
    spoil(root, Table.GROUPS, lambda key: key == groups.group_key("", "g"))
    store = open_store(root)
    change(store, lambda txn: txn.clear(Table.SORTED))

    assert [store.groups.drop_any("") for _ in range(2)] == [True, False]
    store.close()


def test_a_guest_sees_what_the_store_knows(root: str) -> None:
    store = open_store(root)
    fill(store)
    store.close()
    with open_guest(root, FILES) as guest:
        assert guest.get("none") is None
        assert guest.parts("a")[0].chunks_done == 30
        assert guest.offline("b") == offline("b")
        assert guest.session.pid == os.getpid()


def test_a_guest_does_not_open_a_store_of_an_older_version(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(root).close()
    monkeypatch.setattr("engine.store.guest.SCHEMA_VERSION", 10_000)

    with pytest.raises(StoreUnusable, match="older version"), open_guest(root, FILES):
        raise AssertionError("it was opened")


def test_a_lease_is_forgotten_once_and_by_every_child(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert read_owner(root, FILES) is None
    held = Lease.acquire(root, FILES, now=1.0)
    with pytest.raises(StoreBusy):
        Lease.acquire(root, FILES, now=2.0)
    lease._forget_all()  # as a forked child does
    held.forget()
    held.release()
    again = Lease.acquire(root, FILES, now=3.0)

    assert again.inherited
    again.release()


@pytest.mark.parametrize("harmed", [Table.LINKS, Table.ENTRIES])
def test_who_is_to_go_is_known_as_long_as_anything_tells(root: str, harmed: Table) -> None:
    store = open_store(root)
    fill(store)
    known = store.groups.leaving()
    store.close()
    spoil(root, Table.LINKS)
    if harmed is Table.ENTRIES:
        spoil(root, Table.ENTRIES)
    store = open_store(root)

    assert known == ["g"]
    assert store.groups.leaving() == (["g"] if harmed is Table.LINKS else [])
    change(store, lambda txn: txn.delete(Table.ENTRIES, entry_key("g")))
    assert store.groups.leaving() == []
    store.close()


@pytest.mark.parametrize("content", [None, b""])
def test_c15_l11_what_has_no_data_is_not_filled(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "data.mdb").write_bytes(content)

    with pytest.raises(StoreCorrupt, match=r"has no|is empty"):
        opening.open_raw(str(tmp_path), 1 << 20, FILES, readonly=True)


def test_l12_a_cut_file_is_refused_by_whoever_opens_it(root: str) -> None:
    store = open_store(root)
    fill(store)
    store.close()
    data = Path(root) / "store" / "data.mdb"
    os.truncate(data, data.stat().st_size // 2)

    with pytest.raises(StoreCorrupt, match="cut short"):
        Environment(str(data.parent), 1 << 30, FILES, readonly=True)


def test_damaged_rows_of_what_is_not_there_are_nobodys(root: str) -> None:
    store = open_store(root)
    fill(store)
    store.close()
    spoil(root, Table.PARTS)
    spoil(root, Table.UNSYNCED)
    store = open_store(root)
    change(store, lambda txn: txn.delete(Table.ENTRIES, entry_key("a")))

    assert [found.id for found in store.damaged_parts()] == ["b"]
    assert store.unsynced() == []
    assert store.take_damages()
    store.close()


def test_a_file_of_tables_without_a_version_is_no_store(root: str) -> None:
    open_store(root).close()
    with raw_store(root) as environment, environment.begin(write=True) as txn:
        txn.delete(b"schema", db=environment.open_db(b"meta", txn=txn, create=False))

    with pytest.raises(StoreCorrupt, match="has no schema version"):
        open_store(root)


def test_a_file_that_changes_all_the_time_is_not_called_damaged(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(root).close()
    looks = iter(range(1000))
    monkeypatch.setattr(structure, "first_problem", lambda _data: "a page that was just rewritten")
    monkeypatch.setattr(structure, "_meta_pages", lambda _data: b"%d" % next(looks))

    structure.check_structure(f"{root}/store/data.mdb", FILES, thorough=True)
    assert next(looks) == 2 * structure._TRIES


def test_no_mark_fits_a_file_that_is_gone(root: str) -> None:
    open_store(root).close()
    data = f"{root}/store/data.mdb"
    os.unlink(data)

    assert structure._fitting_mark(data, FILES) is None
    structure.check_structure(data, FILES, thorough=True)
    assert structure.check_as_owner(data, FILES, thorough=True, now=5.0) == 5.0


def test_cancelling_keeps_the_record_of_a_finished_part_and_drops_the_others(root: str) -> None:
    store = open_store(root)
    add_running(store, "a")
    store.put_part("a", 1, replace(part(1, phase=PartPhase.PUBLISHED), index=1))
    store.transition("a", Event.CANCEL, epoch=1, now=5.0)

    assert [found.index for found in store.parts("a")] == [1]
    store.close()


def test_cancelling_with_a_damaged_part_drops_all_parts_and_sweeps(root: str) -> None:
    store = open_store(root)
    add_running(store, "a")
    store.close()
    spoil(root, Table.PARTS)
    store = open_store(root)
    store.transition("a", Event.CANCEL, epoch=1, now=5.0)
    tombstone = store.tombstones.find("a")

    assert store.parts("a") == ()
    assert tombstone is not None
    assert tombstone.swept
    store.close()


def test_of_an_entry_of_which_nothing_is_known_the_library_is_swept(root: str) -> None:
    store = open_store(root)
    fill(store)
    store.close()
    spoil(root, Table.PARTS)
    spoil(root, Table.ENTRIES)
    store = open_store(root)

    assert store.tombstones.bury("a").swept == (LIBRARY,)
    store.close()


def test_keys_that_cannot_be_keys_are_left_out(root: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    store.close()
    with raw_store(root) as environment, environment.begin(write=True) as txn:
        txn.put(b"short", b"rubbish", db=environment.open_db(b"entries", txn=txn, create=False))
    store = open_store(root)
    keys, rows = store._environment.read(lambda txn: (list(txn.keys(Table.ENTRIES)), list(txn.walk(Table.ENTRIES))))

    assert keys == [key for key, _ in rows] == [entry_key("a")]
    assert store.take_damages()
    store.close()


def test_a_plain_transaction_deletes_at_once(root: str) -> None:
    store = open_store(root)
    environment = store._environment
    store.add(entry("a"))
    with environment._environment().begin(write=True) as raw:
        txn = Txn(raw, environment._handles, environment.damages)
        gone = [txn.delete(Table.ENTRIES, entry_key("a")), txn.delete(Table.ENTRIES, entry_key("a"))]
        txn.discard(Table.OFFLINE, entry_key("a"))

    assert gone == [True, False]
    store.close()


def test_many_rings_are_taken_a_bounded_number_at_a_time(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir(root)
    monkeypatch.setattr("engine.store.bell._RINGS_AT_ONCE", 2)
    bell = Bell(root, FILES)
    for _ in range(3):
        ring(root, FILES)
    bell.clear()

    assert bell.socket.recv(1)
    bell.clear()
    bell.take_down()


@pytest.mark.parametrize("what", ["parked", "stale"])
def test_a_line_of_an_index_that_leads_nowhere_is_left_out(root: str, what: str) -> None:
    store = open_store(root)
    fill(store)
    name = {"parked": "c", "stale": "d"}[what]
    change(store, lambda txn: txn.delete(Table.ENTRIES, entry_key(name)))

    assert store.usage.parked(Reason.DISK) == [] or what == "stale"
    assert store.usage.stale(9.0) == [] or what == "parked"
    store.close()


def test_a_part_record_can_name_no_file_of_an_unknown_entry(root: str) -> None:
    store = open_store(root)

    with pytest.raises(EngineError):
        store.put_part("none", 1, PartRecord(folder="/", part_name="p", final_name="f", chunk_bytes=CHUNK))
    store.close()


def test_an_unfinished_file_is_needed_by_any_part_of_its_entry(root: str) -> None:
    with closing(open_store(root)) as store:
        epoch = store.add(entry("a")).epoch
        for index, name in enumerate(("first", "second")):
            store.put_part("a", epoch, part(index=index, part_name=f"{name}.part"))
        tag = entry_key("a")[:8].hex()

        assert [store.usage.needs(tag, name) for name in ("first.part", "second.part", "third.part")] == [
            True,
            True,
            False,
        ]


def test_bytes_of_damaged_and_unknown_entries_are_not_counted(root: str) -> None:
    with closing(open_store(root)) as store:
        for name in "ab":
            epoch = store.add(entry(name)).epoch
            store.put_part(name, epoch, part())
    spoil(root, Table.ENTRIES, lambda key: key == entry_key("b"))
    with closing(open_store(root)) as store:
        assert list(store.usage.of_entries(["a", "b", "c"])) == ["a"]
        assert [damage.table for damage in store.take_damages()] == ["entries"]


def test_a_root_whose_path_is_no_utf8_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="is not UTF-8"):
        check_file_system("/tmp/\udcff", FILES)
