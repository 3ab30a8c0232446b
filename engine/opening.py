"""``open_engine()``: the one place that wires the floors together, in one nursery."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from engine.config import DEFAULT_CONFIG, Config
from engine.control.hub import EventHub
from engine.control.inbox import Inbox, verbs_of
from engine.control.manager import Manager
from engine.control.recovery import Recovery
from engine.control.settle import settle
from engine.engine import Engine
from engine.errors import StorageError, StoreError, sole_error
from engine.files.filesystem import FileSystem
from engine.model.events import Recovered
from engine.net.client import Client
from engine.store.state_store import StateStore
from engine.transfer.combiner import Combiner
from engine.transfer.committer import Committer
from engine.transfer.folder_lanes import FolderLanes
from engine.transfer.sealing import Sealing
from engine.transfer.services import Services

LIBRARY_FOLDER = "files"
WORKER_THREADS = 8  # for blocking file work; a stuck disk must not take trio's whole thread pool


@asynccontextmanager
async def open_engine(
    root: str | os.PathLike[str],
    *,
    config: Config = DEFAULT_CONFIG,
    cafile: str | None = None,
    resume: bool = True,
    files: FileSystem | None = None,
    client: Client | None = None,
    seed: int | None = None,
) -> AsyncIterator[Engine]:
    """An engine on the folder ``root`` (made when missing): an LMDB store and, for files without a destination,
    ``files/``.

    ``cafile``: trust these certificate authorities instead of the system's. ``resume``: take up every unfinished entry
    at once. ``files``, ``client`` and ``seed`` are seams for tests. Leaving the block parks what still runs; the next
    engine on the root takes it up. Raises StoreBusy, StoreTooNew, StoreCorrupt, StoreUnusable, InvalidRequest.
    """
    path = _absolute(root)
    files = files or FileSystem()
    client = client or Client(config, cafile=cafile)
    writer = trio.CapacityLimiter(1)
    store = await trio.to_thread.run_sync(lambda: StateStore.open(path, config, files, now=time.time()), limiter=writer)
    clean = False
    try:
        recovered = await trio.to_thread.run_sync(Recovery(store, files, time.time()).run, limiter=writer)
        async with _running(path, config, files, client, store, writer, random.Random(seed), recovered) as engine:  # noqa: S311  # jitter
            await engine._scopes.finish_resets()
            engine.recovered += tuple(await engine._groups.finish())
            if resume:
                engine.recovered += tuple(await engine._manager.resume_all())
                await engine._upkeep.space.resume_parked()  # there may be room again
            yield engine
        clean = True
    finally:
        # A mark of a clean end that cannot be written is missed by nobody: the next start looks closer.
        with trio.CancelScope(shield=True), contextlib.suppress(StorageError, StoreError):
            await trio.to_thread.run_sync(lambda: store.close(clean=clean), limiter=writer)


@asynccontextmanager
async def _running(
    root: str,
    config: Config,
    files: FileSystem,
    client: Client,
    store: StateStore,
    writer: trio.CapacityLimiter,
    rng: random.Random,
    recovered: list[Recovered],
) -> AsyncIterator[Engine]:
    """The engine's tasks. Outer nursery: sealing and commits; inner: entries, so that those end first and are
    committed."""
    hub = EventHub()
    boot_id = store.session.boot_id
    combined = Combiner(store.together, writer)
    workers = trio.CapacityLimiter(WORKER_THREADS)
    committer = Committer(config, store, files, combined.do, boot_id)
    sealing = Sealing(config, committer.sealed)
    services = Services(
        config=config,
        files=files,
        store=store,
        client=client,
        sealing=sealing,
        committer=committer,
        writer=combined,
        lanes=FolderLanes(workers),
        workers=workers,
        now=time.time,
        rng=rng,
        emit=hub.emit,
        boot_id=boot_id,
        library=os.path.join(root, LIBRARY_FOLDER),
    )
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as core, _outlasting(core, sealing.run, committer.run):
            core.start_soon(settle, services)
            async with trio.open_nursery() as entries:
                manager = Manager(services, hub, entries)
                core.start_soon(manager.runs.run)
                try:
                    engine = Engine(services, manager, hub, recovered)
                    core.start_soon(engine._upkeep.run)
                    await entries.start(Inbox(services, root, verbs_of(engine, manager)).run)
                    yield engine
                    with contextlib.suppress(StorageError, StoreError):  # when files were last read: only advice
                        await engine._upkeep.space.flush()
                except BaseException as error:
                    raised = error
                    raise
                finally:
                    manager.runs.close()
                    entries.cancel_scope.cancel()
            core.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if raised is not None and sole_error(group) is raised:
            raise raised from raised.__cause__  # the caller's own exception, as if there were no nursery
        raise
    finally:
        sealing.close()
        hub.close()
        with trio.CancelScope(shield=True):
            await client.aclose()


def _absolute(root: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.fspath(root))


@asynccontextmanager
async def _outlasting(nursery: trio.Nursery, *tasks: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run the tasks for the block, shielded from a cancellation from outside: what the block still has to put in order
    when it is cancelled needs them."""
    scopes = [trio.CancelScope(shield=True) for _ in tasks]

    async def run(scope: trio.CancelScope, task: Callable[[], Awaitable[None]]) -> None:
        with scope:
            await task()

    for scope, task in zip(scopes, tasks, strict=True):
        nursery.start_soon(run, scope, task)
    try:
        yield
    finally:
        for scope in scopes:
            scope.cancel()
