"""Tombstones: what a removal or a cancellation takes out of the store, and what it says is to be deleted."""

from __future__ import annotations

import pytest

from engine.errors import StaleEpoch, UnknownEntry
from engine.model.records import OfflineEntry, PartPhase, PartRecord
from engine.model.states import Event, State
from engine.store.codec import Table
from engine.store.commits import ChunkCommit
from engine.store.state_store import StateStore
from engine.store.tombstones import Doomed, Tombstone
from tests.store.helpers import commit, entry, offline, open_store, part, spoil

ACTIVE = part(phase=PartPhase.ACTIVE, device=1, inode=2, inode_version=3)


def running(store: StateStore, record: PartRecord = ACTIVE) -> None:
    """The entry ``a``, IN_PROGRESS, with a part that holds three chunks."""
    store.add(entry("a"))
    store.transition("a", Event.START, epoch=1, now=2.0, attempt_count=1)
    store.reset_part("a", 1, record)
    assert store.commit_chunks([commit("a", range(3))]) != [None]


def completed(store: StateStore) -> OfflineEntry:
    """The same, COMPLETED; its finished file is inode 2."""
    running(store)
    record = part(phase=PartPhase.PUBLISHED, device=1, inode=2, inode_version=3)
    done = OfflineEntry(id="a", path="/media/p", size=1, blake3="00" * 32, device=1, inode=2, inode_version=3)
    store.transition("a", Event.COMPLETE, epoch=1, now=3.0, parts=(record,), offline=done)
    return done


def test_removing_drops_every_record_and_names_the_files(store: StateStore) -> None:
    running(store)
    tombstone = store.tombstones.bury("a")
    assert tombstone == Tombstone(
        id="a", epoch=1, attempt=1, doomed=(Doomed(folder="/media", names=("p.part",), device=1),)
    )
    assert store.get("a") is None
    assert store.parts("a") == ()
    assert store.held_runs("a", 0, 100) == []
    assert store.list() == []
    assert store.ids(scope="") == []
    assert store.tombstones.all() == [tombstone]
    store.tombstones.drop("a")
    assert store.tombstones.all() == []


def test_a_finished_file_is_named_with_what_it_is_known_by(store: StateStore) -> None:
    completed(store)
    (doomed,) = store.tombstones.bury("a").doomed
    assert (doomed.folder, doomed.names, doomed.final_name) == ("/media", (), "p")
    assert (doomed.device, doomed.inode, doomed.inode_version, doomed.size) == (1, 2, 3, 1)


def test_a_finished_file_that_is_kept_is_not_named(store: StateStore) -> None:
    completed(store)
    assert store.tombstones.bury("a", keep_file=True).doomed == ()
    assert store.tombstones.all() == [], "there is nothing to do"
    assert store.offline("a") is None


def test_an_older_version_told_no_identity_of_the_finished_file(store: StateStore) -> None:
    """The part's record knows it; without that, size and time stamp are all there is."""
    running(store)
    record = part(phase=PartPhase.PUBLISHED, device=1, inode=2, inode_version=3)
    store.transition("a", Event.COMPLETE, epoch=1, now=3.0, parts=(record,), offline=offline("a"))
    (doomed,) = store.tombstones.bury("a").doomed
    assert (doomed.device, doomed.inode, doomed.inode_version) == (1, 2, 3)


def test_what_a_repair_was_replacing_is_named_too(store: StateStore) -> None:
    completed(store)
    store.transition("a", Event.REPAIR, epoch=1, now=4.0)
    store.reset_part("a", 2, part(generation=2, phase=PartPhase.ACTIVE, inode=9, replaces=2, replaces_version=3))
    unfinished, finished = store.tombstones.bury("a").doomed
    assert unfinished == Doomed(folder="/media", names=("p.part",))
    assert (finished.final_name, finished.inode, finished.inode_version) == ("p", 2, 3)


def test_of_a_part_whose_publishing_had_begun_both_names_are_named(store: StateStore) -> None:
    running(store, part(phase=PartPhase.FINALIZING, device=1, inode=2, inode_version=3, superseded=("old.part",)))
    (doomed,) = store.tombstones.bury("a").doomed
    assert doomed.names == ("p.part", "old.part")
    assert (doomed.final_name, doomed.device, doomed.inode, doomed.inode_version) == ("p", 1, 2, 3)


def test_cancelling_drops_the_parts_in_the_same_transaction(store: StateStore) -> None:
    running(store)
    cancelled = store.transition("a", Event.CANCEL, epoch=1, now=3.0)
    assert cancelled.state is State.CANCELLED
    assert store.parts("a") == ()
    (tombstone,) = store.tombstones.all()
    assert (tombstone.removed, tombstone.doomed) == (False, (Doomed(folder="/media", names=("p.part",), device=1),))
    assert store.commit_chunks([commit("a", [5])]) == [None], "a late commit finds nothing of its own"


def test_cancelling_a_repair_keeps_the_finished_file_and_what_replaces_it_later(store: StateStore) -> None:
    done = completed(store)
    store.transition("a", Event.REPAIR, epoch=1, now=4.0)
    store.reset_part("a", 2, part(generation=2, phase=PartPhase.ACTIVE, inode=9, replaces=2, replaces_version=3))
    store.transition("a", Event.CANCEL, epoch=2, now=5.0)
    (tombstone,) = store.tombstones.all()
    assert tombstone.doomed == (Doomed(folder="/media", names=("p.part",)),)
    assert store.offline("a") == done
    (kept,) = store.parts("a")
    assert (kept.phase, kept.generation, kept.final_name, kept.inode, kept.inode_version) == (
        PartPhase.PUBLISHED, 3, "p", 2, 3,
    )  # fmt: skip
    assert kept.chunks_done == 0


def test_an_entry_that_never_ran_leaves_no_tombstone(store: StateStore) -> None:
    for name in "ab":
        store.add(entry(name))
    store.transition("a", Event.CANCEL, epoch=1, now=2.0)
    store.tombstones.bury("b")
    assert store.tombstones.all() == []


def test_a_cancelled_entry_that_is_removed_keeps_both_duties(store: StateStore) -> None:
    running(store)
    store.transition("a", Event.CANCEL, epoch=1, now=3.0)
    assert store.tombstones.bury("a").doomed == (Doomed(folder="/media", names=("p.part",), device=1),)


def test_an_unknown_entry_cannot_be_removed(store: StateStore) -> None:
    with pytest.raises(UnknownEntry):
        store.tombstones.bury("nobody")


def test_an_id_is_not_taken_again_before_its_files_are_gone(store: StateStore) -> None:
    running(store)
    store.tombstones.bury("a")
    assert store.add_missing([entry("a")]) == [None]
    store.tombstones.drop("a")
    [again] = store.add_missing([entry("a")])
    assert again is not None


def test_late_results_of_a_removed_entry_are_not_the_next_ones(store: StateStore) -> None:
    """The same id, the same generation, the same chunk: only the epoch tells them apart."""
    running(store)
    late = commit("a", [7])
    store.remove("a")
    again = store.add(entry("a"))
    assert again.epoch > 1
    store.transition("a", Event.START, epoch=again.epoch, now=2.0)
    store.reset_part("a", again.epoch, ACTIVE)
    assert store.commit_chunks([late]) == [None]
    with pytest.raises(StaleEpoch):
        store.transition("a", Event.CANCEL, epoch=1, now=3.0)
    for _ in range(3):  # an epoch is never used twice, however often it goes
        store.remove("a")
        newer = store.add(entry("a"))
        assert newer.epoch > again.epoch
        again = newer


def test_without_removals_epochs_begin_at_one(store: StateStore) -> None:
    assert [store.add(entry(name)).epoch for name in "abc"] == [1, 1, 1]


@pytest.mark.parametrize("table", [Table.PARTS, Table.ENTRIES, Table.OFFLINE])
def test_a_damaged_record_is_removed_and_the_rest_is_deleted(root: str, table: Table) -> None:
    store = open_store(root)
    completed(store)
    store.close()
    spoil(root, table)
    store = open_store(root)
    tombstone = store.tombstones.bury("a")
    assert store.get("a") is None
    assert store.parts("a") == ()
    assert "p" in {doomed.final_name for doomed in tombstone.doomed}
    assert tombstone.swept == (("",) if table is Table.PARTS else ())
    newer = store.add_missing([entry("a")])
    assert newer == [None], "the files first"
    store.tombstones.drop("a")
    assert store.add(entry("a")).epoch > 1
    store.close()


def test_a_damaged_tombstone_blocks_nobody_and_says_where_to_look(root: str) -> None:
    store = open_store(root)
    running(store)
    store.tombstones.bury("a")
    store.close()
    spoil(root, Table.TOMBSTONES)
    store = open_store(root)
    assert store.tombstones.all() == []
    assert store.tombstones.find("a") == Tombstone(id="a", swept=("",))
    assert store.take_damages()
    store.tombstones.drop("a")
    assert store.add(entry("a")).id == "a"
    store.close()


def test_a_commit_in_the_transaction_of_a_removal_is_void(store: StateStore) -> None:
    """Group commit puts them side by side."""
    running(store)
    late = ChunkCommit(
        id="a", epoch=1, generation=1, chunks=((9, bytes(32), 1),), bit_count=100, synced=True, boot_id=""
    )
    results = store.together([lambda: store.tombstones.bury("a"), lambda: store.commit_chunks([late])])
    assert results[1] == [None]
    assert store.parts("a") == ()
