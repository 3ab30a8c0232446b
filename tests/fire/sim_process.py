"""The process around the engine, made deterministic: its threads, its sealer, its commits, clocks and scheduler."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import lmdb
import trio
import trio.testing

import engine.control.attempts
import engine.control.inbox
import engine.net.response
import engine.opening
import engine.store.environment
from engine import native
from engine.control.hub import EventHub
from engine.model.events import EngineEvent
from engine.model.records import PartRecord
from engine.store.opening import open_raw as open_raw_of_lmdb
from engine.store.state_store import StateStore
from tests.fire.sim_disk import SimDisk
from tests.fire.sim_faults import Faults
from tests.twin import InlineSealer

BEGAN = float(int(time.time()))  # file times are the machine's own


def halting_clock(faults: Faults, rng: random.Random) -> trio.testing.MockClock:
    """A jumping clock that now and then goes on between two looks at it: the process was stopped, or had no CPU."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    look = clock.current_time

    def current_time() -> float:
        if faults.hit("stopped"):
            clock.jump(rng.choice((0.0005, 0.02, 1.0)))
        return look()

    clock.current_time = current_time  # type: ignore[method-assign]  # the class is final
    return clock


class Threads:
    """In place of ``trio.to_thread.run_sync``: the call runs on the loop, after and before waits that the seed draws,
    and like a real one it cannot be cancelled once it began."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._default = trio.CapacityLimiter(40)

    async def run_sync(
        self, call: Callable[..., Any], *args: Any, limiter: trio.CapacityLimiter | None = None, **_ignored: Any
    ) -> Any:
        """See trio."""
        async with limiter or self._default:
            with trio.CancelScope(shield=True):
                await self._pause()
                try:
                    return call(*args)
                finally:
                    await self._pause()

    async def _pause(self) -> None:
        if self._faults.hit("slow_disk"):
            await trio.sleep(self._faults.rng.choice((0.001, 0.05, 2.0)))
        else:
            await trio.lowlevel.checkpoint()


class SimSealer(InlineSealer):
    """Chunks are hashed and written when their time comes, in any order; results come back as the real one's do."""

    def __init__(self, disk: SimDisk, faults: Faults, _threads: int, depth: int) -> None:
        super().__init__(1, depth, disk.pwrite)
        self._faults = faults
        self._waiting: list[tuple[Any, ...]] = []
        self._views: list[memoryview] = []
        self._room = depth

    def submit(self, *chunk: Any) -> None:
        self.fileno()
        if len(self._waiting) + self.in_flight >= self._room:
            raise BlockingIOError("as many chunks are under way as the sealer has room for")
        self._waiting.append(chunk)
        self._views.append(memoryview(chunk[2]))
        if self._faults.hit("slow_seal"):
            trio.lowlevel.spawn_system_task(self._later, self._faults.rng.choice((0.001, 0.1, 1.0)))
        else:
            self._work()

    async def _later(self, delay: float) -> None:
        await trio.sleep(delay)
        self._work()

    def _work(self) -> None:
        if self._waiting:
            at = self._faults.rng.randrange(len(self._waiting))
            self._views.pop(at).release()
            super().submit(*self._waiting.pop(at))

    def close(self) -> list[tuple[int, int, bytes, int]]:
        while self._waiting:
            self._work()
        return super().close()


class _Transaction:
    """A write transaction of LMDB whose commit may fail, land and be told to have failed, or be the process's last."""

    def __init__(self, raw: lmdb.Transaction, disk: SimDisk, faults: Faults) -> None:
        self._raw = raw
        self._disk = disk
        self._faults = faults
        for name in ("get", "put", "delete", "cursor", "drop", "id", "stat", "abort"):
            setattr(self, name, getattr(raw, name))

    def __enter__(self) -> _Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is None:
            self.commit()
        else:
            self._raw.abort()

    def commit(self) -> None:
        disk, faults = self._disk, self._faults
        disk.calls += 1
        if disk.calls == disk.crash_at and faults.rng.random() < 0.5:
            disk.die()
        if disk.dead or faults.hit("commit_fails"):
            self._raw.abort()
            raise lmdb.DiskError("mdb_txn_commit: Input/output error")
        self._raw.commit()
        if disk.calls == disk.crash_at:
            disk.die()
        if disk.dead or faults.hit("commit_lands_and_fails"):
            raise lmdb.DiskError("mdb_txn_commit: Input/output error")


class _Environment:
    """An LMDB environment whose write transactions are :class:`_Transaction`."""

    def __init__(self, raw: lmdb.Environment, disk: SimDisk, faults: Faults) -> None:
        self._raw = raw
        self._disk = disk
        self._faults = faults

    def begin(self, **how: Any) -> Any:
        if not how.get("write"):
            return self._raw.begin(**how)
        if self._disk.dead:
            raise lmdb.DiskError("the process has ended")
        return _Transaction(self._raw.begin(**how), self._disk, self._faults)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


@contextmanager
def one_process(
    disk: SimDisk, faults: Faults, told: Callable[[EngineEvent], None], begins_anew: Callable[[str], None]
) -> Iterator[None]:
    """Everything of the engine that knows more than one thread, or the machine's time, is the simulator's in the block.
    ``told`` gets every event in the moment in which it is emitted, ``begins_anew`` an entry that gets a new part."""
    threads, emit = Threads(faults), EventHub.emit
    reset_part = StateStore.reset_part
    clock = SimpleNamespace(
        time=lambda: BEGAN + trio.current_time(),
        monotonic=trio.current_time,
        clock_gettime=lambda _which: trio.current_time(),
        CLOCK_BOOTTIME=0,
    )

    def emitted(hub: EventHub, event: EngineEvent) -> None:
        told(event)
        emit(hub, event)

    def reset(store: StateStore, entry_id: str, epoch: int, part: PartRecord) -> PartRecord:
        begins_anew(entry_id)
        return reset_part(store, entry_id, epoch, part)

    def opened(path: str, *args: Any, readonly: bool, **how: Any) -> Any:
        raw = open_raw_of_lmdb(path, *args, readonly=readonly, **how)
        return raw if readonly else _Environment(raw, disk, faults)

    with (
        mock.patch.object(trio.to_thread, "run_sync", threads.run_sync),
        mock.patch.object(native, "Sealer", lambda *size: SimSealer(disk, faults, *size)),
        mock.patch.object(engine.store.environment, "open_raw", opened),
        mock.patch.object(EventHub, "emit", emitted),
        mock.patch.object(StateStore, "reset_part", reset),
        mock.patch.object(engine.opening, "time", clock),
        mock.patch.object(engine.net.response, "time", clock),
        mock.patch.object(engine.control.attempts, "time", clock),
        mock.patch.object(engine.control.inbox, "time", clock),
    ):
        yield


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Trio takes its tasks in an order that the seed decides."""
    core: Any = trio._core._run
    before, state = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate()
    core._ALLOW_DETERMINISTIC_SCHEDULING = True
    core._r.seed(seed)
    try:
        yield
    finally:
        core._ALLOW_DETERMINISTIC_SCHEDULING = before
        core._r.setstate(state)


def memory_folder() -> str | None:
    """A memory file system for the simulated disks, where there is one."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None  # a folder of its own is made in it


def random_of(seed: int, what: str) -> random.Random:
    """A generator of its own for each use, so that one more draw here changes nothing there."""
    return random.Random(f"{seed} {what}")
