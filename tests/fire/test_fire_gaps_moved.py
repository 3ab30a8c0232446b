"""Ways through moved roots and interrupted resets that no other test takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.files.filesystem import FileSystem
from engine.model.records import OfflineEntry, PartPhase
from engine.store import entries, rebasing, resets
from engine.store.codec import Table, encode, entry_key, part_key
from engine.store.rebasing import Rebasing
from engine.store.state_store import StateStore
from engine.store.txn import Txn
from tests.fire.support_damage import NO_RECORD, fill
from tests.store.helpers import entry, open_store, part, spoil

FILES = FileSystem()


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The root's path; nothing is there yet."""
    return str(tmp_path / "library")


def change(store: StateStore, work: Callable[[Txn], Any]) -> Any:
    return store._environment.write(work)


class TestRebasing:
    """A root that came from elsewhere, with records that are damaged and files that are others."""

    def test_nothing_is_to_be_done_at_the_same_place(self, root: str) -> None:
        store = open_store(root)
        fill(store)
        change(store, lambda txn: Rebasing(txn, FILES, "/x", "/x", moved_files=False, foreign=True).run())

        assert store.get("b") is not None
        store.close()

    def test_many_records_are_changed_page_by_page(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rebasing, "_PAGE_RECORDS", 1)
        store = open_store(root)
        fill(store)
        change(store, lambda txn: Rebasing(txn, FILES, "/media", "/moved", moved_files=False, foreign=False).run())

        assert [store.parts(name)[0].folder for name in "ab"] == ["/moved", "/moved"]
        store.close()

    def test_damaged_records_are_left_as_they_are(self, root: str) -> None:
        store = open_store(root)
        fill(store)
        store.close()
        spoil(root, Table.OFFLINE)
        store = open_store(root)
        change(store, lambda txn: txn.put(Table.PARTS, part_key(entry_key("b"), 0), NO_RECORD))
        change(store, lambda txn: Rebasing(txn, FILES, "/media", "/moved", moved_files=False, foreign=False).run())

        assert store.parts("a")[0].folder == "/moved"
        assert store.take_damages()
        store.close()

    @pytest.mark.parametrize("kind", ["published", "replaced", "other", "fifo"])
    def test_finished_files_are_known_again_by_what_they_are(self, root: str, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "film"
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.write_bytes(b"bytes!")
        info = path.stat()
        finished = OfflineEntry(
            id="a", path=str(path), size=info.st_size, blake3="0" * 64, mtime_ns=info.st_mtime_ns, device=1, inode=2
        )
        changes: dict[str, dict[str, Any]] = {
            "published": {"phase": PartPhase.PUBLISHED, "device": 1, "inode": 2},
            "replaced": {"replaces": 2},
            "other": {"replaces": 3},
            "fifo": {"replaces": 2},
        }
        store = open_store(root)
        store.add(entry("a"))
        record = replace(part(1), **changes[kind])
        change(store, lambda txn: entries.put_offline(txn, finished))
        change(store, lambda txn: txn.put(Table.PARTS, part_key(entry_key("a"), 0), encode(record)))
        change(store, lambda txn: Rebasing(txn, FILES, "/old", str(tmp_path), moved_files=True, foreign=False).run())
        [found] = store.parts("a")

        wanted = {"published": (info.st_ino, 0), "replaced": (0, info.st_ino), "other": (0, 3), "fifo": (0, 2)}[kind]
        assert (found.inode, found.replaces) == wanted
        store.close()


@pytest.mark.parametrize("entries_there", [True, False])
def test_a_damaged_mark_of_a_reset_is_read_from_the_entries(root: str, entries_there: bool) -> None:
    store = open_store(root)
    if entries_there:
        store.add(entry("f", scope="s"))
    store.groups.begin_reset("s", 1.0)
    store.close()
    spoil(root, Table.META, lambda key: key.startswith(b"reset:"))
    store = open_store(root)

    assert change(store, resets.unfinished) == (["s"] if entries_there else [])
    assert store.groups.unfinished_resets() == (["s"] if entries_there else [])
    change(store, resets.drop_damaged)
    assert store.groups.resetting("s") == entries_there
    store.close()


@pytest.mark.parametrize("line", ["sound", "damaged"])
def test_a_mark_and_entries_that_are_damaged_reset_nothing(root: str, line: str) -> None:
    store = open_store(root)
    store.add(entry("f", scope="s"))
    store.groups.begin_reset("s", 1.0)
    store.close()
    for table in (Table.META, Table.ENTRIES, Table.BY_SCOPE)[: 3 if line == "damaged" else 2]:
        spoil(root, table, lambda key: len(key) >= 16)
    store = open_store(root)

    assert store.groups.unfinished_resets() == []
    store.close()


def test_a_damaged_line_of_a_part_that_is_not_there_is_noted(root: str) -> None:
    store = open_store(root)
    fill(store)
    store.close()
    spoil(root, Table.UNSYNCED)
    store = open_store(root)
    change(store, lambda txn: txn.delete(Table.PARTS, part_key(entry_key("a"), 0)))

    assert store.unsynced() == []
    assert store.take_damages()
    store.close()
