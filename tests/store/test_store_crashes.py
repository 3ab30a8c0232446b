"""What outlives a killed writer, a fork, a full disk and failing system calls."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lmdb
import pytest

from engine.config import Config
from engine.errors import NoSpace, StaleEpoch, StoreUnusable
from engine.store.opening import open_raw
from engine.store.state_store import StateStore
from tests.store.helpers import CHUNK, add_running, child, commit, cv, open_store, read_line, run_child
from tests.support.mounts import TinyTmpfs

WRITER = """
store = open_store(root, Config(map_bytes=1 << 18))
if store.get("a") is None:
    add_running(store, chunks=100000)
done = store.parts("a")[0].chunks_done
print("ready", flush=True)
while True:
    store.commit_chunks([commit("a", range(done, done + 7), 100000)])
    done += 7
    print(done, flush=True)
"""


def test_c1_c6_what_was_acknowledged_outlives_kill_9_again_and_again(root: str) -> None:
    """An acknowledged commit is there after kill -9; the one under way is there whole or not at all (C4-C6)."""
    acknowledged = 0
    for life in range(4):
        with child(WRITER, root) as writer:
            assert read_line(writer) == "ready"
            for _ in range(5 + 17 * life):
                acknowledged = int(read_line(writer))
            writer.send_signal(signal.SIGKILL)
            rest = writer.communicate()[0].split()
            acknowledged = int(rest[-1]) if rest else acknowledged
        store = open_store(root)
        assert not store.session.previous_clean
        assert store.session.same_boot
        (part,) = store.parts("a")
        assert part.chunks_done in {acknowledged, acknowledged + 7}
        assert part.bytes_done == part.chunks_done * CHUNK
        assert store.held_runs("a", 0, 100000) == [(0, part.chunks_done)]
        assert store.cvs("a", 0, part.chunks_done) == b"".join(map(cv, range(part.chunks_done)))
        assert store.take_damages() == ()
        store.close(clean=False)


def test_l2_reader_slots_of_killed_readers_are_freed_at_open(root: str) -> None:
    store = open_store(root)
    add_running(store)
    store.close()
    code = """
import lmdb
environment = lmdb.open(root + "/store", max_dbs=32, readonly=True, max_readers=256)
held = [environment.begin() for _ in range(20)]
print("reading", flush=True)
sys.stdin.readline()
"""
    with child(
        "keep = open_store(root); print('kept', flush=True); sys.stdin.readline(); keep.close()", root
    ) as keeper:
        read_line(keeper)
        with child(code, root) as reader:
            read_line(reader)
            reader.kill()
        freed = run_child(
            "s = StateStore.open_readonly(root, Config(), FileSystem()); print(s._environment.reader_check())", root
        )
        assert int(freed) == 20
        keeper.communicate("\n")
    open_store(root).close()


def test_l4_a_forked_child_is_refused_and_does_not_keep_the_lease(root: str) -> None:
    code = """
store = open_store(root)
store.add(entry("a"))
ready, tell = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(ready)
    said = []
    for call in (lambda: store.get("a"), lambda: store.add(entry("b")), store.counts, store.close):
        try:
            call()
            said.append("worked")
        except Exception as error:
            said.append(type(error).__name__)
    os.write(tell, " ".join(said).encode())
    os.close(tell)
    time.sleep(60)
os.close(tell)
print(os.read(ready, 1000).decode(), flush=True)
store.add(entry("c"))
store.close()
again = open_store(root)
print([e.id for e in again.list()], again.session.previous_clean, flush=True)
again.close()
os.kill(pid, 9)
os.waitpid(pid, 0)
"""
    said = run_child(code, root).splitlines()
    assert said == ["ForkedProcess ForkedProcess ForkedProcess ForkedProcess", "['a', 'c'] True"]


@contextmanager
def busy_readers(store: StateStore) -> Iterator[None]:
    """Three threads that read without a pause, and must see chunks only become more."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        held = 0
        try:
            while not stop.is_set():
                now = store.bitmap("a", 0, 100000).held
                assert now >= held
                held = now
                store.list()
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert failures == []


def test_a_write_that_fails_does_not_wait_for_busy_readers_to_rest(store: StateStore) -> None:
    """py-lmdb's abort waits for a moment without readers: that took half a minute now and then."""
    add_running(store, chunks=100000)
    with busy_readers(store):
        begun = time.monotonic()
        for _ in range(50):
            with pytest.raises(StaleEpoch):
                store.update("a", 2, title="x")
        assert time.monotonic() - begun < 20


def test_l1_a_tiny_map_grows_while_threads_read(root: str) -> None:
    store = open_store(root, Config(map_bytes=1 << 17))
    add_running(store, chunks=100000)
    with busy_readers(store):
        for start in range(0, 20000, 500):
            store.commit_chunks([commit("a", range(start, start + 500), 100000)])
    assert store._environment.map_bytes > 1 << 17
    assert store.held_runs("a", 0, 100000) == [(0, 20000)]
    store.close()
    again = open_store(root, Config(map_bytes=1 << 17))
    assert again.cvs("a", 0, 20000) == b"".join(map(cv, range(20000)))
    again.close()


def test_l1_a_reader_of_another_process_follows_a_grown_map(root: str) -> None:
    store = open_store(root, Config(map_bytes=1 << 17))
    add_running(store, chunks=100000)
    code = """
store = StateStore.open_readonly(root, Config(map_bytes=1 << 17), FileSystem())
print(store.bitmap("a", 0, 100000).held, flush=True)
sys.stdin.readline()
print(store.bitmap("a", 0, 100000).held, flush=True)
"""
    with child(code, root) as reader:
        assert read_line(reader) == "0"
        for start in range(0, 20000, 1000):
            store.commit_chunks([commit("a", range(start, start + 1000), 100000)])
        out, err = reader.communicate("\n", timeout=60)
    assert out.strip() == "20000", err
    store.close()


def test_writes_of_many_threads_are_let_in_one_at_a_time(store: StateStore) -> None:
    add_running(store, chunks=1000)
    threads = [
        threading.Thread(target=lambda at=at: store.commit_chunks([commit("a", range(at, at + 20), 1000)]))
        for at in range(0, 1000, 20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.parts("a")[0].chunks_done == 1000
    assert store.held_runs("a", 0, 1000) == [(0, 1000)]


def test_d4_a_full_disk_is_no_space_nothing_is_claimed_and_space_heals_it(
    tiny_tmpfs: Callable[[int], TinyTmpfs],
) -> None:
    small_disk = tiny_tmpfs(1 << 20).path
    root = str(small_disk / "library")
    store = open_store(root)
    add_running(store, chunks=100000)
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(bytes(free - 64 * 1024))
    done = 0
    with pytest.raises(NoSpace):
        while True:
            store.commit_chunks([commit("a", range(done, done + 64), 100000)])
            done += 64
    assert store.parts("a")[0].chunks_done == done
    assert store.held_runs("a", 0, 100000) == ([(0, done)] if done else [])
    ballast.unlink()
    store.commit_chunks([commit("a", range(done, done + 64), 100000)])
    assert store.held_runs("a", 0, 100000) == [(0, done + 64)]
    store.close()
    again = open_store(root)
    assert again.session.previous_clean
    assert again.cvs("a", 0, done + 64) == b"".join(map(cv, range(done + 64)))
    again.close()


FAILING = """
store = open_store(root)
add_running(store, chunks=100000)
acknowledged = []
outcomes = []
for number in range(12):
    try:
        store.commit_chunks([commit("a", [number], 100000)])
        acknowledged.append(number)
    except Exception as error:
        outcomes.append(type(error).__name__)
held = [index for first, count in store.held_runs("a", 0, 100000) for index in range(first, first + count)]
assert set(acknowledged) <= set(held), (acknowledged, held)
assert store.parts("a")[0].chunks_done == len(held)
print(len(acknowledged), ",".join(outcomes))
store.close()
"""


@pytest.mark.parametrize(
    ("call", "when"), [("pwrite64", when) for when in range(22, 28)] + [("fdatasync", 16), ("fdatasync", 17)]
)
def test_l8_l9_a_failing_system_call_never_loses_an_acknowledged_commit(root: str, call: str, when: int) -> None:
    """EIO in LMDB's data or meta writes or its sync: that one commit is told as failed, and the store goes on."""
    assert shutil.which("strace") is not None, "this test injects errors with strace: install the package 'strace'"
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={when}")
    said = run_child(FAILING, root, "strace", "-f", "-qq", "-o", "/dev/null", *inject)
    assert said == "11 StoreUnusable"
    store = open_store(root)
    assert store.session.previous_clean
    assert sum(count for _, count in store.held_runs("a", 0, 100000)) == store.parts("a")[0].chunks_done == 11
    assert store.take_damages() == ()
    store.close()


class Faulty:
    """An LMDB environment or transaction whose calls are replaced by name; the rest is the real one's."""

    def __init__(self, real: Any, **replaced: Callable[..., Any]) -> None:
        self._real = real
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name) or getattr(self._real, name)


@pytest.mark.parametrize("landed", [True, False])
def test_l9_a_commit_that_reports_an_error_is_looked_up_never_assumed(store: StateStore, landed: bool) -> None:
    add_running(store)
    real = store._environment._raw
    assert real is not None

    def begin(**options: Any) -> Faulty:
        txn = real.begin(**options)

        def commit_and_fail() -> None:
            (txn.commit if landed else txn.abort)()
            raise lmdb.Error("mdb_txn_commit", errno.EIO)

        return Faulty(txn, commit=commit_and_fail)

    last = real.info()["last_txnid"]
    store._environment._raw = Faulty(real, begin=begin)  # type: ignore[assignment]
    if landed:
        (record,) = store.commit_chunks([commit("a", [1, 2])])
        assert record is not None
        assert record.chunks_done == 2
    else:
        with pytest.raises(StoreUnusable, match="mdb_txn_commit"):
            store.commit_chunks([commit("a", [1, 2])])
    assert store.held_runs("a", 0, 100) == ([(1, 2)] if landed else [])
    reopened = store._environment._raw
    assert reopened is not None
    assert reopened.info()["last_txnid"] == last + (2 if landed else 0), "a second commit makes the first one durable"


def test_l8_after_a_panic_the_store_is_opened_anew_once(store: StateStore) -> None:
    add_running(store)

    def panic(**options: Any) -> None:
        raise lmdb.PanicError("mdb_txn_begin")

    for call in (lambda: store.get("a"), lambda: store.commit_chunks([commit("a", [1])])):
        store._environment._raw = Faulty(store._environment._raw, begin=panic)  # type: ignore[assignment]
        assert call()
    assert store.held_runs("a", 0, 100) == [(1, 1)]


def test_l8_a_panic_that_comes_back_is_an_error(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(**options: Any) -> None:
        raise lmdb.PanicError("mdb_txn_begin")

    monkeypatch.setattr(
        "engine.store.environment.open_raw", lambda *given, **named: Faulty(open_raw(*given, **named), begin=panic)
    )
    store._environment._raw = Faulty(store._environment._raw, begin=panic)  # type: ignore[assignment]
    with pytest.raises(StoreUnusable, match="mdb_txn_begin"):
        store.get("a")
    monkeypatch.undo()
    store._environment._raw = store._environment._raw._real  # type: ignore[union-attr]
