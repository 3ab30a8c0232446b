"""Ways through the files and the recovery that no other test takes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from engine.control.recovery import Recovery
from engine.errors import InputOutput, PartLost, StorageError, TargetGone
from engine.files import forks
from engine.files.filesystem import FileSystem
from engine.files.folders import Folders
from engine.files.names import (
    DEFAULT_NAME,
    FOLDERS_MAX,
    HARMLESS_SUFFIX,
    NAME_BYTES_MAX,
    part_name,
    safe_name,
    safe_path,
    tag_of_part,
)
from engine.files.part_file import cut_surplus, open_part, open_unfinished, remove_part, restore_size
from engine.files.reading import digest_of_path, digests
from engine.model.records import PartPhase
from engine.model.states import Event, State
from engine.store.codec import Table
from tests.files.helpers import CONFIG, NAME, Failing, finalizing, make
from tests.fire.support_damage import fill
from tests.store.helpers import CHUNK, commit, entry, open_store, part, spoil
from tests.transfer.test_transfer_committer import rig

FILES = FileSystem()


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.EBADF])
def test_a_close_that_fails_is_told_only_when_it_is_the_callers_fault(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("engine.files.filesystem.os.close", fail)
    if number == errno.EBADF:
        with pytest.raises(OSError, match="Bad file"):
            FILES.close(99)
    else:
        FILES.close(99)


@pytest.mark.parametrize("refusal", [None, errno.EXDEV, errno.EOPNOTSUPP])
@pytest.mark.parametrize("length", [9_900, 20_000])
def test_a_range_is_copied_whatever_the_file_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | None, length: int
) -> None:
    data = os.urandom(10_000)
    (tmp_path / "from").write_bytes(data)
    source, target = os.open(tmp_path / "from", os.O_RDONLY), os.open(tmp_path / "to", os.O_RDWR | os.O_CREAT)
    if refusal is not None:

        def refuse(*_arguments: object) -> int:
            raise OSError(refusal, os.strerror(refusal))

        monkeypatch.setattr("engine.files.filesystem.os.copy_file_range", refuse)
        short = os.pwrite
        monkeypatch.setattr("engine.files.filesystem.os.pwrite", lambda fd, piece, at: short(fd, piece[:4096], at))
    try:
        assert FILES.copy_range(source, target, 100, length) == len(data) - 100
    finally:
        os.close(source)
        os.close(target)
    assert (tmp_path / "to").read_bytes()[100:] == data[100:]


def test_a_copy_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"x")
    source = os.open(tmp_path / "from", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            FILES.copy_range(source, source, 0, 1)
    finally:
        os.close(source)


def test_a_path_gets_a_name_that_nobody_has(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    FILES.rename_path_noreplace(str(tmp_path / "a"), str(tmp_path / "b"))
    (tmp_path / "a").mkdir()

    with pytest.raises(OSError, match=r"exists|not empty"):
        FILES.rename_path_noreplace(str(tmp_path / "a"), str(tmp_path / "b"))
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_the_root_is_not_made_again(tmp_path: Path) -> None:
    root = tmp_path / "library"
    with pytest.raises(TargetGone):
        Folders().prepare(FILES, str(root / "files"), root=str(root))

    assert not root.exists()


@pytest.mark.parametrize("kind", ["plain", "fifo", "gone", "unknown"])
def test_d12_enxio_says_that_a_plain_files_device_is_away(tmp_path: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(tmp_path / NAME)
    elif kind != "gone":
        (tmp_path / NAME).write_bytes(b"x")
    files = Failing("open_existing", errno.ENXIO)
    if kind == "unknown":

        def fail(*_arguments: object) -> Any:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        files.stat_name = fail  # type: ignore[method-assign, assignment]

    with pytest.raises(PartLost if kind in {"fifo", "gone"} else StorageError) as caught:
        open_part(files, str(tmp_path), NAME)
    assert isinstance(caught.value, PartLost) == (kind in {"fifo", "gone"})


@pytest.mark.parametrize("change", ["restore", "cut"])
def test_sizes_that_cannot_be_put_right_are_told(tmp_path: Path, change: str) -> None:
    make(tmp_path).close()
    opened = open_part(Failing("truncate" if change == "cut" else "allocate", errno.EIO), str(tmp_path), NAME)
    try:
        with pytest.raises(InputOutput):
            cut_surplus(opened, 10) if change == "cut" else restore_size(opened, 9000, CONFIG)
    finally:
        opened.close()


def test_another_file_under_the_final_name_is_not_the_unfinished_one(tmp_path: Path) -> None:
    opened = make(tmp_path)
    record = finalizing(tmp_path, opened)
    opened.close()
    os.unlink(tmp_path / NAME)
    (tmp_path / record.final_name).write_bytes(b"theirs")

    with pytest.raises(PartLost):
        open_unfinished(FILES, record)
    assert (tmp_path / record.final_name).read_bytes() == b"theirs"


def test_parts_that_cannot_be_removed_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputOutput):
        remove_part(Failing("unlink", errno.EIO), str(tmp_path), ("x",))
    with pytest.raises(InputOutput):
        remove_part(Failing("open_folder", errno.EIO), str(tmp_path), ("x",))
    remove_part(FILES, str(tmp_path / "gone"), ("x",))


def test_a_file_that_ends_early_or_fails_when_read_back_is_no_digest(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"abc")
    fd = os.open(tmp_path / "film", os.O_RDONLY)
    try:
        with pytest.raises(InputOutput, match="ends at byte 3 of 4"):
            digests(FILES, fd, 4, ["sha256"])
        with pytest.raises(InputOutput):
            digests(Failing("read_at", errno.EIO), fd, 3, ["sha256"])
        assert digests(FILES, fd, 3, []) == {}
    finally:
        os.close(fd)
    with pytest.raises(InputOutput):
        digest_of_path(Failing("open_existing", errno.EIO), str(tmp_path / "film"), "sha256")
    assert len(digest_of_path(FILES, str(tmp_path / "film"), "sha256")) == 64


def test_names_at_the_edges() -> None:
    assert safe_name("...") == DEFAULT_NAME
    assert safe_name("con.mp3") == "_con.mp3"
    assert safe_name("a." + "x" * 17).startswith("a.")
    assert safe_name("run.exe") == f"run.exe{HARMLESS_SUFFIX}"
    assert len(safe_name("ä" * 500 + ".mp3").encode()) <= NAME_BYTES_MAX
    assert tag_of_part(part_name("0123456789abcdef", 3)) == "0123456789abcdef"
    assert tag_of_part("film.mkv") is None


def _cut_off(root: str) -> None:
    """A session that began and did not end in order."""
    open_store(root).close(clean=False)


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The root's path; nothing is there yet."""
    return str(tmp_path / "library")


def test_l10_a_finished_file_whose_chunks_are_not_known_stays(root: str) -> None:
    store = open_store(root)
    fill(store)
    store.close()
    spoil(root, Table.PARTS)
    _cut_off(root)
    store = open_store(root)
    found = {(told.id, told.what) for told in Recovery(store, FILES, 9.0).run()}

    assert ("b", "the record of its chunks is damaged; its file is as it was") in found
    assert ("a", "the record of its chunks was damaged; it begins anew") in found
    assert [store.get(name).state for name in "ab"] == [State.PENDING, State.COMPLETED]  # type: ignore[union-attr]
    store.close()


@pytest.mark.parametrize("there", ["nothing", "another"])
def test_c9_what_was_to_be_published_and_is_not_there_runs_again(root: str, tmp_path: Path, there: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    store.transition("a", Event.START, epoch=1, now=2.0)
    record = replace(part(1), folder=str(tmp_path), phase=PartPhase.FINALIZING, device=1, inode=2)
    store.put_part("a", 1, replace(record, phase=PartPhase.ALLOC))
    store.put_whole_part(record, commit("a", [0], bit_count=1))
    if there == "another":
        (tmp_path / record.part_name).write_bytes(bytes(CHUNK))
    store.close(clean=False)
    store = open_store(root)
    told = Recovery(store, FILES, 9.0).run()

    assert [recovered.id for recovered in told] == ["a"]
    assert store.get("a").state is State.PENDING  # type: ignore[union-attr]
    assert not (tmp_path / record.final_name).exists()
    store.close()


class _Ledger:
    """Who sent which chunk, told as it is sealed."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def sealed(self, index: int, _digest: bytes) -> None:
        self.told.append(index)


async def test_what_is_sealed_is_told_to_the_ledger_and_let_go_at_the_close() -> None:
    async with rig() as running:
        job, ledger = running.job(), _Ledger()
        job.ledger = ledger  # type: ignore[assignment]
        await running.seal(job, 3)
        running.committer.close()

    assert ledger.told == [3]
    assert running.commits == []
    assert job.uncommitted == 0


class Overtaken(FileSystem):
    """Another process makes the folder just before this one does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, file: bool) -> None:
        real = os.mkdir

        def mkdir(path: str, mode: int) -> None:
            if file:
                Path(path).touch()
            else:
                real(path, mode)
            real(path, mode)

        monkeypatch.setattr(os, "mkdir", mkdir)


def test_a_folder_that_another_process_makes_at_the_same_time_is_as_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Overtaken(monkeypatch, file=False).make_folders(str(tmp_path / "a" / "b")) == []
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_that_comes_in_the_place_of_a_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotADirectoryError):
        Overtaken(monkeypatch, file=True).make_folders(str(tmp_path / "a"))


def test_a_path_of_too_many_folders_is_refused() -> None:
    assert safe_path("a/" * FOLDERS_MAX + "f.mkv").count("/") == FOLDERS_MAX
    with pytest.raises(ValueError, match="folders deep"):
        safe_path("a/" * (FOLDERS_MAX + 1) + "f.mkv")


def test_all_that_is_open_is_closed_in_a_child(tmp_path: Path) -> None:
    """What a child runs, run here: one of the two was closed by itself before."""

    class Opened:
        def __init__(self) -> None:
            self.fd = os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR)
            self.folder_fd = os.open(tmp_path, os.O_DIRECTORY)

    both, half = Opened(), Opened()
    fds = [both.fd, both.folder_fd, half.folder_fd]
    forks.close_in_children(both)
    forks.close_in_children(half)
    os.close(half.fd)
    half.fd = -1

    forks._close_all()

    assert [(each.fd, each.folder_fd) for each in (both, half)] == [(-1, -1)] * 2
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_folder_is_made_where_nothing_above_can_be_seen(tmp_path: Path) -> None:
    class Blind(FileSystem):
        def stat_path(self, path: str, *, follow: bool = True) -> os.stat_result | None:
            return None

    Folders().prepare(Blind(), str(tmp_path / "a" / "b"), root="")
    assert (tmp_path / "a" / "b").is_dir()
