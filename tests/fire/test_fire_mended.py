"""What the limits and the soak have found, each mended and kept so: no thread to be had, a store that cannot be opened
again at once, a full disk that LMDB takes for a broken one, numbers that piled up."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
import trio

from engine import DownloadRequest, HostExhausted, Removed, State, StoreUnusable, open_engine
from engine.errors import EngineClosed, NoSpace
from engine.files.filesystem import FileSystem
from engine.model.records import DownloadEntry
from engine.store.opening import open_raw
from engine.store.state_store import StateStore
from engine.threads import in_thread
from tests.support.library import CHUNK, SMALL, content, payload_of, small
from tests.support.origin import serve

PAYLOAD = payload_of(9 * CHUNK, seed=77)


def no_thread(*args: object, **named: object) -> None:
    """As trio says it under RLIMIT_NPROC, RLIMIT_AS and in a full pids cgroup."""
    raise RuntimeError("can't start new thread")


async def test_without_a_thread_the_loop_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio.to_thread.run_sync", no_thread)
    limiter = trio.CapacityLimiter(1)
    borrowed: list[float] = []
    await in_thread(lambda: borrowed.append(limiter.borrowed_tokens), limiter=limiter)
    assert borrowed == [1], "its turn counts as any other's"
    assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize("error", [RuntimeError("of the call"), MemoryError("of the call"), OSError(errno.EIO, "x")])
async def test_an_error_of_the_call_is_its_own_and_it_runs_once(error: Exception) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        await in_thread(fail)
    assert calls == [1]


async def test_a_whole_download_without_a_thread(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was FAILED as an internal error, and the committer's took the engine and its host along."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        monkeypatch.setattr("trio.to_thread.run_sync", no_thread)
        offline = await (await engine.offline(DownloadRequest(url=origin.url()))).wait()
        monkeypatch.undo()
    assert content(offline.path) == PAYLOAD


async def test_no_threads_for_sealing(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a bare BlockingIOError; and it leaves nothing in the way of the next start."""

    def refuse(*args: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("engine.native.Sealer", refuse)
    with pytest.raises(HostExhausted, match="temporarily"):
        async with open_engine(library, config=SMALL):
            raise AssertionError
    monkeypatch.undo()
    async with open_engine(library, config=SMALL) as engine:
        assert await engine.list() == []


class Panicking:
    """LMDB after an error of its meta page; everything else is the real one's."""

    def __init__(self, real: lmdb.Environment, error: lmdb.Error) -> None:
        self._real = real
        self._error = error

    def begin(self, **options: object) -> None:
        """Begins nothing any more."""
        raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def broken(library: Path) -> Callable[[lmdb.Error], StateStore]:
    """A store with one entry, whose LMDB ends every transaction with the error."""

    def make(error: lmdb.Error) -> StateStore:
        store = StateStore.open(str(library), SMALL, FileSystem(), now=1.0)
        store.add(DownloadEntry(id="a", sources=("http://h/a",)))
        environment = store._environment
        environment._recent = {}
        assert environment._raw is not None
        environment._raw = Panicking(environment._raw, error)  # type: ignore[assignment]
        return store

    return make


def test_a_store_that_cannot_be_opened_again_is_tried_later(
    broken: Callable[[lmdb.Error], StateStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L8 on a disk that turned read-only: it said "closed" for ever after, which took the engine down."""
    store = broken(lmdb.PanicError("mdb_txn_begin"))

    def read_only(*args: object, **named: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("engine.store.environment.open_raw", read_only)
    for _ in range(2):
        with pytest.raises(StoreUnusable, match="Read-only"):
            store.get("a")
    monkeypatch.setattr("engine.store.environment.open_raw", open_raw)
    assert store.get("a") is not None
    store.close()
    with pytest.raises(EngineClosed):
        store.get("a")


@pytest.mark.parametrize(("free", "kind"), [(4096, NoSpace), (1 << 30, StoreUnusable)])
def test_a_commit_that_is_cut_short_on_a_full_disk_is_for_want_of_space(
    broken: Callable[[lmdb.Error], StateStore], monkeypatch: pytest.MonkeyPatch, free: int, kind: type[Exception]
) -> None:
    """D4: LMDB calls a short write an I/O error. The entry was FAILED; now it waits for space, and goes on."""
    monkeypatch.setattr(FileSystem, "free_bytes", lambda self, fd: free)
    store = broken(lmdb.Error("mdb_txn_commit: Input/output error"))
    with pytest.raises(kind) as raised:
        store.get("a")
    assert type(raised.value) is kind
    store._environment._raw = store._environment._raw._real  # type: ignore[union-attr]  # it is Panicking
    store.close()


async def test_what_was_counted_for_a_removed_entry_is_forgotten(library: Path) -> None:
    """One record an entry stayed for as long as the engine."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=small()) as engine:
        with engine.events() as events:
            await (await engine.offline(DownloadRequest(url=origin.url(), id="a"))).wait()
            assert engine.run_stats("a").bytes_fetched == len(PAYLOAD)
            assert (await engine.get("a")).state is State.COMPLETED
            await engine.remove("a")
            while not isinstance(await anext(events), Removed):
                pass
        assert engine.run_stats("a").bytes_fetched == 0
        assert engine._manager.runs._stats == {}
