"""A root that was moved, copied, or put in another's place, and one that goes away while its store is open (H14)."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.config import Config
from engine.errors import StoreCopied, StoreGone, StoreUnusable
from engine.files.filesystem import FileSystem
from engine.model.commands import Command, Verb
from engine.model.records import DownloadEntry, OfflineEntry, PartPhase, PartRecord
from engine.model.states import Event
from engine.store.codec import Table
from engine.store.guest import open_guest
from engine.store.rebasing import is_inside
from engine.store.state_store import StateStore
from tests.store.helpers import entry, open_store, spoil

ELSEWHERE = "/somewhere/else"
LENGTH = 6


def _part(folder: str, **fields: Any) -> PartRecord:
    return PartRecord(
        folder=folder,
        part_name=".oe-0123456789abcdef-1.part",
        final_name="f",
        length=LENGTH,
        chunk_bytes=1024,
        **fields,
    )


def _identity(path: Path) -> dict[str, Any]:
    info = os.stat(path)
    fd = os.open(path, os.O_RDONLY)
    try:
        version = FileSystem().file_version(fd)
    finally:
        os.close(fd)
    return {"device": info.st_dev, "inode": info.st_ino, "inode_version": version}


def _finished(store: StateStore, name: str, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"bytes!")
    identity = _identity(path)
    offline = OfflineEntry(
        id=name, path=str(path), size=LENGTH, blake3="00" * 32, mtime_ns=os.stat(path).st_mtime_ns, **identity
    )
    epoch = store.add(entry(name)).epoch
    store.transition(name, Event.START, epoch=epoch, now=2.0)
    part = replace(_part(str(path.parent), phase=PartPhase.PUBLISHED, **identity), final_name=path.name)
    store.transition(name, Event.COMPLETE, epoch=epoch, now=3.0, parts=(part,), offline=offline)


def fill(root: str) -> None:
    """A finished file and an unfinished part inside of the root, a destination in it, and one elsewhere; what is left
    of a cancelled entry."""
    store = open_store(root)
    _finished(store, "done", Path(root) / "files" / "f")
    store.add(entry("inside", destination=root + "/own/film.mkv", destination_is_folder=False))
    store.add(entry("outside", destination=ELSEWHERE, destination_is_folder=True))
    for name, folder in (("inside", root + "/own"), ("outside", ELSEWHERE)):
        store.transition(name, Event.START, epoch=1, now=2.0)
        store.put_part(name, 1, _part(folder, phase=PartPhase.ACTIVE))
    for name, folder in (("gone", root + "/files"), ("gone elsewhere", ELSEWHERE)):
        epoch = store.add(entry(name)).epoch
        store.put_part(name, epoch, _part(folder, phase=PartPhase.ACTIVE))
        store.tombstones.bury(name)
    store.close()


def check_paths(store: StateStore, root: str) -> None:
    """What is inside of the root is told to be there."""
    offline = store.offline("done")
    assert offline is not None
    assert offline.path == root + "/files/f"
    assert store.parts("done")[0].folder == root + "/files"
    assert _entry(store, "inside").destination == root + "/own/film.mkv"
    assert store.parts("inside")[0].folder == root + "/own"
    assert [one.folder for one in _doomed(store, "gone")] == [root + "/files"]


def _entry(store: StateStore, name: str) -> DownloadEntry:
    found = store.get(name)
    assert found is not None
    return found


def _doomed(store: StateStore, name: str) -> Any:
    tombstone = store.tombstones.find(name)
    return () if tombstone is None else tombstone.doomed


def test_a_moved_root_takes_its_paths_along(root: str) -> None:
    fill(root)
    os.rename(root, root + "-new")
    store = open_store(root + "-new")
    assert root in store.moved
    check_paths(store, root + "-new")
    assert _entry(store, "outside").destination == ELSEWHERE
    assert store.parts("outside")[0].folder == ELSEWHERE
    assert [one.folder for one in _doomed(store, "gone elsewhere")] == [ELSEWHERE]
    assert not os.path.exists(root)
    store.close()
    again = open_store(root + "-new")
    assert again.moved == ""
    check_paths(again, root + "-new")
    again.close()


def test_a_root_on_another_file_system_knows_its_finished_files_again(root: str) -> None:
    """Copied with its time stamps, and the original deleted: what `mv` does between disks."""
    fill(root)
    store = open_store(root)
    _finished(store, "edited", Path(root) / "files" / "g")
    before = store.offline("edited")
    store.close()
    shutil.copytree(root, root + "-new", copy_function=shutil.copy2)
    os.utime(root + "-new/files/g", ns=(1, 1))
    shutil.rmtree(root)
    store = open_store(root + "-new")
    check_paths(store, root + "-new")
    identity = _identity(Path(root + "-new/files/f"))
    offline, part = store.offline("done"), store.parts("done")[0]
    assert offline is not None
    assert {name: getattr(offline, name) for name in identity} == identity
    assert {name: getattr(part, name) for name in identity} == identity
    edited = store.offline("edited")
    assert edited is not None
    assert before is not None
    assert edited.inode == before.inode, "it is not the file on record, and must not be taken for it"
    store.close()


def test_a_copied_root_is_refused_while_its_original_is_there(root: str) -> None:
    fill(root)
    shutil.copytree(root, root + "-copy")
    data = Path(root + "-copy/store/data.mdb")
    before = data.read_bytes()
    with pytest.raises(StoreCopied, match="is a copy of") as raised:
        open_store(root + "-copy")
    assert "adopt" in raised.value.advice
    assert data.read_bytes() == before
    original = open_store(root)
    check_paths(original, root)
    with pytest.raises(StoreCopied):  # the original is open, in this very process
        open_store(root + "-copy")
    original.close()


def test_an_adopted_copy_knows_nothing_of_files_outside(root: str) -> None:
    fill(root)
    with open_guest(root, FileSystem()) as guest:
        guest.append([Command(verb=Verb.PAUSE, token="t", id="outside")], 10)
    shutil.copytree(root, root + "-copy")
    copy = StateStore.open(root + "-copy", Config(), FileSystem(), now=1.0, adopt=True)
    original = open_store(root)
    assert copy.uuid != original.uuid
    check_paths(copy, root + "-copy")
    check_paths(original, root)
    assert copy.get("outside") is None
    assert copy.parts("outside") == ()
    assert _doomed(copy, "gone elsewhere") == ()
    assert copy.inbox.waiting(0, 10) == []
    assert _entry(original, "outside").destination == ELSEWHERE
    assert len(original.inbox.waiting(0, 10)) == 1
    copy.close()
    original.close()
    open_store(root + "-copy").close()
    open_store(root).close()


def test_what_is_no_copy_is_opened(root: str) -> None:
    """A folder without a store where the root was, and another store; another name of the same folder; a root whose old
    place cannot be looked at is refused."""
    fill(root)
    os.rename(root, root + "-moved")
    os.mkdir(root)
    with closing(open_store(root + "-moved")) as store:
        check_paths(store, root + "-moved")
    os.rename(root + "-moved", root + "-new")
    open_store(root + "-moved").close()
    store = open_store(root + "-new")
    check_paths(store, root + "-new")
    store.close()
    os.symlink(root + "-new", root + "-link")
    store = open_store(root + "-link")
    check_paths(store, root + "-link")
    store.close()

    class Blind(FileSystem):
        def stat_path(self, path: str, *, follow: bool = True) -> os.stat_result | None:
            if path == root + "-link":
                raise PermissionError(13, "no")
            return super().stat_path(path, follow=follow)

    with pytest.raises(StoreUnusable, match="look whether"):
        StateStore.open(root + "-new", Config(), Blind(), now=1.0)


def test_a_store_that_is_damaged_where_the_root_was_counts_as_the_original(root: str) -> None:
    fill(root)
    shutil.copytree(root, root + "-copy")
    Path(root + "/store/data.mdb").write_bytes(b"\0" * 8192)
    with pytest.raises(StoreCopied):
        open_store(root + "-copy")


def test_a_damaged_note_of_the_place_is_written_anew(root: str) -> None:
    fill(root)
    assert spoil(root, Table.META, lambda key: key == b"home") == [b"home"]
    store = open_store(root)
    check_paths(store, root)
    assert [damage.table for damage in store.take_damages()] == ["meta"]
    store.close()
    os.rename(root, root + "-new")
    store = open_store(root + "-new")
    check_paths(store, root + "-new")
    store.close()


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
def test_h14_a_root_that_goes_while_its_store_is_open(root: str, how: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    if how == "deleted":
        shutil.rmtree(root)
    else:
        os.rename(root, root + "-away")
    if how == "replaced":
        open_store(root).close()
    for _ in range(2):
        with pytest.raises(StoreGone) as raised:
            store.add(entry("b"))
        assert raised.value.code == "store_gone"
    with pytest.raises(StoreGone):
        store.close()
    assert os.path.exists(root) == (how == "replaced"), "something was made anew"
    if how == "replaced":
        shutil.rmtree(root)
    if how != "deleted":
        moved = open_store(root + "-away")
        assert [each.id for each in moved.list()] == ["a"]
        moved.close()


@pytest.mark.parametrize(
    ("path", "inside"), [("/r", True), ("/r/a/b", True), ("/rest", False), ("/", False), ("", False), ("/a/r", False)]
)
def test_what_is_inside(path: str, inside: bool) -> None:
    assert is_inside(path, "/r") is inside
    assert not path or is_inside(path, "/")
