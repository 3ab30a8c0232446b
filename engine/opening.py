"""``open_engine()``: the one place that wires the floors together, in one nursery."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from engine.config import DEFAULT_CONFIG, Config
from engine.control.door import check_in_trio
from engine.control.hub import EventHub
from engine.control.inbox import Inbox
from engine.control.inbox_verbs import verbs_for_all_of, verbs_of
from engine.control.line_gate import LineGate
from engine.control.manager import Manager
from engine.control.recovery import Recovery
from engine.engine import Engine
from engine.errors import StorageError, StoreError, sole_error
from engine.files.filesystem import FileSystem
from engine.model.events import EngineEvent, Recovered
from engine.model.line_policy import ANY_LINE, LinePolicy
from engine.model.lines import UNKNOWN_LINE
from engine.model.resolve import Resolver
from engine.net.client import Client
from engine.net.pacing import Pacing
from engine.net.trust import DEFAULT_TRUST, Trust
from engine.network.auto import AutoMonitor
from engine.network.monitor import NetworkMonitor, StaticMonitor
from engine.store.state_store import StateStore
from engine.threads import in_thread
from engine.transfer.combiner import Combiner
from engine.transfer.committer import Committer
from engine.transfer.folder_lanes import FolderLanes
from engine.transfer.sealing import Sealing
from engine.transfer.services import Services

log = logging.getLogger("engine")

LIBRARY_FOLDER = "files"
WORKER_THREADS = 8  # for blocking file work; a stuck disk must not take trio's whole thread pool


@asynccontextmanager
async def open_engine(
    root: str | os.PathLike[str],
    *,
    config: Config = DEFAULT_CONFIG,
    cafile: str | None = None,
    trust: Trust = DEFAULT_TRUST,
    resolver: Resolver | None = None,
    network: NetworkMonitor | None = None,
    line_policy: LinePolicy = ANY_LINE,
    resume: bool = True,
    adopt: bool = False,
    files: FileSystem | None = None,
    client: Client | None = None,
    seed: int | None = None,
) -> AsyncIterator[Engine]:
    """An engine on the folder ``root`` (made when missing): an LMDB store and, for files without a destination,
    ``files/``.

    ``cafile``: trust these certificate authorities instead of the system's; short for that field of ``trust``, which
    has all the rest: addresses, proxies, client certificates … ``resume``: take up every unfinished entry at once.
    ``resolver``: asked for another URL when one is refused or about to expire, and for header fields that are not
    stored. ``network``: who tells what line there is; None for the system (the kernel, and NetworkManager where it
    runs). ``line_policy``: which line may be used, and when, by entries that do not say so themselves; what it leaves
    open is as configured. ``adopt``: make a copy of another root, which is refused otherwise, a library of its own: it
    forgets the entries whose files are outside of it, because they are the original's. ``files``, ``client`` and
    ``seed`` are seams for tests. Leaving the block parks what still runs; the next engine on the root takes it up.
    Raises StoreBusy, StoreTooNew, StoreCorrupt, StoreUnusable, StoreCopied, InvalidRequest, WrongThread,
    HostExhausted.
    """
    await check_in_trio()
    path = _absolute(root)
    files = files or FileSystem()
    client = client or Client(config, cafile=cafile, trust=trust)
    writer = trio.CapacityLimiter(1)

    def open_store() -> StateStore:
        return StateStore.open(path, config, files, now=time.time(), adopt=adopt)

    store = await in_thread(open_store, limiter=writer)
    if store.moved:
        log.warning(store.moved)
    clean = False
    try:
        with trio.CancelScope(shield=True):  # it would be a crash, and be counted as that
            recovered = await in_thread(Recovery(store, files, time.time()).run, limiter=writer)
        rng = random.Random(seed)  # noqa: S311  # jitter
        gate = gate_of(config, line_policy, rng)
        monitor = StaticMonitor(UNKNOWN_LINE) if config.records_only else network or AutoMonitor()
        async with _running(
            path, config, files, client, store, writer, rng, recovered, resolver=resolver, gate=gate, monitor=monitor
        ) as engine:
            await engine._scopes.finish_resets()
            engine.recovered += tuple(await engine._groups.finish())
            if resume:
                engine.recovered += tuple(await engine._manager.resume_all())
                await engine._upkeep.space.resume_parked()  # there may be room again
                engine._lines.take_up_parked()
            yield engine
        clean = True
    finally:
        # A mark of a clean end that cannot be written is missed by nobody: the next start looks closer.
        with trio.CancelScope(shield=True), contextlib.suppress(StorageError, StoreError):
            await in_thread(lambda: store.close(clean=clean), limiter=writer)


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
    *,
    resolver: Resolver | None,
    gate: LineGate,
    monitor: NetworkMonitor,
) -> AsyncIterator[Engine]:
    """The engine's tasks. Outer nursery: sealing and commits; inner: entries, so that those end first and are
    committed."""
    hub = EventHub()
    services = _services(root, config, files, client, store, writer, rng, emit=hub.emit, resolver=resolver)
    sealing, committer = services.sealing, services.committer
    raised: BaseException | None = None
    try:
        async with trio.open_nursery() as core, _outlasting(core, sealing.run, committer.run):
            async with trio.open_nursery() as entries:
                manager = Manager(services, hub, entries, gate)
                core.start_soon(manager.runs.run)
                try:
                    engine = Engine(services, manager, hub, recovered)
                    core.start_soon(engine._upkeep.run)
                    await core.start(engine._lines.run, monitor)
                    await entries.start(Inbox(services, root, verbs_of(engine, manager), verbs_for_all_of(manager)).run)
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
        committer.close()
        hub.close()
        with trio.CancelScope(shield=True):
            await client.aclose()


def _services(
    root: str,
    config: Config,
    files: FileSystem,
    client: Client,
    store: StateStore,
    writer: trio.CapacityLimiter,
    rng: random.Random,
    *,
    emit: Callable[[EngineEvent], None],
    resolver: Resolver | None,
) -> Services:
    """What every transfer borrows."""
    combined = Combiner(store.together, writer)
    workers = trio.CapacityLimiter(WORKER_THREADS)
    committer = Committer(config, store, files, combined.do, store.session.boot_id)
    return Services(
        config=config,
        files=files,
        store=store,
        client=client,
        sealing=Sealing(config, committer.sealed),
        committer=committer,
        writer=combined,
        lanes=FolderLanes(workers),
        workers=workers,
        now=time.time,
        rng=rng,
        emit=emit,
        boot_id=store.session.boot_id,
        library=os.path.join(root, LIBRARY_FOLDER),
        resolver=resolver,
        pacing=Pacing(config.rate_limit_bytes_s),
    )


def gate_of(config: Config, policy: LinePolicy, rng: random.Random) -> LineGate:
    """The engine's policy, and how long a line settles: not all machines behind one access point begin at once. Raises
    InvalidRequest."""
    policy.check()
    configured = LinePolicy(allow_metered=config.allow_metered, metered_bytes_max=config.metered_bytes_max)

    def settle_s() -> float:
        return config.network_settle_s * rng.uniform(1.0, 1.5)

    return LineGate(policy, configured, time.time, trio.current_time, settle_s)


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
