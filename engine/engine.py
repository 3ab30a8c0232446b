"""``open_engine()``: the one place that wires the floors together, in one nursery."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import trio

from engine.config import DEFAULT_CONFIG, Config
from engine.control.attempts import RunStats
from engine.control.hub import EventHub, Subscription
from engine.control.manager import Manager
from engine.control.recovery import Recovery
from engine.control.settle import settle
from engine.control.verify import Validation, validate
from engine.errors import DownloadFailed, StorageError, StoreCorrupt, StoreError, UnknownEntry, sole_error
from engine.files.filesystem import FileSystem
from engine.model.events import Recovered
from engine.model.records import DownloadEntry, DownloadRequest, OfflineEntry, PartRecord
from engine.model.states import Reason, State
from engine.net.client import Client
from engine.store.state_store import StateStore
from engine.transfer.combiner import Combiner
from engine.transfer.committer import Committer
from engine.transfer.folder_lanes import FolderLanes
from engine.transfer.sealing import Sealing
from engine.transfer.services import Services

LIBRARY_FOLDER = "files"
WORKER_THREADS = 8  # for blocking file work; a stuck disk must not take trio's whole thread pool


class Download:
    """A handle on one entry of an open engine."""

    def __init__(self, engine: Engine, entry_id: str) -> None:
        self._engine = engine
        self.id = entry_id

    async def wait(self) -> OfflineEntry:
        """The finished file's record. Raises DownloadFailed when the entry ends otherwise, EngineClosed when the engine
        does."""
        return await self._engine.wait(self.id)

    def events(self) -> Subscription:
        """The entry's events from now on; ends when the engine closes or the subscription is closed."""
        return self._engine.events(self.id)

    @property
    def stats(self) -> RunStats:
        """What this run of the engine did for the entry."""
        return self._engine.run_stats(self.id)


class Engine:
    """Downloads that survive. Made by :func:`open_engine` only; all methods belong to the trio run that opened it."""

    def __init__(self, services: Services, manager: Manager, hub: EventHub, recovered: list[Recovered]) -> None:
        self._services = services
        self._manager = manager
        self._hub = hub
        self.recovered = tuple(recovered)

    async def offline(self, request: DownloadRequest) -> Download:
        """Have this offline: adds the entry, or takes up the one with the same id, and starts it.

        Asking again is idempotent: a complete entry stays as it is, an unfinished one resumes. Raises InvalidRequest
        before anything is done, IntegrityError when a complete file contradicts what is newly expected of it.
        """
        entry = await self._manager.ask(request)
        return Download(self, entry.id)

    async def offline_many(self, requests: Iterable[DownloadRequest]) -> list[Download]:
        """:meth:`offline` for all of them, in their order: thousands of new entries cost a few transactions.

        Raises InvalidRequest before anything is done when one of them is not valid or two aim at one path.
        """
        return [Download(self, entry.id) for entry in await self._manager.ask_many(requests)]

    async def wait(self, entry_id: str) -> OfflineEntry:
        """See :meth:`Download.wait`. Raises UnknownEntry too."""
        entry = await self._manager.wait(entry_id)
        if entry.state is State.COMPLETED:
            offline = self._services.store.offline(entry_id)
            if offline is None:
                raise StoreCorrupt(f"the record of the finished file of {entry_id} is damaged")
            return offline
        error = entry.last_error
        if entry.state_reason is Reason.NEEDS_CREDENTIALS:
            names = ", ".join(entry.secret_header_names)
            raise DownloadFailed(
                f"{entry_id} waits until it is asked for with {names}",
                entry_id=entry_id,
                cause_code=Reason.NEEDS_CREDENTIALS.value,
            )
        message = f"{entry_id} is {entry.state.value}" + (f": {error.message}" if error else "")
        raise DownloadFailed(
            message,
            entry_id=entry_id,
            cause_code=error.code if error else entry.state.value,
            status=error.status if error else None,
        )

    async def get(self, entry_id: str) -> DownloadEntry:
        """The entry's record. Raises UnknownEntry."""
        self._check_open()
        entry = self._services.store.get(entry_id)
        if entry is None:
            raise UnknownEntry(f"there is no entry {entry_id}")
        return entry

    async def parts(self, entry_id: str) -> tuple[PartRecord, ...]:
        """The entry's parts; none before its first answer."""
        self._check_open()
        return self._services.store.parts(entry_id)

    async def offline_entry(self, entry_id: str) -> OfflineEntry | None:
        """The finished file's record, or None while there is none."""
        self._check_open()
        return self._services.store.offline(entry_id)

    async def list(
        self, *, state: State | None = None, after: str | None = None, limit: int = 100
    ) -> list[DownloadEntry]:
        """At most ``limit`` entries in order of adding, those behind the id ``after``. Raises UnknownEntry for that
        id."""
        self._check_open()
        return self._services.store.list(state, after, limit)

    async def validate_downloads(self, entry_ids: Iterable[str] | None = None) -> tuple[Validation, ...]:
        """Read the finished files (or those of these entries) and compare every chunk with what was downloaded."""
        self._check_open()
        if entry_ids is None:
            entries = [entry async for entry in self._all(State.COMPLETED)]
        else:
            entries = [await self.get(entry_id) for entry_id in entry_ids]
        services = self._services
        return tuple([await services.work(validate, services.store, services.files, entry) for entry in entries])

    def events(self, entry_id: str | None = None) -> Subscription:
        """Events of all entries, or of one, from now on."""
        return self._hub.subscribe(entry_id)

    def run_stats(self, entry_id: str) -> RunStats:
        """What this run of the engine did for the entry."""
        return self._manager.runs.stats(entry_id)

    async def _all(self, state: State | None) -> AsyncIterator[DownloadEntry]:
        after: str | None = None
        while page := self._services.store.list(state, after, 500):
            for entry in page:
                yield entry
            after = page[-1].id

    def _check_open(self) -> None:
        self._manager.runs.check_open()


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
            if resume:
                engine.recovered += tuple(await engine._manager.resume_all())
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
                    yield Engine(services, manager, hub, recovered)
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
