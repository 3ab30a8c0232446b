"""A data file that is not what LMDB wrote: told as StoreCorrupt before it is mapped, never a crash (L10-L14)."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from engine.config import Config
from engine.errors import Fault, NoSpace, StoreCorrupt, StoreUnusable, TooManyFiles
from engine.files.filesystem import FileSystem
from engine.store import structure
from engine.store.codec import Table
from engine.store.lease import LOCK_NAME
from engine.store.opening import DATA_NAME
from engine.store.state_store import StateStore
from engine.store.structure import MARK_NAME, check_structure
from engine.store.translate import translate
from tests.store.helpers import add_running, commit, entry, open_store, raw_store, run_child

PAGE = 4096
SEEDS = 40

# One process meets all damages: a signal of any of them ends it, a loop lets it run out of time.
DAMAGED = """
import random, signal
from pathlib import Path
from engine.errors import StoreCorrupt, StoreError, UnknownEntry
from engine.model.states import Event
from tests.store.test_store_structure import damaged, fill
signal.alarm(50)
fill(root)
data = Path(root) / "store" / "data.mdb"
whole = data.read_bytes()
told = {}
for seed in range(int(sys.argv[2])):
    kind, bad = damaged(whole, random.Random(seed))
    data.write_bytes(bad)
    (Path(root) / "store" / "lock.mdb").unlink(missing_ok=True)
    def tried(call, *arguments):
        try:
            return call(*arguments)
        except (StoreError, UnknownEntry) as error:
            told.setdefault(kind, set()).add(type(error).__name__)
    readable = tried(StateStore.open_readonly, root, Config(), FileSystem())
    if readable is not None:
        tried(readable.list)
        readable.close()
    store = tried(open_store, root)
    if store is None:
        assert data.read_bytes() == bad, "it was not left untouched"
        continue
    for call in (store.list, store.indexes_sound, store.unsynced, store.suspects, store.damaged_parts, store.counts):
        tried(call)
    for number in range(0, 60, 4):
        name = f"e{number}"
        tried(store.get, name), tried(store.parts, name), tried(store.offline, name)
        tried(store.bitmap, name, 0, 400), tried(store.held_runs, name, 0, 400), tried(store.cvs, name, 0, 400)
        tried(store.commit_chunks, [commit(name, range(0, 400, 7), 400)])
    tried(store.drop_parts, "e8", 1)
    tried(store.add, entry("new"))
    tried(store.put_part, "new", 1, part(50))
    tried(store.rebuild_indexes)
    tried(store.close)
names = set().union(*told.values())
assert names <= {"StoreCorrupt", "BadRecord", "UnknownEntry"}, told
print(" ".join(sorted(name for name in names)))
"""


def fill(root: str) -> None:
    """A store with branch pages in several trees, overflow pages and free pages, closed."""
    store = open_store(root)
    for number in range(60):
        name = f"e{number}"
        add_running(store, name, chunks=400)
        store.commit_chunks([commit(name, range(number % 3, 400, 3), 400, synced=number % 2 == 0)])
        if number % 7 == 0:
            store.drop_parts(name, 1)
    store.close()


def damaged(whole: bytes, rng: object) -> tuple[str, bytes]:
    """One of the ways in which disks and programs spoil a file; ``rng`` is a ``random.Random``."""
    import random

    assert isinstance(rng, random.Random)
    data, size, pages = bytearray(whole), len(whole), len(whole) // PAGE
    kind = rng.choice(["bit", "bits", "cut", "zeros", "junk", "meta", "headers", "swapped", "foreign"])
    if kind == "bit":
        data[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == "bits":
        for _ in range(rng.randrange(2, 400)):
            data[rng.randrange(size)] ^= rng.randrange(1, 256)
    elif kind == "cut":
        del data[rng.randrange(size) :]
    elif kind in {"zeros", "junk"}:
        start = rng.randrange(size)
        count = min(size - start, rng.choice([16, 512, PAGE, 16 * PAGE]))
        data[start : start + count] = bytes(count) if kind == "zeros" else rng.randbytes(count)
    elif kind == "meta":
        for _ in range(rng.randrange(1, 6)):
            data[rng.choice([0, PAGE]) + rng.randrange(200)] ^= 1 << rng.randrange(8)
    elif kind == "headers":
        for _ in range(rng.randrange(1, 30)):
            data[rng.randrange(2, pages) * PAGE + rng.randrange(24)] ^= 1 << rng.randrange(8)
    elif kind == "swapped":
        one, two = (slice(number * PAGE, (number + 1) * PAGE) for number in rng.sample(range(2, pages), 2))
        data[one], data[two] = data[two], data[one]
    else:
        data[:] = rng.randbytes(size)
    return kind, bytes(data)


def test_l10_l14_no_damage_crashes_hangs_or_surfaces_as_an_error_of_lmdb(root: str) -> None:
    said = run_child(DAMAGED.replace("sys.argv[2]", str(SEEDS)), root)
    assert {"StoreCorrupt", "BadRecord"} <= set(said.split())


def spoil_roots(root: str) -> bytes:
    """Turn every leaf page into a page of another kind; returns what the file was."""
    data = Path(root) / "store" / DATA_NAME
    whole = data.read_bytes()
    bad = bytearray(whole)
    for page in range(2, len(whole) // PAGE):
        bad[page * PAGE + 10] ^= 0x01 | 0x02  # branch, leaf
    data.write_bytes(bad)
    return whole


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data files that are walked."""
    walked: list[str] = []
    first_problem = structure.first_problem

    def counted(data: str) -> str | None:
        walked.append(data)
        return first_problem(data)

    monkeypatch.setattr(structure, "first_problem", counted)
    return walked


@pytest.mark.parametrize("ended", ["in order", "killed"])
def test_a_file_is_walked_when_its_last_owner_did_not_end_in_order(root: str, walks: list[str], ended: str) -> None:
    """Whatever its mark says."""
    fill(root)
    walks.clear()
    if ended == "killed":
        (Path(root) / LOCK_NAME).write_text('{"pid": 1, "started": 1.0}')
    open_store(root).close()
    assert len(walks) == (1 if ended == "killed" else 0)
    open_store(root).close()
    assert len(walks) == (1 if ended == "killed" else 0), "the session between ended in order"


def test_a_store_that_was_closed_in_order_is_not_walked_again(root: str, walks: list[str]) -> None:
    fill(root)
    walks.clear()
    StateStore.open_readonly(root, Config(), FileSystem()).close()
    store = open_store(root)
    assert walks == []
    store.add(entry("more"))
    store.close()
    open_store(root).close()
    assert walks == []
    store = open_store(root)
    store.add(entry("most"))
    store.close(clean=False)
    open_store(root).close()
    assert len(walks) == 1, "the mark is of an earlier end"


@pytest.mark.parametrize("how", ["touched", "longer", "another file", "half a mark", "no mark", "written by a guest"])
def test_a_mark_that_does_not_fit_is_not_believed(root: str, walks: list[str], how: str) -> None:
    fill(root)
    data, mark = Path(root) / "store" / DATA_NAME, Path(root) / "store" / MARK_NAME
    if how == "touched":
        os.utime(data)
    elif how == "longer":
        os.truncate(data, data.stat().st_size + PAGE)
    elif how == "another file":
        whole, info = data.read_bytes(), data.stat()
        data.rename(data.with_name("old"))
        data.write_bytes(whole)
        os.utime(data, ns=(info.st_atime_ns, info.st_mtime_ns))
    elif how == "half a mark":
        mark.write_bytes(mark.read_bytes()[:-9])
    elif how == "no mark":
        mark.unlink()
    else:
        with raw_store(root) as environment, environment.begin(write=True) as txn:
            txn.put(b"note", b"x", db=environment.open_db(b"meta", txn=txn, create=False))
    walks.clear()
    open_store(root).close()
    assert len(walks) == 1
    open_store(root).close()
    assert len(walks) == 1


@pytest.mark.parametrize(("later_s", "walked"), [(6 * 86_400.0, 0), (8 * 86_400.0, 1), (-1.0, 1)])
def test_a_mark_is_believed_for_a_week(root: str, walks: list[str], later_s: float, walked: int) -> None:
    """Disks rot also what nobody writes; and a clock that was set back says nothing."""
    fill(root)
    walks.clear()
    for at in (100.0 + later_s, 101.0 + later_s):
        StateStore.open(root, Config(), FileSystem(), now=at).close()
    assert len(walks) == walked


def test_a_large_file_is_walked_without_a_fitting_mark(
    root: str, walks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its owner; who only looks beside one is not kept waiting."""
    fill(root)
    (Path(root) / "store" / MARK_NAME).unlink()
    monkeypatch.setattr(structure, "ALWAYS_CHECKED_BYTES", 0)
    walks.clear()
    StateStore.open_readonly(root, Config(), FileSystem()).close()
    assert walks == []
    open_store(root).close()
    assert len(walks) == 1


def test_after_a_refusal_the_next_opening_looks_as_closely(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root)
    whole = spoil_roots(root)
    monkeypatch.setattr(structure, "ALWAYS_CHECKED_BYTES", 0)
    (Path(root) / LOCK_NAME).write_text("{}")
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="is damaged"):
            open_store(root)
    (Path(root) / "store" / DATA_NAME).write_bytes(whole)
    open_store(root).close()


def test_what_is_seen_while_another_process_commits_proves_nothing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk that met a commit is done again; only what is found in a still file counts."""
    fill(root)
    (Path(root) / "store" / MARK_NAME).unlink()
    data = str(Path(root) / "store" / DATA_NAME)
    seen: list[str] = []

    def torn(path: str) -> str | None:
        seen.append(path)
        if len(seen) > 2:
            return None
        with raw_store(root) as environment, environment.begin(write=True) as txn:
            txn.put(b"note%d" % len(seen), b"x", db=environment.open_db(b"meta", txn=txn, create=False))
        return "half of it is old"

    monkeypatch.setattr(structure, "first_problem", torn)
    check_structure(data, FileSystem(), thorough=False)
    assert len(seen) == 3
    monkeypatch.setattr(structure, "first_problem", lambda path: "half of it is gone")
    with pytest.raises(StoreCorrupt, match="half of it is gone"):
        check_structure(data, FileSystem(), thorough=False)


def test_lost_space_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    leak = "3 page(s) are neither reachable nor in the freeDB -- a leak (first: page 7)"
    monkeypatch.setattr(lmdb.verify, "verify", lambda data: [leak])
    assert structure.first_problem("data.mdb") is None
    monkeypatch.setattr(lmdb.verify, "verify", lambda data: [leak, "page 9 is wrong"])
    assert structure.first_problem("data.mdb") == "page 9 is wrong"


def test_a_table_that_is_not_there_is_damage(root: str) -> None:
    open_store(root).close()
    with raw_store(root) as environment, environment.begin(write=True) as txn:
        txn.drop(environment.open_db(Table.CVS.value, txn=txn, create=False), delete=True)
    for opening in (open_store, lambda path: StateStore.open_readonly(path, Config(), FileSystem())):
        with pytest.raises(StoreCorrupt, match="lacks a table"):
            opening(root)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lmdb.BadTxnError("x"), StoreCorrupt),
        (lmdb.InvalidParameterError("x"), StoreCorrupt),
        (lmdb.CorruptedError("x"), StoreCorrupt),
        (lmdb.PageNotFoundError("x"), StoreCorrupt),
        (lmdb.NotFoundError("x"), StoreCorrupt),
        (lmdb.BadValsizeError("x"), StoreCorrupt),
        (lmdb.DiskError("x"), NoSpace),
        (lmdb.ReadonlyError("x"), StoreUnusable),
        (lmdb.LockError("x"), StoreUnusable),
        (lmdb.PanicError("x"), StoreUnusable),
        (OSError(errno.ENOSPC, "x"), NoSpace),
        (OSError(errno.EDQUOT, "x"), NoSpace),
        (OSError(errno.EACCES, "x"), StoreUnusable),
        (OSError(errno.EROFS, "x"), StoreUnusable),
        (OSError(errno.EIO, "x"), StoreUnusable),
        (OSError(errno.EMFILE, "x"), TooManyFiles),
        (OSError(errno.ENFILE, "x"), TooManyFiles),
    ],
    ids=repr,
)
def test_what_each_error_means(error: lmdb.Error | OSError, kind: type[Exception]) -> None:
    assert type(translate(error, "do it")) is kind


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Only so many more descriptors for this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, before[1]))
    for fd in held[-count:] if count else []:
        os.close(fd)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in held[: len(held) - count]:
            os.close(fd)


@pytest.mark.parametrize("left", range(5))
def test_n21_a_store_that_cannot_get_descriptors_says_so(root: str, left: int) -> None:
    """Whichever call is the first to be refused; afterwards it opens as ever."""
    store = open_store(root)
    store.add(entry("a"))
    store.close()
    before = len(os.listdir("/proc/self/fd"))
    with descriptors_left(left), pytest.raises(TooManyFiles, match="Too many open files") as raised:
        open_store(root).close()
    assert "RLIMIT_NOFILE" in raised.value.advice
    assert raised.value.fault is Fault.HOST
    assert len(os.listdir("/proc/self/fd")) == before
    store = open_store(root)
    assert [found.id for found in store.list()] == ["a"]
    store.close()
