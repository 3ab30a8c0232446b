"""Opening and closing: creation, lease, sessions, schema versions, roots that cannot carry a store."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import lmdb
import pytest

from engine.config import Config
from engine.errors import EngineClosed, StoreBusy, StoreCorrupt, StoreTooNew, StoreUnusable
from engine.files.filesystem import FileSystem
from engine.store import opening, schema
from engine.store import root as roots
from engine.store.codec import Table
from engine.store.creation import ensure_store
from engine.store.lease import Lease, read_owner
from engine.store.state_store import StateStore
from engine.store.txn import Txn
from tests.store.helpers import add_running, child, commit, dump, entry, open_store, raw_store, read_line, run_child


class OtherFiles(FileSystem):
    """A file system with another boot id, table of mounts or rename."""

    def __init__(self, *, boot: str = "", mounts: str = "", rename_errno: int = 0) -> None:
        self.boot = boot
        self.mounts = mounts
        self.rename_errno = rename_errno

    def boot_id(self) -> str:
        return self.boot or super().boot_id()

    def mount_table(self) -> str:
        return self.mounts or super().mount_table()

    def rename_noreplace(self, folder_fd: int, source: str, target: str) -> None:
        if self.rename_errno:
            raise OSError(self.rename_errno, os.strerror(self.rename_errno))
        super().rename_noreplace(folder_fd, source, target)


def test_a_new_root_gets_private_folders_and_files(root: str) -> None:
    old = os.umask(0)
    try:
        open_store(root + "/deep/er").close()
    finally:
        os.umask(old)
    for folder in (root, root + "/deep", root + "/deep/er", root + "/deep/er/store"):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700, folder
    for name in ("owner.lock", "store/data.mdb", "store/lock.mdb"):
        assert stat.S_IMODE(os.stat(f"{root}/deep/er/{name}").st_mode) == 0o600, name


def test_the_store_keeps_its_uuid_and_two_stores_differ(root: str) -> None:
    first = open_store(root)
    uuid = first.uuid
    first.close()
    again = open_store(root)
    other = open_store(root + "-2")
    assert again.uuid == uuid
    assert other.uuid != uuid
    assert len(uuid) == 32
    again.close()
    other.close()


def test_c15_leftovers_of_a_creation_that_died_are_removed(root: str) -> None:
    leftover = Path(root) / "store.tmp-0123"
    leftover.mkdir(parents=True)
    (leftover / "data.mdb").write_bytes(b"\0" * 100)
    open_store(root).close()
    assert sorted(os.listdir(root)) == ["owner.lock", "store"]


def test_c15_a_creation_that_fails_leaves_no_store_and_the_next_one_works(root: str) -> None:
    with pytest.raises(StoreUnusable):
        StateStore.open(root, Config(), OtherFiles(rename_errno=errno.EIO), now=1.0)
    assert not os.path.exists(root + "/store")
    open_store(root).close()
    assert sorted(os.listdir(root)) == ["owner.lock", "store"]


def test_a_file_system_without_rename_noreplace_will_do(root: str) -> None:
    StateStore.open(root, Config(), OtherFiles(rename_errno=errno.EINVAL), now=1.0).close()
    open_store(root).close()


def test_l7_a_second_opener_is_told_the_owners_pid(root: str) -> None:
    with child("store = open_store(root); print(os.getpid(), flush=True); sys.stdin.readline()", root) as owner:
        pid = int(read_line(owner))
        with pytest.raises(StoreBusy, match=str(pid)) as caught:
            open_store(root)
        assert caught.value.pid == pid
        found = read_owner(root, FileSystem())
        assert found is not None
        assert (found.pid, found.started) == (pid, 100.0)
        owner.kill()
    open_store(root).close()
    assert read_owner(root, FileSystem()) is None


def test_l6_the_same_process_cannot_open_twice(root: str, store: StateStore) -> None:
    openers: list[Callable[[], StateStore]] = [
        lambda: open_store(root),
        lambda: StateStore.open_readonly(root, Config(), FileSystem()),
    ]
    for opener in openers:
        with pytest.raises(StoreBusy) as caught:
            opener()
        assert caught.value.pid == os.getpid()
    store.add(entry("a"))


def test_the_lease_is_given_back_when_opening_fails(root: str) -> None:
    os.makedirs(root + "/store")
    for _ in range(2):
        with pytest.raises(StoreCorrupt):
            open_store(root)
    lease = Lease.acquire(root, FileSystem(), now=1.0)
    lease.release()
    lease.release()


def test_on_a_full_disk_the_lease_can_be_taken_again(root: str) -> None:
    """What would free space needs it: nothing may have to be allocated, and nobody's end is taken for another's."""

    class Full(FileSystem):
        def write_all(self, fd: int, data: bytes) -> None:
            if self.stat_fd(fd).st_blocks == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write_all(fd, data)

    os.makedirs(root)
    Lease.acquire(root, FileSystem(), now=1.0).release()
    for _ in range(2):
        held = Lease.acquire(root, Full(), now=2.0)
        assert not held.inherited
        assert read_owner(root, FileSystem()) is not None
        held.release()
        assert read_owner(root, FileSystem()) is None


def test_a_busy_lease_without_a_readable_owner_still_says_busy(root: str) -> None:
    os.makedirs(root)
    files = FileSystem()
    fd = files.open_lock_file(root + "/owner.lock")
    assert files.try_lock(fd)
    with pytest.raises(StoreBusy) as caught:
        open_store(root)
    assert caught.value.pid is None
    files.close(fd)


def test_a_session_tells_how_the_one_before_ended(root: str) -> None:
    files = OtherFiles(boot="boot-1")
    store = StateStore.open(root, Config(), files, now=1.0)
    assert (store.session.previous_clean, store.session.previous_boot_id) == (True, "")
    store.close()
    store = StateStore.open(root, Config(), files, now=1.0)
    assert (store.session.previous_clean, store.session.same_boot) == (True, True)
    store.close(clean=False)
    files.boot = "boot-2"
    store = StateStore.open(root, Config(), files, now=1.0)
    assert (store.session.previous_clean, store.session.previous_boot_id) == (False, "boot-1")
    assert not store.session.same_boot
    store.close()
    store = StateStore.open(root, Config(), files, now=1.0)
    assert (store.session.previous_clean, store.session.same_boot) == (True, True)
    store.close()


def test_h1_calls_after_close_are_refused_and_closing_again_is_nothing(root: str) -> None:
    store = open_store(root)
    store.close()
    store.close()
    for call in (store.counts, lambda: store.add(entry("a")), lambda: store.get("a")):
        with pytest.raises(EngineClosed):
            call()


def test_looking_where_there_is_no_store_says_so_and_makes_nothing(root: str) -> None:
    with pytest.raises(StoreUnusable, match="no store"):
        StateStore.open_readonly(root, Config(), FileSystem())
    assert not os.path.exists(root)


def test_readers_of_another_process_see_commits_while_the_engine_writes(root: str, store: StateStore) -> None:
    add_running(store)
    code = """
store = StateStore.open_readonly(root, Config(), FileSystem())
print(len(store.list()), store.session.previous_clean, flush=True)
sys.stdin.readline()
print(store.bitmap("a", 0, 100).held, [e.id for e in store.list()], flush=True)
try:
    store.add(entry("c"))
except Exception as error:
    print(type(error).__name__, flush=True)
store.close()
"""
    with child(code, root) as reader:
        assert read_line(reader) == "1 False"
        store.add(entry("b"))
        store.commit_chunks([commit("a", range(30))])
        out, err = reader.communicate("\n", timeout=60)
    assert out.splitlines() == ["30 ['a', 'b']", "StoreUnusable"], err


def test_h9_a_newer_schema_is_refused_untouched(root: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    store.close()
    with raw_store(root) as environment:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(write=True) as txn:
            schema.write_version(txn, meta, schema.SCHEMA_VERSION + 1)
    data = Path(root) / "store" / "data.mdb"
    before = data.read_bytes()
    for opener in (open_store, lambda path: StateStore.open_readonly(path, Config(), FileSystem())):
        with pytest.raises(StoreTooNew):
            opener(root)
    assert data.read_bytes() == before


def test_a_damaged_schema_version_is_corruption_not_a_version(root: str) -> None:
    open_store(root).close()
    with raw_store(root) as environment, environment.begin(write=True) as txn:
        handle = environment.open_db(b"meta", txn=txn, create=False)
        value = bytearray(txn.get(b"schema", db=handle) or b"")
        value[17] ^= 2
        txn.put(b"schema", bytes(value), db=handle)
    with pytest.raises(StoreCorrupt, match="schema"):
        open_store(root)


def test_another_programs_lmdb_file_is_refused(root: str) -> None:
    os.makedirs(root + "/store")
    with lmdb.open(root + "/store", lib_version=0) as environment, environment.begin(write=True) as txn:
        txn.put(b"theirs", b"kept")
    before = (Path(root) / "store" / "data.mdb").read_bytes()
    with pytest.raises(StoreCorrupt, match="not a store"):
        open_store(root)
    assert (Path(root) / "store" / "data.mdb").read_bytes() == before


def test_l14_a_file_of_the_other_lmdb_format_is_refused_untouched(root: str) -> None:
    os.makedirs(root + "/store")
    lmdb.open(root + "/store", lib_version=1).close()
    data = Path(root) / "store" / "data.mdb"
    before = data.read_bytes()
    with pytest.raises(StoreCorrupt):
        open_store(root)
    assert data.read_bytes() == before


def test_l14_l16_the_environment_cannot_change_the_format_or_switches(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMDB_DEFAULT_LIB_VERSION", "1")
    os.makedirs(root)
    path = ensure_store(root, 1 << 24, FileSystem())
    with opening.open_raw(path, 1 << 24, FileSystem(), readonly=False) as environment:
        assert environment.lib_version()[0] == 0
        flags = environment.flags()
    assert (flags["sync"], flags["metasync"], flags["lock"], flags["meminit"]) == (True, True, True, True)
    assert (flags["writemap"], flags["map_async"]) == (False, False)


def test_migrations_run_one_by_one_and_a_failing_one_leaves_the_version_before_it(root: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    store.close()
    path, files, size = root + "/store", FileSystem(), 1 << 26
    ran: list[int] = []

    def note(version: int) -> schema.Migration:
        def step(txn: Txn) -> None:
            ran.append(version)
            txn.put(Table.META, b"step%d" % version, b"done")

        return step

    def fail(txn: Txn) -> None:
        txn.put(Table.META, b"half", b"written")
        raise RuntimeError("the step failed")

    first = schema.SCHEMA_VERSION
    with pytest.raises(RuntimeError, match="the step failed"):
        schema.migrate(path, size, files, target=first + 2, migrations={first: note(first), first + 1: fail})
    assert schema.peek_version(path, size, files, newest=first + 2) == first + 1
    assert (Table.META.name, b"half") not in dump(root)
    steps = {first: fail, first + 1: note(first + 1), first + 2: note(first + 2)}
    assert schema.migrate(path, size, files, target=first + 3, migrations=steps) == first + 1
    assert ran == [first, first + 1, first + 2]
    assert schema.migrate(path, size, files, target=first + 3, migrations={}) == first + 3
    assert (Table.META.name, b"step%d" % (first + 2)) in dump(root)
    with pytest.raises(StoreCorrupt, match="no step"):
        schema.migrate(path, size, files, target=first + 4, migrations={})


def test_a_migration_that_fills_the_map_grows_it(root: str) -> None:
    open_store(root, Config(map_bytes=1 << 17)).close()

    def large(txn: Txn) -> None:
        for number in range(400):
            txn.put(Table.META, b"large%d" % number, bytes(1024))

    first = schema.SCHEMA_VERSION
    schema.migrate(root + "/store", 1 << 17, FileSystem(), target=first + 1, migrations={first: large})
    assert len(dump(root)) > 400


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_d17_a_root_on_a_network_file_system_is_refused_before_anything_is_made(root: str, kind: str) -> None:
    parent = os.path.realpath(os.path.dirname(root))
    mounts = f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {parent} rw - {kind} server:/share rw\n"
    openers: list[Callable[[], StateStore]] = [
        lambda: StateStore.open(root, Config(), OtherFiles(mounts=mounts), now=1.0),
        lambda: StateStore.open_readonly(root, Config(), OtherFiles(mounts=mounts)),
    ]
    for opener in openers:
        with pytest.raises(StoreUnusable, match=kind.replace(".", r"\.")):
            opener()
    assert not os.path.exists(root)


def test_d17_the_longest_and_last_mount_point_tells_the_file_system() -> None:
    table = r"""1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 0:9 / /mnt rw shared:3 - nfs server:/ rw
3 2 0:9 / /mnt/with\040space rw - xfs /dev/sdb rw
4 1 0:9 / /top rw - nfs server:/ rw
5 1 0:9 / /top rw - tmpfs tmpfs rw
broken line
"""
    expected = {
        "/": "ext4", "/home/x": "ext4", "/mnt": "nfs", "/mnt/a/b": "nfs", "/mntx": "ext4",
        "/mnt/with space/a": "xfs", "/top/a": "tmpfs",
    }  # fmt: skip
    assert {path: roots.mounted_kind(path, table) for path in expected} == expected
    assert roots.mounted_kind("/x", "") == ""
    assert roots.mounted_kind("/", FileSystem().mount_table()) != ""


def test_d10_roots_that_cannot_be_made_or_written_say_so(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("a file")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "owner.lock").symlink_to(occupied)
    for path in (str(occupied), str(occupied / "below"), "/proc/offline-engine", str(linked)):
        with pytest.raises(StoreUnusable, match=r"cannot"):
            open_store(path)
    assert occupied.read_text() == "a file"


def test_d10_a_root_that_belongs_to_another_user_says_so() -> None:
    code = """
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    open_store(root)
except Exception as error:
    print(type(error).__name__, error)
"""
    with TemporaryDirectory() as closed:  # not pytest's folder, into which another user may not even look
        os.chmod(closed, 0o555)
        assert "StoreUnusable cannot take the lease" in run_child(code, closed)


def test_l23_no_descriptor_of_the_store_reaches_a_child_program(root: str, store: StateStore) -> None:
    store.add(entry("a"))
    inside = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _target(fd).startswith(root)]
    assert len(inside) >= 3
    assert all(not os.get_inheritable(fd) for fd in inside)


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""
