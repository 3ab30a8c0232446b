"""What every transfer borrows from its engine: one frozen bundle, wired in ``engine/opening.py``."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

import trio

from engine.config import Config
from engine.errors import storage_error
from engine.files.filesystem import FileSystem
from engine.files.folders import Folders
from engine.model.events import EngineEvent
from engine.model.resolve import Resolver
from engine.net.client import Client
from engine.net.pacing import Pacing
from engine.store.state_store import StateStore
from engine.threads import in_thread
from engine.transfer.combiner import Combiner
from engine.transfer.committer import Committer
from engine.transfer.folder_lanes import FolderLanes
from engine.transfer.memories import Memories
from engine.transfer.part_job import PartJob
from engine.transfer.reservations import Reservations
from engine.transfer.scores import Scores
from engine.transfer.sealing import Sealing
from engine.transfer.targets import Targets

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Services:
    """``now`` is wall time for records; all waiting uses trio's clock. ``library`` is the folder for files without a
    destination of their own. ``targets``: final paths of entries that run, and whose they are. ``folders``: makes those
    that they go to. ``reservations``: the space that they were promised. ``memories``: where their sources were asked
    last; ``scores``: how hosts did lately.
    ``jobs``: the newest of each entry, for as long as anything is on its way into its file.
    ``resolver``: the host's own, for URLs that do not work any more. ``pacing``: the bandwidth caps."""

    config: Config
    files: FileSystem
    store: StateStore
    client: Client
    sealing: Sealing
    committer: Committer
    writer: Combiner
    lanes: FolderLanes
    workers: trio.CapacityLimiter
    now: Callable[[], float]
    rng: random.Random
    emit: Callable[[EngineEvent], None]
    boot_id: str
    library: str
    targets: Targets = field(default_factory=Targets)
    folders: Folders = field(default_factory=Folders)
    reservations: Reservations = field(default_factory=Reservations)
    memories: Memories = field(default_factory=Memories)
    scores: Scores = field(default_factory=Scores)
    jobs: WeakValueDictionary[str, PartJob] = field(default_factory=WeakValueDictionary)
    resolver: Resolver | None = None
    pacing: Pacing = field(default_factory=Pacing)

    @property
    def root(self) -> str:
        """The engine's own folder, in which the library's is."""
        return os.path.dirname(self.library)

    async def write(self, call: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        """Run a call of the store in a transaction, off the loop, with others that wait to write; durable on return.
        It is never left half-way by a cancellation."""
        return await self.writer.do(partial(call, *args, **kwargs))

    async def work(self, call: Callable[_Args, _Result], *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        """Run blocking file work in a worker thread. An OSError that it did not translate is a StorageError here."""
        try:
            return await in_thread(partial(call, *args, **kwargs), limiter=self.workers)
        except OSError as error:
            raise storage_error(error, "looking at a file") from error
